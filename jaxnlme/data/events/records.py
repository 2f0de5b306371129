"""EventRecords: the event records of a data set as they were understood, and the doses made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data.events.display import to_html, to_text
from jaxnlme.data.events.facts import DOSE_COLUMNS, ZERO_IN_PADDING, EventFacts

if TYPE_CHECKING:
    import pandas as pd

# Columns of an event record, in NONMEM's words: EVID 1 dose, 3 reset, 4 reset and dose; RATE 0 bolus, -1 and -2 a rate
# and a duration that the model gives; CMT 0 its default; SS 1 steady state, 2 steady state added to the state before.
RECORD_COLUMNS = ("TIME", "EVID", "AMT", "RATE", "CMT", "SS", "II", "ADDL")


@dataclass(frozen=True, eq=False, repr=False)
class EventRecords:
    """The records of doses and resets of all groups, in the order of the table, without the doses that ADDL adds.

    **Fields:** `columns` (records,): by name those of RECORD_COLUMNS, and `rows_before`, the number of the group's rows
    that precede the record, and `row`, the position among the group's rows of the record itself (-1: it is no row);
    `group` (records,): position of the group; `labels` (groups,); `group_name`; `row_index` (records,): 0-based row of
    the original table, -1 where there is none; `facts`; `remarks`: sentences on how they were read.
    """

    columns: dict[str, np.ndarray]
    group: np.ndarray
    labels: np.ndarray
    group_name: str
    row_index: np.ndarray
    facts: EventFacts
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        columns: dict[str, Any],
        group: np.ndarray,
        labels: np.ndarray,
        group_name: str,
        row_index: np.ndarray,
        *,
        time: str,
        compartment: str | None = None,
        carry: str = "nocb",
    ) -> EventRecords:
        """Records with their facts. **Arguments:** as the fields; `time`, `compartment`, `carry`: of EventFacts."""
        order = np.argsort(group, kind="stable")
        columns = {name: np.asarray(values, float)[order] for name, values in columns.items()}
        facts = _facts(columns, group[order], row_index[order], EventFacts(time, compartment, carry=carry))
        return cls(columns, group[order], labels, group_name, row_index[order], facts)

    def __len__(self) -> int:
        return len(self.group)

    @cached_property
    def segment(self) -> np.ndarray:
        """Number of times (records,) that the group started anew, up to and with the record: EVID 3 and 4, SS 1."""
        return count_in_groups(self.starts_anew, self.group)

    @property
    def starts_anew(self) -> np.ndarray:
        """True for the records (records,) at which the group starts anew."""
        return _starts_anew(self.columns)

    def doses(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The table that a structural model reads as `v.events`: columns (groups, k) by name and its mask (groups, k).

        One row for each reset and each dose, those of ADDL included, a group's by segment and then by time, at equal
        times in the order of its records. Padding has an amount of zero, at the time and in the segment of the last row
        of the group.
        """
        c = self.columns
        is_dose = np.isin(c["EVID"], (1, 4))
        times = np.where(is_dose, c["ADDL"], 0).astype(int) + 1 + (c["EVID"] == 4)
        source = np.repeat(np.arange(len(self)), times)
        number = np.arange(len(source)) - np.repeat(np.cumsum(times) - times, times)
        is_reset = (c["EVID"][source] >= 3) & (number == 0)
        added = number - (c["EVID"][source] == 4)  # 0 for the dose of the record itself, -1 for its reset
        added = np.where(is_reset, 0, added)
        first = ~is_reset & (added == 0)

        def of_dose(name: str) -> np.ndarray:
            return np.where(is_reset, 0.0, c[name][source])

        flat = {
            "time": c["TIME"][source] + added * of_dose("II"),
            "amount": of_dose("AMT"),
            "rate": of_dose("RATE"),
            "compartment": of_dose("CMT"),
            "steady_state": np.where(first, c["SS"][source], 0.0),
            "interval": of_dose("II"),
            "reset": is_reset.astype(float),
            "segment": self.segment[source].astype(float),
            "rows_before": c["rows_before"][source],
            "row": c["row"][source],
        }
        group = self.group[source]
        order = np.lexsort((flat["time"], flat["segment"], group))
        flat = {name: values[order] for name, values in flat.items()}
        sizes = np.bincount(group, minlength=len(self.labels))
        width = max(int(sizes.max(initial=0)), 1)
        start = np.cumsum(sizes) - sizes
        slot = np.arange(width)[None, :]
        mask = slot < sizes[:, None]
        cell = np.clip(start[:, None] + np.minimum(slot, np.maximum(sizes - 1, 0)[:, None]), 0, max(len(source) - 1, 0))
        table = {}
        for name in DOSE_COLUMNS:
            values = flat[name][cell] if len(source) else np.zeros(cell.shape)
            neutral = -1.0 if name == "row" else 0.0
            values = np.where((sizes > 0)[:, None], values, neutral)  # a group without records
            if name in ZERO_IN_PADDING:
                values = np.where(mask, values, 0.0)
            table[name] = values
        return table, mask

    def of_groups(self, chosen: np.ndarray, labels: np.ndarray) -> EventRecords:
        """The records of the groups at the positions `chosen`, whose labels are `labels`."""
        first = np.searchsorted(self.group, chosen)
        sizes = np.searchsorted(self.group, chosen, side="right") - first
        new = np.repeat(np.arange(len(chosen)), sizes)
        at = np.arange(len(new)) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
        columns = {name: values[at] for name, values in self.columns.items()}
        return replace(self, columns=columns, group=new, labels=labels, row_index=self.row_index[at])

    def to_frame(self) -> pd.DataFrame:
        """The records as a data frame: the row of the original table, from 1 (empty where there is none), the group's
        label, and TIME, EVID, AMT, RATE, CMT, SS, II, ADDL."""
        import pandas as pd

        row = pd.array(self.row_index + 1, dtype="Int64")
        row[np.asarray(self.row_index < 0)] = pd.NA
        frame = pd.DataFrame({"row": row, self.group_name: self.labels[self.group]})
        frame[self.group_name] = frame[self.group_name].infer_objects()
        for name in RECORD_COLUMNS:
            values = self.columns[name]
            frame[name] = values.astype(int) if name in ("EVID", "CMT", "SS", "ADDL") else values
        return frame

    def __repr__(self) -> str:
        return to_text(self)

    def _repr_html_(self) -> str:
        return to_html(self)


