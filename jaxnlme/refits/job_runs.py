"""Runs of jobs in the vectorised minimiser, and reruns of some of them that replace what they improve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.model.params import Params
from jaxnlme.refits.jobs import Jobs, Outcomes, blank_outcomes
from jaxnlme.refits.vectorised_minimiser import run_jobs


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """Options of `run_jobs` that all runs of the same jobs share; see there."""

    width: int
    expected: int
    evaluations: int
    name: str


class JobRuns:
    """Jobs, and the best outcome of each so far.

    `out`: the Outcomes; `free` (jobs, n) bool: the entries that were free in the run whose outcome is held.

    **Arguments:** `problem`, `template`, `estimator`, `options`: as of `run_jobs`; `overlay`, `inverse_hessians`,
    `hessian_index`: as in `Jobs`; `free` (jobs, n) bool in the first run.
    """

    def __init__(
        self,
        problem: Problem,
        template: Params,
        estimator: MaximumLikelihood,
        options: BatchOptions,
        overlay: Callable[[np.ndarray], Problem],
        free: np.ndarray,
        inverse_hessians: np.ndarray | None,
        hessian_index: np.ndarray | None,
    ):
        self.problem, self.template, self.estimator, self.options = problem, template, estimator, options
        self.overlay, self.free = overlay, free.copy()
        self.inverse_hessians, self.hessian_index = inverse_hessians, hessian_index
        self.out = blank_outcomes(*free.shape)
        self.progress: bool | None = False

    def start(self, x: np.ndarray, modes: np.ndarray, progress: bool | None) -> None:
        """Minimise every job from `x` (jobs, n), with mode searches from `modes` (groups, random); `progress` of this
        and later runs."""
        self.progress = progress
        self.out = self._run(np.arange(len(x)), x, self.free, modes, self.options)

    def rerun(
        self, which: np.ndarray, x: np.ndarray, free: np.ndarray, modes: np.ndarray, least_gain: float
    ) -> np.ndarray:
        """Minimise the jobs `which` (k,) again, and put in place the outcomes that gained more than `least_gain`
        (log-likelihood units).

        **Arguments:** `x` (k, n) and `free` (k, n) bool of these jobs; `modes` (groups, random): where their mode
        searches start.
        **Returns:** the indices of the jobs that gained, none after an interruption.
        """
        if not len(which) or self.out.interrupted:
            return which[:0]
        again = dataclasses.replace(self.options, name=f"{self.options.name}, from other points")
        new = self._run(which, x, free, modes, again)
        rows = np.flatnonzero(new.done & (new.value < self.out.value[which] - least_gain))
        self.free[which[rows]] = free[rows]
        self.out = self.out.replaced(which[rows], new.rows(rows))
        return which[rows]

    def _run(
        self, which: np.ndarray, x: np.ndarray, free: np.ndarray, modes: np.ndarray, options: BatchOptions
    ) -> Outcomes:
        """Outcomes of the jobs `which` (k,) from `x` (k, n)."""
        hessian_index = None if self.hessian_index is None else self.hessian_index[which]
        overlay = self.overlay
        jobs = Jobs(x, free, lambda rows: overlay(which[rows]), modes, self.inverse_hessians, hessian_index)
        return run_jobs(
            self.problem, self.template, self.estimator, jobs, progress=self.progress, **dataclasses.asdict(options)
        )
