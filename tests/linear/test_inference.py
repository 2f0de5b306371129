"""Degrees of freedom, F tests, contrasts, means: against lmerTest, pbkrtest, nlme, emmeans, and dense matrices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.linear.inference import marginal_covariance
from jaxnlme.linear.inference.marginal_covariance import covariance_sums
from jaxnlme.linear.inference.settings import INFERENCE

TABLES = Path(__file__).resolve().parent.parent / "tables"
# By benchmarks/peers/inference.R.
R = json.loads((TABLES.parent / "data" / "linear_inference.json").read_text())
CASES = {
    "BodyWeight": ("weight ~ Time * Diet + (Time | Rat)", ("Rat", "Diet")),
    "CO2": ("uptake ~ Type * Treatment + log(conc) + (1 | Plant)", ("Plant", "Type", "Treatment")),
}
METHODS = {"satterthwaite": "Satterthwaite", "kenward-roger": "Kenward-Roger"}
T_COLUMNS = {"estimate": "Estimate", "se": "Std. Error", "df": "df", "t": "t value"}
F_COLUMNS = {"num_df": "NumDF", "den_df": "DenDF", "F": "F value"}
# lme4 and nlme end their searches at theta to about 1e-5, which degrees of freedom show.
R_TOLERANCE = 3e-4
FITS: dict[tuple[str, str], Any] = {}


def fitted(name: str, method: str = "REML") -> Any:
    if (name, method) not in FITS:
        formula, factors = CASES[name]
        data = pd.read_csv(TABLES / f"{name}.csv").iloc[[row - 1 for row in R[name]["rows"]]]
        FITS[name, method] = jn.lme(formula, data=data.astype(dict.fromkeys(factors, str)), method=method)
    return FITS[name, method]


def assert_columns(table: pd.DataFrame, rows: list[dict], columns: dict[str, str], rtol: float = R_TOLERANCE) -> None:
    for ours, theirs in columns.items():
        np.testing.assert_allclose(table[ours], [row[theirs] for row in rows], rtol=rtol, err_msg=ours)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", ("REML", "ML"))
@pytest.mark.parametrize("df", METHODS)
def test_lmertest_and_pbkrtest(name: str, method: str, df: str) -> None:
    if df == "kenward-roger" and method == "ML":
        return
    fit, reference = fitted(name, method), R[name][method]
    assert fit.log_likelihood == pytest.approx(reference["log_likelihood"], abs=1e-6)
    reference = reference[METHODS[df]]
    assert_columns(fit.coefficients(df), reference["coefficients"], T_COLUMNS)
    for type, key in (("sequential", "type1"), ("III", "type3")):
        table = fit.anova(type, df).table.drop(index="(Intercept)")
        assert list(table.index) == [row["term"] for row in reference[key]]
        assert_columns(table, reference[key], F_COLUMNS)
        np.testing.assert_allclose(table["p"], [row["Pr(>F)"] for row in reference[key]], rtol=5e-3)


@pytest.mark.parametrize("name", CASES)
def test_containment_as_nlme(name: str) -> None:
    fit, reference = fitted(name), R[name]["nlme"]
    assert_columns(
        fit.coefficients("containment"), reference["coefficients"], {"estimate": "Value", "se": "Std.Error", "df": "DF"}
    )
    for type in ("sequential", "marginal"):
        table = fit.anova(type, "containment").table
        assert list(table.index) == [row["term"] for row in reference[type]]
        assert_columns(table, reference[type], {"num_df": "numDF", "den_df": "denDF", "F": "F-value"}, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("df", [*METHODS, "containment"])
def test_means_and_differences_as_emmeans(name: str, df: str) -> None:
    fit = fitted(name)
    for specification, by_mode in R[name]["means"].items():
        of, *by = specification.strip("~").split(" | ")
        found = fit.means(of, by=by or None, df=df, pairwise=True)
        columns = {"estimate": "emmean", "se": "SE", "df": "df", "lower": "lower.CL", "upper": "upper.CL"}
        assert_columns(found.table, by_mode[df]["means"], columns)
        pairs = {"estimate": "estimate", "se": "SE", "df": "df", "t": "t.ratio"}
        assert_columns(found.differences, by_mode[df]["pairs"], pairs)
        # R's ptukey has about three digits of small probabilities.
        np.testing.assert_allclose(found.differences["p"], [row["p.value"] for row in by_mode[df]["pairs"]], rtol=2e-3)


REFERENCE = {
    "sleepstudy": "sleepstudy",
    "sleepstudy_40_removed": "sleepstudy",
    "oats": "Oats",
    "oats_7_removed": "Oats",
    "chickweight": "ChickWeight",
    "machines": "Machines",
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_tables(name: str, reference: Path) -> None:
    """The numbers of reference/df; there "marginal" is lmerTest's type III."""
    expected = json.loads((reference / "df" / f"df_{name}.json").read_text())
    data = pd.read_csv(reference.parent / "data" / f"{REFERENCE[name]}.csv").iloc[[r - 1 for r in expected["rows"]]]
    if "Diet" in data:
        data = data.astype({"Diet": str})
    fit = jn.lme(expected["formula"], data=data)
    for df, key in (("satterthwaite", "satterthwaite"), ("kenward-roger", "kenward_roger")):
        assert_columns(fit.coefficients(df), expected[f"summary_{key}"], T_COLUMNS)
        for type, part in (("sequential", "sequential"), ("III", "marginal")):
            table = fit.anova(type, df).table.drop(index="(Intercept)")
            rows = expected[f"anova_{part}_{key}"]
            assert list(table.index) == [row["term"] for row in rows]
            assert_columns(table, rows, F_COLUMNS)


