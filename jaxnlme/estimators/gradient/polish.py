"""The polish: the quasi-Newton search of the approximation over all groups, from where the training ended.

1. With polish="all": quasi-Newton steps in all trained entries, at most `max_iterations`. The gain that the last
   quasi-Newton matrix predicts says how well the weights are determined.
2. The weights are held, and beta, psi and error parameters go through the rounds of `marginal/algorithm.py`, whose
   checks make a fit count as converged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from jaxnlme.estimators.core.objective import unflatten
from jaxnlme.estimators.gradient.method import Gradient
from jaxnlme.estimators.gradient.objective import penalty
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint, Evaluator
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.objective import AbstractSumObjective, MarginalObjective
from jaxnlme.estimators.marginal.search import QuasiNewton, quasi_newton
from jaxnlme.estimators.marginal.session import AbstractSearch, Session
from jaxnlme.model.derivatives import value_and_gradient
from jaxnlme.numerics.compiling import compiled


@final
class PenalisedObjective(AbstractSumObjective):
    """The objective of an approximation with the penalty on the weights.

    **Arguments:** `evaluator`; `regularisation`, `rest`, `mask`: as of `objective.penalty`.
    """

    def __init__(self, evaluator: Evaluator, regularisation: Any, rest: Any, mask: Any):
        super().__init__(evaluator)
        self.plain, self._penalty = MarginalObjective(evaluator), (regularisation, rest, mask)

    def evaluate(
        self, x: np.ndarray, modes: Sequence[Any], best: EvaluatedPoint | None = None, steps: int | None = None
    ) -> EvaluatedPoint:
        point = self.plain.evaluate(x, modes, best, steps)
        value, slope = compiled(_penalty, 0)(self.evaluator.template, self._penalty, np.asarray(x))
        sums = point.sums
        changed: Any = dataclasses.replace(
            sums, value=sums.value + np.asarray(value), gradient=sums.gradient + np.asarray(slope)
        )
        return point.with_sums(changed)


def _penalty(template: Any, options: tuple[Any, Any, Any], x: Any) -> tuple[Any, Any]:
    """The penalty and its gradient (n,) at `x` (n,)."""
    regularisation, rest, mask = options
    return value_and_gradient(lambda x: penalty(regularisation, rest, mask, unflatten(template, x).free) + 0.0 * x[0])(
        x
    )


@final
class Polish(AbstractSearch):
    """The search of a session after the training.

    **Arguments:** `estimator`; `weights`: the trained weights are polished, too.
    **Attributes:** `gain`: predicted gain of a further step in all trained entries when the weights were held (NaN: not
    known).
    """

    def __init__(self, estimator: Gradient, weights: bool):
        self.estimator, self.weights = estimator, weights
        self.gain = float("nan")

    def resumable(self, session: Session) -> bool:
        return False

    def minimise(self, session: Session) -> None:
        limit = int(self.estimator.max_iterations)
        if self.weights and session.free[session.n_dense :].any():
            self.weights = False
            quasi_newton(session, ends_early=lambda state, tries: int(state.bfgs.iterations) >= limit)
            self.gain = float("nan") if session.state is None else float(session.state.bfgs.decrement)
            if session.halted:
                return
            self._hold(session)
        elif session.free[session.n_dense :].any():
            self._hold(session)
        QuasiNewton().minimise(session)

    def _hold(self, session: Session) -> None:
        """Hold the weights; the iterations so far do not count."""
        session.free[session.n_dense :] = False
        session.move(session.best)
        allowed = session.iterations + int(self.estimator.max_iterations)
        session.estimator = MaximumLikelihood(self.estimator.method, allowed, self.estimator.tolerance)
