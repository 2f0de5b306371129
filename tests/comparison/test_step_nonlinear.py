"""Stepwise searches among nonlinear mixed-effects models: the same ways as for linear ones, and pharmacokinetics."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from tests.comparison.conftest import data, fitted, frame


def test_covariates_as_in_the_linear_model() -> None:
    """Sex on level and slope of a line: the way and its log-likelihoods are those of jn.lme."""
    steps = jn.step(fitted("int"), {"covariates": {"mu": ["Sex"], "slope": ["Sex"]}}, criterion="BIC", progress=False)
    linear = jn.lme("distance ~ age", "~ 1 | Subject", frame(), method="ML")
    expected = linear.update(". ~ . + Sex").log_likelihood, linear.update(". ~ . + age:Sex").log_likelihood
    first = steps.candidates[steps.candidates["step"] == 1].set_index("change")
    np.testing.assert_allclose(first.loc[["+ mu ~ Sex", "+ slope ~ Sex"], "log_likelihood"], expected, atol=1e-5)
    assert steps.path["change"].iloc[1] == "+ slope ~ Sex"
    assert steps.fit.converged and list(steps.candidates["step"].unique())[-1] == len(steps.path)


def test_random_effects_covariance_and_residuals() -> None:
    scope = {"random": ["mu", "slope"], "covariance": ["diagonal", "full"]}
    steps = jn.step(fitted("int"), scope, progress=False)
    first = steps.candidates[steps.candidates["step"] == 1].set_index("change")
    # One effect has one covariance only, so that "full" is no change.
    assert set(first.index) == {"- random mu", "+ random slope"}
    added = first.loc["+ random slope"]
    assert added["log_likelihood"] == pytest.approx(fitted("diag").log_likelihood, abs=1e-5)
    assert added["distribution"] == "0.5 chi2(0) + 0.5 chi2(1)"
    assert first.loc["- random mu", "log_likelihood"] == pytest.approx(fitted("none").log_likelihood, abs=1e-5)
    assert first.loc["- random mu", "df"] == 3 and first.loc["- random mu", "delta"] > 50


def test_restricted_fits_compare_covariates_by_maximum_likelihood() -> None:
    steps = jn.step(
        fitted("int", restricted=True), {"covariates": {"mu": ["Sex"]}, "random": ["slope"]}, progress=False
    )
    assert steps.path["change"].iloc[1] == "+ mu ~ Sex"
    by_change = steps.candidates[steps.candidates["step"] == 1].set_index("change")["likelihood"]
    assert by_change["+ mu ~ Sex"] == "ML" and by_change["+ random slope"] == "REML"
    assert steps.fit.restricted
    linear = jn.lme("distance ~ age + Sex", "~ 1 | Subject", frame())
    assert steps.fit.log_likelihood == pytest.approx(linear.log_likelihood, abs=1e-4)


def test_screening_and_scopes() -> None:
    fit = fitted("int")
    steps = jn.step(fit, {"covariates": {"mu": ["Sex"]}}, screen=1e-6, progress=False)
    (row,) = steps.candidates.to_dict("records")
    assert row["decision"].startswith("screened out") and 1e-6 < row["screen p"] < 0.05
    modes, girl = fit.random_effects["mu"].to_numpy(), np.asarray(data().text["Sex"]) == "Female"
    t = (modes[girl].mean() - modes[~girl].mean()) / np.sqrt(
        ((modes[girl] - modes[girl].mean()) ** 2).sum() + ((modes[~girl] - modes[~girl].mean()) ** 2).sum()
    )
    from scipy.stats import t as student

    t *= np.sqrt(25 / (1 / girl.sum() + 1 / (~girl).sum()))
    assert row["screen p"] == pytest.approx(2 * student.sf(abs(t), 25), rel=1e-6)
    with pytest.raises(jn.OptionError, match="'sloop' is no parameter"):
        jn.step(fit, {"random": ["sloop"]})
    with pytest.raises(jn.OptionError, match="'sloop' is no parameter"):
        jn.step(fit, {"covariates": {"sloop": ["Sex"]}})
    with pytest.raises(jn.ModelError, match="Sexx"):
        jn.step(fit, {"covariates": {"mu": ["Sexx"]}})
    with pytest.raises(jn.OptionError, match="no part 'fixed'"):
        jn.step(fit, {"fixed": ["Sex"]})
    with pytest.raises(jn.OptionError, match="neither in the model nor in the scope"):
        jn.step(fit, {"covariates": {"mu": ["Sex:age"]}})
    with pytest.raises(jn.OptionError, match="proportionall"):
        jn.step(fit, {"error": ["proportionall"]})


def one_compartment(phi, x, v):
    """Concentration after an oral dose."""
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def test_theophylline() -> None:
    """From one random effect to the model that every published analysis has, random effects of ka and cl; the residual
    model without a constant part is no density where the prediction is zero, and says so."""
    table = jn.datasets.theophylline()
    table["Dose"] *= table["Wt"]
    grouped = jn.GroupedData.from_frame(table, "Subject", "conc", ["Time", "Dose"], ["Wt"])
    parameters = [
        jn.Parameter("ka", 1.5, transform="log"),
        jn.Parameter("cl", 2.8, transform="log", random=True),
        jn.Parameter("vol", 32.0, transform="log"),
    ]
    fit = jn.fit(jn.NLMEModel(one_compartment, parameters), grouped, "focei", progress=False)
    scope = {
        "random": ["ka", "cl"],
        "error": ["constant", "proportional", "combined"],
        "covariates": {"vol": ["log(Wt / 70)"]},
    }
    steps = jn.step(fit, scope, progress=False)
    assert list(steps.path["change"])[:3] == ["start", "+ random ka", "error: combined"]
    rows = steps.candidates[steps.candidates["change"] == "error: proportional"]["decision"]
    assert rows.str.startswith("not fitted: the residual standard deviation is zero").all()
    again = fit.update(random=["ka", "cl"], error="combined")
    second = steps.path.iloc[2]
    assert second["log_likelihood"] == pytest.approx(again.log_likelihood, abs=1e-4)
    assert second["df"] == again.criteria.n_parameters