@pytest.mark.parametrize("name", ("oats", "oats_7_removed", "orthodont"))
def test_reference_containment(name: str, reference: Path) -> None:
    expected = json.loads((reference / "df" / f"nlme_anova_{name}.json").read_text())
    orthodont = name == "orthodont"
    data = pd.read_csv(reference.parent / "data" / ("Orthodont.csv" if orthodont else "Oats.csv"))
    if name == "oats_7_removed":
        data = data.drop(index=[row - 1 for row in (3, 11, 20, 33, 41, 55, 68)])
    if orthodont:
        data["Sex"] = pd.Categorical(data["Sex"], ["Female", "Male"])
        fit = jn.lme("distance ~ age * Sex", "~ age | Subject", data)
    else:
        fit = jn.lme("yield ~ nitro * Variety", "~ 1 | Block/Variety", data)
    columns = {"estimate": "Value", "se": "Std.Error", "df": "DF", "t": "t-value"}
    assert_columns(fit.coefficients("containment"), expected["tTable"], columns)
    for type in ("sequential", "marginal"):
        table = fit.anova(type, "containment").table
        assert_columns(table, expected[type], {"num_df": "numDF", "den_df": "denDF", "F": "F-value"})


def simulated(seed: int = 3) -> pd.DataFrame:
    """Unbalanced rows of nested units, with two crossed factors and a covariate."""
    rng = np.random.default_rng(seed)
    n = 120
    outer = rng.integers(0, 9, n)
    inner = rng.integers(0, 3, n)
    a, b, x = rng.integers(0, 3, n), rng.integers(0, 2, n), rng.normal(3.0, 1.0, n)
    y = a + 0.5 * b + 0.3 * x * b + rng.normal(0, 1.0, 9)[outer] + rng.normal(0, 0.7, (9, 3))[outer, inner]
    y += x * rng.normal(0, 0.5, 9)[outer] + rng.normal(0, 0.5, n)
    names = {"a": np.array(["p", "q", "r"])[a], "b": np.array(["no", "yes"])[b]}
    return pd.DataFrame({"y": y, "x": x, "outer": outer, "inner": inner, **names})


