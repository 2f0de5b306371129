"""Complete-data sufficient statistics of a mixed model, and the expected complete log-likelihood as their function.

Given the individual effects xi_i ~ N(C_i beta, psi) (see `model/centring.py`) and the predictions, the complete
log-likelihood of the carried coefficients, psi and a residual scale s with R = s s_0(f) is, up to a constant,

    Q = -w log|L| - tr(psi^-1 R) / 2 - sum_l (n_l log s_l + S_l / (2 s_l^2)),
    R = sum_i w_i (xi_i - C_i beta)(xi_i - C_i beta)',

linear in the statistics sum w, sum w xi xi', sum w c xi', sum w c c', sum w n_l and S_l, the sums of squares of
residuals over s_0, stratum by stratum.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import some
from jaxnlme.model.centring import Centring, centring
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import AbstractError, GaussianError
from jaxnlme.model.residual_error.families import _constant, _proportional
from jaxnlme.model.transforms import Log
from jaxnlme.numerics.devices import Processes
from jaxnlme.numerics.linalg import cholesky, cholesky_inverse, cholesky_solve, half_logdet, times
from jaxnlme.typing import Matrix, Scalar, Vector


class Statistics(eqx.Module):
    """`weight` (); `second` (random, random), xi xi'; `cross` (carried, random), c xi'; `gram` (carried, carried),
    c c'; `counts`, `squares` (strata,): observations, and squared residuals over s_0."""

    weight: Any
    second: Any
    cross: Any
    gram: Any
    counts: Any
    squares: Any


class ParameterLayout(eqx.Module):
    """Where the M-step finds each packed entry: by closed form, by Newton steps on Q (`statistical`), or by stochastic
    Newton steps on the complete scores of the outcome (`scored`); the packed indices of each (tuples), entries that are
    fixed left out. `strata`: residual scales with a closed form; 0 where the error has none. `closed_beta`,
    `closed_psi`, `closed_error`: whether these are updated by closed forms. `whitened`: whether chains hold z itself
    instead of xi; then `rows`, the effects whose xi the scores are taken at all the same, the `columns` of psi's factor
    that turn as many coordinates of z into these, and `anchor`, what they carry."""

    centring: Centring
    beta: int = eqx.field(static=True)
    covariance: int = eqx.field(static=True)
    error: int = eqx.field(static=True)
    strata: int = eqx.field(static=True)
    free: tuple[bool, ...] = eqx.field(static=True)
    closed_beta: bool = eqx.field(static=True)
    closed_psi: bool = eqx.field(static=True)
    closed_error: bool = eqx.field(static=True)
    statistical: tuple[int, ...] = eqx.field(static=True)
    scored: tuple[int, ...] = eqx.field(static=True)
    whitened: bool = eqx.field(static=True, default=False)
    rows: tuple[int, ...] = eqx.field(static=True, default=())
    columns: tuple[int, ...] = eqx.field(static=True, default=())
    anchor: Centring = Centring((), 0)

    @property
    def n(self) -> int:
        return self.beta + self.covariance + self.error

    def theta(self, packed: Any) -> Any:
        """The entries of psi (covariance,) of `packed` (packed,)."""
        return packed[self.beta : self.beta + self.covariance]

    @property
    def curved(self) -> tuple[int, ...]:
        """The entries whose second derivatives the outcome is asked for: those `scored`, and after them residual scales
        with a closed form, whose derivatives along the former no statistic holds."""
        first = self.beta + self.covariance
        return self.scored + tuple(range(first, self.n)) if self.scored and self.strata else self.scored


def layout(binding: Binding, m_step: str, processes: Processes | None = None) -> ParameterLayout:
    """Which M-step each parameter of a model takes.

    **Arguments:** `m_step`: "auto" for closed forms where they exist, "gradient" for none. Priors leave none either.
    `processes`: several, each with its own groups, agree on what holds in all of them.
    """
    density = binding.density
    by_bucket = zip(*(bucket.covariates for bucket in binding.problem.buckets), strict=True)
    columns = [[np.asarray(piece) for piece in column] for column in by_bucket]
    centres = centring(density.individual, density.n_effects, columns)
    if processes is not None:
        # Columns that happen to be the same in the groups of one process may differ in another's.
        found = processes.everyone(centres.terms)
        centres = Centring(tuple(term for term in found[0] if all(term in own for own in found)), centres.effects)
    p, c, e = len(density.beta_names), density.covariance.n_unconstrained, len(density.error_names)
    free = ~np.asarray(binding.fixed, bool)
    closed = m_step == "auto" and not density.priors
    strata = n_strata(density.error) if closed else 0
    closed_psi = closed and density.covariance.has_closed_form
    moves = [k for k in range(p + c + e) if free[k]]
    carried = set(centres.carried.tolist())
    statistical = [k for k in moves if (k in carried and not closed) or (p <= k < p + c and not closed_psi)]
    scored = [k for k in moves if (k < p and k not in carried) or (k >= p + c and not strata)]
    return ParameterLayout(
        centres,
        p,
        c,
        e,
        strata,
        tuple(free.tolist()),
        closed and any(free[k] for k in carried),
        closed_psi and bool(free[p : p + c].any()),
        bool(strata) and bool(free[p + c :].any()),
        tuple(statistical),
        tuple(scored),
    )


