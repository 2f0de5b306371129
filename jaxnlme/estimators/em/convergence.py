"""Convergence assessment of a stochastic run: sentences on every criterion that its estimates do not meet, and the
table of Monte Carlo errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.binding.model_errors import non_finite_sentence
from jaxnlme.binding.user_scale import message_names, psi_of
from jaxnlme.errors import some
from jaxnlme.estimators.core.correlation_bounds import bound_sentences
from jaxnlme.estimators.core.zero_variances import zero_sentences
from jaxnlme.estimators.em.algorithm import RunOutcome
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.rounds.boundary_evidence import direction_is_clear, increases_inwards, is_vanishing
from jaxnlme.estimators.em.rounds.newton import (
    changes_of_standard_errors,
    largest_stable_change,
    significant_distances,
    significantly_off_maximum,
)
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import CRITERIA
from jaxnlme.model.params import Params
from jaxnlme.results.inference import direction_words, singular_directions
from jaxnlme.results.stochastic import reached_best

if TYPE_CHECKING:
    import pandas as pd


def convergence_failures(run: Run, outcome: RunOutcome, estimate: ScoreAndInformation | None) -> list[str]:
    """Reasons why the estimates of a replicate do not count as converged; an empty list if they do.

    **Arguments:** `estimate`: score and information of the last round; None if the run ended before one was complete.
    **Returns:** sentences with the parameter, the limit and a remedy.
    """
    estimator = run.estimator
    if run.interrupted and estimate is not None:
        return ["Interrupted by the user at the end: the computations at the estimates are incomplete."]
    if run.interrupted:
        return ["Interrupted by the user: these are the parameters of that iteration, not a maximum."]
    if run.stopped:
        return ["Stopped by a callback: these are the parameters of that iteration, not a maximum."]
    if outcome.non_finite_phase is not None:
        labels = run.gather([str(label) for label in run.groups_without_density()])
        of_groups = f" No draw of group {some(labels)} has a finite density." if labels else ""
        advice = _error_of_model(run, run.binding.start) or (
            "Try other starting values, or look for overflow, 0/0 or log(0) in the model (jnp.where on the argument "
            "helps)."
        )
        return [
            f"The parameters stopped being finite in iteration {run.iterations_after_burn_in} "
            f"({outcome.non_finite_phase}).{of_groups} {advice}"
        ]
    if estimate is None:
        return ["The run ended before convergence could be assessed; allow more iterations."]
    names = message_names(run.binding, estimate.active)
    remedy = f"allow more iterations (max_iterations is {int(estimator.max_iterations)}), or use other starting values."
    out = []
    finite = bool(np.isfinite(estimate.information).all() and np.isfinite(estimate.score).all())
    if not finite:
        out += _not_finite(run, estimate, names)
    singular = singular_directions(estimate.information, names) if finite else ()
    if singular:
        directions = some([direction_words(direction) for direction in singular], 3)
        out.append(
            f"The observed information is not positive definite along {directions} (weights of standardised "
            "parameters). If the run ended at the maximum, the data carry no information there: fix one of these "
            "parameters, drop an effect, or use a simpler covariance. If it ended before (distant starting values, few "
            "iterations) or with few draws, more iterations or more chains help."
        )
    if increases_inwards(run, [estimate]):
        out.append(
            "Psi is singular (on the boundary), and the log-likelihood increases towards the interior: " + remedy
        )
    if not estimate.twice_differentiable:
        out.append(
            "Psi is singular (on the boundary), and the model has kinks, so that its second derivatives do not show "
            "whether the log-likelihood increases towards the interior: " + remedy
        )
    out += _correlations_near_one(run, estimate)
    out += bound_sentences(run.binding, estimate.packed, run.placed.processes)[0]
    has_step = finite and not singular
    if has_step and significantly_off_maximum(run, estimate):
        distances = significant_distances(estimate)
        worst = int(np.argmax(distances))
        in_mc_errors = abs(estimate.step[worst]) / max(estimate.monte_carlo_se[worst], np.finfo(float).tiny)
        out.append(
            f"Not at the maximum: by the score, {names[worst]} is {distances[worst]:.2g} standard errors from it, "
            f"{in_mc_errors:.2g} times its Monte Carlo error (limit {CRITERIA.significant_mc_errors:g}) and too far "
            f"for a last Newton step: {remedy}"
        )
    elif has_step and (changing := _changing_standard_error(run, outcome, estimate)):
        out.append(f"{changing}: {remedy}")
    elif has_step and estimate.mc_error_ratio > estimator.tolerance:
        worst = int(np.argmax(estimate.monte_carlo_se / estimate.se))
        out.append(
            f"The Monte Carlo error of {names[worst]} is {estimate.mc_error_ratio:.2g} of its standard error "
            f"(tolerance {estimator.tolerance:g}): allow more iterations (max_iterations is "
            f"{int(estimator.max_iterations)}) or {estimator.remedies[0]}."
        )
    non_stationary = np.flatnonzero(np.abs(estimate.geweke_z) > CRITERIA.geweke_limit)
    if len(non_stationary):
        out.append(
            "The chains are not stationary (Geweke's test): the mean scores of "
            f"{some([names[k] for k in non_stationary])} differ between the two halves of the last draws by up to "
            f"{np.abs(estimate.geweke_z).max():.2g} times their Monte Carlo error (limit {CRITERIA.geweke_limit:g}). "
            f"Allow more iterations, or {estimator.remedies[1]}."
        )
    sampler_states = run.to_host([chunk.chains.sampler_state for chunk in run.chain_states])
    return out + run.gather(estimator.sampling_problems(sampler_states, run.binding.data.labels))


def _changing_standard_error(run: Run, outcome: RunOutcome, estimate: ScoreAndInformation) -> str:
    """Words on the standard error that changed most over the last step, if by too much; empty otherwise."""
    estimates = outcome.estimates or []
    for candidate, changes in zip(estimates, changes_of_standard_errors(run, estimates), strict=True):
        limit = max(CRITERIA.changing_se, largest_stable_change(candidate))
        if candidate is estimate and not (changes <= limit).all():
            worst = int(np.argmax(changes))
            (name,) = message_names(run.binding, estimate.active[[worst]])
            return words_on_change(name, changes[worst], limit)
    return ""


def words_on_change(name: str, change: float, limit: float) -> str:
    """Words on the standard error of `name`, whose logarithm changed by `change` over the last step, more than `limit`;
    not finite where it is not known from before that step."""
    if not np.isfinite(change):
        return (
            f"The standard error of {name} is known after the last step only, because the information before it was "
            "not positive definite, so that it may not be that at the maximum"
        )
    return (
        f"The standard error of {name} changed by {np.expm1(change):.0%} over the last step (limit "
        f"{np.expm1(limit):.0%}), so that it may not be that at the maximum"
    )


def _not_finite(run: Run, estimate: ScoreAndInformation, names: list[str]) -> list[str]:
    """A sentence on the parameters along which the score or the information is not finite, and on what is wrong with
    the model where typical individuals show it."""
    rows = np.isfinite(estimate.information).all(axis=1) & np.isfinite(estimate.score)
    without = some([name for name, finite in zip(names, rows, strict=True) if not finite])
    error = _error_of_model(run, run.template.unpack(estimate.packed))
    return [
        f"The derivatives of the log-likelihood in {without} are not finite at the draws, so that the end of the run "
        f"is not known to be a maximum. {error}".rstrip()
    ]


def _error_of_model(run: Run, params: Params) -> str:
    """A sentence on what is not finite in the model at `params` without random effects; empty if all is finite."""
    binding = run.binding
    without_effects = np.zeros((binding.data.n_groups, binding.density.n_effects))
    observed = np.asarray(binding.data.observed.any(axis=1))
    found = run.gather([non_finite_sentence(binding, params, without_effects, observed)])
    return next(filter(None, found), "")


def _correlations_near_one(run: Run, estimate: ScoreAndInformation) -> list[str]:
    """A sentence on correlations near plus or minus one, if the information is not positive definite."""
    density = run.binding.density
    if estimate.positive_definite or not density.covariance.correlated_pairs:
        return []
    psi = psi_of(density, run.template.unpack(estimate.packed).covariance)
    sd = np.sqrt(np.diag(psi))
    pairs = [
        f"{density.effect_names[j]} and {density.effect_names[k]} ({psi[j, k] / (sd[j] * sd[k]):.3f})"
        for j, k in density.covariance.correlated_pairs
        if abs(psi[j, k]) > CRITERIA.near_one_correlation * sd[j] * sd[k]
    ]
    if not pairs:
        return []
    return [
        f"The random effects of {some(pairs)} are nearly linearly dependent: their correlation approaches the boundary "
        "of psi. Leave out one of them or their correlation."
    ]


def zero_variance_notes(run: Run, estimate: ScoreAndInformation, converged: bool) -> list[str]:
    """Sentences on variances that are estimated as zero."""
    out = zero_sentences(
        run.binding.density, run.interior_layout.theta(estimate.packed), set(run.fixed_at_boundary), converged
    )
    if out and not direction_is_clear(run, [estimate]):
        out.append(
            "The slope of the log-likelihood from there into the interior is within its Monte Carlo error: a small "
            "variance may fit as well."
        )
    return out


def undetermined_variance_notes(run: Run, estimate: ScoreAndInformation | None) -> list[str]:
    """Sentences on positive variances that the data do not distinguish from zero."""
    if estimate is None:
        return []
    density = run.binding.density
    first = len(density.beta_names)
    se = dict(zip(estimate.active.tolist(), estimate.se, strict=True))
    out = []
    for index, effects, _ in density.covariance.log_scales:
        k = first + index
        if k in se and (is_vanishing(run, estimate, k) or se[k] > CRITERIA.indistinguishable_se):
            names = ", ".join(density.effect_names[k] for k in effects)
            out.append(
                f"The data do not distinguish the variance of the random effect of {names} from zero (given the "
                "effects before it, if psi is unstructured): the effect may be dropped. The other estimates are those "
                "for its value here, and may differ by a small fraction of a standard error from those without it."
            )
    return out


# ---- replicates, and the table of Monte Carlo errors


def errors_table(
    estimates: Sequence[ScoreAndInformation], best: int, packed: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    """Monte Carlo errors by packed parameter.

    **Arguments:** `estimates`, score and information of each replicate; `best`, number of the replicate reported;
    `packed` (replicates, packed), final parameters; `names` (packed,).
    **Returns:** a table with the rows of the active parameters and the columns `estimate`, `se`, `monte carlo se`,
    `last step`, `geweke z` and, with several replicates, `rhat` and `spread` (their standard deviation).
    """
    import pandas as pd

    estimate = estimates[best]
    table = pd.DataFrame(
        {
            "estimate": packed[best][estimate.active],
            "se": estimate.se,
            "monte carlo se": estimate.monte_carlo_se,
            "last step": estimate.step,
            "geweke z": estimate.geweke_z,
        },
        index=pd.Index([names[k] for k in estimate.active], name="parameter"),
    )
    if len(estimates) > 1:
        table["rhat"] = _rhat(estimates, estimate)
        table["spread"] = packed[:, estimate.active].std(axis=0, ddof=1)
    return table


def potential_scale_reduction(maxima: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Potential scale reduction (R-hat) of the maxima that batches of draws of several replicates point to.

    One if replicates differ by no more than their Monte Carlo error, or by a small fraction of the standard errors,
    which is as far as a last Newton step may be off.

    **Arguments:** `maxima` (replicates, batches, active); `se` (active,), standard errors.
    **Returns:** R-hat (active,). **Source:** Gelman and Rubin (1992), Statistical Science 7, 457-472.
    """
    n = maxima.shape[1]
    within = maxima.var(axis=1, ddof=1).mean(axis=0) + (CRITERIA.negligible_se_fraction * se) ** 2
    between = maxima.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(all="ignore"):
        return np.sqrt((n - 1) / n + between / within)


