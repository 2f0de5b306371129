"""Tables of observations and of simulated replicates, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.data._columns import column_names, read_column, read_labels, take_column
from jaxnlme.data._limit_columns import LimitColumns
from jaxnlme.data._limits import INTERVAL, LEFT, RIGHT, Limits
from jaxnlme.data._rows import name_rows
from jaxnlme.diagnostics.vpc.cells import Observations, Rows
from jaxnlme.diagnostics.vpc.replicates import AbstractReplicates, OtherRows, SameRows
from jaxnlme.diagnostics.vpc.strata import Specification, Strata, matched_strata, strata_of
from jaxnlme.errors import DataError, OptionError, shown

# Names that the tables of a check use themselves.
RESERVED = (
    "bin", "x", "y", "value", "share", "percentile", "category", "low", "median", "high", "left", "right",
    "observations", "limit", "time", "event", "survival", "mean", "at_risk", "events",
)  # fmt: skip
# Columns of replicates that are looked for where none is named.
REPLICATE_NAMES = ("replicate", "REP", "rep", "sim", "SIM", "irep", "IREP")


def numbers(frame: Any, name: str, role: str) -> np.ndarray:
    """A column of numbers, NaN where empty; truth values are 0 and 1. **Raises:** DataError for text and unknown
    columns."""
    column = read_column(take_column(frame, name, role), name)
    if column.is_text:
        if all(value is None or isinstance(value, (bool, np.bool_)) for value in column.values.tolist()):
            return np.array([np.nan if value is None else float(value) for value in column.values.tolist()])
        raise DataError(f"{role}: column {name!r} holds text; expected numbers: convert it.")
    return column.values


def read_observations(
    frame: Any,
    x: str,
    y: str,
    group: str | None,
    stratify: Specification,
    limits: Mapping[str, Any],
    prediction: np.ndarray | None,
) -> tuple[Observations, np.ndarray]:
    """The rows of a table with a response, and the mask (rows,) of them.

    **Arguments:** `limits`: the options `censoring`, `lloq` and `uloq`; `prediction` (rows,), or None.
    **Raises:** DataError naming column and rows.
    """
    check_names(stratify)
    response, at = numbers(frame, y, "y"), numbers(frame, x, "x")
    columns = LimitColumns.of_frame(frame, limits["censoring"], None, limits["lloq"], limits["uloq"])
    of_rows = None
    if columns is not None:
        response, of_rows = columns.read(response, y)
    groups = None if group is None else read_labels(take_column(frame, group, "group"), group)
    return observations_of(response, at, of_rows, groups, stratify, frame, prediction, (x, y, group))


def observations_of(
    response: np.ndarray,
    x: np.ndarray,
    limits: Limits | None,
    groups: Any,
    stratify: Specification,
    frame: Any,
    prediction: np.ndarray | None,
    names: tuple[str, str, str | None],
    rows: np.ndarray | None = None,
) -> tuple[Observations, np.ndarray]:
    """As `read_observations`, from columns (rows,). **Arguments:** `frame`, which `stratify` refers to; `rows`: those
    that may be used, all where None."""
    use = ~np.isnan(response) if rows is None else rows & ~np.isnan(response)
    if not use.any():
        raise DataError(f"column {names[1]!r} has no response; a predictive check needs observations.")
    if (infinite := np.isinf(response) & use).any():
        raise DataError(f"column {names[1]!r} is infinite in {name_rows(infinite)}; correct or drop the rows.")
    if (missing := ~np.isfinite(x) & use).any():
        raise DataError(
            f"column {names[0]!r} is not finite in {name_rows(missing)}, with a response; correct the rows."
        )
    strata = strata_of(frame, stratify, use)
    strata = Strata(strata.names, strata.labels, strata.code[use])
    size = int(use.sum())
    below, above = np.zeros(size, bool), np.zeros(size, bool)
    lloq, uloq = np.full(size, -np.inf), np.full(size, np.inf)
    if limits is not None:
        of_rows = limits.at(use)
        y = response[use]
        at_upper = (of_rows.kind == LEFT) | ((of_rows.kind == INTERVAL) & (of_rows.upper == y))
        below, above = at_upper, ~at_upper & np.isin(of_rows.kind, (RIGHT, INTERVAL))
        lloq, uloq = of_rows.lloq, of_rows.uloq
    codes = None
    if groups is not None:
        kept = [label for label, used in zip(groups, use, strict=True) if used]
        number = {label: k for k, label in enumerate(dict.fromkeys(kept))}
        codes = np.array([number[label] for label in kept])
    of_rows = Rows(x[use], strata.code, lloq, uloq, None if prediction is None else prediction[use])
    return Observations(of_rows, response[use], below, above, strata, codes, names), use


def check_names(stratify: Specification) -> None:
    """**Raises:** OptionError for a stratum with the name of a column of the tables of a check."""
    for name, _ in stratify:
        if name in RESERVED:
            raise OptionError(
                f"stratify: {name!r} is the name of a column of the check itself; give another one, as in "
                f"stratify={{'stratum': lambda table: table[{name!r}]}}."
            )


def read_prediction(prediction: Any, observed: Any, simulated: Any, replicate: str | None, rows: int) -> np.ndarray:
    """The prediction of each observed row: an array, or a column of the observed table, or else of the first replicate
    of the simulated one.

    **Raises:** DataError for an unknown column or another number of rows.
    """
    if not isinstance(prediction, str):
        values = read_column(prediction, "prediction").values
        return _of_length(values, rows, "prediction")
    if prediction in column_names(observed):
        return numbers(observed, prediction, "prediction")
    if not _is_table(simulated) or prediction not in column_names(simulated):
        raise DataError(
            f"prediction: no table has a column {prediction!r}; add it to the observed one, or give an array (rows,)."
        )
    values = numbers(simulated, prediction, "prediction")
    name = replicate_name(simulated, replicate)
    if name is not None:
        codes, _ = _replicate_codes(simulated, name)
        return _of_length(values[codes == 0], rows, "prediction in the first replicate")
    return _of_length(values[:rows], rows, "prediction in the first replicate")


def _of_length(values: np.ndarray, rows: int, name: str) -> np.ndarray:
    if values.dtype == object or values.shape != (rows,):
        raise DataError(
            f"{name} has {values.size} values and the observed table {rows} rows; expected a number for each."
        )
    return values


def read_replicates(
    simulated: Any,
    observed: Any,
    use: np.ndarray,
    rows: Rows,
    strata: Strata,
    stratify: Specification,
    names: Mapping[str, Any],
) -> tuple[AbstractReplicates, Rows]:
    """The replicates, and the facts of their rows: those of the observations where every replicate has these rows.

    **Arguments:** `simulated`: an array (replicates, rows), or a table; `use`: the observed rows with a response;
    `rows`: facts of these; `names`: of x, y, replicate, prediction and the limits.
    **Raises:** DataError for other shapes and names.
    """
    if not _is_table(simulated):
        values = _matrix(simulated, use.size)
        return SameRows.of_matrix(values[:, use]), rows
    y = numbers(simulated, names["y"], "y of the simulated table")
    name = replicate_name(simulated, names["replicate"])
    if name is None:
        if y.size % use.size:
            raise DataError(
                f"the simulated table has {y.size} rows, no multiple of the {use.size} observed ones, and no column of "
                f"replicates ({', '.join(REPLICATE_NAMES[:3])}, ...); name it by replicate=."
            )
        return SameRows.of_matrix(y.reshape(-1, use.size)[:, use]), rows
    codes, size = _replicate_codes(simulated, name)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=size)
    has_x = names["x"] in column_names(simulated)
    x = numbers(simulated, names["x"], "x of the simulated table") if has_x else None
    if (counts == use.size).all():
        observed_x = numbers(observed, names["x"], "x")
        if x is None or np.array_equal(x[order].reshape(size, -1)[:, use], np.tile(observed_x[use], (size, 1))):
            return SameRows.of_matrix(y[order].reshape(size, -1)[:, use]), rows
    if x is None:
        raise DataError(
            f"the replicates have {counts.min()} to {counts.max()} rows and the observed table {use.size}, and the "
            f"simulated table has no column {names['x']!r} to place them; add it."
        )
    keep = ~np.isnan(y)
    limits = LimitColumns.of_frame(simulated, None, None, names["lloq"], names["uloq"])
    read = None if limits is None else limits.read(y, names["y"])[1]
    lloq, uloq = (np.full(y.shape, -np.inf), np.full(y.shape, np.inf)) if read is None else (read.lloq, read.uloq)
    predictions = None
    if rows.prediction is not None:
        if not isinstance(names["prediction"], str):
            raise DataError("prediction: the simulated table has rows of its own, and needs a column of predictions.")
        predictions = numbers(simulated, names["prediction"], "prediction of the simulated table")[keep]
    stratum = matched_strata(simulated, stratify, strata, observed)[keep]
    other = Rows(x[keep], stratum, lloq[keep], uloq[keep], predictions)
    return OtherRows(size, y[keep], codes[keep]), other


def replicate_name(simulated: Any, given: str | None) -> str | None:
    """The column of replicates: as given, or one of the usual names; None where there is none of these."""
    if given is not None:
        take_column(simulated, given, "replicate")
        return given
    present = column_names(simulated)
    return next((name for name in REPLICATE_NAMES if name in present), None)


def _replicate_codes(simulated: Any, name: str) -> tuple[np.ndarray, int]:
    """The number (rows,) of each row's replicate from 0 on, in order of first appearance, and how many there are."""
    labels = np.asarray(read_labels(take_column(simulated, name, "replicate"), name))
    distinct, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(distinct.size, int)
    rank[np.argsort(first)] = np.arange(distinct.size)
    return rank[inverse], distinct.size


def _matrix(simulated: Any, rows: int) -> np.ndarray:
    """**Raises:** DataError where `simulated` is no array (replicates, rows)."""
    try:
        values = np.asarray(simulated, float)
    except (TypeError, ValueError):
        raise DataError(
            "the simulated responses must be an array (replicates, rows) or a table with a column of replicates; "
            f"received {shown(simulated)}."
        ) from None
    if values.ndim != 2 or values.shape[1] != rows or not values.shape[0]:
        raise DataError(
            f"the simulated responses have shape {values.shape}; expected (replicates, {rows}), a value for each "
            "observed row in each replicate."
        )
    return values


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "columns")
