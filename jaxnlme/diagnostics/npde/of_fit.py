"""npd and npde of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.diagnostics.npde.compute import Options, compute
from jaxnlme.diagnostics.npde.record import Npde, npde_record
from jaxnlme.diagnostics.npde.settings import NPDE
from jaxnlme.diagnostics.simulations import simulated_responses
from jaxnlme.errors import check_whole_number

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def npde_of_fit(
    fit: FitRecord,
    replicates: int = NPDE.replicates,
    seed: int = 0,
    decorrelation: str = "cholesky",
    censoring: str = "cdf",
    ties: str = "below",
) -> Npde:
    """npd and npde of the observations of a fit, from responses simulated at its estimates; see `Fit.npde`."""
    require_host("fit.npde")
    options = Options(decorrelation, censoring, ties, seed)
    replicates = check_whole_number("replicates", replicates, 2, "the number of simulated data sets")
    limits = fit.data.limits
    ipred = None
    if censoring == "ipred" and limits is not None and limits.censored.any():
        ipred = np.asarray(fit.predict(level="group"))
    columns = compute(fit.data, simulated_responses(fit, replicates, seed), ipred, options)
    return npde_record(fit.data, columns, options, replicates)
