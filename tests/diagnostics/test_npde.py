"""npd and npde against the R package npde 3.5, and against their definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import jaxnlme as jn
from jaxnlme.diagnostics.npde.censoring import complete, group_generators, group_uniforms
from jaxnlme.diagnostics.npde.decorrelation import decorrelated_discrepancies
from jaxnlme.diagnostics.npde.discrepancies import prediction_discrepancies, to_normal
from jaxnlme.diagnostics.npde.distribution import distribution_tests, moments

# Case: observed table, simulated one, and its replicates.
SOURCES = {
    "theopp": ("theopp.csv", "simtheopp.csv.gz", 100),
    "virload": ("virload.csv", "simvirload_ysim.csv.gz", 500),
    "virload20": ("virload20.csv", "simvirload_ysim.csv.gz", 500),
    "virload50": ("virload50.csv", "simvirload_ysim.csv.gz", 500),
    "warfarin": ("warfarin_npde.csv", "simwarfarinCov_ysim.csv.gz", 1000),
}
COLUMNS = {"theopp": ("ID", "Conc", ["Time"]), "warfarin": ("id", "dv", ["time"])}
CASES = [
    *(f"{name}_{method}" for name in ("theopp", "virload") for method in ("cholesky", "inverse", "polar")),
    *(f"virload20_{rule}" for rule in ("omit", "ipred", "ppred", "loq", "cdf_cholesky")),
    *(f"virload50_{rule}" for rule in ("omit", "cdf_cholesky", "cdf_inverse", "cdf_polar")),
    "warfarin_polar",
]


def of_reference(reference: Path, name: str) -> tuple[jn.GroupedData, np.ndarray]:
    """Data and simulations (replicates, rows)."""
    folder = reference / "diagnostics" / "npde"
    observed, simulated, _ = SOURCES[name]
    group, y, x = COLUMNS.get(name, ("ID", "Log_VL", ["Time", "ipred"]))
    censoring = "cens" if name in ("virload20", "virload50") else None
    frame = pd.read_csv(folder / observed)
    data = jn.GroupedData.from_frame(frame, group, y, x, censoring=censoring)
    draws = pd.read_csv(folder / simulated)["ysim"].to_numpy()
    return data, draws.reshape(-1, data.n_rows)


def case_options(case: str) -> tuple[str, str, str]:
    """Data set, decorrelation and rule of a case; "polar" is our "inverse"."""
    name, *rest = case.split("_")
    method = {"polar": "inverse"}.get(rest[-1], rest[-1])
    method = method if method in ("cholesky", "inverse") else "cholesky"
    return name, method, rest[0] if rest[0] in ("omit", "ipred", "ppred", "loq", "cdf") else "cdf"


def stored(reference: Path, case: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    folder = reference / "diagnostics" / "npde"
    return pd.read_csv(folder / f"{case}_rows.csv"), json.loads((folder / "tests.json").read_text())[case]


def check_tests(tests: pd.DataFrame, moments_of: pd.Series, expected: dict[str, Any], kind: str = "npde") -> None:
    """Tests and moments of the R package, to 1e-6."""
    want, ours = expected[kind], tests.loc[kind]
    assert moments_of["n"] == want["n"]
    for name, wanted in {
        "mean": "mean",
        "se mean": "se_mean",
        "variance": "variance",
        "se variance": "se_variance",
    }.items():
        assert moments_of[name] == pytest.approx(want[wanted], abs=1e-6)
    wilcoxon, fisher, shapiro = (ours.loc[test] for test in ("Wilcoxon signed rank", "Fisher variance", "Shapiro-Wilk"))
    assert wilcoxon["statistic"] == want["wilcoxon_statistic"]
    assert fisher["statistic"] == pytest.approx(want["fisher_variance_chi2"], abs=1e-6)
    assert shapiro["statistic"] == pytest.approx(want["shapiro_W"], abs=1e-6)
    p = [want[name] for name in ("wilcoxon_p", "t_p", "fisher_variance_p", "shapiro_p")]
    np.testing.assert_allclose([wilcoxon["p"], ours.loc["t", "p"], fisher["p"], shapiro["p"]], p, rtol=0, atol=1e-6)
    package = expected["package_gof_test"]
    adjusted = ours.loc[["t", "Fisher variance", "Shapiro-Wilk", "global"], "p_adjusted"]
    np.testing.assert_allclose(adjusted, package["p.value"], rtol=0, atol=1e-6)
    assert moments_of["skewness"] == pytest.approx(package["skewness"], abs=1e-6)
    assert moments_of["kurtosis"] == pytest.approx(package["kurtosis"], abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "cdf" not in case])
def test_rows_and_tests_of_the_r_package(reference: Path, case: str) -> None:
    name, method, rule = case_options(case)
    data, draws = of_reference(reference, name)
    ipred = "ipred" if rule == "ipred" else None
    record = jn.npde(data, draws, decorrelation=method, censoring=rule, ipred=ipred)
    rows, expected = stored(reference, case)
    want, table = rows.loc[rows["mdv"] == 0].reset_index(drop=True), record.table.reset_index(drop=True)
    assert len(want) == len(table)
    if rule == "omit":  # the package gives omitted rows no ypred
        table["ypred"] = table["ypred"].where(want["ypred"].notna())
    for column in ("ypred", "ycomp", "pd", "npde", "ydobs"):
        np.testing.assert_allclose(table[column], want[column], rtol=0, atol=1e-8, err_msg=column)
    np.testing.assert_allclose(table["npd"], to_normal(want["pd"].to_numpy()), rtol=0, atol=1e-8)
    check_tests(record.tests, record.moments.loc["npde"], expected)


@pytest.mark.parametrize("case", [case for case in CASES if "cdf" in case])
def test_imputed_rows_of_the_r_package(reference: Path, case: str) -> None:
    """The package's own draws for censored observations and simulations, decorrelated here; and draws of our own, whose
    tests differ by chance only."""
    name, method, _ = case_options(case)
    data, draws = of_reference(reference, name)
    rows, expected = stored(reference, case)
    censored = data.rows_to_column(data.limits.censored)
    limit = data.rows_to_column(data.y)[censored].max()
    imputed = pd.read_csv(reference / "diagnostics" / "npde" / f"{name}_cdf_imputed_simulations.csv.gz")
    flat = draws.ravel().copy()
    flat[imputed["row"].to_numpy() - 1] = imputed["ysim_imputed"]
    groups = data.rows_to_column(np.broadcast_to(np.arange(data.n_groups)[:, None], data.rows.shape))
    y, share, singular = decorrelated_discrepancies(rows["ycomp"].to_numpy(), flat.reshape(draws.shape), groups, method)
    assert singular == []
    np.testing.assert_allclose(y, rows["ydobs"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(to_normal(share), rows["npde"], rtol=0, atol=1e-8)

    record = jn.npde(data, draws, decorrelation=method, seed=3)
    table = record.table
    np.testing.assert_allclose(table["ploq"], rows["ploq"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(table["pd"][~censored], rows["pd"][~censored], rtol=0, atol=1e-12)
    # pd of censored rows is uniform below ploq, and ycomp is the simulation there.
    inside = table.loc[censored]
    assert (inside["pd"] <= inside["ploq"]).all() and (inside["ycomp"] < limit).all()
    assert stats.kstest(inside["pd"] / inside["ploq"], "uniform").pvalue > 1e-3
    assert record.moments.loc["npde", "mean"] == pytest.approx(expected["npde"]["mean"], abs=0.12)
    assert record.moments.loc["npde", "variance"] == pytest.approx(expected["npde"]["variance"], abs=0.2)


def test_simulations_are_censored_as_in_the_r_package(reference: Path) -> None:
    """Values below the limit become other values below it of the same row; the package lists those that changed."""
    data, draws = of_reference(reference, "virload50")
    limits = data.limits.at(data.rows)
    generators = group_generators(data.labels, 0)
    groups = np.repeat(np.arange(data.n_groups), data.sizes)
    completed = complete(
        data.y[data.rows], draws, limits, "cdf", ipred=None, uniform=group_uniforms(generators, groups),
        generators=generators, groups=groups,
    )  # fmt: skip
    imputed = pd.read_csv(reference / "diagnostics" / "npde" / "virload50_cdf_imputed_simulations.csv.gz")
    limit = limits.upper[limits.censored].max()
    below = draws < limit
    assert below.ravel()[imputed["row"].to_numpy() - 1].all()
    changed = completed.simulated != draws
    assert not changed[~below].any()
    # A draw is the value itself with probability one over the number of values below: once a row on average.
    rows = below.any(axis=0).sum()
    assert below.sum() - changed.sum() == pytest.approx(rows, abs=5 * rows**0.5)
    assert below.sum() - len(imputed) == pytest.approx(rows, abs=5 * rows**0.5)
    for row in np.flatnonzero(below.any(axis=0))[:50]:
        assert np.isin(completed.simulated[:, row], draws[:, row]).all()
    assert completed.simulated[below].mean() == pytest.approx(draws[below].mean(), abs=0.01)


# --- definitions, on arrays ---


def drawn(
    groups: int = 40, obs: int = 4, replicates: int = 300, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations (rows,), simulations (replicates, rows) and groups (rows,) of one correlated normal model."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(replicates + 1, groups, 1))
    y = 5.0 + 2.0 * effects + rng.normal(size=(replicates + 1, groups, obs)) * np.arange(1.0, obs + 1.0)
    y = y.reshape(replicates + 1, -1)
    return y[0], y[1:], np.repeat(np.arange(groups), obs)


def test_discrepancies_by_hand() -> None:
    simulated = np.array([1.0, 2.0, 2.0, 3.0])[:, None]
    share = [prediction_discrepancies(np.array([y]), simulated)[0] for y in (0.5, 2.0, 2.5, 9.0, np.nan)]
    np.testing.assert_array_equal(share, [1 / 8, 1 / 4, 3 / 4, 7 / 8, np.nan])
    # At random: between the 1 of 5 places below and the 4 of 5 below or equal.
    ends = [prediction_discrepancies(np.array([2.0]), simulated, np.array([u]))[0] for u in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [1 / 5, 4 / 5])
    np.testing.assert_allclose(to_normal(np.array([0.025, 0.5, np.nan])), [stats.norm.ppf(0.025), 0.0, np.nan])


@pytest.mark.parametrize("method", ["cholesky", "inverse"])
def test_decorrelation_whitens_the_simulations(method: str) -> None:
    """Unequal groups in any order of rows: the decorrelated simulations have mean 0 and covariance I in every group,
    and the observations are transformed by the same matrix."""
    y, simulated, groups = drawn()
    keep = np.random.default_rng(1).permutation(len(y))[:110]
    y, simulated, groups = y[keep], simulated[:, keep], groups[keep]
    out, share, singular = decorrelated_discrepancies(y, simulated, groups, method)
    assert singular == []
    for group in (3, 17, 39):
        at = np.flatnonzero(groups == group)
        mean, covariance = simulated[:, at].mean(axis=0), np.cov(simulated[:, at], rowvar=False).reshape(len(at), -1)
        if method == "cholesky":
            transform = np.linalg.inv(np.linalg.cholesky(covariance))
        else:
            values, vectors = np.linalg.eigh(covariance)
            transform = vectors @ np.diag(values**-0.5) @ vectors.T
        white = (simulated[:, at] - mean) @ transform.T
        np.testing.assert_allclose(np.cov(white, rowvar=False).reshape(len(at), -1), np.eye(len(at)), atol=1e-10)
        np.testing.assert_allclose(out[at], transform @ (y[at] - mean), rtol=1e-10)
        np.testing.assert_allclose(share[at], prediction_discrepancies(out[at], white))


def test_units_and_order_of_groups_have_no_effect() -> None:
    y, simulated, groups = drawn(replicates=100)
    first = jn.npde(y, simulated, groups, ties="random").table
    turned = np.argsort(-groups, kind="stable")
    second = jn.npde(1e6 * y[turned], 1e6 * simulated[:, turned], groups[turned], ties="random").table
    np.testing.assert_allclose(first["npde"].to_numpy()[turned], second["npde"], atol=1e-10)
    np.testing.assert_array_equal(first["npd"].to_numpy()[turned], second["npd"])


def test_blocks_of_groups_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxnlme.diagnostics.npde import decorrelation
    from jaxnlme.diagnostics.npde.settings import NpdeSettings

    y, simulated, groups = drawn()
    whole = decorrelated_discrepancies(y, simulated, groups, "cholesky")
    monkeypatch.setattr(decorrelation, "NPDE", NpdeSettings(cells_per_block=1))
    parts = decorrelated_discrepancies(y, simulated, groups, "cholesky")
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-12)


def test_groups_of_one_row_and_singular_groups() -> None:
    """One row is standardised; a row that repeats another exactly makes its group singular, and only this one."""
    y, simulated, groups = drawn(groups=6, obs=3)
    keep = np.ones(len(y), bool)
    keep[[1, 2]] = False  # the first group has one row
    y, simulated, groups = y[keep], simulated[:, keep], groups[keep]
    same = np.flatnonzero(groups == 4)[:2]
    simulated[:, same[1]] = simulated[:, same[0]]
    record = jn.npde(y, simulated, np.array(list("abcdef"))[groups])
    assert "singular in group 'e', whose observations have no npde; rows that repeat each other" in record.sentences[2]
    table = record.table
    assert table["npde"].isna().to_numpy().tolist() == (groups == 4).tolist() and table["npd"].notna().all()
    assert table["npde"].iloc[0] == table["npd"].iloc[0]
    assert table["ydobs"].iloc[0] == pytest.approx((y[0] - simulated[:, 0].mean()) / simulated[:, 0].std(ddof=1))
    assert record.moments.loc["npde", "n"] == len(y) - 3
    with pytest.raises(jn.DataError, match="2 simulations of 3 rows are too few: more replicates help"):
        jn.npde(y[keep[keep]][1:], simulated[:2, 1:], groups[1:])


def test_random_ties_are_exactly_uniform() -> None:
    """npd of 11 replicates, of numbers and of counts; npde of counts, whose covariance needs more replicates."""
    rng = np.random.default_rng(5)
    for y in (rng.normal(size=(12, 4000)), rng.poisson(1.0, size=(12, 4000)).astype(float)):
        record = jn.npde(y[0], y[1:], np.repeat(np.arange(2000), 2), ties="random")
        assert stats.kstest(record.table["npd"], "norm").pvalue > 0.01
    y = rng.poisson(1.0, size=(401, 4000)).astype(float)
    record = jn.npde(y[0], y[1:], np.repeat(np.arange(2000), 2), ties="random")
    assert stats.kstest(record.table["npde"], "norm").pvalue > 0.01
    with pytest.raises(jn.OptionError, match=r"responses are discrete: 3\d% .* ties='random'"):
        jn.npde(y[0], y[1:], np.repeat(np.arange(2000), 2))


def test_tests_of_known_samples() -> None:
    """Each test rejects what it tests, and the adjusted ones are three times as large; too few values have none."""
    z = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    good = distribution_tests(z)
    assert min(p for _, p, _ in list(good.values())[:4]) > 0.5 and good["global"][2] == 1.0
    assert distribution_tests(z + 0.4)["t"][1] < 1e-6 and distribution_tests(z + 0.4)["Wilcoxon signed rank"][1] < 1e-6
    assert distribution_tests(1.3 * z)["Fisher variance"][1] < 1e-6
    assert distribution_tests(0.7 * z)["Fisher variance"][1] < 1e-6
    skewed = distribution_tests((np.exp(z) - np.exp(z).mean()) / np.exp(z).std())
    assert skewed["Shapiro-Wilk"][1] < 1e-6 and skewed["global"][2] == pytest.approx(3 * skewed["Shapiro-Wilk"][1])
    assert np.isnan([p for _, p, _ in distribution_tests(np.array([0.3])).values()]).all()
    assert np.isnan(distribution_tests(np.zeros(9))["t"]).all()
    assert np.isfinite(distribution_tests(np.random.default_rng(0).normal(size=6000))["Shapiro-Wilk"][1])


def test_wilcoxon_is_r_s_exact_one_in_small_samples() -> None:
    """R: wilcox.test(c(0.3,-0.1,0.7,1.2,-0.4,0.9)): V = 17, p = 0.21875."""
    found = distribution_tests(np.array([0.3, -0.1, 0.7, 1.2, -0.4, 0.9]))["Wilcoxon signed rank"]
    assert found[:2] == pytest.approx((17.0, 0.21875))


def test_standard_errors_of_moments_in_simulation() -> None:
    """Those of skewness and kurtosis of normal samples depend on their size only; s^2 is 1 on average."""
    samples = np.random.default_rng(2).normal(size=(4000, 40))
    se = moments(samples[0] / samples[0].std(ddof=1))
    found = {"mean": samples.mean(axis=1), "variance": samples.var(axis=1, ddof=1)}
    found |= {"skewness": stats.skew(samples, axis=1), "kurtosis": stats.kurtosis(samples, axis=1)}
    for name, values in found.items():
        assert values.std() == pytest.approx(se[f"se {name}"], rel=0.05)


def test_limits_above_and_in_intervals() -> None:
    """ "cdf" of right- and interval-censored rows: pd is uniform among the simulations between the limits; the
    simulations there are exchanged among each other, others stay."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=(401, 3000))
    frame = pd.DataFrame({"id": np.repeat(np.arange(1500), 2), "y": np.minimum(y[0], 1.0)})
    right = jn.GroupedData.from_frame(frame.assign(cens=np.where(y[0] > 1.0, -1, 0)), "id", "y", censoring="cens")
    assert jn.npde(right, y[1:]).tests.loc[("npde", "global"), "p_adjusted"] > 0.05
    between = (y[0] > -1.0) & (y[0] < 0.0)
    frame = pd.DataFrame({"id": np.repeat(np.arange(1500), 2), "y": np.where(between, 0.0, y[0]), "low": -1.0,
                          "cens": between.astype(int)})  # fmt: skip
    interval = jn.GroupedData.from_frame(frame, "id", "y", censoring="cens", limit="low")
    record = jn.npde(interval, y[1:])
    inside = record.table.loc[between]
    assert (inside["ycomp"] >= -1.0).all() and (inside["ycomp"] < 0.0).all()
    assert record.tests.loc[("npde", "global"), "p_adjusted"] > 0.05
    # Without draws the censored values pile up.
    assert jn.npde(interval, y[1:], censoring="loq").tests.loc[("npde", "global"), "p_adjusted"] < 1e-6
    assert jn.npde(right, y[1:], censoring="omit").tests.loc[("npde", "t"), "p"] < 1e-6


