"""Outer algorithm of a stochastic fit: scheduled phases, then Newton rounds until the maximum is known well enough.

Notation: theta, the free packed parameters; s(theta), the mean complete score, which is the score of the log-likelihood
(Fisher's identity); I(theta), the observed information by Louis' identity; V, the Monte Carlo covariance of the mean
score by batch means (see `louis.py`).

1. Run the scheduled phases of the method (SAEM: burn-in, annealing, full steps, decreasing steps; IMP: full and
   decreasing steps). Fit the coefficients of the control variates to the scores of their last iterations.
2. Round: hold theta fixed; equilibrate the chains (`SAMPLING.equilibration_iterations`); sample scores until the round
   is decided (`rounds/sampling_round.py`), with s, I and V computed after each segment:
   a. psi approaches a boundary, or the model is not twice differentiable there; or
   b. the Newton step d = I^-1 s is significant beside its Monte Carlo error (diag(I^-1 V I^-1))^1/2; or
   c. d is not significant, and the Monte Carlo errors of estimates and standard errors are within their limits.
   The run ends where its iterations are used up before.
3. Decide what follows (`rounds/decisions.py`, `next_action`): a move to the boundary of psi, off it or along it
   (`rounds/boundary_moves.py`); a Newton step to theta + d, or an uphill step; averaging; or the end, at theta + d
   (taken in `result.py`).
4. Carry it out, and go to 2.

**Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038, for the phases; Louis
(1982), Journal of the Royal Statistical Society B 44, 226-233, and Gu and Kong (1998), PNAS 95, 7270-7274, for Newton
steps from draws.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.phases import add_averaging, equilibrate
from jaxnlme.estimators.em.rounds.boundary_moves import (
    hold_vanished_parts,
    leave_boundary,
    move_to_boundary,
    restart_small_scales,
    rotate_singular_psi,
    start_at_boundary,
)
from jaxnlme.estimators.em.rounds.decisions import Action, RoundFacts, next_action
from jaxnlme.estimators.em.rounds.newton import newton_point, updated_doublings, uphill_point
from jaxnlme.estimators.em.rounds.sampling_round import sample_until_decided
from jaxnlme.estimators.em.run import NonFiniteParameters, Run
from jaxnlme.estimators.em.settings import SAMPLING


@dataclasses.dataclass
class RunOutcome:
    """Outcome of a stochastic run: `estimates`, score and information of each replicate in the last round (None if no
    round was reached); `non_finite_phase`, name of the phase in which parameters stopped being finite (None: in
    none)."""

    estimates: list[ScoreAndInformation] | None = None
    non_finite_phase: str | None = None


def run_algorithm(run: Run) -> RunOutcome:
    """Run a fit to its end (steps 1 to 4 of the module).

    Ctrl-C ends it at its current parameters, with `run.interrupted` set; so does a callback, with `run.stopped`.

    **Returns:** the RunOutcome. **Raises:** what the model or a callback raises, after the checkpoint is written.
    """
    outcome = RunOutcome()
    try:
        if run.iteration == 0:
            run.notify("init")
        schedule = run.estimator.schedule(run.warm)
        resumes_in_round = run.outer_state.initial_iterations > 0  # from a checkpoint
        if not resumes_in_round and not (run.iteration == 0 and start_at_boundary(run)):
            _scheduled_phases(run, schedule)
        if not run.stopped:
            _newton_phase(run, outcome)
        if run.stopped:
            run.save_interrupted()
    except KeyboardInterrupt:
        run.save_interrupted()
        run.interrupted = True
    except NonFiniteParameters as error:
        outcome.non_finite_phase = str(error)
    except BaseException:
        run.save_interrupted()
        raise
    return outcome


def _scheduled_phases(run: Run, schedule: Schedule) -> None:
    """Step 1: the iterations of `schedule` that are not done yet, and control variates from their last draws."""
    for phase, part in _split_by_phase(run, jax.tree.map(lambda leaf: leaf[run.iteration :], schedule)):
        run.iterate(part, phase)
        if run.stopped:
            return
    run.fit_control_variates(int(schedule.sum_scores.sum()))


def _split_by_phase(run: Run, schedule: Schedule):
    """Name and Schedule of each phase that has iterations in `schedule`, in order."""
    steps = schedule.iteration - run.estimator.burn_in
    names = np.full(len(steps), "burn-in", object)
    for name, (first, last) in run.phases.items():
        names[(steps >= first) & (steps <= last)] = name
    for name in dict.fromkeys(names):
        in_phase = names == name
        yield name, jax.tree.map(lambda leaf, in_phase=in_phase: leaf[in_phase], schedule)


def _newton_phase(run: Run, outcome: RunOutcome) -> None:
    """Steps 2 to 4: rounds at fixed parameters with actions between them, until the action is to stop, or the
    iterations are used up. `outcome.estimates` are those of the last round."""
    state = run.outer_state
    state.initial_iterations = max(state.initial_iterations, SAMPLING.min_score_iterations)
    while not run.stopped:
        # Step 2.
        run.save_point()
        equilibrate(run, SAMPLING.equilibration_iterations)
        run.reset_sums()
        sampled = sample_until_decided(run, state.initial_iterations)
        outcome.estimates = sampled.estimates
        if not sampled.decided or sampled.estimates is None:
            return
        # Step 3.
        facts = RoundFacts(run, sampled.estimates)
        action = next_action(facts)
        if action is Action.STOP:
            return
        # Step 4.
        _carry_out(action, run, facts)


def _carry_out(action: Action, run: Run, facts: RoundFacts) -> None:
    """Step 4: change the run by an `action` other than STOP."""
    match action:
        case Action.MOVE_TO_BOUNDARY:
            assert facts.approached_face is not None
            move_to_boundary(run, facts.approached_face, facts.n_iterations)
        case Action.LEAVE_BOUNDARY:
            if facts.higher_interior_point is not None:
                run.interior_point = facts.higher_interior_point
            leave_boundary(run, facts.estimates, facts.at_maximum)
        case Action.RESTART_SMALL_SCALES:
            restart_small_scales(run, facts.scales_to_restart)
        case Action.HOLD_VANISHED_PARTS:
            hold_vanished_parts(run, facts.vanished_parts)
        case Action.ROTATE:
            assert facts.rotated_face is not None
            rotate_singular_psi(run, facts.rotated_face, facts.n_iterations)
        case Action.NEWTON_STEP | Action.UPHILL_STEP:
            _count_step(run, facts)
            active = facts.estimates[0].active
            before = np.asarray(run.em_state.packed)[:, active]
            run.outer_state.doublings = updated_doublings(run, facts.estimates)
            run.set_parameters(np.stack([_next_point(run, estimate) for estimate in facts.estimates]))
            run.outer_state.last_steps = np.asarray(run.em_state.packed)[:, active] - before
            run.outer_state.last_se = np.stack([estimate.se for estimate in facts.estimates])
        case Action.ADD_AVERAGING:
            _count_step(run, facts)
            add_averaging(run, full_steps_first=False)
            run.outer_state.newton_steps = 0


def _count_step(run: Run, facts: RoundFacts) -> None:
    """Count a step, or averaging in its place, in the outer state."""
    state = run.outer_state
    state.initial_iterations = facts.next_initial_iterations
    state.newton_steps += 1
    if not facts.any_positive_definite:
        state.singular_rounds += 1


def _next_point(run: Run, estimate: ScoreAndInformation) -> np.ndarray:
    """Parameters (packed,) of a replicate after a step: an uphill step where its own information is not positive
    definite, on the boundary or from transported draws; otherwise the Newton step."""
    if (run.layout.whitened or estimate.transported) and not estimate.positive_definite:
        return uphill_point(run, estimate, run.outer_state.doublings)
    return newton_point(run, estimate, run.outer_state.doublings)
