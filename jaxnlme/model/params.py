"""Params: the values of a model's parameters as a pytree, and their packed vector."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from jaxnlme.errors import ModelError
from jaxnlme.numerics.arrays import xp
from jaxnlme.typing import Vector


class Params(eqx.Module):
    """The parameters of a model on their unconstrained scales; `NLMEModel.params` makes them from natural values.

    **Arguments:**

    - `beta` (fixed,): fixed effects, on the transformed scale.
    - `covariance` (unconstrained,): theta of the covariance family of the random effects.
    - `error` (unconstrained,): theta of the residual model.
    - `free`: the Networks of the model: the arrays (weights) of its Equinox modules; None where it has none. They have
      gradients, but are not part of the information matrix.

    **Example:**

    ```python
    params = model.params(data, {"cl": 3.0})
    params.unpack(params.pack())
    ```
    """

    beta: Any
    covariance: Any
    error: Any
    free: Any = None

    def pack(self) -> Vector:
        """The vector (packed,) of beta, covariance and error, without the free block."""
        return xp(self.beta).concatenate([self.beta, self.covariance, self.error])

    def unpack(self, vector: Vector, free: Any = None) -> Params:
        """Params with the block sizes of these from `vector` (packed,); `free` None keeps the free block."""
        p, c = self.beta.shape[0], self.covariance.shape[0]
        return Params(vector[:p], vector[p : p + c], vector[p + c :], self.free if free is None else free)


def check_params(value: Any) -> None:
    """**Raises:** ModelError where `value` is not a Params."""
    if not isinstance(value, Params):
        raise ModelError(f"params must be a Params, from model.params(data); received {type(value).__name__}.")
