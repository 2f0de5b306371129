"""The exact likelihood of saemix's yield example, whose kink makes Gauss-Hermite quadrature inaccurate.

    y = Ymax + slope min(dose - Xmax, 0) + a e

is linear in Ymax and slope, so that their effects integrate out in closed form given Xmax; over Xmax a group's
likelihood is one integral of a function with kinks at the doses. It has several modes there, which quadrature about one
of them misses: with 9, 18 and 36 nodes an effect the maximum of -2 log L is 406.892, 406.886 and 406.862.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import jaxnlme as jn

POINTS, REACH = 40, 9.0  # of a Gauss-Legendre rule between two kinks; the ends, in standard deviations of Xmax


@functools.partial(jax.jit, static_argnames="points")
def minus_two_log_likelihood(problem: jn.Problem, params: jn.Params, kinks: np.ndarray, points: int = POINTS) -> Any:
    """-2 log L of the diagonal model with effects on Ymax, Xmax and slope, in this order.

    The integral over Xmax is taken piece by piece between the doses `kinks`, ascending: the pieces move with the
    parameters, so that its derivatives are those of a smooth function. Every likelihood N(y; X beta, X psi X' + a^2 I),
    X (obs, 2), goes by its 2 x 2 Cholesky factor (Woodbury).
    """
    sd = jnp.diag(problem.density.covariance.factor(params.covariance))
    a = jnp.exp(params.error[0])
    inner = jnp.clip((kinks - params.beta[1]) / sd[1], -REACH, REACH)
    ends = jnp.concatenate([jnp.array([-REACH]), inner, jnp.array([REACH])])
    at, weights = (jnp.asarray(part) for part in np.polynomial.legendre.leggauss(points))
    half = 0.5 * jnp.diff(ends)
    nodes = (0.5 * (ends[1:] + ends[:-1])[:, None] + jnp.outer(half, at)).ravel()
    pieces = jnp.outer(half, weights).ravel()
    log_weights = jnp.where(pieces > 0.0, jnp.log(jnp.where(pieces > 0.0, pieces, 1.0)), -jnp.inf)
    log_weights = log_weights - 0.5 * nodes**2 - 0.5 * jnp.log(2.0 * jnp.pi)
    scales, centre = jnp.stack([sd[0], sd[2]]), jnp.stack([params.beta[0], params.beta[2]])

    def conditional_log_density(u, y, dose, observed):
        ramp = jnp.minimum(dose - params.beta[1] - sd[1] * u, 0.0)
        design = jnp.where(observed[:, None], jnp.stack([jnp.ones_like(ramp), ramp], axis=1), 0.0)
        residual = jnp.where(observed, y - design @ centre, 0.0) / a
        loaded = design * jnp.broadcast_to(scales, design.shape) / a
        factor = jnp.linalg.cholesky(jnp.eye(2) + loaded.T @ loaded)
        explained = jax.scipy.linalg.solve_triangular(factor, loaded.T @ residual, lower=True)
        determinant = jnp.sum(jnp.log(jnp.diag(factor))) + jnp.sum(observed) * jnp.log(a * jnp.sqrt(2.0 * jnp.pi))
        return -0.5 * (jnp.sum(residual**2) - jnp.sum(explained**2)) - determinant

    def group(data, _):
        values = jax.vmap(lambda u: conditional_log_density(u, data.y, data.x.dose, data.x.observed))(nodes)
        return jax.scipy.special.logsumexp(values + log_weights)

    return -2.0 * jnp.sum(problem.map(group, jnp.zeros(problem.n_groups)))


def doses(data: jn.GroupedData) -> np.ndarray:
    """The doses of the table, ascending: where Xmax has its kinks."""
    return np.unique(np.asarray(data.x["dose"])[np.asarray(data.observed)])


def maximum(fit: jn.Fit) -> dict[str, Any]:
    """The maximum near a fit's estimates: `params`, `minus2LL`, `largest_slope`, and `estimates` with standard errors
    from the Hessian, by reported name."""
    with jax.enable_x64(True):
        return _maximum(fit)


def _maximum(fit: jn.Fit) -> dict[str, Any]:
    problem = jax.tree.map(jnp.asarray, fit.binding.problem)
    template = jax.tree.map(jnp.asarray, fit.params)
    kinks = doses(fit.data)

    @jax.jit
    def both(packed):
        return jax.value_and_grad(lambda x: minus_two_log_likelihood(problem, template.unpack(x), kinks))(packed)

    start = np.asarray(template.pack())
    scale = 1.0 / np.maximum(np.abs(start), 1e-3)  # Xmax is 100, slope 0.03
    optimum = minimize(
        lambda x: tuple(np.asarray(part, float) for part in _scaled(both, x, scale)),
        start * scale,
        jac=True,
        method="BFGS",
        options={"gtol": 1e-6},
    )
    packed = optimum.x / scale
    steps = 1e-4 / scale
    hessian = np.stack(
        [
            (np.asarray(both(packed + step)[1]) - np.asarray(both(packed - step)[1])) / (2.0 * length)
            for length, step in zip(steps, np.diag(steps), strict=True)
        ]
    )
    covariance = np.linalg.inv((hessian + hessian.T) / 4.0)  # the Hessian of -log L is half of it
    density = problem.density
    jacobian = np.asarray(jax.jacfwd(lambda x: density.reported(template.unpack(x)))(jnp.asarray(packed)))
    params = jax.tree.map(np.asarray, template.unpack(jnp.asarray(packed)))
    values = np.asarray(density.reported(params))
    errors = np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))
    return {
        "params": params,
        "minus2LL": float(optimum.fun),
        "largest_slope": float(np.max(np.abs(optimum.jac))),
        "estimates": {
            name: {"estimate": float(value), "se": float(error)}
            for name, value, error in zip(density.reported_names, values, errors, strict=True)
        },
    }


def _scaled(both: Any, x: np.ndarray, scale: np.ndarray) -> tuple[Any, Any]:
    value, gradient = both(x / scale)
    return value, np.asarray(gradient) / scale
