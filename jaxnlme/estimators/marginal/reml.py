"""REML: the restricted likelihood of a likelihood approximation, with beta integrated out by Laplace's method.

With l(beta, theta) the approximate log-likelihood (plus log priors on covariance and error parameters), beta^ its
maximum at theta, p the number of unfixed beta and H = -d2l/dbeta2 there,

    l_R(theta) = log int exp l(beta, theta) dbeta ~ l(beta^, theta) + (p / 2) log 2 pi - (1 / 2) log|H|:

a flat prior on beta, on its transformed scale, and no term log|X'X|. For f linear in beta and b it is exact, the
restricted likelihood of Patterson and Thompson (1971), Biometrika 58, 545-554, in Harville's (1974) form, Biometrika
61, 383-385; the approximation is that of Tierney and Kadane (1986), JASA 81, 82-86.

All of it is computed from the exact gradient of l, which every fit has compiled. One evaluation of l_R at theta:

1. Maximise l over beta by quasi-Newton steps (`_profile_beta`), from the first-order prediction
   beta^0 + D (theta - theta0), D = d beta^/d theta, and with H^-1, both of the best point (beta^0, theta0) so far.
2. Compute H, D and the gradient of (1/2) log|H| by differences of the gradient of l around beta^
   (`numerics.logdet_derivative`).
3. Combine them: the value l_R, and its gradient dl/dtheta - d/dtheta (1/2) log|H| with beta^ a function of theta.

The information matrix is that of beta and theta jointly (`RestrictedObjective.hessian`). A fit starts near the maximum
of l (`unrestricted_start`); from there the rounds are those of `algorithm`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.core.base import AbstractEstimator, no_information_on_beta
from jaxnlme.estimators.core.objective import Evaluation, GroupValues, ObjectiveSums
from jaxnlme.estimators.marginal.evaluations import BetaIntegral, EvaluatedPoint, Evaluator
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.objective import (
    AbstractObjective,
    MarginalObjective,
    Notify,
    gain_criterion,
    no_callbacks,
    points_beside,
)
from jaxnlme.estimators.marginal.pipeline import SessionInputs
from jaxnlme.estimators.marginal.search import QuasiNewton
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import RESTRICTED
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.logdet_derivative import LogdetDerivative, logdet_derivative
from jaxnlme.results.inference import singular_directions


@final
class RestrictedObjective(AbstractObjective):
    """Minus the restricted likelihood, a function of theta. The unfixed beta in x is only the start of the first search
    for beta^; the point that is returned holds beta^.

    **Arguments:** `evaluator`, which computes the `unrestricted` objective.
    """

    procedure, inner_procedure = "LAP", "PLM"

    def __init__(self, evaluator: Evaluator):
        super().__init__(evaluator)
        self.unrestricted = MarginalObjective(evaluator)
        self.beta = evaluator.beta

    def evaluate(
        self,
        x: np.ndarray,
        modes: Sequence[Any],
        best: EvaluatedPoint | None,
        notify: Notify = no_callbacks,
        fourth_order: bool = True,
    ) -> EvaluatedPoint:
        """The restricted likelihood at `x` (n,).

        **Arguments:** `modes`: starts of the mode searches; `best`: its beta^ and their derivatives start the search
        for beta^; `notify`: called during that search; `fourth_order`: the order of the differences for log|H| (second
        if false).
        **Returns:** the point, with beta^ in its x.
        """
        x = np.asarray(x)
        integral = None if best is None else best.beta_integral
        if best is None or integral is None:
            point, metric, gain = self._profile_beta(x, modes, None, notify)
        else:
            with np.errstate(invalid="ignore"):
                change = np.nan_to_num(x - best.x, nan=0.0, posinf=0.0, neginf=0.0)
            change[self.beta] = 0.0
            starts = (best.x[self.beta] + integral.beta_slopes @ change, best.x[self.beta])
            for beta in starts:
                x = x.copy()
                x[self.beta] = beta
                metric = np.linalg.inv(integral.information)
                point, _, gain = self._profile_beta(x, modes, metric, notify)
                if np.isfinite(point.value):
                    break
        if not np.isfinite(point.value) or not np.isfinite(point.sums.gradient[self.beta]).all():
            return point
        if not gain < RESTRICTED.max_gain:
            reason = (
                "The fixed effects that fit best beside the other parameters were not found "
                f"({gain:.1e} log-likelihood units still expected to be gained); use other starting values."
            )
            return point.with_sums(_without_value(point.sums), None, reason)
        return self._with_integral(point, metric, fourth_order)

    def search_modes(self, x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
        return self.unrestricted.evaluate(x, modes)

    def evaluate_in_stages(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint, notify: Notify
    ) -> EvaluatedPoint:
        return self.evaluate(x, modes, best, notify)

    def evaluate_candidate(self, x: np.ndarray, best: EvaluatedPoint) -> EvaluatedPoint:
        return self.evaluate(x, self.evaluator.modes_at(x, best), best)

    def accept_candidate(self, candidate: EvaluatedPoint, best: EvaluatedPoint) -> EvaluatedPoint:
        return candidate

    def stopping_criterion(
        self, best: EvaluatedPoint, matrix: np.ndarray | None, active: np.ndarray, decrement: float
    ) -> tuple[bool, str]:
        return gain_criterion(decrement)

    def failures(self, best: EvaluatedPoint) -> list[str]:
        return [best.reason] if best.reason else []

    def hessian(self, best: EvaluatedPoint, active: np.ndarray, approximate_se: np.ndarray) -> np.ndarray:
        """The joint information of beta and theta, (active, active): [[H, C], [C', C' H^-1 C + I_R]] with C = -H D the
        second derivatives of -l in beta and theta, I_R the information on theta in the restricted likelihood. The
        inverse is I_R^-1 for theta, and H^-1 + D I_R^-1 D' for beta."""
        integral = best.beta_integral
        if integral is None:
            return np.full((len(active), len(active)), np.nan)
        theta = np.setdiff1d(active, self.beta)
        at_beta, at_theta = np.searchsorted(active, self.beta), np.searchsorted(active, theta)

        def restricted(x: np.ndarray, modes: Sequence[Any]) -> EvaluatedPoint:
            return self.evaluate(x, modes, best, fourth_order=False)

        rows = np.zeros((len(theta), len(theta)))
        for k, (up, down, width) in enumerate(points_beside(best, theta, self.unrestricted.evaluate, approximate_se)):
            rows[k] += (up.sums.gradient - down.sums.gradient)[theta] / width
        for k, (up, down, width) in enumerate(
            points_beside(best, theta, restricted, approximate_se, RESTRICTED.logdet_step)
        ):
            ends = [np.nan if p.beta_integral is None else p.beta_integral.gradient[theta] for p in (up, down)]
            rows[k] += (ends[0] - ends[1]) / width
        matrix = np.zeros((len(active), len(active)))
        matrix[np.ix_(at_theta, at_theta)] = 0.5 * (rows + rows.T)
        information = integral.information
        matrix[np.ix_(at_beta, at_beta)] = information
        matrix[np.ix_(at_beta, at_theta)] = -information @ integral.beta_slopes[:, theta]
        matrix[np.ix_(at_theta, at_beta)] = matrix[np.ix_(at_beta, at_theta)].T
        return matrix

    @np.errstate(all="ignore")
    def _profile_beta(
        self, x: np.ndarray, modes: Sequence[Any], inverse: np.ndarray | None, notify: Notify
    ) -> tuple[EvaluatedPoint, np.ndarray, float]:
        """Maximise the unrestricted likelihood l over beta, from the beta in `x` (n,).

        **Arguments:** `inverse` (p, p): the initial inverse Hessian, None for that of the groups' scores; `notify`:
        called after each step.
        **Returns:** the point under l at beta^, the minimiser's inverse Hessian (p, p), and the expected gain of a
        further step.
        """
        evaluator, best = self.evaluator, self.unrestricted.evaluate(x, modes)
        if not np.isfinite(best.value):
            return best, np.eye(len(self.beta)), np.inf
        estimator = MaximumLikelihood(evaluator.method, RESTRICTED.max_steps, RESTRICTED.tolerance)
        is_beta = np.isin(np.arange(len(x)), self.beta)
        first = Evaluation(best.sums, GroupValues())
        state = estimator.init(evaluator.binding.density, evaluator.template, x, first, is_beta)
        block = np.ix_(self.beta, self.beta)
        if inverse is not None:
            metric = np.zeros((len(x), len(x)))
            metric[block] = inverse
            state = eqx.tree_at(lambda s: s.bfgs, state, state.minimiser.with_inverse(state.bfgs, metric))
        notify("PNLS", "init", 0)
        tries = 0
        while not estimator.terminate(state):
            tries += 1
            result = self.unrestricted.evaluate(np.asarray(estimator.trial(state)), best.modes)
            before = int(state.bfgs.iterations)
            use_scores = evaluator.many_groups and inverse is None
            state = estimator.update(state, Evaluation(result.sums, GroupValues()), use_scores)
            best = result if int(state.bfgs.iterations) > before else best
            notify("PNLS", "iter", tries, result, result.x)
        notify("PNLS", "done", tries, best, best.x)
        return best, np.asarray(state.bfgs.inverse)[block], float(state.bfgs.decrement)

    def _with_integral(self, point: EvaluatedPoint, metric: np.ndarray, fourth_order: bool) -> EvaluatedPoint:
        """The restricted likelihood from the unrestricted `point` at beta^; `metric` (p, p) is close to H^-1."""
        beta, score = self.beta, point.sums.gradient

        def gradient(shift: np.ndarray) -> np.ndarray:
            x = point.x.copy()
            x[beta] += shift
            return self.unrestricted.evaluate(x, point.modes).sums.gradient

        derivative = logdet_derivative(gradient, score, beta, metric, fourth_order)
        names = [self.evaluator.binding.packed_names[k] for k in beta]
        singular = singular_directions(derivative.hessian, names)
        if not derivative.positive_definite or singular:
            return point.with_sums(_without_value(point.sums), None, no_information_on_beta(singular))
        integral = _integral(derivative, beta)
        # beta^ is one more Newton step away, too short to change x: value and gradient are extrapolated to it.
        step = -np.linalg.solve(integral.information, score[beta])
        total = score + score[beta] @ integral.beta_slopes + integral.gradient
        total[beta] = 0.0
        change = integral.value + derivative.half_logdet_gradient[beta] @ step + 0.5 * score[beta] @ step
        sums = dataclasses.replace(
            point.sums,
            value=point.sums.value + change,
            gradient=total,
            log_likelihood=point.sums.log_likelihood - change,
        )
        return point.with_sums(sums, integral)


