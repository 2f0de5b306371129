"""Jobs: the minimisations of a batch, and what came of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.marginal.convergence import CONVERGED


def nothing(problem: Problem) -> Problem:
    """The problem with every leaf left out: where jobs put the leaves that are their own."""
    return jax.tree.map(lambda leaf: None, problem)


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Minimisations of one problem.

    `x` (jobs, n), starts; `free` (jobs, n) bool, entries that move; `own(indices)`: a Problem whose leaves, with a
    leading axis of jobs, replace those of the common one, None elsewhere (`nothing` makes one without any): weights,
    responses or whatever differs, made when a lane takes the job; `modes` (groups, random), where all first searches
    start; `metrics` (k, n, n), inverse Hessians to begin with, None for those made of the groups' scores; `metric`
    (jobs,), which of them each job takes, the first where None.
    """

    x: np.ndarray
    free: np.ndarray
    own: Callable[[np.ndarray], Problem]
    modes: np.ndarray
    metrics: np.ndarray | None = None
    metric: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Where jobs ended, a row each; NaN and zero where a job was not run.

    `x` (jobs, n); `value`, the objective (minus log-likelihood and log prior); `log_likelihood`, weighted by the job's
    own weights; `common`, the log-likelihood by the weights of the common problem at the same point and modes, NaN
    where a group's mode that counts there was not found; `decrement`, the predicted gain of a further step;
    `iterations`, `evaluations`; `lost`, the number of groups that count and whose mode was not found; `done` (jobs,)
    bool: it was run to its end; `identifiable` (jobs,) bool: its data tell every parameter, as far as somebody looked;
    `interrupted` by Ctrl-C.
    """

    x: np.ndarray
    value: np.ndarray
    log_likelihood: np.ndarray
    common: np.ndarray
    decrement: np.ndarray
    iterations: np.ndarray
    evaluations: np.ndarray
    lost: np.ndarray
    done: np.ndarray
    identifiable: np.ndarray
    interrupted: bool = False

    def rows(self, which: np.ndarray) -> Outcomes:
        """The outcomes of the jobs `which` (indices)."""
        new: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            new[field.name] = value[which] if isinstance(value, np.ndarray) else value
        return Outcomes(**new)

    def replaced(self, which: np.ndarray, other: Outcomes) -> Outcomes:
        """These outcomes with the rows `which` (indices) of `other` (as many rows) in their place."""
        new: dict[str, Any] = {"interrupted": self.interrupted or other.interrupted}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                new[field.name] = value.copy()
                new[field.name][which] = getattr(other, field.name)
        return Outcomes(**new)


def blank_outcomes(n_jobs: int, n: int) -> Outcomes:
    def nan(*shape: int) -> np.ndarray:
        return np.full((n_jobs, *shape), np.nan)

    def zero(dtype: Any = int) -> np.ndarray:
        return np.zeros(n_jobs, dtype)

    return Outcomes(nan(n), nan(), nan(), nan(), nan(), zero(), zero(), zero(), zero(bool), ~zero(bool))


# ---- how jobs ended, in words

# How a refit ended whose groups leave some parameter anywhere (see `identifiable`).
NOTHING_SAID = "without information on some parameter"


def reached_maximum(out: Outcomes) -> np.ndarray:
    """Which jobs (jobs,) came to a maximum: finite, a predicted gain below 1e-6, every group's mode found, data that
    tell every parameter."""
    return out.identifiable & out.done & np.isfinite(out.value) & (out.decrement < CONVERGED) & (out.lost == 0)


def outcome_sentences(out: Outcomes) -> np.ndarray:
    """How each job (jobs,) ended, in words."""
    finite = np.isfinite(out.value)
    near = finite & (out.decrement < CONVERGED)
    return np.select(
        [~out.done, ~finite, ~out.identifiable, near & (out.lost > 0), near],
        ["not run", "not finite", NOTHING_SAID, "a mode not found", "converged"],
        "not converged",
    ).astype(object)


def failures(status: Any, what: str) -> list[str]:
    """Sentences on jobs that did not end, none where all did; `status` (jobs,) as `words` gives them."""
    status = np.asarray(status)
    bad = [word for word in ("not converged", "not finite", NOTHING_SAID, "a mode not found") if (status == word).any()]
    out = []
    missing = int(np.sum(status == "not run"))
    if missing:
        out.append(f"Interrupted: {len(status) - missing} of {len(status)} {what} were run.")
    if bad:
        parts = ", ".join(f"{int(np.sum(status == word))} {word}" for word in bad)
        count = sum(int(np.sum(status == word)) for word in bad)
        out.append(
            f"{count} of {len(status) - missing} {what} failed ({parts}); their values are NaN and count in no number."
        )
    return out
