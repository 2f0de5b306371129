"""State of the outer algorithm of a stochastic fit, and the checkpoint file that a running fit writes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.estimators.core.checkpoint import Checkpoint


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


class StochasticCheckpoint(Checkpoint):
    """Checkpoint of a stochastic fit: as `Checkpoint`, with `run_state` a dictionary of arrays that `Run.run_state`
    writes and `Run` reads."""

    def write(self, run_state: dict[str, np.ndarray]) -> None:
        """Replace the file by one of `run_state`, atomically."""
        self._store(self.about, run_state | {"rest": self.rest})

    def _run_state(self, first: tuple[dict, dict], local: tuple[dict, dict]) -> Any:
        # Parameters are read from the file of the first process, chains from each process's own file.
        shared = {name: leaf for name, leaf in first[1].items() if not name.startswith("chains.")}
        return local[1] | shared

    def _point(self) -> np.ndarray:
        return self.run_state["em_state.0"][0]

    @property
    def resumed(self) -> list[str]:
        """Sentence for the record of a fit that was resumed from a file; empty if there was none."""
        if self.run_state is None:
            return []
        return [f"Resumed from {self.path} after {int(self.run_state['iteration'])} iterations."]
