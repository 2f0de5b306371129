"""Value and score where parameters are linear on the transformed scale, from one pass over the model.

With u = A beta + B L z the parameters of a group on that scale, all that value, curvature and score need of the rows
are partial derivatives at u: of the log-density l in u and in the error parameters, and of the information M in u that
the curvature is made of. They come from the jet of the model at u. The rest is algebra on a handful of numbers a group,
written out below, so that f is traced and evaluated once for each point, and no sum over rows is taken twice.

With Z = B L, s the coordinates that do not move with z (error parameters; u at z = 0 where the scale is taken there):

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

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnlme.likelihood.approximations import GroupResult, LikelihoodApproximation, group_result
from jaxnlme.likelihood.integrals import Gaussian, exact_integral
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.density import Density, Group
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.jets import Jet, count_partials, jet
from jaxnlme.numerics.linalg import cholesky, cholesky_solve, guarded_cholesky, half_logdet
from jaxnlme.numerics.newton import NewtonResult, newton
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
from jaxnlme.records import Record
from jaxnlme.typing import Matrix, PyTree, Scalar, Vector

# Where a jet has more partial derivatives than this, differentiating the model itself is cheaper.
MOST_PARTIALS = 36


def local(method: LikelihoodApproximation, density: Density, params: Params, group: Group) -> Local | None:
    """The group at `params` as this rung sees it, from one pass over the model at each point: where it has a mode, and
    parameters that are linear on the transformed scale and do not vary within the group."""
    if not method.at_mode:
        return None
    known = written_out(method, density, params, group, _order(method))
    if known is not None and not method.interaction:
        known.frozen = barrier(jet(known.predict, known.start, 1))
    return known


def written_out(method: Any, density: Density, params: Params, group: Group, order: int) -> Local | None:
    """A Local for a method with a mode `search` that reads the model's derivatives up to `order`; None where the model
    does not suit it."""
    individual = density.individual
    if not (density.n_effects and isinstance(individual, LinearIndividual)):
        return None
    fixed, random = (design.entries(group.covariates) for design in (individual.fixed, individual.random))
    if count_partials(len(individual.names), order) > MOST_PARTIALS or fixed is None or random is None:
        return None
    known = Local(method, density, individual, params, group, fixed, random)
    shapes = jax.eval_shape(known.predict, *known.start)
    smooth = all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(shapes))
    return known if smooth else None


def _order(method: LikelihoodApproximation) -> int:
    """The order of the model's derivatives that mode, value and score read."""
    return 3 if method.curvature == "exact" and isinstance(method.integral, Gaussian) else 2


def factor_pattern(covariance: AbstractCovariance, n: int) -> list[tuple[int, int]]:
    """The entries of the factor L that are not zero by structure: for our own families told by the factor of arbitrary
    parameters (n,) on the host; every entry for others, and where the structure itself is traced."""
    ours = type(covariance).__module__.startswith("jaxnlme.")
    if not ours or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(covariance)):
        return [(i, j) for i in range(covariance.size) for j in range(covariance.size)]
    factor = np.asarray(covariance.factor(np.linspace(0.3, 0.7, n)))
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(factor), strict=True)]


