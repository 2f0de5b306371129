"""Concurrent calls of compiled programs: on a CPU, XLA runs the loop of one program on one core."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from jaxnlme.precision import x64


@functools.cache
def cores() -> int:
    """Number of CPU cores that this process may use if the default device is a CPU; one otherwise."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="jaxnlme")


@functools.cache
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="jaxnlme-compile")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
    os.register_at_fork(after_in_child=_background.cache_clear)


def in_background(call: Callable[[], Any]) -> Future:
    """The Future of a `call` by another thread, in the 64-bit context."""

    def in_context() -> Any:
        with x64():
            return call()

    return _background().submit(in_context)


def run_concurrently(calls: Sequence[Callable[[], Any]], compile_first: bool) -> list[Any]:
    """The completed results of `calls`, in their order, computed by a pool of threads.

    The threads compute in the 64-bit context; other JAX contexts that the caller opened (`jax.default_device`,
    `jax.disable_jit`, ...) do not apply in them.

    **Arguments:** `calls`: run one program on arguments of the same shapes; `compile_first`: this thread makes the
    first call before the others start, so that the program is compiled only once.
    **Raises:** the exception of a call.
    """
    if len(calls) == 1:
        return [calls[0]()]
    first = [_complete(calls[0])] if compile_first else []
    return first + list(_pool().map(_complete, calls[len(first) :]))


def _complete(call: Callable[[], Any]) -> Any:
    with x64():  # the scoped context of an entry point holds in its own thread only
        return jax.block_until_ready(call())
