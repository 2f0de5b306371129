"""Checks of a correlation function of the user at its starting values, before it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, shown, some
from jaxnlme.model.residual_error.correlation_base import Series
from jaxnlme.model.settings import MODEL

# Errors of functions that cannot be traced, which are explained elsewhere.
_TRACING = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


def check_kernel(fn: Callable, name: str, values: Mapping[str, float], series: Series) -> None:
    """Check that `fn(s, t, **values)` is a correlation: its shape and values, positive definite for the series of the
    data.

    **Arguments:** `name`: of the function, for messages; `values`: the starting values of its parameters; `series`.
    **Raises:** OptionError naming the kernel, what was expected, and the times where it is not met.
    """
    kernel = f"the kernel {name!r} of jn.correlation.Kernel"
    at = ", ".join(f"{parameter} = {value:g}" for parameter, value in values.items())
    at = f" (at {at})" if at else ""
    _check_shape(fn, kernel, values)
    observed = np.unique(series.time[series.observed])[: MODEL.kernel_times]
    diagonal = _numbers(fn(jnp.asarray(observed), jnp.asarray(observed), **values), observed.shape)
    if not np.allclose(diagonal, 1.0, rtol=MODEL.kernel_tolerance):
        first = int(np.argmax(~np.isclose(diagonal, 1.0, rtol=MODEL.kernel_tolerance)))
        raise OptionError(
            f"{kernel} must be a correlation, fn(t, t) = 1; it is {diagonal[first]:g} at t = {observed[first]:g}{at}. "
            "Divide by it, and let scale= give the standard deviation."
        )
    for times in _times_of_series(series):
        _check_matrix(fn, kernel, at, values, times)


def _check_shape(fn: Callable, kernel: str, values: Mapping[str, float]) -> None:
    """**Raises:** OptionError for a kernel that fails, or returns no real numbers of the shape of s and t together."""
    s, t = (jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for shape in ((5, 1), (1, 7)))
    expected = "expected real numbers of the shape to which s and t broadcast, in jax.numpy"
    try:
        out = jax.eval_shape(lambda s, t, p: fn(s, t, **p), s, t, dict(values))
    except _TRACING:
        return  # explained by the dry run
    except Exception as error:
        if "truth value" in str(error):
            raise
        raise OptionError(
            f"{kernel} fails for s of shape (5, 1) and t of shape (1, 7); {expected}. {type(error).__name__}: {error}"
        ) from error
    kind = np.dtype(getattr(out, "dtype", object)).kind
    if kind not in "fiu" or not _broadcasts(np.shape(out), (5, 7)):
        what = {"f": "numbers", "i": "numbers", "u": "numbers", "c": "complex numbers", "b": "truth values"}.get(kind)
        received = f"{what} of shape {np.shape(out)}" if what else shown(out)
        raise OptionError(
            f"{kernel} returns {received} for s of shape (5, 1) and t of shape (1, 7); {expected}, here (5, 7)."
        )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """True if an array of `shape` broadcasts to the shape `to`."""
    aligned = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(size in (1, whole) for size, whole in aligned)


def _numbers(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, float), shape)


def _times_of_series(series: Series) -> list[np.ndarray]:
    """The times of the responses of the largest and most different series, each once."""
    found: dict[bytes, np.ndarray] = {}
    for group in range(len(series.time)):
        for code in np.unique(series.code[group][series.observed[group]]):
            times = series.time[group][series.observed[group] & (series.code[group] == code)][: MODEL.kernel_times]
            found.setdefault(np.sort(times).tobytes(), times)
    return sorted(found.values(), key=len, reverse=True)[: MODEL.kernel_series]


def _check_matrix(fn: Callable, kernel: str, at: str, values: Mapping[str, float], times: np.ndarray) -> None:
    """**Raises:** OptionError where the correlations of the responses of one series are no positive definite matrix."""
    n = len(times)
    t = jnp.asarray(times)
    matrix = np.where(np.eye(n, dtype=bool), 1.0, _numbers(fn(t[:, None], t[None, :], **values), (n, n)))
    where = f"for the times {some([f'{time:g}' for time in times])}{at}"

    def pair(bad: np.ndarray) -> str:
        j, k = np.argwhere(bad)[0]
        return f"fn({times[j]:g}, {times[k]:g}) = {matrix[j, k]:g}"

    if not np.isfinite(matrix).all():
        raise OptionError(f"{kernel} is not finite{at}: {pair(~np.isfinite(matrix))}; expected a correlation.")
    if (bad := np.abs(matrix - matrix.T) > MODEL.kernel_tolerance).any():
        j, k = np.argwhere(bad)[0]
        raise OptionError(
            f"{kernel} must be symmetric, fn(s, t) = fn(t, s); {pair(bad)} and fn({times[k]:g}, {times[j]:g}) = "
            f"{matrix[k, j]:g}{at}. Let it depend on jnp.abs(s - t), for example."
        )
    if (bad := np.abs(matrix) > 1.0 + MODEL.kernel_tolerance).any():
        raise OptionError(f"{kernel} must be a correlation, between -1 and 1; {pair(bad)}{at}.")
    ties = len(np.unique(times)) < n
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least <= n * np.finfo(float).eps:
        remedy = (
            "two responses have the same time, and fn(t, t) = 1: declare series with within=, or leave one out"
            if ties
            else "use a positive definite function, such as jnp.exp(-jnp.abs(s - t) / length), or other starting values"
        )
        raise OptionError(
            f"{kernel} is no positive definite matrix {where}: its least eigenvalue is {least:.2g}; {remedy}."
        )
