"""The tables of a generalised linear mixed model by row: `diagnostics` and `augment`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.tidy import with_columns
from jaxnlme.errors import ModelError, OptionError, near_matches
from jaxnlme.linear.frames import table_with
from jaxnlme.linear.glmm.densities import PROBABILITIES
from jaxnlme.linear.glmm.links import link_of
from jaxnlme.linear.glmm.response import proportions
from jaxnlme.results.predict_interval import check_interval

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


def predict_interval(
    fit: GeneralisedLinearFit, data: Any, level: Any, scale: str, predict: Callable[..., Any], options: dict[str, Any]
) -> pd.DataFrame:
    """The table of `fit.predict(interval=...)`.

    **Arguments:** `data`, `level`, `scale`: as there; `predict`: on the scale of the link, of data in groups; `options`
    of the interval.
    """
    names = ("interval", "uncertainty", "draws", "seed")
    unknown = [name for name in options if name not in names]
    if unknown:
        raise OptionError(f"fit.predict() has no option {unknown[0]!r}; {near_matches(unknown[0], ['scale', *names])}")
    sources, _, _ = check_interval(*(options.get(name) for name in names))
    if not sources:
        return fit.predict(data, level, scale=scale)
    refuse_ordinal(fit, "fit.predict(interval=...)")
    trials = fit.trials_column
    grouped = fit.grouped(data, level, "residual" in sources and trials is not None)
    table = predict(grouped, level, **options)
    if scale == "link":
        if "residual" in sources:
            raise OptionError(
                "scale='link' has no residuals: leave them out, as in uncertainty=['parameters', 'effects'], or use "
                "scale='response'."
            )
        return table
    link = link_of(fit.link, fit.family in PROBABILITIES)
    for name in ("prediction",) if "residual" in sources else ("prediction", "lower", "upper"):
        eta = table[name].to_numpy()
        with np.errstate(all="ignore"):
            table[name] = link.inverse(np.where(link.within(eta), eta, np.nan))
    if "residual" not in sources:
        limits = table[["lower", "upper"]].to_numpy()
        table["lower"], table["upper"] = limits.min(axis=1), limits.max(axis=1)
    elif trials is not None:
        rows = fit.data if grouped is None else grouped
        table["prediction"] *= rows.rows_to_column(rows.x[trials])
    return table


def refuse_ordinal(fit: GeneralisedLinearFit, caller: str) -> None:
    """**Raises:** ModelError for an ordinal outcome."""
    if fit.family == "ordinal":
        raise ModelError(
            f"{caller} needs one prediction for each row, and an ordinal outcome has a probability for each category; "
            "use fit.predict(), the probabilities by row."
        )
