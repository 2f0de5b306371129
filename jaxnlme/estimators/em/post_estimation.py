"""What is computed at the estimates once a stochastic run has ended: modes, draws, likelihoods, informations."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError, Status, some
from jaxnlme.estimators.core.objective import Groups, groups_of, weighted_sum
from jaxnlme.estimators.em.algorithm import RunOutcome
from jaxnlme.estimators.em.e_step import ChainState, StepContext
from jaxnlme.estimators.em.linearised_information import linearised_information
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.phases import equilibrate
from jaxnlme.estimators.em.run import Run
from jaxnlme.likelihood.from_draws import AbstractCentred
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock
from jaxnlme.results.inference import Information, information
from jaxnlme.sampling.samplers import frame_at

# Draws of b that a Fit keeps: of each group at most, and numbers in all.
KEPT, NUMBERS = 100, 5_000_000
# Iterations between draws that are kept.
THIN = 2
# How often chains are asked for them at most.
MOST_TIMES = 20


@dataclasses.dataclass
class PostEstimation:
    """What is computed at the estimates of each replicate, as far as it came: whitened `modes` (groups, replicates,
    random) with the `curvature` there and whether they were `found`; `draws` (groups, replicates, draws, random) of b;
    `values` (replicates,), log-likelihoods with Monte Carlo `errors`, and `groups`, what they are made of; `infos`."""

    modes: np.ndarray
    curvature: np.ndarray
    found: np.ndarray
    draws: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    groups: list[Any]
    infos: list[Information | None]

    @classmethod
    def blank(cls, groups: int, replicates: int, effects: int) -> PostEstimation:
        shape = (groups, replicates)
        unknown = np.full((*shape, effects, effects), np.nan)
        values = np.full(replicates, np.nan)
        return cls(
            unknown[..., 0].copy(), unknown, np.zeros(shape, bool), np.zeros((*shape, 0, effects)), values,
            values.copy(), [None] * replicates, [None] * replicates,
        )  # fmt: skip


def go_through(
    run: Run,
    outcome: RunOutcome,
    after: PostEstimation,
    assessed: list[ScoreAndInformation] | None,
    params: list[Params],
    mean: np.ndarray,
    spread: np.ndarray,
    with_information: bool,
    timings: dict[str, float],
) -> None:
    """Fills `after`: of a run that was broken off (`assessed` None) with the modes where it stands alone."""
    run.notify("done")
    # Draws at the estimates follow, of which nobody need hear.
    run.has_callbacks = False
    if outcome.broken is not None:
        return
    if assessed is not None:
        equilibrate(run, THIN)
    after.modes, after.curvature, after.found, _ = _places(run)
    if assessed is None:
        return
    after.draws = _draws(run)
    if run.estimator.likelihood != "none":
        with clock(timings, "likelihood"):
            for r, own in enumerate(params):
                after.values[r], after.errors[r], after.groups[r] = _likelihood(run, own, mean[:, r], spread[:, r])
    if with_information:
        with clock(timings, "information"):
            for r, own in enumerate(params):
                after.infos[r] = _information(run, own, assessed[r], after.modes[:, r])


def not_finite(run: Run, groups: Any) -> str:
    """Why there is no log-likelihood."""
    lost = run.binding.data.labels[np.asarray(groups.status) == int(Status.non_finite)]
    where = f" of group {some(labels)}" if (labels := run.gather([str(label) for label in lost])) else ""
    return (
        f"The log-likelihood{where} by likelihood={run.estimator.likelihood!r} is not finite at the estimates: look "
        "for overflow, 0/0 or log(0) in the model where random effects are far out (jnp.where on the argument helps)."
    )


def inverse_factor(run: Run, params: Params) -> np.ndarray:
    """L^-1 (random, random) on the host; rows of exact zeros for the z that psi at its edge leaves without effect."""
    factor = np.asarray(run.binding.density.covariance.factor(np.asarray(params.covariance)))
    acts = factor.any(axis=0)
    out = np.zeros_like(factor)
    out[acts] = np.linalg.pinv(factor[:, acts])
    return out


def places(problem: Problem, shared: tuple[StepContext, Any], chain_states: ChainState) -> tuple[Any, Any]:
    """Whitened modes (groups, replicates, random), curvature there, whether they were found, and b of the chains
    (groups, replicates, chains, random)."""
    context, packed = shared
    density = problem.density
    params = jax.vmap(context.template.unpack)(packed)
    frames = jax.vmap(lambda p: frame_at(density, p, context.layout.whitened))(params)

    def one(group, chain_states):
        def replicate(params, frame, chains):
            coefficients = context.layout.centring.coefficients(group)
            mean = context.layout.centring.mean(params.beta, coefficients)
            back = chains.inverse @ frame.factor
            b = chains.xi - mean[None, :]
            if context.layout.whitened:
                b = b @ density.covariance.factor(params.covariance).T
            return frame.inverse @ (chains.centre - mean), back.T @ back, chains.found, b

        return jax.vmap(replicate)(params, frames, chain_states.chains)

    return (), problem.map(one, chain_states)


def _places(run: Run) -> tuple[np.ndarray, ...]:
    _, pieces = run.placed.run(places, (run.context, np.asarray(run.em_state.packed)), run.chain_states)
    return tuple(run.to_host(pieces))


def _draws(run: Run) -> np.ndarray:
    """Draws (groups, replicates, draws, random) of b at the estimates, a few iterations apart."""
    m, q = run.placed.processes.largest(run.binding.data.n_groups), run.binding.density.n_effects
    wanted = max(1, min(KEPT, NUMBERS // max(m * q * run.replicates, 1)))
    taken = [_places(run)[3]]
    while sum(part.shape[2] for part in taken) < wanted and len(taken) < MOST_TIMES:
        equilibrate(run, THIN, anew=False)
        taken.append(_places(run)[3])
    return np.concatenate(taken, axis=2)[:, :, :wanted]


def _likelihood(run: Run, params: Params, mean: np.ndarray, spread: np.ndarray) -> tuple[float, float, Any]:
    """Log-likelihood at `params`, its Monte Carlo error, and what it is made of by group."""
    method = run.estimator.last_likelihood
    assert method is not None
    inverse = inverse_factor(run, params)
    sums, groups = centred_log_likelihood(run.placed, method, params, mean @ inverse.T, inverse @ spread @ inverse.T)
    return float(sums.log_likelihood), float(np.sqrt(sums.variance)), groups


def _information(run: Run, params: Params, one: ScoreAndInformation, modes: np.ndarray) -> Information:
    if run.estimator.information == "linearised":
        matrix, scores = linearised_information(run.binding, run.placed, params, modes, one.active)
    else:
        matrix, scores = one.information, one.group_scores
    return information(run.binding, params, matrix, one.active, run.placed.processes.concatenate(scores))


# ---- log-likelihoods around given conditional means, over all groups


class CentredSums(eqx.Module):
    """`log_likelihood`, the sum of weighted log-likelihoods; `variance` of it, Monte Carlo (zero for deterministic
    rules)."""

    log_likelihood: Any
    variance: Any


def share_centred(
    problem: Problem, point: tuple[AbstractCentred, Params], at: tuple[Any, Any]
) -> tuple[CentredSums, Groups]:
    """What the groups of `problem` add to the log-likelihood; see `objective.share`. Draws of different groups are
    independent, so variances add up with the squares of the weights.

    **Arguments:** `point`: the method and Params; `at`: centre (groups, random) and spread (groups, random, random).
    """
    method, params = point
    density, weights = problem.density, problem.weights
    found = problem.map(lambda group, *at: method.evaluate(density, params, group, *at), *at)
    variance = weighted_sum(weights**2, found.monte_carlo.variance)
    return CentredSums(weighted_sum(weights, found.value), variance), groups_of(found)


def centred_log_likelihood(
    placed: PlacedProblem, method: AbstractCentred, params: Params, centre: np.ndarray, spread: np.ndarray
) -> tuple[CentredSums, Groups]:
    """`share_centred` over all groups, on the host.

    **Arguments:** `centre` (groups, random), `spread` (groups, random, random), in the order of the data.
    **Returns:** numpy: the sums over every process's groups, and Groups of this process's (groups, ...), `scores` None.
    **Errors:** ModelError or OptionError where the model does not suit the method; OptionError for other shapes.
    """
    method.check(placed.density)
    m, q = placed.n_groups, placed.density.n_effects
    if np.shape(centre) != (m, q) or np.shape(spread) != (m, q, q):
        raise OptionError(
            f"centre and spread must have shapes ({m}, {q}) and ({m}, {q}, {q}); "
            f"received {np.shape(centre)} and {np.shape(spread)}."
        )
    at = list(zip(placed.spread(centre), placed.spread(spread), strict=True))
    sums, pieces = placed.run(share_centred, (method, params), at)
    groups = jax.tree.map(lambda *parts: placed.own(parts), *pieces)
    return jax.tree.map(np.asarray, sums), groups
