"""Records: the columns of a table as records of doses, observations and resets, decoded and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._columns import read_column, read_labels
from jaxnlme.data._layout import factorize
from jaxnlme.data._rows import name_groups
from jaxnlme.data.nonmem.checks import RecordChecks
from jaxnlme.data.nonmem.clock import times_in_hours
from jaxnlme.data.nonmem.codes import decode
from jaxnlme.data.nonmem.table import RawTable, is_dates, is_number
from jaxnlme.errors import DataError

if TYPE_CHECKING:
    from jaxnlme.data.nonmem.reader import NonmemReader

# Columns of records: missing cells are zero, as in NONMEM.
_NUMBERS = ("amt", "evid", "mdv", "cmt", "rate", "dur", "ss", "ii", "addl")


class Records:
    """The rows of a table as records.

    **Arguments:** `reader`, `table`; `names`: of the columns, by meaning; `need_response`: False for a table to
    predict.

    **Fields:** `labels` of the subjects, `group` (rows,) the number of each row's; `c`: by lower-case name of NONMEM
    the columns (rows,), zero where missing; `dv` (rows,), NaN where missing; `observed` (rows,): a response that
    counts; `keep` (rows,): false for rows that only end a record before them; `starts` (rows,): resets; `inserted`
    (rows,): a reset comes before this row; `notes`.
    """

    def __init__(self, reader: NonmemReader, table: RawTable, names: dict[str, Any], need_response: bool):
        self.reader, self.table, self.names, self.need_response = reader, table, names, need_response
        self.n = len(table)
        self.notes: list[str] = []
        self._comments()
        self._subjects()
        self.c = c = {name: self._numbers(name) for name in _NUMBERS}
        c["time"], notes = times_in_hours(table, names["time"], names["date"], reader.date_order, self.group)
        self.converted = bool(notes)
        self.notes += notes
        self._responses()
        self._codes()

    # ---- comments

    def _comments(self) -> None:
        """Look for comment rows: a mark in the first column, or in labels of subjects that are numbers otherwise.

        **Raises:** DataError for rows that begin with a mark of comments; other text beside numbers is a note.
        """
        first, label = self.table.names[0], self.names["id"]
        unused = first not in self.names.values() and self.reader.skip is None
        for name in dict.fromkeys([*([first] if unused else []), label]):
            raw = self.table.columns[name]
            if is_dates(raw) or not self.table.column(name).is_text:
                continue
            cells = ["" if cell is None else str(cell).strip() for cell in self.table.column(name).values.tolist()]
            empty = np.array([cell in ("", ".", "nan") for cell in cells])
            text = ~empty & np.array([not is_number(cell) for cell in cells])
            marked = text & np.array([cell[:1] in ("#", ";", "!", "@") or cell in ("C", "c") for cell in cells])
            beside = (~text & ~empty).any() if name == label else (marked | empty).all()
            if marked.any() and not marked.all() and beside:
                cell = cells[int(np.argmax(marked))]
                cure = f"leave them out by skip={cell[:1]!r} (as IGNORE={cell[:1]} of NONMEM)"
                raise DataError(
                    f"{name} is {cell!r} in {self.table.rows(marked)}, as comment rows are marked: "
                    f"{cure if name == first else 'drop them'}, or give these rows other labels."
                )
            if name == label and text.any() and not text.all():
                cure = "leave them out by skip=" if name == first else "drop them"
                self.notes.append(
                    f"{name} is text in {self.table.rows(text)} and a number in others: if these are comments, {cure}."
                )

    # ---- subjects

    def _subjects(self) -> None:
        """`labels` of the subjects and the number of each row's, `group` (rows,)."""
        name = self.names["id"]
        raw = self.table.columns[name]
        column = None if is_dates(raw) else read_column(raw, str(name))
        # Comment rows make a column of numbers one of text; other text stays text ("007").
        column = self.table.column(name) if column is not None and (not column.is_text or self.reader.skip) else None
        if column is not None and not column.is_text:
            missing, labels = np.isnan(column.values), column.values
            if not missing.any() and (labels % 1 == 0).all() and (np.abs(labels) < 2**53).all():
                labels = labels.astype(np.int64)
        else:
            labels = np.asarray(raw, object)[self.table.at]
            import pandas as pd

            missing = np.asarray(pd.isna(labels)) | np.array([str(label).strip() in ("", ".") for label in labels])
        if missing.any():
            raise DataError(
                f"{name} is missing in {self.table.rows(missing)}; every record needs the label of its subject: fill "
                "it in, drop the rows, or leave comment rows out by skip."
            )
        if isinstance(labels, np.ndarray) and labels.dtype == np.int64:
            distinct, first, code = np.unique(labels, return_index=True, return_inverse=True)
            order = np.argsort(first)
            rank = np.empty(len(order), np.intp)
            rank[order] = np.arange(len(order))
            self.group, self.labels = rank[code.ravel()], distinct[order].tolist()
        else:
            self.group, self.labels = factorize(read_labels(labels, str(name)), str(name))
        new = np.diff(self.group, prepend=-1) != 0
        if int(new.sum()) > len(self.labels):
            self._repeated(new)

    def _repeated(self, new: np.ndarray) -> None:
        """Subjects whose rows are in several blocks, each of which begins where `new` (rows,) is true."""
        block_group = self.group[new]
        _, first = np.unique(block_group, return_index=True)
        again = np.ones(len(block_group), bool)
        again[first] = False
        if self.reader.repeated_ids == "refuse":
            rows = self.table.rows(np.isin(np.arange(self.n), np.flatnonzero(new)[again]))
            repeated = [self.labels[k] for k in dict.fromkeys(block_group[again].tolist())]
            raise DataError(
                f"{self.names['id']} {name_groups(repeated).partition(' ')[2]} "
                f"{'begins' if len(repeated) == 1 else 'begin'} again in {rows}, after rows of other subjects: "
                "NONMEM would take them for new subjects; sort the table by subject, or give repeated_ids='same' (the "
                "same subject) or 'new' (a new one)."
            )
        if self.reader.repeated_ids == "same":
            return
        count: dict[int, int] = {}
        labels = []
        for k in block_group.tolist():
            count[k] = count.get(k, 0) + 1
            labels.append(self.labels[k] if count[k] == 1 else f"{self.labels[k]} ({count[k]})")
        self.group, self.labels = np.cumsum(new) - 1, labels
        self.notes.append(
            f"{int(again.sum())} later blocks of rows with the {self.names['id']} of an earlier one are subjects of "
            "their own, called '1 (2)' and so on."
        )

    # ---- records

    def _numbers(self, meaning: str) -> np.ndarray:
        """The column of a meaning as numbers, zero where missing or without such a column."""
        name = self.names[meaning]
        if name is None:
            return np.zeros(self.n)
        if meaning == "cmt" and self.reader.compartments is not None:
            return self._compartments(name)
        if meaning == "cmt" and self.table.column(name).is_text:
            raise DataError(
                f"{name} holds the name {next(v for v in self.table.column(name).values if isinstance(v, str))!r} of a "
                "compartment; expected numbers: give the number of each, as in compartments={'depot': 1, 'central': 2}."
            )
        return self.table.numbers(name, 0.0)

    def _compartments(self, name: Any) -> np.ndarray:
        known = {str(k).casefold(): float(v) for k, v in dict(self.reader.compartments or {}).items()}
        cells = self.table.column(name).values
        keys = [None if c is None or c != c else str(c).strip().casefold() for c in cells]
        numbers = [0.0 if key is None else known.get(key, float(key) if is_number(key) else -1.0) for key in keys]
        unknown = np.array([number == -1.0 for number in numbers])
        if unknown.any():
            raise DataError(
                f"{name} is {cells[unknown][0]!r} in {self.table.rows(unknown)}; compartments= has "
                f"{', '.join(map(repr, known))}: add its number."
            )
        return np.array(numbers)

    def _responses(self) -> None:
        """`dv` (rows,), NaN where missing."""
        name = self.names["dv"]
        if name is None and self.need_response:
            raise DataError(
                f"the table has no column DV; its columns are {', '.join(map(str, self.table.names))}: name the one "
                "with the observations, as in dv='...', or give need_response=False for a table to predict."
            )
        self.dv = np.full(self.n, np.nan) if name is None else self.table.numbers(name)

    def _codes(self) -> None:
        """Codes and amounts of the records, checked; and `keep` (rows,), false for rows that are no records."""
        c, has = self.c, {meaning: name is not None for meaning, name in self.names.items()}
        ends, notes = decode(self.table, c, self.group)
        self.keep = ~ends
        self.notes += notes
        if not has["evid"]:
            c["evid"] = np.where((c["amt"] != 0) | (c["rate"] > 0), 1.0, np.where(c["mdv"] == 1, 2.0, 0.0))
        dose = np.isin(c["evid"], (1, 4))
        c["ss"] = np.where(np.isin(c["ss"], self.reader.missing_ss), 0.0, c["ss"])
        if has["dur"]:
            self._durations(dose)
        self._resets()
        check = RecordChecks(self.table, c, self.names, self.group, self.labels)
        check.codes()
        # As in NONMEM, time may go back where nothing depends on its order.
        check.times(self.starts if dose.any() or self.starts.any() else np.ones(self.n, bool), self.converted)
        check.doses()
        self._note_unused(np.isin(c["evid"], (1, 4)))
        self.limits = self._limits()
        check.responses(np.where(self._below(), 0.0, self.dv), has["mdv"], self.need_response)
        self.observed = (c["evid"] == 0) & (c["mdv"] == 0) & (~np.isnan(self.dv) | self._below())
        unused = ~self.observed & self.keep & ~np.isnan(self.dv) & (self.dv != 0)
        if unused.any():
            self.notes.append(
                f"{self.names['dv']} of {self.table.rows(unused)} is not used: "
                + ("EVID is not 0 or MDV is 1." if has["mdv"] else "EVID is not 0.")
            )

    def _note_unused(self, dose: np.ndarray) -> None:
        """Notes on columns of doses in records that are none."""
        for meaning in ("rate", "dur", "ss", "addl"):
            unused = ~dose & self.keep & (self.c[meaning] != 0)
            if unused.any():
                self.notes.append(f"{self.names[meaning]} of {self.table.rows(unused)} is not used: they are no doses.")

    def _limits(self) -> dict[str, np.ndarray]:
        """The columns of limits (rows,) by meaning, which `LimitColumns` checks; codes are zero where missing, and in
        rows without a response."""
        c, limits = self.c, {m: self.table.numbers(self.names[m]) for m in ("limit", "lloq", "uloq") if self.names[m]}
        name = self.names["censoring"]
        if name is None:
            return limits
        counts = (c["evid"] == 0) & (c["mdv"] == 0)
        code = np.where(counts, self.table.numbers(name, 0.0), 0.0)
        return {"censoring": code} | limits

    def _below(self) -> np.ndarray:
        """True (rows,) for responses that are known by their limit only."""
        return self.limits.get("censoring", np.zeros(self.n)) != 0

    def _durations(self, dose: np.ndarray) -> None:
        """The rate of doses with a duration."""
        c, name = self.c, self.names["dur"]
        bad = dose & (c["dur"] < 0)
        if bad.any():
            raise DataError(f"{name} is negative in {self.table.rows(bad)}; expected a duration >= 0: correct it.")
        given = dose & (c["dur"] > 0)
        rate = np.divide(c["amt"], c["dur"], out=np.zeros(self.n), where=given)
        differs = given & (c["rate"] != 0) & ~np.isclose(rate, c["rate"], rtol=1e-4, atol=0)
        if differs.any():
            k = np.flatnonzero(differs)[0]
            raise DataError(
                f"{name} {c['dur'][k]:g} and {self.names['rate']} {c['rate'][k]:g} of {self.table.rows(differs)} do "
                f"not fit the amount {c['amt'][k]:g} (rate = amount / duration); give one of them, and the other as 0."
            )
        c["rate"] = np.where(given & (c["rate"] == 0), rate, c["rate"])

    def _resets(self) -> None:
        """`starts` (rows,): records where time may begin anew; `inserted`: rows before which a reset is inserted."""
        c, name = self.c, self.names["reset"]
        self.inserted = np.zeros(self.n, bool)
        if name is not None:
            values = factorize([str(v) for v in self.table.column(name).values], str(name))[0]
            order = np.argsort(self.group, kind="stable")
            changed = np.zeros(self.n, bool)
            changed[order] = np.diff(values[order], prepend=-1) != 0
            changed[order] &= np.diff(self.group[order], prepend=-1) == 0
            c["evid"] = np.where(changed & (c["evid"] == 1), 4.0, c["evid"])
            self.inserted = changed & np.isin(c["evid"], (0, 2))
            if changed.any():
                self.notes.append(f"{int(changed.sum())} changes of {name!r} within a subject are resets.")
        self.starts = (c["evid"] >= 3) | self.inserted
