"""Derivatives of a minimiser by the implicit function theorem, to any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector


def along_axes(push: Callable[[Vector], PyTree], n: int, dtype: Any) -> list[PyTree]:
    """[push(e_1), ..., push(e_n)] for the unit vectors e_k.

    For small n one call each: a batch of groups then computes with (groups, obs) arrays, which ran three to five times
    faster on a CPU than the (groups, n, obs) arrays of a vmap; for larger n a vmap, which keeps the program small.

    **Arguments:** `push`: a linear map of a vector (n,), from `jax.linearize`; `n`; `dtype` of the vectors.
    """
    axes = np.eye(n, dtype=dtype)
    if n <= COMPUTATION.unrolled:
        return [push(jnp.asarray(axis)) for axis in axes]
    stacked = jax.vmap(push)(jnp.asarray(axes))
    return [jax.tree.map(lambda leaf, k=k: leaf[k], stacked) for k in range(n)]


def value_gradient_hessian(fn: Callable[[Vector], Scalar], z: Vector) -> tuple[Scalar, Vector, Matrix]:
    """Value (), gradient (n,) and Hessian (n, n) of `fn` at `z` (n,) from one evaluation: the gradient is linearised
    once, and its tangent map is applied to the unit vectors."""
    (value, gradient), push = jax.linearize(jax.value_and_grad(fn), z)
    rows = along_axes(lambda e: push(e)[1], z.shape[0], z.dtype)
    return value, gradient, jnp.stack(rows)


def barrier(tree: PyTree) -> PyTree:
    """The same values behind XLA's optimization barrier, so that they are computed once: the compiler would fuse their
    computation into every use (on a CPU repeated exponentials of the model doubled the time of an objective)."""
    return jax.lax.optimization_barrier(tree)


def implicit_minimiser(
    gradient: Callable[[Vector, PyTree], Vector],
    hessian: Callable[[Vector, PyTree], Matrix],
    search: Callable[[PyTree, Vector], tuple[Vector, PyTree]],
) -> Callable[[PyTree, Vector], tuple[Vector, PyTree]]:
    """A function z(args) = argmin_z objective(z, args) that is differentiable in args.

    dz = -H^-1 d/dargs (grad_z objective) dargs, H the Hessian of the objective at the minimiser. The derivative rule
    calls the wrapped function, so higher derivatives are exact too; the iterations of `search` are not differentiated.

    **Arguments:** `gradient(z, args)` (n,), `hessian(z, args)` (n, n): of the objective in z (n,); `search(args, z0)`,
    which returns the minimiser (n,) and auxiliary output (constant for derivatives, as is `z0`).
    **Returns:** a function with the arguments and results of `search`.
    **Source:** implicit function theorem; Christianson (1994), Optimization Methods and Software 3, 311-326.
    """

    @eqx.filter_custom_jvp
    def solve(args, z0):
        z, aux = search(args, z0)
        return jax.lax.stop_gradient(z), jax.lax.stop_gradient(aux)

    @solve.def_jvp
    def rule(primals, tangents):
        args, z0 = primals
        args_dot = tangents[0]
        z, aux = solve(args, z0)
        moving, still = partition_perturbed(args, args_dot)
        _, slope_dot = jax.jvp(lambda moving: gradient(z, eqx.combine(moving, still)), (moving,), (args_dot,))
        z_dot = -symmetric_solve(barrier(hessian(z, args)), slope_dot)
        still_aux = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else None, aux)
        return (z, aux), (z_dot, still_aux)

    return solve


def partition_perturbed(args: PyTree, tangents: PyTree) -> tuple[PyTree, PyTree]:
    """`args` cut into the leaves that have a tangent and the others, whose tangents are None; None for the rest of
    either."""
    perturbed = jax.tree.map(lambda leaf: leaf is not None, tangents, is_leaf=lambda leaf: leaf is None)
    return eqx.partition(args, perturbed)


def symmetric_solve(matrix: Matrix, right: Vector) -> Vector:
    """The solution u (n,) of `matrix` u = `right` for a symmetric positive definite matrix (n, n), differentiable.

    Small factorisations are straight-line code, which JAX differentiates. For larger ones, whose factorisation is a
    loop, the derivative is that of the solution, du = matrix^-1 (d right - d matrix u).
    """
    if matrix.shape[0] <= COMPUTATION.unrolled:
        return cholesky_solve(guarded_cholesky(matrix, floor=0.0)[0], right)
    lower, _ = guarded_cholesky(jax.lax.stop_gradient(matrix), floor=0.0)
    return jax.lax.custom_linear_solve(
        lambda u: matrix @ u, right, solve=lambda _, r: cholesky_solve(lower, r), symmetric=True
    )
