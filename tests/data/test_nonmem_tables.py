"""Tables out of data with doses and back, dose tables beside others, grids, and every reference file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

read = jn.GroupedData.from_nonmem

# Files that need more than their path: title rows, responses with other names, codes of missing values.
OPTIONS: dict[str, dict[str, Any]] = {
    "bauer_402": {"skip": "C"},
    "bauer_501": {"skip": "C"},
    "bauer_ad3tr4": {"skip": "C", "dv": "LOGC"},
    "bauer_pmixture": {"skip": "C"},
    "nmtest": {"dv": "cp"},
    "Wang2007": {"dv": "Y"},
    "mavoglurant": {"reset": "OCC", "na_values": {"AGE": 0}},
    "ferx_warfarin_bloq": {"censoring": False},
    "ferx_warfarin_iov": {"occasion": "OCC"},
    "ferx_warfarin_iov_bloq": {"occasion": "OCC", "censoring": False},
    **{f"{route}_{model}CPT": {"missing_ss": 99} for route in ("Bolus", "Infusion", "Oral") for model in (1, 2)},
}
# Groups, rows with a response, event records, largest number of doses of a group.
EXPECTED = {
    "theo_md": (12, 264, 84, 7),
    "theo_sd": (12, 132, 12, 1),
    "pheno_sd": (59, 155, 589, 15),
    "pharmpy_pheno": (59, 155, 589, 15),
    "warfarin": (32, 483, 32, 1),
    "nmtest": (54, 7074, 83, 13),
    "wbcSim": (45, 176, 52, 6),
    "mavoglurant": (120, 2427, 198, 3),
    "bauer_402": (30, 360, 30, 1),
    "bauer_501": (60, 240, 60, 1),
    "Oral_2CPT": (120, 6960, 960, None),
    "pharmpy_mox_log": (73, 1006, 142, None),
    "ferx_tte_gompertz": (300, 300, 0, None),
}


def files(reference: Path) -> list[Path]:
    return sorted((reference / "pkpd" / "data").glob("*.csv"))


def test_every_reference_file(reference: Path):
    """Each is read in one call and written and read again to the same data; one without subjects is refused."""
    for path in files(reference):
        options = OPTIONS.get(path.stem, {})
        if path.stem == "metabolite":
            with pytest.raises(jn.DataError, match="no column ID; its columns are time, y1, y2"):
                read(path)
            continue
        data = read(path, **options)
        again = {name: options[name] for name in ("dv", "occasion", "censoring") if name in options}
        assert read(data.to_nonmem(), **again).fingerprint() == data.fingerprint(), path.stem
        if path.stem in EXPECTED:
            groups, observed, records, most = EXPECTED[path.stem]
            assert (data.n_groups, data.n_obs) == (groups, observed), path.stem
            assert (0 if data.events is None else len(data.events)) == records, path.stem
            if most is not None:
                assert data.tables["events"][1].sum(axis=1).max() == most, path.stem
            # A row of the data is the row of the file.
            frame = data.to_frame()
            assert frame[data.group_name].tolist() == [data.labels[k] for k in np.nonzero(data.rows)[0]]


def test_what_is_in_some_files(reference: Path):
    """Doses of the infusions of wbcSim, steady states of the grid, resets of mavoglurant, carried ages."""
    folder = reference / "pkpd" / "data"
    wbc = read(folder / "wbcSim.csv").events
    assert wbc is not None and wbc.columns["RATE"][0] == 137
    assert wbc.columns["AMT"][0] == pytest.approx(410, rel=1e-12)
    grid = read(folder / "Oral_2CPT.csv", missing_ss=99).events
    assert grid is not None and grid.facts.steady_state == (1,) and grid.columns["II"].max() == 24
    mavoglurant = read(folder / "mavoglurant.csv", reset="OCC", na_values={"AGE": 0})
    assert mavoglurant.events is not None and (mavoglurant.events.columns["EVID"] == 4).sum() == 78
    assert mavoglurant.v["AGE"].min() > 0
    warfarin = read(folder / "warfarin.csv")
    assert set(warfarin.text["dvid"].ravel()) == {"cp", "pca"} and any("endpoint='dvid'" in n for n in warfarin.notes)


def dosed() -> jn.GroupedData:
    frame = pd.DataFrame(
        {
            "ID": [1] * 6 + [2] * 4,
            "TIME": [0.0, 1, 11, 12, 13, 20, 0, 3, 0, 3],
            "AMT": [100.0, 0, 0, 50, 0, 0, 80, 0, 40, 0],
            "ADDL": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            "II": [0.0, 0, 0, 6, 0, 0, 0, 0, 0, 0],
            "RATE": [0.0, 0, 0, 25, 0, 0, 0, 0, 0, 0],
            "EVID": [1, 0, 0, 1, 0, 0, 1, 0, 4, 0],
            "CMT": 1,
            "DV": [np.nan, 9, 4, np.nan, 6, 5, np.nan, 7, np.nan, 6],
            "WT": [70.0] * 6 + [60] * 4,
        }
    )
    return read(frame)


def test_table_of_records():
    """Doses and rows in order, with NONMEM's codes; other names where a column has one already."""
    table = dosed().to_nonmem()
    assert table["EVID"].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 4, 0]
    assert table["MDV"].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert table["ADDL"].tolist()[3] == 1 and table["WT"].tolist() == [70.0] * 6 + [60] * 4
    frame = pd.DataFrame({"who": ["a", "a"], "when": [1.0, 2], "amt": [5.0, 5], "y": [1.0, 2]})
    data = jn.GroupedData.from_frame(frame, "who", "y", ["when"], ["amt"])
    table = data.with_events({"who": ["a"], "when": [0.0], "dose": [9.0]}, "who", "when", "dose").to_nonmem()
    assert table["AMT_RECORD"].tolist() == [9, 0, 0] and table["amt"].tolist() == [5, 5, 5]


