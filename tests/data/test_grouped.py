"""GroupedData against a reference in plain Python: layout, padding, round trips, selections, buckets, fingerprints."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from jaxnlme.data import datasets
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError


def random_frame(seed: int, groups: int = 7) -> pd.DataFrame:
    """Shuffled rows, unequal groups, missing responses, numeric and text columns of both kinds."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=groups)
    group = np.repeat([f"g{k}" for k in rng.permutation(groups)], sizes)
    rows = len(group)
    frame = pd.DataFrame(
        {
            "id": group,
            "time": rng.uniform(0, 10, rows),
            "dose": rng.uniform(1, 2, rows),
            "wt": [50.0 + int(g[1:]) for g in group],
            "sex": ["f" if int(g[1:]) % 2 else "m" for g in group],
            "form": rng.choice(["gel", "tab"], rows),
            "w": [1.0 + int(g[1:]) for g in group],
            "conc": np.where(rng.uniform(size=rows) < 0.3, np.nan, rng.normal(5, 1, rows)),
        }
    )
    frame.loc[0, "conc"] = 4.0
    return frame.sample(frac=1.0, random_state=seed).reset_index(drop=True)


def build(frame: object, **options: object) -> GroupedData:
    defaults = {"x": ["time", "dose", "form"], "v": ["wt", "sex"], "weights": "w"}
    return GroupedData.from_frame(frame, "id", "conc", **(defaults | options))


@pytest.mark.parametrize("seed", range(8))
def test_layout_equals_a_plain_loop(seed: int) -> None:
    frame = random_frame(seed)
    data = build(frame)
    members: dict[str, list[int]] = {}
    for row, label in enumerate(frame["id"]):
        members.setdefault(label, []).append(row)
    assert data.labels.tolist() == list(members)
    assert data.y.shape == (len(members), max(map(len, members.values())))
    for i, rows in enumerate(members.values()):
        responses = [frame.conc[r] for r in rows if not np.isnan(frame.conc[r])]
        assert data.sizes[i] == len(rows)
        assert data.v["wt"][i] == frame.wt[rows[0]]
        assert data.text["sex"][i] == frame.sex[rows[0]]
        assert data.weights[i] == frame.w[rows[0]]
        for j in range(data.y.shape[1]):
            real = j < len(rows)
            row = rows[j] if real else rows[-1]
            assert data.rows[i, j] == real
            assert data.row_index[i, j] == (row if real else -1)
            assert data.x["time"][i, j] == frame.time[row]
            assert data.x["dose"][i, j] == frame.dose[row]
            assert data.text["form"][i, j] == frame.form[row]
            observed = real and not np.isnan(frame.conc[row])
            assert data.observed[i, j] == observed
            assert data.y[i, j] == (frame.conc[row] if observed else responses[0] if responses else 1.0)
    assert data.n_groups == len(members)
    assert data.n_rows == len(frame)
    assert data.n_obs == frame.conc.notna().sum()


@pytest.mark.parametrize("seed", range(4))
def test_frame_round_trip(seed: int) -> None:
    frame = random_frame(seed)
    data = build(frame)
    back = data.to_frame()
    assert list(back.columns) == ["id", "conc", "time", "dose", "wt", "form", "sex"]
    for name in back:
        assert back[name].tolist() == frame[name].tolist() or name == "conc"
    np.testing.assert_array_equal(back["conc"], frame["conc"])
    np.testing.assert_array_equal(data.rows_to_column(data.x["time"]), frame["time"])
    both = data.rows_to_column(np.stack([data.x["time"], data.x["dose"]], axis=-1))
    np.testing.assert_array_equal(both, frame[["time", "dose"]])


@pytest.mark.parametrize("kind", ["polars", "dict", "lists", "nullable", "pyarrow-free strings", "csv"])
def test_every_kind_of_table_gives_the_same_data(kind: str, tmp_path) -> None:
    frame = random_frame(3)
    plain = build(frame)
    if kind == "csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
        data = GroupedData.from_csv(
            tmp_path / "t.csv", "id", "conc", x=["time", "dose", "form"], v=["wt", "sex"], weights="w"
        )
    else:
        data = build(
            {
                "polars": lambda: pl.DataFrame(frame.to_dict("list")).with_columns(pl.col("conc").fill_nan(None)),
                "dict": lambda: {name: frame[name].to_numpy() for name in frame},
                "lists": lambda: {name: [None if v != v else v for v in frame[name].tolist()] for name in frame},
                "nullable": lambda: frame.convert_dtypes(dtype_backend="numpy_nullable"),
                "pyarrow-free strings": lambda: frame.astype({"id": object, "sex": object, "form": object}),
            }[kind]()
        )
    assert data.fingerprint() == plain.fingerprint()
    np.testing.assert_array_equal(data.y, plain.y)
    np.testing.assert_array_equal(data.row_index, plain.row_index)


