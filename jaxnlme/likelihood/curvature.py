"""Curvatures of -log_joint in the whitened effects: Gauss-Newton, with or without the term of the scale, or exact."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import linearise, tangents, value_gradient_hessian
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.correlation_base import Vectors
from jaxnlme.numerics.implicit import barrier
from jaxnlme.typing import Matrix, Vector


def gauss_newton(density: Density, params: Params, z: Vector, group: Group, scale_prediction: Any) -> Matrix:
    """H = I + J' R^-1 J (+ (1/2) tr(R^-1 R_k R^-1 R_l)), (random, random).

    J is the Jacobian of the (transformed) mean in z, R = S C S with S = diag(scale) and C the correlation of the
    residuals. If `scale_prediction` is None, the scale depends on z and its term is included (interaction, FOCEI; see
    `residual_error.correlation_base`), for independent errors 2 sum (d log scale / dz)(d log scale / dz)'; otherwise
    the scale is constant, that at `scale_prediction` (FO, FOCE). Terms of rows that follow from limits of
    quantification add their curvature in the prediction (see `residual_error.censoring`).

    **Arguments:** `z` (random,): whitened effects; `scale_prediction` (obs,) or None.
    **Source:** Almquist, Leander and Jirstrand (2015), J Pharmacokinet Pharmacodyn 42, 191-209, equations 13 and 20.
    """

    def moments(z):
        f = density.predict(params, z, group)
        residual, scale, _ = density.error_at(params).moments(
            f, f if scale_prediction is None else scale_prediction, params.error, group
        )
        return residual, jnp.log(scale), f

    (_, log_scale, f), push = linearise(moments, z)
    log_scale, dots = barrier((log_scale, tangents(push, z.shape[0], z.dtype)))
    precision = jnp.exp(-log_scale)
    factor = density.error.factor(params.error, group)
    left = right = [(factor.whiten(residual_dot * precision),) for residual_dot, *_ in dots]
    if scale_prediction is None:
        sides = [factor.interaction(log_scale_dot) for _, log_scale_dot, _ in dots]
        left = [(*row, *side) for row, (side, _) in zip(left, sides, strict=True)]
        right = [(*row, *side) for row, (_, side) in zip(right, sides, strict=True)]
    if density.error.is_limited:
        weight = density.error.limit_curvature(f, scale_prediction, params.error, group)
        left = [(*row, weight * f_dot) for row, (*_, f_dot) in zip(left, dots, strict=True)]
        right = [(*row, f_dot) for row, (*_, f_dot) in zip(right, dots, strict=True)]
    return _gram(list(zip(left, right, strict=True)))


def exact(density: Density, params: Params, z: Vector, group: Group, scale_prediction: Any) -> Matrix:
    """The Hessian (random, random) of -log_joint in `z` (random,), with the residual scale at `scale_prediction` (None:
    depending on z)."""
    return value_gradient_hessian(lambda z: -density.log_joint_given(params, z, group, scale_prediction), z)[2]


def _gram(sides: list[tuple[Vectors, Vectors]]) -> Matrix:
    """I + the sums over rows and vectors of the products of the left vectors (obs,) of effect k and the right ones of
    effect j, (random, random); symmetric."""
    n = len(sides)
    entries = [
        [jnp.sum(sum(a * b for a, b in zip(sides[k][0], sides[j][1], strict=True))) for j in range(k + 1)]
        for k in range(n)
    ]
    return jnp.stack([jnp.stack([entries[max(k, j)][min(k, j)] + (k == j) for j in range(n)]) for k in range(n)])
