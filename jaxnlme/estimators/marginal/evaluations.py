"""The compiled objective of one fit, evaluated at one point after another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.objective import GroupValues, ObjectiveSums, flatten, partial_sums, unflatten, with_prior
from jaxnlme.estimators.marginal.method import MaximumLikelihoodState
from jaxnlme.estimators.marginal.settings import SEARCH
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled


class EvaluatedPoint:
    """An objective evaluated at one point, on the host.

    **Fields:** `sums` (numpy); `x` (n,): the point; `modes`: the modes there, as `Session.evaluate` takes them;
    `pieces`: the GroupValues as they are `placed`; `local_groups`: the GroupValues of this process's groups.
    """

    def __init__(self, sums: ObjectiveSums, pieces: Sequence[GroupValues], placed: PlacedProblem, x: np.ndarray):
        self.sums, self.x = sums, x
        self.modes = [piece.modes for piece in pieces]
        self.pieces, self.placed = pieces, placed

    @property
    def value(self) -> float:
        """The objective: minus the log-likelihood and log prior."""
        return float(self.sums.value)

    @functools.cached_property
    def local_groups(self) -> GroupValues:
        """GroupValues of this process: numpy arrays with a leading groups axis, in the order of the data."""
        return jax.tree.map(lambda *parts: self.placed.collect(parts), *self.pieces)


O = TypeVar("O", bound=EvaluatedPoint)


class Evaluations:
    """An objective over placed groups, and its best point so far.

    **Arguments:** `binding`; `estimator`; `params`: the start; `placed`: the groups on their devices.

    **Attributes:** `x` (n,): the best point; `best`: the EvaluatedPoint there; `state` of the minimiser there, None if
    the point is not the minimiser's; `free` (n,) bool: entries that may move; `n_dense`: length of the dense vector
    (without the free block); `many_groups`: there are SEARCH.groups_per_parameter groups or more for each dense
    parameter; `evaluations`: number made so far.
    """

    x: np.ndarray
    best: EvaluatedPoint

    def __init__(self, binding: Binding, estimator: AbstractEstimator, params: Params, placed: PlacedProblem):
        self.binding = binding
        self.estimator = estimator
        self.placed = placed
        self.processes = placed.processes
        self.template = on_device(params) if placed.mesh is None else jax.tree.map(np.asarray, params)
        self.x = np.asarray(flatten(params))
        self.n_dense = len(binding.fixed)
        self.free = np.concatenate([~binding.fixed, np.ones(len(self.x) - self.n_dense, bool)])
        self.many_groups = placed.n_slots * self.processes.count >= SEARCH.groups_per_parameter * self.n_dense
        self.evaluations = 0
        self.state: MaximumLikelihoodState | None = None

    def zero_modes(self) -> list[Any]:
        """Starts z = 0 of the mode searches, as `evaluate` takes modes."""
        return self.modes_from(np.zeros((self.placed.n_groups, self.binding.density.n_effects)))

    def modes_from(self, modes: np.ndarray) -> list[Any]:
        """Modes (groups, random) as `evaluate` takes them."""
        return self.placed.scatter(modes)

    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> EvaluatedPoint:
        """The objective at `x` (n,).

        **Arguments:** `modes`: starts of the mode searches, of an EvaluatedPoint or from `modes_from`; `steps`: the
        most evaluations of a search (None: as many as the method allows).
        """
        self.evaluations += 1
        x = np.asarray(x)
        sums, groups = self._run(x, modes, self._method(steps))
        sums = jax.tree.map(np.asarray, sums)
        if self.binding.density.priors:
            sums = compiled(with_prior, 0)(self.binding.density, self.template, x, sums)
            sums = jax.tree.map(np.asarray, sums)
        return EvaluatedPoint(sums, groups, self.placed, x)

    def evaluate_candidate(self, x: np.ndarray) -> EvaluatedPoint:
        """The EvaluatedPoint at a candidate `x` (n,), mode searches from the random effects of the best point."""
        return self.evaluate(x, self.modes_at(x))

    def modes_at(self, x: np.ndarray) -> list[Any]:
        """The best point's modes in the coordinates of `x` (n,), whose factor of psi may be another: the same b."""
        z = self.placed.collect(self.best.modes)
        covariance = self.binding.density.covariance
        if not z.shape[1]:
            return self.modes_from(z)
        old, new = (np.asarray(covariance.factor(np.asarray(self.params(at).covariance))) for at in (self.x, x))
        return self.modes_from(z @ old.T @ np.linalg.pinv(new).T)

    def accept_candidate(self, candidate: EvaluatedPoint) -> EvaluatedPoint:
        """The EvaluatedPoint to continue from if a `candidate` (see above) is accepted: by default the same."""
        return candidate

    def _run(self, x: np.ndarray, modes: Sequence[Any], method: Any) -> tuple[ObjectiveSums, list[GroupValues]]:
        """Sums, priors left out, and the GroupValues of each piece of the placed groups, at `x` (n,)."""
        return self.placed.run(partial_sums, (method, self.template, x), modes)

    def _method(self, steps: int | None) -> Any:
        """The method with at most `steps` evaluations in each mode search."""
        method = self.estimator.method
        if steps is None:
            return method
        return eqx.tree_at(lambda m: m.search.steps, method, np.asarray(steps, method.search.steps.dtype))

    def params(self, x: np.ndarray | None = None) -> Params:
        """Params (numpy) at `x`, by default the best point."""
        return jax.tree.map(np.asarray, unflatten(self.template, self.x if x is None else x))

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """Second derivatives of the objective at the best point in the entries `active`: central differences of the
        exact gradient, which need no other program (that of the Hessian would take many times as long to compile)."""
        matrix = self.slopes(active, active, self.evaluate)
        return 0.5 * (matrix + matrix.T)

    @np.errstate(all="ignore")  # values that are not finite are checked, not warned of
    def slopes(
        self, entries: np.ndarray, active: np.ndarray, evaluate: Callable[[np.ndarray, Sequence[Any]], EvaluatedPoint]
    ) -> np.ndarray:
        """Derivatives (entries, active), in each of `entries`, of the gradient given by `evaluate`; see
        `differences`."""
        rows = [
            (up.sums.gradient - down.sums.gradient)[active] / width
            for up, down, width in self.differences(entries, evaluate)
        ]
        return np.array(rows).reshape(len(entries), len(active))

    def differences(
        self, entries: np.ndarray, evaluate: Callable[[np.ndarray, Sequence[Any]], O], step_in_se: float = 3e-4
    ) -> Iterator[tuple[O, O, float]]:
        """For each of `entries`, `evaluate(x, modes)` on either side of the best point, and the distance of the two.

        **Arguments:** `step_in_se`: the step, in standard errors of each entry by the inverse Hessian of the minimiser.
        """
        spread = np.ones(len(self.x))
        if self.state is not None:
            spread = np.sqrt(np.maximum(np.diag(np.asarray(self.state.bfgs.inverse)), 0.0))
        size = np.abs(np.where(np.isfinite(self.x), self.x, 0.0))
        step = np.clip(step_in_se * spread, 1e-6 * np.maximum(size, 1e-2), 1e-2 * np.maximum(size, 1.0))
        here = self.placed.collect(self.best.modes)
        for k in entries:
            ends = self.x.copy(), self.x.copy()
            ends[0][k] += step[k]
            ends[1][k] -= step[k]
            up = evaluate(ends[0], self.best.modes)
            # A step in the other direction moves the modes by as much the other way: their search starts at its end.
            down = evaluate(ends[1], self.modes_from(2.0 * here - self.placed.collect(up.modes)))
            yield up, down, float(ends[0][k] - ends[1][k])
