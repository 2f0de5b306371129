"""Evaluations of a compiled program over the placed groups, at one point after another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, final

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.core.objective import GroupValues, ObjectiveSums, flatten, unflatten, with_prior
from jaxnlme.estimators.marginal.settings import SEARCH
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled


@dataclasses.dataclass(frozen=True)
class BetaIntegral:
    """The terms that integrating beta out adds to the objective, -l, at one theta (see `reml`).

    **Fields:** `information` (p, p): H; `beta_slopes` (p, n): derivatives D of beta^ in x, the identity in the columns
    of beta; `value`: (1 / 2) log|H| - (p / 2) log 2 pi; `gradient` (n,): its total derivative, zero for beta.
    """

    information: np.ndarray
    beta_slopes: np.ndarray
    value: float
    gradient: np.ndarray


@final
class EvaluatedPoint:
    """An objective evaluated at one point, on the host.

    **Fields:** `sums` (numpy); `x` (n,): the point; `modes`: the modes there, as `Evaluator.run` takes them; `chunks`:
    the GroupValues as they are `placed`; `local_groups`: the GroupValues of this process's groups; `beta_integral`: of
    a restricted likelihood, None if it is not finite, with `reason`, a sentence. The sums of a restricted likelihood
    have a gradient of zero for beta, and for theta the total derivative with beta^ a function of theta.
    """

    def __init__(
        self,
        sums: ObjectiveSums,
        chunks: Sequence[GroupValues],
        placed: PlacedProblem,
        x: np.ndarray,
        beta_integral: BetaIntegral | None = None,
        reason: str = "",
    ):
        self.sums, self.x = sums, x
        self.modes = [chunk.modes for chunk in chunks]
        self.chunks, self.placed = chunks, placed
        self.beta_integral, self.reason = beta_integral, reason

    @property
    def value(self) -> float:
        """The objective: minus the log-likelihood and log prior."""
        return float(self.sums.value)

    @functools.cached_property
    def local_groups(self) -> GroupValues:
        """GroupValues of this process: numpy arrays with a leading groups axis, in the order of the data."""
        return jax.tree.map(lambda *parts: self.placed.collect(parts), *self.chunks)

    def with_sums(
        self, sums: ObjectiveSums, beta_integral: BetaIntegral | None = None, reason: str = ""
    ) -> EvaluatedPoint:
        """The same point and group values, with other sums."""
        return EvaluatedPoint(sums, self.chunks, self.placed, self.x, beta_integral, reason)


@final
class Evaluator:
    """Runs programs over placed groups, and counts the runs.

    **Arguments:** `binding`; `method`: the likelihood approximation; `params`: the start; `placed`: the groups on their
    devices.

    **Attributes:** `template`: the Params that a packed point is unpacked into; `start` (n,): the packed start;
    `n_dense`: length of the dense vector (without the free block); `beta` (p,): packed indices of the unfixed fixed
    effects; `many_groups`: there are SEARCH.groups_per_parameter groups or more for each dense parameter; `count`:
    number of runs.
    """

    def __init__(self, binding: Binding, method: Any, params: Params, placed: PlacedProblem):
        self.binding, self.method, self.placed = binding, method, placed
        self.template = on_device(params) if placed.mesh is None else jax.tree.map(np.asarray, params)
        self.start = np.asarray(flatten(params))
        self.n_dense = len(binding.fixed)
        self.beta = np.flatnonzero(~binding.fixed[: len(binding.density.beta_names)])
        self.many_groups = placed.n_slots * placed.processes.count >= SEARCH.groups_per_parameter * self.n_dense
        self.count = 0

    def run(
        self, program: Callable, points: tuple[Any, ...], modes: Sequence[Any], steps: int | None = None
    ) -> EvaluatedPoint:
        """The objective at one point.

        **Arguments:** `program`: as `core.objective.partial_sums`; `points`: packed points, which follow the method and
        the template in what `program` is called with, the last of them that of the objective; `modes`: starts of the
        mode searches, of an EvaluatedPoint or from `place_modes`; `steps`: the most evaluations of a search (None: as
        many as the method allows).
        """
        self.count += 1
        x = points[-1]
        sums, groups = self.placed.run(program, (self._method(steps), self.template, *points), modes)
        sums = jax.tree.map(np.asarray, sums)
        if self.binding.density.priors:
            sums = compiled(with_prior, 0)(self.binding.density, self.template, x, sums)
            sums = jax.tree.map(np.asarray, sums)
        return EvaluatedPoint(sums, groups, self.placed, x)

    def _method(self, steps: int | None) -> Any:
        """The method with at most `steps` evaluations in each mode search."""
        if steps is None:
            return self.method
        limit = np.asarray(steps, self.method.search.steps.dtype)
        return eqx.tree_at(lambda method: method.search.steps, self.method, limit)

    def params(self, x: np.ndarray) -> Params:
        """Params (numpy) at `x` (n,)."""
        return jax.tree.map(np.asarray, unflatten(self.template, x))

    def place_modes(self, modes: np.ndarray) -> list[Any]:
        """Modes (groups, random) as `run` takes them."""
        return self.placed.scatter(modes)

    def zero_modes(self) -> list[Any]:
        """Starts z = 0 of the mode searches, as `run` takes modes."""
        return self.place_modes(np.zeros((self.placed.n_groups, self.binding.density.n_effects)))

    def modes_at(self, x: np.ndarray, best: EvaluatedPoint) -> list[Any]:
        """The modes of `best` in the coordinates of `x` (n,), whose factor of psi may be another: the same b."""
        z = self.placed.collect(best.modes)
        density = self.binding.density
        if not z.shape[1]:
            return self.place_modes(z)
        old, new = (np.asarray(density.covariance.factor(np.asarray(self.params(at).covariance))) for at in (best.x, x))
        return self.place_modes(density.map_effects(np.linalg.pinv(new) @ old, z))
