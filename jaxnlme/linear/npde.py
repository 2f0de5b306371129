"""npd and npde of a linear mixed model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.npde.compute import Options, compute
from jaxnlme.diagnostics.npde.record import Npde, npde_record
from jaxnlme.errors import OptionError, check_whole_number
from jaxnlme.formulas.mixed import used_columns

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


def npde_of_linear_fit(fit: LinearFit, replicates: int, seed: int, decorrelation: str, ties: str) -> Npde:
    """npd and npde of the rows of a fit, decorrelated within the units of its outermost grouping factor, or the series
    of a model without random effects (each row by itself where it has none).

    **Arguments:** `replicates`, data sets simulated by `fit.simulate(replicates, seed)`; `decorrelation`: "cholesky",
    "inverse" or "none"; `ties`: "below" or "random". See `jn.npde`.
    **Returns:** an Npde, with `table`, `tests` and `moments`.
    **Raises:** OptionError for other options, and for a decorrelation of rows with crossed factors.
    """
    options = Options(decorrelation, "omit", ties, seed)
    replicates = check_whole_number("replicates", replicates, 2, "the number of simulated data sets")
    if not fit.model.nested and len(fit.model.groupings) > 1 and decorrelation != "none":
        factors = ", ".join(grouping.label for grouping in fit.model.groupings)
        raise OptionError(
            f"the grouping factors {factors} are crossed, so that all rows are correlated and no group of rows can be "
            "decorrelated by itself; decorrelation='none' gives npd."
        )
    data = _grouped(fit)
    draws = fit.simulate(replicates, seed)
    return npde_record(data, compute(data, draws, None, options), options, replicates)


def _grouped(fit: LinearFit) -> GroupedData:
    """The rows of the fit as GroupedData: units of the outermost factor as groups, columns of the formula as x."""
    frame, groupings = fit.model.frame, fit.model.groupings
    name, y_name = "group", fit.model.formula.response
    if groupings:
        name, units = groupings[0].label, groupings[0].units
        labels = [units.labels[code] for code in units.codes.tolist()]
        labels = [", ".join(map(str, label)) if isinstance(label, tuple) else label for label in labels]
    else:
        labels = (np.arange(len(frame)) if fit.series is None else fit.series).tolist()
    used = [column for column in used_columns(fit.model.formula) if column not in (name, y_name)]
    columns = {column: frame[column] for column in used if column.isidentifier()}
    table = {name: labels, y_name: fit.model.y, **columns}
    data = GroupedData.from_frame(table, name, y_name, list(columns))
    return dataclasses.replace(data, index=frame.index)
