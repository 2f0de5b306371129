"""Evidence on the boundary of psi, from the draws of a round: which moves (`boundary_moves.py`) apply.

1. `approached_boundary`: all replicates approach the same face, because effects are nearly linear functions of others,
   or scales vanish (`is_vanishing`).
2. `should_leave_boundary`: the slope of the log-likelihood into the interior is significantly positive, or the model
   has kinks there.
3. `scales_to_restart`: scales that have become negligible in the interior.
4. `vanished_in_all`: parts of a residual scale that all replicates estimate as zero.
5. `rotated_face`: the log-likelihood increases along a rotation of a singular psi.

The functions change nothing. **Arguments** of each: `run`, at the parameters of the round; `estimates`, the score and
information of all replicates from the same round, or the `estimate` of one of them.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.core.zero_variances import VanishedPart, vanished_parts
from jaxnlme.estimators.em.boundary import nearly_dependent, project_to_face, rotate, slopes
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.phases import iterations_remaining
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import BOUNDARY, SCHEDULE
from jaxnlme.model.transforms import Log

# Parameters (replicates, packed) on a face of the boundary of psi, and the packed entries held fixed there.
Face = tuple[np.ndarray, frozenset[int]]


def scale_entries(run: Run) -> list[int]:
    """Packed entries that are logarithms of scales: standard deviations of effects (or diagonal entries of L), and
    residual scales; those that the user fixed are not included. **Returns:** a list of indices, effects first."""
    density, layout = run.binding.density, run.interior_layout
    out = [layout.beta + index for index, _, _ in density.covariance.log_scales]
    if density.error.has_location_and_scale:
        first = layout.beta + layout.covariance
        scales = density.error.parameters[: density.error.n_scale]
        out += [first + k for k, p in enumerate(scales) if isinstance(p.transform, Log)]
    return [k for k in out if layout.free[k]]


def is_vanishing(run: Run, estimate: ScoreAndInformation, k: int) -> bool:
    """Evidence that a scale vanishes: it is far below its start, and almost nothing is observed of it.

    **Arguments:** `estimate` of one replicate; `k`, the packed entry of the scale.
    **Returns:** True if it vanishes; False also if it is zero already, or the scores are at fixed z.
    """
    if k not in estimate.active or run.layout.whitened:  # zero already; or scored at fixed z, not at fixed xi
        return False
    position = estimate.active.tolist().index(k)
    # A fit may continue from one in which the scale had vanished: the model's own start counts as well.
    decrease = max(run.starts[0][k], run.model_start[k]) - estimate.packed[k]
    return bool(
        decrease > BOUNDARY.vanishing_decrease
        and not estimate.observed_fraction[position] > BOUNDARY.vanishing_observed_fraction
        and not estimate.se[position] < BOUNDARY.vanishing_se
    )


def enough_iterations_for_move(run: Run) -> bool:
    """True if enough iterations remain for chains that start anew, and for rounds after them."""
    return iterations_remaining(run) >= BOUNDARY.restart_iterations + BOUNDARY.min_iterations_after_move


def approached_boundary(run: Run, estimates: list[ScoreAndInformation]) -> Face | None:
    """The face of the boundary of psi that the replicates approach.

    **Returns:** their parameters projected onto it (replicates, packed), and the entries held fixed there; None if a
    replicate approaches no face, if they approach different ones, if all scales held there are excluded
    (`OuterState.excluded_faces`), if the model has priors, or if too few iterations remain.
    """
    density = run.binding.density
    if density.priors or not enough_iterations_for_move(run):
        return None
    effect_scales = {run.layout.beta + index for index, _, _ in density.covariance.log_scales}
    projections = []
    for estimate in estimates:
        # Where an effect is nearly a function of others, its conditional variance vanishes although much may be
        # observed of its marginal one.
        to_zero = nearly_dependent(run.layout, density, estimate)
        reliable = estimate.positive_definite or estimate.n_iterations >= BOUNDARY.min_iterations_singular
        to_zero = to_zero or {
            k for k in scale_entries(run) if reliable and k in effect_scales and is_vanishing(run, estimate, k)
        }
        projections.append(project_to_face(run.interior_layout, density, estimate.packed, to_zero) if to_zero else None)
    face = _common_face(projections)
    if face is None or run.outer_state.excluded_faces.issuperset(face[1] & set(scale_entries(run))):
        return None
    return face


def _common_face(projections: list[Face | None]) -> Face | None:
    """The results of `project_to_face` of all replicates, stacked, if they all hold the same entries; otherwise
    None."""
    on_faces = [projection for projection in projections if projection is not None]
    if len(on_faces) < len(projections) or any(held != on_faces[0][1] for _, held in on_faces):
        return None
    return np.stack([packed for packed, _ in on_faces]), on_faces[0][1]


def increases_inwards(run: Run, estimates: list[ScoreAndInformation]) -> bool:
    """True if psi is on the boundary and the log-likelihood significantly increases into the interior, in any
    replicate."""
    density = run.binding.density
    return run.layout.whitened and any(
        slope.increases for estimate in estimates for slope in slopes(run.interior_layout, density, estimate)
    )


def direction_is_clear(run: Run, estimates: list[ScoreAndInformation]) -> bool:
    """True if psi is in the interior, or the signs of all slopes from the boundary into the interior are
    significant."""
    density = run.binding.density
    return not run.layout.whitened or all(
        slope.is_clear for estimate in estimates for slope in slopes(run.interior_layout, density, estimate)
    )


def has_kinks(estimates: list[ScoreAndInformation]) -> bool:
    """True if the model is not twice differentiable at the parameters of a replicate."""
    return not all(estimate.twice_differentiable for estimate in estimates)


def should_leave_boundary(run: Run, estimates: list[ScoreAndInformation]) -> bool:
    """True if the log-likelihood increases from the boundary into the interior, or the model has kinks, so that its
    second derivatives are no evidence, and enough iterations remain to leave it."""
    needed = BOUNDARY.restart_iterations + BOUNDARY.min_iterations_after_move + sum(SCHEDULE.added_averaging)
    return (has_kinks(estimates) or increases_inwards(run, estimates)) and iterations_remaining(run) >= needed


def scales_to_restart(run: Run, estimates: list[ScoreAndInformation]) -> frozenset[int]:
    """Scales to restart from above: they vanish in any replicate, and were not restarted before.

    **Returns:** their packed entries; none if too few iterations remain.
    """
    if iterations_remaining(run) < BOUNDARY.min_iterations_after_move + sum(SCHEDULE.added_averaging):
        return frozenset()
    return frozenset(
        k
        for k in scale_entries(run)
        if k not in run.outer_state.restarted_scales and any(is_vanishing(run, estimate, k) for estimate in estimates)
    )


def vanished_in_all(run: Run) -> list[VanishedPart]:
    """Parts of a residual scale that all replicates estimate as zero, not held yet; none if too few iterations
    remain."""
    if not enough_iterations_for_move(run):
        return []
    processes = run.placed.processes
    of_replicates = [vanished_parts(run.binding, packed, processes) for packed in np.asarray(run.em_state.packed)]
    common = frozenset.intersection(*(frozenset(part.entry for part in parts) for parts in of_replicates))
    return [part for part in of_replicates[0] if part.entry in common and run.layout.free[part.entry]]


def rotated_face(run: Run, estimates: list[ScoreAndInformation]) -> Face | None:
    """Parameters with a singular psi rotated in every replicate whose log-likelihood increases that way.

    **Returns:** the parameters (replicates, packed), and the entries held fixed; None if the log-likelihood increases
    in none, if psi is not singular, or if the allowed rotations or iterations are used up.
    """
    density, state = run.binding.density, run.outer_state
    if not run.layout.whitened or state.rotations >= BOUNDARY.max_rotations or not enough_iterations_for_move(run):
        return None
    start_variances = np.diag(psi_of(density, run.interior_layout.theta(run.model_start)))
    typical_sd = BOUNDARY.rotation_sd_fraction * np.sqrt(start_variances)
    rotations = [rotate(run.interior_layout, density, estimate, typical_sd) for estimate in estimates]
    if all(packed is None for packed in rotations):
        return None
    rotated = [
        estimate.packed if packed is None else packed for estimate, packed in zip(estimates, rotations, strict=True)
    ]
    return _common_face([project_to_face(run.interior_layout, density, packed, set()) for packed in rotated])
