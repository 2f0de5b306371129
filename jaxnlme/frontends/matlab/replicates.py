"""beta, psi, stats and b of several replicates: the outputs of each, stacked along a trailing axis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.fitting.fit import Fit
from jaxnlme.frontends.matlab.data import MatlabData
from jaxnlme.frontends.matlab.outputs import RESIDUALS, outputs
from jaxnlme.frontends.matlab.struct import Struct

CRITERIA = ("logl", "logl_se", "aic", "bic")
# Fields of stats with a trailing axis over replicates.
REPLICATE_FIELDS = (*CRITERIA, "mse", "rmse", "errorparam", "sebeta", "covb", "sepsi", "seerrorparam", *RESIDUALS)


def replicate_outputs(fit: Fit, data: MatlabData) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """beta, psi, stats and b of `fit` by SAEM, groups ordered as in `data`; a trailing axis over replicates."""
    sampling = fit.sampling
    records = () if sampling is None else sampling.replicates
    fits = [fit] if len(records) < 2 else [_of_replicate(fit, record) for record in records]
    all_outputs = [outputs(replicate_fit, data) for replicate_fit in fits]
    all_stats = [dict(stats) for _, _, stats, _ in all_outputs]
    for stats, record in zip(all_stats, records or [None], strict=True):
        by_importance_sampling = sampling is not None and sampling.likelihood == "is"
        stats["logl_se"] = record.log_likelihood_se if by_importance_sampling and record is not None else None
    best = 0 if sampling is None else sampling.best
    last_fields = {
        "best": best,
        "spread": None if sampling is None else sampling.spread_of_replicates,
        "rhat": None if sampling is None else sampling.rhat,
        "converged": fit.converged,
        "fit": fit,
    }
    fields = {}
    for name in ["logl", "logl_se", *(name for name in all_stats[0] if name not in ("logl", "logl_se", *last_fields))]:
        values = [stats[name] for stats in all_stats]
        fields[name] = _stacked(values) if len(fits) > 1 and name in REPLICATE_FIELDS else values[best]
        if name in CRITERIA and (fields[name] is None or not np.isfinite(fields[name]).any()):
            fields[name] = None  # what was not computed
    beta, psi, _, b = all_outputs[0]
    if len(fits) > 1:
        betas, psis, _, bs = zip(*all_outputs, strict=True)
        beta, psi, b = (np.stack(parts, axis=-1) for parts in (betas, psis, bs))
    return beta, psi, Struct("stats", fields | last_fields), b


def _of_replicate(fit: Fit, record: Any) -> Fit:
    """The fit with the results of one of its replicates, `record`, in place of the best one."""
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