# --- tables and messages ---


def test_tables_of_other_programs() -> None:
    """A frame of simulations with its replicates out of order, rows without a response left out or not: the same."""
    y, simulated, groups = drawn(groups=5, obs=3, replicates=150)
    frame = pd.DataFrame({"ID": groups, "TIME": np.tile([1.0, 2.0, 3.0], 5), "DV": y, "WT": 70.0 + groups, "pd": 1.0})
    frame.loc[4, "DV"] = np.nan
    whole = jn.npde(frame, simulated, "ID", "DV", ["TIME", "pd"], ["WT"])
    assert list(whole.table.columns[:5]) == ["ID", "DV", "TIME", "pd (data)", "WT"]
    assert whole.table.index.tolist() == [k for k in range(15) if k != 4] and whole.kinds == ("npde", "npd")
    stacked = pd.concat([frame[["ID", "TIME"]].assign(REP=k, sim=simulated[k]) for k in range(150)], ignore_index=True)
    shuffled = pd.concat([part for _, part in stacked.groupby("REP")][::-1])
    ours = [
        jn.npde(frame, shuffled, "ID", "DV", "TIME", column="sim", replicate="REP"),
        jn.npde(frame, stacked.rename(columns={"sim": "ysim"}), "ID", "DV", "TIME"),
        jn.npde(frame, np.delete(simulated, 4, axis=1), "ID", "DV"),
        jn.npde(frame, simulated.ravel(), "ID", "DV"),
        jn.npde(frame["DV"].to_numpy(), simulated, frame["ID"].to_numpy()),
    ]
    for record in ours:
        np.testing.assert_array_equal(record.table["npde"], whole.table["npde"])
    by = whole.by("TIME", bins=3)
    assert by.index.names == ["TIME", "test"] and set(by.index.get_level_values(0)) == {"1.0", "2.0", "3.0"}
    plain = jn.npde(frame, simulated, "ID", "DV", decorrelation="none")
    assert plain.kinds == ("npd",) and "npde" not in plain.table and "too small" in str(plain)
    np.testing.assert_array_equal(plain.table["npd"], whole.table["npd"])
    assert "<table" in whole._repr_html_() and "Shapiro-Wilk" in str(whole)


