"""Scales that vanish under a stochastic fit: tried from above, or psi put at its edge, and taken off it again."""

from __future__ import annotations

import numpy as np

from jaxnlme.estimators.edge import narrow, onto, slopes
from jaxnlme.estimators.running import Run
from jaxnlme.estimators.settling import Settled
from jaxnlme.estimators.statistics import Layout, whitened
from jaxnlme.estimators.stretches import EXTENSION, extend, left, stand
from jaxnlme.model.transforms import Log

# A scale vanishes where it fell by so much on its log scale, less than this share of it is observed, and the standard
# error of its logarithm is no less than this.
FALLEN, TOLD, KNOWN = 2.0, 0.1, 0.5
# How far below its start, on its log scale, it is tried again: starts are wide, and without annealing too wide.
RAISED = 1.4
# Iterations in which chains arrive that begin anew; and the least that must be left for anything to come of it.
ARRIVE, WORTH = 50, 100


def scales(run: Run) -> list[int]:
    """Packed entries that are logarithms of standard deviations of effects, or of residual scales, where the user did
    not fix them."""
    density, layout = run.binding.density, run.inside
    out = [layout.beta + index for index, _, _ in density.covariance.collapses]
    if density.error.gaussian_face:
        first = layout.beta + layout.covariance
        out += [first + k for k, p in enumerate(density.error.parameters) if isinstance(p.transform, Log)]
    return [k for k in out if layout.free[k]]


def vanishing(run: Run, one: Settled, k: int) -> bool:
    """Whether a scale, by its packed entry, is far below where it started and next to nothing is observed of it."""
    if k not in one.active:  # zero already
        return False
    place = one.active.tolist().index(k)
    return bool(_fallen(run, one.packed, k) and not one.told[place] > TOLD and not one.se[place] < KNOWN)


def _fallen(run: Run, packed: np.ndarray, k: int) -> bool:
    """Whether a scale is far below where it started, and below the model's own start: a fit may go on from one in which
    it vanished."""
    return bool(max(run.starts[0][k], run.usual[k]) - packed[k] > FALLEN)


def from_above(run: Run, found: list[Settled]) -> bool:
    """Puts scales that vanish in any replicate to a quarter of what they started from, each once, and lets the phases
    go on from there; whether it did. Zero is a root of the score in log s whatever the data say: whether it is the
    maximum shows from above."""
    which = [k for k in scales(run) if any(vanishing(run, one, k) for one in found)]
    return _raise(run, which) if not run.layout.whitened and left(run) >= WORTH + sum(EXTENSION) else False


def _raise(run: Run, which: list[int]) -> bool:
    """`from_above` of the packed entries `which`, those left out that were raised before."""
    bits = [place for place, k in enumerate(scales(run)) if k in which and not run.course.raised >> place & 1]
    if not bits:
        return False
    packed = np.array(run.running.packed)
    for place in bits:
        k = scales(run)[place]
        packed[:, k] = np.maximum(packed[:, k], np.maximum(run.starts[:, k], run.usual[k]) - RAISED)
        run.course.raised |= 1 << place
    run.place(packed)
    extend(run, afresh=True)
    run.course.rounds = run.course.singular = 0
    return True


def edge(run: Run, found: list[Settled]) -> tuple[np.ndarray, frozenset[int]] | None:
    """The edge of what psi can be that the replicates run into: where they are then (replicates, packed), and the
    entries held there. None where they run into none, or not all into the same."""
    density = run.binding.density
    if density.priors or left(run) < ARRIVE + WORTH:
        return None
    of_effects = {run.layout.beta + index for index, _, _ in density.covariance.collapses}
    ends = []
    for one in found:
        # Where an effect is all but a function of others, nothing is observed of one of them given the rest.
        new = narrow(run.layout, density, one)
        new = new or {k for k in scales(run) if k in of_effects and vanishing(run, one, k)}
        ends.append(onto(run.inside, density, one.packed, new) if new else None)
    if any(end is None or end[1] != ends[0][1] for end in ends):
        return None
    held = ends[0][1]
    known = all(run.course.barred >> place & 1 for place, k in enumerate(scales(run)) if k in held)
    return None if known else (np.stack([packed for packed, _ in ends]), held)


def begin_at_edge(run: Run) -> bool:
    """Puts the replicates at the edge of psi that the fit ended at which they start from; whether it ended at one."""
    if run.edge_start is None:
        return False
    end = onto(run.inside, run.binding.density, run.edge_start, set())
    if end is None:
        return False
    packed, held = end
    packed = np.tile(packed, (run.replicates, 1))
    _begin_again(run, whitened(run.inside, run.binding.density, held), packed)
    return True


def to_edge(run: Run, found: list[Settled]) -> bool:
    """Puts psi at the edge that the replicates run into; whether there was one."""
    end = edge(run, found)
    if end is None:
        return False
    packed, held = end
    if not run.layout.whitened:
        run.before = np.array(run.running.packed)
    _begin_again(run, whitened(run.inside, run.binding.density, held), packed)
    return True


def rises(run: Run, found: list[Settled]) -> bool:
    """Whether psi is at an edge from which the likelihood rises inwards."""
    density = run.binding.density
    return run.layout.whitened and any(slope.rises for one in found for slope in slopes(run.inside, density, one))


def told(run: Run, found: list[Settled]) -> bool:
    """Whether it is clear which way the likelihood goes from the edge, where psi is at one."""
    density = run.binding.density
    return not run.layout.whitened or all(s.told for one in found for s in slopes(run.inside, density, one))


def from_edge(run: Run, found: list[Settled]) -> bool:
    """Takes psi off an edge, for good, where the likelihood rises from there inwards; whether it did."""
    if not rises(run, found) or left(run) < ARRIVE + WORTH + sum(EXTENSION):
        return False
    gone = [k for k in scales(run) if not run.layout.free[k]]
    _begin_again(run, run.inside, run.before)
    for place, k in enumerate(scales(run)):
        run.course.barred |= int(k in gone) << place
    if not _raise(run, [k for k in gone if _fallen(run, run.before[0], k)]):
        extend(run, afresh=True)
    return True


def _begin_again(run: Run, layout: Layout, packed: np.ndarray) -> None:
    """Lets chains begin anew under a layout, at `packed` (replicates, packed)."""
    run.lay_out(layout, packed)
    stand(run, ARRIVE, begin=True)
    run.course.rounds = run.course.singular = 0
