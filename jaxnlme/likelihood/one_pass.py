"""Value and score from one evaluation of the model, for parameters that are linear on the transformed scale.

With u = A beta + B L z the parameters of a group on that scale, value, curvature and score depend on the rows of data
only through partial derivatives at u: of the log-density l in u and in the error parameters, and of the information M
in u from which the curvature is computed. They are read from the jet of the model at u. The rest is algebra with a few
numbers for each group, so that f is traced and evaluated once for each point, and each sum over rows is computed once.

With Z = B L, and s the coordinates that do not depend on z (the error parameters, and u at z = 0 if the residual scale
is computed there):

    log joint     j = l(u, s) - z'z / 2,    its negative Hessian in z   K = I - Z' l_uu Z
    value         V = j - log|H| / 2,       H = I + Z' M Z
    through M     W = dV/dM = -Z H^-1 Z' / 2,   m = d(W . M)/d(u, s)
    at the mode   w = K^-1 dV/dz,  v = Z w:  dz/dx enters as d/dx (w . dj/dz)
    score         in u: l_u + m_u + l_uu v,  in s: l_s + m_s + l_su v,
                  in L: B' (score_u z' - M Z H^-1 + l_u w')

**Source:** Almquist, Leander and Jirstrand (2015), J Pharmacokinet Pharmacodyn 42, 191-209, section "Gradients", in
adjoint form.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.group_result import GroupResult, group_result
from jaxnlme.likelihood.integrals import Gaussian, no_monte_carlo_error
from jaxnlme.likelihood.mode import newton_from_starts
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.likelihood.transformed_group import TransformedGroup, products, total
from jaxnlme.model.covariance.base import factor_pattern
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import partial_derivatives
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.implicit import barrier, symmetric_solve
from jaxnlme.numerics.jets import Jet, count_partials
from jaxnlme.numerics.linalg import cholesky, cholesky_solve, half_logdet
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.numerics.written_out import (
    Entries,
    added,
    as_matrix,
    as_vector,
    column,
    product,
    symmetric,
    transposed,
)
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector


def one_pass(method: LikelihoodApproximation, density: Density, params: Params, group: Group) -> OnePassGroup | None:
    """The group at `params` for a likelihood approximation, with one evaluation of the model at each point.

    **Returns:** None where this is not possible: the approximation does not expand at a mode, or the parameters are not
    linear on the transformed scale or vary within the group.
    """
    if not method.at_mode:
        return None
    expansion = one_pass_to_order(method, density, params, group, _order(method))
    if expansion is not None and not method.interaction:
        expansion.frozen = barrier(partial_derivatives(expansion.predict, expansion.start, 1))
    return expansion


def one_pass_to_order(method: Any, density: Density, params: Params, group: Group, order: int) -> OnePassGroup | None:
    """The group at `params` for a method that uses derivatives of the model up to `order`.

    **Arguments:** `method`: has the limits of the mode search as `search`; None if no modes are searched.
    **Returns:** None where the parameters are not linear on the transformed scale or vary within the group, or there
    are no random effects, some that are not Gaussian or at nested levels (`nested.py`), or too many derivatives.
    """
    individual = density.individual
    gaussian = density.levels is None and density.effect_distribution is None
    if not (density.n_effects and gaussian and isinstance(individual, LinearIndividual)):
        return None
    fixed, random = (design.entries(group.covariates) for design in (individual.fixed, individual.random))
    if count_partials(len(individual.names), order) > INTEGRATION.most_partials or fixed is None or random is None:
        return None
    expansion = OnePassGroup(method, density, params, group, fixed, random)
    shapes = jax.eval_shape(expansion.predict, *expansion.start)
    differentiable = all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(shapes))
    return expansion if differentiable else None


def _order(method: LikelihoodApproximation) -> int:
    """The order of the derivatives of the model that mode, value and score of an approximation use."""
    return 3 if method.curvature == "exact" and isinstance(method.integral, Gaussian) else 2


class OnePassGroup(TransformedGroup):
    """One group at given Params, with u = start + Z z as a function of the whitened effects z. Used within one trace.

    **Fields:** `n`: parameters; `q`: random effects; `fixed`, `random`: the matrices A and B by entries; `factor`: L;
    `pattern`: its entries that are not zero by structure; `Z`: B L by entries; `start`: u at z = 0; `frozen`: jet of
    the prediction from which the residual scale is computed, None where the scale depends on z; `moved`: positions of
    the parameters that depend on z; `searched`: those that the search of the mode differentiates in, None for all.
    """

    def __init__(
        self,
        method: Any,
        density: Density,
        params: Params,
        group: Group,
        fixed: Entries,
        random: Entries,
    ):
        super().__init__(method, density, params, group)
        self.q = density.n_effects
        self.fixed, self.random = fixed, random
        self.factor = density.covariance.factor(params.covariance)
        self.pattern = factor_pattern(density.covariance, params.covariance.shape[0])
        self.Z = product(random, {entry: self.factor[entry] for entry in self.pattern})
        beta = {(k, 0): params.beta[k] for k in range(params.beta.shape[0])}
        start = product(fixed, beta)
        zero = jnp.zeros((), params.beta.dtype)
        self.start = tuple(start.get((k, 0), zero) for k in range(self.n))
        self.frozen: Jet | None = None
        self.moved = sorted({k for k, _ in self.Z})
        # A solution of differential equations costs more with each variable that it is differentiated in.
        self.searched = self.moved if len(self.moved) < self.n and density.solves_equations else None

    def at(self, z: Vector) -> tuple[Scalar, ...]:
        """u at the whitened effects `z` (random,)."""
        shift = product(self.Z, {(k, 0): z[k] for k in range(self.q)})
        return tuple(s + shift[k, 0] if (k, 0) in shift else s for k, s in enumerate(self.start))

    def expand(self, z: Vector, first_order: bool = False) -> tuple[Scalar, Vector, Matrix]:
        """Minus the log joint density with its gradient (random,) and Hessian (random, random) at `z` (random,), where
        `first_order` without the term in the second derivatives of the model."""
        repeated = () if first_order else None
        prediction = partial_derivatives(self.predict, self.at(z), 2, self.searched, repeated)
        derivatives = self.derivatives(prediction, in_s=False)
        value, gradient, hessian = self.joint(derivatives, z)
        return -value, -gradient, hessian

    def slope(self, z: Vector) -> Vector:
        """The gradient of the log joint density in `z` (random,), from first derivatives of the model."""
        prediction = partial_derivatives(self.predict, self.at(z), 1, self.searched)
        frozen = None if self.frozen is None else self.frozen.partials[0]
        theta, factor = self.params.error, self.residual_factor
        gradient = jax.grad(lambda f: self.rows(f, frozen, theta, factor))(prediction.partial())
        in_u = column([_dot((gradient, prediction.partial(k))) for k in range(self.n)])
        return as_vector(product(transposed(self.Z), in_u), self.q, z.dtype) - z

    def joint(self, derivatives: Derivatives, z: Vector) -> tuple[Scalar, Vector, Matrix]:
        """The log joint density j, its gradient in z, and its negative Hessian K in z, from derivatives of l at u."""
        value = derivatives.value - 0.5 * jnp.sum(z**2) - self.q * HALF_LOG_2PI
        gradient = as_vector(product(transposed(self.Z), column(derivatives.u)), self.q, z.dtype) - z
        inner = product(transposed(self.Z), product(symmetric(derivatives.uu), self.Z))
        return value, gradient, jnp.eye(self.q) - as_matrix(inner, self.q, z.dtype)

    def derivatives(self, prediction: Jet, in_s: bool) -> Derivatives:
        """The derivatives of the log-density l at u.

        With g its gradient in the prediction f and G its Hessian there, l_j = g f_j and l_jk = f_j G f_k + g f_jk, sums
        over rows.

        **Arguments:** `prediction`: the jet of the prediction at u; `in_s`: compute the derivatives in s as well.
        """
        theta = self.params.error
        frozen = None if self.frozen is None else self.frozen.partials[0]
        if not in_s:
            value, in_u, in_uu = self.second_order(prediction, frozen)
            return Derivatives(value, [total(p) for p in in_u], [[total(p) for p in row] for row in in_uu], [], [])
        argnums = (0, 2) if frozen is None else (0, 1, 2)

        def rows(f, g, theta):
            return self.rows(f, g, theta, self.factor_at(theta))

        def value_and_gradients(f):
            return jax.value_and_grad(rows, argnums=argnums)(f, frozen, theta)

        (value, gradients), push = jax.linearize(value_and_gradients, prediction.partial())
        first = [prediction.partial(k) for k in range(self.n)]
        gradients, second = barrier((gradients, [push(f)[1] for f in first]))
        g = gradients[0]
        uu = [
            [_dot((second[j][0], first[k]), (g, prediction.partial(k, j))) for k in range(j + 1)] for j in range(self.n)
        ]
        su = [self._in_s(of_u) for of_u in second]
        return Derivatives(value, [_dot((g, f)) for f in first], uu, self._in_s(gradients), su)

    def _in_s(self, gradients: tuple) -> list[Scalar]:
        """Derivatives in s from those in f, in the prediction that determines the scale, and in theta."""
        out = []
        if self.frozen is not None:
            out = [_dot((gradients[1], self.frozen.partial(k))) for k in range(self.n)]
        return out + [gradients[-1][m] for m in range(self.params.error.shape[0])]

    def information(self, prediction: Jet, u: tuple, s: tuple) -> list[list[Scalar]]:
        """The lower triangle of M, the curvature in u (`curvature_products`), as a differentiable function of (u, s) at
        the point of the jets.

        **Arguments:** `prediction`: the jet of the prediction at u; `u`, `s`: coordinates, tuples of scalars.
        """
        theta = jnp.stack(s[-self.params.error.shape[0] :]) if self.params.error.shape[0] else self.params.error
        g = None if self.frozen is None else self.frozen(*s[: self.n])
        return [[total(row) for row in rows] for rows in self.curvature_products(prediction, u, g, theta)]

    # --- mode, value and score ---

    def mode(self, z0: Vector) -> tuple[Vector, NewtonResult]:
        """The conditional mode (random,), searched from `z0` (random,) or (starts, random), and the NewtonResult."""
        by_secants = self.density.solves_equations
        return newton_from_starts(self.method.search, lambda z: self.expand(z, by_secants), z0, approximate=by_secants)

    def value_and_score(self, z0: Vector) -> tuple[GroupResult, Vector]:
        """The GroupResult for a Gaussian integral, and its score (packed,), the gradient in (beta, covariance, error).

        **Arguments:** `z0` (random,): start of the search of the mode, whitened.
        """
        self.expand_factor()
        z, search = self.mode(z0)
        return self.value_and_score_at(z, search)[:2]

    def value_and_score_at(
        self, z: Vector, search: NewtonResult
    ) -> tuple[GroupResult, Vector, tuple[Derivatives, Matrix]]:
        """`value_and_score` at the mode `z` (random,), with the derivatives of l there and K. Differentiable in `z` and
        in all that the group was made of, unless `expand_factor` was called."""
        q, n = self.q, self.n
        z = barrier(z)
        dtype, u, order = z.dtype, self.at(z), _order(self.method)
        # Second derivatives in two parameters without z are multiplied by zero entries of Z.
        prediction = partial_derivatives(self.predict, u, order, repeated=self.moved if order == 2 else None)
        derivatives = self.derivatives(prediction, in_s=True)
        s = self._start_and_theta()
        # The partial derivatives of the jets have derivatives of their own: see `Jet`.
        n_frozen = len(s) - self.params.error.shape[0]
        points = jax.lax.stop_gradient((u, s[:n_frozen]))
        m, pull = jax.vjp(lambda u, s: self.information(prediction, u, s), points[0], (*points[1], *s[n_frozen:]))
        m = barrier(m)

        value, _, negative_hessian = self.joint(derivatives, z)
        z_transposed = transposed(self.Z)
        curvature = barrier(jnp.eye(q) + as_matrix(product(z_transposed, product(symmetric(m), self.Z)), q, dtype))
        lower = cholesky(curvature)
        value = value + q * HALF_LOG_2PI - half_logdet(lower)
        inverse = [cholesky_solve(lower, jnp.asarray(axis, dtype)) for axis in np.eye(q)]
        z_h_inverse = product(self.Z, {(i, j): inverse[j][i] for i in range(q) for j in range(q)})  # Z H^-1
        z_h_inverse_z = product(z_h_inverse, z_transposed)
        zero = jnp.zeros((), dtype)
        weights = [
            [-z_h_inverse_z.get((j, k), zero) * (0.5 if j == k else 1.0) for k in range(j + 1)] for j in range(n)
        ]
        m_u, m_s = barrier(pull(weights))

        by_u = [derivatives.u[k] + m_u[k] for k in range(n)]
        in_z = as_vector(product(z_transposed, column(by_u)), q, dtype) - z
        if self.density.solves_equations:  # the search has an approximate Hessian only
            positive = jnp.isfinite(half_logdet(cholesky(jax.lax.stop_gradient(negative_hessian))))
            search = dataclasses.replace(search, converged=search.converged & positive)
        w = symmetric_solve(barrier(negative_hessian), in_z)
        v = product(self.Z, {(k, 0): w[k] for k in range(q)})
        luu_v = product(symmetric(derivatives.uu), v)
        score_u = column([by_u[k] + luu_v[k, 0] if (k, 0) in luu_v else by_u[k] for k in range(n)])
        score_s = [
            derivatives.s[i] + m_s[i] + sum((derivatives.su[k][i] * v[k, 0] for k in range(n) if (k, 0) in v), zero)
            for i in range(len(s))
        ]
        result = group_result(value, z, curvature, no_monte_carlo_error(), search, self.group)
        score = self._score(score_u, score_s, z_h_inverse, m, derivatives, z, w)
        return result, score, (derivatives, negative_hessian)

    def slope_near(self, derivatives: Derivatives, origin: OnePassGroup, z: Vector) -> Vector:
        """The gradient of the log joint density in z at `z` (random,), as a function of the parameters to first order.

        **Arguments:** `derivatives`: of l at `z` and the parameters of `origin`.
        """
        by_u = list(derivatives.u)
        moved = [a - b for a, b in zip(self.at(z), origin.at(z), strict=True)]
        shifted = [a - b for a, b in zip(self._start_and_theta(), origin._start_and_theta(), strict=True)]
        for j in range(self.n):
            rows = [derivatives.uu[max(j, k)][min(j, k)] * moved[k] for k in range(self.n)]
            by_u[j] = sum([*rows, *(a * b for a, b in zip(derivatives.su[j], shifted, strict=True))], by_u[j])
        return as_vector(product(transposed(self.Z), column(by_u)), self.q, z.dtype) - z

    def _start_and_theta(self) -> tuple[Scalar, ...]:
        """The coordinates s: u at z = 0 if the residual scale is computed there, then the error parameters."""
        theta = self.params.error
        return (() if self.frozen is None else self.start) + tuple(theta[k] for k in range(theta.shape[0]))

    def _score(self, score_u, score_s, z_h_inverse, m, derivatives, z, w) -> Vector:
        """The gradient in (beta, covariance, error) from those in u, s and Z."""
        dtype, params = z.dtype, self.params
        n_theta = params.error.shape[0]
        # beta changes u, and u at z = 0.
        score_fixed = dict(score_u)
        if self.frozen is not None:
            score_fixed = {(k, 0): score_fixed[k, 0] + score_s[k] for k in range(self.n)}
        beta = as_vector(product(transposed(self.fixed), score_fixed), params.beta.shape[0], dtype)
        # L changes u by B L z, and Z.
        in_z = product(score_u, {(0, k): z[k] for k in range(self.q)})
        in_z = added(in_z, {entry: -value for entry, value in product(symmetric(m), z_h_inverse).items()})
        in_z = added(in_z, product(column(derivatives.u), {(0, k): w[k] for k in range(self.q)}))
        in_factor = product(transposed(self.random), in_z)
        zero = jnp.zeros((), dtype)
        entries = jnp.stack([in_factor.get(entry, zero) for entry in self.pattern])
        jacobian = jax.jacfwd(self.density.covariance.factor)(params.covariance)
        covariance = entries @ jacobian[tuple(np.array(self.pattern).T)]
        error = jnp.stack(score_s[-n_theta:]) if n_theta else jnp.zeros((0,), dtype)
        return jnp.concatenate([beta, covariance, error])


class Derivatives(eqx.Module):
    """The log-density l of a group, `value`, with its derivatives: `u` (phi,), the gradient in u; `uu`, the lower
    triangle of the Hessian in u; `s`, the gradient in the coordinates that do not depend on z; `su`, for each u the
    mixed derivatives with s."""

    value: Scalar
    u: list[Scalar]
    uu: list[list[Scalar]]
    s: list[Scalar]
    su: list[list[Scalar]]


def _dot(*pairs: tuple[PyTree, PyTree]) -> Scalar:
    """The sum over pairs and rows of their products, in one pass over the rows."""
    return total(products(*pairs))
