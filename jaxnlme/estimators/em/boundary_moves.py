"""Scales that vanish under a stochastic fit: tried from above, or psi put at its edge, and taken off it again."""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.em.boundary import ENOUGH, nearly_dependent, project_to_face, rotate, slopes
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.phases import EXTENSION, add_averaging, equilibrate, iterations_left
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.sufficient_statistics import ParameterLayout, whitened
from jaxnlme.model.transforms import Log

# A scale vanishes where it fell by so much on its log scale, less than this share of it is observed, and the standard
# error of its logarithm is no less than this.
FALLEN, TOLD, KNOWN = 2.0, 0.1, 0.5
# How far below its start, on its log scale, it is tried again: starts are wide, and without annealing too wide.
RAISED = 1.4
# A push uphill: the least curvature, as a share of that of complete data, and the longest step of a log scale.
SOFT, PUSH = 0.02, 0.7
# The share of an effect that must be observed for scores at its xi, and the least singular value of such effects.
SEEN, APART = 0.3, 0.1
# How often a singular psi turns, and the share of an effect's usual SD that it turns by where it has none.
TURNS, SHARE = 5, 0.3
# Iterations in which chains arrive that begin anew; and the least that must be left for anything to come of it.
ARRIVE, WORTH = 50, 100


def scales(run: Run) -> list[int]:
    """Packed entries that are logarithms of standard deviations of effects, or of residual scales, where the user did
    not fix them."""
    density, layout = run.binding.density, run.interior_layout
    out = [layout.beta + index for index, _, _ in density.covariance.log_scales]
    if density.error.has_gaussian_moments:
        first = layout.beta + layout.covariance
        out += [first + k for k, p in enumerate(density.error.parameters) if isinstance(p.transform, Log)]
    return [k for k in out if layout.free[k]]


def vanishing(run: Run, one: ScoreAndInformation, k: int) -> bool:
    """Whether a scale, by its packed entry, is far below where it started and next to nothing is observed of it."""
    if k not in one.active or run.layout.whitened:  # zero already, or looked at without its own scores
        return False
    place = one.active.tolist().index(k)
    # A fit may go on from one in which the scale vanished: the model's own start counts as well.
    fallen = max(run.starts[0][k], run.model_start[k]) - one.packed[k] > FALLEN
    return bool(fallen and not one.observed_fraction[place] > TOLD and not one.se[place] < KNOWN)


def restart_small_scales(run: Run, found: list[ScoreAndInformation]) -> bool:
    """Puts scales that vanish in any replicate to a quarter of what they started from, each once, and lets the phases
    go on from there; whether it did. Zero is a root of the score in log s whatever the data say: whether it is the
    maximum shows from above."""
    if iterations_left(run) < WORTH + sum(EXTENSION):
        return False
    packed, raised = np.array(run.em_state.packed), run.outer_state.raised
    for place, k in enumerate(scales(run)):
        if not raised >> place & 1 and any(vanishing(run, one, k) for one in found):
            packed[:, k] = np.maximum(packed[:, k], np.maximum(run.starts[:, k], run.model_start[k]) - RAISED)
            run.outer_state.raised |= 1 << place
    if run.outer_state.raised == raised:
        return False
    run.set_parameters(packed)
    add_averaging(run, afresh=True)
    run.outer_state.rounds = run.outer_state.singular = 0
    return True


def approached_boundary(run: Run, found: list[ScoreAndInformation]) -> tuple[np.ndarray, frozenset[int]] | None:
    """The edge of what psi can be that the replicates run into: where they are then (replicates, packed), and the
    entries held there. None where they run into none, or not all into the same."""
    density = run.binding.density
    if density.priors or iterations_left(run) < ARRIVE + WORTH:
        return None
    of_effects = {run.layout.beta + index for index, _, _ in density.covariance.log_scales}
    ends = []
    for one in found:
        # Where an effect is all but a function of others, nothing is observed of one of them given the rest.
        new = nearly_dependent(run.layout, density, one)
        sure = one.positive_definite or one.n_iterations >= ENOUGH
        new = new or {k for k in scales(run) if sure and k in of_effects and vanishing(run, one, k)}
        ends.append(project_to_face(run.interior_layout, density, one.packed, new) if new else None)
    end = _common(ends)
    barred = {k for place, k in enumerate(scales(run)) if run.outer_state.barred >> place & 1}
    return None if end is None or barred.issuperset(end[1] & set(scales(run))) else end