STRUCTURES = {
    "full": {"outer": "full"},
    "diagonal": {"outer": "diagonal"},
    "identity": {"outer": "identity"},
    "compound symmetry": {"outer": "compound symmetry"},
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_sums_by_blocks_are_those_of_dense_matrices(structure: str) -> None:
    """Two nested levels with several inner units: all sums against V of all rows."""
    data = simulated()
    formula = "y ~ a + x + (x | outer) + (1 | outer:inner)"
    fit = jn.lme(formula, data=data, covariance=STRUCTURES[structure])
    problem, theta = fit.problem, fit.outcome.estimation.theta
    sums = covariance_sums(problem, theta)
    X, n = problem.X @ np.linalg.inv(problem.R), problem.n_rows
    bases = {
        "full": [np.diag([1.0, 0]), np.array([[0, 1.0], [1, 0]]), np.diag([0, 1.0])],
        "diagonal": [np.diag([1.0, 0]), np.diag([0, 1.0])],
        "identity": [np.eye(2)],
        "compound symmetry": [np.eye(2), np.ones((2, 2))],
    }[structure]
    psi = [np.asarray(p) / fit.sigma**2 for p in fit.psi.values()]
    V, derivatives = np.eye(n), [np.eye(n)]
    for level, relative, basis in zip(problem.levels, psi, (bases, [np.eye(1)]), strict=True):
        codes = level.design.codes[problem.order]
        same = codes[:, None] == codes[None, :]
        V = V + same * (level.matrix @ relative @ level.matrix.T)
        Z = level.matrix @ level.transform
        derivatives += [same * (Z @ B @ Z.T) for B in basis]
    Vi = np.linalg.inv(V)
    np.testing.assert_allclose(sums.normal, X.T @ Vi @ X, rtol=1e-8, atol=1e-10)
    # The components of compound symmetry are other ones of the same space: compare what does not depend on them.
    if structure != "compound symmetry":
        for r, G in enumerate(derivatives):
            np.testing.assert_allclose(sums.P[r], -X.T @ Vi @ G @ Vi @ X, rtol=1e-8, atol=1e-9)
            for s, H in enumerate(derivatives):
                np.testing.assert_allclose(sums.Q[r, s], X.T @ Vi @ G @ Vi @ H @ Vi @ X, rtol=1e-8, atol=1e-9)
                np.testing.assert_allclose(sums.traces[r, s], np.trace(Vi @ G @ Vi @ H), rtol=1e-8)
    Phi = np.linalg.inv(X.T @ Vi @ X)
    P = np.array([-X.T @ Vi @ G @ Vi @ X for G in derivatives])
    Q = np.array([[X.T @ Vi @ G @ Vi @ H @ Vi @ X for H in derivatives] for G in derivatives])
    traces = np.array([[np.trace(Vi @ G @ Vi @ H) for H in derivatives] for G in derivatives])
    count = len(derivatives)
    information = np.array(
        [
            [traces[r, s] - 2 * np.trace(Phi @ Q[r, s]) + np.trace(Phi @ P[r] @ Phi @ P[s]) for s in range(count)]
            for r in range(count)
        ]
    )
    W = 2 * np.linalg.inv(information)
    Lambda = sum(W[r, s] * Phi @ (Q[r, s] - P[r] @ Phi @ P[s]) @ Phi for r in range(count) for s in range(count))
    transform = fit.sigma * np.linalg.inv(problem.R)
    expected = np.sqrt(np.diag(transform @ (Phi + 2 * Lambda) @ transform.T))
    np.testing.assert_allclose(fit.coefficients("kenward-roger")["se"], expected, rtol=1e-6)


def test_type_three_are_marginal_tests_of_sum_contrasts() -> None:
    data = simulated()
    plain = jn.lme("y ~ a * b + x * b + (1 | outer)", data=data).anova("III").table
    summed = jn.lme("y ~ C(a, contr.sum) * C(b, contr.sum) + x * C(b, contr.sum) + (1 | outer)", data=data)
    marginal = summed.anova("marginal").table
    assert list(plain.index) == ["(Intercept)", "a", "b", "x", "a:b", "x:b"]
    np.testing.assert_allclose(plain[["num_df", "F"]], marginal[["num_df", "F"]].to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(plain["den_df"], marginal["den_df"].to_numpy(), rtol=1e-3)


def test_factors_of_numbers_and_terms_without_margins() -> None:
    data = simulated().assign(dose=lambda d: d["a"].map({"p": 1, "q": 2, "r": 5}))
    by_text = jn.lme("y ~ a * b + (1 | outer)", data=data)
    by_number = jn.lme("y ~ factor(dose) * b + (1 | outer)", data=data)
    np.testing.assert_allclose(by_text.anova("III").table, by_number.anova("III").table, rtol=1e-6)
    assert list(by_number.means("dose").table.index) == [1, 2, 5]
    np.testing.assert_allclose(by_number.means("dose").table, by_text.means("a").table, rtol=1e-6)
    cell = jn.lme("y ~ 0 + a:x + (1 | outer)", data=data)
    assert cell.anova("III").table.loc["a:x", "num_df"] == 3
    assert cell.anova("III").table.loc["a:x", "F"] == pytest.approx(cell.anova("marginal").table.loc["a:x", "F"])


def test_answers_do_not_depend_on_units() -> None:
    data = simulated()
    fit = jn.lme("y ~ a + x + (x | outer)", data=data)
    scaled = jn.lme("y ~ a + x + (x | outer)", data=data.assign(y=1e5 * data["y"] + 3e5, x=1e-3 * data["x"]))
    for df in METHODS:
        one, other = fit.anova("sequential", df).table, scaled.anova("sequential", df).table
        np.testing.assert_allclose(one.loc[["a", "x"]], other.loc[["a", "x"]], rtol=1e-4)


def test_without_random_effects_all_methods_are_the_residual_one() -> None:
    data = simulated()
    fit = jn.gls("y ~ a * x", data)
    assert (fit.coefficients()["df"] == len(data) - 6).all()
    for df in ("satterthwaite", "kenward-roger", "containment"):
        np.testing.assert_allclose(fit.coefficients(df)["df"], len(data) - 6, rtol=1e-6)
        np.testing.assert_allclose(fit.anova("marginal", df).table["den_df"], len(data) - 6, rtol=1e-6)


def test_a_variance_of_zero() -> None:
    """Satterthwaite's method holds it; a model without the effect has the same degrees of freedom, N - p."""
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 4), "x": np.tile(np.arange(4.0), 10)})
    noise = rng.normal(size=40)
    data["y"] = noise - noise.reshape(10, 4).mean(axis=1).repeat(4) + data["x"]
    fit = jn.lme("y ~ x + (1 | g)", data=data)
    assert fit.sigma > 0 and float(fit.psi["g"].iloc[0, 0]) == 0
    np.testing.assert_allclose(fit.coefficients()["df"], 38, rtol=1e-6)
    assert "zero" in str(fit.anova())
    assert np.isfinite(fit.coefficients("kenward-roger")["df"]).all()


