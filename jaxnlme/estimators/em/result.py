"""Record of a stochastic run that has ended.

1. Estimates: the parameters of the last round plus the last Newton step, of each replicate; conditional moments of b
   from the draws of that round.
2. Post-estimation at the estimates: modes, draws, log-likelihoods, informations (`post_estimation.py`).
3. The best replicate: the largest log-likelihood, or without these the first with a positive definite information.
4. Convergence failures of each replicate (`convergence.py`), and the sentences of the best one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.user_scale import message_names
from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.correlation_bounds import bound_sentences
from jaxnlme.estimators.core.objective import GroupValues
from jaxnlme.estimators.core.record import totals, versions
from jaxnlme.estimators.core.zero_variances import vanished_parts
from jaxnlme.estimators.em.algorithm import RunOutcome
from jaxnlme.estimators.em.convergence import (
    convergence_failures,
    errors_table,
    replicate_disagreement,
    undetermined_variance_notes,
    zero_variance_notes,
)
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.parameter_layout import m_step_description
from jaxnlme.estimators.em.post_estimation import (
    Modes,
    PostEstimation,
    checked_modes,
    fill_post_estimation,
    inverse_factor,
    non_finite_sentence,
    unsure_modes_note,
)
from jaxnlme.estimators.em.rounds.newton import newton_point
from jaxnlme.estimators.em.run import Run
from jaxnlme.model.params import Params
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.record import FitRecord
from jaxnlme.results.stochastic import Replicate, Sampling


@dataclasses.dataclass(frozen=True)
class _EndOfRun:
    """Estimates of all replicates and what belongs to them: `estimates`, score and information of the last round, None
    for a run that ended early; `packed` (replicates, packed) and `params`, the final parameters; `mean` (groups,
    replicates, random) and `covariance` (groups, replicates, random, random), the conditional moments of b given y."""

    estimates: list[ScoreAndInformation] | None
    packed: np.ndarray
    params: list[Params]
    mean: np.ndarray
    covariance: np.ndarray

    def estimate(self, replicate: int) -> ScoreAndInformation | None:
        """Score and information of a replicate; None for a run that ended early."""
        return None if self.estimates is None else self.estimates[replicate]


def to_record(
    run: Run,
    outcome: RunOutcome,
    with_information: bool,
    left_out: list[tuple[Any, str]],
    notes: list[str],
    options: dict[str, Any],
    timings: dict[str, float],
) -> FitRecord:
    """The FitRecord of a run that has ended, with the estimates of the best of its replicates.

    **Arguments:** `with_information`: compute information matrices; `left_out`: labels of groups that were left out,
    with reasons; `notes`: sentences to add to the status; `options` of the fit, for the record; `timings`, seconds by
    stage, added to.
    """
    # Step 1.
    end = _end_of_run(run, outcome)
    # Step 2.
    results = _post_estimation(run, outcome, end, with_information, timings)
    # Step 3.
    best = _best_replicate(results, end.estimates)
    # Step 4.
    replicates = range(run.replicates)
    failures = [convergence_failures(run, outcome, end.estimate(r)) for r in replicates]
    failures_of_fit = failures[best] + _failures_at_the_estimates(run, results, end.estimates, best)
    modes = _modes(run, results, end, best)
    lost = ~modes.found & (outcome.non_finite_phase is None)
    notes = [*notes, *unsure_modes_note(run.gather([str(label) for label in run.binding.data.labels[lost]]))]
    at_zero = _at_zero(run, end.estimate(best), not failures_of_fit)
    sentences = _sentences(run, end.estimate(best), failures_of_fit, at_zero, notes, left_out)
    timings["iterations"] = run.iteration
    return FitRecord(
        binding=run.binding,
        method=run.estimator.method.name,
        estimator=run.estimator,
        params=end.params[best],
        converged=not failures_of_fit,
        interrupted=run.interrupted,
        stopped=run.stopped,
        modes=modes.modes,
        curvature=modes.curvature,
        log_likelihood=float(results.log_likelihoods[best]),
        log_prior=_log_prior(run, end.params[best]),
        information=results.informations[best],
        at_zero=at_zero,
        history=tuple(run.history),
        options=options,
        versions=versions(),
        timings=timings,
        fingerprint=run.binding.data.fingerprint(),
        totals=totals(run.binding, run.placed.processes),
        sampling=_sampling(run, results, end, failures, best),
        **_group_fields(run, results.groups[best], lost, sentences, left_out),
    )


def _end_of_run(run: Run, outcome: RunOutcome) -> _EndOfRun:
    """Final parameters of every replicate, at which the run is put, and the conditional moments of b."""
    # Score and information from before an early end belong to other parameters, or to fewer draws than are summed now.
    ended_early = run.interrupted or run.stopped or outcome.non_finite_phase is not None
    estimates = None if ended_early else outcome.estimates
    packed = _final_parameters(run, outcome, estimates)
    mean, covariance = _conditional_moments(run, estimates)
    params = [_params(run, packed[r]) for r in range(run.replicates)]
    if outcome.non_finite_phase is None:
        run.set_parameters(packed)
    return _EndOfRun(estimates, packed, params, mean, covariance)


def _post_estimation(
    run: Run, outcome: RunOutcome, end: _EndOfRun, with_information: bool, timings: dict[str, float]
) -> PostEstimation:
    """Results at the final parameters; after Ctrl-C (`run.interrupted` is set then), those that are complete."""
    results = PostEstimation.blank(run.binding.data.n_groups, run.replicates, run.binding.density.n_effects)
    try:
        fill_post_estimation(
            run, outcome, results, end.estimates, end.params, end.mean, end.covariance, with_information, timings
        )
    except KeyboardInterrupt:  # the estimates are final; what was not computed yet is left out
        run.interrupted = True
    return results


def _at_zero(run: Run, estimate: ScoreAndInformation | None, converged: bool) -> tuple[str, ...]:
    """Sentences on variances estimated as zero; none for a run that ended early."""
    return () if estimate is None else tuple(zero_variance_notes(run, estimate, converged))


def _sentences(
    run: Run,
    estimate: ScoreAndInformation | None,
    failures: list[str],
    at_zero: tuple[str, ...],
    notes: list[str],
    left_out: list[tuple[Any, str]],
) -> tuple[str, ...]:
    """Sentences of the status: convergence or the `failures`, variances of zero and undetermined ones, `notes` on the
    start, groups left out, notes on the data. `estimate`: that of the best replicate."""
    sentences = ["NOT CONVERGED.", *failures] if failures else [_converged_sentence(run, estimate)]
    undetermined = [] if failures else undetermined_variance_notes(run, estimate)
    vanished = []
    if estimate is not None and not failures:
        parts = vanished_parts(run.binding, estimate.packed, run.placed.processes)
        vanished = [part.sentence(np.exp(estimate.packed[part.entry])) for part in parts]
        vanished += bound_sentences(run.binding, estimate.packed, run.placed.processes)[1]
    sentences += [*at_zero, *vanished, *undetermined, *notes]
    if labels := run.gather([str(label) for label, _ in left_out]):
        sentences.append(f"Left out at your request: group {some(labels)}.")
    return (*sentences, *run.binding.data.notes)


def _group_fields(
    run: Run, groups: GroupValues | None, lost: np.ndarray, sentences: tuple[str, ...], left_out: list[tuple[Any, str]]
) -> dict[str, Any]:
    """Fields of the record by group: status, log-likelihood, its Monte Carlo variance and effective sample size.

    **Arguments:** `groups`: values behind the log-likelihood; None where it was not computed, which gives NaN; `lost`
    (groups,) bool: groups whose mode was not found.
    """
    data = run.binding.data
    status = np.where(data.observed.any(axis=1), Status.ok, Status.no_observations) if groups is None else groups.status
    status = np.where(lost & (np.asarray(status) == Status.ok), Status.mode_not_found, status)
    nan = np.full(data.n_groups, np.nan)
    values, variance, ess = (nan, nan, nan) if groups is None else (groups.values, groups.variance, groups.ess)
    no_iterations = np.zeros(data.n_groups, int)
    return {
        "status": FitStatus(sentences, data.labels, np.asarray(status), no_iterations, tuple(left_out), variance, ess),
        "group_log_likelihood": values,
        "monte_carlo_variance": variance,
        "ess": ess,
    }


def _log_prior(run: Run, params: Params) -> float:
    """Log prior density at `params`, zero without priors."""
    density = run.binding.density
    return float(density.log_prior(params)) if density.priors else 0.0


def _final_parameters(run: Run, outcome: RunOutcome, estimates: list[ScoreAndInformation] | None) -> np.ndarray:
    """Final parameters (replicates, packed): after the last Newton step where there is one, otherwise the current
    ones, or the last that were finite."""
    if outcome.non_finite_phase is not None:
        return run.last_finite()
    packed = np.asarray(run.em_state.packed).copy()
    for r, estimate in enumerate(estimates or []):
        if estimate.positive_definite:
            packed[r] = newton_point(run, estimate)
    return packed


def _best_replicate(results: PostEstimation, estimates: list[ScoreAndInformation] | None) -> int:
    """Number of the replicate with the largest log-likelihood, or, without log-likelihoods, of the first with a
    positive definite information (0 if none has one)."""
    if np.isfinite(results.log_likelihoods).any():
        return int(np.nanargmax(results.log_likelihoods))
    return next((r for r, estimate in enumerate(estimates or []) if estimate.positive_definite), 0)


def _failures_at_the_estimates(
    run: Run, results: PostEstimation, estimates: list[ScoreAndInformation] | None, best: int
) -> list[str]:
    """Convergence failures of the fit beyond those of its replicates: no finite log-likelihood, and replicates that
    disagree."""
    if estimates is None or run.interrupted:
        return []
    out = []
    if run.estimator.likelihood != "none" and not np.isfinite(results.log_likelihoods[best]):
        out.append(non_finite_sentence(run, results.groups[best]))
    names = message_names(run.binding, estimates[best].active)
    return out + replicate_disagreement(estimates, results.log_likelihoods, results.errors, best, names)


def _modes(run: Run, results: PostEstimation, end: _EndOfRun, best: int) -> Modes:
    """Modes of the best replicate; where they were not found, the conditional means: predictions may be based on them
    as well."""
    inverse = inverse_factor(run, end.params[best])
    mean, covariance = end.mean[:, best] @ inverse.T, inverse @ end.covariance[:, best] @ inverse.T
    chains = Modes(results.modes[:, best], results.curvature[:, best], results.mode_found[:, best])
    return checked_modes(run, end.params[best], chains, mean, covariance)


def _sampling(run: Run, results: PostEstimation, end: _EndOfRun, failures: list[list[str]], best: int) -> Sampling:
    """The Sampling of the record: traces, replicates, Monte Carlo errors, conditional distributions. `failures`:
    convergence failures of each replicate."""
    binding, estimator, estimates = run.binding, run.estimator, end.estimates
    no_acceptance = np.zeros((0, run.replicates, 0))
    return Sampling(
        binding=binding,
        packed=np.concatenate(run.packed_trace) if run.packed_trace else end.packed[None],
        burn_in=estimator.burn_in,
        phases=run.phases,
        chains=run.n_chains,
        replicates=tuple(_replicate(run, results, end, not failures[r], r) for r in range(run.replicates)),
        best=best,
        m_step=m_step_description(run.interior_layout, binding),
        likelihood=estimator.likelihood,
        log_likelihood_se=float(results.errors[best]),
        accept=np.concatenate(run.acceptance_trace) if run.acceptance_trace else no_acceptance,
        kernels=run.update_labels,
        errors=None if estimates is None else errors_table(estimates, best, end.packed, binding.packed_names),
        mean=end.mean[:, best],
        covariance=end.covariance[:, best],
        draws=results.draws[:, best],
    )


def _replicate(run: Run, results: PostEstimation, end: _EndOfRun, converged: bool, r: int) -> Replicate:
    """The Replicate of the record with number `r`."""
    return Replicate(
        end.params[r],
        run.binding.values(end.params[r]),
        float(results.log_likelihoods[r]),
        converged,
        results.modes[:, r],
        float(results.errors[r]),
        results.informations[r],
    )


def _params(run: Run, packed: np.ndarray) -> Params:
    """Params (numpy) of a packed vector (packed,)."""
    template = run.template
    p, c = len(template.beta), len(template.covariance)
    return Params(packed[:p], packed[p : p + c], packed[p + c :], jax.tree.map(np.asarray, template.free))


def _conditional_moments(run: Run, estimates: list[ScoreAndInformation] | None) -> tuple[np.ndarray, np.ndarray]:
    """Conditional means (groups, replicates, random) and covariances (groups, replicates, random, random) of b given y,
    from the draws of the last round; NaN if it was not completed."""
    sums = run.score_sums()
    first, second = sums.first_moment, sums.second_moment
    if estimates is None:
        return np.full_like(first, np.nan), np.full_like(second, np.nan)
    n = estimates[0].n_iterations
    mean = first / n
    covariance = second / n - mean[..., :, None] * mean[..., None, :]
    if run.layout.whitened:
        thetas = [np.asarray(run.params(r).covariance) for r in range(run.replicates)]
        lower = np.stack([np.asarray(run.binding.density.covariance.factor(theta)) for theta in thetas])
        if (levels := run.layout.levels) is not None:
            lower = np.stack([levels.expanded(factor) for factor in lower])
        mean, covariance = (lower @ mean[..., None])[..., 0], lower @ covariance @ np.swapaxes(lower, -1, -2)
    return mean, covariance


def _converged_sentence(run: Run, estimate: ScoreAndInformation | None) -> str:
    """The sentence on a converged fit: the criteria that it met."""
    assert estimate is not None
    criteria = (
        f"Converged: by the score at fixed parameters, the maximum is reached with a Monte Carlo error of "
        f"{estimate.mc_error_ratio:.2g} standard errors (limit {float(run.estimator.tolerance):g}); the chains are "
        "stationary (Geweke's test); the information matrix is positive definite"
    )
    if run.replicates > 1:
        criteria += f"; {run.replicates} replicates were run"
    if run.outer_state.averaging_phases:
        criteria += f"; averaging was added {run.outer_state.averaging_phases} times"
    return criteria + "."
