"""Derivatives of functions that contain the user's model function f: the one module that says how they are taken.

| function | derivatives | direction |
|---|---|---|
| `linearise`, `tangents`, `jacobian` | of vectors, in few variables (effects, parameters of one group) | forward |
| `along` | along one direction | forward |
| `gradient`, `value_and_gradient` | of a scalar, in all parameters at once | reverse |
| `value_gradient_hessian`, `hessian_and_gradient`, `hessian` | of a scalar, in few variables | forward over reverse |
| `directional_slope` | of a scalar, along a direction of the effects, then in all parameters | reverse over forward |
| `partial_derivatives` | of f in the parameters of one group, to a given order, each once | forward over forward |
| `implicit_minimiser` | of a minimiser, by the implicit function theorem | forward over reverse |
| `from_forward_mode` | of f where it calls a solver of differential equations | forward, to every order |

All of them go through the rule of `from_forward_mode` where f calls a solver (`solver_models.py`), so they work with
what JAX differentiates in forward mode only. Nothing else differentiates f.
`tests/test_architecture.py` lists the other derivatives in the package (of psi, priors, residual densities in f).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxnlme.numerics import implicit, jets
from jaxnlme.numerics.forward_derivatives import forward_derivatives
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector


def linearise(fn: Callable[..., PyTree], *point: Any, has_aux: bool = False) -> Any:
    """The value of `fn` at `point` and the linear map of a change of the point to the change of the value.

    **Arguments:** `fn`, of as many arguments as `point` has; `has_aux`: it returns a pair of what is differentiated and
    what is handed on.
    **Returns:** the value, and a function of tangents shaped like `point`; where `has_aux`, what is handed on as well.
    """
    return jax.linearize(fn, *point, has_aux=has_aux)


def along(fn: Callable[[PyTree], PyTree], point: PyTree, direction: PyTree) -> tuple[PyTree, PyTree]:
    """The value of `fn` at `point` and its derivative along `direction`, a tree like `point`."""
    return jax.jvp(fn, (point,), (direction,))


def tangents(push: Callable[[Vector], PyTree], n: int, dtype: Any) -> list[PyTree]:
    """A linear map `push` of a vector (n,) at each of the n unit vectors; see `numerics.implicit.along_axes`."""
    return implicit.along_axes(push, n, dtype)


def jacobian(fn: Callable[..., PyTree], argnums: int = 0, has_aux: bool = False) -> Callable[..., PyTree]:
    """The function that returns the Jacobian of `fn`, with a last axis for its argument `argnums`.

    **Arguments:** `has_aux`: `fn` returns a pair of what is differentiated and what is handed on.
    """
    return jax.jacfwd(fn, argnums, has_aux)


def gradient(fn: Callable[..., Scalar]) -> Callable[..., PyTree]:
    """The function that returns the gradient of the scalar `fn` in its first argument."""
    return jax.grad(fn)


def value_and_gradient(
    fn: Callable[..., Scalar], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., tuple[PyTree, PyTree]]:
    """The function that returns the value of the scalar `fn` and its gradient in its arguments `argnums`.

    **Arguments:** `has_aux`: `fn` returns a pair of the scalar and what is handed on.
    """
    return jax.value_and_grad(fn, argnums, has_aux)


def value_gradient_hessian(fn: Callable[[Vector], Scalar], z: Vector) -> tuple[Scalar, Vector, Matrix]:
    """Value (), gradient (n,) and Hessian (n, n) of the scalar `fn` at `z` (n,), in one pass."""
    return implicit.value_gradient_hessian(fn, z)


def hessian_and_gradient(fn: Callable[..., Scalar]) -> Callable[..., tuple[Matrix, Vector]]:
    """The function that returns the Hessian (n, n) and the gradient (n,) of the scalar `fn` in its first argument (n,),
    in one pass."""

    def gradient_twice(*arguments: Any) -> tuple[Vector, Vector]:
        slope = gradient(fn)(*arguments)
        return slope, slope

    return jacobian(gradient_twice, has_aux=True)


def hessian(fn: Callable[..., Scalar]) -> Callable[..., Matrix]:
    """The function that returns the Hessian (n, n) of the scalar `fn` in its first argument (n,)."""
    return jax.hessian(fn)


def directional_slope(fn: Callable[[PyTree, Vector], Scalar], x: PyTree, z: Vector, direction: Vector) -> PyTree:
    """The gradient in `x` of the slope of `fn(x, z)` along `direction` (n,) of its second argument `z` (n,)."""
    return jax.grad(lambda x: jax.jvp(lambda z: fn(x, z), (z,), (direction,))[1])(x)


def partial_derivatives(
    fn: Callable[..., PyTree],
    point: Sequence[Any],
    order: int,
    active: Sequence[int] | None = None,
    repeated: Sequence[int] | None = None,
) -> jets.Jet:
    """The Jet of `fn(*point)` at `point`, n scalars, up to derivatives of `order`, in the scalars at the positions
    `active` (None: in all), together with others only in those at `repeated`; see `numerics.jets`."""
    return jets.jet(fn, point, order, active, repeated)


def implicit_minimiser(
    objective: Callable[[Vector, PyTree], Scalar], search: Callable[[PyTree, Vector], tuple[Vector, PyTree]]
) -> Callable[[PyTree, Vector], tuple[Vector, PyTree]]:
    """The minimiser of `objective(z, args)` that `search(args, z0)` finds, differentiable in args; see
    `numerics.implicit.implicit_minimiser`."""

    def hessian(z: Vector, args: PyTree) -> Matrix:
        return implicit.value_gradient_hessian(lambda z: objective(z, args), z)[2]

    return implicit.implicit_minimiser(jax.grad(objective), hessian, search)


def from_forward_mode(fn: Callable[[list[Any]], list[Any]], arguments: Sequence[Any]) -> list[Any]:
    """The outputs of `fn(arguments)`, lists of arrays, differentiable in both modes to every order where `fn` is in
    forward mode; see `numerics.forward_derivatives`."""
    return forward_derivatives(fn, arguments)
