"""The observed responses of a table as one column, and their digest, by which fits of the same responses are
recognised."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._build import safe_response
from jaxnlme.data._checks import numeric_response
from jaxnlme.errors import DataError

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


def with_response(data: GroupedData, y: Any) -> GroupedData:
    """See `GroupedData.with_response`."""
    y = numeric_response(y)
    if y.shape == (data.n_rows,):
        flat, y = y, data.y.copy()
        cells = np.argwhere(data.rows)[data.table_order]
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
    limits = data.limits
    if limits is not None:
        y, limits = limits.of_responses(y, data.y)
        limits = limits.where(observed)
    return replace(data, y=safe_response(y, observed), observed=observed, limits=limits)


def observed_responses(data: GroupedData) -> tuple[np.ndarray, np.ndarray]:
    """The observed responses (n_obs,) in the order of the original table, and the weight of the group of each."""
    observed = data.rows_to_column(data.observed)
    weights = np.broadcast_to(np.asarray(data.weights, float)[:, None], data.rows.shape)
    return data.rows_to_column(data.y)[observed], data.rows_to_column(weights)[observed]


def response_digest(y: Any, weights: Any = None) -> str:
    """SHA-256 (hex) of observed responses in the order of their table, and of their weights.

    Predictors and groups are not part of it: likelihoods of models with other predictors, or another grouping of the
    same rows, are densities of the same responses.

    **Arguments:** `y` (rows,): responses, missing ones (NaN) left out; `weights` (rows,): of the log-likelihood; None,
    or all one: no weights.
    **Returns:** a text.  **Raises:** DataError for other shapes.
    """
    y = np.asarray(y, float)
    w = np.ones(y.shape) if weights is None else np.asarray(weights, float)
    if y.ndim != 1 or w.shape != y.shape:
        raise DataError(
            f"responses and weights must be columns (rows,) of one length; received {y.shape} and {w.shape}."
        )
    observed = ~np.isnan(y)
    state = hashlib.sha256(np.ascontiguousarray(y[observed], dtype="<f8").tobytes())
    if not (w[observed] == 1.0).all():
        state.update(b"\x1fweights" + np.ascontiguousarray(w[observed], dtype="<f8").tobytes())
    return state.hexdigest()
