"""Replicates of the data simulated from a fit, for diagnostics that compare them with the observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.errors import check_whole_number

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def simulated_responses(fit: FitRecord, replicates: int, seed: int) -> np.ndarray:
    """Responses simulated from a fit for its own rows: new random effects for every group, new residuals for every row.

    Replicate r is that of `fit.simulate(n, seed)` for any n > r: both run the same compiled program, some replicates at
    a time, so that memory is that of the result and of one call (`SIMULATION.cells_per_call`).

    **Arguments:** `replicates`, their number; `seed`, a whole number.
    **Returns:** (replicates, rows), rows in the order of the table, as those of `fit.residuals()`; NaN in rows without
    a response. Limits of quantification are not applied: a response beyond a limit is returned as it was drawn.
    **Raises:** OptionError for other arguments; ModelError where the outcome cannot be drawn; FitError where the fit
    has no estimates.
    """
    require_host("a simulation of a Fit")
    replicates = check_whole_number("replicates", replicates, 1, "the number of simulated data sets")
    seed = check_whole_number("seed", seed, 0, "which the random numbers follow from")
    out = np.array(fit.simulate(replicates, seed))
    out[:, ~fit.data.rows_to_column(fit.data.observed)] = np.nan
    return out