def test_contrasts_by_expression_dictionary_and_matrix() -> None:
    fit = fitted("CO2")
    names = list(fit.beta.index)
    name = "Type[T.Quebec]:Treatment[T.nonchilled]"
    row = np.zeros(len(names))
    row[names.index(name)], row[names.index("log(conc)")] = 1.0, -2.0
    forms = (f"{name} - 2*log(conc)", f"-(log(conc)*4 - 2*{name})/2", {name: 1, "log(conc)": -2}, row, row[None, :])
    tables = [fit.contrast(form).table for form in forms]
    for table in tables:
        np.testing.assert_allclose(table, tables[0], rtol=1e-12)
    assert tables[0]["estimate"].iloc[0] == pytest.approx(float(row @ fit.beta))
    expected = np.sqrt(row @ fit.beta_covariance.to_numpy() @ row)
    assert tables[0]["se"].iloc[0] == pytest.approx(expected)
    shifted = fit.contrast("log(conc) = 5", df="containment")
    by_option = fit.contrast("log(conc)", df="containment", rhs=5)
    se = float(np.sqrt(fit.beta_covariance.loc["log(conc)", "log(conc)"]))
    assert shifted.table["t"].iloc[0] == pytest.approx((fit.beta["log(conc)"] - 5) / se)
    np.testing.assert_allclose(shifted.table, by_option.table)
    assert shifted.table["lower"].iloc[0] < fit.beta["log(conc)"] < shifted.table["upper"].iloc[0]


