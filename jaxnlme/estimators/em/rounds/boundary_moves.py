"""Moves of a stochastic fit to the boundary of psi, along it, and off it.

psi = L L' with scales s_k (standard deviations or diagonal entries of L); a scale of zero puts psi on a face of its
boundary. The score in log s_k tends to zero as s_k does, whatever the data, so that Newton steps cannot decide whether
the maximum is there. The moves, each where the evidence of the same name (`boundary_evidence.py`) is for it:

1. `move_to_boundary`: where all replicates approach the same face, the scales concerned are set to zero exactly
   (`boundary.project_to_face`); chains of z start anew there, and the other parameters are estimated on the face.
2. `leave_boundary`: psi goes back into the interior. A face left at its own maximum, or for the second time, is
   excluded from then on.
3. `restart_small_scales`: scales that have become negligible in the interior are put back to a quarter of their start,
   once each; they decrease again if the maximum is at zero.
4. `hold_vanished_parts`: parts of a residual scale that are estimated as zero are held where they are: the likelihood
   does not depend on their logarithm any more.
5. `rotate_singular_psi`: a singular psi is rotated where the log-likelihood increases that way (`boundary.rotate`).

`start_at_boundary` begins a run at the boundary on which an earlier fit ended.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.estimators.core.zero_variances import VanishedPart, entries_of, vanished_parts
from jaxnlme.estimators.em.boundary import project_to_face
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.parameter_layout import ParameterLayout, whitened_layout, with_held
from jaxnlme.estimators.em.phases import add_averaging, equilibrate
from jaxnlme.estimators.em.rounds.boundary_evidence import Face, has_kinks, scale_entries
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import BOUNDARY
from jaxnlme.model.levels import Levels
from jaxnlme.results.by_level import informative_units


def start_at_boundary(run: Run) -> bool:
    """Put the (only) replicate on the boundary of psi where the earlier fit ended that the run starts from; False if it
    did not end on the boundary, or the user fixed an entry that would be held there."""
    if run.boundary_start is None:
        return False
    face = project_to_face(run.interior_layout, run.binding.density, run.boundary_start, set())
    if face is None:
        return False
    packed, held = face
    run.outer_state.started_at_boundary = True
    _restart_whitened(run, held, packed[None], 0)
    return True


def move_to_boundary(run: Run, face: Face, n_iterations: int) -> None:
    """Put psi on the `face` of its boundary that the replicates approach; `n_iterations`: score iterations in the run's
    sums."""
    packed, held = face
    if not run.layout.whitened:
        run.interior_point = np.array(run.em_state.packed)
    _restart_whitened(run, held, packed, n_iterations)


def leave_boundary(run: Run, estimates: list[ScoreAndInformation], at_maximum: bool) -> None:
    """Take psi off the boundary.

    A face is excluded from later moves if psi leaves it at its own maximum, because of kinks, or after an earlier exit.
    A run that came to such a maximum by itself has parameters near to it in the interior, too: chains of z then start
    anew there without added averaging.

    **Arguments:** `at_maximum`: the other parameters are at their maximum on the face.
    """
    kinked = has_kinks(estimates)
    near_interior_maximum = at_maximum and not kinked and not run.outer_state.started_at_boundary
    if kinked:
        run.outer_state.excluded_faces |= frozenset(scale_entries(run))
    elif at_maximum or run.outer_state.boundary_exits > 0:
        run.outer_state.excluded_faces |= frozenset(k for k in scale_entries(run) if not run.layout.free[k])
    run.outer_state.boundary_exits += 1
    if near_interior_maximum:
        _restart_whitened(run, frozenset(), run.interior_point, estimates[0].n_iterations)
        return
    _restart_chains(run, run.interior_layout, run.interior_point)
    add_averaging(run, full_steps_first=True)


def restart_small_scales(run: Run, scales: frozenset[int]) -> None:
    """Put `scales` (packed entries) to a quarter of their start, and add averaging from there. The score in log s is
    zero at s = 0 whatever the data; from above, a scale decreases again only if the maximum is there."""
    packed = np.array(run.em_state.packed)
    for k in sorted(scales):
        start = np.maximum(run.starts[:, k], run.model_start[k])
        packed[:, k] = np.maximum(packed[:, k], start - BOUNDARY.restart_decrease)
    run.outer_state.restarted_scales |= scales
    run.set_parameters(packed)
    add_averaging(run, full_steps_first=True)
    run.outer_state.newton_steps = run.outer_state.singular_rounds = 0


def hold_vanished_parts(run: Run, parts: list[VanishedPart]) -> None:
    """Hold `parts` of a residual scale at their values from here on, and start the chains anew. Parts that began near
    zero, where their score is zero whatever the data, are first restarted from above, once each."""
    processes = run.placed.processes
    at_start = entries_of(vanished_parts(run.binding, run.starts[0], processes)) - run.outer_state.restarted_scales
    small = [part for part in parts if part.entry in at_start]
    if small:
        packed = np.array(run.em_state.packed)
        for part in small:
            packed[:, part.entry] = part.equal + np.log(BOUNDARY.restarted_part)
        run.outer_state.restarted_scales |= {part.entry for part in small}
        _restart_chains(run, run.layout, packed)
        add_averaging(run, full_steps_first=True)
        return
    run.outer_state.held_parts |= entries_of(parts)
    run.interior_layout = with_held(run.interior_layout, entries_of(parts))
    _restart_chains(run, with_held(run.layout, entries_of(parts)), np.array(run.em_state.packed))


def rotate_singular_psi(run: Run, face: Face, n_iterations: int) -> None:
    """Put psi at its rotation on a `face` of the boundary; `n_iterations`: score iterations in the run's sums."""
    run.outer_state.rotations += 1
    _restart_whitened(run, face[1], face[0], n_iterations)


