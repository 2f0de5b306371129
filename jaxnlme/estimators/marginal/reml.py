"""The restricted likelihood of a rung: beta integrated out, by Laplace's method around its best value at each theta.

With l(beta, theta) a rung's log-likelihood (plus log priors on covariance and error parameters), beta^ its maximum at
theta, p the number of unfixed beta and H = -d2l/dbeta2 there,

    l_R(theta) = log int exp l(beta, theta) dbeta ~ l(beta^, theta) + (p / 2) log 2 pi - (1 / 2) log|H|:

a flat prior on beta, on its transformed scale, and no term log|X'X|. For f linear in beta and b it is exact, the
restricted likelihood of Patterson and Thompson (1971), Biometrika 58, 545-554, in Harville's (1974) form, Biometrika
61, 383-385; the approximation is that of Tierney and Kadane (1986), JASA 81, 82-86.

Everything is made of the rung's exact gradient, which every fit has compiled; see `Session` for what drives it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.core.base import AbstractEstimator, uninformed
from jaxnlme.estimators.core.objective import Evaluation, Groups, ObjectiveSums
from jaxnlme.estimators.marginal.evaluations import Outcome
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.logdet_derivative import LogdetDerivative, logdet_derivative
from jaxnlme.results.inference import singular_directions

# beta^ is found when a further step would gain less, in log-likelihood units (what it would gain is added); at most so
# many steps, and so much may be left where rounding ends the search.
SOLVED, SOLVE_STEPS, LEFT = 1e-12, 100, 1e-8
# The unrestricted likelihood leads to within so many log-likelihood units of its maximum.
NEAR = 1e-4
# Steps of the differences that make the information of log|H|, as a share of each entry's uncertainty: it is a small
# part of the information, and its gradient carries more rounding than the rung's.
SHARE = 0.03


@dataclasses.dataclass(frozen=True)
class Integral:
    """What integrating beta out adds at one theta, on the objective's sign.

    `information` (p, p): H; `follow` (p, n): the derivative of beta^ in x, the identity's rows on beta's own columns;
    `term`: (1 / 2) log|H| - (p / 2) log 2 pi; `slope` (n,): its total derivative, zero for beta."""

    information: np.ndarray
    follow: np.ndarray
    term: float
    slope: np.ndarray


class RestrictedOutcome(Outcome):
    """An Outcome whose sums are the restricted likelihood's: its gradient is zero for beta, and total (beta^ follows)
    for the others; `x` holds beta^. `own` is what each group says at x, the integral apart. `integral` is None where it
    is not finite, with `reason`, a sentence."""

    def __init__(self, plain: Outcome, sums: ObjectiveSums, integral: Integral | None, reason: str = ""):
        super().__init__(sums, plain.pieces, plain.placed, plain.x)
        self.integral, self.reason = integral, reason


class RestrictedSession(Session):
    """A Session whose `evaluate` is the restricted likelihood, a function of theta: what x says of unfixed beta is
    where the first search for beta^ starts. Each evaluation solves for beta^ by quasi-Newton steps with the last known
    H, then differences the rung's gradient around it."""

    @property
    def beta(self) -> np.ndarray:
        """Packed indices (p,) of the beta that are integrated out."""
        return np.flatnonzero(~self.binding.fixed[: len(self.binding.density.beta_names)])

    def follow(self, leader: Session) -> None:
        """Goes on from where an unrestricted session led, with its metric and the count of its evaluations."""
        self.evaluations += leader.evaluations
        self.interrupted = leader.interrupted
        if leader.state is not None:
            self.metric = np.asarray(leader.state.bfgs.inverse)

    def minimise(self) -> None:
        if not self.interrupted:
            super().minimise()

    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> Outcome:
        assert steps is None, "the search for beta^ needs whole evaluations"
        return self._integrated(np.asarray(x), modes)

    def searched(self, x: np.ndarray, modes: Sequence[Any]) -> Outcome:
        """`evaluate`; a callback that wants to see it is told of the search for beta^ and the modes beside it."""
        return self._integrated(np.asarray(x), modes, self.callbacks.every_stage)

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """The joint information of beta and theta, (active, active): [[H, C], [C', C' H^-1 C + I_R]] with C the rung's
        second derivatives in beta and theta, I_R the information of theta in the restricted likelihood. Its inverse is
        I_R^-1 for theta, and H^-1 plus what theta's uncertainty adds for beta."""
        best = self.best
        assert isinstance(best, RestrictedOutcome)
        if best.integral is None:
            return np.full((len(active), len(active)), np.nan)
        theta = np.setdiff1d(active, self.beta)
        among, at = np.searchsorted(active, self.beta), np.searchsorted(active, theta)

        def integrated(x: np.ndarray, modes: Sequence[Any]) -> RestrictedOutcome:
            return self._integrated(x, modes, fine=False)

        rows = np.zeros((len(theta), len(theta)))
        for k, (up, down, width) in enumerate(self.differences(theta, self._plain)):
            rows[k] += (up.sums.gradient - down.sums.gradient)[theta] / width
        for k, (up, down, width) in enumerate(self.differences(theta, integrated, SHARE)):
            ends = [np.nan if one.integral is None else one.integral.slope[theta] for one in (up, down)]
            rows[k] += (ends[0] - ends[1]) / width
        matrix = np.zeros((len(active), len(active)))
        matrix[np.ix_(at, at)] = 0.5 * (rows + rows.T)
        information = best.integral.information
        matrix[np.ix_(among, among)] = information
        matrix[np.ix_(among, at)] = -information @ best.integral.follow[:, theta]
        matrix[np.ix_(at, among)] = matrix[np.ix_(among, at)].T
        return matrix

    @property
    def objective_failures(self) -> list[str]:
        return [self.best.reason] if isinstance(self.best, RestrictedOutcome) and self.best.reason else []

    def _plain(self, x: np.ndarray, modes: Sequence[Any]) -> Outcome:
        return super().evaluate(x, modes)

    def _integrated(
        self, x: np.ndarray, modes: Sequence[Any], told: bool = False, fine: bool = True
    ) -> RestrictedOutcome:
        """The restricted likelihood at `x` (n,). `told`: callbacks are told of the search for beta^; `fine`: its
        differences are of fourth order (else of second)."""
        near = getattr(self, "best", None)
        known = near.integral if isinstance(near, RestrictedOutcome) else None
        if known is None:
            plain, metric, left = self._best_beta(x, modes, None, told)
        else:
            assert near is not None
            with np.errstate(invalid="ignore"):
                moved = np.nan_to_num(x - near.x, nan=0.0, posinf=0.0, neginf=0.0)
            moved[self.beta] = 0.0
            starts = (near.x[self.beta] + known.follow @ moved, near.x[self.beta])
            for beta in starts:
                x = x.copy()
                x[self.beta] = beta
                metric = np.linalg.inv(known.information)
                plain, _, left = self._best_beta(x, modes, metric, told)
                if np.isfinite(plain.value):
                    break
        if not np.isfinite(plain.value) or not np.isfinite(plain.sums.gradient[self.beta]).all():
            return RestrictedOutcome(plain, plain.sums, None)
        if not left < LEFT:
            reason = (
                "The fixed effects that fit best beside the other parameters were not found "
                f"({left:.1e} log-likelihood units still expected to be gained); start from other values."
            )
            return RestrictedOutcome(plain, _spoiled(plain.sums), None, reason)
        return self._with_integral(plain, metric, fine)

    @np.errstate(all="ignore")
    def _best_beta(
        self, x: np.ndarray, modes: Sequence[Any], inverse: np.ndarray | None, told: bool
    ) -> tuple[Outcome, np.ndarray, float]:
        """The rung's Outcome at beta^, an inverse Hessian (p, p) as the minimiser knows it, and what a further step
        would gain. `inverse` (p, p): the metric to begin with, None for that of the groups' scores."""
        best = self._plain(x, modes)
        if not np.isfinite(best.value):
            return best, np.eye(len(self.beta)), np.inf
        estimator = MaximumLikelihood(self.estimator.method, SOLVE_STEPS, SOLVED)
        integrated = np.isin(np.arange(len(x)), self.beta)
        first = Evaluation(best.sums, Groups())
        state = estimator.init(self.binding.density, self.template, x, first, integrated)
        block = np.ix_(self.beta, self.beta)
        if inverse is not None:
            metric = np.zeros((len(x), len(x)))
            metric[block] = inverse
            state = eqx.tree_at(lambda s: s.bfgs, state, state.minimiser.renew(state.bfgs, metric))
        if told:
            self.notify_inner("PNLS", "init", 0)
        tries = 0
        while not estimator.terminate(state):
            tries += 1
            result = self._plain(np.asarray(estimator.trial(state)), best.modes)
            before = int(state.bfgs.iterations)
            state = estimator.tell(state, Evaluation(result.sums, Groups()), self.many and inverse is None)
            best = result if int(state.bfgs.iterations) > before else best
            if told:
                self.notify_inner("PNLS", "iter", tries, result, result.x)
        if told:
            self.notify_inner("PNLS", "done", tries, best, best.x)
        return best, np.asarray(state.bfgs.inverse)[block], float(state.bfgs.decrement)

    def _with_integral(self, plain: Outcome, metric: np.ndarray, fine: bool) -> RestrictedOutcome:
        """The restricted likelihood from the rung's at beta^, where `metric` (p, p) is about H^-1."""
        beta, score = self.beta, plain.sums.gradient

        def gradient(shift: np.ndarray) -> np.ndarray:
            x = plain.x.copy()
            x[beta] += shift
            return self._plain(x, plain.modes).sums.gradient

        found = logdet_derivative(gradient, score, beta, metric, fine)
        names = [self.binding.packed_names[k] for k in beta]
        singular = singular_directions(found.hessian, names)
        if not found.positive or singular:
            return RestrictedOutcome(plain, _spoiled(plain.sums), None, uninformed(singular))
        integral = _integral(found, beta)
        # beta^ lies a step further than x, too short to show there: value and gradient are carried to it.
        step = -np.linalg.solve(integral.information, score[beta])
        total = score + score[beta] @ integral.follow + integral.slope
        total[beta] = 0.0
        change = integral.term + found.slope[beta] @ step + 0.5 * score[beta] @ step
        sums = dataclasses.replace(
            plain.sums,
            value=plain.sums.value + change,
            gradient=total,
            log_likelihood=plain.sums.log_likelihood - change,
        )
        return RestrictedOutcome(plain, sums, integral)


