"""Curves of the subjects of a fit, at their conditional modes, on their own doses or under another regimen."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.data._endpoints import endpoint_values, label_text
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, some
from jaxnlme.forecasting.covariate_path import time_name
from jaxnlme.forecasting.curves import Curves, in_one_bucket
from jaxnlme.forecasting.new_subjects import covariate_columns, data_of_subjects, row_columns
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.results.evaluate import group_modes, rebind
from jaxnlme.results.parameter_draws import parameter_draws
from jaxnlme.results.record import FitRecord


def curves_of_fit(
    fit: FitRecord, regimen: Regimen | None, last: float | None, covariates: Any, rows: Any, time: str | None
) -> Curves:
    """The curves of the fit's subjects at their conditional modes.

    **Arguments:** `regimen`: doses up to and with time `last`, in the place of their own (None: their own);
    `covariates`: by name, in the place of their own; `rows`: columns of x held at one value; `time`: the column of
    time, where no events name it.
    **Raises:** OptionError for covariates or rows that do not fit.
    """
    name = time_name(fit.data, time)
    if regimen is None:
        if covariates is not None:
            raise OptionError("covariates go with a regimen; subjects on their own doses keep their covariates.")
        constants = {} if rows is None else row_columns(rows, 1)
        endpoint = fit.data.endpoint
        if endpoint is not None and endpoint not in constants:
            labels = sorted({label_text(label) for label in endpoint_values(fit.data)[fit.data.observed].tolist()})
            if len(labels) > 1:
                raise OptionError(
                    f"the fit has several endpoints ({some(labels, len(labels))}): say whose exposure is meant by "
                    f"rows={{{endpoint!r}: ...}}."
                )
        data = _with_constants(fit.data, constants) if constants else fit.data
    else:
        assert last is not None
        own = own_covariates(fit.data, name)
        given = covariate_columns(covariates, fit.data.n_groups)
        columns = {k: c for k, c in (own | given).items() if rows is None or k not in rows}
        times = [regimen.start, max(last, regimen.start)]
        data, _ = data_of_subjects(regimen, times, fit.data.labels, columns, rows, True, fit.data, None, time)
    binding = in_one_bucket(rebind(fit, data))
    packed, _ = parameter_draws(fit, 0, 0, "jn.pkpd.exposure")
    n = data.n_groups
    effects = group_modes(fit, binding) if binding.density.n_effects else np.zeros((n, 0))
    return Curves(binding, fit.params, name, packed, effects, np.arange(n), np.zeros(n, int))


def own_covariates(data: GroupedData, time: str) -> dict[str, np.ndarray]:
    """The columns that are constant within the groups, by name, one value a group."""
    out = dict(data.v)
    for name, values in (data.x | data.text).items():
        if values.ndim == 1:
            out[name] = values
        elif name != time and not ((values != values[:, :1]) & data.rows).any():
            out[name] = values[:, 0]
    return out


def _with_constants(data: GroupedData, rows: dict[str, np.ndarray]) -> GroupedData:
    """The data with columns of x at one value. **Raises:** OptionError for an unknown column."""
    x, text = dict(data.x), dict(data.text)
    for name, value in rows.items():
        if name in x:
            x[name] = np.full(data.y.shape, float(value[0]))
        elif name in text and text[name].ndim == 2:
            text[name] = np.full(data.y.shape, value[0], object)
        else:
            raise OptionError(f"rows: {name!r} is no column of x of the fitted data.")
    return dataclasses.replace(data, x=x, text=text)