def test_labels_of_any_type() -> None:
    day = np.array(["2020-01-02", "2020-01-01"], dtype="datetime64[D]")
    for labels in ([2, 1, 2], ["b", "a", "b"], [2.5, 1.0, 2.5], [("a", 1), ("b", 2), ("a", 1)], ["x", 3, "x"]):
        data = GroupedData.from_frame({"g": labels, "y": [1.0, 2.0, 3.0]}, "g", "y")
        assert data.labels.tolist() == labels[:2]
        assert data.sizes.tolist() == [2, 1]
    assert GroupedData.from_arrays([1.0, 2.0], day).n_groups == 2
    categorical = pd.DataFrame({"g": pd.Categorical(["b", "a"], categories=["a", "b", "c"]), "y": [1.0, 2.0]})
    assert GroupedData.from_frame(categorical, "g", "y").labels.tolist() == ["b", "a"]


def test_categories_truth_values_and_their_order() -> None:
    frame = pd.DataFrame(
        {
            "g": [1, 1, 2],
            "y": [1, 2, 3],
            "arm": pd.Categorical(["low", "low", "high"], categories=["low", "mid", "high"]),
            "on": [True, True, False],
            "stage": pd.Categorical([3, 3, 1]),
        }
    )
    data = GroupedData.from_frame(frame, "g", "y", v=["arm", "on", "stage"])
    assert data.levels == {"arm": ("low", "mid", "high"), "stage": (1, 3)}
    assert not data.v
    assert data.text["on"].tolist() == [True, False]
    assert list(data.to_frame()["arm"].cat.categories) == ["low", "mid", "high"]
    enum = pl.DataFrame({"g": [1, 2], "y": [1.0, 2.0], "arm": pl.Series(["b", "a"], dtype=pl.Enum(["b", "a"]))})
    assert GroupedData.from_frame(enum, "g", "y", v="arm").levels == {"arm": ("b", "a")}


