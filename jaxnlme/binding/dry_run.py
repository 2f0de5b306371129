"""The dry run: the user's model on the user's data before anything iterates, with faults in plain words."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import ModelError, some
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.records import Rows

# Our own frames are known by the package's folder: users keep models in folders called jaxnlme, too.
_OWN = str(Path(__file__).resolve().parents[1]) + os.sep
_TRACER_ERRORS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)


class DryRun(eqx.Module):
    """What one pass over all groups at the starting values found, numpy arrays in the order of the data.

    `finite` (groups,): log-density and its gradient are finite at z = 0; `misfit`: the root mean square of the
    standardised residuals at z = 0, None without a Gaussian face.
    """

    finite: np.ndarray
    misfit: float | None


def dry_run(binding: Binding, start: Params, placed: PlacedProblem | None = None) -> DryRun:
    """Checks shapes, JAX purity, padding, effects of every parameter, and residual scales.

    **Arguments:** `placed`: the binding's groups where they are to be computed; as they are where None.
    **Errors:** ModelError naming the line, the parameter or the rows, and what to do. Errors of the user's own code
    surface as themselves.
    """
    density = binding.density
    placed = PlacedProblem(binding.problem, grid=False) if placed is None else placed
    processes = placed.processes
    start = on_device(start)
    try:
        _, pieces = placed.run(_probe_all, start, once=True)
    except _TRACER_ERRORS as error:
        raise ModelError(_tracer_advice(error)) from error
    probe = jax.tree.map(lambda *parts: placed.own(parts), *pieces)
    finite = np.array(probe.finite)
    processes.together(lambda: _check_padding(binding, probe, finite))
    processes.together(lambda: _check_scales(binding, start, probe, finite))
    effect = probe.effect[finite] if finite.any() else np.zeros((1, probe.effect.shape[1]))
    effect = np.max(processes.everyone(np.max(effect, axis=0)), axis=0)
    if processes.any(finite.any()):
        _check_effects(binding, start, effect)
    misfit = None
    if density.error.has_gaussian_moments and processes.any(finite.any()):
        total = sum(processes.everyone(float(np.sum(probe.squares[finite]))))
        seen = sum(processes.everyone(int(np.sum(binding.data.observed[finite]))))
        misfit = float(np.sqrt(total / max(seen, 1))) if np.isfinite(total) else None
    return DryRun(finite, misfit)


def place(
    binding: Binding, start: Params, mesh: Mesh | None, chunk: int | None, thread_rows: int | None = None
) -> tuple[PlacedProblem, DryRun]:
    """The binding's groups where they are to be computed, and what the dry run finds there.

    Where a model cannot bear more rows than the data have (it mixes rows of equally long groups, or holds arrays of
    their length), its groups keep their rows: a fit of other data then compiles anew.
    """
    placed = PlacedProblem(binding.problem, mesh, chunk, thread_rows=thread_rows)
    if placed.same_rows:
        return placed, dry_run(binding, start, placed)
    try:
        return placed, dry_run(binding, start, placed)
    except jax.errors.JaxRuntimeError:  # no fault of the model's: out of memory, say
        raise
    except Exception:  # whatever a model raises; what is wrong without padding as well is raised below
        placed = PlacedProblem(binding.problem, mesh, chunk, rows=False, thread_rows=thread_rows)
        return placed, dry_run(binding, start, placed)


class _Probe(eqx.Module):
    finite: Any
    effect: Any
    squares: Any
    worst_scale: Any
    padding: Any
    tables: Any


def _probe_all(problem: Problem, params: Params, _: Any) -> tuple[Any, _Probe]:
    return (), _probe(problem, params)


def _probe(problem: Problem, params: Params) -> _Probe:
    density = problem.density
    q, packed = density.n_effects, params.pack()

    def outcome(packed, z, group):
        params_ = params.unpack(packed)
        f = density.predict(params_, z, group)
        _check_prediction(density, f, group)
        value = density.error.log_density(f, f, params_.error, group)
        if jnp.shape(value) != ():
            raise ModelError("the log-density of a group must be a scalar.")
        return value

    def one(group: Group) -> _Probe:
        zero = jnp.zeros(q)

        def sizes(z):
            value, slopes = jax.value_and_grad(outcome, argnums=(0, 1))(packed, z, group)
            return value, jnp.concatenate(slopes)

        values, slopes = jax.vmap(sizes)(jnp.stack([zero, zero + 0.1, zero - 0.2]))
        finite = jnp.isfinite(values[0]) & jnp.all(jnp.isfinite(slopes[0]))
        effect = jnp.max(jnp.where(jnp.isfinite(slopes), jnp.abs(slopes), jnp.inf), axis=0)
        f = density.predict(params, zero, group)
        squares, worst = jnp.zeros(()), jnp.ones(group.y.shape)
        if density.error.has_gaussian_moments:
            residual, scale, _ = density.error.moments(f, f, params.error, group)
            squares = jnp.sum(jnp.where(group.x.observed, (residual / scale) ** 2, 0.0))
            worst = jnp.where(jnp.isnan(scale), jnp.inf, scale)
        padding = _padding_difference(density, params, f, group)
        tables = _table_difference(density, params, f, group)
        return _Probe(finite, effect, squares, jnp.min(worst), padding, tables)

    return problem.map(one)


def _padding_difference(density: Density, params: Params, f: Any, group: Group) -> Any:
    """Largest change of a real row's prediction when padded rows hold the first row instead of the last."""

    def other(column):
        if column.ndim == 0:
            return column
        return jnp.where(group.x.mask, column, column[0])

    x = eqx.tree_at(lambda x: x.values, group.x, tuple(other(c) for c in group.x.values))
    moved = eqx.tree_at(lambda g: (g.x, g.covariates), group, (x, tuple(other(c) for c in group.covariates)))
    return _difference(f, density.predict(params, jnp.zeros(density.n_effects), moved), group)


