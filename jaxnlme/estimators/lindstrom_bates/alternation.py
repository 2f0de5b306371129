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
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.estimators.core.base import AbstractEstimator, check_beta_integrable
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.lindstrom_bates.session import LinearisedSession
from jaxnlme.estimators.lindstrom_bates.settings import CLIMB, CRITERIA, SEARCH
from jaxnlme.estimators.marginal.boundary import has_flat_variance, set_to_zero
from jaxnlme.estimators.marginal.method import MaximumLikelihoodState
from jaxnlme.estimators.marginal.pipeline import Opening, run, session_at
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.numerics.arrays import number_to_array
from jaxnlme.numerics.broyden import broyden, positive_definite_inverse, positive_definite_neighbour
from jaxnlme.results.record import FitRecord


class LindstromBates(AbstractEstimator):
    """Estimates by the fixed point of a linearised likelihood.

    **Fields:** `method`: a `jn.LME(...)` or `jn.RELME(...)`; `max_iterations`; `tolerance`: the estimation ends when a
    further step would move no parameter by more than so many of its standard errors (1e-5 at most). The numbers are
    traced.
    """

    method: Linearised
    max_iterations: Any = eqx.field(default=500, converter=number_to_array)
    tolerance: Any = eqx.field(default=1e-8, converter=number_to_array)

    @property
    def restricted(self) -> bool:
        return self.method.restricted

    def run(self, model: NLMEModel, data: GroupedData, plan: Plan) -> FitRecord:
        return run(model, data, self, plan, open_alternation)

    def check(self, binding: Binding) -> None:
        """Check that the model can be linearised.

        **Raises:** ModelError if the response has no Gaussian moments (mean and covariance), or the structural model
        has free weights; OptionError for RELME if beta cannot be integrated out.
        """
        super().check(binding)
        if binding.start.free is not None:
            raise ModelError(
                f"{self.method.name} estimates no free weights of a structural model; use 'focei' or another "
                "likelihood approximation."
            )
        if self.restricted:
            check_beta_integrable(binding, self.name)


def open_alternation(opening: Opening) -> tuple[Session, list[str]]:
    """The session of the alternation at its start."""
    return session_at(LindstromBatesSession, opening), []