def _common(ends: list[tuple[np.ndarray, frozenset[int]] | None]) -> tuple[np.ndarray, frozenset[int]] | None:
    """What `project_to_face` says of every replicate, stacked, where they are all held by the same entries."""
    known = [end for end in ends if end is not None]
    if len(known) < len(ends) or any(held != known[0][1] for _, held in known):
        return None
    return np.stack([packed for packed, _ in known]), known[0][1]


def start_at_boundary(run: Run) -> bool:
    """Puts the one replicate at the edge of psi that the fit ended at which it starts from; whether it ended at one."""
    if run.boundary_start is None:
        return False
    end = project_to_face(run.interior_layout, run.binding.density, run.boundary_start, set())
    if end is None:
        return False
    packed, held = end
    run.outer_state.started_at_boundary = 1
    _begin_at(run, held, packed[None], 0)
    return True


def move_to_boundary(run: Run, found: list[ScoreAndInformation]) -> bool:
    """Puts psi at the edge that the replicates run into; whether there was one."""
    end = approached_boundary(run, found)
    if end is None:
        return False
    packed, held = end
    if not run.layout.whitened:
        run.interior_point = np.array(run.em_state.packed)
    _begin_at(run, held, packed, found[0].n_iterations)
    return True


def increases_inwards(run: Run, found: list[ScoreAndInformation]) -> bool:
    """Whether psi is at an edge from which the likelihood rises inwards."""
    density = run.binding.density
    return run.layout.whitened and any(
        slope.increases for one in found for slope in slopes(run.interior_layout, density, one)
    )


def direction_is_clear(run: Run, found: list[ScoreAndInformation]) -> bool:
    """Whether it is clear which way the likelihood goes from the edge, where psi is at one."""
    density = run.binding.density
    return not run.layout.whitened or all(
        s.is_clear for one in found for s in slopes(run.interior_layout, density, one)
    )


def leave_boundary(run: Run, found: list[ScoreAndInformation], for_good: bool) -> bool:
    """Takes psi off an edge where the likelihood rises from there inwards, or where second derivatives cannot tell;
    whether it did. `for_good`: it rises from the maximum there, and the edge is barred, as it is where it is left for
    the second time. Where the run came to that maximum by itself it is near to its own, and chains hold z still."""
    kinked = not all(one.twice_differentiable for one in found)
    if not (kinked or increases_inwards(run, found)) or iterations_left(run) < ARRIVE + WORTH + sum(EXTENSION):
        return False
    near = for_good and not kinked and not run.outer_state.started_at_boundary
    for_good = for_good or kinked or run.outer_state.left > 0
    run.outer_state.left += 1
    for place, k in enumerate(scales(run)):
        run.outer_state.barred |= int(kinked or (for_good and not run.layout.free[k])) << place
    if near:
        _begin_at(run, frozenset(), run.interior_point, found[0].n_iterations)
        return True
    _arrive(run, run.interior_layout, run.interior_point)
    add_averaging(run, afresh=True)
    return True


def rotate_singular_psi(run: Run, found: list[ScoreAndInformation]) -> bool:
    """Turns a singular psi of every replicate whose likelihood rises that way; whether it did."""
    density, course = run.binding.density, run.outer_state
    if not run.layout.whitened or course.rotations >= TURNS or iterations_left(run) < ARRIVE + WORTH:
        return False
    usual = SHARE * np.sqrt(np.diag(psi_of(density, run.interior_layout.theta(run.model_start))))
    turns = [rotate(run.interior_layout, density, one, usual) for one in found]
    if all(packed is None for packed in turns):
        return False
    rotated = [one.packed if packed is None else packed for one, packed in zip(found, turns, strict=True)]
    end = _common([project_to_face(run.interior_layout, density, packed, set()) for packed in rotated])
    if end is None:
        return False
    course.rotations += 1
    _begin_at(run, end[1], end[0], found[0].n_iterations)
    return True


