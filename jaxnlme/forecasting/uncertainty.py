"""The option `uncertainty` of simulations and forecasts; the draws themselves are in `results/parameter_draws.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.arguments import real_number
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.forecasting.settings import POPULATION


def number_of_draws(uncertainty: Any) -> int:
    """The option `uncertainty` as a number of draws of the parameters, 0 for none.

    **Raises:** OptionError for anything but True, False and a number of draws, at least 2.
    """
    if isinstance(uncertainty, (bool, np.bool_)):
        return POPULATION.parameter_draws if uncertainty else 0
    if real_number(uncertainty) is None:
        raise OptionError(f"uncertainty must be True, False, or a number of draws; received {shown(uncertainty)}.")
    return check_whole_number("uncertainty, the number of parameter draws,", uncertainty, 2)
