"""Evaluation of a fitted model: binding to new tables, conditional modes, and results in the order of a table's
rows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.endpoints import check_rows_to_predict
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, FitError, ModelError, Status, some
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.lindstrom_bates import Linearised, linearised_likelihood
from jaxnlme.likelihood.log_likelihood import modes_of_groups
from jaxnlme.likelihood.mode import ModeSearch, mode_starts
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.by_level import level_depth, modes_of_known_units, up_to_depth
from jaxnlme.results.missing_levels import with_levels

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def compile_once(fn: Callable, binding: Binding, times: int = 1) -> Callable:
    """`fn` compiled for a call that is unlikely to be repeated.

    **Arguments:** `times`: how often one call computes the rows of the data.
    """
    return compiled(fn, times * binding.data.rows.size, once=True)


def evaluate_by_bucket(fn: Callable[..., list[Any]], fit: FitRecord, binding: Binding, z: np.ndarray) -> list[Any]:
    """`fn(problem, params, z)` at the fitted parameters, in chunks if the fit used them.

    **Arguments:** `fn`, a function of a module (a new lambda would be compiled anew); `z` (groups, random), whitened
    effects.
    **Returns:** one numpy pytree (groups, ...) per size bucket.
    """
    with x64():
        placed = _placed_problem(fit, binding)
        _, pieces = placed.run(_of_buckets(fn), on_device(fit.params), placed.scatter(z), once=True)
        return placed.collect_by_bucket(pieces)


@functools.cache
def _of_buckets(fn: Callable) -> Callable:
    """`fn` in the form that `PlacedProblem.run` expects, without sums over groups."""
    return lambda problem, params, z: ((), fn(problem, params, z))


def _placed_problem(fit: FitRecord, binding: Binding) -> PlacedProblem:
    """The groups of `binding` on the device, in chunks if the fit used them."""
    # Rows are not padded: only the dry run of a fit determines whether the model permits it.
    return PlacedProblem(binding.problem, chunk=fit.options.get("chunk_groups"), rows=False)


def to_rows(binding: Binding, pieces: list[Any]) -> np.ndarray:
    """One value for each row of the table, in its order.

    **Arguments:** `pieces`: one array (groups, obs) per bucket of the binding's problem, padded rows included.
    **Returns:** a column (rows,).
    """
    full = np.full(binding.data.rows.shape, np.nan)
    for which, piece in zip(binding.bucket_groups, pieces, strict=True):
        piece = np.asarray(piece)
        full[which, : piece.shape[1]] = piece
    return binding.data.rows_to_column(full)


def require_estimates(fit: FitRecord) -> None:
    """**Raises:** FitError where the fit has no estimates, because it did not begin."""
    if not np.isfinite(np.asarray(fit.params.beta)).all():
        raise FitError(f"the fit has no estimates. {fit.status}", fit)


def binding_and_effects(fit: FitRecord, data: Any, level: str | int) -> tuple[Binding, np.ndarray]:
    """The binding of the fitted or new data, and whitened effects (groups, random) at `level` (`level_depth`): zero for
    "population", the conditional modes for "group"; with nested levels those of some levels, others zero.

    **Raises:** OptionError for another level; FitError where the fit has no estimates; errors of `rebind`.
    """
    require_host("a prediction of a Fit", data)
    depth = level_depth(fit.data, level)
    require_estimates(fit)
    binding = rebind(fit, data, depth)
    if depth == 0:
        return binding, np.zeros((binding.data.n_groups, binding.density.n_effects))
    return binding, up_to_depth(binding, group_modes(fit, binding), depth)


def rebind(fit: FitRecord, data: Any, depth: int | None = None) -> Binding:
    """The fit's model bound to `data` with the levels, centres and strata of the fit; the fit's binding for None.

    **Arguments:** `data`: None, a GroupedData, or a table with the columns of the fitted one; `depth`: the number of
    grouping levels whose random effects are used, so that a table may lack the columns of the others; None: all.
    **Raises:** DataError where columns do not match those of the fit; ModelError for explicit designs per group.
    """
    if data is None or data is fit.data:
        return fit.binding
    fitted = fit.data
    if isinstance(data, GroupedData):
        new = data
    else:
        new = _from_table(fitted, data, depth) if fitted.reader is None else _from_records(fitted, data, depth)
    for kind, description in (("x", "x (a row)"), ("v", "v (a group)"), ("text", "text")):
        for name in getattr(fitted, kind):
            other_kinds = [other for other in ("x", "v", "text") if other != kind and name in getattr(new, other)]
            if other_kinds:
                raise DataError(
                    f"column {name!r} is in {other_kinds[0]} of the new data; the fit had it in {description}."
                )
    required = {name for columns in fit.binding.covariates.values() for name in columns.source_columns}
    absent = sorted(required - {*new.x, *new.v, *new.text})
    if absent:
        raise DataError(f"the new data lack {', '.join(map(repr, absent))}, which covariates of the model need.")
    designs = (fit.model.fixed_design, fit.model.random_design)
    if any(np.ndim(design) > 2 for design in designs if design is not None):
        raise ModelError(
            "fixed_design or random_design has an entry for each group of the fitted table, so new data have none; "
            "declare the model with covariates=[...] to predict from new tables."
        )
    check_rows_to_predict(new, fit.binding.density.error)
    return bind(fit.model, new, like=fit.binding)


def _from_table(fitted: GroupedData, frame: Any, depth: int | None) -> GroupedData:
    """GroupedData from a table, with the columns in the same roles as in the fitted data, and columns of grouping
    levels whose random effects are not needed filled in."""
    if fitted.tables:
        made = "with_events(...)" if list(fitted.tables) == ["events"] else "with_table(...)"
        raise DataError(
            f"the fit's data have further tables ({', '.join(fitted.tables)}); pass a GroupedData with such tables, "
            f"made by GroupedData.from_frame(..., need_response=False).{made}."
        )
    x = [*fitted.x, *(name for name, values in fitted.text.items() if values.ndim == 2)]
    v = [*fitted.v, *(name for name, values in fitted.text.items() if values.ndim == 1)]
    if depth is not None and hasattr(frame, "keys") and all(name in frame for name in v):
        frame = with_levels(fitted, frame, v, depth)
    levels, endpoint = list(fitted.level_names), fitted.endpoint
    x = [name for name in x if name != endpoint]
    return GroupedData.from_frame(frame, levels, fitted.y_name, x, v, endpoint=endpoint, need_response=False)


def _from_records(fitted: GroupedData, frame: Any, depth: int | None) -> GroupedData:
    """GroupedData from a table of records, read as the fitted one was."""
    further = [name for name in fitted.tables if name != "events"]
    if further:
        raise DataError(
            f"the fit's data have further tables ({', '.join(further)}); pass a GroupedData with such tables, made by "
            "GroupedData.from_nonmem(..., need_response=False).with_table(...)."
        )
    names = {*getattr(frame, "columns", ()), *(frame if isinstance(frame, Mapping) else ())}
    if depth is not None and fitted.group_name in names:
        frame = with_levels(fitted, frame, [], depth)
    assert fitted.reader is not None
    return fitted.reader.read(GroupedData, frame, need_response=False, like=fitted)


def group_modes(fit: FitRecord, binding: Binding) -> np.ndarray:
    """Whitened conditional modes (groups, random) of the groups of `binding`: those of the fit for its groups, found at
    the fitted parameters for others; zero, with a warning that names them, for new groups without a response.

    **Raises:** DataError for labels of another type than the fit's.
    """
    modes, _ = fit.conditional
    if binding is fit.binding:
        return modes
    position = {label: k for k, label in enumerate(fit.data.labels.tolist())}
    labels = binding.data.labels.tolist()
    index = np.array([position.get(label, -1) for label in labels], int)
    new = index < 0
    empty = [labels[k] for k in np.flatnonzero(new & ~binding.data.observed.any(axis=1))]
    # With no data the mode is the mean of the random effects, zero.
    alike = next((label for label in position for other in empty if str(label) == str(other)), None)
    if empty and alike is None:
        warnings.warn(
            f"group {some([repr(label) for label in empty])} is not in the fit and has no response to find its random "
            "effects from; its results are those of the population (random effects zero).",
            stacklevel=5,
        )
    elif empty:
        raise DataError(
            f"group {some([repr(label) for label in empty])} is not in the fit (the fit has the "
            f"{type(alike).__name__} {alike!r}) and has no response to find its random effects from; correct the "
            "labels, use level='population', or give responses."
        )
    known = modes_of_known_units(fit.binding, binding, modes, index)
    return np.where(new[:, None], find_modes(fit, binding, new)[0], known) if new.any() else known


def conditional_modes(fit: FitRecord) -> tuple[np.ndarray, np.ndarray]:
    """Whitened conditional modes (groups, random) of the fit's groups and the curvature there (groups, random, random):
    those of the fit or, where its method expands at zero (FO), found now ("post hoc" modes)."""
    approximation = _approximation(fit)
    if approximation is None or approximation.at_mode or not np.isfinite(np.asarray(fit.params.beta)).all():
        return fit.modes, fit.curvature
    return find_modes(fit, fit.binding, np.ones(fit.data.n_groups, bool))


def has_interaction(fit: FitRecord) -> bool:
    """True if the residual scale of the fit's method depends on the random effects (FO and FOCE evaluate it at
    zero)."""
    approximation = _approximation(fit)
    return approximation is None or approximation.interaction


def _approximation(fit: FitRecord) -> LikelihoodApproximation | None:
    """The likelihood approximation of the fit's estimator, None where it has none."""
    method = getattr(fit.estimator, "method", None)
    return method if isinstance(method, LikelihoodApproximation) else None


