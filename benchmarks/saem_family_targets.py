"""The maximum by adaptive quadrature that a SAEM fit of a family is measured against, and the comparison."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from results import number

import jaxnlme as jn

NODES = {1: (15, 30), 2: (15, 30, 60, 120)}
"""Nodes an effect, by the number of effects."""
SAME = 0.002
"""Largest change on doubling the nodes, of estimates in standard errors and of standard errors relative, at which
quadrature counts as exact."""


def target(model: jn.NLMEModel, data: jn.GroupedData, truth: Any, saem: jn.Fit | None) -> tuple[jn.Fit, dict[str, Any]]:
    """The maximum of a data set and its columns: from the truth and from SAEM's estimates, the higher one, then with
    twice the nodes until that changes nothing.

    Of the columns, `outcome` is "inside": converged, with a positive definite information; "boundary": the same, with a
    variance of zero or a singular psi; "none": no such maximum was found.
    """
    nodes, *more = NODES[len(jn.bind(model, data).density.effect_names)]
    found = {"truth": jn.fit(model, data, jn.AGQ(nodes), start=truth, progress=False)}
    if saem is not None and np.isfinite(saem.params.pack()[~np.isneginf(saem.params.pack())]).all():
        found["saem"] = jn.fit(model, data, jn.AGQ(nodes), start=saem, progress=False)
    usable = {name: fit for name, fit in found.items() if determined(fit)} or found
    best = max(usable, key=lambda name: _ordered(usable[name].log_likelihood))
    fit, change = found[best], math.inf
    for nodes in more:
        finer = jn.fit(model, data, jn.AGQ(nodes), start=fit, progress=False)
        if determined(fit) and determined(finer):
            off, ratios = differences(finer, fit)
            change = max([abs(v) for v in off.values()] + [abs(v - 1.0) for v in ratios.values()], default=0.0)
        fit = finer
        if not change > SAME or not determined(finer):
            break
    outcome = "none" if not determined(fit) else "boundary" if fit.at_zero else "inside"
    columns: dict[str, Any] = {
        "outcome": outcome,
        "nodes": nodes,
        "change": number(change),
        "from": best,
        "log_likelihood": number(fit.log_likelihood),
        "starts": {name: number(each.log_likelihood) for name, each in found.items()},
        "correlation": number(largest_correlation(fit)),
        "eigenvalue": number(least_eigenvalue(fit)),
        "at_zero": list(fit.at_zero),
        "sentences": list(fit.status.sentences),
        "estimates": {name: number(value) for name, value in fit.estimates["estimate"].items()},
    }
    return fit, columns


def determined(fit: jn.Fit) -> bool:
    """True for a converged fit with a positive definite information."""
    return bool(fit.converged) and fit.information is not None and fit.information.positive_definite


def differences(fit: jn.Fit, goal: jn.Fit) -> tuple[dict[str, float], dict[str, float]]:
    """Estimates less those of `goal` in its standard errors, and standard errors over those of `goal`, by name; values
    without a standard error at `goal` (a zero variance, a correlation of one) are left out."""
    ours, theirs = (fit.estimates[["estimate", "se"]].to_numpy(float) for fit in (fit, goal))
    off, ratio = {}, {}
    for name, (estimate, se), (sought, unit) in zip(goal.estimates.index, ours, theirs, strict=True):
        if np.isfinite(unit) and unit > 0:
            off[str(name)], ratio[str(name)] = float((estimate - sought) / unit), float(se / unit)
    return off, ratio


def largest_correlation(fit: jn.Fit) -> float:
    """The largest correlation of two reported estimates in size, NaN without standard errors."""
    table = fit.covariance
    if table is None:
        return math.nan
    covariance = table.to_numpy(float)
    sd = np.sqrt(np.diag(covariance))
    used = np.isfinite(sd) & (sd > 0)
    correlation = np.abs(covariance[np.ix_(used, used)] / np.outer(sd[used], sd[used]))
    np.fill_diagonal(correlation, 0.0)
    return float(correlation.max(initial=0.0))


def least_eigenvalue(fit: jn.Fit) -> float:
    """The least eigenvalue of the information scaled to a unit diagonal, NaN without information."""
    if fit.information is None or not np.isfinite(fit.information.matrix).all():
        return math.nan
    matrix = fit.information.matrix
    scale = np.sqrt(np.abs(np.diag(matrix)))
    scale = np.where(scale > 0, scale, 1.0)
    return float(np.linalg.eigvalsh(matrix / np.outer(scale, scale))[0]) if len(matrix) else 1.0


def _ordered(value: float) -> float:
    """A value for comparisons, minus infinity for NaN."""
    return value if np.isfinite(value) else -math.inf
