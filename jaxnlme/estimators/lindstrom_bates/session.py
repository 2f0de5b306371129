"""A linearised likelihood as the objective of a session: its values, the linearisation held, and its information."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.base import uninformed
from jaxnlme.estimators.core.objective import Groups, ObjectiveSums, added_up, unflatten, weighted_sum
from jaxnlme.estimators.marginal.evaluations import Outcome
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.likelihood.lindstrom_bates import Linearised, linearised
from jaxnlme.model.params import Params
from jaxnlme.numerics.broyden import positive_inverse, positive_neighbour
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.results.inference import singular_directions
from jaxnlme.typing import Vector

# The residual of the fixed point, in standard errors, that counts as converged.
MET = 1e-5


class LinearisedSession(Session):
    """A session whose gradient is that of the linearised model, the linearisation held. While `leading`, beta is not
    integrated out of a restricted likelihood: the same program gives both."""

    procedure, minimiser = "ALT", "LME"
    about: np.ndarray | None = None
    leading = False

    def _run(self, x: np.ndarray, modes: Sequence[Any], method: Any) -> tuple[ObjectiveSums, list[Groups]]:
        about = x if self.about is None else self.about
        return self.placed.run(share_linearised, (method, self.template, about, x), modes)

    @np.errstate(all="ignore")  # what is not finite is looked at, not warned of
    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> Outcome:
        outcome = super().evaluate(x, modes, steps)
        if self.restricted and not self.leading:
            outcome.sums = with_beta_integrated(outcome.sums, self.free)
        return outcome

    @property
    def objective_failures(self) -> list[str]:
        if not self.restricted or np.isfinite(self.best.value):
            return []
        moving = np.flatnonzero(self.free[: len(self.binding.density.beta_names)])
        names = [self.binding.packed_names[k] for k in moving]
        singular = singular_directions(np.asarray(self.best.sums.information)[np.ix_(moving, moving)], names)
        return [uninformed(singular)] if singular else []

    def decide(self, x: np.ndarray) -> Outcome:
        """The Outcome at `x` (n,) of the model linearised at the best point: its value and gradient belong together."""
        return self.held(x, self.best.modes)

    def accepted_outcome(self, decided: Outcome) -> Outcome:
        return self.evaluate(decided.x, self.carried(decided.x))

    def held(self, x: np.ndarray, modes: Sequence[Any]) -> Outcome:
        """`evaluate` at `x` (n,) with the model linearised at the best point."""
        self.about = self.x
        try:
            return self.evaluate(x, modes)
        finally:
            self.about = None

    def save(self, finished: bool = False) -> None:
        # What the minimiser knows of the likelihood that leads is not of the one that a checkpoint goes on with.
        state = self.state
        if self.leading:
            self.state = None
        super().save(finished)
        self.state = state

    @np.errstate(all="ignore")
    def frozen(self, active: np.ndarray) -> np.ndarray:
        """Minus the Hessian (active, active) of the linearised model's log-likelihood at the best point: X' V^-1 X in
        beta, where it is exact, and central differences of the exact gradient in the rest."""
        p = len(self.binding.density.beta_names)
        plain = not self.binding.density.priors
        matrix = np.zeros((len(self.x), len(self.x)))
        if plain:
            matrix[:p, :p] = self.best.sums.information
        moving = active[active >= p] if plain else active
        matrix[moving] = self.slopes(moving, np.arange(len(self.x)), self.held)
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
        inverse = None
        if matrix is not None and np.isfinite(matrix).all():
            inverse = positive_inverse(positive_neighbour(matrix))
        if inverse is None:
            limit = 0.5 * MET**2
            words = f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {limit:.0e})"
            return decrement < limit, words
        moves = np.abs(inverse @ np.asarray(self.best.sums.gradient)[active]) / np.sqrt(np.diag(inverse))
        residual = float(np.max(moves, initial=0.0))
        words = f"the alternation would move no parameter by more than {residual:.1e} standard errors"
        return residual < MET, f"{words} (limit {MET:g})"


# ---- the likelihood of the linearised model over all groups: the one program that LME and RELME compile


def share_linearised(
    problem: Problem, point: tuple[Linearised, Params, Vector, Vector], modes: Any
) -> tuple[ObjectiveSums, Groups]:
    """What the groups of `problem` add to the likelihood at x of the model linearised at `about`; see
    `objective.share`.

    **Arguments:** `point`: the method, the template of Params, `about` (n,) and x (n,).
    """
    method, template, about, x = point
    density, weights = problem.density, problem.weights
    there, params = unflatten(template, about), unflatten(template, x)
    found = problem.map(lambda group, z0: linearised(method, density, there, params, group, z0), modes)
    model = found.mixed
    sums, groups = added_up(weights, found.result, model.score, weighted_sum(weights, model.score))
    slopes = None
    if method.restricted:
        # psi moves X' V^-1 X by -(B' Q A)' dpsi (B' Q A).
        spread = jnp.moveaxis(jax.jacfwd(density.covariance.psi)(params.covariance), -1, 0)
        crossed = weighted_sum(weights, model.crossed)
        by_psi = -jnp.einsum("rab,abjk->rjk", spread, crossed)
        slopes = jnp.concatenate([by_psi, weighted_sum(weights, model.bent)])
    information = weighted_sum(weights, model.information)
    return dataclasses.replace(sums, information=information, slopes=slopes), groups


def with_beta_integrated(sums: ObjectiveSums, free: np.ndarray) -> ObjectiveSums:
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
