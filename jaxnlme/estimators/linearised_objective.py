"""The linearised model's likelihood over all groups: the one program that LME and RELME compile."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.estimators.objective import Groups, Sums, added_up, unflatten, weighted_sum
from jaxnlme.likelihood.linearised import Linearised, linearised
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.typing import Vector


def share_linearised(
    problem: Problem, point: tuple[Linearised, Params, Vector, Vector], modes: Any
) -> tuple[Sums, Groups]:
    """What the groups of `problem` add to the likelihood at x of the model linearised at `about`; see
    `objective.share`.

    **Arguments:** `point`: the method, the template of Params, `about` (n,) and x (n,).
    """
    method, template, about, x = point
    density, weights = problem.density, problem.weights
    there, params = unflatten(template, about), unflatten(template, x)
    found = problem.map(lambda group, z0: linearised(method, density, there, params, group, z0), modes)
    model = found.mixed
    sums, groups = added_up(weights, found.result, model.score, weighted_sum(weights, model.score))
    slopes = None
    if method.restricted:
        # psi moves X' V^-1 X by -(B' Q A)' dpsi (B' Q A).
        spread = jnp.moveaxis(jax.jacfwd(density.covariance.psi)(params.covariance), -1, 0)
        crossed = weighted_sum(weights, model.crossed)
        by_psi = -jnp.einsum("rab,abjk->rjk", spread, crossed)
        slopes = jnp.concatenate([by_psi, weighted_sum(weights, model.bent)])
    information = weighted_sum(weights, model.information)
    return dataclasses.replace(sums, information=information, slopes=slopes), groups


def with_beta_integrated(sums: Sums, free: np.ndarray) -> Sums:
    """The Sums with beta integrated out: p log(2 pi) / 2 - log|X' V^-1 X| / 2 added to the log-likelihood."""
    p = sums.information.shape[0]
    moving = np.flatnonzero(free[:p])
    information = sums.information[np.ix_(moving, moving)]
    sign, logdet = np.linalg.slogdet(information)
    extra = len(moving) * HALF_LOG_2PI - 0.5 * logdet if sign > 0 else np.nan
    gradient = np.array(sums.gradient)
    if sign > 0:
        slopes = sums.slopes[:, moving][:, :, moving]
        gradient[p:] += 0.5 * np.einsum("jk,rkj->r", np.linalg.inv(information), slopes)
    return dataclasses.replace(
        sums, value=sums.value - extra, gradient=gradient, log_likelihood=sums.log_likelihood + extra
    )
