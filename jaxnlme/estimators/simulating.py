"""The compiled part of SAEM: an iteration's simulation over all groups, and loops of whole iterations."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.maximising import Control, Running, Simulated, maximise
from jaxnlme.estimators.statistics import (
    Layout,
    Scores,
    of_effects,
    of_error,
    outcome_density,
    score,
    scores_at,
    weighted,
)
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import times
from jaxnlme.sampling.chains import AbstractSampler, Chains, Frame, frame_at, look
from jaxnlme.sampling.controls import controls as stein

# Iterations that one call of the compiled loop may run, and keeps the trace of.
BLOCK = 50


class Setup(eqx.Module):
    """What all iterations of a run have in common: `layout`, `sampler`, and the `template` of Params."""

    layout: Layout
    sampler: AbstractSampler
    template: Params


class Sums(eqx.Module):
    """What settling iterations sum up for a group, means over its draws: `score` (replicates, packed), the complete
    score; `first` (replicates, random) and `second` (replicates, random, random) of b and b b'; of the control variates
    `functions` (replicates, functions), their products `squares` (replicates, functions, functions) and those with the
    scores `crossed` (replicates, packed, functions)."""

    score: Any
    first: Any
    second: Any
    functions: Any
    squares: Any
    crossed: Any


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
    frames = jax.vmap(lambda p: frame_at(density, p))(params)
    tools = jax.vmap(lambda p: scores_at(density, p))(params)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, control.iteration))(keys)

    def one(group, weight, lanes):
        def replicate(params, frame, tool, key, lanes):
            return _visit(setup, density, control, group, weight, params, frame, tool, key, lanes)

        return jax.vmap(replicate)(params, frames, tools, keys, lanes)

    shares, lanes = problem.map(one, weights, lanes)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), shares), lanes


def _visit(
    setup: Setup,
    density: Density,
    control: Control,
    group: Group,
    weight: Any,
    params: Params,
    frame: Frame,
    tool: Scores,
    key: Any,
    lanes: Lanes,
) -> tuple[Simulated, Lanes]:
    """One group's share of `simulate`, in one replicate."""
    layout, q = setup.layout, density.n_effects
    chains = lanes.chains
    coefficients = layout.centring.coefficients(group)
    mean = layout.centring.mean(params.beta, coefficients)
    first = control.iteration == 0
    begin = eqx.tree_at(
        lambda c: (c.xi, c.centre),
        chains,
        (jnp.where(first, mean, chains.xi), jnp.where(first, mean, chains.centre)),
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

    def mean_of(values):
        """The mean over draws whose density is finite; NaN where none is."""

        def weigh(v):
            shares = draws.shares.reshape((-1,) + (1,) * (v.ndim - 1))
            return jnp.sum(shares * jnp.where(shares != 0, v, 0.0), axis=0)

        return jax.tree.map(weigh, values)

    stats = mean_of(jax.vmap(lambda b, n, s: of_effects(coefficients, b + mean, n, s))(b, counts, squares))
    slope, hessian = jnp.zeros((0,)), jnp.zeros((0, 0))
    slopes = jnp.zeros((z.shape[0], 0))
    if layout.scored:
        entries = params.pack()[np.array(layout.bent, int)]

        def outcome(entries, z):
            return outcome_density(density, params, z, group, layout.bent, entries)

        slopes = jax.vmap(lambda z: jax.grad(outcome)(entries, z)[: len(layout.scored)])(z)
        bends = jax.vmap(lambda z: jax.hessian(outcome)(entries, z))(z)
        slope, hessian = mean_of(slopes), -mean_of(bends)

    def settled(lanes):
        scores = jax.vmap(lambda b, n, s: score(layout, tool, params, coefficients, b, n, s))(b, counts, squares)
        if layout.scored:
            scores = scores.at[:, np.array(layout.scored, int)].set(slopes)
        slopes_z = jax.vmap(jax.grad(lambda z: log_density(z)[0]))(z)
        functions = jax.vmap(stein)(z, slopes_z)
        average, outer = mean_of(scores), mean_of(scores[:, :, None] * scores[:, None, :])
        known = mean_of(functions)
        seen = Sums(
            average,
            mean_of(b),
            mean_of(b[:, :, None] * b[:, None, :]),
            known,
            mean_of(functions[:, :, None] * functions[:, None, :]),
            mean_of(scores[:, :, None] * functions[:, None, :]),
        )
        steady = average - lanes.control @ known
        return average, steady, outer, jax.tree.map(jnp.add, lanes.sums, seen)

    def passed(lanes):
        n = layout.n
        dtype = mean.dtype
        return jnp.zeros((n,), dtype), jnp.zeros((n,), dtype), jnp.zeros((n, n), dtype), lanes.sums

    average, steady, outer, grown = jax.lax.cond(control.settle, settled, passed, lanes)
    # A group without a response says nothing: its draws would only add noise.
    counted = jnp.where(jnp.any(group.x.observed), weight, 0.0)
    stats, slope, hessian, average, steady, outer = weighted(counted, (stats, slope, hessian, average, steady, outer))
    there = (counted != 0).astype(mean.dtype)
    sums = Simulated(stats, slope, hessian, average, steady, outer, draws.accepted * there, there)
    return sums, Lanes(chains, lanes.control, grown)


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
    replicates, n = running.packed.shape

    def room(*shape):
        return jnp.zeros((BLOCK, replicates, *shape), running.packed.dtype)

    like = jax.tree.map(lambda leaf: room(*leaf.shape[1:]), (running.packed, running.statistics, running.hessian))
    scored, updates = len(setup.layout.scored), len(setup.sampler.labels)
    sums = Simulated(like[1], room(scored), like[2], room(n), room(n), room(n, n), room(updates), room())
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
