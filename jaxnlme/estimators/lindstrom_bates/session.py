"""The linearised likelihood as the objective of a session: value and gradient at a given linearisation, information."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.base import no_information_on_beta
from jaxnlme.estimators.core.objective import GroupValues, ObjectiveSums, sums_and_group_values, unflatten, weighted_sum
from jaxnlme.estimators.lindstrom_bates.settings import CRITERIA
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.likelihood.lindstrom_bates import Linearised, linearised_likelihood
from jaxnlme.model.params import Params
from jaxnlme.numerics.broyden import positive_definite_inverse, positive_definite_neighbour
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.results.inference import singular_directions
from jaxnlme.typing import Vector


class LinearisedSession(Session):
    """A session whose gradient is that of the linearised model with the linearisation held.

    **Attributes:** `linearised_at` (n,): the point of the linearisation, None for the point evaluated;
    `unrestricted_phase`: True while beta is not integrated out of a restricted likelihood (one program gives both).
    """

    procedure, inner_procedure = "ALT", "LME"
    linearised_at: np.ndarray | None = None
    unrestricted_phase = False

    def _run(self, x: np.ndarray, modes: Sequence[Any], method: Any) -> tuple[ObjectiveSums, list[GroupValues]]:
        x0 = x if self.linearised_at is None else self.linearised_at
        return self.placed.run(partial_sums_linearised, (method, self.template, x0, x), modes)

    @np.errstate(all="ignore")  # values that are not finite are checked, not warned of
    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> EvaluatedPoint:
        outcome = super().evaluate(x, modes, steps)
        if self.restricted and not self.unrestricted_phase:
            outcome.sums = with_beta_integrated(outcome.sums, self.free)
        return outcome

    @property
    def objective_failures(self) -> list[str]:
        if not self.restricted or np.isfinite(self.best.value):
            return []
        moving = np.flatnonzero(self.free[: len(self.binding.density.beta_names)])
        names = [self.binding.packed_names[k] for k in moving]
        singular = singular_directions(np.asarray(self.best.sums.information)[np.ix_(moving, moving)], names)
        return [no_information_on_beta(singular)] if singular else []

    def evaluate_candidate(self, x: np.ndarray) -> EvaluatedPoint:
        """The EvaluatedPoint at `x` (n,) of the model linearised at the best point: then the gradient is that of the
        value."""
        return self.evaluate_linearised_at_best(x, self.best.modes)

    def accept_candidate(self, candidate: EvaluatedPoint) -> EvaluatedPoint:
        """The EvaluatedPoint at a `candidate` of the model linearised there."""
        return self.evaluate(candidate.x, self.modes_at(candidate.x))

    def evaluate_linearised_at_best(self, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        """`evaluate` at `x` (n,) with the model linearised at the best point."""
        self.linearised_at = self.x
        try:
            return self.evaluate(x, modes)
        finally:
            self.linearised_at = None

    def save(self, finished: bool = False) -> None:
        # The minimiser's state in the unrestricted phase does not apply to the likelihood that a resumed fit maximises.
        state = self.state
        if self.unrestricted_phase:
            self.state = None
        super().save(finished)
        self.state = state

    @np.errstate(all="ignore")
    def linearised_information(self, active: np.ndarray) -> np.ndarray:
        """Minus the Hessian (active, active) of the linearised model's log-likelihood at the best point: X' V^-1 X in
        beta, where it is exact, and central differences of the exact gradient in the other entries."""
        p = len(self.binding.density.beta_names)
        no_priors = not self.binding.density.priors
        matrix = np.zeros((len(self.x), len(self.x)))
        if no_priors:
            matrix[:p, :p] = self.best.sums.information
        moving = active[active >= p] if no_priors else active
        matrix[moving] = self.slopes(moving, np.arange(len(self.x)), self.evaluate_linearised_at_best)
        # A row of beta that was not differenced is the column of the rows that were: the matrix is symmetric.
        matrix[:p, p:] = matrix[p:, :p].T if no_priors else matrix[:p, p:]
        matrix = matrix[np.ix_(active, active)]
        return 0.5 * (matrix + matrix.T)

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """The information of the linearised model, with zeros between beta and the other parameters, to which beta is
        orthogonal in expectation."""
        p = len(self.binding.density.beta_names)
        matrix = self.linearised_information(active)
        fixed = active < p
        matrix[np.ix_(fixed, ~fixed)] = 0.0
        matrix[np.ix_(~fixed, fixed)] = 0.0
        return matrix

    def stopping_criterion(self, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> tuple[bool, str]:
        inverse = None
        if matrix is not None and np.isfinite(matrix).all():
            inverse = positive_definite_inverse(positive_definite_neighbour(matrix))
        if inverse is None:
            limit = 0.5 * CRITERIA.fixed_point_tolerance**2
            clause = f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {limit:.0e})"
            return decrement < limit, clause
        moves = np.abs(inverse @ np.asarray(self.best.sums.gradient)[active]) / np.sqrt(np.diag(inverse))
        residual = float(np.max(moves, initial=0.0))
        clause = f"the alternation would move no parameter by more than {residual:.1e} standard errors"
        return residual < CRITERIA.fixed_point_tolerance, f"{clause} (limit {CRITERIA.fixed_point_tolerance:g})"


# ---- the likelihood of the linearised model over all groups: the one program that LME and RELME compile


def partial_sums_linearised(
    problem: Problem, point: tuple[Linearised, Params, Vector, Vector], modes: Any
) -> tuple[ObjectiveSums, GroupValues]:
    """The terms of the groups of `problem` in the likelihood at x of the model linearised at x0; see
    `objective.partial_sums`.

    **Arguments:** `point`: the method, the template of Params, x0 (n,) and x (n,); `modes` (groups, random): starts of
    the mode searches at x0.
    """
    method, template, x0, x = point
    density, weights = problem.density, problem.weights
    params0, params = unflatten(template, x0), unflatten(template, x)
    results = problem.map(lambda group, z0: linearised_likelihood(method, density, params0, params, group, z0), modes)
    model = results.linear_mixed
    sums, groups = sums_and_group_values(weights, results.result, model.score, weighted_sum(weights, model.score))
    slopes = None
    if method.restricted:
        # d(X' V^-1 X) = -(B' Q A)' dpsi (B' Q A).
        psi_derivatives = jnp.moveaxis(jax.jacfwd(density.covariance.psi)(params.covariance), -1, 0)
        crossed = weighted_sum(weights, model.cross_products)
        by_psi = -jnp.einsum("rab,abjk->rjk", psi_derivatives, crossed)
        slopes = jnp.concatenate([by_psi, weighted_sum(weights, model.information_slopes)])
    information = weighted_sum(weights, model.information)
    return dataclasses.replace(sums, information=information, slopes=slopes), groups


def with_beta_integrated(sums: ObjectiveSums, free: np.ndarray) -> ObjectiveSums:
    """The sums with beta integrated out: p log(2 pi) / 2 - log|X' V^-1 X| / 2 is added to the log-likelihood.

    **Arguments:** `sums` of a linearised model; `free` (n,) bool: entries that may move, among them the p of beta.
    """
    p = sums.information.shape[0]
    moving = np.flatnonzero(free[:p])
    information = sums.information[np.ix_(moving, moving)]
    sign, logdet = np.linalg.slogdet(information)
    log_integral = len(moving) * HALF_LOG_2PI - 0.5 * logdet if sign > 0 else np.nan
    gradient = np.array(sums.gradient)
    if sign > 0:
        slopes = sums.slopes[:, moving][:, :, moving]
        gradient[p:] += 0.5 * np.einsum("jk,rkj->r", np.linalg.inv(information), slopes)
    return dataclasses.replace(
        sums, value=sums.value - log_integral, gradient=gradient, log_likelihood=sums.log_likelihood + log_integral
    )
