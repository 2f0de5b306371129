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
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.estimators.base import AbstractEstimator
from jaxnlme.estimators.marginal import MarginalState
from jaxnlme.estimators.objective import Groups, Sums, added_up, unflatten, weighted_sum
from jaxnlme.estimators.session import Outcome, Session
from jaxnlme.likelihood.linearised import Linearised, linearised_score
from jaxnlme.model.binding import Binding
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.numerics.arrays import as_number
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.typing import Vector

# Predicted gain at which climbing gives way to the search for the root, and what is enough where a point was refused:
# the gradient is not quite the slope of the values.
NEAR, NEAR_ENOUGH, REFUSALS = 1e-2, 1.0, 8
# The residual of the fixed point, in standard errors: what the search aims at, and what counts as converged.
AIM, CONVERGED = 1e-8, 1e-5
# A step of the search for the root that leaves more than this share of the residual calls for a better slope matrix.
SLOW = 0.5


class Alternating(AbstractEstimator):
    """Estimates by the fixed point of a linearised likelihood.

    **Fields:** `method`, a `jn.LME(...)` or `jn.RELME(...)`; `max_iterations`; `tolerance`, of the predicted gain
    (log-likelihood units), as of the rungs. The numbers are traced.
    """

    method: Linearised
    max_iterations: Any = eqx.field(default=500, converter=as_number)
    tolerance: Any = eqx.field(default=1e-8, converter=as_number)

    def check(self, binding: Binding) -> None:
        """**Errors:** ModelError where the outcome has no Gaussian face, or the structural model weights to train."""
        super().check(binding)
        if binding.start.free is not None:
            raise ModelError(
                f"{self.method.name} estimates no free weights of a structural model; use 'focei' or another rung."
            )


def share_linearised(
    problem: Problem, point: tuple[Linearised, Params, Vector, Vector], modes: Any
) -> tuple[Sums, Groups]:
    """What the groups of `problem` add to the likelihood at x of the model linearised at `about`; see
    `objective.share`.

    **Arguments:** `point`: the method, the template of Params, `about` (n,) and x (n,).
    """
    method, template, about, x = point
    density, weights = problem.density, problem.weights

    def unpack(x):
        return unflatten(template, x)

    found = problem.map(lambda group, z0: linearised_score(method, density, unpack, about, x, group, z0), modes)
    sums, groups = added_up(weights, found.result, found.score, weighted_sum(weights, found.score))
    information = weighted_sum(weights, found.information)
    slopes = None if found.slopes is None else weighted_sum(weights, found.slopes)
    return eqx.tree_at(
        lambda s: (s.information, s.slopes), sums, (information, slopes), is_leaf=lambda leaf: leaf is None
    ), groups


