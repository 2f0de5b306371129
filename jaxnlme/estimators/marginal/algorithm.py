"""Maximisation of an objective until it is converged, with the checks that a converged fit has passed.

Rounds, at most CRITERIA.max_rounds; each check that finds a better point or other free parameters starts the next:

1. Minimise the objective by quasi-Newton steps (`search.py`). End if the user stopped the fit, the iterations
   are used up, or the objective is not finite.
2. Search the conditional modes of all groups again from several starts (`modes`). Adopt others: next round. Where a
   part of a residual scale is estimated as zero, or residuals as independent, try larger parts and stronger
   correlations: next round if the objective is lower there.
3. Compute the information matrix I, the second derivatives of the objective in the free parameters. (Without standard
   errors: 4 and 5 with the outer products of the groups' scores as I, then end.)
4. Set variances whose log standard deviation has almost no curvature to exactly zero, if that costs no likelihood:
   next round.
5. Search for a higher likelihood on the rays from the variances at zero (`boundary_rays`); move there if it is found:
   next round.
6. Follow a direction of negative curvature of I to a lower objective: next round.
7. Take at most ROUNDS.max_newton_steps Newton steps x <- x - I^-1 g (g the gradient), until the predicted gain
   g' I^-1 g / 2 is below a millionth of CRITERIA.max_gain. If an entry has moved by more than CRITERIA.max_newton_move
   standard errors, compute I again.

The outcome is then assessed (`convergence.assess`): converged means, among others, a predicted gain below 1e-6.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.estimators.core.correlation_bounds import bounds_of_correlation, points_inside
from jaxnlme.estimators.core.zero_variances import entries_of, vanished_parts
from jaxnlme.estimators.marginal.boundary import fix_zeroed, leave_boundary, set_to_zero, variances_at_zero
from jaxnlme.estimators.marginal.convergence import Convergence, assess
from jaxnlme.estimators.marginal.flat_directions import has_doubtful_direction
from jaxnlme.estimators.marginal.limits import move_to_best, restore_correlation
from jaxnlme.estimators.marginal.modes import adopt_modes_of_rule
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import CRITERIA, ROUNDS
from jaxnlme.numerics.linalg import unit_diagonal
from jaxnlme.results.inference import singular_directions


def run_to_convergence(session: Session, with_information: bool) -> Convergence:
    """Minimise the objective of `session` in rounds (see the module), and assess the outcome.

    **Arguments:** `session`, at its start or resumed from a checkpoint; `with_information`: compute the information
    matrix and make the checks that need it (steps 3 to 7).
    **Returns:** the Convergence; `session` is then at the best point.
    """
    if not session.resumed:
        session.zeroed = variances_at_zero(session)
    fix_zeroed(session)  # of a checkpoint, too: it may have been written while residual parameters were held
    try:
        matrix, active, decrement = _rounds(session, with_information)
        session.processes.run_collectively(lambda: session.save(finished=not session.halted))
    except KeyboardInterrupt:
        session.interrupted = True
        matrix, active, decrement = None, np.flatnonzero(session.free[: session.n_dense]), np.inf
        session.save()
    except BaseException:
        session.save()
        raise
    return assess(session, matrix, active, decrement, with_information)


def _active(session: Session) -> np.ndarray:
    """Packed indices of the entries with information: the free ones, without parts of a residual scale that are
    estimated as zero, and without correlations of residuals that are estimated as independent."""
    vanished = entries_of(vanished_parts(session.binding, session.x, session.processes))
    vanished |= {*bounds_of_correlation(session.binding, session.x, session.processes)[1]}
    return np.array([k for k in np.flatnonzero(session.free[: session.n_dense]) if k not in vanished], int)


def _restore_vanished_part(session: Session) -> bool:
    """Move to a larger value of a part of a residual scale that is estimated as zero, or of a correlation of residuals
    that is, if the objective is lower there; True if so. The derivatives are almost zero there, whatever the data."""
    parts = vanished_parts(session.binding, session.x, session.processes)
    changes = [(part.entry, part.equal + np.log(share)) for part in parts for share in ROUNDS.part_shares]
    return move_to_best(session, [*changes, *points_inside(session.binding, session.x, session.processes)])


def _rounds(session: Session, with_information: bool) -> tuple[np.ndarray | None, np.ndarray, float]:
    """The rounds of `run_to_convergence`.

    **Returns:** the information matrix at the end (None if it was not reached), the packed indices of its entries, and
    the predicted gain of a step.
    """
    for _ in range(CRITERIA.max_rounds):
        session.minimise()
        session.processes.run_collectively(session.save)
        if session.halted or session.out_of_iterations or not np.isfinite(session.best.value):
            return None, _active(session), np.inf
        if adopt_modes_of_rule(session) or _restore_vanished_part(session) or restore_correlation(session):
            continue
        active = _active(session)
        if not with_information:
            # The scores' outer products tell small variances, as the information would.
            if set_to_zero(session, active, session.best.sums.outer[np.ix_(active, active)]) or leave_boundary(session):
                continue
            return None, active, float(session.state.bfgs.decrement) if session.state else np.inf
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
        # Beside the maximum the curvature of a direction without information is that of the slope which is left there.
        if np.max(moves_in_se, initial=0.0) > CRITERIA.max_newton_move or has_doubtful_direction(matrix):
            matrix = session.hessian(active)
        return matrix, active, decrement
    return None, _active(session), np.inf


def _follow_negative_curvature(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """Move from a saddle point along a direction of negative curvature, if the objective is lower there; True if so.

    **Arguments:** `active`: packed indices of the entries with information; `matrix` (active, active): the information.
    """
    if not len(active) or not np.isfinite(matrix).all():
        return False
    unit, size = unit_diagonal(matrix, ROUNDS.least_curvature)
    values, vectors = np.linalg.eigh(unit)
    if values[0] > -ROUNDS.negative_curvature:
        return False
    # Entries with little curvature have a small `size` and move far: limit the change of a log standard deviation.
    logs = [len(session.binding.density.beta_names) + k for k, _, _ in session.binding.density.covariance.log_scales]
    direction = vectors[:, 0] / size
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
