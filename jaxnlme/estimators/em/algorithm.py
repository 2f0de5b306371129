"""Outer algorithm of a stochastic fit: scheduled phases, then Newton rounds until the maximum is known well enough.

Notation: theta, the free packed parameters; s(theta), the mean complete score, which is the score of the log-likelihood
(Fisher's identity); I(theta), the observed information by Louis' identity; V, the Monte Carlo covariance of the mean
score by batch means (see `louis.py`).

1. Run the scheduled phases of the method (SAEM: burn-in, annealing, full steps, decreasing steps; IMP: full and
   decreasing steps). Fit the coefficients of the control variates to the scores of their last iterations.
2. Round: hold theta fixed; equilibrate the chains (`SAMPLING.equilibration_iterations`); then sample scores in
   batches, with s, I and V computed after each batch, until the round is decided (`_sample_until_decided`):
   a. psi approaches a boundary, or the model is not twice differentiable there; or
   b. the Newton step d = I^-1 s is significant beside its Monte Carlo error (diag(I^-1 V I^-1))^1/2; or
   c. d is not significant, and the Monte Carlo errors of estimates and standard errors are within their limits; or
   d. the iterations are used up: the run ends.
   Control variates are fitted anew to the draws of the round where that helps.
3. Boundary moves (`boundary_moves.py`), the first that applies, each followed by another round: psi moves to the
   boundary; leaves the boundary; small scales are restarted from above; a singular psi is rotated.
4. If d is not significant and no move applies: end, at theta + d (taken in `result.py`).
5. Otherwise move: theta + d, shortened to `STEPS.longest_step` standard errors; on the boundary of psi, where I is not
   positive definite, an uphill step. In the interior, after `STEPS.max_newton_steps` moves or where I is not positive
   definite, add a phase of averaging instead. Go to 2.

**Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038, for the phases; Louis
(1982), Journal of the Royal Statistical Society B 44, 226-233, and Gu and Kong (1998), PNAS 95, 7270-7274, for Newton
steps from draws.
"""

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
    scale_entries,
    start_at_boundary,
    uphill_point,
)
from jaxnlme.estimators.em.e_step import IterationTrace
from jaxnlme.estimators.em.louis import ScoreAndInformation, louis_estimate
from jaxnlme.estimators.em.m_step import Schedule, SimulationSums
from jaxnlme.estimators.em.phases import (
    add_averaging,
    equilibrate,
    iterations_remaining,
    sample_scores,
)
from jaxnlme.estimators.em.run import NonFiniteParameters, Run
from jaxnlme.estimators.em.settings import CRITERIA, SAMPLING, SCHEDULE, STEPS


@dataclasses.dataclass
class RunOutcome:
    """Outcome of a stochastic run: `estimates`, score and information of each replicate in the last round (None if no
    round was reached); `non_finite_phase`, name of the phase in which parameters stopped being finite (None: in
    none)."""

    estimates: list[ScoreAndInformation] | None = None
    non_finite_phase: str | None = None


