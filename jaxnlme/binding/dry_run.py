"""The dry run: one evaluation of the model on the data before any iteration, with explanations of modelling
mistakes."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.confounding import check_confounding
from jaxnlme.binding.continued_columns import otherwise_padded
from jaxnlme.binding.explanations import explained_errors, explained_user_code
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.prediction_checks import check_prediction
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.rows_of_groups import group_at, row_numbers, rows_in_words
from jaxnlme.binding.settings import CHECKS
from jaxnlme.binding.start_checks import check_effects, check_exact_zeros, check_steady_states, zeros_of
from jaxnlme.errors import MESSAGES, ModelError, some
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import gradient, jacobian, value_and_gradient
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.records import Events, Rows


class DryRun(eqx.Module):
    """Result of one evaluation of all groups at the starting values, in the order of the data.

    **Fields:** `finite` (groups,) bool: log-density and gradient are finite at z = 0; `misfit`: the root mean square of
    the standardised residuals at z = 0, with several endpoints one for each (endpoints,), None for outcomes without
    Gaussian moments; `effect_sizes` (distinct effects,):
    the root mean square change of the standardised predictions by one starting SD of each random effect, to first
    order, as a fraction of `misfit`; None with it.
    """

    finite: np.ndarray
    misfit: float | np.ndarray | None
    effect_sizes: np.ndarray | None


def dry_run(binding: Binding, start: Params, placed: PlacedProblem | None = None) -> DryRun:
    """Check shapes, JAX purity, invariance to padding, the effect of every parameter, and residual scales.

    **Arguments:** `binding`; `start`: the Params to evaluate at; `placed`: the groups as they will be computed, None
    for the groups without padding.
    **Returns:** a DryRun.
    **Raises:** ModelError naming the line, the parameter or the rows, and the remedy; exceptions that the user's
    functions raise themselves.
    """
    density = binding.density
    placed = PlacedProblem(binding.problem, grid=False) if placed is None else placed
    processes = placed.processes
    start = on_device(start)
    with explained_user_code():
        _, chunks = placed.run(_probe_all, start, once=True)
    probe = jax.tree.map(lambda *parts: placed.collect(parts), *chunks)
    finite = np.array(probe.finite)
    if not finite.all():
        _check_derivatives(binding, start)
    processes.run_collectively(lambda: check_steady_states(binding, start, finite))
    processes.run_collectively(lambda: _check_padding(binding, probe, finite))
    processes.run_collectively(lambda: _check_scales(binding, start, probe, finite))
    zeros = np.sum(processes.gather(np.sum(probe.zeros, axis=0)), axis=0)
    processes.run_collectively(lambda: check_exact_zeros(binding, start, probe.zeros, zeros))
    effect = probe.effect[finite] if finite.any() else np.zeros((1, probe.effect.shape[1]))
    effect = np.max(processes.gather(np.max(effect, axis=0)), axis=0)
    if processes.any(finite.any()):
        check_effects(binding, start, effect)
        check_confounding(binding, start, placed)
    misfit, effect_sizes = None, None
    if density.error.has_residuals and processes.any(finite.any()):
        totals = np.sum(processes.gather(np.sum(probe.squares[finite], axis=0)), axis=0)
        misfit, effect_sizes = _misfit(density, totals)
    return DryRun(finite, misfit, effect_sizes)


def _misfit(density: Density, totals: np.ndarray) -> tuple[Any, np.ndarray | None]:
    """`misfit` and `effect_sizes` of a DryRun, from the sums over all groups (endpoints, 2 + random) of `_Probe`."""
    counts, squares = np.maximum(totals[:, 0], 1.0), totals[:, 1]
    if not np.isfinite(squares).any():
        return None, None
    with np.errstate(all="ignore"):  # a misfit of zero has no effect sizes
        misfit = np.where(totals[:, 0] > 0, np.sqrt(squares / counts), np.nan)
        # The effects as they are once the residual scale of each endpoint fits its residuals.
        use = np.isfinite(squares) & (squares > 0)
        scaled = totals[use, 2:] * (counts / squares)[use, None]
        effect_sizes = np.sqrt(density.over_units(scaled.sum(axis=0), np.sum) / counts[use].sum())
    return (misfit if density.error.n_endpoints > 1 else float(misfit[0])), effect_sizes if use.any() else None


def place_and_check(
    binding: Binding, start: Params, mesh: Mesh | None, chunk: int | None, thread_rows: int | None = None
) -> tuple[PlacedProblem, DryRun]:
    """The groups of `binding` placed on devices, and the result of the dry run there.

    If a model fails with padded rows (it combines rows of equally long groups, or contains arrays of their length),
    the groups are placed without padding of rows: a fit of data with other numbers of rows is then compiled again.

    **Arguments:** `start`: the Params to evaluate at; `mesh`, `chunk`, `thread_rows`: as for PlacedProblem.
    **Raises:** as `dry_run`.
    """
    placed = PlacedProblem(binding.problem, mesh, chunk, thread_rows=thread_rows)
    if placed.rows_unpadded:
        return placed, dry_run(binding, start, placed)
    try:
        return placed, dry_run(binding, start, placed)
    except jax.errors.JaxRuntimeError:  # not caused by the model (`explained_errors`): out of memory, for example
        raise
    except Exception:  # any exception of the model; if it does not come from the padding, it is raised again below
        placed = PlacedProblem(binding.problem, mesh, chunk, rows=False, thread_rows=thread_rows)
        return placed, dry_run(binding, start, placed)


class _Probe(eqx.Module):
    finite: Any
    effect: Any
    squares: Any
    zeros: Any
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
        check_prediction(density, f, group)
        value = density.error_at(params_).log_density(f, f, params_.error, group)
        if jnp.shape(value) != ():
            raise ModelError("the log-density of a group must be a scalar.")
        return value

    def per_group(group: Group) -> _Probe:
        zero = jnp.zeros(q)

        def value_and_slopes(z):
            value, slopes = value_and_gradient(outcome, argnums=(0, 1))(packed, z, group)
            return value, jnp.concatenate(slopes)

        values, slopes = jax.vmap(value_and_slopes)(
            jnp.stack([zero, *(zero + shift for shift in CHECKS.effect_shifts)])
        )
        finite = jnp.isfinite(values[0]) & jnp.all(jnp.isfinite(slopes[0]))
        effect = jnp.max(jnp.where(jnp.isfinite(slopes), jnp.abs(slopes), jnp.inf), axis=0)
        f = density.predict(params, zero, group)
        squares, worst = jnp.zeros((density.error.n_endpoints, 2 + q)), jnp.ones(group.y.shape)
        zeros = jnp.zeros((density.error.n_endpoints, 2))
        if density.error.has_residuals:
            residual, scale, _ = density.error_at(params).moments(f, f, params.error, group)
            slopes = jacobian(lambda z: _slope_of(density, params, z, group))(zero)
            one, scaled = jnp.ones((len(group.y), 1)), jnp.concatenate([residual[:, None], slopes], axis=1)
            parts = jnp.concatenate([one, scaled / scale[:, None]], axis=1)
            each = _rows(density, group)
            squares = jnp.stack([jnp.sum(jnp.where(rows[:, None], parts**2, 0.0), axis=0) for rows in each])
            worst = jnp.where(jnp.isnan(scale), jnp.inf, scale)
            if isinstance(f, jax.Array) and f.shape == group.y.shape:  # one prediction for each row
                zeros = zeros_of(f, residual, group, each)
        padding = _padding_difference(density, params, f, group)
        tables = _table_difference(density, params, f, group)
        return _Probe(finite, effect, squares, zeros, jnp.min(worst), padding, tables)

    return problem.map(per_group)


def _slope_of(density: Density, params: Params, z: Any, group: Group) -> Any:
    """The part (obs,) of the residuals of a group that changes with the whitened effects `z`, up to its sign."""
    f = density.predict(params, z, group)
    return density.error_at(params).moments(f, f, params.error, group)[0] if density.error.n_endpoints > 1 else f


def _rows(density: Density, group: Group) -> list[Any]:
    """The rows (obs,) with a response whose residuals are Gaussian, of each endpoint."""
    if group.endpoints is None:
        return [group.x.observed]
    gaussian = {k for _, _, k in density.error.gaussian_parts()}
    return [group.x.observed & (group.endpoints == k) & (k in gaussian) for k in range(density.error.n_endpoints)]


def _padding_difference(density: Density, params: Params, f: Any, group: Group) -> Any:
    """Largest change of the prediction for a real row when padded rows are filled otherwise, as a fraction of the
    change that is allowed."""

    def repadded(column):
        return column if column.ndim == 0 else otherwise_padded(column, group.x.mask)

    x = eqx.tree_at(lambda x: x.values, group.x, tuple(repadded(c) for c in group.x.values))
    changed = eqx.tree_at(lambda g: (g.x, g.covariates), group, (x, tuple(repadded(c) for c in group.covariates)))
    return _difference(f, density, params, changed)


def _table_difference(density: Density, params: Params, f: Any, group: Group) -> Any:
    """The same when padded rows of further tables have other values."""
    if not any(isinstance(entry, Rows) for entry in group.v.values):
        return jnp.zeros(())

    def repadded(entry):
        if not isinstance(entry, Rows) or isinstance(entry, Events):  # padded events are doses of zero
            return entry
        values = tuple(jnp.where(entry.mask, column, column + 1.0) for column in entry.values)
        return eqx.tree_at(lambda rows: rows.values, entry, values)

    changed = eqx.tree_at(lambda g: g.v.values, group, tuple(repadded(entry) for entry in group.v.values))
    return _difference(f, density, params, changed)


def _difference(f: Any, density: Density, params: Params, group: Group) -> Any:
    """Largest difference for real rows between the predictions f and those for `group`, as a fraction of the largest
    prediction and of the difference that is allowed."""
    zero = jnp.zeros(density.n_effects)
    g = density.predict(params, zero, group)
    solver = density.structural.calls_solver(params.free, density.phi(params, zero, group), group.x, group.v)
    allowed = CHECKS.padding_change_of_solver if solver else CHECKS.padding_change

    def change(a, b):
        if jnp.shape(a)[:1] != group.y.shape:
            return jnp.zeros(())
        mask = group.x.mask.reshape((-1,) + (1,) * (jnp.ndim(a) - 1)) & jnp.isfinite(a)
        difference = jnp.max(jnp.where(mask, jnp.abs(a - b), 0.0))
        size = jnp.max(jnp.where(mask, jnp.maximum(jnp.abs(a), jnp.abs(b)), 0.0))
        return difference / (allowed * jnp.where(size > 0, size, 1.0))

    return sum(jax.tree.leaves(jax.tree.map(change, f, g)), jnp.zeros(()))


def _check_derivatives(binding: Binding, start: Params) -> None:
    """Check, by tracing one group, that the model has the second derivatives of a fit: where it has only those in
    reverse mode, they need not be finite, and that is not the reason to name.

    **Raises:** ModelError naming what works.
    """
    density = binding.density
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), binding.problem.buckets[0])

    def log_joint(z):
        return density.log_joint(start, z, group)

    if density.n_effects:
        with explained_errors():
            jax.eval_shape(jacobian(gradient(log_joint)), jnp.zeros(density.n_effects))


def _check_padding(binding: Binding, probe: _Probe, finite: np.ndarray) -> None:
    bad = finite & ~(probe.padding < 1.0)
    if bad.any():
        raise ModelError(
            f"the predictions of real rows change with the padding of short groups (group {_labels(binding, bad)}): "
            "the model mixes rows (a mean, a cumulative sum, the last row). Use x.mask, true on real rows, to leave "
            "padded rows out."
        )
    bad = finite & ~(probe.tables < 1.0)
    if bad.any():
        tables = ", ".join(f"v.{name}" for name in binding.data.tables)
        raise ModelError(
            f"the predictions change with the padding of a further table (group {_labels(binding, bad)}): groups with "
            f"few rows in {tables} are padded there. Use its mask (v.NAME.mask), true on real rows, to leave padded "
            "rows out, as in jnp.where(mask, amount, 0)."
        )


def _check_scales(binding: Binding, start: Params, probe: _Probe, finite: np.ndarray) -> None:
    zero = probe.worst_scale <= 0.0
    if binding.density.error.has_residuals and zero.any() and not finite[zero].any():
        rows = _zero_rows(binding, start, zero)
        if rows:
            density = binding.density
            held = [
                name
                for name, p in zip(density.error_names, density.error.parameters, strict=True)
                if p.fix and p.start == 0 and p.name.partition("[")[0] == "a"
            ]
            remedy = f"estimate {' and '.join(held)}" if held else "add a constant part (error='combined')"
            raise ModelError(
                f"the residual standard deviation is zero in {rows}: the prediction is 0 there at the starting values, "
                f"and the error model is {density.error.formula}{f', {some(held)} held at zero' if held else ''}. "
                f"Leave these rows out, or {remedy}."
            )


def _zero_rows(binding: Binding, start: Params, groups: np.ndarray) -> str:
    """The rows of `groups` whose residual SD is zero at the start, by their number in the table."""
    density = binding.density
    numbers: list[int] = []
    concerned = np.flatnonzero(groups).tolist()
    for index in concerned[: MESSAGES.items]:
        group = group_at(binding, index)
        f = density.predict(start, jnp.zeros(density.n_effects), group)
        _, scale, _ = density.error_at(start).moments(f, f, start.error, group)
        numbers += row_numbers(binding.data, index, np.asarray(group.x.observed) & (np.asarray(scale) <= 0))
    if not numbers:
        return ""
    return rows_in_words(sorted(numbers)) + (" and in other groups" if len(concerned) > MESSAGES.items else "")


def _labels(binding: Binding, groups: np.ndarray) -> str:
    return some([str(label) for label in binding.data.labels[groups]])
