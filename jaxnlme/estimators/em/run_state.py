"""State of a stochastic run beside its chains and parameters, and the arrays of a checkpoint that hold all of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxnlme.estimators.em.parameter_layout import whitened_layout, with_held

if TYPE_CHECKING:
    from jaxnlme.estimators.em.run import Run

# Names of the arrays of a checkpoint that hold an OuterState: its counts, and a set each.
COUNTS, RESTARTED_SCALES, EXCLUDED_FACES = "outer_state.counts", "outer_state.restarted", "outer_state.excluded"
HELD_PARTS = "outer_state.held_parts"
LAST_STEPS, LAST_SE = "outer_state.last_steps", "outer_state.last_se"


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
    - `held_parts`: packed entries of parts of a residual scale that were estimated as zero, and are held.
    - `transported`: the information was computed from transported draws (`rounds/transport.py`); `kinked`: it could not
      be, because the model is not twice differentiable in the effects.
    - `doublings` of the longest step, and `last_steps` (replicates, active), the last Newton steps, from which they
      follow; `last_se` (replicates, active), the standard errors before these; none before the first.
    """

    newton_steps: int = 0
    singular_rounds: int = 0
    averaging_phases: int = 0
    initial_iterations: int = 0
    rotations: int = 0
    boundary_exits: int = 0
    started_at_boundary: bool = False
    transported: bool = False
    kinked: bool = False
    doublings: int = 0
    restarted_scales: frozenset[int] = frozenset()
    excluded_faces: frozenset[int] = frozenset()
    held_parts: frozenset[int] = frozenset()
    last_steps: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    last_se: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint: the counts, and the sets as index arrays."""
        return {
            COUNTS: np.array([int(getattr(self, name)) for name in _count_names()]),
            RESTARTED_SCALES: np.array(sorted(self.restarted_scales), int),
            EXCLUDED_FACES: np.array(sorted(self.excluded_faces), int),
            HELD_PARTS: np.array(sorted(self.held_parts), int),
            LAST_STEPS: self.last_steps,
            LAST_SE: self.last_se,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> OuterState:
        """The state written by `to_arrays`; other arrays are ignored."""
        counts = {name: int(count) for name, count in zip(_count_names(), arrays[COUNTS], strict=True)}
        started, transported, kinked = (
            bool(counts.pop(name)) for name in ("started_at_boundary", "transported", "kinked")
        )
        restarted, excluded, held = (
            frozenset(arrays[name].tolist()) for name in (RESTARTED_SCALES, EXCLUDED_FACES, HELD_PARTS)
        )
        return cls(
            **counts, started_at_boundary=started, transported=transported, kinked=kinked,
            restarted_scales=restarted, excluded_faces=excluded, held_parts=held, last_steps=arrays[LAST_STEPS],
            last_se=arrays[LAST_SE],
        )  # fmt: skip


def _count_names() -> list[str]:
    """Names of the fields that are counts, in the order of their array."""
    others = ("restarted_scales", "excluded_faces", "held_parts", "last_steps", "last_se")
    return [field.name for field in dataclasses.fields(OuterState) if field.name not in others]


def run_arrays(run: Run) -> dict[str, np.ndarray]:
    """Arrays of a `run` for a checkpoint, from which another process continues with the same numbers."""
    chain_states = run.to_host(run.chain_states)
    out = {f"em_state.{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(run.em_state))}
    out |= {f"chains.{k}": leaf for k, leaf in enumerate(jax.tree.leaves(chain_states))}
    out |= {"iteration": np.asarray(run.iteration)}
    out |= run.outer_state.to_arrays()
    out |= {"has_control_variates": np.asarray(run.has_control_variates), "interior_point": run.interior_point}
    out |= {"whitened": np.asarray(run.layout.whitened), "free": np.asarray(run.layout.free)}
    out |= {name: np.asarray(getattr(run.layout, name), int) for name in ("rows", "columns")}
    # Decisions that depend on the starting values use those of the interrupted fit, not those of the resuming one.
    out |= {"starts": run.starts, "warm": np.asarray(run.warm)}
    if run.packed_trace:
        out |= {"packed": np.concatenate(run.packed_trace), "accepted": np.concatenate(run.acceptance_trace)}
    return out


def restore_run(run: Run, arrays: dict[str, np.ndarray]) -> None:
    """Put a `run` that has just begun into the state that `run_arrays` wrote."""
    parts = OuterState.from_arrays(arrays).held_parts
    if parts:
        run.interior_layout = with_held(run.interior_layout, parts)
        run.reset_layout(run.interior_layout, run.starts)
    if arrays["whitened"]:
        held = frozenset(np.flatnonzero(np.asarray(run.interior_layout.free) & ~arrays["free"]).tolist())
        rows, columns = (tuple(arrays[name].tolist()) for name in ("rows", "columns"))
        run.reset_layout(whitened_layout(run.interior_layout, held, rows, columns), run.starts)
    leaves, tree = jax.tree.flatten(run.em_state)
    run.em_state = jax.tree.unflatten(tree, [arrays[f"em_state.{k}"] for k in range(len(leaves))])
    leaves, tree = jax.tree.flatten(run.blank_chain_states())
    run.chain_states = run.to_device(jax.tree.unflatten(tree, [arrays[f"chains.{k}"] for k in range(len(leaves))]))
    run.iteration = int(arrays["iteration"])
    run.outer_state = OuterState.from_arrays(arrays)
    run.has_control_variates = bool(arrays["has_control_variates"])
    run.interior_point = arrays["interior_point"]
    run.starts, run.warm = arrays["starts"], bool(arrays["warm"])
    if "packed" in arrays:
        run.packed_trace, run.acceptance_trace = [arrays["packed"]], [arrays["accepted"]]