@pytest.mark.parametrize("df", [*METHODS, "containment"])
def test_joint_test_of_a_term_and_redundant_rows(df: str) -> None:
    fit = fitted("BodyWeight")
    term = fit.anova("marginal", df).table.loc["Time:Diet"]
    interactions = [name for name in fit.beta.index if "Time:" in name]
    joint = fit.contrast([*interactions, " + ".join(interactions)], df=df).joint
    assert joint["num_df"] == 2
    # Satterthwaite's degrees of freedom depend a little on the rows that state a hypothesis.
    np.testing.assert_allclose(joint, term, rtol=1e-4 if df == "satterthwaite" else 1e-6)
    np.testing.assert_allclose(fit.contrast(interactions, df=df).joint, term, rtol=1e-9)


def test_means_at_values_and_combinations_without_rows() -> None:
    fit = fitted("CO2")
    at = fit.means(["Type", "Treatment"], at={"conc": 200.0}, df="normal").table
    frame = at.index.to_frame(index=False).assign(conc=200.0, Plant="new")
    np.testing.assert_allclose(at["estimate"], fit.predict(frame, level="population"), rtol=1e-10)
    several = fit.means("conc", at={"conc": [100, 500], "Type": "Quebec"})
    assert list(several.table.index) == [100, 500]
    slope = several.table["estimate"].diff().iloc[1] / np.log(5.0)
    assert slope == pytest.approx(fit.beta["log(conc)"])
    data = simulated()
    data = data[~((data["a"] == "r") & (data["b"] == "yes"))]
    found = jn.lme("y ~ a * b + (1 | outer)", data=data).means(["a", "b"])
    assert found.table.loc[("r", "yes")].isna().all() and found.table.drop(index=("r", "yes")).notna().all(axis=None)
    cells = data[(data["a"] == "q") & (data["b"] == "no")]
    assert abs(found.table.loc[("q", "no"), "estimate"] - cells["y"].mean()) < 1.5


def test_adjustments_of_differences() -> None:
    fit = fitted("BodyWeight")
    none, bonferroni = (fit.means("Diet", pairwise=True, adjust=a).differences for a in ("none", "bonferroni"))
    holm, tukey = (fit.means("Diet", pairwise=True, adjust=a).differences for a in ("holm", "tukey"))
    np.testing.assert_allclose(bonferroni["p"], np.minimum(3 * none["p"], 1))
    assert holm["p"].max() == pytest.approx(none["p"].max()) and holm["p"].min() == pytest.approx(3 * none["p"].min())
    assert (tukey["p"] <= bonferroni["p"]).all() and (tukey["p"] >= none["p"]).all()
    zero_inside = (tukey["lower"] < 0) & (tukey["upper"] > 0)
    assert (zero_inside == (tukey["p"] > 0.05)).all()


