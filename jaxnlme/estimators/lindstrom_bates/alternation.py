"""Lindstrom and Bates' estimators LME and RELME: the fixed point at which a linearised mixed model is its own maximum.

The alternation of Lindstrom and Bates (1990) maximises no single function: its answer is a point where the gradient of
the linearised model's likelihood, linearised at that same point, is zero. Far from it, quasi-Newton steps climb that
likelihood as they would a rung's, the model linearised afresh at every point. Near it, the zero is found as the root of
an equation: Broyden's steps, and Newton's with differences of the gradient where these do not arrive. So it is found
where the plain alternation cycles, too.

**Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Broyden (1965), Mathematics of Computation 19, 577-593.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import ModelError
from jaxnlme.estimators.core.base import AbstractEstimator, check_integrated
from jaxnlme.estimators.lindstrom_bates.session import MET, LinearisedSession
from jaxnlme.estimators.marginal.boundary import flat, set_to_zero
from jaxnlme.estimators.marginal.method import MaximumLikelihoodState
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.numerics.arrays import as_number
from jaxnlme.numerics.broyden import broyden, positive_inverse, positive_neighbour

# Predicted gain at which climbing gives way to the search for the root: less each time the search fails, for the root
# may lie at the end of a long valley. NEAR_ENOUGH will do where points were refused, since the gradient is not quite
# the slope of the values.
NEAR, NEAR_ENOUGH, REFUSALS = (1e-2, 1e-4, 1e-6), 1.0, 8
# The least residual of the fixed point, in standard errors, that the search aims at.
AIM = 1e-12
# A step of the search for the root that leaves more than SLOW of the squared residual is slow; after PATIENCE such
# steps in a row the slopes of the gradient are made afresh, and where a round of them leaves more than GAINED of it,
# the search is over. STEPS are tried in turn along a direction.
SLOW, PATIENCE, GAINED, STEPS = 0.3, 2, 0.9, (1.0, 0.5, 0.2, 0.05, 0.01)
# Alternations proper, and steps of each; one ends when LEVEL log-likelihood units are left to be gained.
ALTERNATIONS, LEVEL, AGREED = 30, 1e-10, 1e-2
# Climbs to the neighbourhood of the root: one more for each variance that is found to vanish on the way.
CLIMBS = 10


class LindstromBates(AbstractEstimator):
    """Estimates by the fixed point of a linearised likelihood.

    **Fields:** `method`, a `jn.LME(...)` or `jn.RELME(...)`; `max_iterations`; `tolerance`: ends when a further step
    would move no parameter by more of its standard errors (1e-5 at most). The numbers are traced.
    """

    method: Linearised
    max_iterations: Any = eqx.field(default=500, converter=as_number)
    tolerance: Any = eqx.field(default=1e-8, converter=as_number)

    @property
    def restricted(self) -> bool:
        return self.method.restricted

    def check(self, binding: Binding) -> None:
        """**Errors:** ModelError where the outcome has no Gaussian face, or the structural model weights to train."""
        super().check(binding)
        if binding.start.free is not None:
            raise ModelError(
                f"{self.method.name} estimates no free weights of a structural model; use 'focei' or another rung."
            )
        if self.restricted:
            check_integrated(binding, self.name)


class LindstromBatesSession(LinearisedSession):
    """A session that ends where the gradient of the linearised model is zero."""

    near = 0.0
    led = False

    def leaving(self, state: MaximumLikelihoodState, rejected: int) -> bool:
        decrement = float(state.bfgs.decrement)
        return decrement < self.near or rejected >= REFUSALS or (rejected > 1 and decrement < NEAR_ENOUGH)

    def minimise(self) -> None:
        self._lead()
        if self.halted:
            return
        for self.near in NEAR:
            metric, active = self._approach()
            if metric is None or self._root(active, metric, metric) or self.halted or self.exhausted:
                return
        gained = True
        while gained and not (self.halted or self.exhausted):
            before = _merit(self.best.sums.gradient[active], metric)
            slopes = self.slopes(active, active, self.evaluate).T
            sound = np.isfinite(slopes).all() and np.linalg.cond(slopes) < 1e14
            if not sound or self._root(active, np.linalg.inv(slopes), metric):
                return
            gained = _merit(self.best.sums.gradient[active], metric) < GAINED * before

    def _lead(self) -> None:
        """Climbs the unrestricted likelihood first, where the other would be climbed from far: with the information on
        beta in it, it may grow without bound where that is lost. Callbacks are told of these iterations, too."""
        if not self.restricted or self.led or self.iterations:
            return
        self.led, self.leading, self.near = True, True, NEAR[0]
        self.move(self.evaluate(self.x, self.best.modes))
        try:
            super().minimise()
        except KeyboardInterrupt:
            self.interrupted = True
        self.leading = False
        self.move(self.evaluate(self.x, self.best.modes))

    def _approach(self) -> tuple[np.ndarray | None, np.ndarray]:
        """Climbs to where the search for the root may begin; the inverse information there (None where that was not
        reached), of the entries that move."""
        for _ in range(CLIMBS):
            super().minimise()
            active = np.flatnonzero(self.free)
            if self.halted or not np.isfinite(self.best.value) or self.state is None:
                return None, active
            known = np.asarray(self.state.bfgs.inverse)[np.ix_(active, active)]
            if self.many and not flat(self, active, np.diag(1.0 / np.diag(known))):
                return known, active  # the scores of many groups tell it well enough
            matrix = self.frozen(active)
            if not np.isfinite(matrix).all():
                return None, active
            matrix = positive_neighbour(matrix)
            # A variance on its way to zero would take the search for the root along for ever.
            if set_to_zero(self, active, matrix, self.zeroed, self.kept):
                continue
            if not flat(self, active, matrix):
                break
            metric = positive_inverse(matrix)
            if metric is None:
                return None, active
            self._alternate(metric, active)
            matrix = self.frozen(active)
            if not np.isfinite(matrix).all():
                return None, active
            matrix = positive_neighbour(matrix)
            if self.halted or not set_to_zero(self, active, matrix, self.zeroed, self.kept):
                break
        return (None if self.state is None else positive_inverse(matrix)), active

    def _alternate(self, metric: np.ndarray, active: np.ndarray) -> None:
        """Lindstrom and Bates' own steps: the linearised likelihood is maximised, then linearised afresh.

        Where a variance is small, zero is a root in its logarithm, too, and not what is looked for: a maximum tells
        which side it lies on. Ends when a step moves no entry by AGREED standard errors.
        """
        assert self.state is not None
        se = np.sqrt(np.diag(metric))
        inverse = np.zeros((len(self.x), len(self.x)))
        inverse[np.ix_(active, active)] = metric
        minimiser = self.state.minimiser
        for _ in range(ALTERNATIONS):
            if self.iterations >= int(self.estimator.max_iterations):
                return
            sums, before = self.best.sums, self.x[active]
            # What is not finite is looked at, not warned of, as in the steps of a rung's minimiser.
            with np.errstate(all="ignore"):
                state, tries = minimiser.init(self.x, sums.value, sums.gradient, inverse), 0
            self.notify_inner(self.minimiser, "init", 0)
            while not (state.decrement < LEVEL or state.stalled or tries == ALTERNATIONS or self.halted):
                x, tries = minimiser.trial(state), tries + 1
                found = self.decide(x).sums
                with np.errstate(all="ignore"):
                    state, _ = minimiser.tell(state, found.value, found.gradient)
                self.notify_inner(self.minimiser, "iter", tries)
            self.notify_inner(self.minimiser, "done", tries)
            inverse = np.asarray(state.inverse)
            trial = self.searched(np.asarray(state.x), self.best.modes)
            if self.halted or not np.isfinite(trial.value):
                return
            self.x, self.best = np.asarray(state.x), trial
            self.iterations += 1
            self._note(float(0.5 * trial.sums.gradient @ inverse @ trial.sums.gradient))
            self._report()
            if np.max(np.abs(self.x[active] - before) / se) < AGREED:
                return

    def _root(self, active: np.ndarray, inverse: np.ndarray, metric: np.ndarray) -> bool:
        """Broyden's steps to where the gradient in the entries `active` is zero; true where it was found.

        **Arguments:** `inverse` (active, active), of the gradient's derivatives, to begin with; `metric`, the inverse
        information: its diagonal holds the squared standard errors, in which distance is measured.
        """
        assert self.state is not None
        se = np.sqrt(np.maximum(np.diag(metric), 1e-300))
        longest = np.asarray(self.state.minimiser.longest)[active]
        gradient, slow = np.asarray(self.best.sums.gradient)[active], 0

        self._note(_merit(gradient, metric))
        aim = min(max(float(self.estimator.tolerance), AIM), MET)
        while np.max(np.abs(metric @ gradient) / se, initial=0.0) > aim:
            if self.halted or self.iterations >= int(self.estimator.max_iterations) or slow > PATIENCE:
                return False
            direction = -inverse @ gradient
            direction /= max(1.0, float(np.max(np.abs(direction) / longest)))
            before = _merit(gradient, metric)
            self.notify_inner(self.minimiser, "init", 0)
            for tries, step in enumerate(STEPS, 1):
                x = self.x.copy()
                x[active] += step * direction
                trial = self.searched(x, self.best.modes)
                self.notify_inner(self.minimiser, "iter", tries, trial, x)
                found = np.asarray(trial.sums.gradient)[active]
                finite = np.isfinite(trial.value) and np.isfinite(found).all()
                if finite:
                    inverse = broyden(inverse, step * direction, found - gradient)
                if finite and _merit(found, metric) < before:
                    break
            else:
                # Where nothing but rounding is left, the root is found.
                return bool(np.max(np.abs(metric @ gradient) / se) < MET / 10.0)
            gradient = found
            slow = slow + 1 if _merit(gradient, metric) > SLOW * before else 0
            self.iterations += 1
            self.x, self.best = x, trial
            self._note(_merit(gradient, metric))
            self.notify_inner(self.minimiser, "done", tries)
            self._report()
        return True

    def _note(self, merit: float) -> None:
        """Keeps the state in step with the best point."""
        assert self.state is not None
        sums = self.best.sums
        bfgs = dataclasses.replace(
            self.state.bfgs, x=self.x, value=sums.value, gradient=sums.gradient, decrement=np.asarray(merit)
        )
        self.state = dataclasses.replace(
            self.state, bfgs=bfgs, modes=self.best.modes, log_likelihood=sums.log_likelihood
        )


def _merit(gradient: np.ndarray, metric: np.ndarray) -> float:
    """Half the squared residual, in the metric (active, active)."""
    return 0.5 * float(gradient @ metric @ gradient)
