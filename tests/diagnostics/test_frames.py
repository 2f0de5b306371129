"""Tables of a fit: diagnostics, tidy, glance, augment, effects; against the closed forms of a linear model."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars
import pytest

import jaxnlme as jn
from jaxnlme.errors import DataError, FitError, OptionError


def line(phi, x):
    return phi.a + phi.b * (x.age - 11.0)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    frame = jn.datasets.orthodont()
    frame["height"] = 100.0 + 2.0 * (np.arange(len(frame)) // 4)
    frame.loc[3, "distance"] = np.nan
    return frame.sample(frac=1.0, random_state=1)


@pytest.fixture(scope="module")
def fit(table: pd.DataFrame) -> jn.Fit:
    data = jn.GroupedData.from_frame(table, "Subject", "distance", x=["age"], v=["Sex", "height"])
    parameters = [jn.Parameter("a", 24.0, random=True), jn.Parameter("b", 0.7, random=True)]
    return jn.fit(jn.NLMEModel(line, parameters, covariance="full", error="constant"), data, "focei").throw()


class Closed:
    """Closed forms of the linear model at the estimates, by group: modes and their covariance given the data."""

    def __init__(self, fit: jn.Fit, table: pd.DataFrame):
        self.psi, self.sigma = fit.psi.to_numpy(), fit.values["error.a" if "error.a" in fit.values else "a"]
        self.beta = fit.beta.to_numpy()
        rows = table.dropna(subset="distance")
        self.parts = {}
        for label, group in rows.groupby("Subject"):
            z = np.column_stack([np.ones(len(group)), group.age - 11.0])
            inverse = np.linalg.inv(z @ self.psi @ z.T + self.sigma**2 * np.eye(len(z)))
            residual = group.distance.to_numpy() - z @ self.beta
            b = self.psi @ z.T @ inverse @ residual
            self.parts[label] = b, self.psi - self.psi @ z.T @ inverse @ z @ self.psi, residual, inverse


@pytest.fixture(scope="module")
def closed(fit: jn.Fit, table: pd.DataFrame) -> Closed:
    return Closed(fit, table)


def test_diagnostics(fit, table) -> None:
    frame, whole = fit.diagnostics(), fit.diagnostics(rows="all")
    names = ["Subject", "age", "DV", "PRED", "IPRED", "PRES", "IRES", "PWRES", "IWRES", "CWRES", "height", "Sex"]
    assert list(frame) == names and len(frame) == 107
    pd.testing.assert_index_equal(whole.index, table.index)
    assert whole.loc[3, ["DV", "CWRES"]].isna().all() and 3 not in frame.index
    np.testing.assert_array_equal(whole[["Subject", "age", "Sex"]], table[["Subject", "age", "Sex"]])
    np.testing.assert_allclose(frame.IRES, frame.DV - frame.IPRED, atol=1e-12)
    np.testing.assert_allclose(whole.IPRED, fit.predict(), rtol=1e-12)
    np.testing.assert_allclose(whole.CWRES, fit.residuals("cwres").cwres)
    with pytest.raises(OptionError, match="rows must be"):
        fit.diagnostics("some")


def test_columns_of_the_data_that_have_names_of_diagnostics() -> None:
    from jaxnlme.diagnostics.frame import diagnostic_frame

    frame = pd.DataFrame({"ID": [1, 1, 2], "PRED": [1.0, 2.0, 3.0], "DV": [0.1, 9.0, 0.5], "IPRED": [5.0, 5.0, 6.0]})
    data = jn.GroupedData.from_frame(frame, "ID", "DV", x="PRED", v="IPRED", lloq=0.2)
    out = diagnostic_frame(data, {"PRED": np.arange(3.0), "IPRED": np.ones(3)}, "all")
    assert list(out) == ["ID", "PRED_data", "DV", "PRED", "IPRED", "CENS", "LLOQ", "censored", "IPRED_data"]
    assert out.censored.tolist() == [True, False, False] and out.DV.tolist() == [0.2, 9.0, 0.5]


def test_tidy(fit) -> None:
    frame = fit.tidy(conf_int=True, conf_level=0.9)
    assert frame.term.tolist() == ["a", "b", "sd__a", "sd__b", "cor__a.b", "sd__Observation"]
    assert frame.effect.tolist() == ["fixed"] * 2 + ["ran_pars"] * 4
    assert frame.group[2:].tolist() == ["Subject"] * 3 + ["Residual"]
    estimates = fit.confidence_intervals(0.9)
    np.testing.assert_allclose(frame.estimate, estimates.estimate)
    np.testing.assert_allclose(frame[["conf_low", "conf_high"]], estimates[["lower", "upper"]])
    z = estimates.estimate.iloc[1] / estimates.se.iloc[1]
    assert frame.statistic[1] == pytest.approx(z)
    assert frame.p_value[1] == pytest.approx(math.erfc(z / math.sqrt(2.0)), rel=1e-9) and frame.p_value[1] < 1e-6
    assert frame.statistic[2:].isna().all()
    values = fit.tidy(effects="ran_vals")
    assert list(values) == ["effect", "group", "level", "term", "estimate", "std_error"] and len(values) == 54
    chosen = values.query("term == 'b' and level == 'F03'").iloc[0]
    assert chosen.estimate == fit.random_effects.loc["F03", "b"]
    assert chosen.std_error == fit.random_effects_se.loc["F03", "b"]
    with pytest.raises(OptionError, match="did you mean 'ran_vals'"):
        fit.tidy(effects=["ran_val"])


def test_glance(fit) -> None:
    (row,) = fit.glance().to_dict("records")
    assert (row["n_obs"], row["n_groups"], row["n_parameters"], row["method"]) == (107, 27, 6, "FOCEI")
    assert (row["log_lik"], row["aic"], row["bic"]) == (fit.log_likelihood, fit.aic, fit.bic)
    assert row["sigma"] == fit.estimates.estimate.iloc[-1] and row["converged"]


def test_augment(fit, table) -> None:
    own = fit.augment()
    pd.testing.assert_index_equal(own.index, table.index)
    np.testing.assert_array_equal(own[".fitted"], fit.predict())
    np.testing.assert_array_equal(own[".fixed"], fit.predict(level="population"))
    np.testing.assert_allclose(own[".resid"], table.distance - own[".fitted"])
    extra = table.assign(note="x").head(9)
    frame = fit.augment(extra)
    assert list(frame) == [*extra, ".fitted", ".resid", ".fixed"]
    np.testing.assert_allclose(frame[".resid"], own[".resid"].head(9))
    from_polars = fit.augment(jn.to_polars(extra))
    assert isinstance(from_polars, polars.DataFrame)
    np.testing.assert_array_equal(from_polars[".fitted"].to_numpy(), frame[".fitted"])
    assert fit.augment(extra.drop(columns="distance"))[".resid"].isna().all()
    with pytest.raises(DataError, match="age"):
        fit.augment(extra.drop(columns="age"))


def test_effects_and_shrinkage(fit, closed) -> None:
    diagnostics = fit.effect_diagnostics()
    frame = diagnostics.table
    assert list(frame) == ["Subject", "eta_a", "eta_b", "height", "Sex", "n_obs", "weight"]
    modes = np.array([closed.parts[label][0] for label in frame.Subject])
    np.testing.assert_allclose(frame[["eta_a", "eta_b"]], modes, atol=1e-8)
    assert frame.n_obs.sum() == 107
    shrinkage = diagnostics.shrinkage.set_index("effect")
    sd = np.sqrt(np.diag(closed.psi))
    ratio = modes.std(axis=0, ddof=1) / sd
    np.testing.assert_allclose(shrinkage["sd shrinkage%"][:2], 100 * (1 - ratio), atol=1e-6)
    np.testing.assert_allclose(shrinkage["sd shrinkage%"][:2], fit.shrinkage, atol=1e-10)
    np.testing.assert_allclose(shrinkage["variance shrinkage%"][:2], 100 * (1 - ratio**2), atol=1e-6)
    variances = np.mean([np.diag(part[1]) for part in closed.parts.values()], axis=0)
    np.testing.assert_allclose(shrinkage["conditional variance%"][:2], 100 * variances / sd**2, atol=1e-6)
    iwres = fit.diagnostics().IWRES
    assert shrinkage.loc["epsilon", "sd shrinkage%"] == pytest.approx(100 * (1 - iwres.std()))


def test_outliers(fit, closed) -> None:
    diagnostics = fit.effect_diagnostics()
    groups, effects = diagnostics.groups.set_index("Subject"), diagnostics.effects
    for label in ("M09", "F10"):
        b, conditional, residual, inverse = closed.parts[label]
        of_modes = closed.psi - conditional
        assert groups.loc[label, "distance"] == pytest.approx(b @ np.linalg.solve(of_modes, b), rel=1e-6)
        assert groups.loc[label, "residual_distance"] == pytest.approx(residual @ inverse @ residual, rel=1e-6)
        whitened = groups.loc[label]
        assert whitened.df == 2 and whitened.residual_df == 4
    assert groups.p.is_monotonic_increasing and (groups.p_adjusted >= groups.p).all()
    top = effects.iloc[0]
    assert top.p_adjusted == pytest.approx(min(54 * top.p, 1.0))
    rows = diagnostics.observations
    frame = fit.diagnostics()
    assert rows.index[0] == frame.CWRES.abs().idxmax() and len(rows) == 107
    assert rows.p_cwres.iloc[0] == pytest.approx(math.erfc(frame.CWRES.abs().max() / math.sqrt(2.0)))


def test_covariates(fit) -> None:
    """The sexes differ in size: the intercept is related to Sex, which the model lacks."""
    diagnostics = fit.effect_diagnostics()
    frame = diagnostics.covariates
    assert set(frame.covariate) == {"Sex", "height"} and not frame.in_model.any()
    assert set(frame.query("covariate == 'Sex'").test) == {"anova", "kruskal"}
    row = frame.query("effect == 'a' and covariate == 'Sex' and test == 'anova'").iloc[0]
    etas = diagnostics.table
    parts = [etas.eta_a[etas.Sex == sex] for sex in ("Male", "Female")]
    pooled = sum((len(p) - 1) * p.var() for p in parts) / 25
    t = (parts[0].mean() - parts[1].mean()) / np.sqrt(pooled * (1 / 16 + 1 / 11))
    assert row.statistic == pytest.approx(t**2) and row.p < 0.01
    assert "Related to covariates" in str(diagnostics)
    assert set(fit.effect_diagnostics(categorical="height").covariates.test) == {"anova", "kruskal"}
    with pytest.raises(OptionError, match="heigt"):
        fit.effect_diagnostics(categorical="heigt")


def test_conditional_distribution(fit, closed) -> None:
    found = fit.conditional_distribution(draws=2000)
    b, covariance, _, _ = closed.parts["M05"]
    np.testing.assert_allclose(found.mean.loc["M05"], b, atol=4 * np.sqrt(np.diag(covariance) / 5000).max())
    np.testing.assert_allclose(found.sd.loc["M05"], np.sqrt(np.diag(covariance)), rtol=0.06)
    draws = found.draws
    assert list(draws) == ["Subject", "draw", "a", "b"] and len(draws) == 27 * 2000
    of_group = draws[draws.Subject == "M05"][["a", "b"]].to_numpy()
    np.testing.assert_allclose(np.cov(of_group.T), covariance, atol=0.12 * covariance.max())
    laplace = fit.conditional_distribution(draws=10, method="laplace")
    np.testing.assert_allclose(laplace.mean.loc["M05"], b, atol=1e-7)
    with pytest.raises(OptionError, match="has no such draws"):
        fit.conditional_distribution(method="sampling")


def _half(frame: pd.DataFrame, label: str, fit: jn.Fit) -> np.ndarray:
    """Half the widths of the intervals of one group, by age."""
    of_group = frame[(fit.data.to_frame().Subject == label).to_numpy()]
    return ((of_group.upper - of_group.lower) / 2).to_numpy()


def test_intervals_of_predictions(fit, table, closed) -> None:
    """Half widths of normal intervals by source, to the Monte Carlo error of 4,000 draws."""
    label, quantile = "M05", 1.959964
    ages = table[table.Subject == label].age.to_numpy()
    z = np.column_stack([np.ones(4), ages - 11.0])
    conditional = np.einsum("ij,jk,ik->i", z, closed.parts[label][1], z)
    of_beta = np.einsum("ij,jk,ik->i", z, fit.covariance.iloc[:2, :2].to_numpy(), z)
    of_psi = np.einsum("ij,jk,ik->i", z, closed.psi, z)
    sources = {
        ("group", "effects"): conditional,
        ("group", "residual"): np.full(4, closed.sigma**2),
        ("population", "parameters"): of_beta,
        ("population", "effects"): of_psi,
        ("population", "parameters", "effects", "residual"): of_beta + of_psi + closed.sigma**2,
    }
    for (level, *names), variance in sources.items():
        frame = fit.predict(level=level, interval=0.95, uncertainty=names, draws=4000)
        np.testing.assert_allclose(
            _half(frame, label, fit), quantile * np.sqrt(variance), rtol=0.08, err_msg=str(names)
        )
        np.testing.assert_array_equal(frame.prediction, fit.predict(level=level))
    both = _half(fit.predict(interval=0.95, uncertainty=["parameters", "effects"]), label, fit)
    one = _half(fit.predict(interval=0.95, uncertainty="effects"), label, fit)
    assert (both > 0.95 * one).all() and (both < 1.6 * one).all()


def test_intervals_of_new_rows(fit, table) -> None:
    """A group of the fit has the limits of its own data whatever the new table holds; unknown ones those of a new
    group, up to Monte Carlo error."""
    own = fit.predict(interval=0.9)
    rows = table[table.Subject == "F01"].drop(columns="distance")
    frame = fit.predict(rows, interval=0.9)
    pd.testing.assert_frame_equal(frame, own.loc[rows.index])
    with pytest.warns(UserWarning, match="is not in the fit"):
        new = fit.predict(rows.assign(Subject="F99"), interval=0.9, uncertainty="effects", draws=4000)
    population = fit.predict(rows, level="population", interval=0.9, uncertainty="effects", draws=4000)
    np.testing.assert_allclose(new.upper - new.lower, population.upper - population.lower, rtol=0.08)


def test_options_of_intervals(fit) -> None:
    assert isinstance(fit.predict(), pd.Series)
    with pytest.raises(OptionError, match="uncertainty= belongs to intervals"):
        fit.predict(uncertainty="residual")
    with pytest.raises(OptionError, match="known: 'parameters', 'effects', 'residual'"):
        fit.predict(interval=0.9, uncertainty="all")
    for bad in (True, 95, 1.5):
        with pytest.raises(OptionError):
            fit.predict(interval=bad)


def test_intervals_need_standard_errors_for_parameters_only(fit) -> None:
    import dataclasses

    without = dataclasses.replace(fit, information=None)
    with pytest.raises(FitError, match="standard errors"):
        without.predict(interval=0.9)
    assert np.isfinite(without.predict(interval=0.9, uncertainty=["effects", "residual"])).all(axis=None)


def test_to_polars() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": ["x", None], "d": pd.Categorical(["u", "v"])})
    out = jn.to_polars(frame.set_index(pd.Index(["r", "s"], name="row")))
    assert out.columns == ["row", "a", "b", "c", "d"] and out["a"].dtype == polars.Int64
    assert out["c"].to_list() == ["x", None] and np.isnan(out["b"][1]) and out["d"].to_list() == ["u", "v"]
    assert jn.to_polars(frame).columns == ["a", "b", "c", "d"], "row numbers are no column"
    assert jn.to_polars(pd.Series([1.0], name="prediction")).columns == ["prediction"]
    with pytest.raises(OptionError, match="pandas"):
        jn.to_polars([1, 2])
