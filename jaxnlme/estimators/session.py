"""One estimation on the host: the compiled objective, the iterations, callbacks, progress, Ctrl-C."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.marginal import GROUPS_PER_PARAMETER, Marginal, MarginalState
from jaxnlme.estimators.objective import Evaluation, evaluate, flatten, unflatten
from jaxnlme.model.binding import Binding
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled


@dataclasses.dataclass(frozen=True)
class Iteration:
    """What a callback is told: `iteration` (from 0), `evaluations` of the objective so far, `log_likelihood`,
    `expected_gain` of going on (log-likelihood units), `seconds` since the start, `params`, and `values` by name."""

    iteration: int
    evaluations: int
    log_likelihood: float
    expected_gain: float
    seconds: float
    params: Params
    binding: Binding

    @property
    def values(self) -> dict[str, float]:
        """User-scale values by name."""
        return self.binding.values(self.params)


Callback = Callable[[Iteration], Any]


class Session:
    """Drives a Marginal estimator: evaluations through one compiled program, minimisation, and the record of both.

    After every method, `x` (n,) is the best point, `best` its Evaluation, `modes` its modes. `interrupted` is set by
    Ctrl-C, `stopped` by a callback.
    """

    def __init__(self, binding: Binding, estimator: Marginal, params: Params, callbacks: Sequence[Callback]):
        self.binding = binding
        self.estimator = estimator
        self.problem = on_device(binding.problem)
        self.template = on_device(params)
        self.callbacks = list(callbacks)
        self.x = np.asarray(flatten(params))
        dense = len(binding.fixed)
        self.free = np.concatenate([~binding.fixed, np.ones(len(self.x) - dense, bool)])
        self.dense = dense
        self.many = self.problem.n_groups >= GROUPS_PER_PARAMETER * dense
        self.history: list[dict[str, float]] = []
        self.started = time.perf_counter()
        self.evaluations = 0
        self.iterations = 0
        self.not_found_again = np.zeros(binding.data.n_groups, bool)
        self.interrupted = False
        self.stopped = False
        rows = self.problem.n_rows
        self._evaluate = compiled(evaluate, rows)
        self._init = compiled(_init, rows)
        self._tell = compiled(_tell, rows)
        self.state: MarginalState | None = None
        self.best = self.evaluate(self.x, self.zero_modes())

    def zero_modes(self) -> np.ndarray:
        """Where a search begins that trusts nothing: z = 0 (groups, random)."""
        return np.zeros((self.problem.n_groups, self.binding.density.n_effects))

    def evaluate(self, x: np.ndarray, modes: Any) -> Evaluation:
        """The objective at `x` (n,), searches starting from `modes` (groups, random)."""
        self.evaluations += 1
        return self._evaluate(self.problem, self.estimator.method, self.template, np.asarray(x), modes)

    def params(self, x: np.ndarray | None = None) -> Params:
        """Params (numpy) at `x`, by default the best point."""
        return jax.tree.map(np.asarray, unflatten(self.template, self.x if x is None else x))

    @property
    def halted(self) -> bool:
        """Whether the user asked to stop."""
        return self.interrupted or self.stopped

    def move(self, x: np.ndarray, result: Evaluation) -> None:
        """Makes an evaluated point the best one; a new minimisation starts from it."""
        self.x, self.best, self.state = np.asarray(x), result, None

    def minimise(self) -> None:
        """Iterates until the estimator terminates or a callback stops it, keeping the best point on the way."""
        left = max(int(self.estimator.max_iterations) - self.iterations, 0)
        estimator = Marginal(self.estimator.method, left, self.estimator.tolerance)
        state, trial, over = self._init(estimator, self.problem.density, self.template, self.x, self.best, self.free)
        self._take(state, self.best)
        if not self.history:
            self._report(state)
        while not bool(over) and not self.stopped:
            result = self.evaluate(trial, state.modes)
            before = int(state.bfgs.iterations)
            state, trial, over = self._tell(estimator, state, result, self.many)
            if int(state.bfgs.iterations) > before:
                self.iterations += 1
                self._take(state, result)
                self._report(state)

    @property
    def exhausted(self) -> bool:
        """Whether the iterations allowed were used up before the minimiser was done."""
        if self.state is None or self.iterations < int(self.estimator.max_iterations):
            return False
        return not float(self.state.bfgs.decrement) < float(self.estimator.tolerance)

    def _take(self, state: MarginalState, result: Evaluation) -> None:
        self.state, self.best, self.x = state, result, np.asarray(state.bfgs.x)

    def _report(self, state: MarginalState) -> None:
        entry = Iteration(
            self.iterations,
            self.evaluations,
            float(state.log_likelihood),
            float(state.bfgs.decrement),
            time.perf_counter() - self.started,
            self.params(),
            self.binding,
        )
        self.history.append(
            {
                name: getattr(entry, name)
                for name in ("iteration", "evaluations", "log_likelihood", "expected_gain", "seconds")
            }
        )
        for callback in self.callbacks:
            if callback(entry):
                self.stopped = True

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """Second derivatives of the objective at `x` in the entries `active`: central differences of the exact
        gradient, which reuse the compiled program (a Hessian program would cost many times its compilation).

        The step is a small fraction of each entry's uncertainty, as the minimiser's metric knows it.
        """
        spread = np.ones(len(self.x))
        if self.state is not None:
            spread = np.sqrt(np.maximum(np.diag(np.asarray(self.state.bfgs.inverse)), 0.0))
        size = np.abs(np.where(np.isfinite(self.x), self.x, 0.0))
        step = np.clip(3e-4 * spread, 1e-6 * np.maximum(size, 1e-2), 1e-2 * np.maximum(size, 1.0))
        rows = []
        for k in active:
            ends = []
            for sign in (1.0, -1.0):
                x = self.x.copy()
                x[k] += sign * step[k]
                ends.append((x[k], np.asarray(self.evaluate(x, self.best.modes).gradient)[active]))
            rows.append((ends[0][1] - ends[1][1]) / (ends[0][0] - ends[1][0]))
        matrix = np.array(rows).reshape(len(active), len(active))
        return 0.5 * (matrix + matrix.T)


def _init(estimator: Marginal, density: Density, template: Params, x: jax.Array, first: Evaluation, free: Any):
    state = estimator.init(density, template, x, first, jnp.asarray(free))
    return state, estimator.trial(state), estimator.terminate(state)


def _tell(estimator: Marginal, state: MarginalState, result: Evaluation, many: bool):
    state = estimator.tell(state, result, many)
    return state, estimator.trial(state), estimator.terminate(state)
