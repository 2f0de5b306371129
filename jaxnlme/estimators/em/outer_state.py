"""State that the outer algorithm of a stochastic fit carries from one round to the next."""

from __future__ import annotations

import dataclasses

import numpy as np

# Names of the arrays of a checkpoint that hold an OuterState: its counts, and a set each.
COUNTS, RESTARTED_SCALES, EXCLUDED_FACES = "outer_state.counts", "outer_state.restarted", "outer_state.excluded"


@dataclasses.dataclass
class OuterState:
    """Counts and sets of the outer algorithm (`algorithm.run_algorithm`).

    - `newton_steps` (or uphill steps) taken since averaging was last added or chains started anew; `singular_rounds`,
      rounds without a positive definite information since chains or scales last started anew; `averaging_phases` added
      so far.
    - `initial_iterations`: score iterations in the first segment of a round (0 before the first round).
    - `rotations` of a singular psi so far; `boundary_exits`: number of times psi left the boundary.
    - `started_at_boundary`: true where the run began at the boundary on which an earlier fit ended.
    - `restarted_scales`: packed entries of the small scales already restarted from above, each at most once.
    - `excluded_faces`: packed entries of the scales that may not be set to zero any more, because the log-likelihood
      was found to increase from there into the interior.
    """

    newton_steps: int = 0
    singular_rounds: int = 0
    averaging_phases: int = 0
    initial_iterations: int = 0
    rotations: int = 0
    boundary_exits: int = 0
    started_at_boundary: bool = False
    restarted_scales: frozenset[int] = frozenset()
    excluded_faces: frozenset[int] = frozenset()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint: the counts, and the sets as index arrays."""
        return {
            COUNTS: np.array([int(getattr(self, name)) for name in _count_names()]),
            RESTARTED_SCALES: np.array(sorted(self.restarted_scales), int),
            EXCLUDED_FACES: np.array(sorted(self.excluded_faces), int),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> OuterState:
        """The state written by `to_arrays`; other arrays are ignored."""
        counts = {name: int(count) for name, count in zip(_count_names(), arrays[COUNTS], strict=True)}
        started = bool(counts.pop("started_at_boundary"))
        restarted, excluded = (frozenset(arrays[name].tolist()) for name in (RESTARTED_SCALES, EXCLUDED_FACES))
        return cls(**counts, started_at_boundary=started, restarted_scales=restarted, excluded_faces=excluded)


def _count_names() -> list[str]:
    """Names of the fields that are not sets, in the order of the array of counts."""
    sets = ("restarted_scales", "excluded_faces")
    return [field.name for field in dataclasses.fields(OuterState) if field.name not in sets]
