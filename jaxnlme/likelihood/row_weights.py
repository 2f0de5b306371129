"""A weight for every row of a group: the log-density of the group with that of each row multiplied by its weight.

With weights of one it is the density itself, and a weight of zero leaves the row out. The curvature of FO, FOCE and
FOCEI is weighted in the same way, so that this holds for every likelihood approximation.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.binding.problem import Problem
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import gradient
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.correlation_base import AbstractFactor, Independent
from jaxnlme.typing import Vector


class WeightedRowsGroup(Group):
    """A Group with `row_weights` (obs,)."""

    row_weights: Any = None


class WeightedRowsFactor(AbstractFactor):
    """The factor of independent residuals whose squares are multiplied by `weights` (obs,)."""

    weights: Any

    @property
    def half_logdet(self):
        return jnp.zeros(())

    def whiten(self, residual):
        return jnp.sqrt(self.weights) * residual

    def interaction(self, slopes):
        left, right = Independent().interaction(slopes)
        root = jnp.sqrt(self.weights)
        return tuple(root * each for each in left), tuple(root * each for each in right)


class WeightedRowsError(AbstractError):
    """The residual model `base`, independent over rows, of a WeightedRowsGroup."""

    base: AbstractError

    @property
    def parameters(self):
        return self.base.parameters

    @property
    def formula(self):
        return self.base.formula

    @property
    def has_gaussian_moments(self):
        return self.base.has_gaussian_moments

    @property
    def has_location_and_scale(self):
        return self.base.has_location_and_scale

    @property
    def is_limited(self):
        return self.base.is_limited

    @property
    def n_endpoints(self):
        return self.base.n_endpoints

    def with_arrays(self, arrays):
        return WeightedRowsError(self.base.with_arrays(arrays))

    def natural(self, theta):
        return self.base.natural(theta)

    def moments(self, prediction, scale_prediction, theta, group):
        return self.base.moments(prediction, scale_prediction, theta, group)

    def limit_curvature(self, prediction, scale_prediction, theta, group):
        return group.row_weights * self.base.limit_curvature(prediction, scale_prediction, theta, group)

    def factor(self, theta, group):
        return WeightedRowsFactor(group.row_weights) if self.has_gaussian_moments else Independent()

    def standardised(self, prediction, scale_prediction, theta, group):
        r, terms = self.base.standardised(prediction, scale_prediction, theta, group)
        return r, group.row_weights * terms

    def log_density(self, prediction, scale_prediction, theta, group, factor=None):
        if self.has_gaussian_moments:
            r, terms = self.base.standardised(prediction, scale_prediction, theta, group)
            return jnp.sum(group.row_weights * (terms - 0.5 * r**2))
        terms, constant = self.base.row_terms(prediction, theta, group)
        return jnp.sum(group.row_weights * terms) + constant


def row_slopes(problem: Problem, method: LikelihoodApproximation, params: Params, modes: jax.Array) -> list[Vector]:
    """The derivatives of the log-likelihood of each group in the weights of its rows, at weights of one, through the
    conditional mode: for each bucket (groups, obs), zero in rows without a response.

    **Arguments:** `modes` (groups, random): where the mode searches start, whitened.
    """
    density = problem.density
    weighted: Density = dataclasses.replace(density, error=WeightedRowsError(density.error))

    def per_group(group: Group, z0: Vector) -> Vector:
        fields = {field.name: getattr(group, field.name) for field in dataclasses.fields(Group)}

        def value(weights: Vector) -> Any:
            return method.evaluate(weighted, params, WeightedRowsGroup(**fields, row_weights=weights), z0).value

        slopes = gradient(value)(jnp.ones_like(group.y))
        return jnp.where(group.x.observed, slopes, 0.0)

    return problem.map_buckets(per_group, modes)


def has_rows(problem: Problem, params: Params) -> bool:
    """True where the log-density of every group is a sum over its rows, and residuals are independent."""
    density = problem.density
    if density.error.n_correlation:
        return False
    for bucket in problem.buckets:
        group = jax.tree.map(lambda leaf: leaf[0], bucket)
        f = eqx.filter_eval_shape(density.predict, params, jnp.zeros(density.n_effects), group)
        if not density.error.has_row_terms(f, params.error, group):
            return False
    return True