def _table_difference(density: Density, params: Params, f: Any, group: Group) -> Any:
    """Largest change of a real row's prediction when padded rows of further tables hold other numbers."""
    if not any(isinstance(entry, Rows) for entry in group.v.values):
        return jnp.zeros(())

    def other(entry):
        if not isinstance(entry, Rows):
            return entry
        values = tuple(jnp.where(entry.mask, column, column + 1.0) for column in entry.values)
        return eqx.tree_at(lambda rows: rows.values, entry, values)

    moved = eqx.tree_at(lambda g: g.v.values, group, tuple(other(entry) for entry in group.v.values))
    return _difference(f, density.predict(params, jnp.zeros(density.n_effects), moved), group)


def _difference(f: Any, g: Any, group: Group) -> Any:
    """Largest difference of real rows as a fraction of the largest prediction, so that units do not matter."""

    def change(a, b):
        if jnp.shape(a)[:1] != group.y.shape:
            return jnp.zeros(())
        mask = group.x.mask.reshape((-1,) + (1,) * (jnp.ndim(a) - 1)) & jnp.isfinite(a)
        difference = jnp.max(jnp.where(mask, jnp.abs(a - b), 0.0))
        size = jnp.max(jnp.where(mask, jnp.maximum(jnp.abs(a), jnp.abs(b)), 0.0))
        return difference / jnp.where(size > 0, size, 1.0)

    return sum(jax.tree.leaves(jax.tree.map(change, f, g)), jnp.zeros(()))


def _check_prediction(density: Density, f: Any, group: Group) -> None:
    """Reads what the model returned for one group while it is traced: a program that exists has passed."""
    expected = group.y.shape
    if not density.error.has_gaussian_moments:
        return
    if getattr(f, "shape", None) != expected:
        got = f"shape {f.shape}" if hasattr(f, "shape") else type(f).__name__
        raise ModelError(
            f"the structural model must return one prediction a row, shape (obs,) = {expected} here; it returned "
            f"{got}. Columns of x have shape (obs,), parameters and v are scalars of one group."
        )
    if not jnp.issubdtype(f.dtype, jnp.floating):
        raise ModelError(f"the structural model must return real numbers; it returned dtype {f.dtype}.")


