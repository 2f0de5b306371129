"""The event cases of the reference: dosing records with concentrations and amounts made by brute force."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import numpy as np

from jaxnlme.data.events.records import RECORD_COLUMNS, EventRecords
from jaxnlme.records import Events, Record, Rows

DEFAULTS = {"CMT": 1, "RATE": 0, "II": 0, "SS": 0, "ADDL": 0}


@functools.cache
def event_cases(folder: Path) -> dict[str, dict]:
    """The cases by id."""
    return {case["id"]: case for case in json.loads((folder / "pkpd/events/cases.json").read_text())["cases"]}


def event_records(groups: list[list[dict]], times: list[list[float]], carry: str = "nocb") -> EventRecords:
    """The records of some groups, each a list of records, whose rows have the `times`."""
    columns: dict[str, list] = {name: [] for name in (*RECORD_COLUMNS, "rows_before", "row")}
    group = []
    for k, (records, at) in enumerate(zip(groups, times, strict=True)):
        for record in records:
            full = DEFAULTS | record
            for name in RECORD_COLUMNS:
                columns[name].append(full[name])
            before = full.get("rows_before", int(np.sum(np.asarray(at) < full["TIME"])))
            columns["rows_before"].append(before)
            columns["row"].append(full.get("row", -1))
            group.append(k)
    labels = np.array([f"case {k}" for k in range(len(groups))], object)
    return EventRecords.of(columns, np.array(group), labels, "ID", np.arange(len(group)), time="TIME", carry=carry)


def batch(
    records: EventRecords, times: np.ndarray, columns: dict[str, np.ndarray] | None = None
) -> tuple[Rows, Record]:
    """x and v of all groups, stacked. **Arguments:** `times` (groups, obs); `columns`: further ones of x."""
    table, mask = records.doses()
    events = Events(tuple(table), tuple(table.values()), "event", mask, facts=records.facts)
    x = {"TIME": times, **(columns or {})}
    rows = np.ones(times.shape, bool)
    return Rows(tuple(x), tuple(x.values()), "predictor (x)", rows, rows), Record(("events",), (events,))


def evaluate(fn, phi: dict[str, np.ndarray], x: Rows, v: Record):
    """fn(phi, x, v) for all groups, compiled. **Arguments:** `phi`: by name (groups,) or (groups, obs)."""
    record = Record(tuple(phi), tuple(np.asarray(value, float) for value in phi.values()), "parameter")
    return jax.jit(jax.vmap(fn))(record, x, v)
