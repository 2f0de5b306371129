"""From the first iteration of a stochastic fit to its end: phases, settling rounds, extensions, the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxnlme.estimators.edge import narrow, onto, slopes
from jaxnlme.estimators.maximising import Control
from jaxnlme.estimators.running import Broken, Run, total_of
from jaxnlme.estimators.saem import gains, tuning
from jaxnlme.estimators.settling import BATCHES, Settled, settled
from jaxnlme.estimators.simulating import Trace
from jaxnlme.estimators.statistics import Layout, whitened
from jaxnlme.model.transforms import Log

# A settling run: iterations that go before it while the chains find the new parameters, and those that count.
WARM, FIRST, MOST_FIRST = 10, 2 * BATCHES, 500
# A maximum this near, in standard errors, is where a Newton step says it is.
CLOSE = 0.02
# Monte Carlo errors of standard errors, as a share of them: beyond the first, or without an inverse of the information,
# no step is taken before so many settling iterations; the second is what they end with, or after so many.
VAGUE, PATIENCE = 0.2, 400
SHARP, LONGEST_LOOK = 0.05, 2000
# Steps of so many Monte Carlo errors are no noise, that of the step before them included. Before control variates take
# most of the noise off, only a maximum this far off, in standard errors, is worth a step.
CLEAR, FAR = 4.0, 0.5
# The longest step between settling runs, in standard errors.
STRIDE = 1.0
# The same in standard errors of the complete data.
MOST_COMPLETE = 10.0
# Settling runs that find the maximum elsewhere before phases of averaging are added, and how often these are added
# where the information has no inverse.
ROUNDS, SINGULAR_TRIES = 5, 2
EXTENSION = (50, 100)
# An extension that goes on from what is remembered has steps as if it had begun so many iterations ago.
AGO = 10
# A scale vanishes where it fell by so much on its log scale, and less than this share of it is observed.
FALLEN, TOLD = 2.0, 0.1
# It does not where the standard error of its logarithm is less than this.
KNOWN = 0.5
# Iterations in which chains arrive that begin anew.
ARRIVE = 50
# How far below its start, on its log scale, it is tried again: starts are wide, and without annealing too wide.
RAISED = 1.4


@dataclasses.dataclass
class Ending:
    """How a stochastic run ended: `settled`, one a replicate (None where it did not come to that); `broken`, the
    phase in which parameters stopped being finite."""

    settled: list[Settled] | None = None
    broken: str | None = None


def conduct(run: Run) -> Ending:
    """Runs a fit to its end; Ctrl-C leaves it where it is, with `run.interrupted`."""
    ending = Ending()
    try:
        if run.iteration == 0:
            run.tell("init")
        schedule = run.estimator.schedule(run.warm)
        left = jax.tree.map(lambda leaf: leaf[run.iteration :], schedule)  # none, where a run resumes later than that
        for phase, part in _by_phase(run, left):
            run.go(part, phase)
            if run.stopped:
                break
        if not run.stopped:
            if not run.controlled:
                run.set_controls(int(schedule.settle.sum()))
            _settle(run, ending)
    except KeyboardInterrupt:
        run.keep()
        run.interrupted = True
    except Broken as broken:
        ending.broken = str(broken)
    except BaseException:
        run.keep()
        raise
    return ending


def _by_phase(run: Run, controls: Control):
    """The Controls of each phase that is left."""
    steps = controls.iteration - run.estimator.burn_in
    names = np.full(len(steps), "burn-in", object)
    for name, (first, last) in run.estimator.phases(run.warm).items():
        names[(steps >= first) & (steps <= last)] = name
    for name in dict.fromkeys(names):
        which = names == name
        yield name, jax.tree.map(lambda leaf, which=which: leaf[which], controls)


def _settle(run: Run, ending: Ending) -> None:
    """Settling runs until the maximum is near and known well enough, or the iterations are used up.

    Where the step to the maximum stands out of its noise, the parameters move along it; where it does not, the chains
    are listened to for longer.
    """
    course = run.course
    course.first = max(course.first, FIRST)
    while not run.stopped:
        run.hold()
        stand(run, WARM)
        run.restart_sums()
        if not _hear_out(run, ending, course.first):
            return
        found = ending.settled
        assert found is not None
        if _from_edge(run, found) or _to_edge(run, found):
            continue
        settled_down = not any(elsewhere(one) for one in _judges(found))
        vanished = 0 if run.layout.whitened else _vanished(run, found) & ~course.raised
        room = _left(run) >= WARM + course.first + sum(EXTENSION)
        if vanished and room and (settled_down or course.singular == SINGULAR_TRIES):
            # Zero is a root of the score in log s whatever the data say: whether it is the maximum shows from above.
            course.raised |= vanished
            run.place(_raised(run, vanished))
            _extend(run, afresh=True)
            course.rounds = course.singular = 0
            continue
        if settled_down:
            return
        course.first = max(course.first, min(found[0].iterations // 4, MOST_FIRST))
        course.rounds += 1
        # At the edge nothing but a step can be trusted.
        moving = course.rounds <= ROUNDS or run.layout.whitened
        if not any(one.regular for one in found):
            # No step can be trusted: averaging alone goes on.
            moving, course.singular = False, course.singular + 1
            if course.singular > SINGULAR_TRIES or run.layout.whitened:
                return
        if _left(run) < WARM + course.first + (0 if moving else sum(EXTENSION)):
            return
        if moving:
            run.place(np.stack([moved(one) for one in found]))
        else:
            _extend(run, afresh=False)
            course.rounds = 0


def _to_edge(run: Run, found: list[Settled]) -> bool:
    """Puts psi onto the edge of what it can be where the replicates all run into the same one; whether it did."""
    ends = _ends(run, found)
    if ends is None:
        return False
    packed, held = ends
    if not run.layout.whitened:
        run.before = np.array(run.running.packed)
    _begin_again(run, whitened(run.inside, run.binding.density, held), packed)
    return True


def _from_edge(run: Run, found: list[Settled]) -> bool:
    """Takes psi off an edge, for good, where the likelihood rises from there inwards; whether it did."""
    density = run.binding.density
    rises = run.layout.whitened and any(slope.rises for one in found for slope in slopes(run.inside, density, one))
    if not rises or _left(run) < ARRIVE + WARM + FIRST + sum(EXTENSION):
        return False
    held = np.asarray(run.inside.free) & ~np.asarray(run.layout.free)
    _begin_again(run, run.inside, run.before)
    fallen = [place for place, k in enumerate(scales(run)) if held[k] and run.starts[0][k] - run.before[0][k] > FALLEN]
    vanished = sum(1 << place for place in fallen)
    run.course.barred |= _bits(np.flatnonzero(held).tolist())
    run.course.raised |= vanished
    run.place(_raised(run, vanished))
    _extend(run, afresh=True)
    return True


def _begin_again(run: Run, layout: Layout, packed: np.ndarray) -> None:
    """Lets chains begin anew under a layout, at `packed` (replicates, packed)."""
    run.lay_out(layout, packed)
    stand(run, ARRIVE, begin=True)
    run.course.rounds = run.course.singular = 0


def _ends(run: Run, found: list[Settled]) -> tuple[np.ndarray, frozenset[int]] | None:
    """Where the edge is that the replicates run into (replicates, packed), and the entries held there; None where they
    run into none, or not all into the same."""
    density = run.binding.density
    if density.priors or _left(run) < ARRIVE + WARM + FIRST:
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
    return None if _bits(held) & ~run.course.barred == 0 else (np.stack([packed for packed, _ in ends]), held)


def _bits(entries: Iterable[int]) -> int:
    """Packed entries as the bits of a number."""
    return sum(1 << k for k in entries)


def _hear_out(run: Run, ending: Ending, first: int) -> bool:
    """Settling iterations where the run stands, `first` of them at first, until it is clear that the maximum is
    elsewhere or how near it is; `ending.settled` is what they told. False where the run was stopped, or its iterations
    used up, before."""
    tolerance = float(run.estimator.tolerance)
    # Control variates of an earlier settling run are in use from the beginning.
    since, fresh = (0 if run.controlled else None), False
    traces = _listen(run, first)
    while not run.stopped:
        found = ending.settled = _all_settled(run, traces, since)
        judges, heard = _judges(found), found[0].heard
        if _ends(run, found) is not None:
            return True
        # What has no inverse may be noise.
        doubtful = any(not one.blur <= VAGUE for one in found) and heard < PATIENCE
        if not doubtful and any(elsewhere(one) and (since is not None or one.distance > FAR) for one in judges):
            return True
        sharp = all(one.blur <= SHARP for one in judges) or heard >= LONGEST_LOOK
        if sharp and not doubtful and all(one.share <= tolerance for one in judges) and _edge_told(run, judges):
            return True
        # The first draws say how to make the most of the next ones.
        needed = _needed(found if doubtful else judges, tolerance)
        anew = not fresh and any(one.share > tolerance for one in judges) and run.set_controls(heard)
        more = min(first if anew else needed, _left(run))
        if more < 1:
            return False
        if anew:
            since, fresh = heard, True
        traces += _listen(run, more)
    return False


def _edge_told(run: Run, judges: list[Settled]) -> bool:
    """Whether it is clear if the likelihood falls from the edge, where psi is there, or was listened to for long."""
    if not run.layout.whitened or judges[0].heard >= LONGEST_LOOK:
        return True
    return all(slope.told for one in judges for slope in slopes(run.inside, run.binding.density, one))


def _judges(found: list[Settled]) -> list[Settled]:
    """The replicates that say when to go on: those whose information has an inverse, where there are any; the others
    hold nobody up."""
    return [one for one in found if one.regular] or found


def elsewhere(one: Settled) -> bool:
    """Whether the maximum is elsewhere beyond doubt: in some entry farther than is close, and than the noise."""
    if not one.regular:
        return True
    step = np.abs(one.step)
    return bool(np.any((step > CLOSE * one.se) & (step > CLEAR * one.monte_carlo_se)))


def scales(run: Run) -> list[int]:
    """Packed entries that are logarithms of standard deviations of effects, or of residual scales, where these move."""
    density, layout = run.binding.density, run.layout
    out = [layout.beta + index for index, _, _ in density.covariance.collapses]
    if density.error.gaussian_face:
        first = layout.beta + layout.covariance
        out += [first + k for k, p in enumerate(density.error.parameters) if isinstance(p.transform, Log)]
    return [k for k in out if layout.free[k]]


def vanishing(run: Run, one: Settled, k: int) -> bool:
    """Whether a scale, by its packed entry, is far below where it started and next to nothing is observed of it."""
    place = one.active.tolist().index(k)
    fallen = run.starts[0][k] - one.packed[k] > FALLEN
    return bool(fallen and not one.told[place] > TOLD and not one.se[place] < KNOWN)


def _vanished(run: Run, found: list[Settled]) -> int:
    """Bits of the scales that vanish in any replicate."""
    return sum(1 << place for place, k in enumerate(scales(run)) if any(vanishing(run, one, k) for one in found))


def _raised(run: Run, which: int) -> np.ndarray:
    """Where the replicates stand (replicates, packed), with some scales a quarter of what they started from."""
    packed = np.array(run.running.packed)
    for place, k in enumerate(scales(run)):
        if which >> place & 1:
            packed[:, k] = np.maximum(packed[:, k], run.starts[:, k] - RAISED)
    return packed


def _needed(found: list[Settled], tolerance: float) -> int:
    """How many more iterations bring the noise of estimates and standard errors down to what is asked for, four times
    as many as there are at most."""
    have = found[0].heard
    noise = max(max(one.share / tolerance, one.blur / SHARP) for one in found)
    return int(np.clip(1.1 * have * noise**2 - have, FIRST, max(4 * have, FIRST)))


def _left(run: Run) -> int:
    """Iterations that may still be made."""
    return max(int(run.estimator.max_iterations) - run.steps, 0)


def moved(one: Settled) -> np.ndarray:
    """Where a replicate goes on from (packed,): the maximum that its step points at, or as far as it trusts it."""
    if not one.regular:
        return one.packed
    # Where next to nothing is observed, the standard error is noise: what complete data would leave counts as well.
    trusted = one.se * np.minimum(1.0, MOST_COMPLETE * np.sqrt(np.maximum(one.told, 0.0)))
    length = np.max(np.abs(one.step) / np.maximum(trusted, 1e-300), initial=0.0)
    out = one.packed.copy()
    out[one.active] += one.step * min(1.0, STRIDE / max(length, 1e-300))
    return out


def _controls(run: Run, count: int, **changes: Any) -> Control:
    """Controls of the next `count` iterations of a run, at fixed parameters."""
    base = {"gain": 0.0, "update": False, "annealing": 0.0, "refresh": False, "tune": 0.0, "settle": False}
    base |= {"begin": False} | changes
    return Control(
        iteration=run.iteration + np.arange(count),
        **{name: np.broadcast_to(np.asarray(value), (count,)).copy() for name, value in base.items()},
    )


def stand(run: Run, count: int, anew: bool = True, begin: bool = False) -> None:
    """Lets the chains go on at parameters that stand still; `anew`: find modes and tune scales for them first; `begin`:
    put them at the mean of their population before."""
    # Scales of chains that begin are tuned as at a run's beginning.
    since = np.arange(count) + (0 if begin else run.iteration)
    controls = _controls(run, count, tune=tuning(since) if anew else 0.0)
    controls.refresh[0], controls.begin[0] = anew, begin
    run.go(controls, "settling")


def _listen(run: Run, count: int) -> list[Trace]:
    """Settling iterations at the parameters where the run stands."""
    return run.go(_controls(run, count, settle=True), "settling", keep=True)


def _extend(run: Run, afresh: bool) -> None:
    """Further averaging: with full steps first where it begins `afresh`, else from what the run remembers, which steps
    of single draws would throw away."""
    total = sum(EXTENSION)
    k = np.arange(total)
    gain = gains(k, EXTENSION[0] if afresh else -AGO)
    controls = _controls(run, total, update=True, gain=gain, tune=tuning(run.iteration + k))
    controls.refresh[:] = k % 10 == 0
    run.go(controls, "extension")
    run.course.extensions += 1


def _all_settled(run: Run, traces: list[Trace], since: int | None) -> list[Settled]:
    """What the settling iterations so far told of each replicate, with control variates from the iteration `since` on
    (None: without)."""
    sums, own = total_of(traces), run.sums()
    control = run.own([lanes.control for lanes in run.lanes])
    data = run.binding.data
    weights = np.where(data.observed.any(axis=1), data.weights, 0.0)
    out = []
    for r in range(run.replicates):
        packed = np.asarray(run.running.packed)[r]
        trace = jax.tree.map(lambda leaf, r=r: leaf[:, r], sums)
        heard = len(trace.heard.score)
        groups = jax.tree.map(lambda leaf, r=r, heard=heard: leaf[:, r] / heard, own)
        known = run.binding.density, run.template, run.layout, packed, trace, groups, control[:, r], weights
        out.append(settled(*known, since, run.placed.processes))
    return out
