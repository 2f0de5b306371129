"""Quantiles of many samples at a time, type 7 of Hyndman and Fan, R's default; values may be infinite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def quantiles(values: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """Quantiles along the last axis.

    A quantile is interpolated between two order statistics. -inf stands for a value below a limit, inf for one above:
    a quantile that uses one of them is infinite too. NaN is left out.

    **Arguments:** `values` (..., n); `probabilities` (p,), from 0 to 1.
    **Returns:** (..., p), NaN where there is no value.
    **Source:** Hyndman and Fan (1996), The American Statistician 50, 361-365, definition 7.
    """
    ordered = np.sort(values, axis=-1)  # NaN comes last
    counts = np.sum(~np.isnan(ordered), axis=-1)
    out = np.full((*counts.shape, len(probabilities)), np.nan)
    if not ordered.shape[-1]:
        return out
    for k, probability in enumerate(probabilities):
        position = np.maximum(counts - 1, 0) * probability
        lower = np.floor(position).astype(int)
        upper = np.minimum(lower + 1, np.maximum(counts - 1, 0))
        low, high = (np.take_along_axis(ordered, at[..., None], -1)[..., 0] for at in (lower, upper))
        part = position - lower
        between = (part > 0) & (low != high)
        with np.errstate(invalid="ignore"):
            out[..., k] = np.where(between, (1.0 - part) * low + part * high, low)
        out[..., k] = np.where(between & np.isneginf(low) & np.isposinf(high), np.nan, out[..., k])
    return out


def over_replicates(statistic: np.ndarray, level: float) -> np.ndarray:
    """Median and central interval of a statistic over the replicates.

    **Arguments:** `statistic` (replicates, ...); `level` of the interval.
    **Returns:** (..., 3): low, median, high; NaN where the replicate at that place has no finite value.
    """
    tail = (1.0 - level) / 2.0
    out = quantiles(np.moveaxis(statistic, 0, -1), (tail, 0.5, 1.0 - tail))
    return np.where(np.isfinite(out), out, np.nan)
