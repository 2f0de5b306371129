"""Chains in progress: their state, and blocks of NUTS steps as one compiled program for warm-up and draws alike.

Every step is one of blackjax's NUTS kernel, then one of its window adaptation (dual averaging of the step size,
Welford's covariance of the positions), as the schedule of the step says.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.estimators.bayes.method import NUTS
from jaxnlme.estimators.bayes.objective import Target
from jaxnlme.estimators.bayes.settings import RUN
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled

# Stages of a step: what adapts after it; the last is no step, and fills a block.
FAST, SLOW, SAMPLING, NO_STEP = 0, 1, 2, 3


class ChainState(NamedTuple):
    """State of one chain (with a leading axis: of all).

    **Fields:** `position` (n,), with its log density and gradient, as blackjax's HMCState; `step_size_state`,
    `mass_state`: of the adaptation; `step_size`; `key`.
    """

    hmc: Any
    step_size_state: Any
    mass_state: Any
    step_size: Any
    key: Any


class StepRecord(NamedTuple):
    """Record of a step: `position` (n,), `log_density`, `divergent`, `acceptance`, `energy`, `depth` (doublings) and
    `steps` of the trajectory."""

    position: Any
    log_density: Any
    divergent: Any
    acceptance: Any
    energy: Any
    depth: Any
    steps: Any


@functools.cache
def _adaptation(diagonal: bool, target_acceptance: float) -> tuple[Any, Any]:
    from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    return dual_averaging_adaptation(target_acceptance), mass_matrix_adaptation(diagonal)


@functools.cache
def _block(diagonal: bool, target_acceptance: float, max_depth: int) -> Callable[..., tuple[ChainState, StepRecord]]:
    """`block(target, states, stages, window_ends)`: steps of all chains, one for each entry of `stages` (steps,)."""
    from blackjax.mcmc.nuts import build_kernel

    (start_size, update_size, mean_size), (_, update_mass, new_mass) = _adaptation(diagonal, target_acceptance)
    kernel = build_kernel()

    def adapted(state: ChainState, acceptance: Any, stage: Any, window_end: Any) -> ChainState:
        """The state after one step of the adaptation."""
        size_state = update_size(state.step_size_state, acceptance)
        mass_state = jax.lax.cond(
            stage == SLOW, lambda mass: update_mass(mass, state.hmc.position), lambda mass: mass, state.mass_state
        )
        size_state, mass_state = jax.lax.cond(
            window_end,
            lambda size, mass: (start_size(mean_size(size)), new_mass(mass)),
            lambda size, mass: (size, mass),
            size_state, mass_state,
        )  # fmt: skip
        size = jnp.exp(size_state.log_step_size)
        return state._replace(step_size_state=size_state, mass_state=mass_state, step_size=size)

    def step(target: Target, state: ChainState, stage: Any, window_end: Any) -> tuple[ChainState, StepRecord]:
        key, own = jax.random.split(state.key)
        hmc, info = kernel(
            own, state.hmc, target.log_density, state.step_size, state.mass_state.inverse_mass_matrix, max_depth
        )
        state = state._replace(hmc=hmc, key=key)
        acceptance = jnp.where(jnp.isfinite(info.acceptance_rate), info.acceptance_rate, 0.0)
        state = jax.lax.cond(
            stage == SAMPLING, lambda state: state, lambda state: adapted(state, acceptance, stage, window_end), state
        )
        record = StepRecord(
            hmc.position, hmc.logdensity, info.is_divergent, acceptance, info.energy,
            info.num_trajectory_expansions, info.num_integration_steps,
        )  # fmt: skip
        return state, record

    def block(
        target: Target, states: ChainState, stages: Any, window_ends: Any
    ) -> tuple[ChainState, StepRecord]:  # fmt: skip
        def all_chains(states: ChainState, entry: tuple[Any, Any]) -> tuple[ChainState, StepRecord]:
            def move(states: ChainState) -> tuple[ChainState, StepRecord]:
                return jax.vmap(lambda state: step(target, state, *entry))(states)

            blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(move, states)[1])
            return jax.lax.cond(entry[0] == NO_STEP, lambda states: (states, blank), move, states)

        return jax.lax.scan(all_chains, states, (stages, window_ends))

    return block


def _first_states(target: Target, positions: Any) -> tuple[Any, Any]:
    """Log densities (chains,) and gradients (chains, n) at `positions` (chains, n)."""
    from blackjax.mcmc.hmc import init

    states = jax.vmap(lambda position: init(position, target.log_density))(positions)
    return states.logdensity, states.logdensity_grad


class ChainRun:
    """Chains of NUTS in progress.

    **Arguments:** `target`, on the device; `estimator`.
    **Fields:** `states` of the chains; `records`: blocks of StepRecords of the draws, numpy (steps, chains, ...).
    """

    def __init__(self, target: Target, estimator: NUTS):
        self.target, self.estimator = target, estimator
        self.records: list[StepRecord] = []
        self.warmup_divergent = 0
        rows = target.problem.n_rows * estimator.chains
        self._once = rows
        program = _block(estimator.diagonal, estimator.target_acceptance, estimator.max_tree_depth)
        self._program = compiled(program, max(rows, RUN.least_rows), often=True)
        self.states = self._start()

    def _start(self) -> ChainState:
        """States at dispersed positions with a finite density.

        **Raises:** OptionError where none is found.
        """
        from blackjax.mcmc.hmc import HMCState

        estimator, n = self.estimator, self.target.scaling.size
        random = np.random.default_rng(estimator.seed)
        program = compiled(_first_states, self._once, once=True)
        positions = np.zeros((estimator.chains, n))
        waiting, width = np.ones(estimator.chains, bool), RUN.dispersion
        for _ in range(RUN.start_attempts):
            positions[waiting] = width * random.standard_normal((int(waiting.sum()), n))
            values, slopes = (np.asarray(part) for part in program(self.target, jnp.asarray(positions)))
            waiting = ~(np.isfinite(values) & np.isfinite(slopes).all(axis=1))
            if not waiting.any():
                break
            width *= 2.0 / 3.0
        else:
            raise OptionError(
                f"jn.NUTS: no initial position with a finite posterior density was found around the start for "
                f"{int(waiting.sum())} of {estimator.chains} chains. Begin at a fit, ['focei', jn.NUTS(...)], or give "
                "other starting values, or priors whose support has the start."
            )
        (start_size, _, _), (start_mass, _, _) = _adaptation(estimator.diagonal, estimator.target_acceptance)
        keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(estimator.seed), k))(jnp.arange(estimator.chains))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            repeated = jax.vmap(
                lambda position: (start_size(jnp.asarray(RUN.initial_step)), start_mass(position.shape[0]))
            )(jnp.asarray(positions))
        hmc: Any = HMCState(*[jnp.asarray(part) for part in (positions, values, slopes)])  # pyright: ignore
        return _plain(ChainState(hmc, *repeated, np.full(estimator.chains, RUN.initial_step), keys))

    def warm_up(self, schedule: list[tuple[int, bool]]) -> StepRecord:
        """One block of warm-up steps, each a pair of its stage and whether its window ends there."""
        record = self._advance([stage for stage, _ in schedule], [end for _, end in schedule])
        self.warmup_divergent += int(record.divergent.sum())
        return record

    def end_warm_up(self) -> None:
        """Fix the step sizes at their averages."""
        (_, _, mean_size), _ = _adaptation(self.estimator.diagonal, self.estimator.target_acceptance)
        if self.estimator.warmup:
            size = jax.vmap(mean_size)(self.states.step_size_state)
            self.states = _plain(self.states._replace(step_size=size))

    def draw(self, n: int) -> StepRecord:
        """`n` draws of every chain, at most a block of them."""
        record = self._advance([SAMPLING] * n, [False] * n)
        self.records.append(record)
        return record

    def _advance(self, stages: list[int], ends: list[bool]) -> StepRecord:
        n, missing = len(stages), RUN.block - len(stages)
        schedule = on_device((np.array(stages + [NO_STEP] * missing), np.array(ends + [False] * missing)))
        states, record = self._program(self.target, self.states, *schedule)
        out = StepRecord(*(np.asarray(part)[:n] for part in record))
        self.states = _plain(states)
        return out

    def draws(self) -> StepRecord:
        """All draws, (chains, draws, ...)."""
        if not self.records:
            empty = np.zeros((self.estimator.chains, 0))
            return StepRecord(np.zeros((*empty.shape, self.target.scaling.size)), *([empty] * 6))
        return StepRecord(*(np.moveaxis(np.concatenate(parts), 0, 1) for parts in zip(*self.records, strict=True)))


def _plain(states: ChainState) -> ChainState:
    """`states` with arrays of one kind, whatever made them, so that the program of a block is compiled once."""
    rest = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), states._replace(key=()))
    return rest._replace(key=states.key)
