"""The linear mixed model of one group for a given linearisation: likelihood, score and information.

With J the Jacobian of the transformed mean h(f) in coordinates u = A beta + B b, e = h(y) - h(f), R = S C S, W = R^-1
= F' F (F = T S^-1 with the factor T of the correlation C) and t = A (beta - beta0) - B b0 for a linearisation at
(beta0, b0),

    e ~ N(J t, R + J B psi B' J'),        psi = L L',  Z = B L.

With the whitened rows F J and F e, M = J' W J and c = J' W e, everything else is algebra of small matrices:

    H = I + Z' M Z,    z = H^-1 Z' (c - M t),    w = t + Z z,    s = c - M w,    P = Z H^-1 Z'
    log p       logs - (|F (e - J w)|^2 + |z|^2) / 2 - log|H| / 2
    in beta     A' s,         in L   B' (s z' - M Z H^-1)
    in error parameters   of logs - |F (e - J w)|^2 / 2 - tr(F J P J' F') / 2 with w and P constant
    X' V^-1 X   A' Q A,  Q = M - M P M,   with derivatives  -(B' Q A)' dpsi (B' Q A)  and  D' dM D,  D = (I - P M) A.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.covariance.base import factor_pattern
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.linalg import backward_solve, cholesky, cholesky_solve, half_logdet
from jaxnlme.numerics.written_out import Entries, added, as_matrix, as_vector, column, product, symmetric, transposed
from jaxnlme.typing import Vector


class Tangent(eqx.Module):
    """A group linearised at (beta0, b0).

    **Fields:** `prediction` (obs,): f there; `slopes`: its derivatives (obs,) in each of the coordinates u; `fixed`,
    `random`: A and B by entries; `beta` (fixed,), `b` (random,): beta0 and b0.
    """

    prediction: Any
    slopes: list[Any]
    fixed: Entries
    random: Entries
    beta: Any
    b: Any


class LinearMixedResult(eqx.Module):
    """Likelihood, score and information of one group in the linear mixed model.

    **Fields:** `value`: log p(y); `score` (packed,): its gradient in (beta, covariance, error); `hessian` (random,
    random): H; `information` (fixed, fixed): X' V^-1 X; and, None unless requested, for the derivatives of the
    information: `cross_products` (random, random, fixed, fixed), products of the entries of B' Q A, for those in psi;
    `information_slopes` (error, fixed, fixed), those in the error parameters.
    """

    value: Any
    score: Any
    hessian: Any
    information: Any
    cross_products: Any
    information_slopes: Any


def linear_mixed_model(
    density: Density, tangent: Tangent, params: Params, group: Group, with_slopes: bool
) -> LinearMixedResult:
    """Likelihood, score and information of one group at `params`, for a linearisation that is held constant.

    **Arguments:** `tangent`: the linearised group; `with_slopes`: compute what the derivatives of the information need.
    """
    p, q, dtype = params.beta.shape[0], density.n_effects, params.beta.dtype
    slopes, fixed, random = tangent.slopes, tangent.fixed, tangent.random
    e, columns, logs = barrier(whitened_rows(density, tangent, group, params.error, slopes))
    m, c = _sums_over_rows(columns, e)
    t = _deviation(tangent, params, q)
    pattern, z_matrix = _scaled_design(density, random, params)  # Z
    z_transposed = transposed(z_matrix)
    mz = product(m, z_matrix)
    hessian = jnp.eye(q) + as_matrix(product(z_transposed, mz), q, dtype)
    lower = cholesky(hessian)
    right = as_vector(product(z_transposed, _minus(c, product(m, t))), q, dtype)
    z = cholesky_solve(lower, right) if q else right
    w = added(t, product(z_matrix, column([z[k] for k in range(q)])))
    s = _minus(c, product(m, w))
    # The penalised sum of squares, from its rows: differences of the sums above cancel where f is far from y.
    fitted = _combined(columns, w, 0)
    value = logs - 0.5 * (jnp.sum((e - fitted) ** 2) + jnp.sum(z**2)) - half_logdet(lower)

    inverse = [cholesky_solve(lower, jnp.asarray(axis, dtype)) for axis in np.eye(q)]
    z_h_inverse = product(z_matrix, {(i, j): inverse[j][i] for i in range(q) for j in range(q)})  # Z H^-1
    p_matrix = product(z_h_inverse, z_transposed)  # P
    score = [as_vector(product(transposed(fixed), s), p, dtype)]
    if q:
        in_z_matrix = _minus(product(s, {(0, k): z[k] for k in range(q)}), product(m, z_h_inverse))
        score.append(_covariance_score(density, params, product(transposed(random), in_z_matrix), pattern))
    if params.error.shape[0]:
        # P = V V' with V = Z K, K K' = H^-1
        root = [backward_solve(lower, jnp.asarray(axis, dtype)) for axis in np.eye(q)]
        v = product(z_matrix, {(i, j): root[j][i] for i in range(q) for j in range(q)})
        parts = [_combined(slopes, w, 0), *(_combined(slopes, v, k) for k in range(q))]
        score.append(error_score(density, tangent, group, params.error, parts))

    q_matrix = _minus(m, product(product(m, p_matrix), m))  # Q
    qa = product(q_matrix, fixed)
    information = as_matrix(product(transposed(fixed), qa), p, dtype)
    cross_products, information_slopes = None, None
    if with_slopes:
        bqa = as_matrix(product(transposed(random), qa), q, dtype, p)  # B' Q A
        cross_products = bqa[:, None, :, None] * bqa[None, :, None, :]
        d = _minus(fixed, product(product(p_matrix, m), fixed))
        parts = [_combined(slopes, d, k) for k in range(p)]
        information_slopes = slopes_of_information(density, tangent, group, params, parts)
    return LinearMixedResult(value, jnp.concatenate(score), hessian, information, cross_products, information_slopes)


def whitened_rows(
    density: Density, tangent: Any, group: Group, error: Vector, vectors: list[Vector]
) -> tuple[Vector, list[Vector], Any]:
    """F e (obs,) of the residuals e; F D v (obs,) of `vectors` v, changes of the prediction, with D = -de/df; and the
    sum of the log terms of the density."""

    def residual(f):
        residual, scale, slope = density.error.moments(f, tangent.prediction, error, group)
        return residual, (scale, slope)

    f = tangent.prediction
    e, residual_slope, (scale, slope) = jax.jvp(residual, (f,), (jnp.ones_like(f),), has_aux=True)
    factor = density.error.factor(error, group)
    logs = jnp.sum(jnp.where(group.x.observed, slope - HALF_LOG_2PI - jnp.log(scale), 0.0)) - factor.half_logdet
    weight = -residual_slope / scale
    return factor.whiten(e / scale), [factor.whiten(weight * v) for v in vectors], logs


def _combined(columns: list[Any], matrix: Entries, k: int) -> Vector:
    """The product (obs,) of `columns`, each (obs,), with column `k` of `matrix`."""
    terms = (matrix[j, k] * columns[j] for j in range(len(columns)) if (j, k) in matrix)
    return sum(terms, jnp.zeros_like(columns[0]))


def _sums_over_rows(columns: list[Any], e: Vector) -> tuple[Entries, Entries]:
    """M = J' W J and c = J' W e, from the whitened columns of J and residuals."""
    m = symmetric([[jnp.sum(columns[j] * columns[k]) for k in range(j + 1)] for j in range(len(columns))])
    return m, column([jnp.sum(e * column_u) for column_u in columns])


def _deviation(tangent: Tangent, params: Params, q: int) -> Entries:
    """t = A (beta - beta0) - B b0, for `q` random effects."""
    p = params.beta.shape[0]
    fixed_shift = product(tangent.fixed, column([params.beta[k] - tangent.beta[k] for k in range(p)]))
    return added(fixed_shift, product(tangent.random, column([-tangent.b[k] for k in range(q)])))


def _scaled_design(density: Density, random: Entries, params: Params) -> tuple[list[tuple[int, int]], Entries]:
    """The entries of L that are not zero by structure, and Z = B L; both empty without random effects."""
    if not density.n_effects:
        return [], {}
    factor = density.covariance.factor(params.covariance)
    pattern = factor_pattern(density.covariance, params.covariance.shape[0])
    return pattern, product(random, {entry: factor[entry] for entry in pattern})


def _covariance_score(density: Density, params: Params, in_factor: Entries, pattern: list[tuple[int, int]]) -> Vector:
    """Gradient in the covariance parameters, from that in the entries of L, `in_factor`; those outside the `pattern`
    are zero by structure."""
    zero = jnp.zeros((), params.beta.dtype)
    entries = jnp.stack([in_factor.get(entry, zero) for entry in pattern])
    positions = tuple(np.array(pattern).T)
    return entries @ jax.jacfwd(density.covariance.factor)(params.covariance)[positions]


def error_score(density: Density, tangent: Any, group: Group, error: Vector, parts: list[Vector]) -> Vector:
    """Gradient in the error parameters, with w and P constant; `parts`: J w, and the columns of J V, P = V V'."""

    def terms(error):
        e, (fitted, *others), logs = whitened_rows(density, tangent, group, error, parts)
        return logs - 0.5 * jnp.sum(sum(((part**2) for part in others), (e - fitted) ** 2))

    return jax.grad(terms)(error)


def slopes_of_information(density: Density, tangent: Any, group: Group, params: Params, parts: list[Vector]) -> Any:
    """D' dM D (error, fixed, fixed), the derivatives of the information in the error parameters; `parts`: the columns
    of J D."""

    def gram(error):
        _, columns, _ = whitened_rows(density, tangent, group, error, parts)
        return jnp.stack([jnp.stack([jnp.sum(a * b) for b in columns]) for a in columns])

    return jnp.moveaxis(jax.jacfwd(gram)(params.error), -1, 0)


def _minus(a: Entries, b: Entries) -> Entries:
    return added(a, {entry: -value for entry, value in b.items()})