class Local:
    """One group at fixed Params: `u` at z = 0 is `start`, `Z` carries z to u. Lives inside one trace."""

    def __init__(
        self,
        method: Any,
        density: Density,
        individual: LinearIndividual,
        params: Params,
        group: Group,
        fixed: Entries,
        random: Entries,
    ):
        self.method, self.density, self.individual, self.params, self.group = method, density, individual, params, group
        self.n, self.q = len(individual.names), density.n_effects
        self.fixed, self.random = fixed, random
        self.factor = density.covariance.factor(params.covariance)
        self.pattern = factor_pattern(density.covariance, params.covariance.shape[0])
        self.Z = product(random, {place: self.factor[place] for place in self.pattern})
        beta = {(k, 0): params.beta[k] for k in range(params.beta.shape[0])}
        start = product(fixed, beta)
        zero = jnp.zeros((), params.beta.dtype)
        self.start = tuple(start.get((k, 0), zero) for k in range(self.n))
        self.frozen: Jet | None = None  # the prediction that fixes the scale, where it does not move with z

    # --- rows ---

    def predict(self, *u: Any) -> Any:
        """The structural model at u."""
        individual = self.individual
        values = tuple(t.to_natural(value) for t, value in zip(individual.transforms, u, strict=True))
        phi = Record(individual.names, values, "parameter")
        return self.density.structural(self.params.free, phi, self.group.x, self.group.v)

    def rows(self, f: Any, g: Any, theta: Vector) -> Scalar:
        """log p(y) at the predictions f, the scale at g (None: at f)."""
        return self.density.error.log_density(f, f if g is None else g, theta, self.group)

    def at(self, z: Vector) -> tuple[Scalar, ...]:
        """u at z."""
        moved = product(self.Z, {(k, 0): z[k] for k in range(self.q)})
        return tuple(s + moved[k, 0] if (k, 0) in moved else s for k, s in enumerate(self.start))

    def expand(self, z: Vector) -> tuple[Scalar, Vector, Matrix]:
        """Minus the log joint with its gradient (random,) and Hessian (random, random) at z."""
        known = self.slopes(jet(self.predict, self.at(z), 2), still=False)
        value, gradient, hessian = self.joint(known, z)
        return -value, -gradient, hessian

    def joint(self, known: Slopes, z: Vector) -> tuple[Scalar, Vector, Matrix]:
        """The log joint, its gradient in z, and its negative Hessian in z."""
        value = known.value - 0.5 * jnp.sum(z**2) - self.q * HALF_LOG_2PI
        gradient = as_vector(product(transposed(self.Z), column(known.u)), self.q, z.dtype) - z
        inner = product(transposed(self.Z), product(symmetric(known.uu), self.Z))
        return value, gradient, jnp.eye(self.q) - as_matrix(inner, self.q, z.dtype)

    def slopes(self, prediction: Jet, still: bool) -> Slopes:
        """The derivatives of the log-density l at u: with g its gradient in the prediction f and G its Hessian there,
        l_j = g f_j and l_jk = f_j G f_k + g f_jk, sums over rows; with `still`, also those in s."""
        theta = self.params.error
        frozen = None if self.frozen is None else self.frozen.partials[0]
        wanted = (0, 1, 2) if still and frozen is not None else (0, 2) if still else (0,)

        def slopes(f):
            return jax.value_and_grad(self.rows, argnums=wanted)(f, frozen, theta)

        (value, gradients), push = jax.linearize(slopes, prediction.partial())
        first = [prediction.partial(k) for k in range(self.n)]
        gradients, bent = barrier((gradients, [push(f)[1] for f in first]))
        g = gradients[0]
        uu = [
            [_dot((bent[j][0], first[k]), (g, prediction.partial(k, j))) for k in range(j + 1)] for j in range(self.n)
        ]
        s, su = [], []
        if still:
            s = self._still(gradients)
            su = [self._still(one) for one in bent]
        return Slopes(value, [_dot((g, f)) for f in first], uu, s, su)

    def _still(self, gradients: tuple) -> list[Scalar]:
        """Derivatives in s from those in the frozen prediction and theta."""
        out = []
        if self.frozen is not None:
            out = [_dot((gradients[1], self.frozen.partial(k))) for k in range(self.n)]
        return out + [gradients[-1][m] for m in range(self.params.error.shape[0])]

    def information(self, prediction: Jet, u: tuple, s: tuple) -> list[list[Scalar]]:
        """M, the lower triangle of the curvature in u, as a function of (u, s) near the point of the jets.

        Gauss-Newton: J' R^-1 J (+ (1/2) tr(R^-1 R_k R^-1 R_l) where the scale moves), as `curvature.gauss_newton`;
        exact: minus the second derivatives of l."""
        theta = jnp.stack(s[-self.params.error.shape[0] :]) if self.params.error.shape[0] else self.params.error
        g = None if self.frozen is None else self.frozen(*s[: self.n])
        f, first = prediction(*u), [prediction.slope((k,), *u) for k in range(self.n)]
        if self.method.curvature == "exact":
            slope, push = jax.linearize(jax.grad(lambda f: self.rows(f, g, theta)), f)
            bent = [push(one) for one in first]
            return [
                [-_dot((bent[j], first[k]), (slope, prediction.slope((k, j), *u))) for k in range(j + 1)]
                for j in range(self.n)
            ]

        def moments(f):
            residual, scale, _ = self.density.error.moments(f, f if g is None else g, theta, self.group)
            return residual, jnp.log(scale)

        (_, log_scale), push = jax.linearize(moments, f)
        log_scale, pushed = barrier((log_scale, [push(one) for one in first]))
        precision = jnp.exp(-log_scale)
        parts = [[residual * precision for residual, _ in pushed]]
        if g is None:
            parts.append([2.0**0.5 * scale for _, scale in pushed])
        return [[jnp.sum(sum(part[j] * part[k] for part in parts)) for k in range(j + 1)] for j in range(self.n)]

    # --- mode, value and score ---

    def mode(self, z0: Vector) -> tuple[Vector, NewtonResult]:
        """The conditional mode (random,), searched from `z0`, and how the search went."""
        search = self.method.search
        return newton(self.expand, z0, jnp.zeros_like(z0), search.steps, search.tolerance)

    def value_and_score(self, z0: Vector) -> tuple[GroupResult, Vector]:
        """The GroupResult of a Gaussian integral, and the gradient of its value in the dense vector (beta, covariance,
        error)."""
        q, n = self.q, self.n
        z, found = self.mode(z0)
        z = barrier(z)
        dtype = z.dtype
        u = self.at(z)
        prediction = jet(self.predict, u, _order(self.method))
        known = self.slopes(prediction, still=True)
        s = self._start_and_theta()
        m, pull = jax.vjp(lambda u, s: self.information(prediction, u, s), u, s)
        m = barrier(m)

        value, _, negative_hessian = self.joint(known, z)
        across = transposed(self.Z)
        curvature = barrier(jnp.eye(q) + as_matrix(product(across, product(symmetric(m), self.Z)), q, dtype))
        lower = cholesky(curvature)
        value = value + q * HALF_LOG_2PI - half_logdet(lower)
        inverse = [cholesky_solve(lower, jnp.asarray(axis, dtype)) for axis in np.eye(q)]
        shaped = product(self.Z, {(i, j): inverse[j][i] for i in range(q) for j in range(q)})  # Z H^-1
        outer = product(shaped, across)
        zero = jnp.zeros((), dtype)
        weights = [[-outer.get((j, k), zero) * (0.5 if j == k else 1.0) for k in range(j + 1)] for j in range(n)]
        m_u, m_s = barrier(pull(weights))

        by_u = [known.u[k] + m_u[k] for k in range(n)]
        in_z = as_vector(product(across, column(by_u)), q, dtype) - z
        w = cholesky_solve(guarded_cholesky(barrier(negative_hessian), floor=0.0)[0], in_z)
        v = product(self.Z, {(k, 0): w[k] for k in range(q)})
        bent = product(symmetric(known.uu), v)
        score_u = column([by_u[k] + bent[k, 0] if (k, 0) in bent else by_u[k] for k in range(n)])
        score_s = [
            known.s[i] + m_s[i] + sum((known.su[k][i] * v[k, 0] for k in range(n) if (k, 0) in v), zero)
            for i in range(len(s))
        ]
        result = group_result(value, z, curvature, exact_integral(), found, self.group)
        return result, self._score(score_u, score_s, shaped, m, known, z, w)

    def _start_and_theta(self) -> tuple[Scalar, ...]:
        """s: u at z = 0 where the scale is taken there, then the error parameters."""
        theta = self.params.error
        return (() if self.frozen is None else self.start) + tuple(theta[k] for k in range(theta.shape[0]))

    def _score(self, score_u, score_s, shaped, m, known, z, w) -> Vector:
        """The gradient in (beta, covariance, error) from those in u, s and Z."""
        dtype, params = z.dtype, self.params
        n_theta = params.error.shape[0]
        # beta moves u, and u at z = 0.
        moved = dict(score_u)
        if self.frozen is not None:
            moved = {(k, 0): moved[k, 0] + score_s[k] for k in range(self.n)}
        beta = as_vector(product(transposed(self.fixed), moved), params.beta.shape[0], dtype)
        # L moves u by B L z, and Z.
        in_z = product(score_u, {(0, k): z[k] for k in range(self.q)})
        in_z = added(in_z, {place: -value for place, value in product(symmetric(m), shaped).items()})
        in_z = added(in_z, product(column(known.u), {(0, k): w[k] for k in range(self.q)}))
        in_factor = product(transposed(self.random), in_z)
        zero = jnp.zeros((), dtype)
        entries = jnp.stack([in_factor.get(place, zero) for place in self.pattern])
        jacobian = jax.jacfwd(self.density.covariance.factor)(params.covariance)
        rows, columns = np.array(self.pattern).T
        covariance = entries @ jacobian[rows, columns]
        error = jnp.stack(score_s[-n_theta:]) if n_theta else jnp.zeros((0,), dtype)
        return jnp.concatenate([beta, covariance, error])


class Slopes(eqx.Module):
    """Derivatives of a group's log-density: `value`; `u` (phi,); `uu`, a lower triangle; `s`, in the coordinates that
    do not move with z; `su`, for each u its mixed derivatives with s."""

    value: Scalar
    u: list[Scalar]
    uu: list[list[Scalar]]
    s: list[Scalar]
    su: list[list[Scalar]]


def _dot(*pairs: tuple[PyTree, PyTree]) -> Scalar:
    """The sum over pairs and rows of their products; each sum over rows is a pass of its own, so there is one."""
    products = [jax.tree.map(jnp.multiply, one, other) for one, other in pairs]
    total = jax.tree.map(lambda *parts: jnp.sum(sum(parts[1:], parts[0])), *products)
    return sum(jax.tree.leaves(total), jnp.zeros(()))
