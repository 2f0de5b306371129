"""Checks of the dry run at the starting values, which name what a fit would stumble over: parameters and random effects
that change nothing; predictions that are exactly zero beside responses that are; steady states that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.rows_of_groups import group_at, row_numbers, rows_in_words
from jaxnlme.binding.user_scale import with_error_values
from jaxnlme.errors import MESSAGES, ModelError, some
from jaxnlme.model.density import Group
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.censoring import uncensored
from jaxnlme.model.residual_error.correlation_matrices import Kernel

# Factor of the constant part of a residual scale, to see which rows depend on it only.
SMALLER = 1e-6


def check_effects(binding: Binding, start: Params, slopes: np.ndarray) -> None:
    """Check that every parameter and random effect changes some log-density; effects with a starting variance of zero
    are exempt.

    **Arguments:** `slopes` (packed + random,): the largest absolute derivatives over all groups and points.
    **Raises:** ModelError naming those whose derivatives are exactly zero.
    """
    density = binding.density
    p = len(binding.packed_names)
    without_effect = [name for k, name in enumerate(density.beta_names) if slopes[k] == 0.0 and not binding.fixed[k]]
    errors = [
        name
        for k, (name, q) in enumerate(zip(density.error_names, density.error.parameters, strict=True))
        if slopes[p - len(density.error.parameters) + k] == 0.0 and not q.fix
    ]
    # Effect k depends on the whitened effects whose entries in row k of the factor are not zero.
    factor = np.asarray(density.covariance.factor(np.asarray(start.covariance))) != 0.0
    has_slope = density.over_units(slopes[p : p + density.n_effects], np.max) != 0.0
    constant = [k for k in range(len(factor)) if factor[k].any() and not has_slope[factor[k]].any()]
    effects = [f"random effect of {density.effect_names[k]}" for k in constant]
    effects = [name for name in effects if name.removeprefix("random effect of ") not in without_effect]
    if without_effect or effects:
        limits = binding.data.limits
        if limits is not None and np.all(limits.kind[binding.data.observed] > 0):
            raise ModelError(
                "every response of the data is censored, and the probability of that is flat in "
                f"{', '.join([*without_effect, *effects])} at the starting values: check the limits of quantification "
                "(their unit?) and the column that marks censored rows, or choose other starting values."
            )
        raise ModelError(
            f"no effect on any prediction at the starting values: {', '.join([*without_effect, *effects])}. "
            "Either the model does not use it (misspelt?), or the prediction does not depend on it at these starting "
            "values; correct the model, fix the parameter (fix=True), or choose other starting values."
        )
    correlations = density.error.correlations()
    # A range far below the shortest lag has no slope at a start; these correlations do use their parameters.
    used = {k for correlation, entries, _ in correlations if not isinstance(correlation, Kernel) for k in entries}
    errors = [name for name in errors if density.error_names.index(name) not in used]
    if errors:
        of_correlation = {density.error_names[k] for _, entries, _ in correlations for k in entries}
        scale = [name for name in errors if name not in of_correlation]
        what = "the residual standard deviation" if scale else "the correlation of the residuals"
        raise ModelError(
            f"no effect on {what} at the starting values: {', '.join(scale or errors)}, declared by the residual "
            "model. Either its function does not use it (misspelt?), or does not depend on it at these starting "
            "values; correct the function, leave the parameter out, hold it by jn.fixed(...), or choose other "
            "starting values."
        )


def zeros_of(f: Any, residual: Any, group: Group, endpoints: Sequence[Any]) -> Any:
    """Numbers (endpoints, 2) of rows whose prediction is exactly zero: those whose residual is too, and others.

    **Arguments:** `f`, `residual` (obs,) of a group; `endpoints`: the rows (obs,) of each endpoint.
    """
    zero = uncensored(group) & (f == 0)
    exact = residual == 0
    return jnp.stack([jnp.stack([jnp.sum(rows & zero & exact), jnp.sum(rows & zero & ~exact)]) for rows in endpoints])


def check_exact_zeros(binding: Binding, start: Params, of_groups: np.ndarray, zeros: np.ndarray) -> None:
    """Check that the likelihood does not grow without bound as the constant part of a residual scale goes to zero.

    It does where some rows have a prediction and a response of exactly zero, whatever the parameters (levels before the
    first dose), no other rows have a prediction of zero, and their scale is the constant part only.

    **Arguments:** `of_groups` (groups, endpoints, 2), `zeros` (endpoints, 2): numbers of rows, as `zeros_of` gives, of
    the groups here and of all.
    **Raises:** ModelError with the rows.
    """
    density = binding.density
    unbounded = (zeros[:, 0] > 0) & (zeros[:, 1] == 0)
    parameters = zip(density.error_names, density.error.parameters, strict=True)
    constant = [n for n, p in parameters if p.name.partition("[")[0] == "a" and not p.fix]
    free = [name for name in constant if name not in density.prior_names]
    groups = np.flatnonzero((of_groups[:, unbounded, 0] > 0).any(axis=1))
    if not free or not len(groups):
        return
    theta = np.array(start.error, float)
    natural = dict(zip(density.error_names, np.asarray(density.error.natural(theta)), strict=True))
    numbers: list[int] = []
    others = False
    for index in groups[: MESSAGES.items].tolist():
        group = group_at(binding, index)
        f = density.predict(start, jnp.zeros(density.n_effects), group)
        residual, scale, _ = density.error_at(start).moments(f, f, start.error, group)
        known = np.asarray(uncensored(group))
        ratio = np.ones(known.shape)
        for name in free:
            smaller = with_error_values(density, theta, {name: SMALLER * natural[name]})
            reduced = np.asarray(density.error.moments(f, f, jnp.asarray(smaller), group)[1])
            ratio = ratio * np.divide(reduced, scale, out=np.ones(known.shape), where=np.asarray(scale) > 0)
        zero = known & (np.asarray(f) == 0) & (np.asarray(residual) == 0) & (ratio < SMALLER**0.5)
        others |= bool((known & (ratio > 0.5)).any())
        numbers += row_numbers(binding.data, index, zero)
    if numbers and others:
        rows = rows_in_words(sorted(numbers)) + (" and in other groups" if len(groups) > MESSAGES.items else "")
        raise ModelError(
            f"the likelihood has no maximum: response and prediction are exactly 0 in {rows} (before the first dose?), "
            f"and with the error model {density.error.formula} it grows without bound as {some(free)} goes to 0. Leave "
            f"these rows out, mark them as below the limit of quantification, or hold {free[0]} fixed "
            f"(fixed={{{free[0]!r}: ...}})."
        )


def check_steady_states(binding: Binding, start: Params, finite: np.ndarray) -> None:
    """Find the reason why predictions of steady states are not finite: computed outside of a compiled program, a model
    of dose records names it.

    **Arguments:** `finite` (groups,): false where the likelihood is not finite.
    **Raises:** ModelError with the group and the reason, where there is one.
    """
    data, density = binding.data, binding.density
    if data.events is None or not data.events.facts.steady_state:
        return
    for index in np.flatnonzero(~finite)[: MESSAGES.items].tolist():
        try:
            density.predict(start, jnp.zeros(density.n_effects), group_at(binding, index))
        except ModelError as error:
            raise ModelError(f"group {data.labels[index]!r}: {error}") from error
