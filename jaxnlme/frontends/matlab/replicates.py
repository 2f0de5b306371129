"""beta, psi, stats and b of several replicates: the outputs of each, stacked along a trailing axis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.frontends.matlab.data import MatlabData
from jaxnlme.frontends.matlab.outputs import RESIDUALS, outputs
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.results.record import Fit

CRITERIA = ("logl", "logl_se", "aic", "bic")
# Fields of stats that differ between replicates.
EACH = (*CRITERIA, "mse", "rmse", "errorparam", "sebeta", "covb", "sepsi", "seerrorparam", *RESIDUALS)


def replicate_outputs(fit: Fit, data: MatlabData) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """beta, psi, stats and b of a fit by SAEM, with a trailing axis where there are several replicates."""
    sampling = fit.sampling
    records = () if sampling is None else sampling.replicates
    fits = [fit] if len(records) < 2 else [_of_replicate(fit, record) for record in records]
    found = [outputs(one, data) for one in fits]
    each = [dict(stats) for _, _, stats, _ in found]
    for stats, record in zip(each, records or [None], strict=True):
        drawn = sampling is not None and sampling.likelihood == "is"
        stats["logl_se"] = record.log_likelihood_se if drawn and record is not None else None
    best = 0 if sampling is None else sampling.best
    after = {
        "best": best,
        "spread": None if sampling is None else sampling.spread_of_replicates,
        "rhat": None if sampling is None else sampling.rhat,
        "converged": fit.converged,
        "fit": fit,
    }
    fields = {}
    for name in ["logl", "logl_se", *(name for name in each[0] if name not in ("logl", "logl_se", *after))]:
        values = [stats[name] for stats in each]
        fields[name] = _stacked(values) if len(fits) > 1 and name in EACH else values[best]
        if name in CRITERIA and (fields[name] is None or not np.isfinite(fields[name]).any()):
            fields[name] = None  # what was not computed
    beta, psi, _, b = found[0]
    if len(fits) > 1:
        betas, psis, _, bs = zip(*found, strict=True)
        beta, psi, b = (np.stack(parts, axis=-1) for parts in (betas, psis, bs))
    return beta, psi, Struct("stats", fields | after), b


def _of_replicate(fit: Fit, record: Any) -> Fit:
    """The fit as it would be with one of its replicates for the best."""
    return dataclasses.replace(
        fit,
        params=record.params,
        modes=record.modes,
        log_likelihood=record.log_likelihood,
        converged=record.converged,
        information=record.information,
    )


def _stacked(values: list[Any]) -> np.ndarray | None:
    """Values of all replicates along a trailing axis, NaN for those that have none; None where all are None."""
    shape = next((np.shape(value) for value in values if value is not None), None)
    if shape is None:
        return None
    return np.stack([np.full(shape, np.nan) if value is None else np.asarray(value) for value in values], axis=-1)