class AlternatingSession(Session):
    """A session whose gradient is that of the linearised model, the linearisation held, and whose end is its zero."""

    procedure, minimiser = "ALT", "LME"
    about: np.ndarray | None = None

    @property
    def restricted(self) -> bool:
        return self.estimator.method.restricted

    def _run(self, x: np.ndarray, modes: Sequence[Any], method: Any) -> tuple[Sums, list[Groups]]:
        about = x if self.about is None else self.about
        return self.placed.run(share_linearised, (method, self.template, about, x), modes)

    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> Outcome:
        outcome = super().evaluate(x, modes, steps)
        if self.restricted:
            outcome.sums = _restricted(outcome.sums, self.free)
        return outcome

    def held(self, x: np.ndarray) -> Sums:
        """The Sums at `x` (n,) of the model linearised at the best point."""
        self.about = self.x
        try:
            return self.evaluate(x, self.best.modes).sums
        finally:
            self.about = None

    # --- climbing, then the root ---

    def leaving(self, state: MarginalState, rejected: int) -> bool:
        decrement = float(state.bfgs.decrement)
        return decrement < NEAR or rejected >= REFUSALS or (rejected > 1 and decrement < NEAR_ENOUGH)

    def minimise(self) -> None:
        super().minimise()
        if self.halted or not np.isfinite(self.best.value) or self.state is None:
            return
        active = np.flatnonzero(self.free)
        inverse = np.asarray(self.state.bfgs.inverse)[np.ix_(active, active)]
        if self._root(active, inverse, inverse) or self.halted:
            return
        matrix = _positive(self.frozen(active))
        slopes = self._slopes(active)
        start = np.linalg.inv(slopes) if np.linalg.cond(slopes) < 1e14 else np.linalg.inv(matrix)
        self._root(active, start, np.linalg.inv(matrix))

    def _root(self, active: np.ndarray, inverse: np.ndarray, metric: np.ndarray) -> bool:
        """Broyden's steps to where the gradient in the entries `active` is zero; true where it was found.

        **Arguments:** `inverse` (active, active), of the gradient's derivatives, to begin with; `metric`, the inverse
        information: its diagonal holds the squared standard errors, in which distance is measured.
        """
        assert self.state is not None
        se = np.sqrt(np.maximum(np.diag(metric), 1e-300))
        longest = np.asarray(self.state.minimiser.longest)[active]
        gradient = np.asarray(self.best.sums.gradient)[active]

        def size(gradient):
            return float(np.max(np.abs(metric @ gradient) / se, initial=0.0)), float(gradient @ metric @ gradient) / 2.0

        (residual, merit), slow = size(gradient), 0
        self._note(merit)
        while residual > AIM:
            if self.halted or self.iterations >= int(self.estimator.max_iterations) or slow > 3:
                return False
            direction = -inverse @ gradient
            direction /= max(1.0, float(np.max(np.abs(direction) / longest)))
            accepted, self_before = False, merit
            self.tell_inner(self.minimiser, "init", 0)
            for tries, step in enumerate((1.0, 0.5, 0.25, 0.1), 1):
                x = self.x.copy()
                x[active] += step * direction
                trial = self.searched(x, self.best.modes)
                self.tell_inner(self.minimiser, "iter", tries, trial, x)
                found = np.asarray(trial.sums.gradient)[active]
                if not (np.isfinite(trial.value) and np.isfinite(found).all()):
                    continue
                next_residual, next_merit = size(found)
                inverse = _broyden(inverse, step * direction, found - gradient)
                if next_merit < merit:
                    accepted = True
                    break
            if not accepted:
                # Nothing but rounding may be left.
                return residual < CONVERGED / 10.0
            residual, merit, gradient = next_residual, next_merit, found
            slow = slow + 1 if merit > SLOW**2 * self_before else 0
            self.iterations += 1
            self.x, self.best = x, trial
            self._note(merit)
            self.tell_inner(self.minimiser, "done", tries)
            self._report(self.state)
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

    # --- slopes ---

    def _slopes(self, active: np.ndarray) -> np.ndarray:
        """Derivatives (active, active) of the gradient with the linearisation moving: central differences."""
        columns = [
            (up.gradient - down.gradient)[active] / width
            for up, down, width in self.differences(active, lambda x: self.evaluate(x, self.best.modes).sums)
        ]
        return np.array(columns).reshape(len(active), len(active)).T

    def frozen(self, active: np.ndarray) -> np.ndarray:
        """Minus the Hessian (active, active) of the linearised model's log-likelihood at the best point: X' V^-1 X in
        beta, where it is exact, and central differences of the exact gradient in the rest."""
        p = len(self.binding.density.beta_names)
        plain = not self.binding.density.priors
        matrix = np.zeros((len(self.x), len(self.x)))
        if plain:
            matrix[:p, :p] = self.best.sums.information
        moving = active[active >= p] if plain else active
        for k, (up, down, width) in zip(moving, self.differences(moving, self.held), strict=True):
            matrix[k] = (up.gradient - down.gradient) / width
        # Differences along two entries meet twice; a row of beta that was not differenced is the other's column.
        matrix[:p, p:] = matrix[p:, :p].T if plain else matrix[:p, p:]
        matrix = matrix[np.ix_(active, active)]
        return 0.5 * (matrix + matrix.T)

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """The information of the final linearised model: its fixed effects apart from its other parameters, to which
        they are orthogonal in expectation."""
        p = len(self.binding.density.beta_names)
        matrix = self.frozen(active)
        fixed = active < p
        matrix[np.ix_(fixed, ~fixed)] = 0.0
        matrix[np.ix_(~fixed, fixed)] = 0.0
        return matrix

    def closeness(self, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> tuple[bool, str]:
        if matrix is None or not np.isfinite(matrix).all():
            close, words = super().closeness(matrix, active, decrement)
            return close and decrement < 0.5 * CONVERGED**2, words
        inverse = np.linalg.inv(_positive(matrix))
        moves = np.abs(inverse @ np.asarray(self.best.sums.gradient)[active]) / np.sqrt(np.diag(inverse))
        residual = float(np.max(moves, initial=0.0))
        words = f"the alternation would move no parameter by more than {residual:.1e} standard errors"
        return residual < CONVERGED, f"{words} (limit {CONVERGED:g})"


def _restricted(sums: Sums, free: np.ndarray) -> Sums:
    """The Sums with beta integrated out: p log(2 pi) / 2 - log|X' V^-1 X| / 2 added to the log-likelihood."""
    p = sums.information.shape[0]
    moving = np.flatnonzero(free[:p])
    information = sums.information[np.ix_(moving, moving)]
    sign, logdet = np.linalg.slogdet(information)
    extra = len(moving) * HALF_LOG_2PI - 0.5 * logdet if sign > 0 else np.nan
    gradient = np.array(sums.gradient)
    if sign > 0:
        slopes = sums.slopes[:, moving][:, :, moving]
        gradient[p:] += 0.5 * np.einsum("jk,rkj->r", np.linalg.inv(information), slopes)
    return dataclasses.replace(
        sums, value=sums.value - extra, gradient=gradient, log_likelihood=sums.log_likelihood + extra
    )


def _broyden(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Broyden's update of an inverse Jacobian (n, n), so that it takes `change` to `step`."""
    moved = inverse @ change
    size = float(step @ moved)
    if not abs(size) > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(moved)):
        return inverse
    return inverse + np.outer(step - moved, step @ inverse) / size


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix (n, n) of its eigenvectors that is positive definite, in units of its diagonal."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    values = np.maximum(np.abs(values), 1e-10)
    return (vectors * values) @ vectors.T * np.outer(scale, scale)
