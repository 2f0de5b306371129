"""Jobs: the minimisations of a batch, their outcomes, and sentences on these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.marginal.settings import CRITERIA


def empty_overlay(problem: Problem) -> Problem:
    """A Problem with None for every leaf, into which jobs put the leaves that differ between them."""
    return jax.tree.map(lambda leaf: None, problem)


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Minimisations of one problem, whose data or weights may differ between jobs.

    **Fields:** `x` (jobs, n), starting points; `free` (jobs, n) bool, entries that are not held fixed;
    `overlay(indices)`: a Problem whose leaves, with a leading axis of jobs, replace those of the common problem, None
    where the common leaf is used (see `empty_overlay`): weights, responses or whatever differs, made when a slot takes
    the job; `modes` (groups, random), where the first mode searches of all jobs start; `inverse_hessians` (k, n, n),
    initial inverse Hessians, None for those computed from the groups' scores; `hessian_index` (jobs,), the initial
    inverse Hessian of each job, the first where None.
    """

    x: np.ndarray
    free: np.ndarray
    overlay: Callable[[np.ndarray], Problem]
    modes: np.ndarray
    inverse_hessians: np.ndarray | None = None
    hessian_index: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Outcomes of jobs, a row per job; NaN and zero for a job that was not run.

    **Fields:** `x` (jobs, n); `value`, the objective (minus log-likelihood and log prior); `log_likelihood`, with the
    weights of the job; `full_log_likelihood`, with the weights of the common problem at the same point and modes, NaN
    where the mode of a group with weight was not found; `decrement`, the predicted gain of a further step
    (log-likelihood units); `iterations`, `evaluations`; `n_failed_modes`, the number of groups with weight in the job
    whose mode was not found; `done` (jobs,) bool: the job has ended; `identifiable` (jobs,) bool: false where the data
    of the job were found not to determine every parameter; `interrupted` by Ctrl-C.
    """

    x: np.ndarray
    value: np.ndarray
    log_likelihood: np.ndarray
    full_log_likelihood: np.ndarray
    decrement: np.ndarray
    iterations: np.ndarray
    evaluations: np.ndarray
    n_failed_modes: np.ndarray
    done: np.ndarray
    identifiable: np.ndarray
    interrupted: bool = False

    def rows(self, which: np.ndarray) -> Outcomes:
        """The outcomes of the jobs `which` (indices)."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            fields[field.name] = value[which] if isinstance(value, np.ndarray) else value
        return Outcomes(**fields)

    def replaced(self, which: np.ndarray, other: Outcomes) -> Outcomes:
        """These outcomes with the rows of `other` in the places `which` (indices)."""
        fields: dict[str, Any] = {"interrupted": self.interrupted or other.interrupted}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                fields[field.name] = value.copy()
                fields[field.name][which] = getattr(other, field.name)
        return Outcomes(**fields)


def blank_outcomes(n_jobs: int, n: int) -> Outcomes:
    """Outcomes of `n_jobs` jobs with n parameters, none of them run."""

    def nan(*shape: int) -> np.ndarray:
        return np.full((n_jobs, *shape), np.nan)

    def zero(dtype: Any = int) -> np.ndarray:
        return np.zeros(n_jobs, dtype)

    return Outcomes(nan(n), nan(), nan(), nan(), nan(), zero(), zero(), zero(), zero(bool), ~zero(bool))


# ---- outcomes as sentences

# Outcome of a refit whose data do not determine every parameter (see `identifiability.identifiable`).
NO_INFORMATION = "without information on some parameter"


def reached_maximum(out: Outcomes) -> np.ndarray:
    """True (jobs,) for jobs that reached a maximum: the objective is finite, the predicted gain of a further step below
    `CRITERIA.max_gain`, the mode of every group found, and every parameter identifiable."""
    return (
        out.identifiable
        & out.done
        & np.isfinite(out.value)
        & (out.decrement < CRITERIA.max_gain)
        & (out.n_failed_modes == 0)
    )


def outcome_sentences(out: Outcomes) -> np.ndarray:
    """The outcome of each job (jobs,) in words: "converged", or what failed."""
    finite = np.isfinite(out.value)
    near = finite & (out.decrement < CRITERIA.max_gain)
    return np.select(
        [~out.done, ~finite, ~out.identifiable, near & (out.n_failed_modes > 0), near],
        ["not run", "not finite", NO_INFORMATION, "a mode not found", "converged"],
        "not converged",
    ).astype(object)


def failures(status: Any, what: str) -> list[str]:
    """Sentences on jobs that failed or were not run, an empty list where all converged.

    **Arguments:** `status` (jobs,), from `outcome_sentences`; `what`: the jobs in the plural, such as "replicates".
    """
    status = np.asarray(status)
    failed = [
        word for word in ("not converged", "not finite", NO_INFORMATION, "a mode not found") if (status == word).any()
    ]
    sentences = []
    missing = int(np.sum(status == "not run"))
    if missing:
        sentences.append(f"Interrupted: {len(status) - missing} of {len(status)} {what} were run.")
    if failed:
        parts = ", ".join(f"{int(np.sum(status == word))} {word}" for word in failed)
        count = sum(int(np.sum(status == word)) for word in failed)
        sentences.append(
            f"{count} of {len(status) - missing} {what} failed ({parts}); their values are NaN and enter no statistic."
        )
    return sentences