def uphill_point(run: Run, one: ScoreAndInformation) -> np.ndarray:
    """Where a replicate goes on from (packed,) whose information has no inverse: uphill, no further than trusted."""
    out = one.packed.copy()
    unit = np.sqrt(
        np.maximum(
            np.abs(np.diag(one.information) / np.where(one.observed_fraction == 0, 1.0, one.observed_fraction)), 1e-300
        )
    )
    values, vectors = np.linalg.eigh(one.information / np.outer(unit, unit))
    bend = np.maximum(np.abs(values), SOFT)
    step = vectors @ ((vectors.T @ (one.score / unit)) / bend) / unit
    longest = np.where(np.isin(one.active, scales(run)), PUSH, 1.0 / (SOFT * unit))
    out[one.active] += step / max(1.0, np.max(np.abs(step) / longest, initial=0.0))
    return out


def _begin_at(run: Run, held: frozenset[int], packed: np.ndarray, heard: int) -> None:
    """Lets chains of z begin anew at `packed` (replicates, packed), some entries `held`; `heard`: iterations behind the
    run's sums."""
    lower = np.asarray(run.binding.density.covariance.factor(run.interior_layout.theta(packed[0])), float)
    _arrive(run, whitened(run.interior_layout, held, *informative_effects(lower, _observed(run, heard))), packed)


def _arrive(run: Run, layout: ParameterLayout, packed: np.ndarray) -> None:
    """Puts the replicates at `packed` (replicates, packed) under a layout, and lets chains that begin anew arrive."""
    run.reset_layout(layout, packed)
    equilibrate(run, ARRIVE, begin=True)
    run.outer_state.rounds = run.outer_state.singular = 0


def _observed(run: Run, heard: int) -> np.ndarray:
    """The share of each effect's variance that the data leave none of, in the mean over groups (random,); one, where
    nothing was heard."""
    density, q = run.binding.density, run.binding.density.n_effects
    if not heard:
        return np.ones(q)
    sums = run.sums()
    first, second = sums.first[:, 0] / heard, sums.second[:, 0] / heard
    spread = np.sum(second - first[:, :, None] * first[:, None, :], axis=0)
    spread = run.placed.processes.total(spread) / run.placed.n_all
    theta = run.params().covariance
    lower = np.asarray(density.covariance.factor(np.asarray(theta)), float)
    unknown = np.diag(lower @ spread @ lower.T if run.layout.whitened else spread)
    variance = np.diag(lower @ lower.T)
    return 1.0 - np.where(variance > 0, unknown / np.where(variance > 0, variance, 1.0), 1.0)


def informative_effects(lower: np.ndarray, observed: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rows and columns of a `whitened` layout, for a factor `lower` (random, random) of psi: effects of which
    enough is `observed` (random,), the best first, and none that is a function of those before it."""
    sd = np.sqrt(np.sum(lower**2, axis=1))
    unit = lower / np.where(sd > 0, sd, 1.0)[:, None]
    rows: list[int] = []
    for k in np.argsort(-observed):
        if observed[k] > SEEN and np.linalg.svd(unit[[*rows, k]], compute_uv=False)[-1] > APART:
            rows.append(int(k))
    columns: list[int] = []
    rest = unit[rows].copy()
    for _ in rows:  # those that tell these effects apart, the largest first
        best = int(np.argmax(np.sum(rest**2, axis=0)))
        columns.append(best)
        along = rest[:, best] / np.linalg.norm(rest[:, best])
        rest = rest - np.outer(along, along @ rest)
    return tuple(rows), tuple(columns)
