"""Blocks of iterations of a stochastic fit, as one compiled program or step by step; random keys of its replicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.estimators.em.e_step import BLOCK, IterationTrace, iterate_block, maximisation_step, simulation_step
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.settings import COMPUTING
from jaxnlme.numerics.compiling import compiled

if TYPE_CHECKING:
    from jaxnlme.estimators.em.run import Run


def run_block(run: Run, schedules: Schedule, count: int) -> IterationTrace:
    """Run `count` iterations of a run, in one compiled program where the groups are in one chunk, step by step
    otherwise; `schedules`, leaves (count,)."""
    passes = run.replicates * run.estimator.evaluations(run.placed.n_groups_all)
    passes = -(-passes // COMPUTING.whitened_divisor) if run.layout.whitened else passes
    if run.placed.in_one_chunk:
        full = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], BLOCK - count, 0)]), schedules)
        shared = (run.context, run.em_state, run.keys, full, np.asarray(count))
        (run.em_state, trace), chain_states = run.placed.loop(
            iterate_block, shared, run.chain_states[0], passes, run.prepare
        )
        run.chain_states = [chain_states]
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], trace)
    traces = []
    for k in range(count):
        schedule = jax.tree.map(lambda leaf, k=k: leaf[k], schedules)
        sums, run.chain_states = run.placed.run(
            simulation_step,
            (run.context, run.em_state.packed, run.keys, schedule),
            run.chain_states,
            passes=passes,
        )
        sums = jax.tree.map(np.asarray, sums)
        run.em_state = compiled(maximisation_step, 0)(run.placed.density, run.context, run.em_state, sums, schedule)
        run.em_state = jax.tree.map(np.asarray, run.em_state)
        traces.append(IterationTrace(run.em_state.packed, sums))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *traces)


def replicate_keys(seed: int | tuple[int, ...], replicates: int) -> Any:
    """JAX keys (replicates,) derived from `seed`, an integer or the numbers of a key."""
    if isinstance(seed, int):
        return compiled(_keys_of_seed, 0)(np.asarray(seed), np.arange(replicates))
    return compiled(_keys_of_data, 0)(np.asarray(seed, np.uint32), np.arange(replicates))


def _keys_of_seed(seed: Any, numbers: Any) -> Any:
    return jax.vmap(lambda k: jax.random.fold_in(jax.random.key(seed), k))(numbers)


def _keys_of_data(data: Any, numbers: Any) -> Any:
    return jax.vmap(lambda k: jax.random.fold_in(jax.random.wrap_key_data(data), k))(numbers)
