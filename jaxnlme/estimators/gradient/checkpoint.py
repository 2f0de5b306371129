"""The checkpoint file of a running training."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import jax
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.checkpoint import AbstractCheckpoint
from jaxnlme.files import Archive

_COUNTS = ("step", "best_step", "check_step", "seconds", "finished")
_HISTORY = "history."
_COLUMN = "column."


@dataclasses.dataclass(frozen=True)
class TrainingRunState:
    """State of a running training.

    **Fields:** `x` (n,): the parameters; `step`; `state`, `best`: the present TrainingState and that of the highest
    held-out log-likelihood, after `best_step`; `columns`: arrays (steps,) by name; `check_step`, `held_out`: of the
    checks; `seconds`; `finished`; `history`.
    """

    x: np.ndarray
    step: int
    state: Any
    best_step: int
    best: Any
    columns: dict[str, np.ndarray]
    check_step: list[int]
    held_out: list[float]
    seconds: float
    finished: bool
    history: list[dict[str, float]]


@final
class GradientCheckpoint(AbstractCheckpoint):
    """Checkpoint of a training: as `AbstractCheckpoint`, with `run_state` a TrainingRunState; its states are lists of
    arrays until `adopt` puts them into the structure of the optimiser."""

    run_state: TrainingRunState | None

    def to_archive(self, run_state: TrainingRunState) -> Archive:
        arrays: dict[str, np.ndarray] = {"x": run_state.x, "held_out": np.array(run_state.held_out, float)}
        for name, tree in (("state", run_state.state), ("best", run_state.best)):
            for k, leaf in enumerate(jax.tree.leaves(tree)):
                arrays[f"{name}.{k:06d}"] = np.asarray(leaf)
        arrays |= {_COLUMN + name: values for name, values in run_state.columns.items()}
        for name in run_state.history[0] if run_state.history else ():
            arrays[_HISTORY + name] = np.array([entry[name] for entry in run_state.history])
        return Archive({name: getattr(run_state, name) for name in _COUNTS}, arrays)

    def from_archives(self, first: Archive, local: Archive) -> TrainingRunState:
        arrays = local.arrays

        def leaves(name: str) -> list[np.ndarray]:
            return [arrays[key] for key in sorted(key for key in arrays if key.startswith(f"{name}."))]

        columns = {k.removeprefix(_COLUMN): v for k, v in arrays.items() if k.startswith(_COLUMN)}
        parts = {k.removeprefix(_HISTORY): v.tolist() for k, v in arrays.items() if k.startswith(_HISTORY)}
        history = [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
        counts = {name: first.document[name] for name in _COUNTS}
        return TrainingRunState(
            arrays["x"], state=leaves("state"), best=leaves("best"), columns=columns,
            held_out=arrays["held_out"].tolist(), history=history, **counts,
        )  # fmt: skip

    def point(self, run_state: TrainingRunState) -> np.ndarray:
        return run_state.x

    def adopt(self, template: Any) -> None:
        """Put the arrays of the states into the structure of `template`, a TrainingState.

        **Raises:** OptionError where they are those of another optimiser.
        """
        if self.run_state is None:
            return
        expected, structure = jax.tree.flatten(template)
        states = {}
        for name in ("state", "best"):
            leaves = getattr(self.run_state, name)
            same = len(leaves) == len(expected) and all(
                np.shape(a) == np.shape(b) and np.asarray(a).dtype == b.dtype
                for a, b in zip(leaves, expected, strict=True)
            )
            if not same:
                raise OptionError(
                    f"the checkpoint {self.path} is of a training by another optimiser, or with other weights; give "
                    "another path, or delete it."
                )
            states[name] = jax.tree.unflatten(structure, leaves)
        self.run_state = dataclasses.replace(self.run_state, **states)
