"""The probe that decides whether the log-density of a group is a sum over the units of its innermost level.

Rows of a model with carry-over between occasions, or residuals that are correlated across them, depend on the
parameters of several units; then the random effects of all units of a group are one dense problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.explanations import TRACER_ERRORS, model_error, tracer_advice
from jaxnlme.binding.prediction_checks import check_prediction
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.settings import CHECKS
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import JaxnlmeError
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import linearise
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.model.levels import LevelRecord
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64


def unit_coupling(problem: Problem, start: Params, data: GroupedData, columns: Sequence[np.ndarray]) -> str:
    """A clause on what couples the units of the innermost level with random effects; empty where predictions and
    residual densities couple only rows of one unit, and the designs are constant in each unit.

    Derivatives along a direction that differs between units must be those along the same direction in all units, times
    the unit's own factor. Groups whose derivatives are not finite there do not count.

    **Arguments:** `start`: Params to evaluate at; `columns`: the varying columns of the designs, each (groups,) or
    (groups, obs).
    **Raises:** ModelError for a prediction of the wrong shape or type; exceptions that the user's functions raise
    themselves. What JAX cannot trace or differentiate, and solvers that fail, are reasons: the dry run raises them
    where they are in the way of a fit.
    """
    density = problem.density
    assert density.levels is not None
    if not isinstance(density.individual, LinearIndividual):
        return "an individual function gives its parameters"
    level = data.nested[density.levels.innermost.depth - 1]
    for column in columns:
        if column.ndim == 2:
            of_unit = np.take_along_axis(column, np.take_along_axis(level.first_row, level.unit, axis=1), axis=1)
            if not (column == of_unit).all():
                return f"a column of its designs varies within a unit of {density.levels.innermost.name!r}"
    try:
        with x64(), jax.ensure_compile_time_eval():
            results = jax.jit(_probe)(*on_device((problem, start)))
    except JaxnlmeError:
        raise
    except TRACER_ERRORS as error:
        return _not_probed(tracer_advice(error))
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        message = model_error(error)
        if message is None:
            raise
        return _not_probed(message)
    finite, rows, residuals = (np.asarray(part) for part in results)
    if not finite.any():
        return _not_probed("in no group are they finite at the starting values")
    if rows[finite].any():
        return "predictions depend on the parameters of several units"
    return "residuals are correlated across units" if residuals[finite].any() else ""


def _not_probed(reason: str) -> str:
    return f"derivatives that would show whether units are coupled were not computed ({reason.rstrip('.')})"


def coupling_notes(density: Density) -> list[str]:
    """A sentence for the record of a fit on random effects of nested units that are computed together."""
    levels = density.levels
    if levels is None or levels.separable:
        return []
    return [
        f"The random effects of all units of {levels.innermost.name!r} in a group are computed together, not unit by "
        f"unit: {levels.coupling}."
    ]


def _probe(problem: Problem, start: Params) -> tuple[Any, Any, Any]:
    """For each group: derivatives are finite; predictions, and residual densities, couple rows of different units."""
    density = problem.density

    def per_group(group: Group) -> tuple[Any, Any, Any]:
        z = CHECKS.probe_size * jnp.cos(1.0 + jnp.arange(density.n_effects, dtype=group.y.dtype))
        return _of_group(density, start, z, group)

    return problem.map(per_group)


def _of_group(density: Density, params: Params, z: Any, group: Group) -> tuple[Any, Any, Any]:
    assert density.levels is not None
    phi = density.phi(params, z, group)
    assert isinstance(phi, LevelRecord)
    unit = group.units[density.levels.innermost.depth - 1].index
    factor = jnp.sin(1.0 + unit.astype(group.y.dtype))  # one factor for each unit
    along_rows = jnp.cos(2.0 + jnp.arange(group.y.shape[0], dtype=group.y.dtype))

    # Parameters that are the same in all units couple none of them.
    varying = [k for k, value in enumerate(phi.values) if jnp.ndim(value)]

    def predict(*shifts: Any) -> Any:
        values = list(phi.values)
        for k, shift in zip(varying, shifts, strict=True):
            values[k] = values[k] + shift
        shifted = LevelRecord(phi.names, tuple(values), phi.entry_kind, level_names=phi.level_names, units=phi.units)
        return density.structural(params.free, shifted, group.x, group.v)

    zero = [jnp.zeros_like(group.y)] * len(varying)
    f, push = linearise(predict, *zero)
    check_prediction(density, f, group)
    finite, coupled = jnp.ones((), bool), jnp.zeros((), bool)
    leaves = jax.tree.leaves(f)
    if not all(leaf.shape[:1] == group.y.shape and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        return finite, ~coupled, coupled  # parts of the prediction belong to no row
    for k in range(len(zero)):

        def along(direction: Any, k: int = k) -> Any:
            return push(*(direction if j == k else jnp.zeros_like(group.y) for j in range(len(zero))))

        found = _coupling(along(jnp.ones_like(group.y)), along(factor), factor, group.x.mask)
        finite, coupled = finite & found[0], coupled | found[1]

    def of_predictions(f: Any) -> Any:
        return jax.grad(lambda f: density.error_at(params).log_density(f, f, params.error, group))(f)

    slopes, push_slope = jax.linearize(of_predictions, f)
    direction = jax.tree.map(lambda leaf: _by_row(along_rows, leaf), f)
    scaled = jax.tree.map(lambda leaf: _by_row(along_rows * factor, leaf), f)
    found = _coupling(push_slope(direction), push_slope(scaled), factor, group.x.observed)
    return finite & found[0], coupled, found[1]


def _by_row(values: Any, leaf: Any) -> Any:
    """`values` (obs,) in the shape of `leaf` (obs, ...)."""
    return jnp.broadcast_to(values.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf.shape)


def _coupling(same: Any, different: Any, factor: Any, mask: Any) -> tuple[Any, Any]:
    """Flags: derivatives are finite; those along the direction with a factor for each unit differ from the factor times
    those along the common direction, in rows of `mask`."""
    finite, coupled = jnp.ones((), bool), jnp.zeros((), bool)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(different), strict=True):
        rows = _by_row(mask, a)
        expected = a * _by_row(factor, a)
        size = jnp.max(jnp.where(rows, jnp.abs(a), 0.0))
        finite = finite & jnp.all(jnp.isfinite(jnp.where(rows, a, 0.0)))
        coupled = coupled | (jnp.max(jnp.where(rows, jnp.abs(b - expected), 0.0)) > CHECKS.coupling * size)
    return finite, coupled
