"""The tables that ship with the package: size, columns, first row."""

from __future__ import annotations

import pytest

from jaxnlme.data import datasets
from jaxnlme.data.grouped import GroupedData


@pytest.mark.parametrize(
    ("name", "columns", "groups", "rows", "first"),
    [
        ("theophylline", ["Subject", "Wt", "Dose", "Time", "conc"], 12, 132, [1, 79.6, 4.02, 0.0, 0.74]),
        ("indomethacin", ["Subject", "time", "conc"], 6, 66, [1, 0.25, 1.5]),
        ("orange", ["Tree", "age", "circumference"], 5, 35, [1, 118, 30]),
    ],
)
def test_table(name: str, columns: list[str], groups: int, rows: int, first: list[float]) -> None:
    frame = getattr(datasets, name)()
    assert list(frame.columns) == columns
    assert frame.iloc[0].tolist() == first
    data = GroupedData.from_frame(frame, columns[0], columns[-1], x=columns[1:-1])
    assert (data.n_groups, data.n_obs) == (groups, rows)
