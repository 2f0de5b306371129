"""One training in progress: parameters, optimiser, modes of the groups, and the compiled blocks of steps.

The optimiser moves u, the parameters over their units (`units`), so that the length of a step does not depend on the
units of the data: fixed effects without a transform that sets their scale are in units of 1 / sqrt of a group's mean
information, all others as they are.
"""

from __future__ import annotations

import contextlib
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.objective import flatten, unflatten
from jaxnlme.estimators.gradient.batches import CHAINS, Batches
from jaxnlme.estimators.gradient.method import Gradient
from jaxnlme.estimators.gradient.objective import (
    complete_gradient,
    density_penalty_slope,
    log_likelihoods,
    marginal_gradient,
    penalty,
)
from jaxnlme.estimators.gradient.settings import TRAINING
from jaxnlme.estimators.gradient.weights import modules_without_arrays, trainable
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.model.transforms import Identity
from jaxnlme.numerics.compiling import compiled
from jaxnlme.typing import Vector

# What a block of steps reports of each step.
COLUMNS = ("log_likelihood", "objective", "gradient_norm", "taken", "failed_groups")


class TrainingState(eqx.Module):
    """State of a training: `u`, the Params over their units; `optimiser`, that of optax; `modes` (groups, random), of
    the groups in the order of the bucket (states of the chains with objective="complete")."""

    u: Any
    optimiser: Any
    modes: Any


class Constants(eqx.Module):
    """The constants of a training.

    **Fields:** `units`, `mask`: trees like Params, the mask true for entries that are trained; `scale`: groups trained
    on over the batch; `groups`: those trained on; `key`: of the chains.
    """

    units: Any
    mask: Any
    scale: Any
    groups: Any
    key: Any


def units_of(binding: Binding, x: np.ndarray, outer: np.ndarray, counted: float) -> np.ndarray:
    """Units (n,) of the entries of `x` (n,): one, or for fixed effects in the user's units and off-diagonal entries of
    a factor 1 / sqrt of the mean information of a group, by the outer products of scores `outer` (dense, dense)."""
    units = np.ones(len(x))
    covariance, first = binding.density.covariance, len(binding.density.beta_names)
    entries = [k for k, t in enumerate(binding.transforms) if t is None or isinstance(t, Identity)]
    entries += sorted({first + k for _, _, others in covariance.log_scales for k in others})
    information = np.diag(outer)[entries] / max(counted, 1.0)
    size = np.abs(x[entries])
    with np.errstate(divide="ignore"):
        by_information = 1.0 / np.sqrt(information)
    usable = np.isfinite(by_information) & (by_information > 0)
    units[entries] = np.where(usable, by_information, np.where(size > 0, size, 1.0))
    return units


