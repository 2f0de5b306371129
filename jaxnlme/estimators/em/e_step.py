"""The compiled part of SAEM: an iteration's simulation over all groups, and loops of whole iterations."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.em.m_step import Control, Running, Simulated, maximise
from jaxnlme.estimators.em.scores import Drawn, Heard, Sums, counted, listen
from jaxnlme.estimators.em.sufficient_statistics import (
    Layout,
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


class Setup(eqx.Module):
    """What all iterations of a run have in common: `layout`, `sampler`, and the `template` of Params."""

    layout: Layout
    sampler: AbstractSampler
    template: Params


class Lanes(eqx.Module):
    """The chains of a group, `control` (replicates, packed, functions), how much of each control variate is taken off
    its scores, and `sums` over settling iterations."""

    chains: Chains
    control: Any
    sums: Sums


class Trace(eqx.Module):
    """What an iteration leaves behind: `packed` (replicates, packed) after it, and its sums."""

    packed: Any
    simulated: Simulated


def simulate(problem: Problem, shared: tuple[Setup, Any, Any, Control], lanes: Lanes) -> tuple[Simulated, Lanes]:
    """One iteration's simulation over all groups and replicates.

    **Arguments:** `shared`: the Setup, parameters (replicates, packed), random keys (replicates, 2), and the Control.
    **Returns:** sums over groups with a leading replicates axis; the chains.
    """
    setup, packed, keys, control = shared
    density, weights = problem.density, problem.weights
    params = jax.vmap(setup.template.unpack)(packed)
    frames = jax.vmap(lambda p: frame_at(density, p, setup.layout.whitened))(params)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, control.iteration))(keys)

    def visited(group, weight, chains):
        def replicate(params, frame, key, chains):
            return _visit(setup, density, control, group, weight, params, frame, key, chains)

        return jax.vmap(replicate)(params, frames, keys, chains)

    shares, chains, drawn = problem.map(visited, weights, lanes.chains)
    sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), shares)

    def heard(so_far):
        tools = jax.vmap(lambda p: scores_at(setup.layout, density, p))(params)

        def one(group, weight, drawn, taken, so_far):
            def replicate(*own):
                return listen(setup.layout, density, group, weight, *own)

            return jax.vmap(replicate)(params, frames, tools, drawn, taken, so_far)

        shares, so_far = problem.map(one, weights, drawn, lanes.control, so_far)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), shares), so_far

    # Apart from the visits, so that iterations that sum nothing up do not carry the sums through them.
    silent = Heard.silent(setup.layout, packed.shape[:1], packed.dtype)
    said, so_far = jax.lax.cond(control.settle, heard, lambda so_far: (silent, so_far), lanes.sums)
    return dataclasses.replace(sums, heard=said), Lanes(chains, lanes.control, so_far)


def _visit(
    setup: Setup,
    density: Density,
    control: Control,
    group: Group,
    weight: Any,
    params: Params,
    frame: Frame,
    key: Any,
    chains: Chains,
) -> tuple[Simulated, Chains, Drawn]:
    """One group's share of `simulate`, in one replicate."""
    layout, q = setup.layout, density.n_effects
    coefficients = layout.centring.coefficients(group)
    mean = layout.centring.mean(params.beta, coefficients)
    begin = eqx.tree_at(
        lambda c: (c.xi, c.centre),
        chains,
        (jnp.where(control.begin, mean, chains.xi), jnp.where(control.begin, mean, chains.centre)),
    )

    def searched(begin):
        found = look(density, params, frame, group, mean, begin.centre)
        return eqx.tree_at(lambda c: (c.centre, c.factor, c.inverse, c.found), begin, found)

    begin = jax.lax.cond(control.refresh, searched, lambda begin: begin, begin)

    def log_density(z):
        f = density.predict(params, z, group)
        value = density.error.log_density(f, f, params.error, group)
        kept = of_error(layout, density, params, f, group)
        return value - 0.5 * jnp.sum(z**2) - q * HALF_LOG_2PI, kept

    own = jax.random.fold_in(key, group.key)
    empty = (jnp.zeros((layout.strata,), mean.dtype),) * 2
    chains, draws = setup.sampler.draw(log_density, frame, begin, mean, empty, own, control.tune)
    # Which group was lost first is told by the last iteration whose parameters were numbers.
    broken = jnp.any(jnp.isnan(params.pack()))
    chains = eqx.tree_at(lambda c: c.alive, chains, jnp.where(broken, begin.alive, chains.alive))
    z, (counts, squares) = draws.z, draws.kept
    b = times(z, frame.factor.T)
    stats = draws.mean(jax.vmap(lambda b, n, s: of_effects(coefficients, b + mean, n, s))(b, counts, squares))
    slope, hessian = jnp.zeros((0,)), jnp.zeros((0, 0))
    slopes = jnp.zeros((z.shape[0], 0))
    if layout.scored:
        entries = params.pack()[np.array(layout.bent, int)]

        def outcome(entries, z):
            return outcome_density(layout, density, params, z, group, entries)

        slopes = jax.vmap(lambda z: jax.grad(outcome)(entries, z)[: len(layout.scored)])(z)
        bends = jax.vmap(lambda z: jax.hessian(outcome)(entries, z))(z)
        slope, hessian = draws.mean(slopes), -draws.mean(bends)
    share = counted(group, weight)
    stats, slope, hessian = weighted(share, (stats, slope, hessian))
    there = (share != 0).astype(mean.dtype)
    return Simulated(stats, slope, hessian, None, draws.accepted * there, there), chains, Drawn(draws, slopes)


