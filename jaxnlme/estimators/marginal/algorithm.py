"""Maximisation of an objective until it is converged, with the checks that a converged fit has passed.

Rounds, at most CRITERIA.max_rounds; each check that finds a better point or other free parameters starts the next:

1. Minimise the objective by quasi-Newton steps (`search.py`). End if the user stopped the fit, the iterations
   are used up, or the objective is not finite.
2. Search the conditional modes of all groups again from z = 0. Adopt the better ones: next round.
3. Compute the information matrix I, the second derivatives of the objective in the free parameters. (Without standard
   errors: 5 for the variances at zero, then end.)
4. Set variances whose log standard deviation has almost no curvature to exactly zero, if that costs no likelihood:
   next round.
5. Compute the score of each variance at zero. If the likelihood increases towards the interior, free it: next round.
6. Follow a direction of negative curvature of I to a lower objective: next round.
7. Take at most ROUNDS.max_newton_steps Newton steps x <- x - I^-1 g (g the gradient), until the predicted gain
   g' I^-1 g / 2 is below a millionth of CRITERIA.max_gain. If an entry has moved by more than CRITERIA.max_newton_move
   standard errors, compute I again.

The outcome is then assessed (`convergence.assess`): converged means, among others, a predicted gain below 1e-6.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.errors import Status
from jaxnlme.estimators.marginal.boundary import fix_zeroed, leave_boundary, set_to_zero, variances_at_zero
from jaxnlme.estimators.marginal.convergence import Convergence, assess
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import CRITERIA, ROUNDS
from jaxnlme.results.inference import singular_directions


def run_to_convergence(session: Session, with_information: bool) -> Convergence:
    """Minimise the objective of `session` in rounds (see the module), and assess the outcome.

    **Arguments:** `session`, at its start or resumed from a checkpoint; `with_information`: compute the information
    matrix and make the checks that need it (steps 3 to 7).
    **Returns:** the Convergence; `session` is then at the best point.
    """
    if not session.resumed:
        session.zeroed = variances_at_zero(session)
        fix_zeroed(session)
    try:
        matrix, decrement = _rounds(session, with_information)
        session.processes.run_collectively(lambda: session.save(finished=not session.halted))
    except KeyboardInterrupt:
        session.interrupted = True
        matrix, decrement = None, np.inf
        session.save()
    except BaseException:
        session.save()
        raise
    active = np.flatnonzero(session.free[: session.n_dense])
    return assess(session, matrix, active, decrement, with_information)


def _rounds(session: Session, with_information: bool) -> tuple[np.ndarray | None, float]:
    """The rounds of `run_to_convergence`.

    **Returns:** the information matrix at the end (None if it was not reached), and the predicted gain of a step.
    """
    for _ in range(CRITERIA.max_rounds):
        session.minimise()
        session.processes.run_collectively(session.save)
        if session.halted or session.out_of_iterations or not np.isfinite(session.best.value):
            return None, np.inf
        if _adopt_better_modes(session):
            continue
        # The minimisation itself may have set a variance to zero.
        if session.zeroed and not with_information and leave_boundary(session):
            continue
        if not with_information:
            return None, float(session.state.bfgs.decrement) if session.state else np.inf
        active = np.flatnonzero(session.free[: session.n_dense])
        matrix = session.hessian(active)
        if set_to_zero(session, active, matrix):
            continue
        if leave_boundary(session):
            continue
        if _follow_negative_curvature(session, active, matrix):
            continue
        before = session.x
        decrement = _newton_steps(session, active, matrix)
        moves_in_se = np.abs(session.x[active] - before[active]) * np.sqrt(np.abs(np.diag(matrix)))
        if np.max(moves_in_se, initial=0.0) > CRITERIA.max_newton_move:
            matrix = session.hessian(active)
        return matrix, decrement
    return None, np.inf


def _adopt_better_modes(session: Session) -> bool:
    """Search every mode from z = 0 and adopt the better ones; True if there was one.

    If a group has several modes, the better one is that with the larger approximate likelihood: the integral is at
    least the larger part. Groups whose mode was not found again are recorded in `session.modes_not_reproduced`.
    """
    if not (session.estimator.method.at_mode and session.binding.density.n_effects):
        return False
    outcome = session.evaluate(session.x, session.objective.evaluator.zero_modes())
    fresh, current = outcome.local_groups, session.best.local_groups
    has_weight = session.binding.data.weights != 0
    value = np.where(has_weight, fresh.values, 0.0)
    best = np.where(has_weight, current.values, 0.0)
    mode_found = np.isin(fresh.status, (Status.ok, Status.no_observations))
    slack = ROUNDS.better_mode_gain + ROUNDS.rounding_of_modes * np.abs(best)
    session.modes_not_reproduced = has_weight & ~(mode_found & (value > best - slack))
    better = has_weight & mode_found & (value > best + slack)
    if not session.processes.any(better.any()):
        return False
    modes = session.objective.evaluator.place_modes(np.where(better[:, None], fresh.modes, current.modes))
    session.move(session.evaluate(session.x, modes))
    return True


def _follow_negative_curvature(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """Move from a saddle point along a direction of negative curvature, if the objective is lower there; True if so.

    **Arguments:** `active`: packed indices of the free entries; `matrix` (active, active): the information.
    """
    if not len(active) or not np.isfinite(matrix).all():
        return False
    scale = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(matrix)), ROUNDS.least_curvature))
    values, vectors = np.linalg.eigh(matrix * np.outer(scale, scale))
    if values[0] > -ROUNDS.negative_curvature:
        return False
    # Entries with little curvature have a large scale: limit the change of a log standard deviation to one.
    logs = [len(session.binding.density.beta_names) + k for k, _, _ in session.binding.density.covariance.log_scales]
    direction = scale * vectors[:, 0]
    direction /= np.max(np.abs(direction[np.isin(active, logs)]), initial=1.0)
    for length in ROUNDS.saddle_steps:
        for sign in (1.0, -1.0):
            x = session.x.copy()
            x[active] += sign * length * direction
            trial = session.evaluate(x, session.best.modes)
            if trial.value < session.best.value - ROUNDS.saddle_gain:
                session.move(trial)
                return True
    return False


def _newton_steps(session: Session, active: np.ndarray, matrix: np.ndarray) -> float:
    """Take at most ROUNDS.max_newton_steps Newton steps with the given information `matrix` (active, active).

    **Returns:** the predicted gain of a further step at the last point, infinite if the matrix is singular.
    """
    if not len(active):
        return 0.0
    if singular_directions(matrix, [str(k) for k in active]):
        return np.inf
    decrement = np.inf
    for _ in range(ROUNDS.max_newton_steps):
        gradient = session.best.sums.gradient[active]
        step = -np.linalg.solve(matrix, gradient)
        decrement = float(-0.5 * gradient @ step)
        if decrement < ROUNDS.newton_gain_ratio * CRITERIA.max_gain:
            break
        x = session.x.copy()
        x[active] += step
        trial = session.evaluate(x, session.best.modes)
        if not trial.value <= session.best.value + ROUNDS.rounding_of_sums * abs(session.best.value):
            break
        session.best = trial
    return decrement
