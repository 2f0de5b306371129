"""Stretches of iterations of a stochastic fit at parameters that stand still, and the phases that are added."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.em.e_step import IterationTrace
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.saem import gains, tuning

EXTENSION = (50, 100)
# An extension that goes on from what is remembered has steps as if it had begun so many iterations ago.
AGO = 10


def iterations_left(run: Run) -> int:
    """Iterations that may still be made."""
    return max(int(run.estimator.max_iterations) - run.steps, 0)


def fixed_parameter_schedule(run: Run, count: int, **changes: Any) -> Schedule:
    """Controls of the next `count` iterations of a run, at fixed parameters."""
    base = {"gain": 0.0, "update": False, "annealing": 0.0, "refresh": False, "tune": 0.0, "sum_scores": False}
    base |= {"begin": False} | changes
    return Schedule(
        iteration=run.iteration + np.arange(count),
        **{name: np.broadcast_to(np.asarray(value), (count,)).copy() for name, value in base.items()},
    )


def equilibrate(run: Run, count: int, anew: bool = True, begin: bool = False) -> None:
    """Lets the chains go on at parameters that stand still; `anew`: find modes and tune scales for them first; `begin`:
    put them at the mean of their population before."""
    # Scales of chains that begin are tuned as at a run's beginning.
    since = np.arange(count) + (0 if begin else run.iteration)
    own = fixed_parameter_schedule(run, count, tune=tuning(since) if anew else 0.0)
    own.refresh[0], own.begin[0] = anew, begin
    run.iterate(own, "settling")


def sample_scores(run: Run, count: int) -> list[IterationTrace]:
    """Settling iterations at the parameters where the run stands."""
    return run.iterate(fixed_parameter_schedule(run, count, sum_scores=True), "settling", keep_traces=True)


def add_averaging(run: Run, afresh: bool) -> None:
    """Further averaging: with full steps first where it begins `afresh`, else from what the run remembers, which steps
    of single draws would throw away."""
    total = sum(EXTENSION)
    k = np.arange(total)
    gain = gains(k, EXTENSION[0] if afresh else -AGO)
    own = fixed_parameter_schedule(run, total, update=True, gain=gain, tune=tuning(run.iteration + k))
    own.refresh[:] = k % 10 == 0
    run.iterate(own, "extension")
    run.outer_state.extensions += 1
