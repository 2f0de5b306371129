"""Parametric bootstrap of the likelihood ratio: both models fitted to responses simulated from the smaller fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.comparison.comparable import Candidate
from jaxnlme.comparison.nesting import Nesting
from jaxnlme.comparison.settings import RATIO
from jaxnlme.data._build import safe_response
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.fitting.fit import fit as fit_model
from jaxnlme.fitting.fit_many import fit_many
from jaxnlme.refits.jobs import Outcomes, reached_maximum
from jaxnlme.refits.refits import Refits, pack_on_host
from jaxnlme.refits.settings import REFIT
from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True)
class RatioReplicates:
    """Likelihood ratio statistics (n,) of simulated data, NaN where a fit failed, and sentences on the refits."""

    statistics: np.ndarray
    sentences: tuple[str, ...]


def ratio_replicates(
    smaller: Candidate, larger: Candidate, nested: Nesting, n: int, key: Any, progress: bool | None
) -> RatioReplicates:
    """The statistics of `n` sets of responses simulated from the smaller fit, both models fitted to each.

    Fits by maximum likelihood are refitted all in one compiled program for each model; stochastic ones with the
    iterations of several fits in one program; others (restricted, LME) one after the other.

    Ctrl-C while the larger model is fitted keeps the replicates in which both were; before that there are none to keep.

    **Raises:** OptionError for results that cannot be simulated or refitted; ModelError where the outcome cannot be
    drawn; KeyboardInterrupt for Ctrl-C before a replicate has both fits.
    """
    responses = _simulated(smaller, n, key)
    low, low_failed, low_run = _log_likelihoods(smaller, responses, progress, "smaller model")
    if not low_run.all():
        raise KeyboardInterrupt
    high, high_failed, run = _log_likelihoods(larger, responses, progress, "larger model")
    sentences = []
    if not run.all():
        if not run.any():
            raise KeyboardInterrupt
        sentences.append(f"Interrupted: {int(run.sum())} of {n} replicates were run.")
        low, low_failed, high, high_failed, responses = (
            v[run] for v in (low, low_failed, high, high_failed, responses)
        )
        n = len(low)
    slack = max(RATIO.lower_by, 3.0 * float(np.hypot(smaller.mc_se, larger.mc_se)))
    short = np.flatnonzero(high < low - slack)
    if len(short) and _is_batched(larger) and run.all():
        # The larger model contains the smaller one: a lower maximum is another one, so try from the smaller model.
        again, _, _ = _batched(
            larger.fit, responses[short], progress, "larger model, again", _null_start(larger, nested, smaller)
        )
        high[short] = np.fmax(high[short], again)
    statistics = np.where(high < low - slack, np.nan, np.maximum(2.0 * (high - low), 0.0))
    failed = int(np.sum(np.isnan(statistics)))
    if failed:
        reasons = [
            f"{int(c.sum())} of the {w} model" for w, c in (("smaller", low_failed), ("larger", high_failed)) if c.any()
        ]
        lower = int(np.sum(high < low - slack))
        reasons += [f"{lower} in which the larger model stayed below the smaller one"] if lower else []
        sentences.append(f"{failed} of {n} replicates failed ({', '.join(reasons)}) and do not count.")
    if failed > (1.0 - RATIO.min_converged) * n:
        sentences.append(
            f"More than {1.0 - RATIO.min_converged:.0%} failed: the p value may be misleading; try a simpler model."
        )
    return RatioReplicates(statistics, tuple(sentences))


def _is_batched(each: Candidate) -> bool:
    """True if a fit is refitted in one compiled program."""
    return isinstance(each.fit, FitRecord) and isinstance(each.fit.estimator, MaximumLikelihood)


def _simulated(smaller: Candidate, n: int, key: Any) -> np.ndarray:
    """Responses (n, n_obs) drawn from the smaller fit, those of `fit.simulate(n, key)` on rows with a response."""
    simulate = getattr(smaller.fit, "simulate", None)
    if simulate is None:
        raise OptionError(
            f"{smaller.name} cannot be simulated (it has no method simulate), so there is no bootstrap; use "
            "method='chi-square' or 'mixture' where these hold."
        )
    drawn = np.asarray(simulate(n, key), float)
    if isinstance(smaller.fit, FitRecord):
        drawn = drawn[:, smaller.fit.data.rows_to_column(smaller.fit.data.observed)]
    return drawn


def _log_likelihoods(
    each: Candidate, responses: np.ndarray, progress: bool | None, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihoods (n,) of refits to `responses` (n, n_obs), NaN where one failed; which failed; and which were run,
    all of them unless Ctrl-C ended the refits."""
    if not isinstance(each.fit, FitRecord):
        refit = getattr(each.fit, "refit_log_likelihoods", None)
        if refit is None:
            raise OptionError(
                f"{each.name} cannot be refitted to simulated responses (it has no method refit_log_likelihoods), so "
                "there is no bootstrap; use method='chi-square' or 'mixture' where these hold."
            )
        values = np.array(refit(responses), float)
        return values, np.isnan(values), np.ones(len(values), bool)
    if _is_batched(each):
        return _batched(each.fit, responses, progress, name)
    if isinstance(each.fit.estimator, AbstractStochastic):
        cells = _cells(each.fit.data, responses)
        method = each.fit.estimator
        many = fit_many(each.fit.model, each.fit.data, cells, method, start=_start(each.fit), progress=progress)
        fits = many.fits
        values = np.array([f.log_likelihood if f.converged else np.nan for f in fits], float)
        return values, np.isnan(values), np.array([not f.interrupted for f in fits], bool)
    values, run = np.full(len(responses), np.nan), np.zeros(len(responses), bool)
    cells = _cells(each.fit.data, responses)
    with ProgressLine(progress, name, len(responses)) as line:
        for k, y in enumerate(cells):
            line.show("fits", k)
            data = each.fit.data
            y = np.where(data.observed, y, data.y)
            data = dataclasses.replace(data, y=y) if data.limits is None else data.with_response(y)
            result = fit_model(
                each.fit.model, data, each.fit.estimator, start=_start(each.fit), standard_errors=False, progress=False
            )
            if result.interrupted:
                break
            values[k], run[k] = result.log_likelihood if result.converged else np.nan, True
    return values, np.isnan(values), run


