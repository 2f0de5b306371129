"""NonmemMethods: the methods of GroupedData for dose records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from jaxnlme.data import _checks as checks
from jaxnlme.data._columns import name_list
from jaxnlme.data.events.records import EventRecords
from jaxnlme.data.nonmem.dose_table import records_by_time
from jaxnlme.data.nonmem.export import to_nonmem
from jaxnlme.data.nonmem.grid import grid_of_records
from jaxnlme.data.nonmem.reader import NonmemReader
from jaxnlme.data.nonmem.table import check_options
from jaxnlme.errors import check_whole_number
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.data.grouped import GroupedData


class NonmemMethods:
    """Base of GroupedData: tables of dose records in and out."""

    @classmethod
    @public("GroupedData.from_nonmem")
    def from_nonmem(
        cls,
        frame: Any,
        covariates: str | Sequence[str] | None = None,
        *,
        id: str | None = None,
        time: str | None = None,
        dv: str | None = None,
        amt: str | None = None,
        evid: str | bool | None = None,
        mdv: str | bool | None = None,
        cmt: str | bool | None = None,
        rate: str | bool | None = None,
        dur: str | bool | None = None,
        ss: str | bool | None = None,
        ii: str | bool | None = None,
        addl: str | bool | None = None,
        date: str | bool | None = None,
        occasion: str | None = None,
        endpoint: str | bool | None = None,
        censoring: str | bool | None = None,
        limit: str | bool | None = None,
        lloq: Any = None,
        uloq: Any = None,
        weights: str | None = None,
        reset: str | None = None,
        carry: str = "nocb",
        date_order: str | None = None,
        compartments: Mapping[str, int] | None = None,
        missing_ss: float | Sequence[float] = (),
        repeated_ids: str = "refuse",
        dose_rows: bool | None = None,
        skip: str | Sequence[str] | None = None,
        na_values: Any = (),
        need_response: bool = True,
        **read_csv: Any,
    ) -> GroupedData:
        """Data from a NONMEM-style table: doses, observations, predictions and resets, one record a row.

        Columns are found by NONMEM's names (ID, TIME, DV, AMT, EVID, MDV, CMT, RATE, DUR, SS, II, ADDL, DATE, CENS,
        LIMIT, LLOQ, ULOQ) in upper or lower case; others are given by name, as in `id="Subject"`, and `False` leaves
        one out. Empty cells and "." are missing. Without EVID a record with an amount is a dose, one with MDV 1 a
        prediction, others are observations. Observations (EVID 0) and predictions (EVID 2, MDV 1) are rows of the
        data; doses and resets are `data.events`, which a model reads as `v.events`.

        **Arguments:**

        - `frame`: the path of a CSV file (or of one with blanks between its columns), a pandas or polars data frame, or
          a dictionary of arrays. Lines of a file before that with the column names are titles.
        - `covariates`: names of columns; None: all that have no other meaning. Those constant within each subject go to
          v, others to x; missing values are those of a neighbouring record of the subject (see `carry`).
        - `id`, `time`, `dv`, ..., `uloq`: names of columns, where they differ from NONMEM's. Times are numbers, clock
          times ("8:30"), or dates with a time; clock times and dates become hours since the subject's first record.
        - `dur`: duration of an infusion, in place of RATE. `occasion`: column of a nested level, as
          `group=["ID", "OCC"]` of `from_frame`. `endpoint`, `censoring`, `limit`, `lloq`, `uloq`: as for `from_frame`.
          `weights`: weights of subjects.
        - `reset`: a column whose change within a subject resets all compartments, as EVID 3 or 4 does.
        - `carry`: "nocb", a covariate has the value of a record on the interval before it (as in NONMEM), or "locf", on
          the interval after it. A missing value is, accordingly, that of the next record or that of the one before.
        - `date_order`: of day, month and year, "mdy", "dmy", "ymd" or "ydm"; None: as in NONMEM for DATE, DAT1, DAT2
          and DAT3, else ISO dates.
        - `compartments`: numbers of compartments that the column CMT names.
        - `missing_ss`: codes in SS that mean no steady state, as in `missing_ss=99`.
        - `repeated_ids`: "refuse" rows of a subject in separate blocks, or take later ones for a "new" subject (as
          NONMEM does) or the "same".
        - `dose_rows`: keep doses and resets as rows without a response too, so that parameters are known at them. None:
          where a covariate varies within a subject, or there are occasions.
        - `skip`: leaves out rows whose first cell begins so, as in `skip="C"` for IGNORE=C; "@": any letter.
        - `na_values`: further missing values, a list, or a dictionary of lists by column.
        - `need_response`: False accepts a table without observations, for predictions.
        - `read_csv`: options of `pandas.read_csv` for a file.

        **Returns:** GroupedData; `data.events` and `data.notes` show what was understood.
        **Raises:** DataError naming the rows, counted from 1 below the header, what was expected, and the cure.

        **Example:**

        ```python
        doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
        print(doses.events)
        ```
        """
        columns = {
            "id": id, "time": time, "dv": dv, "amt": amt, "evid": evid, "mdv": mdv, "cmt": cmt, "rate": rate,
            "dur": dur, "ss": ss, "ii": ii, "addl": addl, "date": date, "occasion": occasion, "endpoint": endpoint,
            "censoring": censoring, "limit": limit, "lloq": lloq, "uloq": uloq, "weights": weights, "reset": reset,
        }  # fmt: skip
        check_options(read_csv, [*columns, "covariates", "carry", "date_order", "compartments", "missing_ss", "skip"])
        reader = NonmemReader(
            columns,
            None if covariates is None else tuple(name_list(covariates, "covariates")),
            carry,
            date_order,
            compartments,
            tuple(missing_ss) if isinstance(missing_ss, (list, tuple, set)) else (missing_ss,),
            repeated_ids,
            dose_rows,
            skip,
            na_values,
            read_csv,
        )
        return reader.read(cast("type[GroupedData]", cls), frame, need_response)

    def with_event_records(self: Any, events: EventRecords) -> GroupedData:
        """The same data with records of doses and resets, instead of those it has; see EventRecords."""
        checks.check_table_name("events", self.x | self.v | self.text)
        return replace(self, tables=self.tables | {"events": events.doses()}, events=events)

    @public("data.with_events")
    def with_events(
        self: Any,
        frame: Any,
        group: str,
        time: str,
        amount: str,
        *,
        rate: str | None = None,
        duration: str | None = None,
        compartment: str | None = None,
        steady_state: str | None = None,
        interval: str | None = None,
        additional: str | None = None,
        kind: str | None = None,
        row_time: str | None = None,
        ties: str = "dose first",
        carry: str = "nocb",
    ) -> GroupedData:
        """The same data with doses from a table of their own, which a model reads as `v.events`.

        **Arguments:**

        - `frame`: a data frame, a dictionary of arrays, or the path of a CSV file, with one row per dose, in order of
          time within each group.
        - `group`, `time`, `amount`: its columns of group labels, times, and amounts.
        - `rate`, `duration`: of an infusion, one of them (rate 0: a bolus; -1, -2: rate or duration by the model).
          `compartment`: that a dose goes into, from 1. `steady_state`: 1, or 2 for doses added to the state before,
          with `interval` between doses. `additional`: number of further doses, with `interval`. `kind`: NONMEM's EVID,
          1 dose, 3 reset, 4 both; without it all rows are doses.
        - `row_time`: column of x with the times of the rows of the data; None: the one called as `time`.
        - `ties`: "dose first": a row at the time of a dose comes after it; "observation first": before it.
        - `carry`: as for `from_nonmem`.

        **Returns:** GroupedData; `data.events` shows the doses as understood.
        **Raises:** DataError for unknown labels, rows of the data that are not in order of time, and doses that do not
        fit together, as `from_nonmem`.

        **Example:**

        ```python
        doses = pd.DataFrame({"Subject": [1, 2], "at": [0.0, 0.0], "mg": [320.0, 319.0]})
        rows = table[table["Subject"].isin([1, 2])]
        few = jn.GroupedData.from_frame(rows, group="Subject", y="conc", x=["Time"])
        few.with_events(doses, group="Subject", time="at", amount="mg", row_time="Time")
        ```
        """
        given = {
            "group": group, "time": time, "amount": amount, "rate": rate, "duration": duration, "kind": kind,
            "compartment": compartment, "steady_state": steady_state, "interval": interval, "additional": additional,
        }  # fmt: skip
        return self.with_event_records(records_by_time(self, frame, given, row_time, ties, carry))

    @public("data.to_nonmem")
    def to_nonmem(self: Any) -> pd.DataFrame:
        """The data as a NONMEM-style table, one record a row, with NONMEM's names for the columns of doses.

        Observations have EVID 0, rows without a response EVID 2 and MDV 1; the columns of groups, times and responses
        keep their names. `from_nonmem` reads the table to the same data. Group weights, if any, are in a column WEIGHT.

        **Returns:** a data frame, records of a group together.
        **Raises:** DataError for data without a column of x, which have no times.

        **Example:**

        ```python
        jn.GroupedData.from_nonmem(jn.datasets.phenobarbital()).to_nonmem().head()
        ```
        """
        return to_nonmem(self)

    @public("data.grid")
    def grid(self: Any, points: int = 100, until: float | None = None, groups: Any = None) -> GroupedData:
        """Data with more rows to predict between the rows, for smooth curves with the doses as they are.

        Each group keeps its rows and gets new ones: at `points` times from its first to its last record, at every dose
        (added ones too), just before it and several times after it, and where infusions end. Between resets the curve
        begins anew. A new row has the covariates of the next record, or with `carry="locf"` of the one before. Where
        rows differ in their compartment (CMT) or endpoint, there is a new row for each value that the group observed.

        **Arguments:** `points` of each group; `until`: a time to which the curves go on; `groups`: positions, or a
        boolean mask (groups,); None: all.
        **Returns:** GroupedData without responses, as `fit.predict(data.grid())` takes it.
        **Raises:** DataError for data without times (no column of x) or unknown groups.

        **Example:**

        ```python
        doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records()).grid(points=50, until=48.0)
        ```
        """
        points = check_whole_number("points", points, 2, "the points of each curve")
        chosen = self if groups is None else self.select(groups)
        return grid_of_records(chosen, points, until).data
