"""Computations at the estimates once a stochastic run has ended: conditional modes, draws, log-likelihoods and
information matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.centred_likelihood import centred_log_likelihood, scattered, sum_centred
from jaxnlme.estimators.core.linearised_information import linearised_information
from jaxnlme.estimators.em.algorithm import RunOutcome
from jaxnlme.estimators.em.e_step import ChainState, StepContext
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.phases import equilibrate
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import POST_ESTIMATION
from jaxnlme.likelihood.log_likelihood import modes_of_groups
from jaxnlme.likelihood.mode import ModeSearch, mode_starts
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import map_leading, on_device
from jaxnlme.numerics.compiling import clock
from jaxnlme.results.by_level import informative_units
from jaxnlme.results.inference import Information, information
from jaxnlme.sampling.samplers import whitening_at


@dataclasses.dataclass
class PostEstimation:
    """Results at the estimates of each replicate, blank where they were not computed.

    Whitened `modes` (groups, replicates, random), the `curvature` there (groups, replicates, random, random) and
    `mode_found` (groups, replicates); `draws` (groups, replicates, draws, random) of b; `log_likelihoods` (replicates,)
    with their Monte Carlo `errors` (replicates,), and `groups`, the GroupValues behind them; `informations`.
    """

    modes: np.ndarray
    curvature: np.ndarray
    mode_found: np.ndarray
    draws: np.ndarray
    log_likelihoods: np.ndarray
    errors: np.ndarray
    groups: list[Any]
    informations: list[Information | None]

    @classmethod
    def blank(cls, groups: int, replicates: int, effects: int) -> PostEstimation:
        """NaN, no draws and None for numbers of groups, replicates and random effects."""
        shape = (groups, replicates)
        curvature = np.full((*shape, effects, effects), np.nan)
        log_likelihoods = np.full(replicates, np.nan)
        return cls(
            curvature[..., 0].copy(), curvature, np.zeros(shape, bool), np.zeros((*shape, 0, effects)), log_likelihoods,
            log_likelihoods.copy(), [None] * replicates, [None] * replicates,
        )  # fmt: skip


def fill_post_estimation(
    run: Run,
    outcome: RunOutcome,
    results: PostEstimation,
    estimates: list[ScoreAndInformation] | None,
    params: list[Params],
    mean: np.ndarray,
    covariance: np.ndarray,
    with_information: bool,
    timings: dict[str, float],
) -> None:
    """Fill `results`; Ctrl-C leaves those that are complete.

    **Arguments:** `estimates` of each replicate, None for a run that was interrupted or stopped, of which only the
    modes at the current parameters are computed; `params` of each replicate; `mean` (groups, replicates, random) and
    `covariance` (groups, replicates, random, random), conditional moments of b; `timings`, seconds by stage, added to.
    """
    run.notify("done")
    # The draws that follow are at the final estimates: no callbacks for these iterations.
    run.has_callbacks = False
    if outcome.non_finite_phase is not None:
        return
    if estimates is not None:
        equilibrate(run, POST_ESTIMATION.thinning)
    results.modes, results.curvature, results.mode_found, _ = _modes_and_draws(run)
    if estimates is None:
        return
    results.draws = _draws(run)
    if run.estimator.likelihood != "none":
        with clock(timings, "likelihood"):
            for r, replicate_params in enumerate(params):
                results.log_likelihoods[r], results.errors[r], results.groups[r] = _likelihood(
                    run, replicate_params, mean[:, r], covariance[:, r]
                )
    if with_information:
        with clock(timings, "information"):
            for r, replicate_params in enumerate(params):
                results.informations[r] = _information(run, replicate_params, estimates[r], results.modes[:, r])


def non_finite_sentence(run: Run, groups: Any) -> str:
    """Sentence on a log-likelihood that is not finite, naming the `groups` (GroupValues) concerned."""
    non_finite = run.binding.data.labels[np.asarray(groups.status) == int(Status.non_finite)]
    of_groups = f" of group {some(labels)}" if (labels := run.gather([str(label) for label in non_finite])) else ""
    return (
        f"The log-likelihood{of_groups} by likelihood={run.estimator.likelihood!r} is not finite at the estimates: "
        "look for overflow, 0/0 or log(0) in the model at extreme random effects (jnp.where on the argument helps)."
    )


def inverse_factor(run: Run, params: Params) -> np.ndarray:
    """L^-1 (random, random) on the host; if psi is singular, the pseudo-inverse, with rows of exact zeros for the z
    that have no effect. With nested levels, that of the effects of all units."""
    factor = np.asarray(run.binding.density.covariance.factor(np.asarray(params.covariance)))
    has_effect = factor.any(axis=0)
    out = np.zeros_like(factor)
    out[has_effect] = np.linalg.pinv(factor[:, has_effect])
    levels = run.binding.density.levels
    return out if levels is None else levels.expanded(out)


def modes_and_draws(
    problem: Problem, shared: tuple[StepContext, Any], chain_states: ChainState
) -> tuple[tuple[()], Any]:
    """For `PlacedProblem.run`: conditional modes of all groups and the current draws of their chains.

    **Arguments:** `shared`: the StepContext and parameters (replicates, packed).
    **Returns:** no sums; by group, whitened modes (groups, replicates, random), the curvature there, whether the modes
    were found, and b of the chains (groups, replicates, chains, random).
    """
    context, packed = shared
    density = problem.density
    params = map_leading(context.template.unpack, packed)
    whitenings = map_leading(lambda p: whitening_at(density, p, context.layout.whitened), params)

    def per_group(group, chain_states):
        def per_replicate(params, whitening, chains):
            coefficients = context.layout.centring.coefficients(group)
            mean = context.layout.centring.mean(params.beta, coefficients)
            factor, inverse = whitening.dense()
            root = chains.inverse @ factor  # of the precision
            b = chains.xi - mean[None, :]
            if context.layout.whitened:
                b = density.map_effects(density.covariance.factor(params.covariance), b)
            return inverse @ (chains.centre - mean), root.T @ root, chains.mode_found, b

        return map_leading(per_replicate, params, whitenings, chain_states.chains)

    return (), problem.map(per_group, chain_states)


def _modes_and_draws(run: Run) -> tuple[np.ndarray, ...]:
    _, chunks = run.placed.run(modes_and_draws, (run.context, np.asarray(run.em_state.packed)), run.chain_states)
    return tuple(run.to_host(chunks))


def _draws(run: Run) -> np.ndarray:
    """Draws (groups, replicates, draws, random) of b at the estimates, `POST_ESTIMATION.thinning` iterations apart."""
    m, q = run.placed.processes.maximum(run.binding.data.n_groups), run.binding.density.n_effects
    storable = POST_ESTIMATION.max_stored_numbers // max(m * q * run.replicates, 1)
    n_draws = max(1, min(POST_ESTIMATION.max_draws_per_group, storable))
    parts = [_modes_and_draws(run)[3]]
    while sum(part.shape[2] for part in parts) < n_draws and len(parts) < POST_ESTIMATION.max_draw_rounds:
        equilibrate(run, POST_ESTIMATION.thinning, adapt=False)
        parts.append(_modes_and_draws(run)[3])
    return np.concatenate(parts, axis=2)[:, :, :n_draws]


def _likelihood(run: Run, params: Params, mean: np.ndarray, covariance: np.ndarray) -> tuple[float, float, Any]:
    """Log-likelihood at `params`, its Monte Carlo error, and the GroupValues behind it, given conditional means
    (groups, random) and covariances (groups, random, random) of b."""
    method = run.estimator.final_likelihood
    assert method is not None
    inverse = inverse_factor(run, params)
    mean, covariance = mean @ inverse.T, inverse @ covariance @ inverse.T
    if (levels := run.binding.density.levels) is not None:
        # Effects that the data say nothing of are standard normal: the draws' moments would only add noise.
        known = informative_units(run.binding)[:, levels.unit_of_entry]
        mean = np.where(known, mean, 0.0)
        covariance = np.where(known[:, :, None] & known[:, None, :], covariance, np.eye(levels.size))
    sums, groups = centred_log_likelihood(run.placed, method, params, mean, covariance)
    return float(sums.log_likelihood), float(np.sqrt(sums.variance)), groups


def prepare_likelihood(run: Run) -> None:
    """Have the program of the final log-likelihood compiled in another thread."""
    method = run.estimator.final_likelihood
    if method is not None and not run.placed.chunked:
        n, q = run.placed.n_groups, run.binding.density.n_effects
        at = scattered(run.placed, np.zeros((n, q)), np.broadcast_to(np.eye(q), (n, q, q)))
        run.placed.prepare(sum_centred, (method, run.params()), at)


def _information(run: Run, params: Params, estimate: ScoreAndInformation, modes: np.ndarray) -> Information:
    """Information at `params` by the estimator's method, given whitened modes (groups, random)."""
    if run.estimator.information == "linearised":
        matrix, scores = linearised_information(run.binding, run.placed, params, modes, estimate.active)
    else:
        matrix, scores = estimate.information, estimate.group_scores
    return information(run.binding, params, matrix, estimate.active, run.placed.processes.concatenate(scores))


