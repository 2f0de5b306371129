"""`jn.npde`: npd and npde of any table of observations and simulations, from this or another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.data._columns import column_names, read_column, take_column
from jaxnlme.data._rows import name_rows
from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.npde.compute import Options, compute
from jaxnlme.diagnostics.npde.record import Npde, npde_record
from jaxnlme.errors import DataError, OptionError, near_matches, shown
from jaxnlme.signatures import public


@public("jn.npde")
def npde(
    observed: Any,
    simulated: Any,
    group: Any = None,
    y: str | None = None,
    x: Any = (),
    v: Any = (),
    *,
    column: str | None = None,
    replicate: str | None = None,
    ipred: Any = None,
    decorrelation: str = "cholesky",
    censoring: str = "cdf",
    ties: str = "below",
    seed: int = 0,
) -> Npde:
    """Normalised prediction discrepancies (npd) and prediction distribution errors (npde) of observations, from
    simulations by any program; `fit.npde()` simulates from a fit.

    **Arguments:**

    - `observed`: a data frame, a dictionary of arrays, or a GroupedData (with limits of quantification, endpoints,
      nested groups); an array (rows,) of responses, with an array of group labels as `group`. Rows without a response
      (dose records) have no npde.
    - `simulated`: the whole table once a replicate, row by row as observed: an array (replicates, rows), one vector of
      all replicates, one after the other, or a data frame of it. It may leave out the rows without a response. Columns
      of the frame that `observed` has too (group and x) must agree with it.
    - `group`, `y`, `x`, `v`: names of columns of a frame, as for `GroupedData.from_frame`.
    - `column`: name of the simulated responses in a frame; None: that of the response, "ysim", or the only column.
    - `replicate`: name of a column of `simulated` that numbers the replicates, where their rows are not one replicate
      after the other.
    - `ipred`: individual predictions (rows,), or the name of a column of x, for `censoring="ipred"`.
    - `decorrelation`: "cholesky" (the order of rows within a group matters), "inverse" (the symmetric root; also called
      polar) or "none": no npde.
    - `censoring`: rule for censored observations: "cdf" draws them (and simulated values beyond limits) from the
      simulations beyond the limit; "omit" leaves them out; "ipred", "ppred" and "loq" replace them by the individual
      prediction, the mean of the simulations or the limit.
    - `ties`: "below": pd is the share of simulations strictly below the observation, as in the R package; "random": the
      place among equal values, and between two simulations, is drawn, so that npd of the right model are exactly
      normal for any number of replicates, also for counts and categories.
    - `seed`: of draws by "cdf" and "random"; those of a group follow from its label.

    **Returns:** an Npde, with `table` (a row for each observation), `tests` and `moments`.
    **Raises:** DataError and OptionError naming rows, columns or options.
    **Source:** Brendel, Comets, Laffont, Laveille and Mentre (2006), Pharmaceutical Research 23, 2036-2049; Nguyen,
    Comets and Mentre (2012), Journal of Pharmacokinetics and Pharmacodynamics 39, 499-518.

    **Example:**

    ```python
    draws = fit.simulate(200, 1)  # or those of another program
    observed = jn.datasets.theophylline()
    print(jn.npde(observed, draws, group="Subject", y="conc", x="Time"))
    ```
    """
    options = Options(decorrelation, censoring, ties, seed)
    data = _data(observed, group, y, x, v)
    draws = _simulations(simulated, data, column, replicate)
    return npde_record(data, compute(data, draws, _predictions(ipred, data), options), options, len(draws))


def _data(observed: Any, group: Any, y: Any, x: Any, v: Any) -> GroupedData:
    """The observations as GroupedData."""
    if isinstance(observed, GroupedData):
        extra = [name for name, value in {"group": group, "y": y, "x": x, "v": v}.items() if not _is_empty(value)]
        if extra:
            raise OptionError(f"a GroupedData has its own columns; drop {', '.join(f'{name}=' for name in extra)}.")
        return observed
    if group is None:
        raise OptionError("group is missing: name the column of groups (subjects), or give their labels by row.")
    if isinstance(observed, Mapping) or hasattr(observed, "columns"):
        if y is None:
            raise OptionError("y is missing: name the column of responses.")
        return GroupedData.from_frame(observed, group, y, x, v)
    if isinstance(group, str):
        raise OptionError(
            f"group is {group!r}, and observed is no table with columns; give the labels of groups by row, or a frame."
        )
    columns: dict[str, Any] = {"x": None if _is_empty(x) else x, "v": None if _is_empty(v) else v}
    return GroupedData.from_arrays(observed, group, **columns, y_name="y" if y is None else y)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (tuple, list)) and not value)


def _simulations(simulated: Any, data: GroupedData, column: Any, replicate: Any) -> np.ndarray:
    """Simulated responses (replicates, rows), in the order of the table; NaN in rows without a response where the
    simulations leave them out."""
    has_response = data.rows_to_column(data.observed)
    if isinstance(simulated, Mapping) or hasattr(simulated, "columns"):
        values = _of_frame(simulated, data, column, replicate, has_response)
    else:
        for name, given in {"column": column, "replicate": replicate}.items():
            if given is not None:
                raise OptionError(f"{name}={given!r} names a column of simulated, which is no table; drop it.")
        try:
            values = np.asarray(simulated, float)
        except (TypeError, ValueError):
            raise DataError(f"simulated is {shown(simulated)}; expected numbers (replicates, rows).") from None
    values = _by_replicate(values, data)
    if values.shape[1] != data.n_rows:
        full = np.full((len(values), data.n_rows), np.nan)
        full[:, has_response] = values
        return full
    return values


def _by_replicate(values: np.ndarray, data: GroupedData) -> np.ndarray:
    """`values`, a vector of all replicates or a matrix, as (replicates, rows)."""
    rows, responses = data.n_rows, data.n_obs
    sizes = f"{rows} rows" if rows == responses else f"{rows} rows, {responses} of them with a response"
    if values.ndim == 2 and values.shape[1] not in (rows, responses):
        turn = " transpose it." if values.shape[0] in (rows, responses) else ""
        raise DataError(
            f"simulated has shape {values.shape}; expected (replicates, rows), and the data have {sizes}."
            f"{turn or ' simulate each of its rows.'}"
        )
    if values.ndim == 1:
        fits = [size for size in (rows, responses) if values.size and values.size % size == 0]
        if not fits:
            raise DataError(
                f"simulated has {values.size} values, which is no multiple of the rows of the data ({sizes}); expected "
                "the whole table once a replicate."
            )
        values = values.reshape(-1, fits[0])
    if values.ndim != 2 or len(values) < 2:
        raise DataError(f"simulated has shape {values.shape}; expected (replicates, rows), with 2 replicates at least.")
    return values


def _of_frame(simulated: Any, data: GroupedData, column: Any, replicate: Any, has_response: np.ndarray) -> np.ndarray:
    """The vector of simulated responses of a frame, replicate by replicate, its other columns checked."""
    names = [str(name) for name in column_names(simulated)]
    if column is None:
        known = [name for name in (data.y_name, "ysim") if name in names]
        column = known[0] if known else names[0] if len(names) == 1 else None
        if column is None:
            raise OptionError(
                f"simulated has no column {data.y_name!r}; name that of the simulated responses, as in "
                f"column={names[-1]!r} (columns: {', '.join(names[:8])})."
            )
    values = _numbers(simulated, column, "column")
    order = np.arange(len(values))
    if replicate is not None:
        number = _numbers(simulated, replicate, "replicate")
        order = np.argsort(number, kind="stable")
        counts = np.unique(number, return_counts=True)[1]
        if len(set(counts.tolist())) > 1:
            raise DataError(
                f"replicates have {counts.min()} to {counts.max()} rows by column {replicate!r}; expected the whole "
                "table once a replicate."
            )
    expected = data.to_frame()
    for rows in (np.ones(len(expected), bool), has_response):
        if rows.any() and len(values) % rows.sum() == 0:
            _check_columns(simulated, names, expected.loc[rows], data, order, np.flatnonzero(rows))
            break
    return values[order]


def _numbers(frame: Any, name: str, role: str) -> np.ndarray:
    column = read_column(take_column(frame, name, role), name)
    if column.is_text:
        raise DataError(f"column {name!r} of simulated holds text; expected numbers.")
    return column.values


def _check_columns(
    simulated: Any, names: Sequence[str], expected: Any, data: GroupedData, order: np.ndarray, number: np.ndarray
) -> None:
    """**Raises:** DataError where the group or a column of x differs from the observed one, naming the row."""
    for name in (data.group_name, *data.x):
        if name not in names:
            continue
        given = read_column(take_column(simulated, name, "simulated"), name).values[order].reshape(-1, len(expected))
        wanted = read_column(expected[name], name).values
        same = given.astype(str) == wanted.astype(str)
        if given.dtype != object and wanted.dtype != object:
            same = np.isclose(given, wanted, rtol=1e-6, atol=1e-9, equal_nan=True)
        if not same.all():
            at, row = np.argwhere(~same)[0]
            raise DataError(
                f"column {name!r} of simulated differs from the observed one in {name_rows([number[row]])} of replicate"
                f" {at + 1} ({shown(given[at, row])} against {shown(wanted[row])}); expected the same rows in the same "
                "order, once a replicate (replicate= names the column that numbers them)."
            )


def _predictions(ipred: Any, data: GroupedData) -> np.ndarray | None:
    """Individual predictions (rows,)."""
    if ipred is None:
        return None
    if isinstance(ipred, str):
        if ipred not in data.x:
            raise OptionError(f"ipred={ipred!r} is no column of x; {near_matches(ipred, list(data.x))}")
        return data.rows_to_column(data.x[ipred])
    values = read_column(ipred, "ipred").values
    if values.shape != (data.n_rows,) or values.dtype == object:
        raise DataError(
            f"ipred has {len(values)} values; expected {data.n_rows} numbers, one for each row of the data."
        )
    return values
