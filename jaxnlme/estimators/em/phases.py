"""Segments of iterations that the outer algorithm of a stochastic fit adds after the scheduled phases: equilibration
and score sampling at fixed parameters, and added averaging."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.em.e_step import IterationTrace
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.run import ADDED_AVERAGING, FIXED_PARAMETERS, Run
from jaxnlme.estimators.em.saem import gains, tuning_gains
from jaxnlme.estimators.em.settings import SCHEDULE


def iterations_remaining(run: Run) -> int:
    """Number of iterations that `max_iterations` still allows (burn-in is not counted)."""
    return max(int(run.estimator.max_iterations) - run.iterations_after_burn_in, 0)


def fixed_parameter_schedule(run: Run, count: int, **changes: Any) -> Schedule:
    """Schedule of the next `count` iterations of a run at fixed parameters.

    **Arguments:** `changes`: fields of `Schedule` with other values than "nothing is updated": scalars or (count,).
    **Returns:** a Schedule of numpy arrays (count,).
    """
    base = {
        "gain": 0.0,
        "update": False,
        "annealing": 0.0,
        "search_modes": False,
        "tuning_gain": 0.0,
        "sum_scores": False,
    }
    base |= {"reset_chains": False, "search_from_mean": False} | changes
    return Schedule(
        iteration=run.iteration + np.arange(count),
        **{name: np.broadcast_to(np.asarray(value), (count,)).copy() for name, value in base.items()},
    )


def equilibrate(run: Run, count: int, adapt: bool = True, restart: bool = False) -> None:
    """Run the chains for `count` iterations at fixed parameters, without summing scores.

    **Arguments:** `adapt`: search the conditional modes first and tune the scales of the kernels; `restart`: put the
    chains at the mean of their population first.
    **Raises:** NonFiniteParameters as `Run.iterate`.
    """
    # The kernels of restarted chains are tuned as fast as at the beginning of a run.
    tuning_clock = np.arange(count) + (0 if restart else run.iteration)
    schedule = fixed_parameter_schedule(run, count, tuning_gain=tuning_gains(tuning_clock) if adapt else 0.0)
    schedule.search_modes[0], schedule.reset_chains[0] = adapt, restart
    schedule.search_from_mean[0] = adapt
    run.iterate(schedule, FIXED_PARAMETERS)


def sample_scores(run: Run, count: int) -> list[IterationTrace]:
    """Run `count` iterations at the current parameters that sum complete scores; returns their traces, block by
    block."""
    return run.iterate(fixed_parameter_schedule(run, count, sum_scores=True), FIXED_PARAMETERS, keep_traces=True)


def add_averaging(run: Run, full_steps_first: bool) -> None:
    """Add a phase of stochastic approximation (`SCHEDULE.added_averaging`) after the scheduled ones.

    **Arguments:** `full_steps_first`: begin with full steps, as a new run does; otherwise all gains are below one and
    continue from the averaged statistics.
    **Raises:** NonFiniteParameters as `Run.iterate`.
    """
    total = sum(SCHEDULE.added_averaging)
    k = np.arange(total)
    gain = gains(k, SCHEDULE.added_averaging[0] if full_steps_first else -SCHEDULE.continued_gain_offset)
    schedule = fixed_parameter_schedule(run, total, update=True, gain=gain, tuning_gain=tuning_gains(run.iteration + k))
    schedule.search_modes[:] = k % SCHEDULE.mode_search_interval == 0
    schedule.search_from_mean[:] = k % SCHEDULE.search_from_mean_interval == 0
    run.iterate(schedule, ADDED_AVERAGING)
    run.outer_state.averaging_phases += 1
