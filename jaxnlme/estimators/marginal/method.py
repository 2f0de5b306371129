"""The estimators of a rung, plain and restricted: quasi-Newton on the exact gradient, in pure steps."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.base import AbstractEstimator, check_integrated
from jaxnlme.estimators.core.objective import Evaluation, evaluate
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.integrals import Gaussian
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import as_number, xp
from jaxnlme.numerics.bfgs import BFGS, BFGSState
from jaxnlme.typing import Matrix, Vector

LARGEST_LOG_STEP = 2.0
# Entries in the user's units may move by so many standard deviations in a step, as their scores tell these; the
# information of any entry is taken to be so much at least, relative to its size (on log scales, to one).
SPREADS, LEAST_INFORMATION = 5.0, 1e-4
# The metric is made afresh of the groups' scores where there are this many groups a parameter, while more than
# RENEW_ABOVE log-likelihood units are expected to be gained, in the first RENEW_STEPS steps: where the model fits
# badly, scores and curvature differ, and their metric alone would converge slowly.
GROUPS_PER_PARAMETER = 8
RENEW_ABOVE = 0.5
RENEW_STEPS = 10


class MaximumLikelihoodState(eqx.Module):
    """Where an estimation stands: the minimiser's state, and at its best point the modes and the evaluation's
    log-likelihood."""

    bfgs: BFGSState
    minimiser: BFGS
    modes: Any
    log_likelihood: Any


class MaximumLikelihood(AbstractEstimator):
    """Maximises one rung of the likelihood ladder over the unfixed parameters.

    **Fields:** `method`, the rung; `max_iterations`; `tolerance`: ends when the predicted gain of a further step is
    below it, in log-likelihood units. All numbers are traced.

    The pure parts (`init`, `trial`, `tell`, `step`, `terminate`) are driven by a host loop in `fit`, or by `run`, a
    `lax.while_loop` that batches under vmap.
    """

    method: LikelihoodApproximation
    max_iterations: Any = eqx.field(default=500, converter=as_number)
    tolerance: Any = eqx.field(default=1e-8, converter=as_number)

    def evaluate(self, problem: Problem, template: Params, x: Vector, modes: Any) -> Evaluation:
        """The objective at `x` (n,)."""
        return evaluate(problem, self.method, template, x, modes)

    def init(
        self, density: Density, template: Params, x: Vector, first: Evaluation, free: Vector
    ) -> MaximumLikelihoodState:
        """The state at a first evaluated point; `free` (n,) bool: which entries of x may move."""
        xnp = xp(x)
        dense = first.outer.shape[0]
        beta = template.beta.shape[0]
        # Entries in the user's units (beta, the off-diagonal of a factor) may move by their own size, or by what their
        # score says they are uncertain; entries on log scales by a factor of e^2 a step.
        size = xnp.abs(x[:dense])
        least = xnp.where(size > 0.0, LEAST_INFORMATION / xnp.where(size > 0.0, size, 1.0) ** 2, 1e-12)
        own = xnp.maximum(size, SPREADS / xnp.sqrt(xnp.maximum(xnp.diagonal(first.outer), least)))
        units = [*range(beta), *(beta + o for _, _, others in density.covariance.log_scales for o in others)]
        units = np.array(units, int)
        in_units = np.isin(np.arange(x.shape[0]), units)
        wide = xnp.concatenate([own, xnp.ones(x.shape[0] - dense)])
        longest = xnp.where(in_units, xnp.clip(wide, 1e-8, 1e8), LARGEST_LOG_STEP)
        minimiser = BFGS(free, longest)
        inverse = _score_metric(first, minimiser)
        state = minimiser.init(x, first.value, first.gradient, inverse)
        return MaximumLikelihoodState(state, minimiser, first.modes, first.log_likelihood)

    def trial(self, state: MaximumLikelihoodState) -> Vector:
        """The point (n,) to evaluate next, searches starting from `state.modes`."""
        return state.minimiser.trial(state.bfgs)

    def tell(self, state: MaximumLikelihoodState, result: Evaluation, many: bool = True) -> MaximumLikelihoodState:
        """The state after the evaluation at `trial(state)`; `many` (static): whether there may be GROUPS_PER_PARAMETER
        groups a parameter (a program for fewer is shorter)."""
        xnp = xp(state.bfgs.x)
        bfgs, accept = state.minimiser.tell(state.bfgs, result.value, result.gradient)
        if many:
            # Far from the maximum the scores of many groups know the curvature better than the steps so far do.
            metric = _score_metric(result, state.minimiser)
            renewed = state.minimiser.renew(bfgs, metric)
            enough = result.counted >= GROUPS_PER_PARAMETER * result.outer.shape[0]
            use = accept & enough & (renewed.decrement > RENEW_ABOVE) & (bfgs.iterations <= RENEW_STEPS)
            bfgs = jax.tree.map(lambda new, old: xnp.where(use, new, old), renewed, bfgs)
        return MaximumLikelihoodState(
            bfgs,
            state.minimiser,
            jax.tree.map(lambda new, old: xnp.where(accept, new, old), result.modes, state.modes),
            xnp.where(accept, result.log_likelihood, state.log_likelihood),
        )

    def step(self, problem: Problem, template: Params, state: MaximumLikelihoodState) -> MaximumLikelihoodState:
        """One evaluation and what follows from it."""
        result = self.evaluate(problem, template, self.trial(state), state.modes)
        groups, p = result.scores.shape
        return self.tell(state, result, groups >= GROUPS_PER_PARAMETER * p)

    def terminate(self, state: MaximumLikelihoodState) -> Any:
        """True where the minimisation is over: predicted gain below the tolerance, no descent left, or out of steps."""
        xnp = xp(state.bfgs.x)
        bfgs = state.bfgs
        over = (bfgs.decrement < self.tolerance) | bfgs.stalled | (bfgs.iterations >= self.max_iterations)
        return over | ~xnp.isfinite(bfgs.value) | (bfgs.evaluations >= 10 * self.max_iterations)

    def run(self, problem: Problem, template: Params, x: Vector, modes: Any, free: Vector) -> MaximumLikelihoodState:
        """The whole minimisation as a pure loop."""
        first = self.evaluate(problem, template, x, modes)
        state = self.init(problem.density, template, x, first, free)
        return jax.lax.while_loop(lambda s: ~self.terminate(s), lambda s: self.step(problem, template, s), state)


class REML(AbstractEstimator):
    """Maximises the restricted likelihood of a rung over the unfixed covariance and error parameters; beta is where the
    rung's likelihood is largest beside them.

    **Fields:** as of `MaximumLikelihood`.
    """

    method: LikelihoodApproximation
    max_iterations: Any = eqx.field(default=500, converter=as_number)
    tolerance: Any = eqx.field(default=1e-8, converter=as_number)

    @property
    def restricted(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return f"{self.method.name}, restricted"

    def check(self, binding: Binding) -> None:
        """**Errors:** OptionError where the restricted likelihood is not defined: for quadrature and drawn likelihoods,
        free weights, priors on beta, and where no beta is free."""
        super().check(binding)
        if not isinstance(self.method.integral, Gaussian):
            raise OptionError(
                "restricted=True integrates the fixed effects out by Laplace's method, as 'fo', 'foce', 'focei' and "
                f"'laplace' do the random effects; received {self.method.name}."
            )
        if binding.start.free is not None:
            raise OptionError(
                "restricted=True integrates the fixed effects out, and this model has a free block of weights beside "
                "them; fit it without restricted=True."
            )
        check_integrated(binding, "restricted=True")


def restrict(estimator: AbstractEstimator) -> AbstractEstimator:
    """The estimator of the restricted likelihood in the place of a rung's.

    **Errors:** OptionError for other methods.
    """
    if isinstance(estimator, MaximumLikelihood):
        return REML(estimator.method, estimator.max_iterations, estimator.tolerance)
    if not estimator.restricted:
        raise OptionError(
            "restricted=True goes with 'fo', 'foce', 'focei' and 'laplace'; the restricted form of 'lme' is 'relme'. "
            f"Received {estimator.name}."
        )
    return estimator


def _score_metric(result: Evaluation, minimiser: BFGS) -> Matrix:
    """An inverse Hessian (n, n): the inverse of the outer products of the groups' scores, shrunk towards their diagonal
    where groups are few (Berndt, Hall, Hall and Hausman 1974, Annals of Economic and Social Measurement 3, 653-665);
    for a free block, a multiple of the identity that moves it by 0.1 in all.

    Scores that happen to vanish at the point (of a coefficient that one group carries, at that group's own maximum) say
    nothing of the curvature: information is taken to be no less than an entry's longest step allows."""
    free, longest = minimiser.free, minimiser.longest
    outer, counted = result.outer, result.counted
    xnp = xp(outer)
    p = outer.shape[0]
    n_rest = result.gradient.shape[0] - p
    diagonal = xnp.diagonal(outer)
    shrink = p / (p + counted)
    least = xnp.where(longest == LARGEST_LOG_STEP, LEAST_INFORMATION, (SPREADS / longest) ** 2)[:p]
    scale = 1.0 / xnp.sqrt(xnp.maximum(xnp.where(diagonal > 0, diagonal, 0.0), least))
    unit = outer * scale[:, None] * scale[None, :]
    unit = (1.0 - shrink) * unit + shrink * xnp.eye(p)
    used = free[:p]
    unit = xnp.where(used[:, None] & used[None, :], unit, xnp.eye(p))
    inverse = xnp.linalg.inv(unit) * scale[:, None] * scale[None, :]
    if n_rest == 0:
        return inverse
    length = xnp.sqrt(xnp.sum(result.gradient[p:] ** 2))
    rest = xnp.eye(n_rest) * (0.1 / xnp.maximum(length, 1e-12))
    return xnp.block([[inverse, xnp.zeros((p, n_rest))], [xnp.zeros((n_rest, p)), rest]])
