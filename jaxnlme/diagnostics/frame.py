"""`diagnostics`: one table of a fit, ready to plot, with responses, predictions, residuals and covariates by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, require_host
from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.residuals import residuals
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.results.predict import predict

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

RESIDUALS = ("pres", "ires", "pwres", "iwres", "cwres")


def diagnostics(fit: FitRecord, rows: str = "observed") -> pd.DataFrame:
    """The table behind `fit.diagnostics()`.

    **Arguments:** `rows`: "observed", the rows with a response, or "all", also those without (dose records, times of
    predictions), whose DV and residuals are NaN.
    **Returns:** a data frame in the order of the rows handed in, with their index: labels of the groups and nested
    units; columns of x, endpoint among them; `DV`; `PRED`, the prediction at b = 0, and `IPRED`, at the conditional
    modes; residuals PRES, IRES, PWRES, IWRES and CWRES (see `residuals`; none for an outcome without mean and scale);
    `censored` and the limits of quantification where the data have any, beside which DV is the limit; covariates, those
    of the group repeated. A column of the data that has one of these names is called NAME_data.
    **Raises:** OptionError for other `rows`; ModelError where the structural model does not return one number per row;
    FitError where the fit has no estimates.
    """
    require_host("fit.diagnostics")
    check_choice("rows", rows, ("observed", "all"))
    require_estimates(fit)
    columns = {"PRED": predict(fit, None, "population"), "IPRED": predict(fit, None, "group")}
    if fit.binding.density.error.has_residuals:
        table = residuals(fit, RESIDUALS)
        columns |= {kind.upper(): table[kind] for kind in RESIDUALS}
    return diagnostic_frame(fit.data, columns, rows)


def diagnostic_frame(data: GroupedData, columns: dict[str, Any], rows: str) -> pd.DataFrame:
    """The table of `diagnostics` from its computed `columns` by name, each (rows,) in the order of the data."""
    import pandas as pd

    table, limits = data.to_frame(), data.limits
    response = table.pop(data.y_name)
    of_limits = [] if limits is None else [name for name in limits.columns() if name not in {**data.x, **data.v}]
    own = [*data.level_names]
    by_row = [*data.x, *(name for name, values in data.text.items() if values.ndim == 2)]
    covariates = [name for name in table if name not in by_row and name not in own and name not in of_limits]
    values = {"DV": response.to_numpy(), **{name: np.asarray(column) for name, column in columns.items()}}
    values |= {name: table[name].to_numpy() for name in of_limits}
    if limits is not None and limits.censored.any():
        values["censored"] = data.rows_to_column(limits.censored)
    names = {name: f"{name}_data" for name in [*by_row, *covariates] if name in values}
    parts = [table[own], table[by_row], pd.DataFrame(values, index=table.index), table[covariates]]
    parts[1], parts[3] = parts[1].rename(columns=names), parts[3].rename(columns=names)
    out = pd.concat(parts, axis=1).set_index(data.row_labels)
    return out if rows == "all" else out[data.rows_to_column(data.observed)]