# ---- modes at the estimates, checked against the draws


@dataclasses.dataclass(frozen=True)
class Modes:
    """Whitened modes: `modes` (groups, random), the `curvature` there (groups, random, random), and whether the mode of
    each group was `found` (groups,) bool."""

    modes: np.ndarray
    curvature: np.ndarray
    found: np.ndarray


def checked_modes(run: Run, params: Params, chains: Modes, mean: np.ndarray, covariance: np.ndarray) -> Modes:
    """The modes at `params`.

    The modes around which chains draw were searched at earlier parameters. Where one lies further from the draws than
    their spread allows, or was not found, the mode is searched at the estimates: from the starts of `mode_starts` and
    from the mean of the draws. A mode that is still far from them is not the mode of what was drawn, and a mode not
    found is replaced by the mean.

    **Arguments:** `chains`: modes around which the chains draw; `mean`, `covariance`: of the whitened draws (groups,
    random) and (groups, random, random).
    """
    usable = np.isfinite(mean).all(axis=1)
    doubtful = usable & ~(chains.found & _near(chains.modes, mean, covariance))
    result = chains
    if run.placed.processes.any(doubtful.any()) and np.isfinite(np.asarray(params.beta)).all():
        new = _searched(run, params, mean)
        found = np.where(doubtful, new.found & _near(new.modes, mean, covariance), chains.found)
        modes = np.where(doubtful[:, None], new.modes, chains.modes)
        result = Modes(modes, np.where(doubtful[:, None, None], new.curvature, chains.curvature), found)
    return dataclasses.replace(result, modes=np.where((result.found | ~usable)[:, None], result.modes, mean))