def find_modes(fit: FitRecord, binding: Binding, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whitened conditional modes at the fitted parameters, each the best of those found from several starts.

    **Arguments:** `which` (groups,) bool: the groups whose modes are needed.
    **Returns:** modes (groups, random) and the curvature of minus log_joint there (groups, random, random); NaN, with a
    warning that names the groups, where the mode of a group of `which` was not found.
    """
    m, q = binding.data.n_groups, binding.density.n_effects
    if q == 0:
        return np.zeros((m, 0)), np.zeros((m, 0, 0))
    approximation = _approximation(fit)
    search = ModeSearch() if approximation is None else approximation.search
    method = getattr(fit.estimator, "method", None)
    with x64():
        placed = _placed_problem(fit, binding)
        if isinstance(method, Linearised):
            _, pieces = placed.run(_penalised_modes, (on_device(fit.params), on_device(method)), once=True)
        else:
            starts = np.broadcast_to(mode_starts(q), (m, *mode_starts(q).shape))
            at = (on_device(fit.params), on_device(search), has_interaction(fit))
            _, pieces = placed.run(modes_of_groups, at, placed.scatter(starts), once=True)
        z, curvature, mode_found = (np.array(placed.collect(parts)) for parts in zip(*pieces, strict=True))
    failed = which & ~mode_found
    if failed.any():
        names = some([str(label) for label in binding.data.labels[failed]])
        warnings.warn(
            f"the conditional mode of group {names} was not found; results that depend on it are NaN.", stacklevel=5
        )
        z[failed], curvature[failed] = np.nan, np.nan
    return z, curvature


def _penalised_modes(problem: Problem, at: tuple[Params, Linearised], _: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """As `modes_of_groups`, by penalised least squares for a linearised likelihood."""
    params, method = at
    zero = jnp.zeros(problem.density.n_effects)

    def per_group(group):
        result = linearised_likelihood(method, problem.density, params, params, group, zero).result
        return result.mode, result.curvature, result.status == Status.ok

    return (), problem.map(per_group)
