"""Predictions and residuals of linear mixed models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_choice
from jaxnlme.errors import DataError, OptionError, near_matches, shown, some
from jaxnlme.formulas.mixed import used_columns
from jaxnlme.formulas.units import Units, group_units
from jaxnlme.results.predict_interval import check_sources

if TYPE_CHECKING:
    from jaxnlme.linear.declaration import Grouping
    from jaxnlme.linear.record import LinearFit


def predict(
    fit: LinearFit,
    data: Any = None,
    level: str | int | None = None,
    *,
    interval: float | None = None,
    uncertainty: str | Sequence[str] | None = None,
) -> Any:
    """X beta + Z b, with the random effects of some levels; with `interval` also limits.

    **Arguments:**

    - `data`: a table with the columns of the formula, None for that of the fit.
    - `level`: None for all grouping factors, "population" or 0 for none, k or a label for the first k nested levels.
    - `interval`: the probability of intervals, such as 0.95: symmetric, of each row by itself, normal, variances and
      covariances taken as known.
    - `uncertainty`: what the intervals account for, any of "parameters" (the fixed effects), "effects" and "residual"
      (a new response; without it the interval is that of the mean). None: all three. "effects" are the row's own given
      its responses; those of a new unit beyond `level`, and for units that the fit lacked.

    **Returns:** predictions (rows,); with `interval` a data frame of `prediction`, `lower`, `upper`. Units that the
    fitted data lacked have random effects of zero; rows whose mean the fitted data do not determine, because they lack
    that combination of categories, are NaN.
    **Raises:** DataError for missing columns and unknown categories; OptionError for an unknown level, options that do
    not fit, and intervals of new responses at other rows where the residual variance is a function of the rows.
    **Source:** Harville (1976), Annals of Statistics 4, 384-395, for the variance of the error of a prediction.
    """
    sources = check_sources(interval, uncertainty)
    if interval is None:
        return means(fit, data, level)
    from jaxnlme.linear.predict_interval import prediction_intervals

    return prediction_intervals(fit, data, level, float(interval), sources)


def means(fit: LinearFit, data: Any, level: str | int | None) -> np.ndarray:
    """X beta + Z b (rows,); arguments as of `predict`."""
    count = n_levels(fit, level)
    beta = fit.outcome.beta
    if data is None:
        out = fit.model.fixed.matrix @ beta
        for grouping, effects in zip(fit.model.groupings[:count], fit.outcome.effects, strict=False):
            out = out + np.einsum("ij,ij->i", grouping.matrix, effects[grouping.units.codes])
        return out
    _check_lengths(fit, data, count)
    fixed = fit.model.fixed
    out = fixed.for_frame(data) @ beta
    if fixed.aliased:
        out = np.where(fixed.not_estimable(fit.model.frame, data), np.nan, out)
    for grouping, effects in zip(fit.model.groupings[:count], fit.outcome.effects, strict=False):
        matrix = np.concatenate([design.for_frame(data) for design in grouping.designs], axis=1)
        with_zero = np.vstack([effects, np.zeros((1, effects.shape[1]))])
        out = out + np.einsum("ij,ij->i", matrix, with_zero[unit_numbers(grouping, data)])
    return out


def n_levels(fit: LinearFit, level: str | int | None) -> int:
    """The number of grouping factors whose effects are in a prediction at `level`.

    **Arguments:** `level`: as for `predict`.
    **Raises:** OptionError for an unknown level, for anything but None, a label or a number, and for some of several
    crossed factors, which have no order.
    """
    labels = [grouping.label for grouping in fit.model.groupings]
    if level is None:
        return len(labels)
    if level == "population":
        return 0
    if not isinstance(level, str):
        is_number = isinstance(level, (int, np.integer)) and not isinstance(level, bool)
        if not is_number or not 0 <= level <= len(labels):
            raise OptionError(
                f"level must be None, a label, or a number from 0 to {len(labels)}; received {shown(level)}."
            )
    if not fit.model.nested and (isinstance(level, str) or 0 < level < len(labels)):
        raise OptionError(
            f"level {shown(level)}: the grouping factors are crossed, so that they have no order; use None (all random "
            "effects) or 'population' (none)."
        )
    if isinstance(level, str):
        if level not in labels:
            raise OptionError(
                f"level {level!r} is not known; expected None, 'population', or one of {labels}; "
                f"{near_matches(level, labels)}"
            )
        return labels.index(level) + 1
    return int(level)


def unit_numbers(grouping: Grouping, data: Any) -> np.ndarray:
    """The number of each row's unit (rows,) among those of the fit, -1 for units that it lacked."""
    units = group_units(grouping.group, data)
    known = {label: k for k, label in enumerate(grouping.units.labels)}
    index = np.array([known.get(label, -1) for label in units.labels], int)
    if index.size and (index < 0).all():
        _check_kinds(grouping, units)
    return index[units.codes]


def _check_kinds(grouping: Grouping, units: Units) -> None:
    """**Raises:** DataError for labels that are text where those of the fit are numbers, or the other way round."""
    for name, ours, theirs in zip(grouping.group, grouping.units.columns, units.columns, strict=True):
        kinds = [{isinstance(label, str) for label in pd.Series(column).tolist()} for column in (ours, theirs)]
        if kinds in ([{True}, {False}], [{False}, {True}]):
            words = ["text" if True in kind else "numbers" for kind in kinds]
            raise DataError(
                f"the labels in column {name!r} are {words[1]}, and {words[0]} in the data of the fit, so that no unit "
                f"is found again: convert the column, or predict with level='population'."
            )


def _check_lengths(fit: LinearFit, data: Any, count: int) -> None:
    """**Raises:** DataError for columns of a dictionary that differ in length."""
    if not isinstance(data, Mapping):
        return
    names = used_columns(fit.model.formula) if count else [*data]
    lengths = {name: len(data[name]) for name in names if name in data and np.ndim(data[name])}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"the columns {some([f'{name!r} ({size})' for name, size in lengths.items()])} have different lengths; "
            "expected one value per row in each."
        )


def residuals(fit: LinearFit, kind: str = "response", level: str | int | None = None) -> np.ndarray:
    """Residuals y - prediction.

    **Arguments:** `kind`: "response"; "pearson", divided by the residual standard deviation of the row; "normalized",
    also made independent by the factor of the residual correlation; `level`: of the prediction.
    **Returns:** residuals (rows,).
    **Raises:** OptionError for an unknown kind or level.
    """
    check_choice("kind", kind, ("response", "pearson", "normalized"))
    raw = fit.model.y - means(fit, None, level)
    if kind == "response":
        return raw
    if fit.residual is None:
        return raw / fit.sigma
    order, delta = fit.problem.order, fit.residual.delta(fit.outcome.estimation.theta)
    in_order = raw[order]
    scaled = in_order / fit.residual.scale(delta)[0] if kind == "pearson" else fit.residual.whitened(in_order, delta)
    out = np.empty_like(raw)
    out[order] = scaled / fit.outcome.sigma
    return out
