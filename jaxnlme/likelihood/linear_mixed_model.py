"""The linear mixed model of one group: likelihood, score and information, a linearisation held.

With J the Jacobian of the transformed mean h(f) in coordinates u = A beta + B b, e = h(y) - h(f), W = S^-2 and
t = A (beta - beta0) - B b0 for a linearisation at (beta0, b0),

    e ~ N(J t, S^2 + J B psi B' J'),        psi = L L',  Z = B L.

With the sums M = J' W J and c = J' W e over rows the rest is small algebra, written out:

    H = I + Z' M Z,    z = H^-1 Z' (c - M t),    w = t + Z z,    s = c - M w,    P = Z H^-1 Z'
    log p       logs - (|e - J w|^2 + |z|^2) / 2 - log|H| / 2,  rows weighted
    in beta     A' s,         in L   B' (s z' - M Z H^-1)
    in rows     of logs - |e - J w|^2 / 2 - J P J' / 2,  w and P held
    X' V^-1 X   A' Q A,  Q = M - M P M,   with derivatives  -(B' Q A)' dpsi (B' Q A)  and  D' dM D,  D = (I - P M) A.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.one_pass import factor_pattern
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.linalg import cholesky, cholesky_solve, half_logdet
from jaxnlme.numerics.written_out import Entries, added, as_matrix, as_vector, column, product, symmetric, transposed


class Tangent(eqx.Module):
    """A group linearised: `prediction` (obs,) f at (beta0, b0); `slopes`, its derivatives (obs,) in the coordinates u;
    `fixed`, `random`, A and B as Entries; `beta`, `b`, where."""

    prediction: Any
    slopes: list[Any]
    fixed: Entries
    random: Entries
    beta: Any
    b: Any


class Mixed(eqx.Module):
    """What the mixed model says of one group: `value`, log p(y); `score`, its gradient in (beta, covariance, error);
    `hessian` H (random, random); `information` (fixed, fixed), X' V^-1 X; and, None unless asked for, what makes its
    derivatives: `crossed` (random, random, fixed, fixed), products of the entries of B' Q A, and `bent`
    (error, fixed, fixed), derivatives in the error parameters."""

    value: Any
    score: Any
    hessian: Any
    information: Any
    crossed: Any
    bent: Any


def mixed(density: Density, tangent: Tangent, params: Params, group: Group, with_slopes: bool) -> Mixed:
    """The linear mixed model of one group at `params`."""
    p, q, dtype = params.beta.shape[0], density.n_effects, params.beta.dtype
    slopes, fixed, random = tangent.slopes, tangent.fixed, tangent.random
    axes, error = range(len(slopes)), params.error

    def rows(error):
        """Residual, precision W, what f weighs with it as J does, and the log terms of each row."""

        def residual(f):
            residual, scale, slope = density.error.moments(f, tangent.prediction, error, group)
            return residual, (scale, slope)

        f = tangent.prediction
        e, bent, (scale, slope) = jax.jvp(residual, (f,), (jnp.ones_like(f),), has_aux=True)
        logs = jnp.where(group.x.observed, slope - HALF_LOG_2PI - jnp.log(scale), 0.0)
        return e, 1.0 / scale**2, -bent, logs

    e, precision, lean, logs = barrier(rows(error))
    weighted = [lean**2 * precision * one for one in slopes]
    m = symmetric([[jnp.sum(weighted[j] * slopes[k]) for k in range(j + 1)] for j in axes])
    pull = lean * precision * e
    c = column([jnp.sum(pull * one) for one in slopes])

    moved = product(fixed, column([params.beta[k] - tangent.beta[k] for k in range(p)]))
    t = added(moved, product(random, column([-tangent.b[k] for k in range(q)])))
    pattern: list[tuple[int, int]] = []
    spread: Entries = {}  # Z
    if q:
        factor = density.covariance.factor(params.covariance)
        pattern = factor_pattern(density.covariance, params.covariance.shape[0])
        spread = product(random, {place: factor[place] for place in pattern})
    across = transposed(spread)
    mz = product(m, spread)
    hessian = jnp.eye(q) + as_matrix(product(across, mz), q, dtype)
    lower = cholesky(hessian)
    right = as_vector(product(across, _minus(c, product(m, t))), q, dtype)
    z = cholesky_solve(lower, right) if q else right
    w = added(t, product(spread, column([z[k] for k in range(q)])))
    s = _minus(c, product(m, w))
    # The penalised sum of squares: differences of the sums above would lose it where f is far off.
    along = sum((w[k, 0] * slopes[k] for k in axes if (k, 0) in w), jnp.zeros_like(e))
    quadratic = jnp.sum(precision * (e - lean * along) ** 2) + jnp.sum(z**2)
    value = jnp.sum(logs) - 0.5 * quadratic - half_logdet(lower)

    inverse = [cholesky_solve(lower, jnp.asarray(axis, dtype)) for axis in np.eye(q)]
    shaped = product(spread, {(i, j): inverse[j][i] for i in range(q) for j in range(q)})  # Z H^-1
    shrunk = product(shaped, across)  # P
    score = [as_vector(product(transposed(fixed), s), p, dtype)]
    if q:
        in_z = _minus(product(s, {(0, k): z[k] for k in range(q)}), product(m, shaped))
        in_factor, zero = product(transposed(random), in_z), jnp.zeros((), dtype)
        entries = jnp.stack([in_factor.get(place, zero) for place in pattern])
        places = tuple(np.array(pattern).T)
        score.append(entries @ jax.jacfwd(density.covariance.factor)(params.covariance)[places])
    if error.shape[0]:
        left = sum(value * slopes[i] * slopes[j] for (i, j), value in shrunk.items())

        def terms(error):
            e, precision, lean, logs = rows(error)
            return jnp.sum(logs - 0.5 * precision * ((e - lean * along) ** 2 + lean**2 * left))

        score.append(jax.grad(terms)(error))

    mp = product(m, shrunk)
    remaining = _minus(m, product(mp, m))  # Q
    qa = product(remaining, fixed)
    information = as_matrix(product(transposed(fixed), qa), p, dtype)
    crossed, bent = None, None
    if with_slopes:
        told = as_matrix(product(transposed(random), qa), q, dtype, p)
        crossed = told[:, None, :, None] * told[None, :, None, :]
        d = _minus(fixed, product(product(shrunk, m), fixed))
        columns = [sum((d[j, k] * slopes[j] for j in axes if (j, k) in d), jnp.zeros_like(e)) for k in range(p)]
        moves = jax.jacfwd(lambda error: rows(error)[1] * rows(error)[2] ** 2)(error)  # (obs, error)
        bent = jnp.stack([jnp.stack([jnp.sum(moves * (a * b)[:, None], axis=0) for b in columns]) for a in columns])
        bent = jnp.moveaxis(bent, -1, 0)
    return Mixed(value, jnp.concatenate(score), hessian, information, crossed, bent)


def _minus(a: Entries, b: Entries) -> Entries:
    return added(a, {place: -value for place, value in b.items()})
