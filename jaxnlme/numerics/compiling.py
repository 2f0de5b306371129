"""Compiling: options chosen by the size of the work, and a clock for what tracing and compiling take."""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import numpy as np

# Rows below which compiling costs more than running: for a program that a fit runs some fifty times, and for one that
# runs once.
SMALL, SMALL_ONCE = 10_000, 200_000
# Rows above which running costs more than compiling, for a program that goes through them many hundred times.
HEAVY = 40_000

# XLA refuses a program for an option that it does not know, and knows that of the emitters up to jaxlib 0.11.0.
JAXLIB = tuple(int(part) for part in re.findall(r"\d+", version("jaxlib"))[:3])
EMITTERS_OPTIONAL = JAXLIB < (0, 11, 1)


def compiled(fn: Callable, rows: int, *, once: bool = False, often: bool = False) -> Callable:
    """`fn` jitted with compiler options that suit work on `rows` rows, done `once`, some fifty times, or many hundred
    times (`often`); one program is shared per function, size class and shapes."""
    return _compiled(fn, rows < (SMALL_ONCE if once else SMALL), jax.default_backend(), often and rows >= HEAVY)


def compiler_options(small: bool, backend: str, heavy: bool = False) -> dict[str, Any]:
    """XLA's options for a program of little or of much work on a backend.

    On a CPU, programs without fusion emitters compile in half the time, and those that run fifty times run as fast;
    loops of hundreds of iterations run at less than half the speed (0.6 against 0.25 ms on 108 chains of 10 rows), so
    `heavy` ones have them. Without optimisation programs compile in half the time again, and run two to three times
    slower. Later jaxlibs have no other emitters.
    """
    if backend != "cpu":
        return {}
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False} if EMITTERS_OPTIONAL and not heavy else {}
    return options | ({"xla_backend_optimization_level": 0} if small else {})


@functools.cache
def _compiled(fn: Callable, small: bool, backend: str, heavy: bool) -> Callable:
    options = compiler_options(small, backend, heavy)
    plain = jax.jit(fn, compiler_options=options)
    filtered = eqx.filter_jit(fn, compiler_options=options)  # pyright: ignore[reportCallIssue]

    def program(*args: Any) -> Any:
        # Telling arrays from the rest in Python costs a call some 0.1 ms: where there is no rest, it is left out.
        arrays = all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(args))
        return (plain if arrays else filtered)(*args)

    return program


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Puts off Python's cyclic garbage collection while a program is traced: it walks all modules that were imported
    again and again (0.1 s of a first fit), and what tracing leaves behind is gone a second later all the same."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def compile_clock(timings: dict[str, float]) -> Iterator[None]:
    """Adds to `timings` the seconds that JAX spends tracing ("trace", lowering included) and compiling ("compile")."""
    phases = {
        "/jax/core/compile/jaxpr_trace_duration": "trace",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
        "/jax/core/compile/backend_compile_duration": "compile",
    }

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event in phases:
            timings[phases[event]] = timings.get(phases[event], 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def clock(timings: dict[str, float], phase: str) -> Iterator[None]:
    """Adds the seconds spent inside to `timings[phase]`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        timings[phase] = timings.get(phase, 0.0) + time.perf_counter() - started
