"""Tables of criteria and likelihood ratios beside R's, weights, averages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

import jaxnlme as jn
from tests.comparison.conftest import data, fitted, line, model
from tests.estimators.lindstrom_bates import nlme_fits

# R 4.2.2, nlme 3.1-162: anova(m1, m2, m3), anova(m1, varIdent), anova of gls without random effects, of
# m1: lme(distance ~ age, Orthodont, ~1 | Subject, method = "ML"), m2: random = ~age | Subject, m3: + Sex.
LRATIO = {("int", "full"): 4.177940831, ("full", "sex"): 6.376440303, ("int", "varident"): 17.69622318}


def test_criteria_are_those_of_nlme() -> None:
    table = jn.compare(*(fitted(n) for n in ("none", "int", "full", "sex")), names=["none", "int", "full", "sex"]).table
    of_r = {
        "none": (3, 511.5769664, 519.6233601, -252.7884832),
        "int": (4, 451.3895421, 462.1180670, -221.6947710),
        "full": (6, 451.2116013, 467.3043886, -219.6058006),
        "sex": (7, 446.8351610, 465.6100796, -216.4175805),
    }
    for name, values in of_r.items():
        np.testing.assert_allclose(
            table.loc[name, ["df", "AIC", "BIC", "log_likelihood"]].astype(float), values, rtol=1e-8
        )


@pytest.mark.parametrize(("restricted", "suffix"), [(False, "ML"), (True, "REML")])
def test_criteria_of_the_reference_folder(reference: Path, restricted: bool, suffix: str) -> None:
    """Restricted fits count the fixed effects and use N - p, as nlme does."""
    compared = jn.compare(fitted("int", restricted=restricted), fitted("full", restricted=restricted))
    rows = compared.table.to_dict("records")
    for row, name in zip(rows, ("int", "intslope"), strict=True):
        of_r = json.loads((reference / "r" / f"Orthodont_{name}_{suffix}.json").read_text())
        for ours, theirs in {"log_likelihood": "logLik", "df": "df", "AIC": "AIC", "BIC": "BIC"}.items():
            assert row[ours] == pytest.approx(of_r[theirs], rel=1e-7)
    assert ("106 = 108 - 2" in str(compared)) == restricted


def test_nonlinear_models_of_the_reference_folder(reference: Path) -> None:
    """nlme stops its alternation early: its log-likelihoods are within 2e-3 of the fixed point."""
    names = ["Theoph_ssfol_diag_lKa_lCl", "Theoph_ssfol_full_lKa_lCl"]
    problems = [nlme_fits.problem(name) for name in names]
    starts = [nlme_fits.nlme_start(reference, f"{name}_ML") for name in names]
    fits = [jn.fit(p.model, p.data, "lme", start=s) for p, s in zip(problems, starts, strict=True)]
    table = jn.compare(*fits, names=names).table
    for name in names:
        of_r = json.loads((reference / "r" / f"{name}_ML.json").read_text())
        for ours, theirs in {"log_likelihood": "logLik", "df": "df", "AIC": "AIC", "BIC": "BIC"}.items():
            assert table.loc[name, ours] == pytest.approx(of_r[theirs], abs=4e-3)
    # lKe has no random effect and counts with the observations, as the residual SD does.
    n, m = np.log(132.0), np.log(12.0)
    bicc = -2.0 * table["log_likelihood"].iloc[0] + 2.0 * n + 4.0 * m
    assert table["BICc"].iloc[0] == pytest.approx(bicc)
    assert table["distribution"].iloc[1] == "chi2(1)"


def test_the_other_criteria_by_their_formulas() -> None:
    """BICc: log 27 for mu, sd(mu) and Sex, which belong to subjects; log 108 for the slope and the residual SD; with a
    random slope also log 27 for the slope."""
    table = jn.compare(fitted("int"), fitted("int sex"), fitted("sex"), names=["int", "int sex", "sex"]).table
    m, n = np.log(27.0), np.log(108.0)
    for name, groups, observations in (("int", 2, 2), ("int sex", 3, 2), ("sex", 6, 1)):
        k, minus = groups + observations, -2.0 * table.loc[name, "log_likelihood"]
        assert table.loc[name, "BICc"] == pytest.approx(minus + groups * m + observations * n)
        assert table.loc[name, "BIC groups"] == pytest.approx(minus + k * m)
        assert table.loc[name, "AICc"] == pytest.approx(minus + 2 * k + 2 * k * (k + 1) / (108 - k - 1))


@pytest.mark.parametrize("criterion", ["AIC", "BICc"])
def test_weights(criterion: str) -> None:
    compared = jn.compare(fitted("int"), fitted("diag"), fitted("full"), criterion=criterion)
    values = compared.table[criterion].to_numpy()
    expected = np.exp(-0.5 * (values - values.min()))
    np.testing.assert_allclose(compared.weights, expected / expected.sum())
    np.testing.assert_allclose(compared.table["delta"], values - values.min())
    assert compared.best is (fitted("int"), fitted("diag"), fitted("full"))[int(np.argmin(values))]


@pytest.mark.parametrize("pair", LRATIO)
def test_likelihood_ratios_are_those_of_nlme(pair: tuple[str, str]) -> None:
    """The p value of a variance is that of the mixture, which nlme's anova does not have."""
    for order in (pair, pair[::-1]):
        row = jn.compare(*(fitted(name) for name in order)).table.iloc[1]
        assert row["chi2"] == pytest.approx(LRATIO[pair], abs=2e-6)
        df = {("int", "full"): 2, ("full", "sex"): 1, ("int", "varident"): 1}[pair]
        assert row["chi2 df"] == df
        expected = chi2.sf(LRATIO[pair], df)
        if pair == ("int", "full"):
            expected = 0.5 * chi2.sf(LRATIO[pair], 1) + 0.5 * expected
        assert row["p"] == pytest.approx(expected, rel=1e-5)