def test_endpoints_are_tested_one_by_one() -> None:
    y, simulated, groups = drawn(groups=60, obs=4)
    y = np.where(np.arange(len(y)) % 2, y + 6.0, y)  # the second endpoint is shifted
    frame = pd.DataFrame({"ID": groups, "DV": y, "DVID": np.where(np.arange(len(y)) % 2, "pca", "cp")})
    data = jn.GroupedData.from_frame(frame, "ID", "DV", endpoint="DVID")
    record = jn.npde(data, simulated, decorrelation="none")
    assert record.tests.index.names == ["kind", "endpoint", "test"]
    p = record.tests.loc["npd"]["p"]
    assert p["pca", "t"] < 1e-6 < 0.01 < p["cp", "t"] and p["all", "t"] < 1e-3
    assert record.moments.loc[("npd", "cp"), "n"] == 120 and "pca t" in str(record)


def malformed() -> list[tuple[dict[str, Any], type[Exception], str]]:
    y, simulated, groups = drawn(groups=3, obs=2, replicates=20)
    frame = pd.DataFrame({"ID": groups, "DV": y})
    wide = pd.DataFrame({"a": simulated.ravel(), "b": 1.0})
    names = {"observed": frame, "simulated": simulated, "group": "ID", "y": "DV"}
    broken = np.where(np.arange(6) == 2, np.nan, simulated)
    text = pd.DataFrame({"ysim": ["a"] * simulated.size})
    turned = pd.DataFrame({"ID": np.tile(groups[::-1], 20), "ysim": simulated.ravel()})
    uneven = pd.DataFrame({"ysim": simulated.ravel(), "REP": np.r_[np.ones(5), np.full(115, 2.0)]})
    grouped = jn.GroupedData.from_frame(frame, "ID", "DV")
    changes = [
        ({"simulated": simulated.T}, jn.DataError, r"shape \(6, 20\); expected \(replicates, rows\).* transpose it"),
        ({"simulated": simulated[:, :5]}, jn.DataError, "the data have 6 rows. simulate each"),
        ({"simulated": simulated.ravel()[:-1]}, jn.DataError, "119 values, which is no multiple of the rows"),
        ({"simulated": simulated[:1]}, jn.DataError, "2 replicates at least"),
        ({"simulated": "a"}, jn.DataError, "simulated is 'a'; expected numbers"),
        ({"simulated": wide}, jn.OptionError, "no column 'DV'; name that of the simulated responses"),
        ({"simulated": wide, "column": "c"}, jn.DataError, "no column 'c'"),
        ({"simulated": text}, jn.DataError, "column 'ysim' of simulated holds text"),
        ({"simulated": turned}, jn.DataError, "column 'ID' of simulated differs .* in row 1 of replicate 1"),
        ({"simulated": uneven, "replicate": "REP"}, jn.DataError, "replicates have 5 to 115 rows"),
        ({"column": "a"}, jn.OptionError, "column='a' names a column of simulated, which is no table"),
        ({"simulated": broken}, jn.DataError, "not finite in row 3 "),
        ({"group": None}, jn.OptionError, "group is missing"),
        ({"y": None}, jn.OptionError, "y is missing"),
        ({"observed": y}, jn.OptionError, "group is 'ID', and observed is no table"),
        ({"observed": grouped}, jn.OptionError, "a GroupedData has its own columns; drop group=, y="),
        ({"decorrelation": "polar"}, jn.OptionError, "write 'inverse'"),
        (
            {"decorrelation": "chol"},
            jn.OptionError,
            "decorrelation must be 'cholesky', 'inverse' or 'none'.*did you mean",
        ),
        ({"censoring": "M3"}, jn.OptionError, "censoring must be 'cdf'"),
        ({"ties": True}, jn.OptionError, "ties must be 'below' or 'random'"),
        ({"seed": -1}, jn.OptionError, "seed, which the random numbers follow from, must be a whole number >= 0"),
        ({"ipred": "f"}, jn.OptionError, "ipred='f' is no column of x"),
        ({"ipred": [1.0]}, jn.DataError, "ipred has 1 values; expected 6"),
        ({"replicates": 100}, jn.OptionError, "jn.npde has no option 'replicates'; did you mean 'replicate'"),
    ]
    return [(names | change, error, match) for change, error, match in changes]


@pytest.mark.parametrize("case", range(24))
def test_messages(case: int) -> None:
    arguments, error, match = malformed()[case]
    with pytest.raises(error, match=match):
        jn.npde(**arguments)


def test_message_for_ipred_of_censored_rows(reference: Path) -> None:
    data, draws = of_reference(reference, "virload20")
    with pytest.raises(jn.OptionError, match="censoring='ipred' puts the individual prediction"):
        jn.npde(data, draws, censoring="ipred")
