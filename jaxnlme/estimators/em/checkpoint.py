"""What a stochastic fit remembers of its course, and the file that it is kept in while it runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.estimators.core.checkpoint import Checkpoint


@dataclasses.dataclass
class OuterState:
    """What is behind the settling run that comes next: `rounds` of moves along a step, `singular` ones without an
    inverse of the information, `extensions` of the phases; its `first` iterations; bits of the scales that were
    `raised` once, and of those that are `barred` from the edge, where the likelihood rises inwards; and how many
    `rotations` a singular psi made, how often an edge was `left` far from its maximum, and whether the run
    `started_at_boundary`, where an earlier fit ended."""

    rounds: int = 0
    singular: int = 0
    extensions: int = 0
    first: int = 0
    raised: int = 0
    barred: int = 0
    rotations: int = 0
    left: int = 0
    started_at_boundary: int = 0


class StochasticCheckpoint(Checkpoint):
    """As `Checkpoint`; `run_state` is a dictionary of arrays, which `Run.run_state` fills and reads."""

    def write(self, run_state: dict[str, np.ndarray]) -> None:
        """Replaces the file, which is whole at every moment."""
        self._store(self.about, run_state | {"rest": self.rest})

    def _run_state(self, first: tuple[dict, dict], own: tuple[dict, dict]) -> Any:
        # Parameters are those of the first process's file, chains each process's own.
        shared = {name: leaf for name, leaf in first[1].items() if not name.startswith("chains.")}
        return own[1] | shared

    def _point(self) -> np.ndarray:
        return self.run_state["em_state.0"][0]

    @property
    def resumed(self) -> list[str]:
        """A sentence for the record, where there was a file."""
        if self.run_state is None:
            return []
        return [f"Resumed from {self.path} after {int(self.run_state['iteration'])} iterations."]