def loop(problem: Problem, shared: Any, lanes: Lanes, total: Any) -> tuple[tuple[Running, Trace], Lanes]:
    """Iterations one after the other in one program.

    **Arguments:** `shared`: the Setup, the Running (replicates, ...), keys, Controls with a leading axis of BLOCK, and
    how many of these to run; `total` adds up sums over devices.
    **Returns:** the Running and the Trace (BLOCK, replicates, ...), rows beyond those run are zero; the chains.
    """
    setup, running, keys, controls, count = shared
    density = problem.density

    def one(running, lanes, control):
        sums, lanes = simulate(problem, (setup, running.packed, keys, control), lanes)
        sums = total(sums)
        return move(density, setup, running, sums, control), sums, lanes

    def at(k):
        return jax.tree.map(lambda leaf: leaf[k], controls)

    # Written down rather than asked of `one`, which would trace the model twice.
    replicates = running.packed.shape[0]

    def room(*shape):
        return jnp.zeros((BLOCK, replicates, *shape), running.packed.dtype)

    like = jax.tree.map(lambda leaf: room(*leaf.shape[1:]), (running.packed, running.statistics, running.hessian))
    scored, updates = len(setup.layout.scored), len(setup.sampler.labels)
    heard = Heard.silent(setup.layout, (BLOCK, replicates), running.packed.dtype)
    sums = Simulated(like[1], room(scored), like[2], heard, room(updates), room())
    blank = Trace(like[0], sums)

    def body(k, state):
        running, lanes, trace = state
        running, sums, lanes = one(running, lanes, at(k))
        trace = jax.tree.map(lambda rows, row: rows.at[k].set(row), trace, Trace(running.packed, sums))
        return running, lanes, trace

    running, lanes, trace = jax.lax.fori_loop(0, count, body, (running, lanes, blank))
    return (running, trace), lanes


def move(density: Density, setup: Setup, running: Running, sums: Simulated, control: Control) -> Running:
    """The M-step of every replicate: part of `loop`, and a program of its own for groups that are not in one piece."""

    def one(running, sums):
        return maximise(setup.layout, density, setup.template, running, sums, control)

    return jax.vmap(one)(running, sums)
