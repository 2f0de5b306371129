"""State of the outer algorithm of a stochastic fit, and the checkpoint file that a running fit writes."""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np

from jaxnlme.estimators.core.checkpoint import AbstractCheckpoint
from jaxnlme.files import Archive


@dataclasses.dataclass
class OuterState:
    """Counters and sets that the outer algorithm (`algorithm.run_algorithm`) carries from one round to the next.

    `newton_steps` (or uphill steps) taken since averaging was last added; `singular_rounds`, rounds without a positive
    definite information since then; `averaging_phases` added so far; `initial_iterations`, score iterations in the
    first batch of a round (0 before the first round).

    Sets are bit masks over the positions in `boundary_moves.scale_entries`: `restarted_scales`, small scales already
    restarted from above, each at most once; `excluded_faces`, scales that may not be set to zero any more, because the
    log-likelihood was found to increase from there into the interior.

    `rotations` of a singular psi so far; `boundary_exits`, number of times psi left the boundary;
    `started_at_boundary`, one where the run began at the boundary on which an earlier fit ended, zero otherwise.
    """

    newton_steps: int = 0
    singular_rounds: int = 0
    averaging_phases: int = 0
    initial_iterations: int = 0
    restarted_scales: int = 0
    excluded_faces: int = 0
    rotations: int = 0
    boundary_exits: int = 0
    started_at_boundary: int = 0


@final
class StochasticCheckpoint(AbstractCheckpoint):
    """Checkpoint of a stochastic fit: as `AbstractCheckpoint`, with `run_state` a dictionary of arrays that
    `Run.run_state` writes and `Run` reads."""

    run_state: dict[str, np.ndarray] | None

    def to_archive(self, run_state: dict[str, np.ndarray]) -> Archive:
        """The arrays, and an empty document."""
        return Archive({}, run_state)

    def from_archives(self, first: Archive, local: Archive) -> dict[str, np.ndarray]:
        """Parameters from the file of the first process, chains from each process's own file."""
        shared = {name: leaf for name, leaf in first.arrays.items() if not name.startswith("chains.")}
        return local.arrays | shared

    def point(self, run_state: dict[str, np.ndarray]) -> np.ndarray:
        """The parameters (packed,) of the first replicate."""
        return run_state["em_state.0"][0]

    @property
    def resumed(self) -> list[str]:
        """Sentence for the record of a fit that was resumed from a file; empty if there was none."""
        if self.run_state is None:
            return []
        return [f"Resumed from {self.path} after {int(self.run_state['iteration'])} iterations."]
