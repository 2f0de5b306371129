"""The checkpoint file that a running stochastic fit writes."""

from __future__ import annotations

from typing import final

import numpy as np

from jaxnlme.estimators.core.checkpoint import AbstractCheckpoint
from jaxnlme.files import Archive


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
        return [f"Resumed from {self.path} after {int(self.run_state['iteration'])} iterations, burn-in included."]
