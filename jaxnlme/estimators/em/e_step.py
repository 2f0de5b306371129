"""The compiled part of SAEM: an iteration's simulation over all groups, and loops of whole iterations."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.em.m_step import EMState, Schedule, Simulated, maximise
from jaxnlme.estimators.em.scores import GroupScoreSums, ScoredDraws, ScoreSums, accumulate_scores, counted
from jaxnlme.estimators.em.sufficient_statistics import (
    ParameterLayout,
    of_effects,
    of_error,
    outcome_density,
    scores_at,
    weighted,
)
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import times
from jaxnlme.sampling.samplers import AbstractSampler, Chains, Frame, frame_at, look

# Iterations that one call of the compiled loop may run, and keeps the trace of.
BLOCK = 50


class StepContext(eqx.Module):
    """What all iterations of a run have in common: `layout`, `sampler`, and the `template` of Params."""

    layout: ParameterLayout
    sampler: AbstractSampler
    template: Params


class ChainState(eqx.Module):
    """The chains of a group, `control_coefficients` (replicates, packed, functions), how much of each control variate is taken off
    its scores, and `sums` over settling iterations."""

    chains: Chains
    control_coefficients: Any
    sums: GroupScoreSums


class IterationTrace(eqx.Module):
    """What an iteration leaves behind: `packed` (replicates, packed) after it, and its sums."""

    packed: Any
    simulated: Simulated


def simulation_step(
    problem: Problem, shared: tuple[StepContext, Any, Any, Schedule], chain_states: ChainState
) -> tuple[Simulated, ChainState]:
    """One iteration's simulation over all groups and replicates.

    **Arguments:** `shared`: the Setup, parameters (replicates, packed), random keys (replicates, 2), and the Control.
    **Returns:** sums over groups with a leading replicates axis; the chains.
    """
    context, packed, keys, schedule = shared
    density, weights = problem.density, problem.weights
    params = jax.vmap(context.template.unpack)(packed)
    frames = jax.vmap(lambda p: frame_at(density, p, context.layout.whitened))(params)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, schedule.iteration))(keys)

    def visited(group, weight, chains):
        def replicate(params, frame, key, chains):
            return _visit(context, density, schedule, group, weight, params, frame, key, chains)

        return jax.vmap(replicate)(params, frames, keys, chains)

    shares, chains, drawn = problem.map(visited, weights, chain_states.chains)
    sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), shares)

    def summed_scores(so_far):
        tools = jax.vmap(lambda p: scores_at(context.layout, density, p))(params)

        def one(group, weight, drawn, taken, so_far):
            def replicate(*own):
                return accumulate_scores(context.layout, density, group, weight, *own)

            return jax.vmap(replicate)(params, frames, tools, drawn, taken, so_far)

        shares, so_far = problem.map(one, weights, drawn, chain_states.control_coefficients, so_far)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), shares), so_far

    # Apart from the visits, so that iterations that sum nothing up do not carry the sums through them.
    silent = ScoreSums.zeros(context.layout, packed.shape[:1], packed.dtype)
    said, so_far = jax.lax.cond(schedule.sum_scores, summed_scores, lambda so_far: (silent, so_far), chain_states.sums)
    return dataclasses.replace(sums, score_sums=said), ChainState(chains, chain_states.control_coefficients, so_far)


def _visit(
    context: StepContext,
    density: Density,
    schedule: Schedule,
    group: Group,
    weight: Any,
    params: Params,
    frame: Frame,
    key: Any,
    chains: Chains,
) -> tuple[Simulated, Chains, ScoredDraws]:
    """One group's share of `simulation_step`, in one replicate."""
    layout, q = context.layout, density.n_effects
    coefficients = layout.centring.coefficients(group)
    mean = layout.centring.mean(params.beta, coefficients)
    begin = eqx.tree_at(
        lambda c: (c.xi, c.centre),
        chains,
        (jnp.where(schedule.begin, mean, chains.xi), jnp.where(schedule.begin, mean, chains.centre)),
    )

    def searched(begin):
        found = look(density, params, frame, group, mean, begin.centre)
        return eqx.tree_at(lambda c: (c.centre, c.factor, c.inverse, c.found), begin, found)

    begin = jax.lax.cond(schedule.refresh, searched, lambda begin: begin, begin)

    def log_density(z):
        f = density.predict(params, z, group)
        value = density.error.log_density(f, f, params.error, group)
        kept = of_error(layout, density, params, f, group)
        return value - 0.5 * jnp.sum(z**2) - q * HALF_LOG_2PI, kept

    own = jax.random.fold_in(key, group.key)
    empty = (jnp.zeros((layout.strata,), mean.dtype),) * 2
    chains, draws = context.sampler.draw(log_density, frame, begin, mean, empty, own, schedule.tune)
    # Which group was lost first is told by the last iteration whose parameters were numbers.
    broken = jnp.any(jnp.isnan(params.pack()))
    chains = eqx.tree_at(lambda c: c.alive, chains, jnp.where(broken, begin.alive, chains.alive))
    z, (counts, squares) = draws.z, draws.kept
    b = times(z, frame.factor.T)
    stats = draws.mean(jax.vmap(lambda b, n, s: of_effects(coefficients, b + mean, n, s))(b, counts, squares))
    slope, hessian = jnp.zeros((0,)), jnp.zeros((0, 0))
    slopes = jnp.zeros((z.shape[0], 0))
    if layout.scored:
        entries = params.pack()[np.array(layout.curved, int)]

        def outcome(entries, z):
            return outcome_density(layout, density, params, z, group, entries)

        slopes = jax.vmap(lambda z: jax.grad(outcome)(entries, z)[: len(layout.scored)])(z)
        bends = jax.vmap(lambda z: jax.hessian(outcome)(entries, z))(z)
        slope, hessian = draws.mean(slopes), -draws.mean(bends)
    share = counted(group, weight)
    stats, slope, hessian = weighted(share, (stats, slope, hessian))
    there = (share != 0).astype(mean.dtype)
    return Simulated(stats, slope, hessian, None, draws.accepted * there, there), chains, ScoredDraws(draws, slopes)


