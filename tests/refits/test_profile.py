"""Profile likelihood: the limits of intervals against refits with the value held there, and against the closed form."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2

import jaxnlme as jn
from jaxnlme.refits import vectorised_minimiser
from jaxnlme.refits.profile_coordinate import coordinate
from jaxnlme.refits.profile_trace import ProfileTrace
from jaxnlme.refits.refits import Refits
from tests.estimators import catalogue
from tests.refits.conftest import lines as lines_data

matplotlib.use("Agg")
QUANTILE = chi2.ppf(0.95, 1)


@pytest.fixture(scope="module")
def trees(orange):
    return orange.profile()


def test_a_refit_with_the_value_held_at_a_limit(orange, trees):
    """The deviance of the refit is the quantile of chi-squared."""
    assert list(trees.intervals.index) == list(orange.values)
    assert not trees.intervals["note"].any()
    for end in ("lower", "upper"):
        held = trees.intervals.loc["xmid", end]
        parameters = [jn.Parameter("xmid", held, fix=True) if p.name == "xmid" else p for p in orange.model.parameters]
        refit = jn.fit(jn.NLMEModel(catalogue.sslogis, parameters, error="constant"), orange.data, "focei").throw()
        assert 2 * (orange.log_likelihood - refit.log_likelihood) == pytest.approx(QUANTILE, abs=1e-3)
        sd = trees.intervals.loc["sd(Asym)", end]
        held_psi = jn.NLMEModel(
            catalogue.sslogis, orange.model.parameters, error="constant", psi=[[sd**2]], fix_psi=True
        )
        refit = jn.fit(held_psi, orange.data, "focei").throw()
        assert 2 * (orange.log_likelihood - refit.log_likelihood) == pytest.approx(QUANTILE, abs=1e-3)


def test_the_table_of_a_profile(orange, trees):
    rows = trees.table[trees.table.parameter == "scal"]
    assert (rows["status"] == "converged").all()
    assert rows["value"].is_monotonic_increasing and rows["zeta"].is_monotonic_increasing
    np.testing.assert_allclose(rows["value"], rows["scal"], rtol=1e-12)
    np.testing.assert_allclose(rows["zeta"] ** 2, rows["deviance"], atol=1e-9)
    np.testing.assert_allclose(rows["deviance"], 2 * (orange.log_likelihood - rows["log_likelihood"]), atol=1e-8)
    # Close to the estimate the likelihood is quadratic, and Wald's interval is right.
    short = orange.profile("scal", level=0.1).intervals.loc["scal"]
    half = 0.5 * (short["upper"] - short["lower"])
    assert half == pytest.approx(0.5 * (short["wald upper"] - short["wald lower"]), rel=5e-3)
    axes = trees.plot()
    assert len(axes) == 5 and axes[0].get_xlabel() == "Asym"
    assert trees.plot(axes)[0] is axes[0]


def closed_form(data: jn.GroupedData):
    """-2 log L of the linear mixed model, a function of (mu, slope, log sd, log sd, atanh r, log a)."""
    t = np.stack([np.ones(6), np.arange(6.0)], axis=1)

    def deviance(p):
        sd, r = np.exp(p[2:4]), np.tanh(p[4])
        psi = np.outer(sd, sd) * np.array([[1.0, r], [r, 1.0]])
        v = t @ psi @ t.T + np.exp(2 * p[5]) * np.eye(6)
        residual = data.y - p[:2] @ t.T
        sign, logdet = np.linalg.slogdet(v)
        quadratic = np.sum(residual * np.linalg.solve(v, residual.T).T)
        return len(residual) * (logdet + 6 * np.log(2 * np.pi)) + quadratic

    return deviance


@pytest.fixture(scope="module")
def profiled(line):
    return line.profile()


@pytest.mark.parametrize("name", ["sd(mu)", "sd(slope)", "corr(mu, slope)", "slope", "a"])
def test_a_full_psi_against_the_closed_form(line, profiled, name):
    """SDs and correlations are not coordinates of a Cholesky factor; here scipy computes the profile."""
    deviance = closed_form(line.data)
    v = line.values
    start = [v["mu"], v["slope"], np.log(v["sd(mu)"]), np.log(v["sd(slope)"]), np.arctanh(v["corr(mu, slope)"])]
    start = np.array([*start, np.log(v["a"])])
    assert deviance(start) == pytest.approx(-2 * line.log_likelihood, abs=1e-8)
    index = ["mu", "slope", "sd(mu)", "sd(slope)", "corr(mu, slope)", "a"].index(name)
    to_real = (lambda x: x) if index < 2 else np.arctanh if index == 4 else np.log
    for end in ("lower", "upper"):
        held = float(to_real(profiled.intervals.loc[name, end]))
        rest = np.delete(np.arange(6), index)

        def held_deviance(free, held=held, rest=rest):
            p = np.empty(6)
            p[index], p[rest] = held, free
            return deviance(p)

        best = minimize(held_deviance, start[rest], method="BFGS", options={"gtol": 1e-7})
        assert best.fun - deviance(start) == pytest.approx(QUANTILE, abs=1e-3)


def test_the_interval_of_a_zero_variance():
    """The slopes do not vary: the interval of their SD begins at zero."""
    model = jn.NLMEModel(
        catalogue.line, [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    )
    fit = jn.fit(model, lines_data(slope_sd=0.0, seed=8), "focei").throw()
    row = fit.profile("sd(slope)").intervals.loc["sd(slope)"]
    assert row["lower"] == 0.0 and row["note"] == "estimated as zero"
    deviance, v = closed_form(fit.data), fit.values

    def held(free):
        return deviance(np.array([*free[:3], np.log(row["upper"]), 0.0, free[3]]))

    start = np.array([v["mu"], v["slope"], np.log(v["sd(mu)"]), np.log(v["a"])])
    best = minimize(held, start, method="BFGS", options={"gtol": 1e-7})
    assert best.fun + 2 * fit.log_likelihood == pytest.approx(QUANTILE, abs=1e-3)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_estimate_in_the_table_is_the_fit(covariance):
    """The row of the estimate holds the values of the fit, also where another SD is zero."""
    parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    fit = jn.fit(
        jn.NLMEModel(catalogue.line, parameters, covariance), lines_data(slope_sd=0.0, seed=8), "focei"
    ).throw()
    table = fit.profile(["mu", "sd(mu)"], level=0.5, points=1).table
    for _, row in table[table["deviance"] == 0].iterrows():
        np.testing.assert_allclose([row[name] for name in fit.values], list(fit.values.values()), rtol=1e-9, atol=1e-12)


def test_a_limit_whose_refit_fails_is_searched_at_other_points(orange):
    refits = Refits(orange, "a profile", 100)
    trace = ProfileTrace(refits, coordinate(refits.binding, "scal"), None, 0.95, 2)
    trace.rounds = 1
    trace.c += [trace.estimate + step * trace.half_width for step in (0.5, 1.25)]
    trace.deviance += [0.25 * QUANTILE, 1.5 * QUANTILE]
    tried = []
    for _ in range(4):
        (at,) = trace.next_points()[-1:]
        assert all(abs(at - earlier) > 1e-3 * trace.half_width for earlier in tried)
        assert trace.c[1] < at < trace.c[2]
        tried.append(at)
        trace.c.append(at)
        trace.deviance.append(np.nan)


def test_options_that_a_profile_refuses(orange):
    with pytest.raises(jn.OptionError, match="did you mean 'xmid'"):
        orange.profile("xmd")
    with pytest.raises(jn.OptionError, match=r"0\.9 for 90%"):
        orange.profile(level=95)
    with pytest.raises(jn.OptionError, match="no option 'levels'; did you mean 'level'"):
        orange.profile(levels=0.9)
    with pytest.raises(jn.OptionError, match="nothing to profile"):
        orange.profile([])
    bare = jn.fit(orange.model, orange.data, "focei", standard_errors=False)
    with pytest.raises(jn.OptionError, match="standard_errors=True"):
        bare.profile()
    fixed = [jn.Parameter("xmid", 700.0, fix=True) if p.name == "xmid" else p for p in orange.model.parameters]
    fit = jn.fit(jn.NLMEModel(catalogue.sslogis, fixed), orange.data, "focei")
    with pytest.raises(jn.OptionError, match="'xmid' is fixed"):
        fit.profile("xmid")


def test_a_profile_interrupted_before_its_first_point(monkeypatch, recwarn):
    def store(*args):
        raise KeyboardInterrupt

    parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    fit = jn.fit(jn.NLMEModel(catalogue.line, parameters), lines_data(slope_sd=0.0, seed=8), "focei").throw()
    monkeypatch.setattr(vectorised_minimiser, "_store", store)
    result = fit.profile("sd(slope)", width=4)
    assert result.table["deviance"].isna().all() and "Interrupted" in str(result)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_an_interrupted_profile_is_reported(orange, monkeypatch):
    def show(self, text, done):
        raise KeyboardInterrupt

    monkeypatch.setattr(vectorised_minimiser.ProgressLine, "show", show)
    result = orange.profile("scal", width=4)
    assert "Interrupted: " in str(result)
    row = result.intervals.loc["scal"]
    assert np.isnan(row["lower"]) and row["note"] == "lower limit: interrupted; upper limit: interrupted"