def run_algorithm(run: Run) -> RunOutcome:
    """Run a fit to its end (steps 1 to 5 of the module).

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
    """Steps 2 to 5: rounds at fixed parameters, with moves between them, until no move applies or the iterations are
    used up. `outcome.estimates` are those of the last round."""
    state = run.outer_state
    state.initial_iterations = max(state.initial_iterations, SAMPLING.min_score_iterations)
    while not run.stopped:
        # Step 2.
        run.save_point()
        equilibrate(run, SAMPLING.equilibration_iterations)
        run.reset_sums()
        if not _sample_until_decided(run, outcome, state.initial_iterations):
            return
        estimates = outcome.estimates
        assert estimates is not None
        # Step 3.
        if move_to_boundary(run, estimates):
            continue
        at_maximum = not any(significantly_off_maximum(run, estimate) for estimate in _deciding_replicates(estimates))
        # Far from the maximum on the boundary, the slope into the interior is no evidence; it counts at that maximum,
        # or where no Newton step leads there.
        no_newton_step = state.newton_steps >= STEPS.max_newton_steps or not any(
            estimate.positive_definite and estimate.twice_differentiable for estimate in estimates
        )
        if (at_maximum or no_newton_step) and leave_boundary(run, estimates, at_maximum):
            continue
        if (at_maximum or state.singular_rounds == STEPS.max_singular_rounds) and restart_small_scales(run, estimates):
            continue
        if at_maximum and rotate_singular_psi(run, estimates):
            continue
        # Step 4.
        if at_maximum:
            return
        # Step 5.
        state.initial_iterations = max(
            state.initial_iterations, min(estimates[0].iterations // 4, SAMPLING.max_initial_iterations)
        )
        state.newton_steps += 1
        take_step = state.newton_steps <= STEPS.max_newton_steps or run.layout.whitened
        if not any(estimate.positive_definite for estimate in estimates):
            # There is no Newton step: averaging in the interior, and on the boundary, which has none, an uphill step.
            take_step, state.singular_rounds = run.layout.whitened, state.singular_rounds + 1
            if state.singular_rounds > (STEPS.max_uphill_steps if run.layout.whitened else STEPS.max_singular_rounds):
                return
        needed = SAMPLING.equilibration_iterations + state.initial_iterations
        if iterations_remaining(run) < needed + (0 if take_step else sum(SCHEDULE.added_averaging)):
            return
        if take_step:
            on_boundary = run.layout.whitened
            run.set_parameters(
                np.stack(
                    [
                        uphill_point(run, estimate)
                        if on_boundary and not estimate.positive_definite
                        else newton_point(estimate)
                        for estimate in estimates
                    ]
                )
            )
        else:
            add_averaging(run, full_steps_first=False)
            state.newton_steps = 0


def _sample_until_decided(run: Run, outcome: RunOutcome, initial_iterations: int) -> bool:
    """Sample scores at the current parameters until the round is decided (step 2, a to c).

    **Arguments:** `initial_iterations` of the first batch; `outcome`, whose `estimates` are set after each batch.
    **Returns:** False if the run was stopped, or its iterations were used up, before that.
    """
    tolerance = float(run.estimator.tolerance)
    # The first score iteration in which control variates are used (None: not yet). Those of an earlier round are used
    # from the beginning.
    control_variates_from, refitted = (0 if run.has_control_variates else None), False
    traces = sample_scores(run, initial_iterations)
    while not run.stopped:
        estimates = outcome.estimates = _louis_estimates(run, traces, control_variates_from)
        deciding, n_iterations = _deciding_replicates(estimates), estimates[0].n_iterations
        if approached_boundary(run, estimates) is not None or not all(
            estimate.twice_differentiable for estimate in estimates
        ):
            return True
        # An information that is not positive definite may be due to noise. On the boundary of psi, where it often is so
        # far from the maximum, an uphill step follows sooner.
        uncertain_until = 2 * initial_iterations if run.layout.whitened else CRITERIA.uncertain_iterations
        uncertain = (
            any(not estimate.se_mc_error <= CRITERIA.uncertain_se_error for estimate in estimates)
            and n_iterations < uncertain_until
        )
        if not uncertain and any(
            significantly_off_maximum(run, estimate)
            and (control_variates_from is not None or estimate.distance > STEPS.large_step)
            for estimate in deciding
        ):
            return True
        # Without control variates the first batches are too short beside the autocorrelation time of the chains.
        batches_long_enough = control_variates_from is not None or n_iterations >= CRITERIA.uncertain_iterations
        se_final = batches_long_enough and (
            all(estimate.se_mc_error <= CRITERIA.se_error_limit for estimate in deciding)
            or n_iterations >= CRITERIA.max_se_iterations
        )
        direction_final = direction_is_clear(run, deciding) or n_iterations >= CRITERIA.max_se_iterations
        if (
            se_final
            and direction_final
            and not uncertain
            and all(estimate.mc_error_ratio <= tolerance for estimate in deciding)
        ):
            return True
        # Control variates are fitted to the first draws of a round, once, if the next batch then needs fewer of them.
        needed = _iterations_needed(estimates if uncertain else deciding, tolerance)
        refit = (
            not refitted
            and (control_variates_from is None or any(estimate.mc_error_ratio > tolerance for estimate in deciding))
            and run.fit_control_variates(n_iterations)
        )
        count = min(initial_iterations if refit else needed, iterations_remaining(run))
        if count < 1:
            return False
        if refit:
            # Coefficients fixed before the draws that they are applied to leave the mean unbiased, earlier ones too.
            control_variates_from = n_iterations if control_variates_from is None else control_variates_from
            refitted = True
        traces += sample_scores(run, count)
    return False


def _deciding_replicates(estimates: list[ScoreAndInformation]) -> list[ScoreAndInformation]:
    """Replicates used by the stopping rule: those with positive definite observed information, or all if there are
    none."""
    return [estimate for estimate in estimates if estimate.positive_definite] or estimates


def significantly_off_maximum(run: Run, estimate: ScoreAndInformation) -> bool:
    """True if the maximum is away from the parameters of a replicate, beyond Monte Carlo error, and so far that the
    last Newton step would leave too much of the distance; also if the information is not positive definite.

    With x the longest significant step in standard errors, a Newton step leaves about c x^2 (c a bound on the relative
    change of the curvature along it), and 2 e x of it where the information has a relative error of 2 e.
    """
    if not estimate.positive_definite:
        return True
    step = np.abs(estimate.step)
    significant = step > CRITERIA.significant_mc_errors * estimate.monte_carlo_se
    distance = float(np.max((step / estimate.se)[significant], initial=0.0))
    tolerance = float(run.estimator.tolerance)
    # The log-likelihood is the farther from quadratic, the larger the standard error of a log standard deviation.
    curvature_change = 1.0 + 2.0 * float(np.max(estimate.se[np.isin(estimate.active, scale_entries(run))], initial=0.0))
    return distance > tolerance or distance * (curvature_change * distance + 2.0 * estimate.se_mc_error) > max(
        CRITERIA.remainder_per_mc_error * estimate.mc_error_ratio, CRITERIA.remainder_per_tolerance * tolerance
    )


def _iterations_needed(estimates: list[ScoreAndInformation], tolerance: float) -> int:
    """Number of further score iterations that bring the Monte Carlo errors of estimates and standard errors to their
    limits, at most as many as there are: the Monte Carlo errors are themselves estimated with error."""
    n_iterations = estimates[0].n_iterations
    ratio = max(
        max(estimate.mc_error_ratio / tolerance, estimate.se_mc_error / CRITERIA.se_error_limit)
        for estimate in estimates
    )
    return int(
        np.clip(
            1.1 * n_iterations * ratio**2 - n_iterations,
            SAMPLING.min_score_iterations,
            max(n_iterations, SAMPLING.min_score_iterations),
        )
    )


def newton_point(estimate: ScoreAndInformation) -> np.ndarray:
    """Parameters (packed,) after a Newton step d = I^-1 s, shortened to `STEPS.longest_step` standard errors; the same
    parameters if the information is not positive definite."""
    if not estimate.positive_definite:
        return estimate.packed
    # Where almost nothing is observed of an entry, its standard error is mostly noise: the one of complete data limits
    # the step as well.
    trusted = estimate.se * np.minimum(
        1.0, STEPS.longest_complete_step * np.sqrt(np.maximum(estimate.observed_fraction, 0.0))
    )
    length = np.max(np.abs(estimate.step) / np.maximum(trusted, 1e-300), initial=0.0)
    out = estimate.packed.copy()
    out[estimate.active] += estimate.step * min(1.0, STEPS.longest_step / max(length, 1e-300))
    return out


def _concatenated(traces: list[IterationTrace]) -> SimulationSums:
    """Sums of all iterations of the traces, leaves (iterations, replicates, ...)."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(trace.simulation_sums for trace in traces))


def _louis_estimates(
    run: Run, traces: list[IterationTrace], control_variates_from: int | None
) -> list[ScoreAndInformation]:
    """Score, observed information and their Monte Carlo errors of each replicate, from the score iterations so far,
    with control variates from the iteration `control_variates_from` on (None: without)."""
    simulated, group_sums = _concatenated(traces), run.score_sums()
    control_coefficients = run.to_host([chunk.control_coefficients for chunk in run.chain_states])
    data = run.binding.data
    weights = np.where(data.observed.any(axis=1), data.weights, 0.0)
    out = []
    for r in range(run.replicates):
        packed = np.asarray(run.em_state.packed)[r]
        sums = jax.tree.map(lambda leaf, r=r: leaf[:, r], simulated)
        n_iterations = len(sums.score_sums.score)
        group_means = jax.tree.map(lambda leaf, r=r, n=n_iterations: leaf[:, r] / n, group_sums)
        out.append(
            louis_estimate(
                run.binding.density,
                run.template,
                run.layout,
                packed,
                sums,
                group_means,
                control_coefficients[:, r],
                weights,
                control_variates_from,
                run.placed.processes,
            )
        )
    return out