def loop(
    problem: Problem, shared: Any, chain_states: ChainState, total: Any
) -> tuple[tuple[EMState, IterationTrace], ChainState]:
    """Iterations one after the other in one program.

    **Arguments:** `shared`: the Setup, the Running (replicates, ...), keys, Controls with a leading axis of BLOCK, and
    how many of these to run; `total` adds up sums over devices.
    **Returns:** the Running and the Trace (BLOCK, replicates, ...), rows beyond those run are zero; the chains.
    """
    context, em_state, keys, schedules, count = shared
    density = problem.density

    def one(em_state, chain_states, schedule):
        sums, chain_states = simulation_step(problem, (context, em_state.packed, keys, schedule), chain_states)
        sums = total(sums)
        return maximisation_step(density, context, em_state, sums, schedule), sums, chain_states

    def at(k):
        return jax.tree.map(lambda leaf: leaf[k], schedules)

    # Written down rather than asked of `one`, which would trace the model twice.
    replicates = em_state.packed.shape[0]

    def room(*shape):
        return jnp.zeros((BLOCK, replicates, *shape), em_state.packed.dtype)

    like = jax.tree.map(lambda leaf: room(*leaf.shape[1:]), (em_state.packed, em_state.statistics, em_state.hessian))
    scored, updates = len(context.layout.scored), len(context.sampler.labels)
    heard = ScoreSums.zeros(context.layout, (BLOCK, replicates), em_state.packed.dtype)
    sums = Simulated(like[1], room(scored), like[2], heard, room(updates), room())
    blank = IterationTrace(like[0], sums)

    def body(k, state):
        em_state, chain_states, trace = state
        em_state, sums, chain_states = one(em_state, chain_states, at(k))
        trace = jax.tree.map(lambda rows, row: rows.at[k].set(row), trace, IterationTrace(em_state.packed, sums))
        return em_state, chain_states, trace

    em_state, chain_states, trace = jax.lax.fori_loop(0, count, body, (em_state, chain_states, blank))
    return (em_state, trace), chain_states


def maximisation_step(
    density: Density, context: StepContext, em_state: EMState, sums: Simulated, schedule: Schedule
) -> EMState:
    """The M-step of every replicate: part of `loop`, and a program of its own for groups that are not in one piece."""

    def one(em_state, sums):
        return maximise(context.layout, density, context.template, em_state, sums, schedule)

    return jax.vmap(one)(em_state, sums)