def _integral(found: LogdetDerivative, beta: np.ndarray) -> Integral:
    follow = -np.linalg.solve(found.hessian, found.mixed.T)
    # Variances at zero have no derivatives, and beta^ none in them.
    follow = np.where(np.isfinite(follow), follow, 0.0)
    follow[:, beta] = np.eye(len(beta))
    slope = found.slope + found.slope[beta] @ follow
    slope[beta] = 0.0
    term = 0.5 * float(np.linalg.slogdet(found.hessian)[1]) - len(beta) * HALF_LOG_2PI
    return Integral(found.hessian, follow, term, slope)


def _spoiled(sums: ObjectiveSums) -> ObjectiveSums:
    """Sums without a value, which a minimiser refuses."""
    return dataclasses.replace(sums, value=np.asarray(np.inf), log_likelihood=np.asarray(-np.inf))


def unrestricted_start(
    binding: Binding, estimator: AbstractEstimator, params: Params, placed: PlacedProblem
) -> tuple[Params, str, Session]:
    """Params near the maximum of the rung's own likelihood, a sentence for the record, and the Session that led there:
    an evaluation of the restricted likelihood costs twenty or more of the rung, and this spares most of them. Callbacks
    are not told. The sentence is empty, and `params` come back, where the start is not finite."""
    session = Session(binding, MaximumLikelihood(estimator.method, estimator.max_iterations, NEAR), params, (), placed)
    if not np.isfinite(session.best.value):
        return params, "", session
    try:
        session.minimise()
    except KeyboardInterrupt:
        session.interrupted = True
    steps = f"{session.iterations} iterations" if session.iterations != 1 else "1 iteration"
    return session.params(), f"Started from {steps} of the unrestricted likelihood.", session
