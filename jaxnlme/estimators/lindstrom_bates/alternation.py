"""LME and RELME of Lindstrom and Bates: the fixed point of linearising a model and maximising the linearised
likelihood.

With x the packed parameters, let l(x; x0) be the log-likelihood (for RELME: restricted) of the linear mixed model that
the nonlinear one becomes when it is linearised at x0 and at the random effects b(x0). The alternation of Lindstrom and
Bates (1990), x_(k+1) = argmax l(x; x_k), maximises no single function; its fixed points are the roots of

    g(x) = d l(x'; x) / dx' at x' = x.

The root is searched for directly, which finds it also where the alternation cycles:

1. RELME only: first climb the likelihood in which beta is not integrated out, as in 2. (Far from the root the
   restricted one may grow without bound where the information on beta vanishes.)
2. Climb: quasi-Newton steps on l(x; x) with gradient g, linearised anew at each point, until the predicted gain is
   below CLIMB.root_search_gains[0]. Let M^-1 be the inverse information there, and s the standard errors, the square
   roots of its diagonal.
   If that ends beside a limit of a residual parameter, beyond which the likelihood is not finite (a power of zero
   where predictions are zero), set the parameter to its start, climb in the others, and climb again.
3. Variances: set those that tend to zero to exactly zero and climb again. If one has little curvature but is not zero,
   take steps of the alternation itself: zero is a root in its logarithm, and only a maximum decides between the two.
4. Root: x <- x - h J g(x) with step length h <= 1, J = M^-1 at first and then updated by Broyden's method, until
   max |M^-1 g| / s is below the tolerance. Where it fails, repeat 2 to 4 with the next of CLIMB.root_search_gains.
5. Newton: 4 with J the inverse of differences of g, repeated as long as each round reduces the merit function
   g' M^-1 g / 2 below SEARCH.newton_round_ratio of its value.

**Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Broyden (1965), Mathematics of Computation 19, 577-593.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import final

import numpy as np

from jaxnlme.estimators.lindstrom_bates.objective import LinearisedObjective
from jaxnlme.estimators.lindstrom_bates.settings import CLIMB, CRITERIA, SEARCH
from jaxnlme.estimators.marginal.boundary import has_flat_variance, set_to_zero
from jaxnlme.estimators.marginal.limits import search_away_from_limit
from jaxnlme.estimators.marginal.minimiser_state import MaximumLikelihoodState
from jaxnlme.estimators.marginal.objective import gradient_differences
from jaxnlme.estimators.marginal.pipeline import SessionInputs
from jaxnlme.estimators.marginal.search import quasi_newton
from jaxnlme.estimators.marginal.session import AbstractSearch, Session
from jaxnlme.estimators.marginal.settings import SEARCH as QUASI_NEWTON
from jaxnlme.numerics.broyden import broyden, positive_definite_inverse, positive_definite_neighbour


def alternation_session(inputs: SessionInputs) -> tuple[Session, list[str]]:
    """The session of the alternation at its start."""
    objective = LinearisedObjective(inputs.evaluator(), inputs.estimator.restricted)
    return inputs.session(objective, FixedPointSearch(objective)), []


@final
class FixedPointSearch(AbstractSearch):
    """A search for the point where the gradient of the linearised model is zero (see the module).

    **Arguments:** `objective` of the session. (In step 1 the session has that without the integral over beta.)

    **Attributes:** `climb_until_gain`: predicted gain (log-likelihood units) below which a climb ends;
    `unrestricted_phase_done`: True from step 1 on.
    """

    def __init__(self, objective: LinearisedObjective) -> None:
        self.objective = objective
        self.climb_until_gain = 0.0
        self.unrestricted_phase_done = False

    def resumable(self, session: Session) -> bool:
        """False in step 1, whose minimiser's state does not apply to the likelihood that a resumed fit maximises, and
        while residual parameters are held at their start."""
        return session.objective is self.objective and not session.held_at_start

    def _near_root(self, state: MaximumLikelihoodState, rejected: int) -> bool:
        """True if a climb is to end, and the search for the root to begin; `rejected`: points refused in a row."""
        decrement = float(state.bfgs.decrement)
        return (
            decrement < self.climb_until_gain
            or rejected >= CLIMB.max_rejected_points
            or (rejected > 1 and decrement < CLIMB.gain_after_rejection)
        )

    def minimise(self, session: Session) -> None:
        self._climb_unrestricted(session)
        if session.halted:
            return
        for self.climb_until_gain in CLIMB.root_search_gains:
            metric, active = self._climb(session)
            if metric is None or _search_root(session, active, metric, metric):
                return
            if session.halted or session.out_of_iterations:
                return
        improved = True
        while improved and not (session.halted or session.out_of_iterations):
            before = _merit(session.best.sums.gradient[active], metric)
            slopes = gradient_differences(session.best, active, active, session.evaluate, session.approximate_se).T
            invertible = np.isfinite(slopes).all() and np.linalg.cond(slopes) < SEARCH.largest_condition
            if not invertible or _search_root(session, active, np.linalg.inv(slopes), metric):
                return
            improved = _merit(session.best.sums.gradient[active], metric) < SEARCH.newton_round_ratio * before

    def _climb_unrestricted(self, session: Session) -> None:
        """Step 1, at the start of a RELME fit. Callbacks receive these iterations, too."""
        if not session.estimator.restricted or self.unrestricted_phase_done or session.iterations:
            return
        self.unrestricted_phase_done = True
        self.climb_until_gain = CLIMB.root_search_gains[0]
        session.objective = self.objective.unrestricted()
        session.move(session.evaluate(session.x, session.best.modes))
        try:
            quasi_newton(session, self._near_root)
        except KeyboardInterrupt:
            session.interrupted = True
        session.objective = self.objective
        session.move(session.evaluate(session.x, session.best.modes))

    def _climb(self, session: Session) -> tuple[np.ndarray | None, np.ndarray]:
        """Steps 2 and 3: the inverse information where the root search may begin (None if the climb failed), and the
        packed indices of the entries that it refers to."""
        value, matrix = np.inf, None
        for _ in range(CLIMB.max_climbs):
            quasi_newton(session, self._near_root)
            active = np.flatnonzero(session.free)
            if session.halted or not np.isfinite(session.best.value) or session.state is None:
                return None, active
            inverse = np.asarray(session.state.bfgs.inverse)[np.ix_(active, active)]
            many_groups = session.objective.evaluator.many_groups
            if many_groups and not has_flat_variance(session, active, np.diag(1.0 / np.diag(inverse))):
                return inverse, active  # the scores of many groups approximate the information well enough
            matrix = self._information(session, active)
            if matrix is None:
                beside = functools.partial(self.objective.evaluate_linearised_at, session.best)
                if search_away_from_limit(session, beside, lambda: quasi_newton(session, self._near_root)):
                    continue
                return None, active
            # A variance that tends to zero would keep the root search from converging.
            if set_to_zero(session, active, matrix):
                continue
            if not has_flat_variance(session, active, matrix):
                improved, value = value - session.best.value > CLIMB.least_progress, session.best.value
                inverse = positive_definite_inverse(matrix)
                gradient = np.asarray(session.best.sums.gradient)[active]
                if inverse is None or not improved or _merit(gradient, inverse) < CLIMB.far_gain:
                    break
                # The minimiser's own metric was wrong (a start near zero, say): climb on with the information.
                session.metric = np.zeros((len(session.x), len(session.x)))
                session.metric[np.ix_(active, active)] = inverse
                continue
            metric = positive_definite_inverse(matrix)
            if metric is None:
                return None, active
            _alternate(session, metric, active)
            matrix = self._information(session, active)
            if matrix is None:
                return None, active
            if session.halted or not set_to_zero(session, active, matrix):
                break
        if session.state is None or matrix is None:
            return None, active
        return positive_definite_inverse(matrix), active

    def _information(self, session: Session, active: np.ndarray) -> np.ndarray | None:
        """The information of the linearised model in the entries `active`, or the positive definite matrix closest to
        it; None if it is not finite."""
        matrix = self.objective.linearised_information(session.best, active, session.approximate_se)
        return positive_definite_neighbour(matrix) if np.isfinite(matrix).all() else None


def _alternate(session: Session, metric: np.ndarray, active: np.ndarray) -> None:
    """Steps of the alternation itself: maximise the linearised likelihood, then linearise anew.

    **Arguments:** `metric` (active, active): the inverse information; `active`: packed indices.
    """
    assert session.state is not None
    se = np.sqrt(np.diag(metric))
    inverse = np.zeros((len(session.x), len(session.x)))
    inverse[np.ix_(active, active)] = metric
    minimiser = session.state.minimiser
    for _ in range(CLIMB.max_alternations):
        if session.iterations >= int(session.estimator.max_iterations):
            return
        sums, before = session.best.sums, session.x[active]
        # Values that are not finite are checked, not warned of.
        with np.errstate(all="ignore"):
            state, tries = minimiser.init(session.x, sums.value, sums.gradient, inverse), 0
        session.notify_inner(session.objective.inner_procedure, "init", 0)
        while not (
            state.decrement < CLIMB.alternation_gain
            or state.stalled
            or tries == CLIMB.max_alternations
            or session.halted
        ):
            x, tries = minimiser.trial(state), tries + 1
            sums = session.evaluate_candidate(x).sums
            with np.errstate(all="ignore"):
                state, _ = minimiser.update(state, sums.value, sums.gradient)
            session.notify_inner(session.objective.inner_procedure, "iter", tries)
        session.notify_inner(session.objective.inner_procedure, "done", tries)
        inverse = np.asarray(state.inverse)
        trial = session.evaluate_notifying(np.asarray(state.x), session.best.modes)
        if session.halted or not np.isfinite(trial.value):
            return
        session.best = trial
        session.iterations += 1
        _update_state(session, float(0.5 * trial.sums.gradient @ inverse @ trial.sums.gradient))
        session.record_iteration()
        if np.max(np.abs(session.x[active] - before) / se) < CLIMB.alternation_step:
            return


def _search_root(session: Session, active: np.ndarray, inverse: np.ndarray, metric: np.ndarray) -> bool:
    """Step 4: Broyden steps to the root of the gradient in the entries `active`; True if it was found.

    **Arguments:** `inverse` (active, active): the initial J; `metric` (active, active): the inverse information
    M^-1, whose diagonal holds the squared standard errors.
    """
    assert session.state is not None
    se = np.sqrt(np.maximum(np.diag(metric), np.finfo(float).tiny))
    max_change = np.asarray(session.state.minimiser.max_change)[active]
    in_units = max_change != QUASI_NEWTON.largest_log_step
    max_change = np.where(in_units, np.maximum(max_change, QUASI_NEWTON.largest_step_in_se * se), max_change)
    gradient, slow = np.asarray(session.best.sums.gradient)[active], 0

    _update_state(session, _merit(gradient, metric))
    tolerance = min(
        max(float(session.estimator.tolerance), CRITERIA.smallest_tolerance), CRITERIA.fixed_point_tolerance
    )
    while np.max(np.abs(metric @ gradient) / se, initial=0.0) > tolerance:
        if (
            session.halted
            or session.iterations >= int(session.estimator.max_iterations)
            or slow > SEARCH.max_slow_steps
        ):
            return False
        direction = -inverse @ gradient
        direction /= max(1.0, float(np.max(np.abs(direction) / max_change)))
        before = _merit(gradient, metric)
        session.notify_inner(session.objective.inner_procedure, "init", 0)
        for tries, step in enumerate(SEARCH.step_lengths, 1):
            x = session.x.copy()
            x[active] += step * direction
            trial = session.evaluate_notifying(x, session.best.modes)
            session.notify_inner(session.objective.inner_procedure, "iter", tries, trial, x)
            new_gradient = np.asarray(trial.sums.gradient)[active]
            finite = np.isfinite(trial.value) and np.isfinite(new_gradient).all()
            if finite:
                inverse = broyden(inverse, step * direction, new_gradient - gradient)
            if finite and _merit(new_gradient, metric) < before:
                break
        else:
            # No step helps: the root is found if only rounding errors remain.
            return bool(
                np.max(np.abs(metric @ gradient) / se) < CRITERIA.fixed_point_tolerance * CRITERIA.rounding_ratio
            )
        gradient = new_gradient
        slow = slow + 1 if _merit(gradient, metric) > SEARCH.slow_step_ratio * before else 0
        session.iterations += 1
        session.best = trial
        _update_state(session, _merit(gradient, metric))
        session.notify_inner(session.objective.inner_procedure, "done", tries)
        session.record_iteration()
    return True


def _update_state(session: Session, merit: float) -> None:
    """Set the minimiser's state to the best point, with `merit` as its predicted gain."""
    assert session.state is not None
    sums = session.best.sums
    bfgs = dataclasses.replace(
        session.state.bfgs, x=session.x, value=sums.value, gradient=sums.gradient, decrement=np.asarray(merit)
    )
    session.state = dataclasses.replace(
        session.state, bfgs=bfgs, modes=session.best.modes, log_likelihood=sums.log_likelihood
    )


def _merit(gradient: np.ndarray, metric: np.ndarray) -> float:
    """The merit function g' M^-1 g / 2 of a gradient (active,) in the `metric` M^-1 (active, active)."""
    return 0.5 * float(gradient @ metric @ gradient)
