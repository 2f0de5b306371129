"""What predictions, simulations and residuals share: a fit met with a table, its conditional modes, its rows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, FitError, ModelError, OptionError, Status, some
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.curvature import exact
from jaxnlme.likelihood.lindstrom_bates import Linearised, linearised
from jaxnlme.likelihood.mode import ModeSearch, search_mode
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64

if TYPE_CHECKING:
    from jaxnlme.results.record import Fit


def once(fn: Callable, binding: Binding, times: int = 1) -> Callable:
    """`fn` jitted for a call that will hardly be repeated.

    **Arguments:** `times`: how often the rows of the data are computed in one call.
    """
    return compiled(fn, times * binding.data.rows.size, once=True)


def by_bucket(fn: Callable[..., list[Any]], fit: Fit, binding: Binding, z: np.ndarray) -> list[Any]:
    """What `fn(problem, params, z)`, a module's function, returns at the fitted parameters and the effects `z`
    (groups, random): one pytree (groups, ...) per size bucket, as numpy; in chunks where the fit was made so."""
    with x64():
        placed = _placed(fit, binding)
        _, pieces = placed.run(_of_buckets(fn), on_device(fit.params), placed.spread(z), once=True)
        return placed.by_bucket(pieces)


@functools.cache
def _of_buckets(fn: Callable) -> Callable:
    return lambda problem, params, z: ((), fn(problem, params, z))


def _placed(fit: Fit, binding: Binding) -> PlacedProblem:
    # Rows stay as they are: whether the model bears more of them is known to `fit` alone.
    return PlacedProblem(binding.problem, chunk=fit.options.get("chunk_groups"), rows=False)


def row_column(binding: Binding, pieces: list[Any]) -> np.ndarray:
    """One array (groups, obs) per bucket as one column (rows,), in the order of the table."""
    full = np.full(binding.data.rows.shape, np.nan)
    for which, piece in zip(binding.bucket_groups, pieces, strict=True):
        piece = np.asarray(piece)
        full[which, : piece.shape[1]] = piece
    return binding.data.rows_to_column(full)


def require_estimates(fit: Fit) -> None:
    """**Errors:** FitError where the fit did not begin."""
    if not np.isfinite(np.asarray(fit.params.beta)).all():
        raise FitError(f"the fit has no estimates. {fit.status}", fit)


def place(fit: Fit, data: Any, level: str) -> tuple[Binding, np.ndarray]:
    """Where to evaluate: the binding of the fitted or new data, and whitened effects (groups, random) at `level`."""
    if level not in ("group", "population"):
        raise OptionError(f"level must be 'group' or 'population'; received {level!r}.")
    require_estimates(fit)
    binding = rebind(fit, data)
    if level == "population":
        return binding, np.zeros((binding.data.n_groups, binding.density.n_effects))
    return binding, group_modes(fit, binding)


def rebind(fit: Fit, data: Any) -> Binding:
    """The fit's model bound to `data` with the levels, centres and strata of the fit; the fit's binding for None.

    **Errors:** DataError where columns do not answer to those of the fit; ModelError for explicit designs per group.
    """
    if data is None or data is fit.data:
        return fit.binding
    own = fit.data
    new = data if isinstance(data, GroupedData) else _from_table(own, data)
    for place, word in (("x", "x (a row)"), ("v", "v (a group)"), ("text", "text")):
        for name in getattr(own, place):
            others = [other for other in ("x", "v", "text") if other != place and name in getattr(new, other)]
            if others:
                raise DataError(f"column {name!r} is in {others[0]} of the new data; the fit had it in {word}.")
    wanted = {name for columns in fit.binding.covariates.values() for name in columns.wanted}
    absent = sorted(wanted - {*new.x, *new.v, *new.text})
    if absent:
        raise DataError(f"the new data lack {', '.join(map(repr, absent))}, which covariates of the model read.")
    designs = (fit.model.fixed_design, fit.model.random_design)
    if any(np.ndim(design) > 2 for design in designs if design is not None):
        raise ModelError(
            "fixed_design or random_design has an entry for each group of the fitted table, so new data have none; "
            "declare the model with covariates=[...] to predict from new tables."
        )
    return bind(fit.model, new, like=fit.binding)


def _from_table(own: GroupedData, frame: Any) -> GroupedData:
    if own.tables:
        raise DataError(
            f"the fit's data carry further tables ({', '.join(own.tables)}); pass a GroupedData with its own, made by "
            "GroupedData.from_frame(..., need_response=False).with_table(...)."
        )
    x = [*own.x, *(name for name, values in own.text.items() if values.ndim == 2)]
    v = [*own.v, *(name for name, values in own.text.items() if values.ndim == 1)]
    return GroupedData.from_frame(frame, own.group_name, own.y_name, x, v, need_response=False)


def group_modes(fit: Fit, binding: Binding) -> np.ndarray:
    """Whitened conditional modes (groups, random) of the groups of `binding`: the fit's for its own groups, searched at
    the fitted parameters for others."""
    modes, _ = fit.conditional
    if binding is fit.binding:
        return modes
    position = {label: k for k, label in enumerate(fit.data.labels.tolist())}
    labels = binding.data.labels.tolist()
    known = np.array([position.get(label, -1) for label in labels], int)
    new = known < 0
    empty = [labels[k] for k in np.flatnonzero(new & ~binding.data.observed.any(axis=1))]
    if empty:
        alike = next((own for own in position if str(own) == str(empty[0])), None)
        hint = f" (the fit knows the {type(alike).__name__} {alike!r})" if alike is not None else ""
        raise DataError(
            f"group {some([repr(label) for label in empty])} is not in the fit{hint} and has no response to find its "
            "random effects from; use level='population', or give responses."
        )
    return np.where(new[:, None], search(fit, binding, new)[0], modes[known]) if new.any() else modes[known]


def conditional_modes(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Whitened conditional modes (groups, random) of the fit's groups and the curvature there (groups, random, random):
    the fit's own, or, where its method expands at zero (FO), searched now ("post hoc")."""
    approximation = _approximation(fit)
    if approximation is None or approximation.at_mode or not np.isfinite(np.asarray(fit.params.beta)).all():
        return fit.modes, fit.curvature
    return search(fit, fit.binding, np.ones(fit.data.n_groups, bool))


