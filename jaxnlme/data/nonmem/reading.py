"""Reading: records and covariates of a NONMEM-style table put together to GroupedData."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._columns import name_list, object_array
from jaxnlme.data._rows import name_groups, numbered
from jaxnlme.data.events.records import EventRecords
from jaxnlme.data.nonmem.covariates import Covariate, fill, listed, without_value
from jaxnlme.data.nonmem.fitted_roles import FittedRoles
from jaxnlme.data.nonmem.names import NUMBERS, find_column, find_columns
from jaxnlme.data.nonmem.records import Records
from jaxnlme.data.nonmem.table import RawTable, is_dates
from jaxnlme.errors import DataError

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
        self.reader, self.table, self.make, self.need_response = reader, table, make, need_response
        self.like = None if like is None else FittedRoles(like, reader)
        self.names = find_columns(self._asked(), table.names)
        self.occasions = self._occasion_columns()
        self.out = self.names | ({} if self.like is None else self.like.names)
        self.records = Records(reader, table, self.names, need_response)
        self.group, self.labels = self.records.group, self.records.labels
        self.notes = [*table.notes, *self.records.notes]

    def _asked(self) -> dict[str, Any]:
        """The columns that the caller names, by meaning, but for those that a table to predict need not have."""
        present = {str(name).casefold() for name in self.table.names}
        optional = set() if self.need_response else {"dv", "mdv", "censoring", "limit", "lloq", "uloq"}
        if self.like is not None:
            optional |= {"evid", "rate", "dur", "ss", "ii", "addl", "cmt", "date", "weights"}
            amount = str(self.reader.columns.get("amt") or "AMT")
            if self.like.data.events is not None and amount.casefold() not in present:
                raise DataError(
                    f"the table has no column {amount!r}, and the fitted data have doses; expected the doses before "
                    "the times to predict, as records of the table."
                )
        return {
            meaning: None if meaning in optional and isinstance(name, str) and name.casefold() not in present else name
            for meaning, name in self.reader.columns.items()
            if meaning != "occasion"
        }

    def _occasion_columns(self) -> dict[Any, Any]:
        """The columns of the nested levels, outermost first, by their name in the data."""
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
        return dict(zip(found if self.like is None else self.like.data.level_names[1:], found, strict=True))

    # ---- covariates

    def _covariates(self) -> tuple[dict[Any, Covariate], dict[Any, Covariate]]:
        """The constant and the varying covariates, by their name in the data."""
        constant, varying = {}, {}
        self.filled: list[str] = []
        lenient = self.reader.covariates is None and self.like is None
        for name, column in self._covariate_columns().items():
            if name == "events":
                raise DataError(
                    "column 'events' has the name under which a model reads the doses, v.events; rename it, or leave "
                    "it out of covariates."
                )
            if lenient and is_dates(self.table.columns[column]):
                continue
            covariate = fill(self.table.column(column), self.group, self.reader.carry)
            note = covariate.note(name)
            self._maybe_endpoint(name, covariate)
            if covariate.absent.size:
                sentence = without_value(name, covariate, self.labels, self.names["id"])
                if lenient:
                    self.notes.append(f"{sentence}, and is left out.")
                    continue
                raise DataError(f"{sentence}; expected one: fill it in, or leave it out of covariates.")
            self.filled += [note] if note else []
            as_x = covariate.varies if self.like is None else self.like.varies(name)
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

    def _covariate_columns(self) -> dict[Any, Any]:
        """The columns of covariates by their name in the data."""
        names = self.table.names
        taken = {name: meaning for meaning, name in self.names.items() if name is not None and meaning != "reset"}
        if self.like is None and self.reader.covariates is None:
            others = {*taken, *self.occasions, *({names[0]} if self.reader.skip is not None else ())}
            return {name: name for name in names if name not in others and isinstance(name, str)}
        if self.like is not None:
            # Where all other columns became covariates, the model may not use each: what it lacks is found at binding.
            chosen, known = self.reader.covariates is not None, {str(name).casefold() for name in names}
            needed = [name for name in self.like.covariates if chosen or str(name).casefold() in known]
            return {name: find_column(name, names, "covariates") for name in needed}
        found = [find_column(name, names, "covariates") for name in self.reader.covariates or ()]
        for name in found:
            if name in taken:
                raise DataError(
                    f"column {name!r} is read as {taken[name]}, and listed in covariates; give {taken[name]}=False, or "
                    "leave it out of covariates."
                )
        return {name: name for name in found}

    # ---- data

    def data(self) -> GroupedData:
        """The data of the table."""
        c, names, out = self.records.c, self.names, self.out
        constant, varying = self._covariates()
        is_event = self.records.keep & np.isin(c["evid"], (1, 3, 4))
        dose_rows = self._dose_rows(varying, is_event)
        is_row = self.records.keep if dose_rows else self.records.keep & ~is_event
        rows = np.flatnonzero(is_row)
        if not rows.size:
            raise DataError(
                f"the table has doses and resets only; expected records of observations ({names['evid'] or 'EVID'} 0) "
                "or predictions (2)."
            )
        self._without_rows(rows, is_event)
        y_name = out["dv"] if out["dv"] is not None else "DV"
        columns: dict[Any, Any] = {
            out["id"]: self._labels_of(rows),
            y_name: np.where(self.records.observed, self.records.dv, np.nan)[rows],
        }
        x = {out["time"]: c["time"][rows]}
        if self.like is not None and names["cmt"] is None and out["cmt"] is not None:
            c["cmt"] = self.like.usual_compartments(is_event)
        if out["cmt"] is not None:
            x[out["cmt"]] = c["cmt"][rows]
        group = [out["id"]]
        for name, column in self.occasions.items():
            occasion = fill(self.table.column(column), self.group, "locf")
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
        like_has_events = self.like is not None and self.like.data.events is not None
        if is_event.any() or self.records.inserted.any() or like_has_events:
            events = self._events(data, is_row, is_event, dose_rows)
            facts = dataclasses.replace(events.facts, rows_are_records=dose_rows)
            data = data.with_event_records(dataclasses.replace(events, facts=facts, remarks=tuple(self.filled)))
        return data

    def _dose_rows(self, varying: dict[Any, Covariate], is_event: np.ndarray) -> bool:
        """True where records of doses and resets are rows."""
        if self.like is not None:
            return self.like.dose_rows
        if self.reader.dose_rows is False and varying and is_event.any():
            raise DataError(
                f"{listed(list(varying))} vary within a subject, so parameters may; dose_rows=False would lose their "
                "values at dose records: leave it out, or these columns out of covariates."
            )
        return bool(varying) or bool(self.occasions) if self.reader.dose_rows is None else self.reader.dose_rows

    def _without_rows(self, rows: np.ndarray, is_event: np.ndarray) -> None:
        """A note on subjects with doses but without `rows`."""
        lost = np.setdiff1d(self.group[is_event], self.group[rows])
        if lost.size:
            groups = name_groups([self.labels[k] for k in lost]).partition(" ")[2]
            self.notes.append(f"{self.names['id']} {groups} has doses but no row to predict, and is left out.")

    def _labels_of(self, rows: np.ndarray) -> np.ndarray:
        whole = all(type(label) is int for label in self.labels)
        labels = np.array(self.labels, np.int64) if whole else object_array(self.labels)
        return labels[self.group[rows]]

    def _handed_over(self, columns: dict, rows: np.ndarray) -> dict[str, Any]:
        """Columns of endpoints and limits, put into `columns`, and the keywords of from_frame that name them."""
        extra: dict[str, Any] = {}
        for meaning in _HANDED_OVER:
            name, asked = self.names[meaning], self.reader.columns.get(meaning)
            by_number = name is None and meaning in NUMBERS and asked is not None and asked is not False
            if name is None and not by_number:
                continue
            extra[meaning] = asked if by_number else self.out[meaning]
            if meaning == "endpoint":
                columns[self.out[meaning]] = _plain(fill(self.table.column(name), self.group, "nocb").values[rows])
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
            time=self.out["time"],
            compartment=self.out["cmt"],
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
