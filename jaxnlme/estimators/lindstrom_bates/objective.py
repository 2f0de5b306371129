"""The linearised likelihood as an objective: value and gradient at a given linearisation, information."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.base import no_information_on_beta
from jaxnlme.estimators.core.objective import GroupValues, ObjectiveSums, sums_and_group_values, unflatten, weighted_sum
from jaxnlme.estimators.lindstrom_bates.settings import CRITERIA
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint, Evaluator
from jaxnlme.estimators.marginal.flat_directions import without_errors_of_differences
from jaxnlme.estimators.marginal.objective import (
    AbstractObjective,
    Notify,
    gradient_differences,
    search_modes_in_stages,
)
from jaxnlme.likelihood.lindstrom_bates import Linearised, linearised_likelihood
from jaxnlme.model.params import Params
from jaxnlme.numerics.broyden import positive_definite_inverse, positive_definite_neighbour
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.results.inference import singular_directions
from jaxnlme.typing import Vector


@final
class LinearisedObjective(AbstractObjective):
    """Minus the log-likelihood of the model linearised at the point; its gradient is that with the linearisation held.

    **Arguments:** `evaluator`; `restricted`: beta is integrated out (one program gives both).
    """

    procedure, inner_procedure = "ALT", "LME"

    def __init__(self, evaluator: Evaluator, restricted: bool):
        super().__init__(evaluator)
        self.restricted = restricted

    def unrestricted(self) -> LinearisedObjective:
        """The objective in which beta is not integrated out, with the same evaluator."""
        return LinearisedObjective(self.evaluator, False)

    def evaluate(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint | None = None, steps: int | None = None
    ) -> EvaluatedPoint:
        return self._evaluate(x, x, modes, steps)

    def mode_ranks(self, groups: GroupValues) -> np.ndarray:
        """Log-likelihoods (groups,) of the model linearised at each mode. (Their penalised sums of squares have weights
        of their own, which no density has.)"""
        return np.asarray(groups.values)

    def evaluate_in_stages(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint, notify: Notify
    ) -> EvaluatedPoint:
        return search_modes_in_stages(self.evaluate, x, modes, best, self.evaluator, notify)

    def evaluate_candidate(self, x: np.ndarray, best: EvaluatedPoint) -> EvaluatedPoint:
        """The EvaluatedPoint at `x` (n,) of the model linearised at the best point: then the gradient is that of the
        value."""
        return self.evaluate_linearised_at(best, x, best.modes)

    def accept_candidate(self, candidate: EvaluatedPoint, best: EvaluatedPoint) -> EvaluatedPoint:
        """The EvaluatedPoint at a `candidate` of the model linearised there."""
        return self.evaluate(candidate.x, self.evaluator.modes_at(candidate.x, best))

    def evaluate_linearised_at(self, point: EvaluatedPoint, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        """`evaluate` at `x` (n,) with the model linearised at `point`."""
        return self._evaluate(point.x, x, modes)

    @np.errstate(all="ignore")  # values that are not finite are checked, not warned of
    def _evaluate(
        self, x0: np.ndarray, x: np.ndarray, modes: Sequence[Any], steps: int | None = None
    ) -> EvaluatedPoint:
        """The objective at `x` (n,) of the model linearised at `x0` (n,)."""
        point = self.evaluator.run(partial_sums_linearised, (x0, np.asarray(x)), modes, steps)
        return point.with_sums(with_beta_integrated(point.sums, self.evaluator.beta)) if self.restricted else point

    @np.errstate(all="ignore")
    def linearised_information(
        self, best: EvaluatedPoint, active: np.ndarray, approximate_se: np.ndarray
    ) -> np.ndarray:
        """Minus the Hessian (active, active) of the linearised model's log-likelihood at `best`: X' V^-1 X in beta,
        where it is exact, and central differences of the exact gradient in the other entries."""
        binding, n = self.evaluator.binding, len(best.x)
        p = len(binding.density.beta_names)
        no_priors = not binding.density.priors
        matrix = np.zeros((n, n))
        if no_priors:
            matrix[:p, :p] = best.sums.information
        moving = active[active >= p] if no_priors else active
        linearised_here = functools.partial(self.evaluate_linearised_at, best)
        matrix[moving] = gradient_differences(best, moving, np.arange(n), linearised_here, approximate_se)
        # A row of beta that was not differenced is the column of the rows that were: the matrix is symmetric.
        matrix[:p, p:] = matrix[p:, :p].T if no_priors else matrix[:p, p:]
        matrix = matrix[np.ix_(active, active)]
        return without_errors_of_differences(0.5 * (matrix + matrix.T), best, active, linearised_here)

    def hessian(self, best: EvaluatedPoint, active: np.ndarray, approximate_se: np.ndarray) -> np.ndarray:
        """The information of the linearised model, with zeros between beta and the other parameters, to which beta is
        orthogonal in expectation."""
        p = len(self.evaluator.binding.density.beta_names)
        matrix = self.linearised_information(best, active, approximate_se)
        fixed = active < p
        matrix[np.ix_(fixed, ~fixed)] = 0.0
        matrix[np.ix_(~fixed, fixed)] = 0.0
        return matrix

    def stopping_criterion(
        self, best: EvaluatedPoint, matrix: np.ndarray | None, active: np.ndarray, decrement: float
    ) -> tuple[bool, str]:
        inverse = None
        if matrix is not None and np.isfinite(matrix).all():
            inverse = positive_definite_inverse(positive_definite_neighbour(matrix))
        if inverse is None:
            limit = 0.5 * CRITERIA.fixed_point_tolerance**2
            clause = f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {limit:.0e})"
            return decrement < limit, clause
        moves = np.abs(inverse @ np.asarray(best.sums.gradient)[active]) / np.sqrt(np.diag(inverse))
        residual = float(np.max(moves, initial=0.0))
        clause = f"the alternation would move no parameter by more than {residual:.1e} standard errors"
        return residual < CRITERIA.fixed_point_tolerance, f"{clause} (limit {CRITERIA.fixed_point_tolerance:g})"

    def failures(self, best: EvaluatedPoint) -> list[str]:
        if not self.restricted or np.isfinite(best.value):
            return []
        beta = self.evaluator.beta
        names = [self.evaluator.binding.packed_names[k] for k in beta]
        singular = singular_directions(np.asarray(best.sums.information)[np.ix_(beta, beta)], names)
        return [no_information_on_beta(singular)] if singular else []


# ---- the likelihood of the linearised model over all groups: the one program that LME and RELME compile


def partial_sums_linearised(
    problem: Problem, point: tuple[Linearised, Params, Vector, Vector], modes: Any
) -> tuple[ObjectiveSums, GroupValues]:
    """The terms of the groups of `problem` in the likelihood at x of the model linearised at x0; see
    `core.objective.partial_sums`.

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


def with_beta_integrated(sums: ObjectiveSums, beta: np.ndarray) -> ObjectiveSums:
    """The sums with beta integrated out: p log(2 pi) / 2 - log|X' V^-1 X| / 2 is added to the log-likelihood.

    **Arguments:** `sums` of a linearised model; `beta` (p,): packed indices of the unfixed fixed effects.
    """
    information = sums.information[np.ix_(beta, beta)]
    sign, logdet = np.linalg.slogdet(information)
    log_integral = len(beta) * HALF_LOG_2PI - 0.5 * logdet if sign > 0 else np.nan
    gradient = np.array(sums.gradient)
    if sign > 0:
        slopes = sums.slopes[:, beta][:, :, beta]
        gradient[sums.information.shape[0] :] += 0.5 * np.einsum("jk,rkj->r", np.linalg.inv(information), slopes)
    return dataclasses.replace(
        sums, value=sums.value - log_integral, gradient=gradient, log_likelihood=sums.log_likelihood + log_integral
    )