def whitened(
    layout: ParameterLayout, held: frozenset[int], rows: tuple[int, ...], columns: tuple[int, ...]
) -> ParameterLayout:
    """The Layout of chains that hold z, for psi at the edge of what it can be or near to it: no statistic is needed,
    and every entry but those `held` is scored, at fixed xi of the effects `rows`, which takes the place of as many
    coordinates of z, the `columns`, and at fixed z in the others."""
    free = tuple(own and k not in held for k, own in enumerate(layout.free))
    scored = tuple(k for k, own in enumerate(free) if own)
    q, terms = layout.centring.effects, layout.centring.terms
    anchor = Centring(tuple(term for term in terms if term[1] in rows), q)
    return ParameterLayout(
        Centring((), q), layout.beta, layout.covariance, layout.error, 0, free,
        False, False, False, (), scored, True, rows, columns, anchor,
    )  # fmt: skip


def n_strata(error: AbstractError) -> int:
    """How many residual scales have a closed form: those of s s_0(f) with one scale a stratum, 0 for other errors."""
    if not isinstance(error, GaussianError) or error.n_shape or error.scale not in (_constant, _proportional):
        return 0
    if any(not isinstance(p.transform, Log) for p in error.parameters) or len({p.fix for p in error.parameters}) > 1:
        return 0
    return len(error.parameters)


def of_error(layout: ParameterLayout, density: Density, params: Params, f: Any, group: Group) -> tuple[Vector, Vector]:
    """`counts` and `squares` (strata,) of one group at the predictions f."""
    if not layout.strata:
        return jnp.zeros((0,)), jnp.zeros((0,))
    residual, scale, _ = density.error.moments(f, f, params.error, group)
    seen = group.x.observed
    square = jnp.where(seen, (residual / scale) ** 2, 0.0)
    level = jnp.exp(params.error)
    if layout.strata == 1:
        return jnp.sum(seen)[None].astype(square.dtype), jnp.sum(square)[None] * level**2
    own = (group.strata[:, None] == np.arange(layout.strata)[None, :]) & seen[:, None]
    return jnp.sum(own, axis=0).astype(square.dtype), jnp.sum(jnp.where(own, square[:, None], 0.0), axis=0) * level**2


def of_effects(coefficients: Vector, xi: Vector, counts: Vector, squares: Vector) -> Statistics:
    """The statistics of one group's xi (random,), without its weight."""
    return Statistics(
        jnp.ones((), xi.dtype),
        xi[:, None] * xi[None, :],
        coefficients[:, None] * xi[None, :],
        coefficients[:, None] * coefficients[None, :],
        counts,
        squares,
    )


def moment(layout: ParameterLayout, beta: Vector, stats: Statistics) -> Matrix:
    """R (random, random), the second moment of xi about C beta, summed."""
    spread = layout.centring.spread(beta)
    mixed = stats.cross.T @ spread
    return stats.second - mixed - mixed.T + spread.T @ stats.gram @ spread


def expected(layout: ParameterLayout, density: Density, template: Params, packed: Vector, stats: Statistics) -> Scalar:
    """Q of the statistics at a packed vector, the outcome's part where it has a closed form."""
    params = template.unpack(packed)
    value = jnp.zeros((), packed.dtype)
    if density.n_effects and not layout.whitened:
        lower = cholesky(density.covariance.psi(params.covariance))
        r = moment(layout, params.beta, stats)
        inverse = jax.vmap(lambda column: cholesky_solve(lower, column))(r.T)
        value = value - stats.weight * half_logdet(lower) - 0.5 * jnp.trace(inverse)
    if layout.strata:
        level = params.error
        value = value - jnp.sum(stats.counts * level + 0.5 * stats.squares * jnp.exp(-2.0 * level))
    return value


class Scores(eqx.Module):
    """What turns one draw into its complete score, the same for all groups: `psi_inverse`, `bends` (covariance,
    random, random), half the derivatives of psi, and `constants` (covariance,), half of tr(psi^-1 dpsi)."""

    psi_inverse: Any
    bends: Any
    constants: Any