class LindstromBatesSession(LinearisedSession):
    """A session that ends where the gradient of the linearised model is zero (see the module)."""

    climb_until_gain = 0.0
    unrestricted_phase_done = False

    def ends_early(self, state: MaximumLikelihoodState, rejected: int) -> bool:
        decrement = float(state.bfgs.decrement)
        near_root = decrement < self.climb_until_gain
        return (
            near_root
            or rejected >= CLIMB.max_rejected_points
            or (rejected > 1 and decrement < CLIMB.gain_after_rejection)
        )

    def minimise(self) -> None:
        self._climb_unrestricted()
        if self.halted:
            return
        for self.climb_until_gain in CLIMB.root_search_gains:
            metric, active = self._climb()
            if metric is None or self._search_root(active, metric, metric) or self.halted or self.out_of_iterations:
                return
        improved = True
        while improved and not (self.halted or self.out_of_iterations):
            before = _merit(self.best.sums.gradient[active], metric)
            slopes = self.slopes(active, active, self.evaluate).T
            invertible = np.isfinite(slopes).all() and np.linalg.cond(slopes) < 1e14
            if not invertible or self._search_root(active, np.linalg.inv(slopes), metric):
                return
            improved = _merit(self.best.sums.gradient[active], metric) < SEARCH.newton_round_ratio * before

    def _climb_unrestricted(self) -> None:
        """Step 1, at the start of a RELME fit. Callbacks receive these iterations, too."""
        if not self.restricted or self.unrestricted_phase_done or self.iterations:
            return
        self.unrestricted_phase_done, self.unrestricted_phase = True, True
        self.climb_until_gain = CLIMB.root_search_gains[0]
        self.move(self.evaluate(self.x, self.best.modes))
        try:
            super().minimise()
        except KeyboardInterrupt:
            self.interrupted = True
        self.unrestricted_phase = False
        self.move(self.evaluate(self.x, self.best.modes))

    def _climb(self) -> tuple[np.ndarray | None, np.ndarray]:
        """Steps 2 and 3: the inverse information where the root search may begin (None if the climb failed), and the
        packed indices of the entries that it refers to."""
        for _ in range(CLIMB.max_climbs):
            super().minimise()
            active = np.flatnonzero(self.free)
            if self.halted or not np.isfinite(self.best.value) or self.state is None:
                return None, active
            inverse = np.asarray(self.state.bfgs.inverse)[np.ix_(active, active)]
            if self.many_groups and not has_flat_variance(self, active, np.diag(1.0 / np.diag(inverse))):
                return inverse, active  # the scores of many groups approximate the information well enough
            matrix = self.linearised_information(active)
            if not np.isfinite(matrix).all():
                return None, active
            matrix = positive_definite_neighbour(matrix)
            # A variance that tends to zero would keep the root search from converging.
            if set_to_zero(self, active, matrix, self.zeroed, self.freed):
                continue
            if not has_flat_variance(self, active, matrix):
                break
            metric = positive_definite_inverse(matrix)
            if metric is None:
                return None, active
            self._alternate(metric, active)
            matrix = self.linearised_information(active)
            if not np.isfinite(matrix).all():
                return None, active
            matrix = positive_definite_neighbour(matrix)
            if self.halted or not set_to_zero(self, active, matrix, self.zeroed, self.freed):
                break
        return (None if self.state is None else positive_definite_inverse(matrix)), active

    def _alternate(self, metric: np.ndarray, active: np.ndarray) -> None:
        """Steps of the alternation itself: maximise the linearised likelihood, then linearise anew.

        **Arguments:** `metric` (active, active): the inverse information; `active`: packed indices.
        """
        assert self.state is not None
        se = np.sqrt(np.diag(metric))
        inverse = np.zeros((len(self.x), len(self.x)))
        inverse[np.ix_(active, active)] = metric
        minimiser = self.state.minimiser
        for _ in range(CLIMB.max_alternations):
            if self.iterations >= int(self.estimator.max_iterations):
                return
            sums, before = self.best.sums, self.x[active]
            # Values that are not finite are checked, not warned of.
            with np.errstate(all="ignore"):
                state, tries = minimiser.init(self.x, sums.value, sums.gradient, inverse), 0
            self.notify_inner(self.inner_procedure, "init", 0)
            while not (
                state.decrement < CLIMB.alternation_gain
                or state.stalled
                or tries == CLIMB.max_alternations
                or self.halted
            ):
                x, tries = minimiser.trial(state), tries + 1
                sums = self.evaluate_candidate(x).sums
                with np.errstate(all="ignore"):
                    state, _ = minimiser.update(state, sums.value, sums.gradient)
                self.notify_inner(self.inner_procedure, "iter", tries)
            self.notify_inner(self.inner_procedure, "done", tries)
            inverse = np.asarray(state.inverse)
            trial = self.evaluate_notifying(np.asarray(state.x), self.best.modes)
            if self.halted or not np.isfinite(trial.value):
                return
            self.x, self.best = np.asarray(state.x), trial
            self.iterations += 1
            self._update_state(float(0.5 * trial.sums.gradient @ inverse @ trial.sums.gradient))
            self._record_iteration()
            if np.max(np.abs(self.x[active] - before) / se) < CLIMB.alternation_step:
                return

    def _search_root(self, active: np.ndarray, inverse: np.ndarray, metric: np.ndarray) -> bool:
        """Step 4: Broyden steps to the root of the gradient in the entries `active`; True if it was found.

        **Arguments:** `inverse` (active, active): the initial J; `metric` (active, active): the inverse information
        M^-1, whose diagonal holds the squared standard errors.
        """
        assert self.state is not None
        se = np.sqrt(np.maximum(np.diag(metric), 1e-300))
        max_change = np.asarray(self.state.minimiser.max_change)[active]
        gradient, slow = np.asarray(self.best.sums.gradient)[active], 0

        self._update_state(_merit(gradient, metric))
        tolerance = min(
            max(float(self.estimator.tolerance), CRITERIA.smallest_tolerance), CRITERIA.fixed_point_tolerance
        )
        while np.max(np.abs(metric @ gradient) / se, initial=0.0) > tolerance:
            if self.halted or self.iterations >= int(self.estimator.max_iterations) or slow > SEARCH.max_slow_steps:
                return False
            direction = -inverse @ gradient
            direction /= max(1.0, float(np.max(np.abs(direction) / max_change)))
            before = _merit(gradient, metric)
            self.notify_inner(self.inner_procedure, "init", 0)
            for tries, step in enumerate(SEARCH.step_lengths, 1):
                x = self.x.copy()
                x[active] += step * direction
                trial = self.evaluate_notifying(x, self.best.modes)
                self.notify_inner(self.inner_procedure, "iter", tries, trial, x)
                new_gradient = np.asarray(trial.sums.gradient)[active]
                finite = np.isfinite(trial.value) and np.isfinite(new_gradient).all()
                if finite:
                    inverse = broyden(inverse, step * direction, new_gradient - gradient)
                if finite and _merit(new_gradient, metric) < before:
                    break
            else:
                # No step helps: the root is found if only rounding errors remain.
                return bool(np.max(np.abs(metric @ gradient) / se) < CRITERIA.fixed_point_tolerance / 10.0)
            gradient = new_gradient
            slow = slow + 1 if _merit(gradient, metric) > SEARCH.slow_step_ratio * before else 0
            self.iterations += 1
            self.x, self.best = x, trial
            self._update_state(_merit(gradient, metric))
            self.notify_inner(self.inner_procedure, "done", tries)
            self._record_iteration()
        return True

    def _update_state(self, merit: float) -> None:
        """Set the minimiser's state to the best point, with `merit` as its predicted gain."""
        assert self.state is not None
        sums = self.best.sums
        bfgs = dataclasses.replace(
            self.state.bfgs, x=self.x, value=sums.value, gradient=sums.gradient, decrement=np.asarray(merit)
        )
        self.state = dataclasses.replace(
            self.state, bfgs=bfgs, modes=self.best.modes, log_likelihood=sums.log_likelihood
        )


def _merit(gradient: np.ndarray, metric: np.ndarray) -> float:
    """The merit function g' M^-1 g / 2 of a gradient (active,) in the `metric` M^-1 (active, active)."""
    return 0.5 * float(gradient @ metric @ gradient)
