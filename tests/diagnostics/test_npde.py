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
    for column in ("ypred", "ycomp", "pd", "npde", "ydobs"):
        np.testing.assert_allclose(table[column], want[column], rtol=0, atol=1e-8, err_msg=column)
    np.testing.assert_allclose(
        table["npd"], want["npd"] if "npd" in want else to_normal(want["pd"].to_numpy()), atol=1e-8
    )
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


def test_the_package_s_imputations_come_from_the_same_places(reference: Path) -> None:
    """The rows that our rule "cdf" imputes are those that the package did, in number and range."""
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
    assert (draws < limit).sum() == len(imputed)
    assert ((completed.simulated < limit) == (draws < limit)).all()
    changed = completed.simulated[draws < limit]
    assert np.isin(changed, draws[draws < limit]).all()
    assert changed.mean() == pytest.approx(imputed["ysim_imputed"].mean(), abs=0.01)
