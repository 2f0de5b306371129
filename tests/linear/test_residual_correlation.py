"""Autocorrelations and variograms of residuals against nlme."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

TABLES = Path(__file__).resolve().parent.parent / "tables"
# By benchmarks/peers/inference.R.
R = json.loads((TABLES.parent / "data" / "linear_inference.json").read_text())


@pytest.fixture(scope="module")
def fits() -> dict[str, Any]:
    out = {}
    for name, formula, factors in (
        ("BodyWeight", "weight ~ Time * Diet + (Time | Rat)", ("Rat", "Diet")),
        ("CO2", "uptake ~ Type * Treatment + log(conc) + (1 | Plant)", ("Plant", "Type", "Treatment")),
    ):
        data = pd.read_csv(TABLES / f"{name}.csv").iloc[[row - 1 for row in R[name]["rows"]]]
        out[name] = jn.lme(formula, data=data.astype(dict.fromkeys(factors, str)))
    return out


@pytest.mark.parametrize("name", ("BodyWeight", "CO2"))
def test_acf_as_nlme(fits: dict[str, Any], name: str) -> None:
    found, expected = fits[name].acf(), pd.DataFrame(R[name]["acf"])
    np.testing.assert_allclose(found["acf"], expected["acf"], atol=1e-7)
    assert (found["n"].to_numpy() == expected["n"]).all()
    np.testing.assert_allclose(found["bound"], 1.959964 / np.sqrt(expected["n"]), rtol=1e-6)
    np.testing.assert_allclose(fits[name].acf(5, kind="response")["acf"], R[name]["acf5"], atol=1e-7)


OPTIONS = {"plain": {}, "robust": {"bins": 6, "robust": True}, "fixed": {"bins": 5, "collapse": "fixed"}}


@pytest.mark.parametrize("name", ("BodyWeight", "CO2"))
@pytest.mark.parametrize("kind", OPTIONS)
def test_variogram_as_nlme(fits: dict[str, Any], name: str, kind: str) -> None:
    position = "Time" if name == "BodyWeight" else "conc"
    found, expected = fits[name].variogram(position, **OPTIONS[kind]), pd.DataFrame(R[name]["variogram"][kind])
    # nlme leaves pairs at the least distance out of the first class, if distances are put into classes.
    classes = int(kind != "plain")
    np.testing.assert_allclose(found.iloc[classes:], expected.iloc[classes:], rtol=1e-6)
    pairs = fits[name].variogram(position, collapse="none")
    assert found["n"].sum() == len(pairs)
    assert found["n"].iloc[0] - expected["n"].iloc[0] == classes * np.sum(pairs["distance"] == pairs["distance"].min())


@pytest.mark.parametrize("name", ("BodyWeight", "CO2"))
def test_pairs_up_to_a_distance(fits: dict[str, Any], name: str) -> None:
    position, most = ("Time", 20) if name == "BodyWeight" else ("conc", 200)
    found = fits[name].variogram(position, collapse="none", max_distance=most)
    expected = pd.DataFrame(R[name]["variogram"]["none"])
    np.testing.assert_allclose(np.sort(found["variogram"]), np.sort(expected["variogram"]), rtol=1e-5, atol=1e-8)


def test_order_groups_and_metrics(fits: dict[str, Any]) -> None:
    """A shuffled table sorted by a column has the autocorrelations of the table in order."""
    fit = fits["BodyWeight"]
    data = fit.model.frame.sample(frac=1.0, random_state=1)
    shuffled = jn.lme("weight ~ Time * Diet + (Time | Rat)", data=data)
    np.testing.assert_allclose(shuffled.acf(order="Time")["acf"], fit.acf()["acf"], atol=1e-6)
    assert not np.allclose(shuffled.acf()["acf"], fit.acf()["acf"], atol=1e-3)
    by_column = jn.gls("weight ~ Time * Diet", data).acf(group="Rat", order="Time")
    assert (by_column["n"] == fit.acf()["n"]).all()
    taxi = fit.variogram(["Time", "Time"], collapse="none", metric="manhattan")["distance"]
    one = fit.variogram("Time", collapse="none")["distance"]
    np.testing.assert_allclose(taxi, 2 * one)
    euclidean = fit.variogram(["Time", "Time"], collapse="none")["distance"]
    np.testing.assert_allclose(euclidean, np.sqrt(2) * one)
    in_rows = fit.variogram(collapse="none")["distance"]
    assert in_rows.min() == 1 and (in_rows == np.round(in_rows)).all()
