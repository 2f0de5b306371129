"""What every estimator says of itself."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from jaxnlme.model.binding import Binding


class AbstractEstimator(eqx.Module):
    """A method and how long it is worked at: `method`, a likelihood; `max_iterations`; `tolerance`, the predicted gain
    (log-likelihood units) at which it ends. The numbers are traced."""

    method: eqx.AbstractVar[Any]
    max_iterations: eqx.AbstractVar[Any]
    tolerance: eqx.AbstractVar[Any]

    @property
    def restricted(self) -> bool:
        """Whether beta is integrated out of the likelihood."""
        return False

    @property
    def name(self) -> str:
        """The likelihood's name, for messages."""
        return self.method.name

    def check(self, binding: Binding) -> None:
        """**Errors:** ModelError where the model does not suit the method."""
        self.method.check(binding.density)
