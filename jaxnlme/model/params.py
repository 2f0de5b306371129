"""Params: the values of a model's parameters as a pytree of blocks, and their packed vector."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from jaxnlme.numerics.arrays import xp
from jaxnlme.typing import Vector


class Params(eqx.Module):
    """The parameters of a model on their unconstrained scales.

    `beta` (fixed,), on the transformed scale; `covariance` (unconstrained,), theta of the covariance family;
    `error` (unconstrained,), theta of the residual model; `free`, a pytree of the array leaves of the structural model
    (an Equinox module's weights), None elsewhere: gradient training reaches it, the information matrix leaves it out.
    """

    beta: Any
    covariance: Any
    error: Any
    free: Any = None

    def pack(self) -> Vector:
        """The dense vector (beta, covariance, error), without the free block."""
        return xp(self.beta).concatenate([self.beta, self.covariance, self.error])

    def unpack(self, vector: Vector, free: Any = None) -> Params:
        """Params of the same shape from a dense vector; `free` replaces the free block where given."""
        p, c = self.beta.shape[0], self.covariance.shape[0]
        return Params(vector[:p], vector[p : p + c], vector[p + c :], self.free if free is None else free)
