"""E-step of the stochastic EM methods, compiled: simulation over all groups, and loops of whole iterations.

Iteration k, at parameters theta_{k-1}, for every group i and replicate:

1. If `schedule.reset_chains`, set the chains of xi_i to their population mean C_i beta.
2. If `schedule.search_modes`, search the mode of p(xi_i | y_i; theta_{k-1}) and take Laplace's covariance there, for
   the proposals.
3. Draw z_i from p(z_i | y_i; theta_{k-1}) with the sampler: Markov chains (SAEM) or weighted draws (IMP); b_i = L z_i,
   xi_i = C_i beta + b_i.
4. Average the sufficient statistics and the outcome's scores over the draws, and sum them over groups with their
   weights: S_k and g_k of the M-step.
5. If `schedule.sum_scores`, add the complete-data scores and their control variates to the group's sums (`scores`).

The M-step (`m_step`) follows; `iterate_block` runs up to BLOCK such iterations in one program.

**Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038, for simulation by Markov
chains within the stochastic approximation of EM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.em.complete_data import outcome_log_density, score_terms
from jaxnlme.estimators.em.m_step import EMState, Schedule, SimulationSums, maximise
from jaxnlme.estimators.em.parameter_layout import ParameterLayout
from jaxnlme.estimators.em.scores import GroupScoreSums, ScoredDraws, ScoreSums, accumulate_scores, observed_weight
from jaxnlme.estimators.em.sufficient_statistics import (
    effect_statistics,
    residual_statistics,
    residual_statistics_of_units,
    weighted_contribution,
)
from jaxnlme.model import derivatives
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import map_leading
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.sampling.samplers import AbstractSampler, Chains, Whitening, laplace_approximation, whitening_at
from jaxnlme.sampling.unit_tree import UnitTree

# Largest number of iterations of one call of the compiled loop, and the length of the trace that it returns.
BLOCK = 50


class StepContext(eqx.Module):
    """Settings that all iterations of a run share: the `layout`, the `sampler`, and the `template` of Params."""

    layout: ParameterLayout
    sampler: AbstractSampler
    template: Params


class ChainState(eqx.Module):
    """Chains and score sums of a group: `chains`; `control_coefficients` (replicates, packed, functions), the
    coefficients of the control variates in its scores; `sums`, the sums over iterations at fixed parameters."""

    chains: Chains
    control_coefficients: Any
    sums: GroupScoreSums


class IterationTrace(eqx.Module):
    """Result of an iteration: `packed` (replicates, packed) after it, and its `simulation_sums`."""

    packed: Any
    simulation_sums: SimulationSums


def simulation_step(
    problem: Problem, shared: tuple[StepContext, Any, Any, Schedule], chain_states: ChainState
) -> tuple[SimulationSums, ChainState]:
    """Simulation of one iteration, over all groups and replicates.

    **Arguments:** `shared`: the StepContext, parameters (replicates, packed), random keys (replicates, 2), and the
    Schedule of the iteration (scalars).
    **Returns:** sums over groups, with a leading axis of replicates; the updated chains.
    """
    context, packed, keys, schedule = shared
    density, weights = problem.density, problem.weights
    params = map_leading(context.template.unpack, packed)
    whitenings = map_leading(lambda p: whitening_at(density, p, context.layout.whitened), params)
    keys = map_leading(lambda key: jax.random.fold_in(key, schedule.iteration), keys)

    def search_modes(chains):
        def per_group(group, chains):
            def per_replicate(*arguments):
                return _with_mode(context.layout, density, schedule, group, *arguments)

            return map_leading(per_replicate, params, whitenings, chains)

        return problem.map(per_group, chains)

    # Separate passes over the groups, under conditions outside of vmap: a condition inside is traced once more for each
    # vmap around it.
    chains = jax.lax.cond(schedule.search_modes, search_modes, lambda chains: chains, chain_states.chains)

    def per_group(group, weight, chains):
        def per_replicate(params, whitening, key, chains):
            return _simulate_group(context, density, schedule, group, weight, params, whitening, key, chains)

        return map_leading(per_replicate, params, whitenings, keys, chains)

    contributions, chains, scored_draws = problem.map(per_group, weights, chains)
    sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), contributions)

    def with_scores(group_sums):
        terms = map_leading(lambda p: score_terms(context.layout, density, p), params)

        def scores_per_group(group, weight, *arguments):
            def per_replicate(*arguments):
                return accumulate_scores(context.layout, density, group, weight, *arguments)

            return map_leading(per_replicate, params, whitenings, terms, *arguments)

        arguments = chains, scored_draws, chain_states.control_coefficients, group_sums
        contributions, group_sums = problem.map(scores_per_group, weights, *arguments)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), contributions), group_sums

    def without_scores(group_sums):
        return ScoreSums.zeros(context.layout, packed.shape[:1], packed.dtype), group_sums

    # Iterations that do not sum up scores need not carry the sums through the simulation.
    score_sums, group_sums = jax.lax.cond(schedule.sum_scores, with_scores, without_scores, chain_states.sums)
    sums = dataclasses.replace(sums, score_sums=score_sums)
    return sums, ChainState(chains, chain_states.control_coefficients, group_sums)


def _with_mode(
    layout: ParameterLayout,
    density: Density,
    schedule: Schedule,
    group: Group,
    params: Params,
    whitening: Whitening,
    chains: Chains,
) -> Chains:
    """Chains of one group with Laplace's approximation at its conditional mode, searched from the last one, or from the
    mean of the population if the chains are reset; also from there if `schedule.search_from_mean`."""
    mean = layout.centring.mean(params.beta, layout.centring.coefficients(group))
    start = jnp.where(schedule.reset_chains, mean, chains.centre)
    again = schedule.search_from_mean
    approximation = laplace_approximation(density, params, whitening, group, mean, start, again)
    return eqx.tree_at(lambda c: (c.centre, c.factor, c.inverse, c.mode_found), chains, approximation)


def _simulate_group(
    context: StepContext,
    density: Density,
    schedule: Schedule,
    group: Group,
    weight: Any,
    params: Params,
    whitening: Whitening,
    key: Any,
    chains: Chains,
) -> tuple[SimulationSums, Chains, ScoredDraws]:
    """Contribution of one group to `simulation_step`, in one replicate: weighted sums, updated chains, and draws."""
    layout = context.layout
    coefficients = layout.centring.coefficients(group)
    mean = layout.centring.mean(params.beta, coefficients)
    reset_centre = schedule.reset_chains & ~schedule.search_modes  # a search has started from the mean
    initial = eqx.tree_at(
        lambda c: (c.xi, c.centre),
        chains,
        (jnp.where(schedule.reset_chains, mean, chains.xi), jnp.where(reset_centre, mean, chains.centre)),
    )

    log_density, empty, tree = _log_density(context, density, params, group)
    group_key = jax.random.fold_in(key, group.key)
    gain = schedule.tuning_gain
    chains, draws = context.sampler.draw(log_density, whitening, initial, mean, empty, group_key, gain, tree)
    # Once the parameters are NaN every density is: keep the flags of the last iteration before, which name the groups
    # whose density failed first.
    params_nan = jnp.any(jnp.isnan(params.pack()))
    chains = eqx.tree_at(lambda c: c.any_finite, chains, jnp.where(params_nan, initial.any_finite, chains.any_finite))
    z, (counts, squares) = draws.z, draws.aux
    xi = whitening.effects(z) + mean[None, :]
    stats = draws.mean(
        jax.vmap(lambda xi, n, s: effect_statistics(layout, group, coefficients, xi, n, s))(xi, counts, squares)
    )
    outcome_score, hessian = jnp.zeros((0,)), jnp.zeros((0, 0))
    outcome_scores = jnp.zeros((z.shape[0], 0))
    if layout.scored:
        entries = params.pack()[np.array(layout.hessian_entries, int)]

        def outcome(entries, z):
            return outcome_log_density(layout, density, params, z, group, entries)

        hessians, slopes = jax.vmap(lambda z: derivatives.hessian_and_gradient(outcome)(entries, z))(z)
        outcome_scores = slopes[:, : len(layout.scored)]
        outcome_score, hessian = draws.mean(outcome_scores), -draws.mean(hessians)
    weight = observed_weight(group, weight)
    stats, outcome_score, hessian = weighted_contribution(weight, (stats, outcome_score, hessian))
    counts_once = (weight != 0).astype(mean.dtype)
    sums = SimulationSums(stats, outcome_score, hessian, None, draws.accepted * counts_once, counts_once)
    return sums, chains, ScoredDraws(draws, outcome_scores)


def _log_density(
    context: StepContext, density: Density, params: Params, group: Group
) -> tuple[Callable[[Any], tuple[Any, Any]], Any, UnitTree | None]:
    """The log-density of a group that its sampler takes, with residual statistics; zeros of the shape of these; and its
    units, None without nested levels."""
    layout, levels = context.layout, density.levels

    def of_group(z):
        f = density.predict(params, z, group)
        value = density.error.log_density(f, f, params.error, group)
        return value, residual_statistics(layout, density, params, f, group)

    def joint(z):
        value, residuals = of_group(z)
        return value - 0.5 * jnp.sum(z**2) - density.n_effects * HALF_LOG_2PI, residuals

    zero = jnp.zeros((layout.strata,), params.beta.dtype)
    if levels is None:
        return joint, (zero,) * 2, None
    by_unit = context.sampler.by_unit and levels.separable and _has_row_terms(density, params, group)
    tree = UnitTree(levels, group, by_unit)
    if not context.sampler.by_unit:

        def of_informative(z):
            value, residuals = of_group(z)
            n = jnp.sum(tree.entries)
            return value - 0.5 * jnp.sum(jnp.where(tree.entries, z, 0.0) ** 2) - n * HALF_LOG_2PI, residuals

        return of_informative, (zero,) * 2, tree

    def of_units(z):
        if not by_unit:
            return jax.tree.map(lambda leaf: leaf[None], of_group(z))
        f = density.predict(params, z, group)
        terms, constant = density.error.row_terms(f, params.error, group)
        index = group.units[levels.innermost.depth - 1].index
        values = jax.ops.segment_sum(terms, index, tree.n_terms)
        return values.at[0].add(constant), residual_statistics_of_units(layout, density, params, f, group)

    return of_units, (jnp.zeros((tree.n_terms, layout.strata), zero.dtype),) * 2, tree


def _has_row_terms(density: Density, params: Params, group: Group) -> bool:
    """True if the log-density of the outcome is given row by row."""
    zero = jnp.zeros((density.n_effects,), params.beta.dtype)
    return density.error.has_row_terms(
        jax.eval_shape(lambda: density.predict(params, zero, group)), params.error, group
    )


def iterate_block(
    problem: Problem, shared: Any, chain_states: ChainState, total: Any
) -> tuple[tuple[EMState, IterationTrace], ChainState]:
    """Consecutive iterations in one program.

    **Arguments:** `shared`: the StepContext, the EMState (replicates, ...), random keys (replicates, 2), Schedules
    (BLOCK,), and the number of them to run; `total` adds up sums over devices.
    **Returns:** the EMState and the IterationTrace (BLOCK, replicates, ...), zero in rows beyond the iterations run;
    and the chains.
    """
    context, em_state, keys, schedules, count = shared
    density = problem.density

    def iteration(em_state, chain_states, schedule):
        sums, chain_states = simulation_step(problem, (context, em_state.packed, keys, schedule), chain_states)
        sums = total(sums)
        return maximisation_step(density, context, em_state, sums, schedule), sums, chain_states

    def schedule_at(k):
        return jax.tree.map(lambda leaf: leaf[k], schedules)

    # Shapes of the trace, written out: `jax.eval_shape` of an iteration would trace the model twice.
    replicates = em_state.packed.shape[0]

    def zeros(*shape):
        return jnp.zeros((BLOCK, replicates, *shape), em_state.packed.dtype)

    like = jax.tree.map(lambda leaf: zeros(*leaf.shape[1:]), (em_state.packed, em_state.statistics, em_state.hessian))
    scored, updates = len(context.layout.scored), len(context.sampler.labels)
    score_sums = ScoreSums.zeros(context.layout, (BLOCK, replicates), em_state.packed.dtype)
    sums = SimulationSums(like[1], zeros(scored), like[2], score_sums, zeros(updates), zeros())
    empty_trace = IterationTrace(like[0], sums)

    def body(k, state):
        em_state, chain_states, trace = state
        em_state, sums, chain_states = iteration(em_state, chain_states, schedule_at(k))
        trace = jax.tree.map(lambda rows, row: rows.at[k].set(row), trace, IterationTrace(em_state.packed, sums))
        return em_state, chain_states, trace

    em_state, chain_states, trace = jax.lax.fori_loop(0, count, body, (em_state, chain_states, empty_trace))
    return (em_state, trace), chain_states


def maximisation_step(
    density: Density, context: StepContext, em_state: EMState, sums: SimulationSums, schedule: Schedule
) -> EMState:
    """M-step of every replicate: part of `iterate_block`, and a program of its own for groups in several chunks."""

    def per_replicate(em_state, sums):
        return maximise(context.layout, density, context.template, em_state, sums, schedule)

    return map_leading(per_replicate, em_state, sums)
