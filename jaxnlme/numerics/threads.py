"""Several calls of compiled programs at a time: on a CPU, one program runs through a loop on one core."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from jaxnlme.precision import x64


@functools.cache
def cores() -> int:
    """Cores that this process may use, where the default device is a CPU; one elsewhere."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="jaxnlme")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def at_a_time(calls: Sequence[Callable[[], Any]], ahead: bool) -> list[Any]:
    """The results of `calls`, which run one program on arguments of the same shapes, in their order and complete.

    **Arguments:** `ahead`: the first call is made before the others and by this thread, so that the program is compiled
    once. Threads of the pool compute in the 64-bit context; other contexts of JAX that the caller opened
    (`jax.default_device`, `jax.disable_jit`, ...) do not reach them.
    **Errors:** what a call raises.
    """
    if len(calls) == 1:
        return [calls[0]()]
    first = [_complete(calls[0])] if ahead else []
    return first + list(_pool().map(_complete, calls[len(first) :]))


def _complete(call: Callable[[], Any]) -> Any:
    with x64():  # the context of doors is the thread's own
        return jax.block_until_ready(call())
