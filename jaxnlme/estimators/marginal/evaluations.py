"""The compiled objective of one estimation, asked at one point after another."""

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
from jaxnlme.estimators.core.objective import Groups, ObjectiveSums, flatten, share, unflatten, with_prior
from jaxnlme.estimators.marginal.method import GROUPS_PER_PARAMETER, MaximumLikelihoodState
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled


class Outcome:
    """An evaluation on the host: `sums` (numpy), the point `x` (n,) they are of, `modes` as `Session.evaluate` takes
    them, and `own`, what it says of each of this process's groups (of the `pieces` where `placed`)."""

    def __init__(self, sums: ObjectiveSums, pieces: Sequence[Groups], placed: PlacedProblem, x: np.ndarray):
        self.sums, self.x = sums, x
        self.modes = [piece.modes for piece in pieces]
        self.pieces, self.placed = pieces, placed

    @property
    def value(self) -> float:
        return float(self.sums.value)

    @functools.cached_property
    def own(self) -> Groups:
        """Numpy arrays with a leading groups axis, in the order of the data."""
        return jax.tree.map(lambda *parts: self.placed.own(parts), *self.pieces)


O = TypeVar("O", bound=Outcome)


class Evaluations:
    """An objective where its groups are placed, and the best point so far: `x` (n,), its Outcome `best` and the
    minimiser's `state` there (None where it is not the minimiser's); `free` (n,), entries that move; `evaluations`
    made."""

    x: np.ndarray
    best: Outcome

    def __init__(self, binding: Binding, estimator: AbstractEstimator, params: Params, placed: PlacedProblem):
        self.binding = binding
        self.estimator = estimator
        self.placed = placed
        self.processes = placed.processes
        self.template = on_device(params) if placed.mesh is None else jax.tree.map(np.asarray, params)
        self.x = np.asarray(flatten(params))
        self.dense = len(binding.fixed)
        self.free = np.concatenate([~binding.fixed, np.ones(len(self.x) - self.dense, bool)])
        self.many = placed.size * self.processes.count >= GROUPS_PER_PARAMETER * self.dense
        self.evaluations = 0
        self.state: MaximumLikelihoodState | None = None

    def zero_modes(self) -> list[Any]:
        """Where a search begins that trusts nothing: z = 0, as `evaluate` takes modes."""
        return self.modes_from(np.zeros((self.placed.n_groups, self.binding.density.n_effects)))

    def modes_from(self, modes: np.ndarray) -> list[Any]:
        """Modes (groups, random) as `evaluate` takes them."""
        return self.placed.spread(modes)

    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> Outcome:
        """The objective at `x` (n,), searches starting from `modes`: those of an Outcome, or from `modes_from`; at most
        `steps` evaluations each (None: as many as the method allows)."""
        self.evaluations += 1
        x = np.asarray(x)
        sums, groups = self._run(x, modes, self._method(steps))
        sums = jax.tree.map(np.asarray, sums)
        if self.binding.density.priors:
            sums = compiled(with_prior, 0)(self.binding.density, self.template, x, sums)
            sums = jax.tree.map(np.asarray, sums)
        return Outcome(sums, groups, self.placed, x)

    def decide(self, x: np.ndarray) -> Outcome:
        """The Outcome at `x` (n,) that decides whether an estimate may go there."""
        return self.evaluate(x, self.carried(x))

    def carried(self, x: np.ndarray) -> list[Any]:
        """The best point's modes in the coordinates of `x` (n,), whose factor of psi may be another: the same b."""
        own = self.placed.own(self.best.modes)
        covariance = self.binding.density.covariance
        if not own.shape[1]:
            return self.modes_from(own)
        old, new = (np.asarray(covariance.factor(np.asarray(self.params(at).covariance))) for at in (self.x, x))
        return self.modes_from(own @ old.T @ np.linalg.pinv(new).T)

    def accepted_outcome(self, decided: Outcome) -> Outcome:
        """The Outcome with which the estimate goes where `decide` let it."""
        return decided

    def _run(self, x: np.ndarray, modes: Sequence[Any], method: Any) -> tuple[ObjectiveSums, list[Groups]]:
        """Sums, priors left out, and Groups of each piece at `x` (n,)."""
        return self.placed.run(share, (method, self.template, x), modes)

    def _method(self, steps: int | None) -> Any:
        """The method, its searches bounded by `steps`."""
        method = self.estimator.method
        if steps is None:
            return method
        return eqx.tree_at(lambda m: m.search.steps, method, np.asarray(steps, method.search.steps.dtype))

    def params(self, x: np.ndarray | None = None) -> Params:
        """Params (numpy) at `x`, by default the best point."""
        return jax.tree.map(np.asarray, unflatten(self.template, self.x if x is None else x))

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """Second derivatives of the objective at `x` in the entries `active`: central differences of the exact
        gradient, which reuse the compiled program (a Hessian program would cost many times its compilation)."""
        matrix = self.slopes(active, active, self.evaluate)
        return 0.5 * (matrix + matrix.T)

    @np.errstate(all="ignore")  # what is not finite is looked at, not warned of
    def slopes(
        self, entries: np.ndarray, active: np.ndarray, evaluate: Callable[[np.ndarray, Sequence[Any]], Outcome]
    ) -> np.ndarray:
        """Derivatives (entries, active) in each of `entries` of the gradient that `evaluate` gives; see
        `differences`."""
        rows = [
            (up.sums.gradient - down.sums.gradient)[active] / width
            for up, down, width in self.differences(entries, evaluate)
        ]
        return np.array(rows).reshape(len(entries), len(active))

    def differences(
        self, entries: np.ndarray, evaluate: Callable[[np.ndarray, Sequence[Any]], O], share: float = 3e-4
    ) -> Iterator[tuple[O, O, float]]:
        """For each of `entries`, what `evaluate(x, modes)` gives on either side of the best point, and how far apart.

        The step is a `share` of each entry's uncertainty, as the minimiser's metric knows it.
        """
        spread = np.ones(len(self.x))
        if self.state is not None:
            spread = np.sqrt(np.maximum(np.diag(np.asarray(self.state.bfgs.inverse)), 0.0))
        size = np.abs(np.where(np.isfinite(self.x), self.x, 0.0))
        step = np.clip(share * spread, 1e-6 * np.maximum(size, 1e-2), 1e-2 * np.maximum(size, 1.0))
        here = self.placed.own(self.best.modes)
        for k in entries:
            ends = self.x.copy(), self.x.copy()
            ends[0][k] += step[k]
            ends[1][k] -= step[k]
            up = evaluate(ends[0], self.best.modes)
            # A step back moves the modes as far the other way: their search has only to look.
            down = evaluate(ends[1], self.modes_from(2.0 * here - self.placed.own(up.modes)))
            yield up, down, float(ends[0][k] - ends[1][k])