def scores_at(layout: ParameterLayout, density: Density, params: Params) -> Scores:
    """The Scores at params."""
    q, n = density.n_effects, params.covariance.shape[0]
    if not q or layout.whitened:
        empty = jnp.zeros((0, 0))
        return Scores(empty, jnp.zeros((n, 0, 0)), jnp.zeros((n,)))
    inverse = cholesky_inverse(cholesky(density.covariance.psi(params.covariance)))
    bends = 0.5 * jnp.moveaxis(jax.jacfwd(density.covariance.psi)(params.covariance), -1, 0)
    return Scores(inverse, bends, jnp.sum(bends * inverse[None], axis=(1, 2)))


def score(
    layout: ParameterLayout,
    at: Scores,
    params: Params,
    coefficients: Vector,
    b: Vector,
    counts: Vector,
    squares: Vector,
) -> Vector:
    """The complete score (packed,) of one draw of b (random,), zero in the entries that are `scored`."""
    if layout.whitened:
        return jnp.zeros((layout.n,), b.dtype)
    pull = times(at.psi_inverse, b)
    beta: list[Any] = [jnp.zeros((), b.dtype)] * layout.beta
    for row, (k, effect, _, _) in enumerate(layout.centring.terms):
        beta[k] = coefficients[row] * pull[effect]
    parts = [jnp.stack(beta)] if beta else []
    if layout.covariance:
        outer = pull[:, None] * pull[None, :]
        parts.append(jnp.sum(at.bends * outer[None, :, :], axis=(1, 2)) - at.constants)
    if layout.strata:
        parts.append(squares * jnp.exp(-2.0 * params.error) - counts)
    elif layout.error:
        parts.append(jnp.zeros((layout.error,), b.dtype))
    return jnp.concatenate(parts)


def outcome_density(
    layout: ParameterLayout, density: Density, params: Params, z: Vector, group: Group, entries: Vector
) -> Scalar:
    """log p(y | xi) of one group as a function of the packed `entries` at `layout.curved`, b held where it is at
    `params`. Of a `whitened` layout log p(y, xi), the xi of the effects in `layout.rows` held."""
    moved = params.unpack(params.pack().at[np.array(layout.curved, int)].set(entries))
    if not layout.whitened:
        return given_effects(density, moved, jax.lax.stop_gradient(density.effects(params, z)), group)
    rows, columns = np.array(layout.rows, int), np.array(layout.columns, int)
    others = np.setdiff1d(np.arange(density.n_effects), columns)
    coefficients = layout.anchor.coefficients(group)

    def at(params):
        factor = density.covariance.factor(params.covariance)
        mean = layout.anchor.mean(params.beta, coefficients)[rows]
        return mean + times(factor[np.ix_(rows, others)], z[others]), factor[np.ix_(rows, columns)]

    (mean, lower), (there, factor) = at(params), at(moved)
    xi = jax.lax.stop_gradient(mean + times(lower, z[columns]))
    own = times(factor.T, cholesky_inverse(cholesky(times(factor, factor.T))))
    white = times(own, xi - there)
    b = density.effects(moved, z.at[columns].set(white))
    steep = half_logdet(cholesky(times(factor, factor.T)))
    return given_effects(density, moved, b, group) - steep - 0.5 * jnp.sum(white**2)


def given_effects(density: Density, params: Params, b: Vector, group: Group) -> Scalar:
    """log p(y | b) of one group."""
    phi = density.individual.phi(params.beta, b, group)
    f = density.structural(params.free, phi, group.x, group.v)
    return density.error.log_density(f, f, params.error, group)


def weighted(weight: Scalar, stats: Any) -> Any:
    """A group's share of the sums; nothing of a group of weight zero, whatever it holds."""
    return jax.tree.map(lambda leaf: jnp.where(weight == 0, 0.0, weight * leaf), stats)


def blended(old: Any, new: Any, gain: Scalar) -> Any:
    """old + gain (new - old), leaf by leaf: a stochastic approximation."""
    return jax.tree.map(lambda a, b: a + gain * (b - a), old, new)


def in_words(layout: ParameterLayout, binding: Binding) -> str:
    """How each parameter is maximised, for the summary."""
    names = binding.packed_names
    carried = layout.centring.carried.tolist() if layout.closed_beta else []
    closed = [names[k] for k in carried if layout.free[k]]
    closed += ["psi"] if layout.closed_psi else []
    first = layout.beta + layout.covariance
    closed += [names[k] for k in range(first, layout.n) if layout.closed_error and layout.free[k]]
    parts = [f"closed form for {some(closed, 8)}"] if closed else []
    if layout.statistical:
        parts.append(f"Newton steps for {some([names[k] for k in layout.statistical], 8)}")
    if layout.scored:
        parts.append(f"stochastic Newton steps for {some([names[k] for k in layout.scored], 8)}")
    return "; ".join(parts) or "nothing to maximise"
