"""The compiled programs of the host loop, with compiler options chosen by the size of the problem."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax

from jaxnlme.estimators.objective import evaluate
from jaxnlme.model.problem import Problem

# Below this many observations a fit takes milliseconds and compiling takes seconds: compile cheaply, run slower.
SMALL = 5_000


@functools.cache
def _compiled(fn: Callable, small: bool, backend: str) -> Callable:
    if backend != "cpu":
        return eqx.filter_jit(fn)
    # Without fusion emitters XLA compiles these programs in half the time and they run as fast; level 0 halves
    # compiling once more, and runs two times slower.
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
    if small:
        options["xla_backend_optimization_level"] = 0
    return eqx.filter_jit(fn, compiler_options=options)


def is_small(problem: Problem) -> bool:
    """Whether compiling costs more than running."""
    return sum(bucket.y.size for bucket in problem.buckets) < SMALL


def compiled(fn: Callable, problem: Problem) -> Callable:
    """`fn` jitted (shared between fits: the same function and size class is one program per shape)."""
    return _compiled(fn, is_small(problem), jax.default_backend())


def compiled_evaluate(problem: Problem) -> Callable:
    """`evaluate`, jitted."""
    return compiled(evaluate, problem)


@contextlib.contextmanager
def compile_clock(timings: dict[str, float]) -> Iterator[None]:
    """Adds to `timings` the seconds that JAX spends tracing ("trace", lowering included) and compiling ("compile")."""
    phases = {
        "/jax/core/compile/jaxpr_trace_duration": "trace",
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
        "/jax/core/compile/backend_compile_duration": "compile",
    }

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event in phases:
            timings[phases[event]] = timings.get(phases[event], 0.0) + seconds

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
