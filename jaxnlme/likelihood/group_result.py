"""The likelihood of one group, with what it was computed from and its status."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.errors import Status
from jaxnlme.likelihood.integrals import MonteCarloError
from jaxnlme.model.density import Group
from jaxnlme.numerics.linalg import cholesky, half_logdet
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.typing import Scalar, Vector


class GroupResult(eqx.Module):
    """Likelihood of one group.

    **Fields:** `value`: log p(y); `mode` (random,): whitened effects at which the integrand was expanded; `status`: a
    Status code; `evaluations`: of the mode search; `curvature` (random, random): H there; `monte_carlo`: the Monte
    Carlo error; `joint`: log joint density at the mode, NaN where none was searched.
    """

    value: Any
    mode: Any
    status: Any
    evaluations: Any
    curvature: Any
    monte_carlo: MonteCarloError
    joint: Any


def group_result(
    value: Scalar,
    z: Vector,
    hessian: Any,
    monte_carlo: MonteCarloError,
    search: NewtonResult | None,
    group: Group,
    positive_definite: Any = None,
) -> GroupResult:
    """The GroupResult of one group, with its status. A group without an observed response has likelihood one and mode
    zero, exactly.

    **Arguments:** `value`: log p(y); `z` (random,): where the integrand was expanded; `hessian` (random, random): the
    curvature there; `monte_carlo`: the Monte Carlo error; `search`: the outcome of the mode search, None if there was
    none; `group`; `positive_definite`: the curvature is, None: to be found out here by a factorisation.
    """
    converged = jnp.ones((), bool) if search is None else search.converged
    finite_start = jnp.isfinite(value) if search is None else search.finite
    evaluations = jnp.ones((), int) if search is None else search.evaluations
    joint = jnp.full((), jnp.nan) if search is None else -search.value
    status = jnp.where(converged, Status.ok, Status.mode_not_found)
    # The factor of a curvature that is not positive definite is NaN. With a finite factor the value can still be NaN,
    # at a node of the integral.
    if positive_definite is None:
        positive_definite = jnp.isfinite(half_logdet(cholesky(jax.lax.stop_gradient(hessian))))
    status = jnp.where(
        jnp.isfinite(value), status, jnp.where(positive_definite, Status.non_finite, Status.not_a_maximum)
    )
    status = jnp.where(jnp.all(jnp.isfinite(hessian)), status, Status.non_finite)
    status = jnp.where(finite_start, status, Status.non_finite_start)
    observed = jnp.any(group.x.observed)
    status = jnp.where(observed, status, Status.no_observations)
    value, z = jnp.where(observed, value, 0.0), jnp.where(observed, z, 0.0)
    monte_carlo = MonteCarloError(jnp.where(observed, monte_carlo.variance, 0.0), monte_carlo.ess)
    return GroupResult(value, z, status, evaluations, hessian, monte_carlo, joint)
