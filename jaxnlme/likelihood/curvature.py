"""Curvatures of minus log_joint in the whitened effects: Gauss-Newton, with or without the scale's part, or exact."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.typing import Matrix, Vector


def gauss_newton(density: Density, params: Params, z: Vector, group: Group, scale_prediction: Any) -> Matrix:
    """H = I + J' R^-1 J (+ (1/2) tr(R^-1 R_k R^-1 R_l)), (random, random).

    J is the Jacobian of the (transformed) mean in z, R = diag(scale^2). With `scale_prediction` None the scale moves
    with z and its term is added, which for independent errors is 2 sum (d log scale / dz)(d log scale / dz)'
    (interaction, FOCEI); otherwise the scale is frozen there (FO, FOCE).

    **Source:** Almquist, Leander and Jirstrand (2015), J Pharmacokinet Pharmacodyn 42, 191-209, equations 13 and 20.
    """

    def moments(z):
        f = density.predict(params, z, group)
        residual, scale, _ = density.error.moments(
            f, f if scale_prediction is None else scale_prediction, params.error, group
        )
        return residual, jnp.log(scale)

    (_, log_scale), push = jax.linearize(moments, z)
    residual_dot, log_scale_dot = jax.vmap(push)(jnp.eye(z.shape[0], dtype=z.dtype))
    standardised = residual_dot * jnp.exp(-log_scale)[None, :]
    hessian = jnp.eye(z.shape[0], dtype=z.dtype) + _gram(standardised)
    return hessian + 2.0 * _gram(log_scale_dot) if scale_prediction is None else hessian


def exact(density: Density, params: Params, z: Vector, group: Group, scale_prediction: Any) -> Matrix:
    """The Hessian of -log_joint in z (random, random), the scale frozen at `scale_prediction` where that is given."""
    return jax.jacfwd(jax.grad(lambda z: -density.log_joint_given(params, z, group, scale_prediction)))(z)


def _gram(rows: jax.Array) -> Matrix:
    """rows rows' for rows (random, obs), as elementwise sums, which batch over groups better than tiny products."""
    return jnp.sum(rows[:, None, :] * rows[None, :, :], axis=-1)