def interaction(fit: Fit) -> bool:
    """Whether the fit's method lets the residual scale move with the random effects (FO and FOCE take it at zero)."""
    approximation = _approximation(fit)
    return approximation is None or approximation.interaction


def _approximation(fit: Fit) -> LikelihoodApproximation | None:
    method = getattr(fit.estimator, "method", None)
    return method if isinstance(method, LikelihoodApproximation) else None


def search(fit: Fit, binding: Binding, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Conditional modes (groups, random) at the fitted parameters, searched from zero, and the curvature there; NaN,
    with a warning that names the group, where a group of `which` (groups,) has none."""
    m, q = binding.data.n_groups, binding.density.n_effects
    if q == 0:
        return np.zeros((m, 0)), np.zeros((m, 0, 0))
    approximation = _approximation(fit)
    steps = ModeSearch() if approximation is None else approximation.search
    method = getattr(fit.estimator, "method", None)
    with x64():
        placed = _placed(fit, binding)
        if isinstance(method, Linearised):
            _, pieces = placed.run(_penalised, (on_device(fit.params), on_device(method)), once=True)
        else:
            _, pieces = placed.run(_search, (on_device(fit.params), on_device(steps), interaction(fit)), once=True)
        z, curvature, ok = (np.array(placed.own(parts)) for parts in zip(*pieces, strict=True))
    lost = which & ~ok
    if lost.any():
        names = some([str(label) for label in binding.data.labels[lost]])
        warnings.warn(f"the conditional mode of group {names} was not found; what rests on it is NaN.", stacklevel=5)
        z[lost], curvature[lost] = np.nan, np.nan
    return z, curvature


def _penalised(problem: Problem, at: tuple[Params, Linearised], _: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """As `_search`, by the penalised least squares of a linearised likelihood."""
    params, method = at
    zero = jnp.zeros(problem.density.n_effects)

    def one(group):
        found = linearised(method, problem.density, params, params, group, zero).result
        return found.mode, found.curvature, found.status == Status.ok

    return (), problem.map(one)


def _search(problem: Problem, at: tuple[Params, ModeSearch, bool], _: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    params, steps, interaction = at
    density = problem.density
    zero = jnp.zeros(density.n_effects)

    def one(group):
        at_zero = None if interaction else density.predict(params, zero, group)
        z, result = search_mode(steps, density, params, group, at_zero, zero)
        return z, exact(density, params, z, group, at_zero), result.converged & result.finite

    return (), problem.map(one)
