"""From the first iteration of a stochastic fit to its end: phases, settling rounds, extensions, the verdict."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxnlme.estimators.em.boundary_moves import (
    approached_boundary,
    direction_is_clear,
    leave_boundary,
    move_to_boundary,
    restart_small_scales,
    rotate_singular_psi,
    scales,
    start_at_boundary,
    uphill_point,
)
from jaxnlme.estimators.em.e_step import IterationTrace
from jaxnlme.estimators.em.louis import BATCHES, ScoreAndInformation, louis_estimate
from jaxnlme.estimators.em.m_step import Schedule, Simulated
from jaxnlme.estimators.em.phases import EXTENSION, add_averaging, equilibrate, iterations_left, sample_scores
from jaxnlme.estimators.em.run import NonFiniteParameters, Run

# A settling run: iterations that go before it while the chains find the new parameters, and those that count.
WARM, FIRST, MOST_FIRST = 10, 2 * BATCHES, 500
# What a Newton step may leave of the way, as a share of the Monte Carlo error of where it leads and of what is allowed.
LEFT, LEAST = 0.2, 0.02
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
# where the information has no inverse (at the edge of psi: pushes uphill).
ROUNDS, SINGULAR_TRIES, PUSHES = 5, 2, 10


@dataclasses.dataclass
class RunOutcome:
    """How a stochastic run ended: `louis`, one a replicate (None where it did not come to that); `broken`, the
    phase in which parameters stopped being finite."""

    louis: list[ScoreAndInformation] | None = None
    broken: str | None = None


def run_algorithm(run: Run) -> RunOutcome:
    """Runs a fit to its end; Ctrl-C leaves it where it is, with `run.interrupted`."""
    outcome = RunOutcome()
    try:
        if run.iteration == 0:
            run.notify("init")
        schedule = run.estimator.schedule(run.warm)
        settling = run.outer_state.first > 0  # where a run goes on from a file
        if not settling and not (run.iteration == 0 and start_at_boundary(run)):
            _phases(run, schedule)
        if not run.stopped:
            _newton_phase(run, outcome)
    except KeyboardInterrupt:
        run.save_interrupted()
        run.interrupted = True
    except NonFiniteParameters as broken:
        outcome.broken = str(broken)
    except BaseException:
        run.save_interrupted()
        raise
    return outcome


def _phases(run: Run, schedule: Schedule) -> None:
    """The phases of a schedule, as far as they are left, and the control variates of their last draws."""
    for phase, part in _by_phase(run, jax.tree.map(lambda leaf: leaf[run.iteration :], schedule)):
        run.iterate(part, phase)
        if run.stopped:
            return
    run.fit_control_variates(int(schedule.sum_scores.sum()))


def _by_phase(run: Run, schedule: Schedule):
    """The Controls of each phase that is left."""
    steps = schedule.iteration - run.estimator.burn_in
    names = np.full(len(steps), "burn-in", object)
    for name, (first, last) in run.phases.items():
        names[(steps >= first) & (steps <= last)] = name
    for name in dict.fromkeys(names):
        which = names == name
        yield name, jax.tree.map(lambda leaf, which=which: leaf[which], schedule)


def _newton_phase(run: Run, outcome: RunOutcome) -> None:
    """Settling runs until the maximum is near and known well enough, or the iterations are used up.

    Where the step to the maximum stands out of its noise, the parameters move along it; where it does not, the chains
    are listened to for longer.
    """
    course = run.outer_state
    course.first = max(course.first, FIRST)
    while not run.stopped:
        run.save_point()
        equilibrate(run, WARM)
        run.restart_sums()
        if not _sample_until_decided(run, outcome, course.first):
            return
        found = outcome.louis
        assert found is not None
        if move_to_boundary(run, found):
            continue
        settled_down = not any(significantly_off_maximum(run, one) for one in _deciding_replicates(found))
        # Away from the maximum at the edge its slope says nothing, and is asked only where no step leads there.
        lost = course.rounds >= ROUNDS or not any(one.positive_definite and one.twice_differentiable for one in found)
        if (settled_down or lost) and leave_boundary(run, found, settled_down):
            continue
        if (settled_down or course.singular == SINGULAR_TRIES) and restart_small_scales(run, found):
            continue
        if settled_down and rotate_singular_psi(run, found):
            continue
        if settled_down:
            return
        course.first = max(course.first, min(found[0].iterations // 4, MOST_FIRST))
        course.rounds += 1
        moving = course.rounds <= ROUNDS or run.layout.whitened
        if not any(one.positive_definite for one in found):
            # No step can be trusted: averaging alone goes on, or where there is none, a push uphill.
            moving, course.singular = run.layout.whitened, course.singular + 1
            if course.singular > (PUSHES if run.layout.whitened else SINGULAR_TRIES):
                return
        if iterations_left(run) < WARM + course.first + (0 if moving else sum(EXTENSION)):
            return
        if moving:
            whitened = run.layout.whitened
            run.set_parameters(
                np.stack(
                    [
                        uphill_point(run, one) if whitened and not one.positive_definite else newton_point(one)
                        for one in found
                    ]
                )
            )
        else:
            add_averaging(run, afresh=False)
            course.rounds = 0


def _sample_until_decided(run: Run, outcome: RunOutcome, first: int) -> bool:
    """Settling iterations where the run stands, `first` of them at first, until it is clear that the maximum is
    elsewhere or how near it is; `outcome.louis` is what they told. False where the run was stopped, or its iterations
    used up, before."""
    tolerance = float(run.estimator.tolerance)
    # Control variates of an earlier settling run are in use from the beginning.
    since, fresh = (0 if run.has_control_variates else None), False
    traces = sample_scores(run, first)
    while not run.stopped:
        found = outcome.louis = _louis_estimates(run, traces, since)
        judges, heard = _deciding_replicates(found), found[0].n_iterations
        if approached_boundary(run, found) is not None or not all(one.twice_differentiable for one in found):
            return True
        # What has no inverse may be noise. At the edge of psi, where it has none far from the maximum, pushes follow.
        patience = 2 * first if run.layout.whitened else PATIENCE
        doubtful = any(not one.se_mc_error <= VAGUE for one in found) and heard < patience
        if not doubtful and any(
            significantly_off_maximum(run, one) and (since is not None or one.distance > FAR) for one in judges
        ):
            return True
        # Without control variates batches are too short for the memory of the chains at first.
        steady = since is not None or heard >= PATIENCE
        sharp = steady and (all(one.se_mc_error <= SHARP for one in judges) or heard >= LONGEST_LOOK)
        clear = direction_is_clear(run, judges) or heard >= LONGEST_LOOK
        if sharp and clear and not doubtful and all(one.mc_error_ratio <= tolerance for one in judges):
            return True
        # The first draws say how to make the most of the next ones.
        needed = _needed(found if doubtful else judges, tolerance)
        anew = (
            not fresh
            and (since is None or any(one.mc_error_ratio > tolerance for one in judges))
            and run.fit_control_variates(heard)
        )
        more = min(first if anew else needed, iterations_left(run))
        if more < 1:
            return False
        if anew:
            # Fixed before the draws that they are used on, better ones and those before them are as right.
            since, fresh = (heard if since is None else since), True
        traces += sample_scores(run, more)
    return False


def _deciding_replicates(found: list[ScoreAndInformation]) -> list[ScoreAndInformation]:
    """The replicates that say when to go on: those whose information has an inverse, where there are any; the others
    hold nobody up."""
    return [one for one in found if one.positive_definite] or found


def significantly_off_maximum(run: Run, one: ScoreAndInformation) -> bool:
    """Whether the maximum is elsewhere beyond doubt: in some entry farther than the noise, and so far that what a
    Newton step leaves counts beside it. That is of the order of its square, and its share of what is not known of the
    information."""
    if not one.positive_definite:
        return True
    step = np.abs(one.step)
    clear = step > CLEAR * one.monte_carlo_se
    far = float(np.max((step / one.se)[clear], initial=0.0))
    tolerance = float(run.estimator.tolerance)
    # A logarithm of which little is known bends the more.
    bend = 1.0 + 2.0 * float(np.max(one.se[np.isin(one.active, scales(run))], initial=0.0))
    return far > tolerance or far * (bend * far + 2.0 * one.se_mc_error) > max(
        LEFT * one.mc_error_ratio, LEAST * tolerance
    )


def _needed(found: list[ScoreAndInformation], tolerance: float) -> int:
    """How many more iterations bring the noise of estimates and standard errors down to what is asked for, as many as
    there are at most: what is known of the noise is noisy itself."""
    have = found[0].n_iterations
    noise = max(max(one.mc_error_ratio / tolerance, one.se_mc_error / SHARP) for one in found)
    return int(np.clip(1.1 * have * noise**2 - have, FIRST, max(have, FIRST)))


def newton_point(one: ScoreAndInformation) -> np.ndarray:
    """Where a replicate goes on from (packed,): the maximum that its step points at, or as far as it trusts it."""
    if not one.positive_definite:
        return one.packed
    # Where next to nothing is observed, the standard error is noise: what complete data would leave counts as well.
    trusted = one.se * np.minimum(1.0, MOST_COMPLETE * np.sqrt(np.maximum(one.observed_fraction, 0.0)))
    length = np.max(np.abs(one.step) / np.maximum(trusted, 1e-300), initial=0.0)
    out = one.packed.copy()
    out[one.active] += one.step * min(1.0, STRIDE / max(length, 1e-300))
    return out


def _total(traces: list[IterationTrace]) -> Simulated:
    """The Simulated of all iterations (iterations, replicates, ...)."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(trace.simulated for trace in traces))


def _louis_estimates(run: Run, traces: list[IterationTrace], since: int | None) -> list[ScoreAndInformation]:
    """What the settling iterations so far told of each replicate, with control variates from the iteration `since` on
    (None: without)."""
    sums, own = _total(traces), run.sums()
    control_coefficients = run.to_host([chain_states.control_coefficients for chain_states in run.chain_states])
    data = run.binding.data
    weights = np.where(data.observed.any(axis=1), data.weights, 0.0)
    out = []
    for r in range(run.replicates):
        packed = np.asarray(run.em_state.packed)[r]
        trace = jax.tree.map(lambda leaf, r=r: leaf[:, r], sums)
        heard = len(trace.score_sums.score)
        groups = jax.tree.map(lambda leaf, r=r, heard=heard: leaf[:, r] / heard, own)
        known = (
            run.binding.density,
            run.template,
            run.layout,
            packed,
            trace,
            groups,
            control_coefficients[:, r],
            weights,
        )
        out.append(louis_estimate(*known, since, run.placed.processes))
    return out
