"""Reading: records and covariates of a NONMEM-style table put together to GroupedData."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._columns import name_list
from jaxnlme.data._rows import name_groups, numbered
from jaxnlme.data.events.records import EventRecords
from jaxnlme.data.nonmem.covariates import Covariate, fill, listed, without_value
from jaxnlme.data.nonmem.names import NUMBERS, find_column, find_columns
from jaxnlme.data.nonmem.records import Records
from jaxnlme.data.nonmem.table import RawTable, is_dates
from jaxnlme.errors import DataError, shown

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData
    from jaxnlme.data.nonmem.reader import NonmemReader

# Keywords of GroupedData.from_frame that take a column of the table.
_HANDED_OVER = ("endpoint", "censoring", "limit", "lloq", "uloq")


class Reading:
    """One table on the way to GroupedData, which `data` returns.

    **Arguments:** as of `NonmemReader.read`, with the `table` read.
    """

    def __init__(
        self,
        reader: NonmemReader,
        table: RawTable,
        make: type[GroupedData],
        need_response: bool,
        like: GroupedData | None,
    ):
        self.reader, self.table, self.make, self.need_response, self.like = reader, table, make, need_response, like
        self.names = find_columns({k: v for k, v in reader.columns.items() if k != "occasion"}, table.names)
        self.occasions = self._occasion_columns()
        self.records = Records(reader, table, self.names, need_response)
        self.group, self.labels = self.records.group, self.records.labels
        self.notes = [*table.notes, *self.records.notes]

    def _occasion_columns(self) -> list[Any]:
        """The columns of the nested levels, outermost first."""
        given = self.reader.columns.get("occasion")
        listed = name_list([] if given is None or given is False else given, "occasion")
        found = [find_column(name, self.table.names, "occasion") for name in listed]
        for name in found:
            twice = next(
                (meaning for meaning, other in self.names.items() if other == name and meaning != "reset"), None
            )
            if twice is not None:
                raise DataError(
                    f"column {name!r} is given as occasion and as {twice}; expected one meaning per column."
                )
        return found

    # ---- covariates

    def _covariates(self) -> tuple[dict[Any, Covariate], dict[Any, Covariate]]:
        """The constant and the varying covariates, by name."""
        constant, varying = {}, {}
        self.filled: list[str] = []
        like = self.like
        for name in self._covariate_names():
            raw = self.table.columns[name]
            if self.reader.covariates is None and like is None and is_dates(raw):
                continue
            covariate = fill(self.table.column(name), self.group, self.reader.carry)
            note = covariate.note(name)
            self._maybe_endpoint(name, covariate)
            if covariate.absent.size:
                sentence = without_value(name, covariate, self.labels, self.names["id"])
                if self.reader.covariates is None and like is None:
                    self.notes.append(f"{sentence}, and is left out.")
                    continue
                raise DataError(f"{sentence}; expected one: fill it in, or leave it out of covariates.")
            self.filled += [note] if note else []
            as_x = covariate.varies
            if like is not None:
                as_x = name in like.x or (name in like.text and like.text[name].ndim == 2)
                if covariate.varies and not as_x:
                    raise DataError(
                        f"covariate {name!r} varies within a subject of this table; in the fitted data it is constant "
                        "within each."
                    )
            (varying if as_x else constant)[name] = covariate
        return constant, varying

    def _maybe_endpoint(self, name: Any, covariate: Covariate) -> None:
        if str(name).upper() == "DVID" and len(set(covariate.values[self.records.observed].tolist())) > 1:
            self.notes.append(
                f"{name!r} has several values where a response was observed, and is a covariate here: give "
                f"endpoint={name!r} where they are responses of several kinds."
            )

    def _covariate_names(self) -> list[Any]:
        names = self.table.names
        if self.like is not None:
            taken = {*self.names.values(), *self.occasions}
            chosen = [n for n in (*self.like.x, *self.like.v, *self.like.text) if n not in taken]
        elif self.reader.covariates is not None:
            chosen = self.reader.covariates
        else:
            used = {name for meaning, name in self.names.items() if name is not None and meaning != "reset"}
            used |= set(self.occasions)
            marks = {names[0]} if self.reader.skip is not None else set()
            return [name for name in names if name not in used | marks and isinstance(name, str)]
        found = [find_column(name, names, "covariates") for name in chosen]
        taken = {name: meaning for meaning, name in self.names.items() if meaning != "reset"}
        for name in found:
            if name in taken:
                raise DataError(
                    f"column {name!r} is read as {taken[name]}, and listed in covariates; give {taken[name]}=False, or "
                    "leave it out of covariates."
                )
        return found

    # ---- data

    def data(self) -> GroupedData:
        """The data of the table."""
        c, names = self.records.c, self.names
        constant, varying = self._covariates()
        dose_rows = self.reader.dose_rows
        if self.like is not None:
            dose_rows = self.like.events is not None and self.like.events.facts.rows_are_records
        elif dose_rows is None:
            dose_rows = bool(varying) or bool(self.occasions)
        is_event = self.records.keep & np.isin(c["evid"], (1, 3, 4))
        if varying and not dose_rows and is_event.any():
            raise DataError(
                f"{listed(list(varying))} vary within a subject, so parameters may; dose_rows=False would lose their "
                "values at dose records: leave it out, or these columns out of covariates."
            )
        is_row = self.records.keep if dose_rows else self.records.keep & ~is_event
        rows = np.flatnonzero(is_row)
        if not rows.size:
            raise DataError(
                f"the table has doses and resets only; expected records of observations ({names['evid'] or 'EVID'} 0) "
                "or predictions (2)."
            )
        self._without_rows(rows, is_event)
        columns: dict[Any, Any] = {names["id"]: self._labels_of(rows)}
        y_name = names["dv"] if names["dv"] is not None else "DV"
        columns[y_name] = np.where(self.records.observed, self.records.dv, np.nan)[rows]
        x = {names["time"]: c["time"][rows]}
        if names["cmt"] is not None:
            x[names["cmt"]] = c["cmt"][rows]
        group = [names["id"]]
        for name in self.occasions:
            occasion = fill(self.table.column(name), self.group, "locf")
            if occasion.absent.size:
                sentence = without_value(name, occasion, self.labels, names["id"])
                raise DataError(f"{sentence}; expected the occasion of every record: fill it in.")
            columns[name] = _plain(occasion.values[rows])
            group.append(name)
        extra = self._handed_over(columns, rows)
        x |= {name: _cells(covariate, rows) for name, covariate in varying.items()}
        v = {name: _cells(covariate, rows) for name, covariate in constant.items()}
        if names["weights"] is not None:
            columns[names["weights"]] = self.table.numbers(names["weights"])[rows]
            extra["weights"] = names["weights"]
        if self.need_response and not self.records.observed.any():
            raise DataError(
                f"the table has no observed response ({names['evid'] or 'EVID'} 0, {names['mdv'] or 'MDV'} 0 and a "
                f"number in {y_name}); expected at least one, or need_response=False for a table to predict."
            )
        at = self.table.at[rows]
        with numbered(at):
            data = self.make.from_frame(
                columns | x | v, group, y_name, [*x], [*v], need_response=self.need_response, **extra
            )
        data = dataclasses.replace(
            data,
            row_index=np.where(data.rows, at[data.row_index], -1),
            index=_index(self.table),
            reader=self.reader,
            remarks=(*self.notes, *self.filled),
        )
        if is_event.any() or self.records.inserted.any() or (self.like is not None and self.like.events is not None):
            events = self._events(data, is_row, is_event, dose_rows)
            facts = dataclasses.replace(events.facts, rows_are_records=dose_rows)
            data = data.with_event_records(dataclasses.replace(events, facts=facts, remarks=tuple(self.filled)))
        return data

    def _without_rows(self, rows: np.ndarray, is_event: np.ndarray) -> None:
        """A note on subjects with doses but without `rows`."""
        lost = np.setdiff1d(self.group[is_event], self.group[rows])
        if lost.size:
            groups = name_groups([self.labels[k] for k in lost]).partition(" ")[2]
            self.notes.append(f"{self.names['id']} {groups} has doses but no row to predict, and is left out.")

    def _labels_of(self, rows: np.ndarray) -> np.ndarray:
        labels = np.fromiter(self.labels, object, len(self.labels))
        return labels[self.group[rows]]

    def _handed_over(self, columns: dict, rows: np.ndarray) -> dict[str, Any]:
        """Columns of endpoints and limits, put into `columns`, and the keywords of from_frame that name them."""
        takes = inspect.signature(self.make.from_frame).parameters
        extra: dict[str, Any] = {}
        for meaning in _HANDED_OVER:
            name, asked = self.names[meaning], self.reader.columns.get(meaning)
            by_number = name is None and meaning in NUMBERS and asked is not None and asked is not False
            if name is None and not by_number:
                continue
            if meaning not in takes:
                what = f"{meaning}={shown(asked)}" if by_number else f"column {name!r} ({meaning})"
                raise DataError(
                    f"{what}: this version has no {meaning} of responses; give {meaning}=False to read the table "
                    "without."
                )
            extra[meaning] = asked if by_number else name
            if meaning == "endpoint":
                columns[name] = _plain(fill(self.table.column(name), self.group, "nocb").values[rows])
            elif not by_number:
                columns[name] = self.records.limits[meaning][rows]
        return extra

    def _events(self, data: GroupedData, is_row: np.ndarray, is_event: np.ndarray, dose_rows: bool) -> EventRecords:
        """The records of doses and resets."""
        c, n_groups = self.records.c, len(self.labels)
        position = {label: k for k, label in enumerate(data.labels.tolist())}
        of_group = np.array([position.get(label, -1) for label in self.labels])
        order = np.argsort(self.group, kind="stable")
        seen = np.cumsum(is_row[order]) - is_row[order]
        sizes = np.bincount(self.group, minlength=n_groups)
        start = np.minimum(np.cumsum(sizes) - sizes, len(self.group) - 1)
        rows_before = np.empty(len(self.group))
        rows_before[order] = seen - seen[start][self.group[order]]
        in_data = of_group[self.group] >= 0
        plain, inserted = np.flatnonzero(is_event & in_data), np.flatnonzero(self.records.inserted & in_data)
        source = np.concatenate([plain, inserted])
        is_new = np.arange(len(source)) >= len(plain)
        columns = {
            "TIME": c["time"][source],
            "EVID": np.where(is_new, 3.0, c["evid"][source]),
            "rows_before": rows_before[source],
            "row": rows_before[source] if dose_rows else np.full(len(source), -1.0),
        }
        is_dose = ~is_new & np.isin(columns["EVID"], (1, 4))
        for name in ("AMT", "RATE", "CMT", "SS", "II", "ADDL"):
            columns[name] = np.where(is_dose, c[name.lower()][source], 0.0)
        in_order = np.lexsort((~is_new, source))
        return EventRecords.of(
            {name: values[in_order] for name, values in columns.items()},
            of_group[self.group[source]][in_order],
            data.labels,
            data.group_name,
            self.table.at[source][in_order],
            time=self.names["time"],
            compartment=self.names["cmt"],
            carry=self.reader.carry,
        )


def _cells(covariate: Covariate, rows: np.ndarray) -> Any:
    values = covariate.values[rows]
    if covariate.levels is None:
        return values
    import pandas as pd

    return pd.Series(pd.Categorical(values, categories=list(covariate.levels)))


def _plain(values: np.ndarray) -> np.ndarray:
    """Whole numbers as integers, for labels."""
    whole = values.dtype != object and not np.isnan(values).any() and (values % 1 == 0).all()
    return values.astype(np.int64) if whole else values


def _index(table: RawTable) -> Any:
    import pandas as pd

    return pd.RangeIndex(table.size) if table.index is None else table.index
