"""Visual predictive checks of tables: the R package vpc case by case, and definitions in plain numpy."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.diagnostics.vpc import bins
from jaxnlme.diagnostics.vpc.quantiles import quantiles
from jaxnlme.diagnostics.vpc.settings import VPC

# vpc 1.2.2, R 4.2.2, on its own example: 50 subjects, 11 samples each, 100 replicates; intervals of 90%. The boundaries
# of automatic rules are those that the package found.
CORRECTED: dict[str, Any] = {"prediction_corrected": True, "prediction": "PRED"}
OPTIONS: dict[str, dict[str, Any]] = {
    "bins_given": {}, "bins_given_middle": {"centre": "middle"}, "pred_corr": CORRECTED,
    "pred_corr_default_bins": CORRECTED, "stratified_ISM": {"stratify": "ISM"}, "log_y": {}, "lloq_20": {"lloq": 20},
    "default_jenks": {}, "bins_jenks_8": {}, "bins_kmeans_8": {}, "bins_pretty_8": {}, "bins_density_8": {},
    "bins_time_8": {}, "bins_percentiles_8": {}, "bins_data_8": {},
}  # fmt: skip
EXAMPLE: dict[str, Any] = {"x": "TIME", "y": "DV", "group": "ID", "level": 0.9, "simulated_limits": False}


@functools.cache
def example(reference: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    folder = reference / "diagnostics" / "vpc"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    observed, simulated = pd.read_csv(folder / "simple_obs.csv"), pd.read_csv(folder / "simple_sim.csv.gz")
    of_package = json.loads((folder / "results.json").read_text())
    return observed[observed.MDV == 0], simulated[simulated.MDV == 0], of_package


def numbers(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


@pytest.mark.parametrize("name", OPTIONS)
def test_percentiles_of_the_package(reference: Path, name: str) -> None:
    observed, simulated, of_package = example(reference)
    theirs = of_package[name]
    check = jn.vpc(observed, simulated, bins=theirs["bins"], **EXAMPLE, **OPTIONS[name])
    inside = np.array([left is not None for left in theirs["observed"]["bin_min"]])  # the package's rule "data" starts
    assert check.bins is not None and len(check.bins) == inside.sum()  # after the first time, and has a bin without
    np.testing.assert_allclose(check.bins["x"], numbers(theirs["observed"]["bin_mid"])[inside], atol=1e-12)
    for percentile, column in ((5, "5"), (50, "50"), (95, "95")):
        seen = check.observed[check.observed["percentile"] == percentile]["value"]
        np.testing.assert_allclose(seen, numbers(theirs["observed"][f"obs{column}"])[inside], atol=1e-10, rtol=0)
        drawn = check.simulated[check.simulated["percentile"] == percentile]
        for ours, suffix in (("low", "low"), ("median", "med"), ("high", "up")):
            expected = numbers(theirs["simulated"][f"q{column}.{suffix}"])[inside]
            np.testing.assert_allclose(drawn[ours], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["cens_lloq_30", "cens_lloq_30_bins_given"])
def test_shares_below_the_limit_of_the_package(reference: Path, name: str) -> None:
    observed, simulated, of_package = example(reference)
    theirs = of_package[name]
    check = jn.vpc(observed, simulated, bins=theirs["bins"], lloq=30, **EXAMPLE)
    assert check.below_limit is not None and set(check.below_limit["limit"]) == {"below"}
    np.testing.assert_allclose(check.below_limit["share"], theirs["observed"]["obs50"], atol=1e-10)
    for ours, suffix in (("low", "low"), ("median", "med"), ("high", "up")):
        np.testing.assert_allclose(check.below_limit[ours], theirs["simulated"][f"q50.{suffix}"], atol=1e-10)


def test_an_array_a_table_and_a_shuffled_table_agree(reference: Path) -> None:
    observed, simulated, _ = example(reference)
    wanted = jn.vpc(observed, simulated, bins=5, **EXAMPLE)
    matrix = simulated["DV"].to_numpy().reshape(100, -1)
    without = simulated.drop(columns="REP")
    other_design = simulated.sample(frac=1.0, random_state=1)  # rows of its own, placed by TIME
    for source in (matrix, without, other_design):
        check = jn.vpc(observed, source, bins=5, **EXAMPLE)
        pd.testing.assert_frame_equal(check.simulated, wanted.simulated)
        pd.testing.assert_frame_equal(check.observed, wanted.observed)


# --- definitions ---


def table(rows: int = 240, seed: int = 1) -> tuple[pd.DataFrame, np.ndarray]:
    """Observations of two arms in 40 groups, and 60 replicates."""
    random = np.random.default_rng(seed)
    t = np.tile(np.arange(6.0), rows // 6) + random.uniform(-0.2, 0.2, rows)
    frame = pd.DataFrame(
        {"id": np.repeat(np.arange(rows // 6), 6), "t": t, "arm": np.where(np.arange(rows) % 12 < 6, "b", "a")}
    )
    frame["f"] = 10.0 * np.exp(-0.3 * t) * np.where(frame["arm"] == "a", 1.0, 1.5)
    frame["y"] = frame["f"] * np.exp(0.3 * random.normal(size=rows))
    return frame, frame["f"].to_numpy() * np.exp(0.3 * random.normal(size=(60, rows)))


BOUNDARIES = (-0.5, 1.5, 3.5, 5.5)


def test_definition_in_numpy_with_limits_on_both_sides() -> None:
    frame, simulated = table()
    check = jn.vpc(frame, simulated, x="t", y="y", bins=BOUNDARIES, percentiles=(2.5, 30, 90), level=0.8, lloq=3.0,
                   uloq=11.0, stratify="arm")  # fmt: skip
    row = 0
    for arm in ("a", "b"):
        for left, right in itertools.pairwise(BOUNDARIES):
            use = ((frame["arm"] == arm) & (frame["t"] >= left) & (frame["t"] < right)).to_numpy()
            for percentile in (2.5, 30, 90):

                def of(y: np.ndarray, percentile: float = percentile) -> float:
                    y = np.sort(np.where(y < 3.0, -np.inf, np.where(y > 11.0, np.inf, y)))
                    position = (len(y) - 1) * percentile / 100
                    low, high = y[int(np.floor(position))], y[int(np.ceil(position))]
                    return low if low == high else low + (position % 1) * (high - low) if np.isfinite(low) else low

                seen, drawn = check.observed.iloc[row], check.simulated.iloc[row]
                value = of(frame["y"].to_numpy()[use])
                assert (seen["arm"], seen["percentile"]) == (arm, percentile)
                assert seen["value"] == pytest.approx(value) if np.isfinite(value) else np.isnan(seen["value"])
                of_replicates = np.sort([of(draw) for draw in simulated[:, use]])
                median = 0.5 * (of_replicates[29] + of_replicates[30])
                assert drawn["median"] == pytest.approx(median) if np.isfinite(median) else np.isnan(drawn["median"])
                row += 1
    assert row == len(check.observed) == len(check.simulated)
    shares = check.below_limit
    assert shares is not None and list(shares["limit"].unique()) == ["below", "above"]
    first = ((frame["arm"] == "a") & (frame["t"] < 1.5)).to_numpy()
    assert shares["share"].iloc[1] == pytest.approx(np.mean(frame["y"][first] > 11.0))
    of_replicates = np.mean(simulated[:, first] > 11.0, axis=1)
    assert shares["high"].iloc[1] == pytest.approx(np.quantile(of_replicates, 0.9))


def test_censored_rows_are_below_whatever_the_column_holds() -> None:
    frame, simulated = table()
    cut = frame.assign(cens=(frame["y"] < 3.0).astype(int), y=frame["y"].clip(lower=3.0))
    by_limit = jn.vpc(frame, simulated, x="t", y="y", bins=BOUNDARIES, lloq=3.0)
    by_flag = jn.vpc(cut, simulated, x="t", y="y", bins=BOUNDARIES, censoring="cens")
    pd.testing.assert_frame_equal(by_limit.observed, by_flag.observed)
    pd.testing.assert_frame_equal(by_limit.simulated, by_flag.simulated)
    assert by_limit.points is not None and int(by_limit.points["y"].isna().sum()) == int(cut["cens"].sum())


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("variance", [False, True])
def test_prediction_correction(log: bool, variance: bool) -> None:
    """Bergstrand and others (2011), equations 2 to 5, row by row."""
    frame, simulated = table()
    check = jn.vpc(frame, simulated, x="t", y="y", bins=BOUNDARIES, prediction_corrected=True, prediction="f",
                   lower=0.5, log=log, variance_corrected=variance)  # fmt: skip
    f, everything = frame["f"].to_numpy(), np.vstack([frame["y"], simulated])
    for k, (left, right) in enumerate(itertools.pairwise(BOUNDARIES)):
        use = np.flatnonzero((frame["t"] >= left) & (frame["t"] < right))
        typical = np.median(f[use])
        y = everything[:, use]
        corrected = y + typical - f[use] if log else 0.5 + (y - 0.5) * (typical - 0.5) / (f[use] - 0.5)
        if variance:
            spread = corrected[1:].std(axis=0, ddof=1)
            corrected = typical + (corrected - typical) * np.median(spread) / spread
        at = check.observed["bin"] == k + 1
        np.testing.assert_allclose(
            check.observed["value"][at], np.quantile(corrected[0], [0.05, 0.5, 0.95]), rtol=1e-12
        )
        medians = np.median(np.quantile(corrected[1:], [0.05, 0.5, 0.95], axis=1), axis=1)
        np.testing.assert_allclose(check.simulated["median"][at], medians, rtol=1e-12)


def test_blocks_of_replicates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, simulated = table()
    options: dict[str, Any] = {
        "x": "t",
        "y": "y",
        "prediction_corrected": True,
        "prediction": "f",
        "variance_corrected": True,
    }
    whole = jn.vpc(frame, simulated, **options)
    monkeypatch.setattr("jaxnlme.diagnostics.vpc.replicates.VPC", type(VPC)(cells_per_block=7 * len(frame)))
    parts = jn.vpc(frame, simulated, **options)
    pd.testing.assert_frame_equal(whole.simulated, parts.simulated, rtol=1e-12)


def test_categories() -> None:
    frame, simulated = table()
    frame["y"], simulated = np.digitize(frame["y"], [4.0, 8.0]) + 1.0, np.digitize(simulated, [4.0, 8.0]) + 1.0
    check = jn.vpc(frame, simulated, x="t", y="y", bins=BOUNDARIES, kind="categorical")
    use = (frame["t"] < 1.5).to_numpy()
    assert list(check.observed["category"][:3]) == [1, 2, 3]
    np.testing.assert_allclose(check.observed["share"][:3], [np.mean(frame["y"][use] == k) for k in (1, 2, 3)])
    shares = np.array([np.mean(simulated[:, use] == k, axis=1) for k in (1, 2, 3)])
    np.testing.assert_allclose(check.simulated["low"][:3], np.quantile(shares, 0.025, axis=1), rtol=1e-12)
    np.testing.assert_allclose(check.observed.groupby("bin")["share"].sum(), 1.0)


def test_strata_of_every_kind() -> None:
    frame, simulated = table()
    frame["who"] = np.where(frame["id"] < 20, "Pat 10", "Pat 2")
    check = jn.vpc(frame, simulated, x="t", y="y", bins=2, stratify={
        "who": frame["who"].to_numpy(), "late": lambda rows: rows["t"] > 2.5, "f": 2})  # fmt: skip
    assert check.strata == ("who", "late", "f")
    assert list(dict.fromkeys(check.observed["who"])) == ["Pat 2", "Pat 10"]
    assert check.bins is not None and int(check.bins["observations"].sum()) == len(frame)
    half = f"{frame['f'].min():.3g} to {frame['f'].median():.3g}"
    assert half in set(check.observed["f"])


def test_a_fit_that_did_not_converge_is_marked_on_every_picture() -> None:
    observed, simulated = table()
    for stratify, count in ((None, 1), ("arm", 2)):
        check = jn.vpc(observed, simulated, x="t", y="y", group="id", stratify=stratify)
        check = dataclasses.replace(check, converged=False)
        _, axes = plt.subplots(1, count, squeeze=False)
        check.plot(ax=axes)
        assert all(panel.get_title().startswith("NOT CONVERGED") for panel in axes.flat)
        figure = np.ravel(np.asarray(check.plot(), dtype=object))[0].figure
        assert figure.get_suptitle().startswith("NOT CONVERGED")
        plt.close("all")


def test_quantiles_are_numpys() -> None:
    values = np.random.default_rng(1).normal(size=(7, 23))
    np.testing.assert_allclose(
        quantiles(values, [0.0, 0.05, 0.5, 1.0]), np.quantile(values, [0.0, 0.05, 0.5, 1.0], axis=1).T
    )
    values[0, :5] = np.nan
    assert quantiles(values, [0.3])[0, 0] == pytest.approx(np.nanquantile(values[0], 0.3))


# --- bins ---


def test_automatic_bins() -> None:
    """Exhaustive search of the least sum of squares, and samples of a protocol that stay together."""
    x = np.round(np.random.default_rng(2).gamma(2.0, 2.0, 40), 1)
    distinct = np.unique(x)

    def loss(boundaries: np.ndarray) -> float:
        code = bins.codes_of(x, boundaries)
        return sum(float(((x[code == k] - x[code == k].mean()) ** 2).sum()) for k in np.unique(code))

    found = bins.boundaries_of(x, "kmeans", 4, None)
    best = min(loss(np.array([x.min(), *(0.5 * (distinct[np.array(c) - 1] + distinct[np.array(c)])), x.max()]))
               for c in itertools.combinations(range(1, distinct.size), 3))  # fmt: skip
    assert loss(found) == pytest.approx(best)
    theophylline = jn.datasets.theophylline()["Time"].to_numpy()
    limits = bins.boundaries_of(theophylline, "auto", None, 11.0)
    assert list(np.bincount(bins.codes_of(theophylline, limits))) == [12] * 11
    counts = np.bincount(bins.codes_of(theophylline, bins.boundaries_of(theophylline, "count", 4, None)))
    assert counts.min() >= 30
    np.testing.assert_allclose(np.diff(bins.boundaries_of(theophylline, "time", 4, None)), theophylline.max() / 4)
    assert bins.boundaries_of(np.full(3, 2.0), "auto", None, None).tolist() == [2.0, 2.0]
    assert list(bins.codes_of(np.full(3, 2.0), np.array([2.0, 2.0]))) == [0, 0, 0]
    assert list(bins.codes_of(np.array([-1.0, 0.0, 1.0, 2.0, 2.1]), np.array([0.0, 1.0, 2.0]))) == [-1, 0, 1, 1, -1]


# --- numerical predictive check ---


def test_numerical_predictive_check() -> None:
    frame, simulated = table()
    check = jn.npc(frame, simulated, y="y", intervals=(50, 90), stratify="arm", level=0.9)
    use = (frame["arm"] == "b").to_numpy()
    low, high = np.quantile(simulated[:, use], [0.25, 0.75], axis=0)
    rows = check.table.query("arm == 'b' and interval == 50").set_index("side")
    assert rows["count"].to_dict() == {
        "below": int((frame["y"][use] < low).sum()),
        "above": int((frame["y"][use] > high).sum()),
    }
    shares = (simulated[:, use] < low).mean(axis=1)
    assert rows["low"]["below"] == pytest.approx(np.quantile(shares, 0.05))
    assert list(rows["expected"]) == [0.25, 0.25]
    assert not len(check.outside)  # the replicates are of the law of the observations
    far = jn.npc(frame.assign(y=frame["y"] + 5.0), simulated, y="y", intervals=50)
    assert set(far.outside["side"]) == {"below", "above"}
    assert "outside" in str(far) and "<table" in far._repr_html_()


# --- what cannot be done ---

FRAME, SIMULATED = table(24)
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "column": ({"x": "time"}, "no column 'time'"),
    "shape": ({"simulated": SIMULATED[:, :5]}, r"shape \(60, 5\); expected \(replicates, 24\)"),
    "length": ({"simulated": pd.DataFrame({"y": np.ones(30)})}, "no multiple of the 24"),
    "rising": ({"bins": [0, 2, 1]}, "bins must rise: boundary 3 is 1"),
    "rule": ({"bins": "jenk"}, "did you mean 'jenks'"),
    "outside": ({"bins": [50, 60]}, "no observation is inside the bins"),
    "two numbers": ({"bins": 4, "n_bins": 5}, "two numbers of bins"),
    "percent": ({"percentiles": (0.05, 0.5, 0.95)}, "multiply by 100"),
    "level": ({"level": 95}, "level is a probability"),
    "no prediction": ({"prediction_corrected": True}, "name their column by prediction="),
    "bound": ({"prediction_corrected": True, "prediction": "f", "lower": 50.0}, "below lower=50 in rows 1"),
    "log": ({"log": True}, "add prediction_corrected=True"),
    "stratum name": ({"stratify": "y"}, "column of the check itself"),
    "stratum": ({"stratify": {"arm": "a"}}, "a number of classes, a function of the table"),
    "empty stratum": ({"stratify": {"s": [None] * 24}}, "empty in rows 1, 2"),
    "category": ({"kind": "categorical", "categories": [1, 2]}, "is observed; name every category"),
    "categories": ({"categories": [1, 2]}, "kind='categorical'"),
    "infinite": ({"observed": FRAME.assign(y=[np.inf, *FRAME["y"][1:]])}, "infinite in row 1"),
    "x missing": ({"observed": FRAME.assign(t=[np.nan, *FRAME["t"][1:]])}, "not finite in row 1"),
    "no response": ({"observed": FRAME.assign(y=np.nan)}, "has no response"),
    "limits crossed": ({"lloq": 5, "uloq": 1}, "not below the upper one"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_in_one_sentence(name: str) -> None:
    changes, message = REFUSALS[name]
    options = {"observed": FRAME, "simulated": SIMULATED, "x": "t", "y": "y"} | changes
    with pytest.raises((jn.OptionError, jn.DataError), match=message) as caught:
        jn.vpc(options.pop("observed"), options.pop("simulated"), **options)
    assert str(caught.value).count("\n") == 0


def test_too_many_strata() -> None:
    frame, simulated = table()
    with pytest.raises(jn.OptionError, match=r"240 strata by t, more than 40; .*'t': 3"):
        jn.vpc(frame, simulated, x="t", y="y", stratify="t")


def test_the_observations_drawn_of_many_are_of_all_times() -> None:
    """Six rows a group: every second row would be three of the times."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": np.repeat(np.arange(1000), 6), "t": np.tile(np.arange(6.0), 1000), "y": 0.0})
    table["y"] = rng.normal(size=6000)
    axes = jn.vpc(table, rng.normal(size=(20, 6000)), x="t", y="y", group="id").plot()
    (drawn,) = (line for line in axes.get_lines() if line.get_label() == "observations (3000 of 6000)")
    times, counts = np.unique(drawn.get_xdata(), return_counts=True)
    assert len(times) == 6 and counts.min() > 400