def count_in_groups(flags: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Number of true `flags` (records,) of the same group, up to and with each record; `group` in rising order."""
    total = np.cumsum(flags)
    first = np.searchsorted(group, group)
    return total - (total - flags)[first]


def _starts_anew(columns: dict[str, np.ndarray]) -> np.ndarray:
    return (columns["EVID"] >= 3) | ((columns["EVID"] == 1) & (columns["SS"] == 1))


def _facts(columns: dict[str, np.ndarray], group: np.ndarray, row_index: np.ndarray, base: EventFacts) -> EventFacts:
    """The facts of records sorted by group, with the names and the rule of `base`."""
    is_dose = np.isin(columns["EVID"], (1, 4))
    rate, interval = columns["RATE"], columns["II"]
    steady = is_dose & (columns["SS"] > 0)
    running = steady & (rate > 0) & (interval > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        number = np.where(running, np.ceil(columns["AMT"] / rate / interval), 0.0)
    anew = np.bincount(group[_starts_anew(columns)], minlength=1) if len(group) else np.zeros(1)
    dosed = tuple(sorted({int(v) for v in columns["CMT"][is_dose]}))
    infused = is_dose & (rate != 0)
    return replace(
        base,
        infusions=bool(infused.any()),
        modelled_rate=bool((is_dose & (rate == -1)).any()),
        modelled_duration=bool((is_dose & (rate == -2)).any()),
        steady_state=tuple(sorted({int(v) for v in columns["SS"][steady]})),
        constant_infusion=bool((steady & (rate > 0) & (interval == 0)).any()),
        segments=int(anew.max()),
        overlap=int(number.max(initial=0)),
        dosed=dosed,
        dosed_rows=tuple(int(row_index[is_dose & (columns["CMT"] == c)].min()) + 1 for c in dosed),
        infused=tuple(sorted({int(v) for v in columns["CMT"][infused]})),
        rows_are_records=bool(len(group) and (columns["row"] >= 0).all()),
    )