def _rhat(estimates: Sequence[ScoreAndInformation], best: ScoreAndInformation) -> np.ndarray:
    """`potential_scale_reduction` (active,) of the replicates with a positive definite information; NaN if `best` has
    none, or no other replicate has."""
    maxima = [estimate.estimates for estimate in estimates if estimate.positive_definite]
    if not best.positive_definite or len(maxima) < 2:
        return np.full(len(best.active), np.nan)
    return potential_scale_reduction(np.stack(maxima), best.se)


def replicate_disagreement(
    estimates: Sequence[ScoreAndInformation],
    log_likelihoods: np.ndarray,
    errors: np.ndarray,
    best: int,
    names: Sequence[str],
) -> list[str]:
    """A sentence if the best of several replicates may not be at the global maximum: no other one reached its
    log-likelihood, or, if log-likelihoods were not computed, they ended at different parameters.

    **Arguments:** `log_likelihoods` (replicates,) with their Monte Carlo `errors`; `best`, number of the best
    replicate; `names` (active,).
    """
    if len(estimates) < 2:
        return []
    if np.isfinite(log_likelihoods).any():
        if reached_best(log_likelihoods, errors, best).sum() > 1:
            return []
        others = np.delete(log_likelihoods, best)
        others = others[np.isfinite(others)]
        ended = f"with log-likelihoods of {others.max():.2f} or less" if len(others) else "without a log-likelihood"
        return [
            f"Of {len(estimates)} replicates only one reached this maximum; the others ended {ended}. There may be "
            "better ones: use other starting values, or more replicates."
        ]
    rhat = _rhat(estimates, estimates[best])
    if not (rhat > CRITERIA.rhat_limit).any():
        return []
    worst = int(np.nanargmax(rhat))
    return [
        f"The {len(estimates)} replicates ended at different parameters (R-hat of {names[worst]} is {rhat[worst]:.3g}, "
        f"limit {CRITERIA.rhat_limit:g}), and without log-likelihoods the best one is not known: choose another "
        "likelihood than 'none'."
    ]
