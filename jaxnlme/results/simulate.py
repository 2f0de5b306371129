"""Simulated responses, from a fit or by a pure function of parameters and key."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_flag, require_host
from jaxnlme.binding.bind import Binding
from jaxnlme.binding.endpoints import rows_of_no_endpoint
from jaxnlme.binding.limits import check_limits_known, response_leaves, with_limited_responses
from jaxnlme.binding.problem import Problem, check_problem
from jaxnlme.errors import ModelError, OptionError, check_whole_number, shown
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import GaussianError, GroupLogLikelihood
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.model.student_error import StudentError
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64
from jaxnlme.results.by_level import level_depth, up_to_depth
from jaxnlme.results.evaluate import binding_and_effects, compile_once, rebind, require_estimates, to_rows
from jaxnlme.results.settings import SIMULATION
from jaxnlme.signatures import public
from jaxnlme.typing import Vector

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def simulate(
    fit: FitRecord,
    n: int = 1,
    key: Any = 0,
    data: Any = None,
    level: str | int = "population",
    *,
    limits: bool = False,
) -> np.ndarray:
    """Responses drawn from the fitted model: new random effects for every group, new residuals for every row.

    **Arguments:** `n`, replicates; `key`, a seed or a JAX key; `data`, None for the fitted rows, or new ones as in
    `predict`; `level`: the random effects that are not drawn but those of the fit, named as in `predict`: "population",
    none; "Subject", those of subjects (responses of known subjects on new occasions); "group", all of them (only
    residuals are drawn). The random numbers of a group are a function of (key, replicate, label of the group): the
    order of groups, padding and the number of replicates do not change them. `limits`: apply the limits of
    quantification of each row: responses below its lower limit are returned as that limit, those above its upper one
    as that one, as they would be reported; False: the responses themselves (`data.with_response` applies the limits to
    them).
    **Returns:** (n, rows), in row order, also for rows whose response was missing.
    **Raises:** OptionError where `n` is not a whole number >= 1, `key` neither a seed nor a key, `limits` is True and a
    row has none, or for another `level`; ModelError where the outcome cannot be drawn (a group log-likelihood without
    `sampler`); FitError where the fit has no estimates; for new `data` errors of `predict`.
    """
    n = check_whole_number("n", n, 1, "the number of replicates")
    require_host("fit.simulate", key, data)
    require_estimates(fit)
    check_flag("limits", limits)
    depth = level_depth(fit.data, level)
    binding, modes = binding_and_effects(fit, data, level) if depth else (rebind(fit, data), None)
    check_sampler(binding.density)
    known = None if modes is None else (modes, up_to_depth(binding, np.ones_like(modes), depth) > 0)
    out = simulated_block(fit, binding, key, n, 0, n, known)
    if not np.isfinite(out).all():
        warnings.warn(
            f"{int(np.sum(~np.isfinite(out)))} of {out.size} simulated responses are not finite: their prediction "
            "is not, or a transformed response is outside the range of its transform.",
            stacklevel=2,
        )
    out[:, binding.data.rows_to_column(rows_of_no_endpoint(binding.data, binding.density.error))] = np.nan
    if limits:
        of_rows = check_limits_known(binding.data, "limits=True")
        lloq, uloq = (binding.data.rows_to_column(limit) for limit in (of_rows.lloq, of_rows.uloq))
        out = np.clip(out, lloq, uloq)
    return out


def simulated_block(
    fit: FitRecord, binding: Binding, key: Any, n: int, start: int, stop: int, known: Any = None
) -> np.ndarray:
    """Replicates `start` to `stop` - 1 (replicates, rows) of the `n` of `simulate` with the same `key`, some at a time
    in one compiled program, which all blocks of the `n` share.

    **Arguments:** `binding` of the rows; `known`: as in `simulate_replicates`.
    """
    chunk = min(n, max(SIMULATION.cells_per_call // max(binding.data.rows.size, 1), 1))
    out = np.empty((stop - start, binding.data.n_rows))
    with x64():
        replicates = compile_once(simulate_replicates, binding, chunk)
        problem, params, base = on_device(binding.problem), on_device(fit.params), as_key(key)
        known = on_device(known)
        drawn = None if fit.posterior is None else _posterior_draws(fit, binding, base, known, n + chunk)
        for first in range(start, stop, chunk):
            # The last call may draw more replicates than needed, so that no other size is compiled.
            which = jnp.arange(first, first + chunk)
            if drawn is not None:
                params, known = jax.tree.map(lambda leaf, which=which: leaf[which], drawn)
            pieces = replicates(problem, params, base, which, known)
            pieces = [np.asarray(piece) for piece in pieces]
            for k in range(min(chunk, stop - first)):
                out[first - start + k] = to_rows(binding, [piece[k] for piece in pieces])
    return out


def _posterior_draws(fit: FitRecord, binding: Binding, key: jax.Array, known: Any, n: int) -> tuple[Params, Any]:
    """Params (n, ...) of posterior draws, one for each replicate, and the effects `known` of each, for the fitted data
    those of the same draw."""
    posterior = fit.posterior
    assert posterior is not None
    chosen = posterior.choose(n, int(jax.random.randint(key, (), 0, 2**31 - 1)))
    packed = on_device(posterior.kept[chosen])
    template = on_device(fit.params)
    params = jax.vmap(lambda row: template.unpack(row))(packed)
    if known is None:
        return params, None
    modes, flags = known
    z = posterior.effects_at(chosen) if binding is fit.binding else None
    values = jnp.broadcast_to(modes, (n, *modes.shape)) if z is None else jnp.where(flags, on_device(z), 0.0)
    return params, (values, jnp.broadcast_to(flags, (n, *flags.shape)))


def simulate_replicates(
    problem: Problem, params: Params, key: jax.Array, replicates: jax.Array, known: Any = None
) -> list[jax.Array]:
    """Responses of several replicates, as a pure function; replicate r is that of `simulate` with the same key.

    **Arguments:** `problem`; `params`, for all replicates, or with a leading axis (k, ...) one for each; `key`, a JAX
    key; `replicates` (k,), numbers of the replicates; `known`: whitened effects (groups, random), and true for those
    that are not drawn (groups, random), with the leading axis where `params` have it; None: all are drawn.
    **Returns:** an array (k, groups, obs) per bucket.
    **Raises:** ModelError where the outcome cannot be drawn.
    """
    if params.beta.ndim == 2:
        return jax.vmap(lambda r, at, known: _responses(problem, at, jax.random.fold_in(key, r), known))(
            replicates, params, known
        )
    return jax.vmap(lambda r: _responses(problem, params, jax.random.fold_in(key, r), known))(replicates)


@public("jn.simulate_responses")
def simulate_responses(problem: Problem, params: Params, key: jax.Array) -> list[jax.Array]:
    """One draw of all responses, as a pure function for jit and vmap over keys or parameters.

    **Arguments:** `problem`; `params`; `key`, a JAX key, from which each group derives its own by its label.
    **Returns:** one array (groups, obs) per bucket of the problem, padded rows included; see `with_responses`.
    **Raises:** ModelError where the outcome cannot be drawn.

    **Example:**

    ```python
    jn.simulate_responses(fit.binding.problem, fit.params, jax.random.key(1))
    ```
    """
    check_problem(problem)
    return _responses(problem, params, key, None)


def _responses(problem: Problem, params: Params, key: jax.Array, known: Any) -> list[jax.Array]:
    """`simulate_responses` with some random effects `known`, as in `simulate_replicates`."""
    density = problem.density
    check_sampler(density)

    def per_group(group: Group, *known_of_group: Any) -> Vector:
        effects, noise = jax.random.split(jax.random.fold_in(key, group.key))
        z = draw_effects(density, effects, params.beta.dtype)
        if known_of_group:
            modes, is_known = known_of_group
            z = jnp.where(is_known, modes, z)
        f = density.predict(params, z, group)
        return draw(density, params, noise, f, group)

    return problem.map_buckets(per_group, *(() if known is None else known))


def draw_effects(density: Density, key: jax.Array, dtype: Any) -> Vector:
    """Standard normal effects (random,) of one group from a JAX `key`. Each unit of a nested level derives its own key,
    so that the units of other groups have no effect."""
    if density.levels is None:
        return jax.random.normal(key, (density.n_effects,), dtype)
    parts = []
    for level in density.levels.levels:
        of_level = jax.random.fold_in(key, level.depth)
        keys = jax.vmap(lambda unit, of_level=of_level: jax.random.fold_in(of_level, unit))(jnp.arange(level.units))
        shape = (len(level.effects),)
        parts.append(jax.vmap(lambda key, shape=shape: jax.random.normal(key, shape, dtype))(keys))
    return density.levels.join(parts)


def draw(density: Density, params: Params, key: jax.Array, prediction: Any, group: Group) -> Vector:
    """Responses (obs,) of one group.

    **Arguments:** `key`, a JAX key, from which each row derives its own, so that padding has no effect; `prediction`:
    f(phi, x, v) of the group.
    """
    error, theta = density.error_at(params), params.error
    rows = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(group.y.shape[0]))
    noise = jax.vmap(lambda row_key: jax.random.normal(row_key, (), theta.dtype))(rows)
    if not isinstance(error, EndpointErrors):
        return _draw(error, key, noise, prediction, theta, group)
    out, noise = group.y, error.color(noise, theta, group)
    for k, member in enumerate(error.members):
        own_key = jax.random.fold_in(key, SIMULATION.first_endpoint_key + k) if k else key
        f, of_member, of_group = error.prediction_of(prediction, k), error.of_member(theta, k), error.group_of(group, k)
        out = jnp.where(group.endpoints == k, _draw(member, own_key, noise, f, of_member, of_group), out)
    return out


def _draw(error: Any, key: jax.Array, noise: Vector, prediction: Any, theta: Vector, group: Group) -> Vector:
    """Responses (obs,) of one residual model, from a key or standard normal `noise` (obs,)."""
    if isinstance(error, GroupLogLikelihood):
        return error.sampler(key, prediction, error.natural(theta), group.x, group.v)  # pyright: ignore[reportOptionalCall]
    if isinstance(error, StudentError):
        rows = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row), 1))(jnp.arange(len(noise)))
        return error.draw_with_keys(noise, rows, prediction, theta, group)
    return error.draw(noise, prediction, theta, group)


@public("jn.with_responses")
def with_responses(problem: Problem, responses: list[Any]) -> Problem:
    """The problem with other values of its observed responses. Where rows have limits of quantification, responses
    beyond them are censored.

    A pure function: `jax.vmap(lambda ys: jn.estimate(None, params, with_responses(problem, ys)))(draws)` fits many sets
    of responses at once.

    **Arguments:** `responses`: one array (groups, obs) per bucket.
    **Returns:** a Problem.
    **Raises:** OptionError for another number of arrays.

    **Example:**

    ```python
    problem = fit.binding.problem
    jn.with_responses(problem, jn.simulate_responses(problem, fit.params, jax.random.key(1)))
    ```
    """
    check_problem(problem)
    if not isinstance(responses, (list, tuple)) or len(responses) != len(problem.buckets):
        raise OptionError(
            f"responses must be a list with one array for each of {len(problem.buckets)} buckets; received "
            f"{len(responses) if isinstance(responses, (list, tuple)) else type(responses).__name__}."
        )
    error = problem.density.error
    drawn = [with_limited_responses(error, b, y) for b, y in zip(problem.buckets, responses, strict=True)]
    return eqx.tree_at(response_leaves, problem, list(itertools.chain(*drawn)), is_leaf=lambda leaf: leaf is None)


def check_sampler(density: Density) -> None:
    """**Raises:** ModelError where the outcome cannot be drawn."""
    error = density.error
    for k, member in enumerate(error.members if isinstance(error, EndpointErrors) else (error,)):
        which = f"the outcome of endpoint {error.labels[k]!r}" if isinstance(error, EndpointErrors) else "this outcome"
        if isinstance(member, GroupLogLikelihood) and member.sampler is None:
            raise ModelError(
                f"{which} is given by its log-density only, and cannot be simulated; add a sampler: "
                "jn.GroupLogLikelihood(..., sampler=f) with f(key, f, p, x, v) returning responses (obs,)."
            )
        if not isinstance(member, (GaussianError, GroupLogLikelihood, StudentError)) and not hasattr(member, "draw"):
            raise ModelError(f"{type(member).__name__} has no method `draw`, so its responses cannot be simulated.")


def as_key(key: Any) -> jax.Array:
    """A JAX key from a seed, a typed key or a raw uint32 key (2,), inside the 64-bit context.

    **Raises:** OptionError for anything else.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, (jax.Array, np.ndarray)):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
            return jnp.asarray(key)
        if key.dtype == np.uint32 and key.ndim == 1:
            return jax.random.wrap_key_data(jnp.asarray(key))
    raise OptionError(f"key must be a whole number or one JAX key; received {shown(key)}.")