def _integral(derivative: LogdetDerivative, beta: np.ndarray) -> BetaIntegral:
    """The BetaIntegral from H and its derivatives; `beta` (p,): packed indices."""
    beta_slopes = -np.linalg.solve(derivative.hessian, derivative.mixed_derivatives.T)
    # The logarithm of a variance at zero is minus infinity: there are no derivatives in it.
    beta_slopes = np.where(np.isfinite(beta_slopes), beta_slopes, 0.0)
    beta_slopes[:, beta] = np.eye(len(beta))
    gradient = derivative.half_logdet_gradient + derivative.half_logdet_gradient[beta] @ beta_slopes
    gradient[beta] = 0.0
    value = 0.5 * float(np.linalg.slogdet(derivative.hessian)[1]) - len(beta) * HALF_LOG_2PI
    return BetaIntegral(derivative.hessian, beta_slopes, value, gradient)


def _without_value(sums: ObjectiveSums) -> ObjectiveSums:
    """The sums with an infinite objective, which a minimiser refuses."""
    return dataclasses.replace(sums, value=np.asarray(np.inf), log_likelihood=np.asarray(-np.inf))


def unrestricted_start(
    binding: Binding, estimator: AbstractEstimator, params: Params, placed: PlacedProblem
) -> tuple[Params, str, Session]:
    """Start of a REML fit near the maximum of the unrestricted likelihood: an evaluation of the restricted likelihood
    takes as long as twenty or more of the unrestricted one, and this start saves most of them.

    **Arguments:** `estimator`: the REML estimator; `params`: the start. Callbacks are not called.
    **Returns:** the Params, a sentence for the record, and the Session that found them; where the start is not finite,
    `params` and an empty sentence.
    """
    unrestricted = MaximumLikelihood(estimator.method, estimator.max_iterations, RESTRICTED.unrestricted_tolerance)
    objective = MarginalObjective(Evaluator(binding, estimator.method, params, placed))
    session = Session(objective, QuasiNewton(), unrestricted, ())
    if not np.isfinite(session.best.value):
        return params, "", session
    try:
        session.minimise()
    except KeyboardInterrupt:
        session.interrupted = True
    steps = f"{session.iterations} iterations" if session.iterations != 1 else "1 iteration"
    return session.params(), f"Started from {steps} of the unrestricted likelihood.", session


def restricted_session(inputs: SessionInputs) -> tuple[Session, list[str]]:
    """The session of the restricted likelihood; a new start first takes iterations of the unrestricted one, whose
    inverse Hessian and number of evaluations it takes over."""
    if not inputs.is_new:
        return inputs.session(RestrictedObjective(inputs.evaluator()), QuasiNewton()), []
    params, sentence, unrestricted = unrestricted_start(inputs.binding, inputs.estimator, inputs.params, inputs.placed)
    session = inputs.session(RestrictedObjective(inputs.evaluator(params)), QuasiNewton())
    session.objective.evaluator.count += unrestricted.evaluations
    session.interrupted = unrestricted.interrupted
    if unrestricted.state is not None:
        session.metric = np.asarray(unrestricted.state.bfgs.inverse)
    return session, [sentence] if sentence else []