def test_truth_values_and_integers_as_response() -> None:
    data = GroupedData.from_frame({"g": [1, 1, 2], "y": [True, None, False]}, "g", "y")
    np.testing.assert_array_equal(data.y, [[1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(data.observed, [[True, False], [True, False]])
    assert GroupedData.from_frame({"g": [1, 2], "y": np.array([3, 4])}, "g", "y").y.dtype == np.float64


def test_masked_responses_are_missing() -> None:
    y = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])
    assert GroupedData.from_arrays(y, [1, 1, 2]).observed.tolist() == [[True, False], [True, False]]


def test_arguments_of_from_arrays() -> None:
    y, group = np.arange(5.0), np.array(["b", "a", "b", "a", "b"])
    matrix = np.arange(10.0).reshape(5, 2)
    data = GroupedData.from_arrays(y, group, matrix, v={"wt": [70.0, 60.0], "sex": ["m", "f"]}, weights=[2.0, 3.0])
    assert list(data.x) == ["x0", "x1"]
    assert data.v["wt"].tolist() == [70.0, 60.0]
    assert data.text["sex"].tolist() == ["m", "f"]
    assert data.weights.tolist() == [2.0, 3.0]
    same = GroupedData.from_arrays(
        y,
        group,
        {"x0": matrix[:, 0], "x1": matrix[:, 1]},
        v={"wt": pd.Series([70.0, 60.0]), "sex": pl.Series(["m", "f"])},
        weights=np.where(group == "b", 2.0, 3.0),
    )
    assert same.fingerprint() == data.fingerprint()
    assert list(GroupedData.from_arrays(y, group, y + 1).x) == ["x0"]
    assert list(GroupedData.from_arrays(y, group, v=np.ones((2, 2))).v) == ["v0", "v1"]
    assert GroupedData.from_arrays(y, group).x == {}
    for v in ({"wt": [1.0, 2.0, 3.0]}, np.ones((3, 1))):
        with pytest.raises(DataError, match=r"length 3; expected 2 \(one per group"):
            GroupedData.from_arrays(y, group, v=v)


@pytest.mark.parametrize("chosen", [[2, 0], np.array([5, 5, 1]), np.arange(7) % 2 == 0, [-1], 3])
def test_select_equals_the_data_of_those_groups(chosen) -> None:
    frame = random_frame(5)
    data = build(frame)
    part = data.select(chosen)
    order = np.atleast_1d(np.arange(7)[chosen])
    assert part.labels.tolist() == data.labels[order].tolist()
    assert part.y.shape[1] == part.sizes.max()
    for k, i in enumerate(order):
        rows = slice(0, data.sizes[i])
        np.testing.assert_array_equal(part.x["time"][k][rows], data.x["time"][i][rows])
        assert (part.x["time"][k][data.sizes[i] :] == data.x["time"][i][data.sizes[i] - 1]).all()
        assert part.v["wt"][k] == data.v["wt"][i]
        assert part.weights[k] == data.weights[i]
    assert (part.row_index[part.rows] >= 0).all()
    assert (part.row_index[~part.rows] == -1).all()
    assert len(part.to_frame()) == part.n_rows


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "no group is selected"),
        (np.zeros(7, bool), "no group is selected"),
        (np.ones(3, bool), r"mask has shape \(3,\)"),
        ([7], "0 to 6"),
        (["g1"], r"np.isin\(data.labels"),
    ],
)
def test_select_refuses(chosen, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(random_frame(5)).select(chosen)


def test_pad_to_adds_only_padding() -> None:
    data = build(random_frame(2))
    wide = data.pad_to(11)
    assert wide.y.shape == (7, 11)
    assert wide.fingerprint() == data.fingerprint()
    for name in ("n_groups", "n_obs", "n_rows", "notes"):
        assert getattr(wide, name) == getattr(data, name)
    pd.testing.assert_frame_equal(wide.to_frame(), data.to_frame())
    width = data.y.shape[1]
    assert (wide.x["dose"][:, width:] == data.x["dose"][:, -1:]).all()
    assert (wide.text["form"][:, width:] == data.text["form"][:, -1:]).all()
    assert not wide.rows[:, width:].any()
    np.testing.assert_array_equal(wide.pad_to(width).y, data.y)
    with pytest.raises(DataError, match="largest group has"):
        data.pad_to(int(data.sizes.max()) - 1)


def test_with_weights() -> None:
    data = build(random_frame(1))
    assert data.with_weights(np.arange(7)).weights.tolist() == list(range(7))
    assert data.weights.tolist() != list(range(7))
    for bad, message in (
        (np.ones(3), "one per group"),
        ([1, 1, 1, 1, 1, 1, -1], "negative"),
        ([np.nan] * 7, "missing"),
        (np.zeros(7), "weights of all groups are zero"),
        (["a"] * 7, "not numeric"),
    ):
        with pytest.raises(DataError, match=message):
            data.with_weights(bad)


def test_with_response_keeps_the_mask_and_the_padding_safe() -> None:
    data = build(random_frame(4))
    drawn = np.full(data.y.shape, 7.0)
    first = tuple(np.argwhere(data.observed)[0])
    drawn[first] = np.nan
    new = data.with_response(drawn)
    assert new.n_obs == data.n_obs - 1
    assert np.isfinite(new.y).all()
    assert (new.y[new.observed] == 7.0).all()
    with pytest.raises(DataError, match="shape"):
        data.with_response(np.ones(3))
    drawn[first] = np.inf
    with pytest.raises(DataError, match="infinite in 1 observed"):
        data.with_response(drawn)


def test_with_table_pads_and_masks() -> None:
    data = GroupedData.from_frame({"g": ["a", "b", "c"], "y": [1.0, 2.0, 3.0]}, "g", "y")
    doses = pd.DataFrame({"g": ["c", "a", "c"], "time": [0.0, 1.0, 4.0], "amt": [10, 20, 30]})
    data = data.with_table("doses", doses, "g", ["time", "amt"])
    columns, mask = data.tables["doses"]
    assert mask.tolist() == [[True, False], [False, False], [True, True]]
    assert columns["amt"][mask].tolist() == [20.0, 10.0, 30.0]
    assert columns["time"][0].tolist() == [1.0, 1.0]
    assert all(np.isfinite(values).all() for values in columns.values())
    part = data.select([0])
    assert part.tables["doses"][1].tolist() == [[True]]
    assert data.select([1]).tables["doses"][1].tolist() == [[False]]
    assert "tables = doses" in repr(data)
    assert data.fingerprint() != data.select([0, 1, 2]).with_weights([1, 1, 2]).fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": ["a", "z"]}, r"'doses': group 'z' of row 2 \(column 'g'\) is not in the data; .* groups 'a' and 'b'"),
        ({"amt": [1.0, np.nan]}, "'amt' is missing .NaN. in row 2"),
        ({"amt": ["x", "y"]}, "'amt' holds text"),
    ],
)
def test_with_table_refuses(change: dict, message: str) -> None:
    data = GroupedData.from_frame({"g": ["a", "b"], "y": [1.0, 2.0]}, "g", "y", v=())
    with pytest.raises(DataError, match=message):
        data.with_table("doses", {"g": ["a", "b"], "amt": [1.0, 2.0]} | change, "g", "amt")


