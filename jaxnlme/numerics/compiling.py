"""Compilation: compiler options chosen by the size of the work, and timers of tracing and compiling."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxnlme.numerics.settings import COMPUTATION

# XLA rejects options that it does not have; up to jaxlib 0.11.0 it has one for fusion emitters.
JAXLIB_VERSION = tuple(int(part) for part in re.findall(r"\d+", version("jaxlib"))[:3])
HAS_EMITTER_OPTION = JAXLIB_VERSION < (0, 11, 1)


def compiled(fn: Callable, rows: int, *, once: bool = False, often: bool = False) -> _Program:
    """`fn` jitted with compiler options chosen for its amount of work; calls with the same function, size class and
    shapes share one program.

    **Arguments:** `rows`: rows of data that one call computes; `once`: the program runs once; `often`: it runs many
    hundred times; neither: some fifty times.
    **Returns:** a function of the arguments of `fn`, compiled by its first call; its `.lower(*args).compile()` does so
    ahead of calls.
    """
    small = rows < (COMPUTATION.rows_if_run_once if once else COMPUTATION.rows_if_run_fifty_times)
    heavy = often and rows >= COMPUTATION.rows_if_run_often
    level = 0 if small else 1 if often and not heavy else None
    return _compiled(fn, level, jax.default_backend(), heavy)


def compiler_options(level: int | None, backend: str, heavy: bool = False) -> dict[str, Any]:
    """XLA's compiler options for a program.

    On a CPU, programs without fusion emitters compile in half the time and, run fifty times, are as fast; loops of
    hundreds of iterations need more than twice the time (0.6 against 0.25 ms on 108 chains of 10 rows), so programs
    with much work (`heavy`) use emitters, unless they are long (`_Program`). Without optimisation (level 0) programs
    compile in half the time again, and run two to three times slower; at level 1 they compile in four fifths of the
    time and run as fast, if small. Jaxlib from 0.11.1 on always uses emitters.

    **Arguments:** `level`: of optimisation, None for XLA's default; `backend`: "cpu", "gpu", ...; `heavy`: with fusion
    emitters.
    """
    if backend != "cpu":
        return {}
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False} if HAS_EMITTER_OPTION and not heavy else {}
    return options | ({} if level is None else {"xla_backend_optimization_level": level})


@functools.cache
def _compiled(fn: Callable, level: int | None, backend: str, heavy: bool) -> _Program:
    options = compiler_options(level, backend, heavy)
    of_long = _compiled(fn, level, backend, False) if options != compiler_options(level, backend) else None
    plain = jax.jit(fn, compiler_options=options)
    filtered = eqx.filter_jit(fn, compiler_options=options)  # pyright: ignore[reportCallIssue]
    return _Program(plain, filtered, of_long)


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """A jitted function, by jax.jit and by eqx.filter_jit; the latter separates arrays from other leaves in Python,
    some 0.1 ms a call, which is not needed if all are arrays. `of_long`: the same without fusion emitters, for long
    programs, None where there is no choice; JAX traces for both once."""

    plain: Any
    filtered: Any
    of_long: _Program | None = None

    def _for(self, args: tuple) -> Any:
        all_arrays = all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(args))
        if not all_arrays:
            return self.filtered
        if self.of_long is None or n_equations(self.plain.trace(*args).jaxpr) < COMPUTATION.long_program:
            return self.plain
        return self.of_long.plain

    def __call__(self, *args: Any) -> Any:
        return self._for(args)(*args)

    def lower(self, *args: Any) -> Any:
        """The traced program, which `.compile()` compiles for later calls."""
        return self._for(args).lower(*args)


@functools.lru_cache(maxsize=16)
def n_equations(program: ClosedJaxpr) -> int:
    """Number of equations of a traced program, with those of the programs inside it."""

    def count(jaxpr: Jaxpr) -> int:
        inner = (part for equation in jaxpr.eqns for part in jax.tree.leaves(tuple(equation.params.values())))
        return len(jaxpr.eqns) + sum(_count_of(part) for part in inner)

    def _count_of(part: Any) -> int:
        part = part.jaxpr if isinstance(part, ClosedJaxpr) else part
        return count(part) if isinstance(part, Jaxpr) else 0

    return count(program.jaxpr)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Context without Python's cyclic garbage collection, for tracing: collections then scan all imported modules
    repeatedly (0.1 s of a first fit), and free nothing that is not freed soon afterwards."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def compile_clock(timings: dict[str, float]) -> Iterator[None]:
    """Context that adds to `timings` the seconds JAX spends in this thread tracing ("trace", lowering included) and
    compiling ("compile")."""
    phases = {
        "/jax/core/compile/jaxpr_trace_duration": "trace",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
        "/jax/core/compile/backend_compile_duration": "compile",
    }

    thread = threading.get_ident()

    def record(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event in phases and threading.get_ident() == thread:
            timings[phases[event]] = timings.get(phases[event], 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(record)


@contextlib.contextmanager
def clock(timings: dict[str, float], phase: str) -> Iterator[None]:
    """Context that adds the seconds spent inside it to `timings[phase]`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        timings[phase] = timings.get(phase, 0.0) + time.perf_counter() - started
