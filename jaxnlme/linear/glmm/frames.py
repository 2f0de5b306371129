"""The tables of a generalised linear mixed model by row: `diagnostics` and `augment`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.tidy import with_columns
from jaxnlme.errors import ModelError
from jaxnlme.linear.frames import table_with
from jaxnlme.linear.glmm.response import proportions

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.linear.glmm.fit import GeneralisedLinearFit


def diagnostics(fit: GeneralisedLinearFit) -> pd.DataFrame:
    """The table behind `fit.diagnostics()` of a generalised linear mixed model.

    **Returns:** a data frame in the order of the rows of the fit: columns of the grouping factors; `DV`, the response
    (a proportion where there are several trials, which `TRIALS` counts); `PRED` and `IPRED`, the mean without random
    effects and given those of all units; `IRES`, DV less IPRED; `PEARSON` and `DEVIANCE` residuals (see
    `residuals`); the other columns of the formula. A column of the data that has one of these names is called
    NAME_data.
    **Raises:** ModelError for an ordinal outcome, which has a probability for each category and no mean.
    """
    refuse_ordinal(fit, "fit.diagnostics()")
    response, table = fit.declaration.response, fit.residuals()
    trials = {} if response.trials is None else {"TRIALS": response.trials}
    columns = {"DV": proportions(response), **trials, "PRED": fit.predict(level="population"), "IPRED": fit.predict()}
    columns |= {"IRES": table["response"], "PEARSON": table["pearson"], "DEVIANCE": table["deviance"]}
    return table_with(fit.declaration.frame, fit.declaration.formula, columns)


def augment(fit: GeneralisedLinearFit, data: Any = None) -> Any:
    """The table behind `fit.augment()` of a generalised linear mixed model.

    **Arguments:** `data`: None for the rows of the fit, or a table with the columns of the formula; the response may be
    absent.
    **Returns:** the table, a polars frame where it is one and a pandas frame otherwise, with `.fitted`, the mean given
    the random effects (a proportion where there are several trials), `.resid`, response less `.fitted`, and `.fixed`,
    the mean without random effects.
    **Raises:** as `fit.predict`; ModelError for an ordinal outcome.
    """
    refuse_ordinal(fit, "fit.augment()")
    fitted, fixed = fit.predict(data).to_numpy(), fit.predict(data, level="population").to_numpy()
    if data is None:
        return with_columns(fit.declaration.frame, fitted, proportions(fit.declaration.response), fixed)
    response = fit.response_of(data)
    y = np.full(len(fitted), np.nan) if response is None else proportions(response)
    return with_columns(data, fitted, y, fixed)


def refuse_ordinal(fit: GeneralisedLinearFit, caller: str) -> None:
    """**Raises:** ModelError for an ordinal outcome."""
    if fit.family == "ordinal":
        raise ModelError(
            f"{caller} needs one prediction for each row, and an ordinal outcome has a probability for each category; "
            "use fit.predict(), the probabilities by row."
        )