def _searched(run: Run, params: Params, mean: np.ndarray) -> Modes:
    """The modes found at `params`, from several starts and the `mean` (groups, random) of the draws."""
    n_groups, n_effects = mean.shape
    fixed = np.broadcast_to(mode_starts(n_effects), (n_groups, *mode_starts(n_effects).shape))
    starts = np.concatenate([fixed, np.nan_to_num(mean)[:, None, :]], axis=1)
    at = (on_device(params), on_device(ModeSearch()), True)
    _, chunks = run.placed.run(modes_of_groups, at, run.placed.scatter(starts), once=True)
    return Modes(*(np.array(run.placed.collect(part)) for part in zip(*chunks, strict=True)))


def _near(modes: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """True for groups (groups,) whose mode is no further from the mean of the draws, in standard deviations of each
    effect, than POST_ESTIMATION.largest_mode_distance."""
    sd = np.sqrt(np.maximum(np.einsum("ikk->ik", covariance), POST_ESTIMATION.least_draws_variance))
    with np.errstate(invalid="ignore"):
        return (np.abs(modes - mean) <= POST_ESTIMATION.largest_mode_distance * sd).all(axis=1)


def unsure_modes_note(labels: Sequence[str]) -> list[str]:
    """A sentence on the groups with `labels` whose modes were not found; none where there are none."""
    if not labels:
        return []
    return [
        f"The mode of the random effects was not found for group {some(labels)}; their random effects are the means of "
        "the draws."
    ]
