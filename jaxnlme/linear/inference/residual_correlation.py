"""Empirical autocorrelations and semivariograms of the residuals within the innermost units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_choice, check_flag, check_number
from jaxnlme.data._columns import take_column
from jaxnlme.errors import DataError, OptionError, check_level, check_whole_number
from jaxnlme.formulas.units import group_units
from jaxnlme.linear.inference.settings import INFERENCE

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit

COLLAPSE = ("quantiles", "fixed", "none")
METRICS = ("euclidean", "manhattan", "maximum")


def autocorrelation(
    fit: LinearFit, max_lag: int | None, level: float, kind: str, order: str | None, group: Any
) -> pd.DataFrame:
    """The table of `LinearFit.acf`."""
    check_level(level)
    units = list(_units(fit, group, order))
    residuals = fit.residuals(kind)
    longest = max(len(rows) for rows in units) - 1
    if longest < 1:
        raise DataError("no unit has two rows, so that residuals have no autocorrelation.")
    if max_lag is None:
        max_lag = min(longest, int(10.0 * np.log10(longest + 1)))
    max_lag = check_whole_number("max_lag", max_lag, 1)
    if max_lag > longest:
        raise OptionError(
            f"max_lag is {max_lag}; the longest series has {longest + 1} rows, so that it is at most {longest}."
        )
    sums, counts = np.zeros(max_lag + 1), np.zeros(max_lag + 1, int)
    for rows in units:
        values = residuals[rows]
        for lag in range(min(max_lag, len(values) - 1) + 1):
            sums[lag] += values[: len(values) - lag] @ values[lag:]
            counts[lag] += len(values) - lag
    means = sums / counts
    bound = NormalDist().inv_cdf(0.5 + level / 2.0) / np.sqrt(counts)
    columns = {"acf": means / means[0], "n": counts, "bound": bound}
    return pd.DataFrame(columns, index=pd.RangeIndex(max_lag + 1, name="lag"))


def variogram(
    fit: LinearFit,
    position: Any,
    kind: str,
    max_distance: float | None,
    bins: int,
    collapse: str,
    robust: bool,
    metric: str,
    group: Any,
) -> pd.DataFrame:
    """The table of `LinearFit.variogram`."""
    check_choice("collapse", collapse, COLLAPSE)
    check_choice("metric", metric, METRICS)
    check_flag("robust", robust)
    bins = check_whole_number("bins", bins, 1)
    units = [rows for rows in _units(fit, group, None) if len(rows) > 1]
    n_pairs = sum(len(rows) * (len(rows) - 1) // 2 for rows in units)
    if not n_pairs:
        raise DataError("no unit has two rows, so that residuals have no variogram.")
    if n_pairs > INFERENCE.most_pairs:
        raise OptionError(
            f"the units have {n_pairs} pairs of rows; the limit is {INFERENCE.most_pairs}: choose smaller units by "
            "group=, a column."
        )
    residuals, places = fit.residuals(kind), _positions(fit, position)
    distances, values = [], []
    for rows in units:
        i, j = np.tril_indices(len(rows), -1)
        at = np.arange(1.0, len(rows) + 1.0)[:, None] if places is None else places[rows]
        distances.append(_distance(at[i] - at[j], metric))
        values.append(0.5 * (residuals[rows][i] - residuals[rows][j]) ** 2)
    distance, value = np.concatenate(distances), np.concatenate(values)
    if max_distance is not None:
        max_distance = check_number("max_distance", max_distance, 0.0, above=True)
        near = distance <= max_distance
        if not near.any():
            raise OptionError(
                f"no pair of rows is within max_distance={max_distance:g}; the least distance is {distance.min():g}."
            )
        distance, value = distance[near], value[near]
    if collapse == "none":
        return pd.DataFrame({"distance": distance, "variogram": value})
    return _collapsed(distance, value, bins, collapse, robust)


def _collapsed(distance: np.ndarray, value: np.ndarray, bins: int, collapse: str, robust: bool) -> pd.DataFrame:
    """Means of semivariances in classes of distances, by each distance where there are at most `bins`."""
    # Distances that differ by rounding are one.
    unit = INFERENCE.constant * float(distance.max() or 1.0)
    different, code = np.unique(np.round(distance / unit), return_inverse=True)
    if bins < len(different):
        if collapse == "quantiles":
            limits = np.unique(np.quantile(distance, np.linspace(0.0, 1.0, bins + 1)))
        else:
            limits = np.linspace(distance.min(), distance.max(), bins + 1)
        # Classes are open below; the least distance is in the first.
        code = np.maximum(np.searchsorted(limits, distance, side="left") - 1, 0)
    rows = []
    for k in np.unique(code):
        members = code == k
        count = int(members.sum())
        if robust:
            mean = np.mean(value[members] ** 0.25) ** 4 / (0.457 + 0.494 / count)
        else:
            mean = np.mean(value[members])
        rows.append((float(np.median(distance[members])), float(mean), count))
    return pd.DataFrame(rows, columns=["distance", "variogram", "n"])


def _units(fit: LinearFit, group: Any, order: str | None) -> Iterator[np.ndarray]:
    """The rows of each innermost unit, or of each combination of the columns `group`, by the column `order`."""
    if group is not None:
        names = [group] if isinstance(group, str) else list(group)
        codes = group_units(names, fit.model.frame).codes
    elif fit.model.groupings and not fit.model.nested:
        raise OptionError("the grouping factors are crossed, so that none is the innermost: name columns in group=.")
    elif fit.model.groupings:
        codes = fit.model.groupings[-1].units.codes
    else:
        codes = np.zeros(fit.model.n_rows, int)
    keys = [codes] if order is None else [_numbers(fit, order, "order"), codes]
    sorted_rows = np.lexsort(keys)
    yield from np.split(sorted_rows, np.flatnonzero(np.diff(codes[sorted_rows])) + 1)


def _positions(fit: LinearFit, position: Any) -> np.ndarray | None:
    """Positions (rows, dimensions); None for the numbers of the rows within their units."""
    if position is None:
        return None
    names: Sequence[str] = [position] if isinstance(position, str) else list(position)
    return np.column_stack([_numbers(fit, name, "position") for name in names])


def _numbers(fit: LinearFit, name: str, option: str) -> np.ndarray:
    """A numeric column of the table. **Raises:** DataError for one that is missing or holds no finite numbers."""
    raw = take_column(fit.model.frame, name, option)
    try:
        values = np.asarray(raw.to_numpy() if hasattr(raw, "to_numpy") else raw, float)
    except (TypeError, ValueError):
        raise DataError(f"{option}: the column {name!r} holds text; expected numbers.") from None
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(
            f"{option}: the column {name!r} is missing or not finite in row {int(bad[0]) + 1} of the rows in use."
        )
    return values


def _distance(difference: np.ndarray, metric: str) -> np.ndarray:
    """Lengths (pairs,) of differences (pairs, dimensions)."""
    if metric == "euclidean":
        return np.sqrt(np.sum(difference**2, axis=1))
    return np.abs(difference).sum(axis=1) if metric == "manhattan" else np.abs(difference).max(axis=1)
