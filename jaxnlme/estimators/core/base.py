"""What every estimator says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.results.inference import direction_words


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
    def identity(self) -> list[Any]:
        """What must be the same for a fit to go on from a checkpoint."""
        return [self.method, self.restricted]

    @property
    def name(self) -> str:
        """The likelihood's name, for messages."""
        return self.method.name

    def thread_rows(self, groups: int) -> int | None:
        """Rows of data that are worth a thread of their own on a CPU, of so many `groups`; None: as many as usual."""
        return None

    def check(self, binding: Binding) -> None:
        """**Errors:** ModelError where the model does not suit the method."""
        self.method.check(binding.density)


def check_integrated(binding: Binding, what: str) -> None:
    """**Errors:** OptionError where fixed effects cannot be integrated out under a flat prior: none is free, or one
    that is has a prior of its own. `what` names the method, in the messages."""
    density = binding.density
    free = [name for name, held in zip(density.beta_names, binding.fixed, strict=False) if not held]
    if not free:
        raise OptionError(f"{what} integrates the unfixed fixed effects out, and this model has none.")
    told = [name for name in density.prior_names if name in free]
    if told:
        raise OptionError(
            f"{what} integrates the fixed effects out under a flat prior, and {', '.join(told)} has a prior of its "
            "own; leave it out, fix the value, or fit by a likelihood that is not restricted."
        )


def uninformed(singular: Sequence[dict[str, float]]) -> str:
    """Why there is no restricted likelihood where the information on beta has `singular` directions."""
    terms = "; ".join(map(direction_words, singular))
    along = f" along the direction {terms} (shares of standardised parameters)" if terms else ""
    return (
        f"The restricted likelihood needs information on every fixed effect, and the data carry none{along}: fix one "
        "of them or leave it out, or start from other values."
    )
