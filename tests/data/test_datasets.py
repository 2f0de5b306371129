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


def test_theophylline_records() -> None:
    """One dose in mg and 11 samples a subject, the same numbers as in R's table."""
    frame, table = datasets.theophylline_records(), datasets.theophylline()
    assert frame.shape == (144, 8) and frame.iloc[0, [0, 1, 2, 4, 5, 6]].tolist() == [1, 0, 4.02 * 79.6, 1, 1, 1]
    assert frame.loc[frame["EVID"] == 0, "DV"].tolist() == table["conc"].tolist()
    data = GroupedData.from_nonmem(frame)
    assert (data.n_groups, data.n_obs, data.sizes.max()) == (12, 132, 11) and list(data.v) == ["WT"]
    assert data.events is not None and len(data.events) == 12 and data.events.facts.dosed == (1,)


def test_phenobarbital() -> None:
    data = GroupedData.from_nonmem(datasets.phenobarbital())
    assert (data.n_groups, data.n_obs) == (59, 155) and data.events is not None and len(data.events) == 589
    assert data.events.columns["AMT"][:2].tolist() == [25, 3.5] and list(data.v) == ["WT", "APGR"]
