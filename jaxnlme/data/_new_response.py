"""Data with other responses in the rows of a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data import _build as build
from jaxnlme.data import _checks as checks
from jaxnlme.errors import DataError

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def with_response(data: GroupedData, y: Any) -> GroupedData:
    """`GroupedData.with_response`: the same rows with other responses `y`."""
    y = checks.numeric_response(y)
    if y.shape == (data.n_rows,):
        flat, y = y, data.y.copy()
        cells = np.argwhere(data.rows)[data._table_order]
        y[cells[:, 0], cells[:, 1]] = flat
    if y.shape != data.y.shape:
        raise DataError(
            f"y has shape {y.shape}; expected ({data.n_rows},), one per row of the table, or {data.y.shape}, one "
            "per cell of the data."
        )
    observed = data.observed & ~np.isnan(y)
    bad = observed & np.isinf(y)
    if bad.any():
        raise DataError(f"y is infinite in {bad.sum()} observed cells; expected finite numbers, NaN if missing.")
    return replace(data, y=build.safe_response(y, observed), observed=observed)
