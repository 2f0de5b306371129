"""LME and RELME: estimates by the fixed point of a linearised likelihood."""

from __future__ import annotations

from typing import Any, final

import equinox as eqx

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.estimators.core.base import AbstractEstimator, check_beta_integrable
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.lindstrom_bates.alternation import alternation_session
from jaxnlme.estimators.marginal.pipeline import run
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.numerics.arrays import number_to_array
from jaxnlme.results.record import FitRecord


@final
class LindstromBates(AbstractEstimator):
    """Estimates by the fixed point of a linearised likelihood.

    **Fields:** `method`: a `jn.LME(...)` or `jn.RELME(...)`; `max_iterations`; `tolerance`: the estimation ends when a
    further step would move no parameter by more than so many of its standard errors (1e-5 at most). The numbers are
    traced.
    """

    method: Linearised
    max_iterations: Any = eqx.field(default=RUN_SETTINGS.max_iterations, converter=number_to_array)
    tolerance: Any = eqx.field(default=RUN_SETTINGS.tolerance, converter=number_to_array)

    @property
    def restricted(self) -> bool:
        return self.method.restricted

    def run(self, model: NLMEModel, data: GroupedData, plan: Plan) -> FitRecord:
        return run(model, data, self, plan, alternation_session)

    def check(self, binding: Binding) -> None:
        """Check that the model can be linearised.

        **Raises:** ModelError if the response has no Gaussian moments (mean and covariance), or the structural model
        has free weights; OptionError for RELME if beta cannot be integrated out.
        """
        super().check(binding)
        if binding.start.free is not None:
            raise ModelError(
                f"{self.method.name} estimates no free weights of a structural model; use 'focei' or another "
                "likelihood approximation."
            )
        if self.restricted:
            check_beta_integrable(binding, self.name)