REFUSED = {
    "df": (lambda f: f.coefficients("satterthwait"), "satterthwaite"),
    "type": (lambda f: f.anova("II"), "marginal"),
    "weighted": (lambda f: f.anova("III", weighted=True), "sequential"),
    "unknown name": (lambda f: f.contrast("log(cond) - 1"), "log"),
    "product": (lambda f: f.contrast("log(conc)*log(conc)"), "not linear"),
    "no coefficient": (lambda f: f.contrast("3 - 2"), "no coefficient"),
    "trailing": (lambda f: f.contrast("log(conc) 3"), "character 11"),
    "shape": (lambda f: f.contrast([[1.0, 2.0]]), "columns"),
    "zero row": (lambda f: f.contrast(np.zeros(5)), "zero"),
    "rhs twice": (lambda f: f.contrast("log(conc) = 1", rhs=2), "twice"),
    "means of a number": (lambda f: f.means("conc"), "at="),
    "unknown column": (lambda f: f.means("Typ"), "Type"),
    "unknown category": (lambda f: f.means("Type", at={"Treatment": "hot"}), "chilled"),
    "adjust": (lambda f: f.means("Type", adjust="sidak"), "tukey"),
    "level": (lambda f: f.means("Type", level=95), "0.9"),
    "position": (lambda f: f.variogram("Type"), "text"),
    "max_lag": (lambda f: f.acf(50), "longest"),
    "max_distance": (lambda f: f.variogram(max_distance="far"), "max_distance"),
    "no combination": (lambda f: f.contrast([]), "at least one"),
    "bins": (lambda f: f.variogram(bins=0), "whole number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_remedy(name: str) -> None:
    call, word = REFUSED[name]
    with pytest.raises((jn.OptionError, jn.DataError), match=word.replace("(", r"\(")):
        call(fitted("CO2"))


def test_methods_that_a_fit_does_not_have() -> None:
    with pytest.raises(jn.OptionError, match="REML"):
        fitted("CO2", "ML").coefficients("kenward-roger")
    data = simulated()
    data = data[~((data["a"] == "r") & (data["b"] == "yes"))]
    with pytest.raises(jn.OptionError, match="lack combinations"):
        jn.lme("y ~ a * b + (1 | outer)", data=data).anova("III")
    with pytest.raises(jn.OptionError, match="no fixed effects"):
        jn.lme("y ~ 0 + (1 | outer)", data=data).coefficients()
    with pytest.raises(jn.OptionError, match="both"):
        jn.lme("y ~ x2 + factor(x2) + (1 | outer)", data=simulated().assign(x2=lambda d: d["inner"])).anova("III")


def test_printed_tables() -> None:
    fit = fitted("BodyWeight")
    text = str(fit.anova("III", "kenward-roger"))
    assert "kenward-roger" in text and "Time:Diet" in text and "num df" in text
    assert "Joint F test" in str(fit.contrast(["Time", "Diet[T.2]"]))
    assert "Differences" in str(fit.means("Diet", pairwise=True)) and "<table" in fit.means("Diet")._repr_html_()


def test_blocks_in_parts_and_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = jn.lme("y ~ a + x + (1 | outer) + (1 | outer:inner)", data=simulated())
    theta = fit.outcome.estimation.theta
    together = covariance_sums(fit.problem, theta)
    monkeypatch.setattr(marginal_covariance, "INFERENCE", dataclasses.replace(INFERENCE, block_entries=1))
    parts = covariance_sums(fit.problem, theta)
    np.testing.assert_allclose(parts.Q, together.Q, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts.traces, together.traces, rtol=1e-10)
    monkeypatch.setattr(marginal_covariance, "INFERENCE", dataclasses.replace(INFERENCE, most_effects=3))
    with pytest.raises(jn.OptionError, match=r"limit is 3.*satterthwaite"):
        fit.coefficients("kenward-roger")


def test_other_frames_and_kinds_of_categories() -> None:
    """Truth values, categories of integers in an order of their own, a dictionary of arrays."""
    data = simulated().assign(treated=lambda d: d["b"] == "yes")
    data["dose"] = pd.Categorical(data["inner"], [2, 0, 1])
    formula = "y ~ treated * dose + x + (1 | outer)"
    fit = jn.lme(formula, data=data)
    found = fit.means(["treated", "dose"], df="normal").table
    assert list(found.index)[:3] == [(False, 2), (False, 0), (False, 1)]
    cells = found.index.to_frame(index=False).assign(x=data["x"].mean(), outer=99)
    cells["dose"] = pd.Categorical(cells["dose"], [2, 0, 1])
    np.testing.assert_allclose(found["estimate"], fit.predict(cells, level="population"), rtol=1e-9)
    arrays = {name: data[name].to_numpy() for name in ("y", "a", "b", "x", "outer")}
    plain = jn.lme("y ~ a * b + x + (1 | outer)", data=arrays)
    framed = jn.lme("y ~ a * b + x + (1 | outer)", data=data)
    np.testing.assert_allclose(plain.means("a", by="b").table, framed.means("a", by="b").table)
    np.testing.assert_allclose(plain.anova("III").table, framed.anova("III").table)
    np.testing.assert_allclose(plain.variogram("x", bins=5), framed.variogram("x", bins=5))
