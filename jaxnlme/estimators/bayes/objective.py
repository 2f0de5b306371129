"""The log posterior density that chains move on: of the parameters and the whitened random effects together ("joint"),
or of the parameters, the effects integrated out by a likelihood approximation ("collapsed").

Priors are densities of the values that a fit reports (`model/priors.py`); a value without a prior has a flat one on
that scale. So the density of the unconstrained parameters u that are free is

    p(u | y)  proportional to  p(y | u) prod_k p_k(r_k(u)) |dr/du|,

r(u) the reported values. Its maximum over r is that of maximum a posteriori estimation. Where psi has fewer parameters
than reported values, |dr/du| is the volume sqrt(det(J'J)) of the Jacobian J.

Chains move in coordinates x = (xi, zeta) in which the posterior is about standard normal (`scaling.py`):

    u = u0 + F xi,      z_ik = (L_kk(u) / L_kk(u0))^(-c_k) [m_i + D_i (u - u0) + C_i zeta_i]_k,

L the factor of psi. With c_k = 0 the effects move in units of their standard deviation ("non-centred"), with c_k = 1
they stay where they are when the standard deviation moves ("centred"); c_k is in between by how well the data determine
effect k (Papaspiliopoulos, Roberts and Skoeld (2007), Statistical Science 22, 59-73).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import Status
from jaxnlme.estimators.core.objective import partial_sums
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.model import derivatives
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.linalg import cholesky, half_logdet
from jaxnlme.typing import Scalar, Vector


class Scaling(eqx.Module):
    """The map from coordinates of chains to parameters and effects.

    **Fields:** `centre` u0 (active,) and `factor` F (active, active); `modes` m (groups, random), `slopes` D (groups,
    random, active), `spread` C (groups, random, random); the last three have no groups where effects are integrated out
    (`starts` (groups, random) are then the starts of the mode searches); `centring` c (random,); `log_scale` (random,),
    log L_kk(u0); `distinct` (random,): the row of L of each random effect.
    """

    centre: Any
    factor: Any
    modes: Any
    slopes: Any
    spread: Any
    starts: Any
    centring: Any
    log_scale: Any
    distinct: Any

    @property
    def n_active(self) -> int:
        """Number of free parameters."""
        return self.centre.shape[0]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.n_active + self.modes.shape[0] * self.modes.shape[1]

    def parameters(self, x: Vector) -> Vector:
        """Free parameters u (active,) at coordinates `x` (n,)."""
        return self.centre + self.factor @ x[: self.n_active]

    def parameters_of_draws(self, x: np.ndarray) -> np.ndarray:
        """`parameters` (..., active) of coordinates `x` (..., n), on the host."""
        return np.asarray(self.centre) + x[..., : self.n_active] @ np.asarray(self.factor).T

    def before_centring(self, x: Vector) -> Any:
        """m + D (u - u0) + C zeta (groups, random) at coordinates `x` (n,)."""
        p = self.n_active
        zeta = x[p:].reshape(self.modes.shape)
        moved = self.modes + jnp.einsum("gqp,p->gq", self.slopes, self.factor @ x[:p])
        return moved + jnp.einsum("gqr,gr->gq", self.spread, zeta)


class Target(eqx.Module):
    """A log posterior density.

    **Fields:** `problem`; `packed` (packed,), the values of parameters that are fixed; `template`: Params of those
    shapes; `active`: positions of the free ones; `scaling`; `approximation`: that integrates the effects out, None for
    the joint density.
    """

    problem: Problem
    packed: Any
    template: Params
    active: tuple[int, ...] = eqx.field(static=True)
    scaling: Scaling
    approximation: LikelihoodApproximation | None

    def params(self, u: Vector) -> Params:
        """The Params of free parameters `u` (active,)."""
        return self.template.unpack(jnp.asarray(self.packed).at[np.array(self.active, int)].set(u))

    def log_density(self, x: Vector) -> Scalar:
        """The log posterior density at coordinates `x` (n,), up to a constant."""
        u = self.scaling.parameters(x)
        if self.approximation is not None:
            return self._collapsed(u) + self.log_prior(u)
        z, log_volume = self._effects(self.params(u), x)
        return self._joint(self.params(u), z) + log_volume + self.log_prior(u)

    def point(self, x: Vector) -> tuple[Vector, Any]:
        """Packed parameters (packed,) and whitened effects (groups, random) at coordinates `x` (n,)."""
        params = self.params(self.scaling.parameters(x))
        return params.pack(), self._effects(params, x)[0]

    def _effects(self, params: Params, x: Vector) -> tuple[Any, Scalar]:
        """Whitened effects (groups, random) at coordinates `x` (n,), and the log volume of the map from zeta to them,
        up to a constant."""
        scaling = self.scaling
        z = scaling.before_centring(x)
        if not z.size:
            return z, jnp.zeros(())
        power = scaling.centring * (log_scales(self.problem.density, params)[scaling.distinct] - scaling.log_scale)
        return z * jnp.exp(-power)[None], -z.shape[0] * jnp.sum(power)

    def log_prior(self, u: Vector) -> Scalar:
        """The log density of the priors and the log volume of the reported values, in free parameters `u`."""
        return self.problem.density.log_prior(self.params(u)) + self._log_volume(u)

    def _joint(self, params: Params, z: Any) -> Scalar:
        density, weights = self.problem.density, self.problem.weights

        def per_group(group: Any, z: Vector, weight: Scalar) -> Scalar:
            # A group of weight zero has the data of another one, and only the prior of its effects.
            prior = -0.5 * jnp.sum(z**2) - density.n_effects * HALF_LOG_2PI
            return jnp.where(weight == 0, prior, density.log_joint(params, z, group))

        return jnp.sum(self.problem.map(per_group, z, weights))

    def _collapsed(self, u: Vector) -> Scalar:
        assert self.approximation is not None
        fixed = jax.lax.stop_gradient(u)
        at = self.params(fixed).pack()
        sums, groups = partial_sums(self.problem, (self.approximation, self.template, at), self.scaling.starts)
        lost = jnp.any((groups.status == Status.mode_not_found) & (self.problem.weights != 0))
        value = jnp.where(lost, jnp.nan, sums.log_likelihood)
        # One pass computes value and exact score; the derivative of this expression is that score.
        score = jax.lax.stop_gradient(-sums.gradient)[np.array(self.active, int)]
        return jax.lax.stop_gradient(value) + jnp.sum(score * (u - fixed))

    def _log_volume(self, u: Vector) -> Scalar:
        """log sqrt(det(J'J)), J the derivatives of the reported values of psi and of the residual model in the free
        parameters behind them; fixed effects are reported as they are."""
        n_beta = self.template.beta.shape[0]
        first = sum(k < n_beta for k in self.active)
        if first == len(self.active):
            return jnp.zeros(())

        def tail(rest: Vector) -> Vector:
            return self.problem.density.reported(self.params(jnp.concatenate([u[:first], rest])))[n_beta:]

        jacobian = derivatives.jacobian(tail)(u[first:])
        return half_logdet(cholesky(jacobian.T @ jacobian))


def log_scales(density: Density, params: Params) -> Vector:
    """log L_kk (distinct effects,) of the factor L of psi; zero where L_kk is zero."""
    diagonal = jnp.diagonal(density.covariance.factor(params.covariance))
    positive = diagonal > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, diagonal, 1.0)), 0.0)
