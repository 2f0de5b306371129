"""Bins of the horizontal variable: boundaries as given, or by a rule. A bin is closed on the left, the last one also on
the right."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.arguments import check_choice
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.errors import OptionError, check_whole_number, shown

RULES = ("auto", "data", "count", "time", "kmeans", "jenks")
CENTRES = ("mean", "median", "middle")


def check_bins(bins: Any, n_bins: int | None) -> tuple[Any, int | None]:
    """The rule or boundaries of the option `bins`, and the number of bins asked for.

    **Raises:** OptionError for anything but a rule, a number, or rising boundaries.
    """
    if n_bins is not None:
        check_whole_number("n_bins", n_bins, 1, "the number of bins")
    if isinstance(bins, str):
        return check_choice("bins", bins, RULES), n_bins
    if isinstance(bins, (int, np.integer)) and not isinstance(bins, bool):
        if n_bins is not None:
            raise OptionError(f"bins={bins} and n_bins={n_bins} are two numbers of bins; give one of them.")
        return "auto", check_whole_number("bins", bins, 1, "the number of bins")
    try:
        boundaries = np.asarray(bins, float)
    except (TypeError, ValueError):
        boundaries = np.empty(0)
    if boundaries.ndim != 1 or boundaries.size < 2 or not np.isfinite(boundaries).all():
        rules = ", ".join(map(repr, RULES))
        raise OptionError(
            f"bins must be a rule ({rules}), a number of bins, or at least two finite boundaries; received "
            f"{shown(bins)}."
        )
    if (np.diff(boundaries) <= 0).any():
        at = int(np.argmax(np.diff(boundaries) <= 0))
        raise OptionError(
            f"bins must rise: boundary {at + 2} is {boundaries[at + 1]:g}, after {boundaries[at]:g}; sort them, "
            "and give each once."
        )
    if n_bins is not None:
        raise OptionError(f"n_bins={n_bins} has no effect on boundaries that are given; leave it out.")
    return boundaries, None


def boundaries_of(x: np.ndarray, rule: Any, count: int | None, rows_per_group: float | None) -> np.ndarray:
    """The boundaries (bins + 1,) for observations at `x`.

    - "data": a bin for each distinct value;
    - "count": about equally many observations in each bin;
    - "time": bins of equal width;
    - "kmeans", "jenks": the division with the least sum of squared deviations from the means of the bins (the natural
      breaks of Jenks and k-means are this same division in one dimension; it is found exactly);
    - "auto": "data" where x has few distinct values, else "count" with each boundary moved to the widest gap nearby,
      so that the samples that a protocol puts at one time stay together.

    Boundaries between values lie half-way; the first is the smallest value and the last the largest.

    **Arguments:** `rule`, or boundaries; `count` of bins, by the size of the data where None; `rows_per_group`: of the
    median group, None where unknown.
    **Source:** Fisher (1958), Journal of the American Statistical Association 53, 789-798, for "kmeans".
    """
    if not isinstance(rule, str):
        return rule
    distinct, weights = np.unique(x, return_counts=True)
    if distinct.size < 2:
        return np.array([distinct[0], distinct[0]])
    is_data = rule == "auto" and count is None
    is_data = is_data and distinct.size <= VPC.most_distinct and x.size >= VPC.least_in_bin * distinct.size
    if rule == "data" or is_data:
        return _between(distinct, np.arange(1, distinct.size))
    count = min(_count(x.size, rows_per_group) if count is None else count, distinct.size)
    if rule == "time":
        return np.linspace(distinct[0], distinct[-1], count + 1)
    if rule in ("kmeans", "jenks"):
        return _between(distinct, _clusters(distinct, weights, count))
    before = np.cumsum(weights)[:-1]  # observations below the gap after each distinct value
    targets = x.size * np.arange(1, count) / count
    window = VPC.gap_window * x.size / count if rule == "auto" else 0.0
    return _between(distinct, _cuts(distinct, before, targets, window))


def codes_of(x: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """The number (rows,) of the bin of each row from 0 on; -1 outside all bins."""
    code = np.searchsorted(boundaries, x, side="right") - 1
    last = boundaries.size - 2
    code = np.where(x == boundaries[-1], last, code)
    return np.where((code >= 0) & (code <= last), code, -1)


def centre_of(x: np.ndarray, left: float, right: float, centre: str) -> float:
    """The value of x at which the bin from `left` to `right` with observations at `x` is drawn."""
    if centre == "middle":
        return 0.5 * (left + right)
    return float(np.mean(x) if centre == "mean" else np.median(x))


def _count(rows: int, rows_per_group: float | None) -> int:
    """Number of bins for so many observations."""
    if rows_per_group is not None and rows_per_group >= VPC.dense_rows:
        return int(np.clip(min(round(rows_per_group), rows // VPC.rows_per_bin_dense), 1, VPC.most_bins))
    least = min(VPC.least_bins, max(rows // VPC.least_in_bin, 1))
    return int(np.clip(rows // VPC.rows_per_bin_sparse, least, VPC.most_bins))


def _between(distinct: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Boundaries half-way before the distinct values at positions `cuts`, and the two ends."""
    middle = 0.5 * (distinct[cuts - 1] + distinct[cuts])
    return np.concatenate([distinct[:1], middle, distinct[-1:]])


def _cuts(distinct: np.ndarray, before: np.ndarray, targets: np.ndarray, window: float) -> np.ndarray:
    """Positions of the distinct values at which bins begin: near `targets`, numbers of observations below; within
    `window` observations of one the widest gap."""
    gaps = np.diff(distinct)
    cuts = []
    for target in targets:
        near = np.flatnonzero(np.abs(before - target) <= window)
        nearest = int(np.argmin(np.abs(before - target)))
        cuts.append(1 + (int(near[np.argmax(gaps[near])]) if near.size else nearest))
    return np.unique(np.array(cuts, int))


def _clusters(distinct: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Positions of the distinct values at which clusters begin: the exact minimum of the weighted sum of squares, by
    dynamic programming over the number of clusters."""
    step = max(-(-distinct.size // VPC.cluster_points), 1)
    starts = np.arange(0, distinct.size, step)  # neighbours are one point each where there are too many
    w = np.add.reduceat(weights.astype(float), starts)
    centred = distinct - np.average(distinct, weights=weights)
    s, q = np.add.reduceat(weights * centred, starts), np.add.reduceat(weights * centred**2, starts)
    cw, cs, cq = (np.concatenate([[0.0], np.cumsum(part)]) for part in (w, s, q))
    size = starts.size
    i, j = np.arange(size + 1)[:, None], np.arange(size + 1)[None, :]  # a cluster from point i to before j
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.where(j > i, (cq[j] - cq[i]) - (cs[j] - cs[i]) ** 2 / (cw[j] - cw[i]), np.inf)
    best, origin = cost[0].copy(), []
    for _ in range(1, min(count, size)):
        total = best[:, None] + cost
        origin.append(np.argmin(total, axis=0))
        best = np.min(total, axis=0)
    cuts, end = [], size
    for previous in reversed(origin):
        end = int(previous[end])
        cuts.append(end)
    return starts[np.array(sorted(cut for cut in cuts if cut > 0), int)]