def _tracer_advice(error: Exception) -> str:
    """The user's line that broke tracing, and what to write instead."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in ("/jax/", _OWN, "/equinox/", "/numpy/", "<frozen"))
    ]
    where = f' in {frames[-1].filename}, line {frames[-1].lineno}: "{frames[-1].line}"' if frames else ""
    if isinstance(error, jax.errors.TracerBoolConversionError):
        advice = "A Python `if`, `and` or `while` cannot depend on parameters or data: use jnp.where(condition, a, b)."
    elif isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        advice = "Indexing with a condition changes shapes: use jnp.where(condition, a, b) instead."
    else:
        advice = (
            "The model must be written with jax.numpy (import jax.numpy as jnp), not numpy or math: jnp.exp for "
            "np.exp, and no float() or int() of a parameter."
        )
    return f"The model is not pure JAX{where}. {advice}"


def _check_padding(binding: Binding, probe: _Probe, finite: np.ndarray) -> None:
    bad = finite & ~(probe.padding < 1e-8)
    if bad.any():
        raise ModelError(
            f"the predictions of real rows change with the padding of short groups (group {_some(binding, bad)}): the "
            "model mixes rows (a mean, a cumulative sum, the last row). Use x.mask, true on real rows, to leave padded "
            "rows out."
        )
    bad = finite & ~(probe.tables < 1e-8)
    if bad.any():
        tables = ", ".join(f"v.{name}" for name in binding.data.tables)
        raise ModelError(
            f"the predictions change with the padding of a further table (group {_some(binding, bad)}): groups with "
            f"few rows in {tables} are padded there. Use its mask (v.NAME.mask), true on real rows, to leave padded "
            "rows out, as in jnp.where(mask, amount, 0)."
        )


def _check_scales(binding: Binding, start: Params, probe: _Probe, finite: np.ndarray) -> None:
    zero = probe.worst_scale <= 0.0
    if binding.density.error.has_gaussian_moments and zero.any() and not finite[zero].any():
        rows = _zero_rows(binding, start, zero)
        if rows:
            raise ModelError(
                f"the residual standard deviation is zero in {rows}: the prediction is 0 there at the starting values, "
                f"and the error model is {binding.density.error.formula}. Leave these rows out, or add a constant part "
                "(error='combined')."
            )


def _zero_rows(binding: Binding, start: Params, groups: np.ndarray) -> str:
    """The rows of `groups` whose residual SD is zero at the start, by their number in the table."""
    density = binding.density
    numbers: list[int] = []
    for bucket, which in zip(binding.problem.buckets, binding.bucket_groups, strict=True):
        for place, index in enumerate(which):
            if not groups[index] or len(numbers) > 5:
                continue
            group = jax.tree.map(lambda leaf, place=place: jnp.asarray(leaf[place]), bucket)
            f = density.predict(start, jnp.zeros(density.n_effects), group)
            _, scale, _ = density.error.moments(f, f, start.error, group)
            zero = np.flatnonzero(np.asarray(group.x.observed) & (np.asarray(scale) <= 0))
            numbers += [int(binding.data.row_index[index, j]) + 1 for j in zero]
    if not numbers:
        return ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)[:5]))}" + (
        " and others" if len(numbers) > 5 else ""
    )


def _check_effects(binding: Binding, start: Params, slopes: np.ndarray) -> None:
    """Names every parameter or random effect whose log-density slope is exactly zero everywhere it was tried; effects
    that start with a variance of zero are what they are."""
    density = binding.density
    p = len(binding.packed_names)
    nothing = [name for k, name in enumerate(density.beta_names) if slopes[k] == 0.0 and not binding.fixed[k]]
    errors = [
        name
        for k, (name, q) in enumerate(zip(density.error_names, density.error.parameters, strict=True))
        if slopes[p - len(density.error.parameters) + k] == 0.0 and not q.fix
    ]
    # An effect acts through the columns of the factor that its row holds: a singular psi has columns of zeros.
    factor = np.asarray(density.covariance.factor(np.asarray(start.covariance))) != 0.0
    acts = slopes[p : p + density.n_effects] != 0.0
    still = [k for k in range(density.n_effects) if factor[k].any() and not acts[factor[k]].any()]
    effects = [f"random effect of {density.effect_names[k]}" for k in still]
    effects = [name for name in effects if name.removeprefix("random effect of ") not in nothing]
    if nothing or errors or effects:
        raise ModelError(
            f"no effect on any prediction at the starting values: {', '.join([*nothing, *effects, *errors])}. Either "
            "the model does not use it (misspelt?), or the start is so far off that the model is flat there; mend the "
            "model, fix the parameter (fix=True), or start elsewhere."
        )


def _some(binding: Binding, groups: np.ndarray) -> str:
    return some([str(label) for label in binding.data.labels[groups]])
