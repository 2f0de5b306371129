"""The file that a stochastic fit is kept in while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.checkpoint import Checkpoint


class StochasticCheckpoint(Checkpoint):
    """As `Checkpoint`; `standing` is a dictionary of arrays, which `Run.standing` fills and reads."""

    def write(self, standing: dict[str, np.ndarray]) -> None:
        """Replaces the file, which is whole at every moment."""
        self._store(self.about, standing | {"rest": self.rest})

    def _standing(self, first: tuple[dict, dict], own: tuple[dict, dict]) -> Any:
        # Parameters are those of the first process's file, chains each process's own.
        shared = {name: leaf for name, leaf in first[1].items() if not name.startswith("lanes.")}
        return own[1] | shared

    def _point(self) -> np.ndarray:
        return self.standing["running.0"][0]

    @property
    def resumed(self) -> list[str]:
        """A sentence for the record, where there was a file."""
        if self.standing is None:
            return []
        return [f"Resumed from {self.path} after {int(self.standing['iteration'])} iterations."]