def test_several_variances_have_a_bound() -> None:
    compared = jn.compare(fitted("none"), fitted("full"))
    assert compared.table.iloc[1]["distribution"] == "chi2(3), upper bound of p"
    assert "is an upper bound" in str(compared) and "<" in str(compared)
    not_nested = jn.compare(fitted("int sex"), fitted("full"))
    assert np.isnan(not_nested.table.iloc[1]["p"]) and "lacks mu ~ Sex[T.Male]" in str(not_nested)


def test_text_and_html() -> None:
    compared = jn.compare(fitted("int"), fitted("full"), names=["intercept", "line"])
    text = str(compared)
    assert "N = 108 observations in BIC and AICc, 27 groups" in text and "intercept vs line" in text
    assert max(map(len, text.splitlines())) < 100
    assert "<table" in compared._repr_html_() and "0.5 chi2(1)" in compared._repr_html_()


def test_averages_by_their_formulas() -> None:
    """Burnham and Anderson (2002), equations 4.1 and 6.12, written out."""
    fits = [fitted("int"), fitted("full"), fitted("sex")]
    compared = jn.compare(*fits)
    w = compared.weights.to_numpy()
    table = compared.average(level=0.9)
    assert list(table.index) == ["mu", "slope", "sd(mu)", "a"]
    for name in table.index:
        estimates = np.array([fit.estimates["estimate"][name] for fit in fits])
        se = np.array([fit.estimates["se"][name] for fit in fits])
        mean = np.sum(w * estimates)
        total = np.sqrt(np.sum(w * (se**2 + (estimates - mean) ** 2)))
        assert table.loc[name, ["estimate", "se"]].tolist() == pytest.approx([mean, total])
        assert table.loc[name, "upper"] - mean == pytest.approx(1.6448536 * total)
    # The standard error includes the difference of the intercepts, which Sex makes.
    assert table["se"]["mu"] > np.sum(w * [fit.estimates["se"]["mu"] for fit in fits])
    some = compared.average("corr(mu, slope)")
    values = [fit.estimates["estimate"]["corr(mu, slope)"] for fit in fits[1:]]
    assert some["estimate"].iloc[0] == pytest.approx(np.dot(w[1:] / w[1:].sum(), values))
    assert some["models"].iloc[0] == 2 and some["weight"].iloc[0] == pytest.approx(w[1:].sum())


def test_averaged_predictions() -> None:
    compared = jn.compare(fitted("int"), fitted("sex"))
    w = compared.weights.to_numpy()
    new = {"Subject": ["M01", "M01"], "age": [15.0, 16.0], "Sex": ["Male", "Male"]}
    for table, level in ((None, "group"), (new, "group"), (new, "population")):
        parts = [fitted(name).predict(table, level) for name in ("int", "sex")]
        np.testing.assert_allclose(compared.predict(table, level=level), w[0] * parts[0] + w[1] * parts[1])
    assert compared.predict().name == "prediction" and len(compared.predict()) == 108


def test_parameters_on_other_scales_are_not_averaged() -> None:
    parameters = [jn.Parameter("mu", 17.0, "log", random=True), jn.Parameter("slope", 0.6)]
    on_log = jn.fit(jn.NLMEModel(line, parameters), data(), "focei")
    compared = jn.compare(jn.fit(model(error="constant"), data(), "focei"), on_log, names=["plain", "log"])
    with pytest.raises(jn.OptionError, match=r"mu is on different scales.*identity in plain, log in log"):
        compared.average()
    with pytest.raises(jn.OptionError, match="no model estimates 'slop'; did you mean 'slope'"):
        compared.average("slop")


def test_nested_levels_count_their_units() -> None:
    """20 subjects with 3 occasions of 4 rows: a typical value that varies by both levels is known from 20 subjects, its
    effect by occasion from 60 occasions."""
    rng = np.random.default_rng(3)
    subject, occasion = np.repeat(np.arange(20), 12), np.tile(np.repeat(np.arange(3), 4), 20)
    t = np.tile(np.arange(4.0), 60)
    y = 10.0 + rng.standard_normal(20)[subject] + 0.7 * rng.standard_normal(60)[3 * subject + occasion] + 0.5 * t
    y = y + 0.4 * rng.standard_normal(240)
    period = (occasion == 1).astype(float)
    columns = {"age": t, "period": period, "noise": rng.standard_normal(240)}
    table = jn.GroupedData.from_arrays(y, {"Subject": subject, "Occasion": occasion}, columns)
    mu = jn.Parameter("mu", 10.0, random=["Subject", "Occasion"], covariates=["period", "noise"])
    fit = jn.fit(jn.NLMEModel(line, [mu, jn.Parameter("slope", 0.5)]), table, "focei")
    without = fit.update(random=["mu"])
    compared = jn.compare(without, fit)
    units = compared.candidates[1].units
    assert units is not None
    assert [units[name] for name in units] == [20, 240, 60, 240, 20, 60, 240]
    # Without an effect by occasion the period varies within the units that mu varies by.
    assert list(compared.candidates[0].units.values()) == [20, 240, 240, 240, 20, 240]
    assert compared.table.iloc[1]["distribution"] == "0.5 chi2(0) + 0.5 chi2(1)"