@final
class Training:
    """A training in progress on the host.

    **Arguments:** `binding`; `estimator`; `x` (n,): the start; `free` (n,) bool: entries that are trained; `held_out`
    (groups,) bool; `units` (n,), from `units_of`.
    **Attributes:** `state`; `batches`; `step`: number of steps so far; `trained`: number of groups trained on.
    """

    def __init__(
        self,
        binding: Binding,
        estimator: Gradient,
        x: np.ndarray,
        free: np.ndarray,
        held_out: np.ndarray,
        units: np.ndarray,
    ):
        self.binding, self.estimator, self.template = binding, estimator, binding.start
        problem = binding.problem
        if len(problem.buckets) > 1:  # batches are rows of one stack of groups
            problem = bind(binding.model, binding.data, binding, 1).problem
        buckets: Any = problem.buckets
        bucket = buckets[0]
        position = np.argsort(np.asarray(problem.order), kind="stable")
        self.order = np.asarray(problem.order)
        weights = np.asarray(problem.weights)[position]
        held = held_out[position]
        self.batches = Batches(np.asarray(bucket.key), (weights != 0) & ~held, estimator.batch_groups, estimator.seed)
        self.trained, self.held_positions = len(self.batches.positions), np.flatnonzero(held)
        self.single = estimator.precision == "float32"
        with self.precision():
            cast = _as_float32 if self.single else lambda tree: tree
            placed = _on_device(cast((problem.density, bucket, weights)))
            self.density, self.bucket, self.weights = placed
            self.held = jax.tree.map(lambda leaf: leaf[self.held_positions], self.bucket) if held.any() else None
            mask = unflatten(self.template, free.astype(float))
            mask = jax.tree.map(lambda leaf: np.asarray(leaf) > 0.5, mask)
            key = jax.random.fold_in(jax.random.key(estimator.seed), CHAINS)
            as_params = _on_device(cast(unflatten(self.template, units)))
            scale = np.asarray(self.batches.scale, np.float32 if self.single else float)
            groups = np.asarray(float(self.trained), scale.dtype)
            self.constants = Constants(as_params, _on_device(mask), scale, groups, key)
            self.method = _for_float32(estimator.method) if self.single else estimator.method
            self.optimiser = estimator.transformation()
            u = jax.tree.map(lambda p, s: jnp.asarray(p, s.dtype) / s, unflatten(self.template, x), as_params)
            modes = jnp.zeros((len(weights), binding.density.n_effects), u.beta.dtype)
            self.state = TrainingState(u, self.optimiser.init(u), modes)
        self.rest = modules_without_arrays(binding)
        self.mask_of_weights = trainable(binding.start.free, free[len(binding.fixed) :])
        self.step = 0
        self._check_optimiser()

    def precision(self) -> Any:
        """The context in which the training computes."""
        return jax.enable_x64(False) if self.single else contextlib.nullcontext()

    def x(self, state: TrainingState | None = None) -> np.ndarray:
        """The packed parameters (n,), in 64 bits, of a `state` (None: the present one)."""
        u = (self.state if state is None else state).u
        params = jax.tree.map(lambda u, s: np.asarray(u, float) * np.asarray(s, float), u, self.constants.units)
        return np.asarray(flatten(params), float)

    def modes(self) -> np.ndarray:
        """Modes (groups, random) in the order of the data; zeros where chains are drawn."""
        modes = np.asarray(self.state.modes, float)[self.order]
        return np.zeros_like(modes) if self.estimator.objective == "complete" else modes

    def run_block(self, steps: int) -> dict[str, np.ndarray]:
        """Take `steps` steps, at most TRAINING.block_steps.

        **Returns:** arrays (steps,) by the names of COLUMNS.
        """
        indices = np.stack([self.batches.of_step(self.step + min(k, steps - 1)) for k in range(TRAINING.block_steps)])
        regularisation = self.estimator.regularisation
        if not callable(regularisation):  # a number, not a constant of the program
            regularisation = np.asarray(regularisation, np.float32 if self.single else float)
        options = (self.method, self.optimiser, regularisation, self.rest, self.estimator.objective)
        rows = indices.size * self.bucket.y.shape[1]
        with self.precision():
            program = compiled(_block, rows * 2, often=True)
            data = self.density, self.bucket, self.weights
            counts = np.int32(self.step), np.int32(steps)
            self.state, report = program(
                *data, self.state, self.constants, self.mask_of_weights, options, indices.astype(np.int32), *counts
            )
            values = np.asarray(report, float)[:steps]
        self.step += steps
        return dict(zip(COLUMNS, values.T, strict=True))

    def held_out_log_likelihood(self) -> float:
        """The sum of the log-likelihoods of the held-out groups."""
        with self.precision():
            program = compiled(_held_out, len(self.held_positions) * self.bucket.y.shape[1])
            z0 = self.state.modes[self.held_positions]
            if self.estimator.objective == "complete":
                z0 = jnp.zeros_like(z0)
            values, modes = program(self.density, self.held, self.state.u, self.constants, self.method, z0)
            if self.estimator.objective != "complete":
                modes = self.state.modes.at[self.held_positions].set(modes)
                self.state = TrainingState(self.state.u, self.state.optimiser, modes)
            return float(np.sum(np.asarray(values, float)))

    def _check_optimiser(self) -> None:
        """**Raises:** OptionError for an optimiser that needs more than gradients (a line search)."""
        try:
            with self.precision():
                jax.eval_shape(lambda s: self.optimiser.update(s.u, s.optimiser, s.u), self.state)
        except TypeError as error:
            raise OptionError(
                "Gradient: the optimiser needs more than gradients (a line search evaluates the objective, which is "
                f"another one for each batch); use one such as optax.adam or optax.sgd. ({error})"
            ) from error