def test_with_table_reports_labels_of_another_type() -> None:
    data = GroupedData.from_frame({"g": [1, 2], "y": [1.0, 2.0]}, "g", "y")
    with pytest.raises(DataError, match=r"group '1' of row 1 .*the data have the int 1"):
        data.with_table("doses", {"g": ["1"], "amt": [1.0]}, "g", "amt")


def test_with_table_refuses_used_names_and_no_columns() -> None:
    data = build(random_frame(0))
    with pytest.raises(DataError, match="already have a column or table 'wt'"):
        data.with_table("wt", {}, "id", ["a"])
    with pytest.raises(DataError, match="lists no columns"):
        data.with_table("doses", {}, "id", [])


def cells(sizes: np.ndarray, buckets: list[np.ndarray]) -> int:
    return sum(int(len(b) * sizes[b].max()) for b in buckets)


def of_sizes(sizes) -> GroupedData:
    group = np.repeat(np.arange(len(sizes)), sizes)
    return GroupedData.from_arrays(np.ones(len(group)), group)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_buckets_are_the_best_split(seed: int, count: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 9, size=12)
    buckets = of_sizes(sizes).bucket_indices(count)
    assert sorted(np.concatenate(buckets)) == list(range(12))
    levels = np.unique(sizes)
    splits = [
        np.split(levels, cut) for cut in itertools.combinations(range(1, len(levels)), min(count, len(levels)) - 1)
    ]
    best = min(sum((np.isin(sizes, part).sum()) * part.max() for part in split) for split in splits)
    assert cells(sizes, buckets) == best
    assert len(buckets) == min(count, len(levels))


def test_automatic_buckets() -> None:
    assert len(of_sizes([1, 5, 3]).bucket_indices()) == 1
    assert len(of_sizes([1] * 10 + [50]).bucket_indices()) == 1  # wasteful but small
    sizes = np.array([2] * 100_000 + [40] * 10)
    buckets = of_sizes(sizes).bucket_indices()
    assert [len(b) for b in buckets] == [100_000, 10]
    with pytest.raises(DataError, match="at least 1"):
        of_sizes([1]).bucket_indices(0)
    many = np.arange(1, 1201)
    merged = of_sizes(many).bucket_indices(3)
    assert cells(many, merged) < 1.02 * 1200 * 1201 * (2 / 3)  # a staircase of three steps
    assert sorted(np.concatenate(merged)) == list(range(1200))


def test_fingerprint_depends_on_every_value() -> None:
    frame = random_frame(6)
    data = build(frame)
    assert data.fingerprint() == build(frame).fingerprint()
    assert len(data.fingerprint()) == 64
    fingerprints = {data.fingerprint()}
    row = int(frame.conc.first_valid_index())
    for column, value in (("conc", 9.0), ("time", -1.0), ("form", "pill"), ("id", "new")):
        changed = frame.copy()
        changed.loc[row, column] = value
        if column == "id":
            changed = changed.assign(wt=1.0, sex="m", w=1.0)
        fingerprints.add(build(changed).fingerprint())
    fingerprints.add(build(frame.rename(columns={"time": "hours"}), x=["hours", "dose", "form"]).fingerprint())
    fingerprints.add(data.with_weights(np.ones(7)).fingerprint())
    fingerprints.add(data.select([1, 0, 2, 3, 4, 5, 6]).fingerprint())
    assert len(fingerprints) == 8


