"""Censored observations in npd and npde: the five rules."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.data._limits import INTERVAL, LEFT, RIGHT, Limits

RULES = ("cdf", "omit", "ipred", "ppred", "loq")


@dataclasses.dataclass(frozen=True, eq=False)
class Completed:
    """Observations and simulations after a rule for censored observations.

    **Fields:** `observed` (rows,), NaN in rows that are omitted; `simulated` (K, rows); `share` (rows,): prediction
    discrepancies drawn for censored rows, NaN in others.
    """

    observed: np.ndarray
    simulated: np.ndarray
    share: np.ndarray


def complete(
    observed: np.ndarray,
    simulated: np.ndarray,
    limits: Limits,
    rule: str,
    *,
    ipred: np.ndarray | None,
    uniform: np.ndarray,
    generators: Sequence[Any],
    groups: np.ndarray,
) -> Completed:
    """Observations and simulations with the `rule` for censored observations applied.

    - "omit": censored rows are left out, of the simulations too;
    - "ipred", "ppred", "loq": the observation is replaced by the individual prediction, by the mean of its simulations,
      or by its limit; simulations are as they were;
    - "cdf": pd of a censored observation is drawn uniformly on (P(y < lower), P(y < upper)), the probabilities that the
      simulations give its limits, and the observation is the simulation at that place. Simulated values beyond a limit
      of quantification of their row are replaced in the same way, so that simulations and observations have lost the
      same information. Where no simulation lies beyond the limit, the observation is the limit.

    **Arguments:** `observed` (rows,), the limit where censored; `simulated` (K, rows); `limits` (rows,); `ipred`
    (rows,) for "ipred"; `uniform` (rows,), uniform numbers on (0, 1), and `generators`, one for each group, for "cdf";
    `groups` (rows,), number of each row's group.
    **Source:** Nguyen, Comets and Mentre (2012), Journal of Pharmacokinetics and Pharmacodynamics 39, 499-518, for
    "cdf"; the other rules as in the R package npde 3.5.
    """
    censored, share = limits.censored, np.full(observed.shape, np.nan)
    if rule == "omit":
        return Completed(np.where(censored, np.nan, observed), simulated, share)
    if rule == "loq":
        return Completed(observed, simulated, share)
    if rule != "cdf":
        value: Any = simulated.mean(axis=0) if rule == "ppred" else ipred
        return Completed(np.where(censored, value, observed), simulated, share)
    observed, simulated = observed.copy(), simulated.copy()
    lower, upper = _windows(limits)
    limited = np.flatnonzero(censored | np.isfinite(upper[0]) | np.isfinite(lower[1]))
    for row in limited:
        ordered = np.sort(simulated[:, row])
        if censored[row]:
            first, last = np.searchsorted(ordered, [limits.lower[row], limits.upper[row]])
            share[row] = (first + uniform[row] * (last - first)) / len(ordered)
            if last > first:
                observed[row] = ordered[first + int(uniform[row] * (last - first))]
        for low, high in zip(lower[:, row], upper[:, row], strict=True):
            first, last = np.searchsorted(ordered, [low, high])
            if last > first and not (low == -np.inf and high == np.inf):
                beyond = (simulated[:, row] >= low) & (simulated[:, row] < high)
                draws = generators[groups[row]].random(last - first)
                simulated[beyond, row] = ordered[first + (draws * (last - first)).astype(int)]
    return Completed(observed, simulated, np.clip(share, 0.5 / len(simulated), 1.0 - 0.5 / len(simulated)))


def _windows(limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends (2, rows) of the ranges in which a simulated response would be reported as censored: below
    the lower limit of quantification, and above the upper one; from -inf to inf where there is none.

    A censored row's own limit stands for its limit of quantification, and the other end of its interval bounds the
    range: simulations beyond both are values that the interval rules out, and stay.
    """
    none = np.full(limits.kind.shape, np.inf)
    left = (limits.kind == LEFT) | ((limits.kind == INTERVAL) & (limits.upper <= limits.lloq))
    right = (limits.kind == RIGHT) | ((limits.kind == INTERVAL) & ~left)
    below = np.where(left, limits.upper, np.where(np.isfinite(limits.lloq), limits.lloq, np.inf))
    above = np.where(right, limits.lower, np.where(np.isfinite(limits.uloq), limits.uloq, -np.inf))
    lower = np.stack([np.where(left, limits.lower, -none), above])
    upper = np.stack([below, np.where(right, limits.upper, none)])
    return lower, upper


def below_limit(simulated: np.ndarray, limits: Limits) -> np.ndarray:
    """Share (rows,) of simulations below the lower limit of quantification of their row; NaN where it has none."""
    lloq = np.where(limits.kind == LEFT, limits.upper, limits.lloq)
    return np.where(np.isfinite(lloq), np.mean(simulated < lloq, axis=0), np.nan)


def group_generators(labels: np.ndarray, seed: int) -> list[np.random.Generator]:
    """A generator for each group, from its label and the seed: the numbers do not depend on the order of groups."""
    return [np.random.default_rng([seed, zlib.crc32(str(label).encode())]) for label in labels.tolist()]


def group_uniforms(generators: Sequence[Any], groups: np.ndarray) -> np.ndarray:
    """One uniform number (rows,) on (0, 1) for each row, from the generator of its group."""
    out = np.empty(groups.shape)
    order = np.argsort(groups, kind="stable")
    numbers, first = np.unique(groups[order], return_index=True)
    for number, of_group in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        out[of_group] = generators[number].random(len(of_group))
    return out