def _start(fit: FitRecord) -> dict[str, float]:
    """Starting values by name: the estimates, SDs estimated as zero at a fraction of the model's start."""
    first = len(fit.binding.density.beta_names)
    names = fit.binding.density.reported_names
    start = fit.binding.values(fit.binding.start)
    held = fit.estimates["fixed"]
    zero = {n for n in names[first:] if n.startswith("sd(") and fit.values[n] == 0}
    if zero:
        # Correlations with an effect at zero are reported as zero, which is a start as well.
        return {n: REFIT.restarted_sd * start[n] if n in zero else fit.values[n] for n in names if not held[n]}
    return {n: fit.values[n] for n in names if not held[n]}


def _cells(data: GroupedData, responses: np.ndarray) -> np.ndarray:
    """`responses` (n, n_obs), in the order of the table, laid out as `data.y` (n, groups, obs)."""
    numbers = np.where(data.rows, data.row_index, -1)
    cells = np.argwhere(data.observed)
    order = np.argsort(numbers[data.observed], kind="stable")
    out = np.tile(safe_response(data.y, data.observed), (len(responses), 1, 1))
    out[:, cells[order, 0], cells[order, 1]] = responses
    return out


def _batched(
    fit: FitRecord, responses: np.ndarray, progress: bool | None, name: str, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_log_likelihoods`, all refits in one compiled program, from the estimates or from `start` (packed,)."""
    refits = Refits(fit, "a bootstrap of the likelihood ratio", RATIO.max_iterations, require_converged=False)
    cells = _cells(fit.data, responses)
    buckets = list(zip(refits.binding.bucket_groups, refits.problem.buckets, strict=True))

    def overlay(indices: np.ndarray) -> Problem:
        return refits.overlay_responses([cells[indices][:, which, : bucket.y.shape[1]] for which, bucket in buckets])

    starts = np.tile(refits.x if start is None else start, (len(responses), 1))
    hessians = refits.inverse_hessians if start is None else None
    out: Outcomes = refits.run(overlay, starts, inverse_hessians=hessians, progress=progress, name=name)
    good = reached_maximum(out)
    return np.where(good, out.log_likelihood, np.nan), ~good, out.done


def _null_start(larger: Candidate, nested: Nesting, smaller: Candidate) -> np.ndarray:
    """The smaller fit's estimates as a start (packed,) of the larger model: parameters that are added at their values
    there (those at a bound at their start), standard deviations of new effects at a fraction of their start."""
    binding = larger.fit.binding
    start, held = binding.values(binding.start), larger.fit.estimates["fixed"]
    values = {n: v for n, v in smaller.fit.values.items() if n in start and not held[n]}
    values |= {n: v for n, v in nested.null_values.items() if not held[n] and n not in nested.at_bound}
    for name, value in values.items():
        if name.startswith("sd(") and value == 0:
            values[name] = REFIT.restarted_sd * start[name]
    values |= {n: 0.0 for n in start if n.startswith("corr(") and n not in values and not held[n]}
    return pack_on_host(binding.params(values))
