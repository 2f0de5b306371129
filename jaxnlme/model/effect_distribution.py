"""Distributions of the random effects other than the Gaussian one: b = L u, with u a transformation of z ~ N(0, I).

The integrals of all methods are over z, which stays standard normal, so a distribution needs no density of its own: a
likelihood changes only through the map from z to b (`Density.effects`). Where u has mean zero and the identity as its
covariance, psi = L L' is the covariance of b, as it is for Gaussian effects.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx

from jaxnlme.errors import ModelError
from jaxnlme.model.params import Params
from jaxnlme.typing import Vector


class AbstractEffectDistribution(eqx.Module):
    """A distribution of the random effects b = L u(z), z ~ N(0, I)."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """The distribution in words, for summaries and messages."""

    @abc.abstractmethod
    def resolve(self, effects: tuple[str, ...]) -> tuple[AbstractEffectDistribution, Any]:
        """The distribution for a model with the random effects called `effects`, and the arrays that it adds to the
        free block of Params (None for none).

        **Raises:** ModelError where it does not apply to them.
        """

    def starting_at(self, arrays: Any) -> AbstractEffectDistribution:
        """The distribution that starts at `arrays` of the free block (None: as it is)."""
        return self

    @abc.abstractmethod
    def transform(self, params: Params, z: Vector) -> Vector:
        """u (random,) at `z` (random,); differentiable to every order."""


def require_gaussian_effects(name: str, density: Any) -> None:
    """Check that the random effects are Gaussian, for a method called `name` that needs it.

    **Raises:** ModelError where they are not.
    """
    distribution = density.effect_distribution
    if distribution is not None:
        raise ModelError(
            f"{name} needs Gaussian random effects, and those of this model have {distribution.description}; use "
            "'laplace', 'focei', jn.AGQ(...) or jn.ImportanceSampling(...), or jn.Gradient(...) by one of them."
        )