def _block(
    density: Density,
    bucket: Group,
    weights: Vector,
    state: TrainingState,
    constants: Constants,
    mask_of_weights: Any,
    options: tuple[Any, ...],
    indices: Any,
    first: Any,
    steps: Any,
) -> tuple[TrainingState, Any]:
    """The state after `steps` steps, and a report (block, columns) of them; `indices` (block, batch): the groups of
    each step; `first`: number of the first step."""
    method, optimiser, regularisation, rest, objective = options
    size = indices.shape[1]

    def step(k: Any, carry: tuple[TrainingState, Any]) -> tuple[TrainingState, Any]:
        state, report = carry
        chosen = indices[k]
        batch = jax.tree.map(lambda leaf: leaf[chosen], bucket)
        problem = Problem(density, (batch,), jnp.arange(size), weights[chosen])
        params = jax.tree.map(lambda u, s: u * s, state.u, constants.units)
        z0 = state.modes[chosen]
        if objective == "complete":
            key = jax.random.fold_in(constants.key, first + k)
            found = complete_gradient(problem, params, problem.weights, z0, key)
        else:
            found = marginal_gradient(problem, method, params, problem.weights, z0)
        value, score, modes, failed = found
        prior = density.log_prior(params) - penalty(regularisation, rest, mask_of_weights, params.free)
        slope = density_penalty_slope(density, regularisation, rest, mask_of_weights, params)
        total = jax.tree.map(
            lambda s, p, unit, use: jnp.where(use, -(constants.scale * s + p) * unit / constants.groups, 0.0),
            score, slope, constants.units, constants.mask,
        )  # fmt: skip
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(total)))
        updates, optimiser_state = optimiser.update(total, state.optimiser, state.u)
        u = jax.tree.map(lambda u, du, use: jnp.where(use, u + du, u), state.u, updates, constants.mask)
        taken = jnp.isfinite(norm) & jnp.isfinite(value)
        new = TrainingState(u, optimiser_state, state.modes.at[chosen].set(modes))
        state = jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, state)
        value = constants.scale * value
        row = jnp.stack([value, value + prior, norm, taken.astype(value.dtype), jnp.sum(failed).astype(value.dtype)])
        return state, report.at[k].set(row)

    empty = jnp.zeros((indices.shape[0], len(COLUMNS)), state.u.beta.dtype)
    return jax.lax.fori_loop(0, steps, step, (state, empty))


def _held_out(
    density: Density, groups: Group, u: Params, constants: Constants, method: Any, z0: Any
) -> tuple[Any, Any]:
    """Log-likelihoods (groups,) and modes of held-out `groups`."""
    n = groups.y.shape[0]
    problem = Problem(density, (groups,), jnp.arange(n), jnp.ones(n))
    return log_likelihoods(problem, method, jax.tree.map(lambda u, s: u * s, u, constants.units), z0)


def _on_device(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def _as_float32(tree: Any) -> Any:
    """`tree` with its arrays of floats in single precision, and of whole numbers in 32 bits."""

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, (np.ndarray, jax.Array)):
            return leaf
        leaf = np.asarray(leaf)
        kinds = {"f": np.float32, "i": np.int32}
        return leaf.astype(kinds.get(leaf.dtype.kind, leaf.dtype)) if leaf.dtype != np.uint32 else leaf

    return jax.tree.map(cast, tree)


def _for_float32(method: Any) -> Any:
    """`method` with a tolerance of its mode searches that single precision can reach."""
    tolerance = np.maximum(np.asarray(method.search.tolerance), TRAINING.mode_tolerance_float32).astype(np.float32)
    return _as_float32(eqx.tree_at(lambda m: m.search.tolerance, method, tolerance))
