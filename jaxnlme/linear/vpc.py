"""Visual predictive checks of a linear mixed model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.vpc.check import vpc
from jaxnlme.diagnostics.vpc.record import Vpc
from jaxnlme.errors import OptionError, check_whole_number, near_matches
from jaxnlme.formulas.frames import as_table
from jaxnlme.linear.frames import covariate_columns

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


def vpc_of_linear_fit(
    fit: LinearFit,
    x: str | None = None,
    replicates: int = 1000,
    seed: int = 0,
    stratify: Any = None,
    prediction_corrected: bool = False,
    **options: Any,
) -> Vpc:
    """Visual predictive check of the rows of a fit: percentiles of the responses by bin of a column, and intervals of
    the same percentiles over simulated tables, with random effects and residuals drawn anew.

    **Arguments:** `x`: a column of numbers of the table, the first such covariate of the formula where None;
    `replicates`, simulated by `fit.simulate(replicates, seed)`; `stratify`: as of `jn.vpc`, with columns of the table;
    `prediction_corrected`: responses brought to the median prediction without random effects of their bin; `options`:
    `bins`, `n_bins`, `centre`, `percentiles`, `level`, `lower`, `log`, `variance_corrected`, as of `jn.vpc`.
    **Returns:** a Vpc, with tables and `plot()`.
    **Raises:** OptionError for a column that is not there or has no numbers, and as `jn.vpc`.
    """
    replicates = check_whole_number("replicates", replicates, 2, "the number of simulated data sets")
    columns = covariate_columns(fit)
    numbers = [str(name) for name in columns if columns[name].dtype.kind in "iuf"]
    x = x if x is not None else numbers[0] if numbers else None
    if x is None:
        raise OptionError("the formula has no covariate of numbers for the horizontal axis; name a column by x=.")
    available = list(map(str, fit.model.frame))
    if x not in available:
        raise OptionError(f"x: no column {x!r}; {near_matches(str(x), available)}")
    table = as_table(fit.model.frame, available)
    y, group = str(fit.model.formula.response), None
    table = table.assign(**{y: fit.model.y})
    if fit.model.groupings:
        outer = fit.model.groupings[0]
        group = outer.label
        table = table.assign(**{group: np.asarray(outer.units.codes)}) if group not in table else table
    prediction = np.asarray(fit.predict(level="population")) if prediction_corrected else None
    return vpc(
        table, fit.simulate(replicates, seed), x=x, y=y, group=group, stratify=stratify, prediction=prediction,
        prediction_corrected=prediction_corrected, **options,
    )  # fmt: skip