def _restart_whitened(run: Run, held: frozenset[int], packed: np.ndarray, n_iterations: int) -> None:
    """Start chains of z anew at `packed` (replicates, packed), with the entries `held` fixed; `n_iterations`: score
    iterations in the run's sums."""
    lower = np.asarray(run.binding.density.covariance.factor(run.interior_layout.theta(packed[0])), float)
    rows, columns = informative_effects(lower, _observed_fractions(run, n_iterations))
    _restart_chains(run, whitened_layout(run.interior_layout, held, rows, columns), packed)


def _restart_chains(run: Run, layout: ParameterLayout, packed: np.ndarray) -> None:
    """Put the replicates at `packed` (replicates, packed) under a layout, and equilibrate new chains there."""
    run.reset_layout(layout, packed)
    equilibrate(run, BOUNDARY.restart_iterations, restart=True)
    run.outer_state.newton_steps = run.outer_state.singular_rounds = 0


def _observed_fractions(run: Run, n_iterations: int) -> np.ndarray:
    """One minus the mean conditional variance of each effect given the data, as a fraction of its variance in psi
    (effects,), for the first replicate; zero for effects of variance zero; one without iterations in the sums."""
    density = run.binding.density
    if not n_iterations:
        return np.ones(density.covariance.size)
    sums = run.score_sums()
    first, second = sums.first_moment[:, 0] / n_iterations, sums.second_moment[:, 0] / n_iterations
    by_group = second - first[:, :, None] * first[:, None, :]
    if density.levels is None:
        conditional = run.placed.processes.total(np.sum(by_group, axis=0)) / run.placed.n_groups_all
    else:
        conditional = _mean_over_units(run, density.levels, by_group)
    theta = run.params().covariance
    lower = np.asarray(density.covariance.factor(np.asarray(theta)), float)
    conditional_variance = np.diag(lower @ conditional @ lower.T if run.layout.whitened else conditional)
    variance = np.diag(lower @ lower.T)
    return 1.0 - np.where(variance > 0, conditional_variance / np.where(variance > 0, variance, 1.0), 1.0)


def _mean_over_units(run: Run, levels: Levels, by_group: np.ndarray) -> np.ndarray:
    """The mean (effects, effects) over the units of each level, zero between levels, of the blocks of their effects in
    matrices `by_group` (groups, random, random); units without a response are left out."""
    size = len(levels.level_of_effect)
    informative = informative_units(run.binding)[:, levels.unit_of_entry]
    total, units = np.zeros((size, size)), np.zeros(size)
    for k, (unit, effect) in enumerate(zip(levels.unit_of_entry, levels.effect_of_entry, strict=True)):
        others = np.flatnonzero(levels.unit_of_entry == unit)
        total[effect, levels.effect_of_entry[others]] += by_group[:, k, others][informative[:, k]].sum(axis=0)
        units[effect] += informative[:, k].sum()
    processes = run.placed.processes
    return processes.total(total) / np.maximum(processes.total(units), 1.0)[:, None]


def informative_effects(lower: np.ndarray, observed: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Effects at whose fixed xi the scores of a `whitened` layout are taken, and as many coordinates of z.

    Effects enter in descending order of `observed`, if it exceeds `BOUNDARY.informative_fraction` and they are not
    nearly linear functions of those before them. The coordinates are chosen by pivoting on the columns of
    their rows of L.

    **Arguments:** `lower` (effects, effects), a factor L of psi; `observed` (effects,), observed fractions.
    **Returns:** rows and columns of L.
    """
    sd = np.sqrt(np.sum(lower**2, axis=1))
    unit = lower / np.where(sd > 0, sd, 1.0)[:, None]
    rows: list[int] = []
    for k in np.argsort(-observed):
        independent = (
            observed[k] > BOUNDARY.informative_fraction
            and np.linalg.svd(unit[[*rows, k]], compute_uv=False)[-1] > BOUNDARY.min_singular_value
        )
        if independent:
            rows.append(int(k))
    columns: list[int] = []
    remainder = unit[rows].copy()
    for _ in rows:  # the column with the largest remaining norm first
        pivot = int(np.argmax(np.sum(remainder**2, axis=0)))
        columns.append(pivot)
        along = remainder[:, pivot] / np.linalg.norm(remainder[:, pivot])
        remainder = remainder - np.outer(along, along @ remainder)
    return tuple(rows), tuple(columns)
