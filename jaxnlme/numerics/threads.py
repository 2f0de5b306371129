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


_compiled: set[Any] = set()


def at_a_time(calls: Sequence[Callable[[], Any]], key: Any) -> list[Any]:
    """The results of `calls`, which run one program on arguments of the same shapes, in their order and complete.

    The first time that a `key` is seen, one call goes ahead, so that the program is compiled once.
    """
    if len(calls) == 1:
        return [calls[0]()]
    ahead = [] if key in _compiled else [_complete(calls[0])]
    _compiled.add(key)
    return ahead + list(_pool().map(_complete, calls[len(ahead) :]))


def _complete(call: Callable[[], Any]) -> Any:
    with x64():  # the context of doors is the thread's own
        return jax.block_until_ready(call())