# ---- dose tables


def observations() -> jn.GroupedData:
    frame = pd.DataFrame({"Subject": [1, 1, 1, 2, 2], "Time": [0.0, 1, 12, 0, 2], "conc": [0.0, 3, 1, 2, 4]})
    return jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time"])


def test_doses_by_time():
    """Doses go among the rows by time, before or after rows at the same time."""
    doses = pd.DataFrame({"Subject": [1, 1, 2], "Time": [0.0, 12, 1], "mg": [10, 20, 30], "tinf": [0, 2, 0], "cmt": 1})
    data = observations().with_events(doses, "Subject", "Time", "mg", duration="tinf", compartment="cmt")
    assert data.events is not None and data.events.columns["rows_before"].tolist() == [0, 2, 1]
    assert data.events.columns["RATE"].tolist() == [0, 10, 0] and data.events.facts.time == "Time"
    after = observations().with_events(doses, "Subject", "Time", "mg", ties="observation first")
    assert after.events is not None and after.events.columns["rows_before"].tolist() == [1, 3, 1]
    assert read(data.to_nonmem(), id="Subject", time="Time", dv="conc").tables["events"][0]["rate"].tolist() == [
        [0, 10], [0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("doses", "options", "message"),
    [
        ({"Subject": ["1"], "Time": [0.0], "mg": [1]}, {}, r"group '1' .* not in the data \(the data have the int 1\)"),
        ({"Subject": [1], "Time": [0.0], "mg": [0]}, {}, r"mg is 0 or missing in row 1 of the doses"),
        ({"Subject": [1], "Time": [-1.0], "mg": [3]}, {}, r"Time is -1 in row 1; expected times >= 0"),
        ({"Subject": [1, 1], "Time": [3.0, 1], "mg": [3, 3]}, {}, r"Time goes back in row 2"),
        (
            {"Subject": [1], "Time": [0.0], "mg": [3], "n": [2]},
            {"additional": "n"},
            r"n is 2 in row 1 without an interval",
        ),
        (
            {"Subject": [1], "hours": [0.0], "mg": [3]},
            {"time": "hours"},
            r"no column 'hours' in x \(Time\); .*row_time=",
        ),
        ({"Subject": [1], "Time": [0.0], "mg": [3]}, {"ties": "both"}, r"ties is 'both'"),
        ({"Subject": [1], "Time": [0.0], "mg": [3]}, {"rate": "speed"}, r"rate: the table has no column 'speed'"),
    ],
)
def test_malformed_doses(doses: dict[str, Any], options: dict[str, str], message: str):
    with pytest.raises((jn.DataError, jn.OptionError), match=message):
        observations().with_events(doses, "Subject", **{"time": "Time", "amount": "mg"} | options)


def test_rows_out_of_order():
    frame = pd.DataFrame({"Subject": [1, 1, 1], "Time": [0.0, 3, 1], "conc": [0.0, 3, 1]})
    data = jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time"])
    with pytest.raises(jn.DataError, match=r"'Time' goes back in row 3; .*sort the rows"):
        data.with_events({"Subject": [1], "Time": [0.0], "mg": [3]}, "Subject", "Time", "mg")


# ---- grids


def concentration(data: jn.GroupedData, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and amounts of a bolus model with infusions (elimination rate 0.2) in the rows of group `k`, by the rule of
    order and time that models follow."""
    table, mask = data.tables["events"]
    e = {name: values[k][mask[k]] for name, values in table.items()}
    rows = data.rows[k]
    t, j = data.x[data.events.facts.time][k][rows], np.arange(rows.sum())  # pyright: ignore[reportOptionalMemberAccess]
    starts = e["reset"] == 1
    segment = (starts[None, :] & (e["rows_before"][None, :] <= j[:, None])).sum(axis=1)
    since = t[:, None] - e["time"][None, :]
    acts = (since >= 0) & (e["rows_before"][None, :] <= j[:, None]) & (segment[:, None] == e["segment"][None, :])
    length = np.where(e["rate"] > 0, e["amount"] / np.where(e["rate"] > 0, e["rate"], 1), 0)
    on = np.where(acts, np.minimum(since, length), 0)
    after = np.where(acts, since - on, 0)
    infused = e["rate"] / 0.2 * (1 - np.exp(-0.2 * on)) * np.exp(-0.2 * after)
    bolus = e["amount"] * np.exp(-0.2 * np.where(acts, since, 0))
    return t, np.where(acts, np.where(e["rate"] > 0, infused, bolus), 0).sum(axis=1)


def test_grid_has_both_sides_of_doses():
    """Values just before and at each dose, added ones too; the end of an infusion; both parts around a reset."""
    data = dosed()
    grid = data.grid(20)
    assert grid.n_obs == 0 and grid.events is not None and len(grid.events) == len(data.events or ())
    t, amount = concentration(grid, 0)
    assert amount[0] == 100 and t[0] == 0
    before, at = amount[np.isclose(t, 12, atol=1e-4)], amount[t == 12]
    assert before.min() == pytest.approx(100 * np.exp(-2.4), rel=1e-4) and (np.diff(t) >= 0).all()
    assert len(at) >= 1 and 14 in t and 18 in t and np.isclose(t, 18 - 6e-6, atol=1e-9).any()
    top = amount[t == 14].max()  # the infusion ends there
    assert top == pytest.approx(100 * np.exp(-2.8) + 125 * (1 - np.exp(-0.4)), rel=1e-9)
    t, amount = concentration(grid, 1)
    restart = int(np.flatnonzero(np.diff(t) < 0)[0])
    assert amount[restart] == pytest.approx(80 * np.exp(-0.6), rel=1e-4) and amount[restart + 1] == 40
    # Rows of the data have the values that they had.
    for k in range(2):
        t, amount = concentration(data, k)
        grid_t, grid_amount = concentration(grid, k)
        for at, value in zip(t, amount, strict=True):
            assert np.isclose(grid_amount[grid_t == at], value, rtol=1e-12).any()


def test_grid_until_and_groups():
    grid = dosed().grid(30, until=48, groups=[1])
    assert grid.labels.tolist() == [2] and grid.x["TIME"][grid.rows].max() == 48
    with pytest.raises(jn.OptionError, match="points"):
        dosed().grid(1)


@pytest.mark.parametrize("carry", ["nocb", "locf"])
def test_grid_of_varying_covariates(carry: str):
    """A new row has the covariate of the interval it lies in."""
    frame = dosed().to_nonmem().assign(CRCL=[90.0, 80, 70, 60, 50, 40, 30, 20, 10, 5])
    data = read(frame, carry=carry)
    grid = data.grid(40)
    t, crcl = grid.x["TIME"][0][grid.rows[0]], grid.x["CRCL"][0][grid.rows[0]]
    inside = (t > 1.001) & (t < 10.99)
    assert inside.sum() > 3 and set(crcl[inside]) == {70.0 if carry == "nocb" else 80.0}
    assert grid.events is not None and grid.events.facts.rows_are_records and grid.events.facts.carry == carry
    assert (grid.events.columns["row"] >= 0).all()


def test_grid_by_response():
    """New rows for each compartment in which the group has responses."""
    frame = dosed().to_nonmem()
    frame["CMT"] = [1, 2, 3, 1, 2, 3, 1, 2, 1, 2]
    grid = read(frame).grid(20)
    new = grid.to_frame()
    assert set(new[new["ID"] == 1]["CMT"]) == {2, 3} and set(new[new["ID"] == 2]["CMT"]) == {2}
    of_first = new[new["ID"] == 1].groupby("CMT")["TIME"].nunique()
    assert abs(of_first[2.0] - of_first[3.0]) <= 2


def test_grid_without_events():
    """Data of from_frame without doses have grids too."""
    grid = observations().grid(11)
    assert grid.events is None and grid.n_groups == 2 and grid.n_rows > 20


def test_many_subjects():
    """The time of reading grows with the rows: 20,000 subjects with 22 records each take a second or less of one
    core."""
    groups, size = 20_000, 22
    k = np.tile(np.arange(size), groups)
    dose = (k % 2 == 0) & (k < 20)
    frame = pd.DataFrame({"ID": np.repeat(np.arange(groups), size), "TIME": 6.0 * k, "AMT": np.where(dose, 100.0, 0)})
    frame["DV"], frame["CRCL"] = np.where(dose, np.nan, 1.0), np.where(k % 5 == 0, np.nan, 80.0 + k)
    started = time.process_time()
    data = read(frame)
    assert time.process_time() - started < 6, "with a margin for slow machines"
    assert data.events is not None and len(data.events) == 10 * groups and data.n_obs == 12 * groups


def test_a_column_of_true_and_false_is_read_as_numbers():
    """CENS from a comparison, as in table["CENS"] = table["DV"] < 1."""
    columns = {"ID": [1, 1, 1], "TIME": [0.0, 1, 2], "AMT": [100.0, 0, 0], "DV": [np.nan, 3.0, 1.0]}
    data = jn.GroupedData.from_nonmem(columns | {"CENS": [False, False, True]})
    assert data.limits is not None and data.limits.kind[data.observed].tolist() == [0, 1]
    assert data.fingerprint() == jn.GroupedData.from_nonmem(columns | {"CENS": [0, 0, 1]}).fingerprint()
