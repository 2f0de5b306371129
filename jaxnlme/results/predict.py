"""Predictions and individual parameters of a fit, on its own data or on new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.binding.endpoints import rows_of_no_endpoint
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import ModelError
from jaxnlme.model.params import Params
from jaxnlme.results.by_level import by_unit, level_depth
from jaxnlme.results.evaluate import binding_and_effects, evaluate_by_bucket, to_rows
from jaxnlme.results.predict_interval import check_interval, prediction_intervals, with_limits
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


@public("fit.predict")
def predict(
    fit: FitRecord,
    data: Any = None,
    level: str | int = "group",
    *,
    interval: float | None = None,
    uncertainty: str | Sequence[str] | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> Any:
    """f(phi, x, v) at every row of a table, in its row order; with `interval` also limits.

    **Arguments:**

    - `data`: None for the fitted rows; a GroupedData, or a table with the columns the fit was made from (the
      response may be absent). Factor levels, centres and strata are those of the fit.
    - `level`: "population" or 0, at b = 0; "group", at the conditional modes; with nested levels also the name of a
      level or its number from 1 on: with the random effects of the levels up to it. A group of the fit keeps its mode,
      whatever responses the new table has, and a nested unit that the fit does not have gets no effects of its own; the
      mode of a new group is found from its responses at the fitted parameters; a new group without a response has the
      population's predictions, with a warning that names it. A table needs the columns of the levels up to `level`
      only: at "population" none of them (rows with equal values of the columns of v are then one group).
    - `interval`: the probability of intervals, such as 0.95: equal-tailed, of each row by itself, percentiles over
      `draws` (1000), whose random numbers are a function of `seed` (0) and the labels of the groups.
    - `uncertainty`: what the intervals account for, any of "parameters" (all of them, drawn from the normal
      distribution of their estimates on the unconstrained scales), "effects" and "residual" (a new response by the
      residual model of its endpoint; without it the interval is that of the prediction). None: all three. At "group",
      "effects" are those of the row's own group, drawn from their conditional distribution given its responses; at
      "population", and for units without responses, those of a new group from N(0, psi).

    **Returns:** a pandas Series "prediction" (rows,), with the index of the table, NaN in rows (of doses, or without a
    response) whose label is no endpoint of the model; with `interval` a data frame of
    `prediction`, `lower` and `upper`, with `lloq` and `uloq` where rows have limits of quantification: the interval is
    that of the response itself, not of what would be reported.
    **Raises:** OptionError for another level, options that do not fit, and options of an interval without `interval`;
    FitError for an interval with "parameters" of a fit without standard errors; DataError for columns that do not match
    those of the fit, and for labels of another type than the fit's; FitError where the fit has no estimates; ModelError
    where the structural model does not return one number per row, or the model has explicit designs and `data` are new.
    """
    import pandas as pd

    sources, n, seed = check_interval(interval, uncertainty, draws, seed)
    binding, z = binding_and_effects(fit, data, level)
    pieces = evaluate_by_bucket(_predictions, fit, binding, z)
    for piece, bucket in zip(pieces, binding.problem.buckets, strict=True):
        if np.shape(piece) != np.shape(bucket.y):
            raise ModelError(
                f"the structural model returns shape {np.shape(piece)[1:]} for a group of {bucket.y.shape[1]} rows; "
                "predict needs one number per row. Evaluate the model on fit.parameters() instead."
            )
    values, none = to_rows(binding, pieces), rows_of_no_endpoint(binding.data, binding.density.error)
    values = np.where(binding.data.rows_to_column(none), np.nan, values)
    prediction = pd.Series(values, index=binding.data.row_labels, name="prediction")
    if interval is None:
        return prediction
    limits = prediction_intervals(fit, binding, level_depth(fit.data, level), float(interval), sources, n, seed)
    return with_limits(binding, prediction, *limits)


def parameters(fit: FitRecord, level: str | int = "group", data: Any = None) -> pd.DataFrame:
    """Individual parameters phi on their natural scale.

    **Arguments:** `level`, `data`: as in `predict`.
    **Returns:** a row per group, by label; with nested levels a row per unit of `level`, or of the next level inside
    within whose units all parameters are constant; a row per row of the table where there is none.
    **Raises:** OptionError, DataError and FitError as `predict`; ModelError where the model has explicit designs and
    `data` are new.
    """
    import pandas as pd

    binding, z = binding_and_effects(fit, data, level)
    pieces = evaluate_by_bucket(_individual, fit, binding, z)
    names = pieces[0].names
    columns = list(zip(*(piece.values for piece in pieces), strict=True))
    if not any(np.ndim(part) > 1 for parts in columns for part in parts) and not binding.data.nested:
        order = np.argsort(np.concatenate(binding.bucket_groups), kind="stable")
        table = {name: np.concatenate(parts)[order] for name, parts in zip(names, columns, strict=True)}
        return pd.DataFrame(table, index=pd.Index(binding.data.labels, name=binding.data.group_name))
    out = {}
    for name, parts in zip(names, columns, strict=True):
        per_row = [
            np.broadcast_to(part[:, None] if part.ndim == 1 else part, bucket.y.shape)
            for part, bucket in zip(map(np.asarray, parts), binding.problem.buckets, strict=True)
        ]
        out[name] = to_rows(binding, per_row)
    table = pd.DataFrame(out, index=binding.data.row_labels)
    return by_unit(binding.data, table, max(level_depth(fit.data, level), 1)) if binding.data.nested else table


def _predictions(problem: Problem, params: Params, z: jax.Array) -> list[Any]:
    """Predictions (groups, obs) per bucket at whitened effects `z` (groups, random)."""
    density = problem.density
    return problem.map_buckets(
        lambda group, z: density.error.row_prediction(density.predict(params, z, group), group), z
    )


def _individual(problem: Problem, params: Params, z: jax.Array) -> list[Any]:
    """Individual parameters per bucket at whitened effects `z` (groups, random)."""
    return problem.map_buckets(lambda group, z: problem.density.phi(params, z, group), z)
