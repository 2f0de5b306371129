"""Abstract base of all estimators, and checks that several of them need."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import equinox as eqx

from jaxnlme.arguments import check_count, check_number
from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.results.inference import direction_words
from jaxnlme.signatures import check_call

if TYPE_CHECKING:
    from jaxnlme.binding.model import NLMEModel
    from jaxnlme.data.grouped import GroupedData
    from jaxnlme.estimators.core.plan import Plan
    from jaxnlme.results.record import FitRecord


class AbstractEstimator(eqx.Module):
    """An estimation method with its limits.

    **Fields:** `method`, the likelihood or its approximation; `max_iterations`; `tolerance`, the predicted gain of a
    further step (log-likelihood units) below which it ends. The numbers are traced.
    """

    method: eqx.AbstractVar[Any]
    max_iterations: eqx.AbstractVar[Any]
    tolerance: eqx.AbstractVar[Any]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        check_count("max_iterations", self.max_iterations, 0)
        check_number("tolerance", self.tolerance, 0.0, above=True)

    @property
    def restricted(self) -> bool:
        """True if beta is integrated out of the likelihood (REML)."""
        return False

    @property
    def identity(self) -> list[Any]:
        """Settings that a checkpoint must have in common with a fit that resumes from it."""
        return [self.method, self.restricted]

    @property
    def name(self) -> str:
        """Name of the likelihood, for messages."""
        return self.method.name

    def thread_rows(self, groups: int) -> int | None:
        """Least number of data rows for which a further CPU thread pays off, for data of so many `groups`; None for the
        default."""
        return None

    @property
    def begins_with_information(self) -> bool:
        """True if the method uses the information matrix of the fit that it starts from."""
        return False

    @property
    def own_limits(self) -> str:
        """Sentence on the options that limit the run, for calls that give max_iterations or tolerance beside it."""
        return "has max_iterations and tolerance of its own; give them there, or name the method itself."

    @property
    def omits_likelihood(self) -> bool:
        """True if the user asked that no log-likelihood be computed at the end."""
        return False

    @abc.abstractmethod
    def run(self, model: NLMEModel, data: GroupedData, plan: Plan) -> FitRecord:
        """The record of a fit by this method; `plan` holds the options of `fit`.

        **Raises:** DataError, ModelError, OptionError for errors found before iterating.
        """

    def check(self, binding: Binding) -> None:
        """Check that the method applies to the model of `binding`.

        **Raises:** ModelError if it does not.
        """
        self.method.check(binding.density)


def check_beta_integrable(binding: Binding, method_name: str) -> None:
    """Check that the fixed effects can be integrated out under a flat prior; `method_name` appears in the messages.

    **Raises:** OptionError if no fixed effect is free, or if a free one has a prior of its own.
    """
    density = binding.density
    free = [name for name, fixed in zip(density.beta_names, binding.fixed, strict=False) if not fixed]
    if not free:
        raise OptionError(f"{method_name} integrates the unfixed fixed effects out, and this model has none.")
    with_prior = [name for name in density.prior_names if name in free]
    if with_prior:
        raise OptionError(
            f"{method_name} integrates the fixed effects out under a flat prior, and {', '.join(with_prior)} has a "
            "prior of its own; leave it out, fix the value, or fit by a likelihood that is not restricted."
        )


def no_information_on_beta(singular: Sequence[dict[str, float]]) -> str:
    """Sentence for a restricted likelihood that does not exist: the information on beta is singular.

    **Arguments:** `singular`: the directions without information, each a mapping of names to shares.
    """
    terms = "; ".join(map(direction_words, singular))
    direction = f" along the direction {terms} (shares of standardised parameters)" if terms else ""
    return (
        f"The restricted likelihood needs information on every fixed effect, and the data carry none{direction}: fix "
        "one of them or leave it out, or use other starting values."
    )