def test_representations() -> None:
    data = GroupedData.from_frame(datasets.theophylline(), "Subject", "conc", x=["Time", "Dose"], v="Wt")
    assert repr(data) == (
        "GroupedData: 12 groups by 'Subject' (11 rows each), 132 rows, 132 observed\n  y = conc; x = Time, Dose; v = Wt"
    )
    assert "132 observed" in data._repr_html_()
    html = GroupedData.from_frame({"<g>": [1], "y": [1.0]}, "<g>", "y")._repr_html_()
    assert "&lt;g&gt;" in html and "<g>" not in html and "a single row" in html


def test_notes() -> None:
    frame = pd.DataFrame(
        {
            "g": ["a", "a", "a", "b", "c", "c"],
            "t": [0.0, 2.0, 1.0, 0.0, 3.0, 3.0],
            "k": [4.0] * 6,
            "dil": ["1", "2", "neat", "1", "2", "1"],
            "y": [1.0, 2.0, 3.0, np.nan, 1.0, 2.0],
        }
    )
    notes = GroupedData.from_frame(frame, "g", "y", x=["t", "k", "dil"]).notes
    assert notes == (
        "1 group has no observed response and adds nothing to the likelihood: group 'b'.",
        "1 group has a single row: group 'b'.",
        "x column 'k' is constant (4) in the whole table.",
        "x column 't' is not sorted within group 'a'; the rows keep the order of the table.",
        "x column 't' has repeated values within group 'c' (replicates).",
        "column 'dil' holds both numbers and text, so it counts as text (a category): convert it if numbers "
        "were meant.",
    )
    assert GroupedData.from_frame(datasets.orange(), "Tree", "circumference", x="age").notes == ()


def test_pickles() -> None:
    data = build(random_frame(0))
    assert pickle.loads(pickle.dumps(data)).fingerprint() == data.fingerprint()


def test_arrays_need_neither_pandas_nor_jax() -> None:
    script = (
        "import sys, types; package = types.ModuleType('jaxnlme'); package.__path__ = ['jaxnlme'];"
        "sys.modules['jaxnlme'] = package;"  # without the imports of the package's __init__
        "from jaxnlme.data.grouped import GroupedData;"
        "d = GroupedData.from_frame({'g': [1, 1, 2], 'y': [1., 2., 3.], 't': [0, 1, 2]}, 'g', 'y', x='t');"
        "d.notes, d.fingerprint(), repr(d), d.select([0]);"
        "assert not {'pandas', 'jax', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).resolve().parents[2])


def test_large_tables_take_about_a_second() -> None:
    groups, obs = 100_000, 11
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(groups), obs)
    frame = pd.DataFrame({"g": label, "t": rng.normal(size=label.size), "y": rng.normal(size=label.size)})
    frame["wt"] = frame["g"] * 0.5
    frame["sex"] = np.where(frame["g"] % 2, "f", "m")
    started = time.perf_counter()
    data = GroupedData.from_frame(frame, "g", "y", x="t", v=["wt", "sex"])
    assert data.n_groups == groups
    assert time.perf_counter() - started < 5.0  # about 0.4 s on an idle machine


def test_a_table_without_responses() -> None:
    """Prediction needs no responses: with `need_response=False` the column may be empty or absent."""
    frame = pd.DataFrame({"id": ["b", "b", "a"], "t": [0.0, 1.0, 2.0]})
    data = GroupedData.from_frame(frame, "id", "y", x="t", need_response=False)
    assert (data.n_rows, data.n_obs) == (3, 0)
    assert np.isfinite(data.y).all()
    empty = GroupedData.from_frame(frame.assign(y=np.nan), "id", "y", x="t", need_response=False)
    assert empty.fingerprint() == data.fingerprint()
    with pytest.raises(DataError, match="no observed value"):
        GroupedData.from_frame(frame.assign(y=np.nan), "id", "y", x="t")
