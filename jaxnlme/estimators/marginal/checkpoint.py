"""The checkpoint file of a running minimisation of a likelihood approximation."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import numpy as np

from jaxnlme.estimators.core.checkpoint import AbstractCheckpoint
from jaxnlme.estimators.marginal.minimiser_state import MaximumLikelihoodState
from jaxnlme.files import Archive
from jaxnlme.numerics.bfgs import BFGS, BFGSState

# Fields of RunState that are numbers or lists of integers, in the document; the history is columns among the arrays,
# because its expected gains may be NaN.
_COUNTS = ("zeroed", "freed", "iterations", "evaluations", "seconds", "finished")
_HISTORY = "history."
_PARTS: dict[str, Any] = {"bfgs": BFGSState, "minimiser": BFGS}


@dataclasses.dataclass(frozen=True)
class RunState:
    """State of a running minimisation.

    **Fields:** `x` (n,): the best point; `modes` (groups, random) there; `free` (n,) bool: entries that may move;
    `state` of the minimiser, None if a new minimisation begins at x; `zeroed`, `freed`: packed indices of variances set
    to zero, and of those freed again; `iterations`, `evaluations`, `seconds` so far; `history`; `finished`.
    """

    x: np.ndarray
    modes: np.ndarray
    free: np.ndarray
    state: MaximumLikelihoodState | None
    zeroed: list[int]
    freed: list[int]
    iterations: int
    evaluations: int
    seconds: float
    history: list[dict[str, float]]
    finished: bool


@final
class MarginalCheckpoint(AbstractCheckpoint):
    """Checkpoint of a minimisation: as `AbstractCheckpoint`, with `run_state` a RunState."""

    run_state: RunState | None

    def to_archive(self, run_state: RunState) -> Archive:
        """The counts as the document; the point, the minimiser and the history as arrays."""
        arrays = {"x": run_state.x, "modes": run_state.modes, "free": run_state.free}
        if run_state.history:
            for name in run_state.history[0]:
                arrays[_HISTORY + name] = np.array([entry[name] for entry in run_state.history])
        if run_state.state is not None:
            arrays["log_likelihood"] = np.asarray(run_state.state.log_likelihood)
            arrays["squares"] = np.asarray(run_state.state.squares)
            for part in _PARTS:
                record = getattr(run_state.state, part)
                for field in dataclasses.fields(record):
                    arrays[f"{part}.{field.name}"] = np.asarray(getattr(record, field.name))
        return Archive({name: getattr(run_state, name) for name in _COUNTS}, arrays)

    def from_archives(self, first: Archive, local: Archive) -> RunState:
        """The state with the point of the first process and the modes of this one."""
        arrays, state = first.arrays, None
        if "log_likelihood" in arrays:
            parts: dict[str, Any] = {
                part: kind(**{field.name: arrays[f"{part}.{field.name}"] for field in dataclasses.fields(kind)})
                for part, kind in _PARTS.items()
            }
            log_likelihood, squares = arrays["log_likelihood"], arrays["squares"]
            state = MaximumLikelihoodState(**parts, modes=None, log_likelihood=log_likelihood, squares=squares)
        columns = {k.removeprefix(_HISTORY): v.tolist() for k, v in arrays.items() if k.startswith(_HISTORY)}
        history = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        counts = {name: first.document[name] for name in _COUNTS}
        return RunState(arrays["x"], local.arrays["modes"], arrays["free"], state, history=history, **counts)

    def point(self, run_state: RunState) -> np.ndarray:
        """The best point x (n,)."""
        return run_state.x
