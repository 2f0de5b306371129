"""Fits with a residual covariance: R's nlme, bounds, bad input, single groups, simulation, residuals and SAEM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from tests.likelihood.test_correlated_residuals import linearised

DATA = Path(__file__).resolve().parents[1] / "tables"


def line(phi, x):
    return phi.b0 + phi.b1 * x.t


def logistic(phi, x):
    return phi.Asym / (1.0 + jnp.exp((phi.xmid - x.age) / phi.scal))


def line_model(error: Any, random: tuple[bool, bool], covariate: str, covariance: Any = "full") -> jn.NLMEModel:
    parameters = [
        jn.Parameter("b0", start, random=has, covariates=[covariate]) if name == "b0"
        else jn.Parameter("b1", start, random=has, covariates=[covariate])
        for (name, start), has in zip((("b0", 25.0), ("b1", 0.5)), random, strict=True)
    ]  # fmt: skip
    return jn.NLMEModel(line, parameters, covariance, error=error)


def orthodont() -> jn.GroupedData:
    frame = pd.read_csv(DATA / "Orthodont.csv")
    frame["t"] = frame["age"] - 11
    frame["Sex"] = pd.Categorical(frame["Sex"], ["Male", "Female"])
    return jn.GroupedData.from_frame(frame, "Subject", "distance", ["t", "age"], ["Sex"])


def orange() -> jn.GroupedData:
    return jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", ["age"])


ORTHODONT_NAMES = ("b0", "b0 ~ Sex[T.Female]", "b1", "b1 ~ Sex[T.Female]")
PAIRS = ((8, 10), (8, 12), (8, 14), (10, 12), (10, 14), (12, 14))


def reference_fit(reference: Path, name: str) -> dict[str, Any]:
    return json.loads((reference / "r" / f"{name}.json").read_text())


def test_variance_by_stratum_is_that_of_lme(reference: Path) -> None:
    r = reference_fit(reference, "Orthodont_intslope_sex_varIdent_ML")
    model = line_model(jn.error.gaussian(jn.variance.strata("Sex")), (True, True), "Sex")
    data = orthodont()
    binding = bind(model, data)
    ratio = r["variance_function"]["parameters"]["Female"]
    values = dict(zip(ORTHODONT_NAMES, r["fixef"].values(), strict=True))
    values |= {"sigma": r["sigma"], "ratio[Sex=Female]": ratio}
    params = binding.params(values, psi=np.array(r["random"]["Subject"]["covariance"]))
    assert np.sum(linearised(binding, params)[1]) == pytest.approx(r["logLik"], rel=1e-9)
    fit = jn.fit(model, data, "lme")
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(r["logLik"], abs=1e-7)
    assert fit.estimates.loc["ratio[Sex=Female]", "estimate"] == pytest.approx(ratio, rel=1e-4)
    # the interval of a ratio lies on the log scale, and is that of the ratio of two standard deviations
    row = fit.estimates.loc["ratio[Sex=Female]"]
    assert row["lower"] * row["upper"] == pytest.approx(row["estimate"] ** 2, rel=1e-6)


def test_unstructured_correlation_and_strata_are_those_of_gls(reference: Path) -> None:
    r = reference_fit(reference, "Orthodont_gls_corSymm_varIdent_ML")
    error = jn.error.gaussian(jn.variance.strata("age"), jn.correlation.Unstructured("age"))
    fit = jn.fit(line_model(error, (False, False), "Sex"), orthodont(), "focei")
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(r["logLik"], abs=1e-6)
    found = fit.estimates["estimate"]
    for pair, value in zip(PAIRS, r["correlation"]["parameters"], strict=True):
        assert found[f"corr({pair[0]}, {pair[1]})"] == pytest.approx(value, abs=2e-5)
    for age in (10, 12, 14):
        assert found[f"ratio[age={age}]"] == pytest.approx(r["variance_function"]["parameters"][str(age)], rel=1e-4)
    assert np.isfinite(fit.estimates["se"]).all()


def test_compound_symmetry_is_a_random_intercept(reference: Path) -> None:
    r = reference_fit(reference, "Orthodont_gls_corCompSymm_ML")
    model = line_model(jn.error.gaussian("constant", jn.correlation.CompoundSymmetry()), (False, False), "Sex")
    fit = jn.fit(model, orthodont(), "focei")
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(r["logLik"], abs=1e-7)
    assert fit.estimates.loc["rho", "estimate"] == pytest.approx(r["correlation"]["parameters"]["Rho"], rel=1e-5)
    intercept = jn.fit(line_model("constant", (True, False), "Sex"), orthodont(), "focei")
    assert intercept.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)


def test_compound_symmetry_beside_a_random_intercept_is_named() -> None:
    model = line_model(jn.error.gaussian("constant", jn.correlation.CompoundSymmetry()), (True, False), "Sex")
    with pytest.raises(jn.ModelError, match="only the sum of the variance of the random effect of b0"):
        jn.fit(model, orthodont(), "focei")
    held = jn.error.gaussian("constant", jn.correlation.CompoundSymmetry(rho=jn.fixed(0.1)))
    assert jn.fit(line_model(held, (True, False), "Sex"), orthodont(), "focei").converged


def test_residuals_without_correlation_are_said_to_be_independent(reference: Path) -> None:
    r = reference_fit(reference, "Orange_logis_Asym_corCAR1_ML")
    parameters = [jn.Parameter("Asym", 192.0, random=True), jn.Parameter("xmid", 728.0), jn.Parameter("scal", 356.0)]
    model = jn.NLMEModel(logistic, parameters, error=jn.error.gaussian("constant", jn.correlation.CAR1("age")))
    fit = jn.fit(model, orange(), "lme")
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(r["logLik"], abs=5e-5)
    assert "estimated as uncorrelated" in str(fit.status)
    assert np.isnan(fit.estimates.loc["rho", "se"])


@pytest.mark.parametrize("method", ["focei", "lme"])
def test_a_search_does_not_stay_where_residuals_are_independent(method: str) -> None:
    """The likelihood has no slope in the logarithm of a range that is far below the shortest lag."""
    model, data = range_model(), serial_data(40, 6, 0.6, 9)
    fit = jn.fit(model, data, method)
    again = jn.fit(model, data, method, start={**fit.values, "range": 0.01})
    assert fit.converged and again.converged, str(again.status)
    assert fit.values["range"] == pytest.approx(-1.0 / np.log(0.6), abs=4 * fit.estimates.loc["range", "se"])
    assert again.values["range"] == pytest.approx(fit.values["range"], rel=1e-4)


def test_a_correlation_at_its_bound_is_named() -> None:
    rng = np.random.default_rng(1)
    level = rng.normal(size=20) * 5.0
    y = np.repeat(level, 5) + 1e-5 * rng.normal(size=100)
    data = jn.GroupedData.from_frame(
        {"g": np.repeat(np.arange(20), 5), "t": np.tile(np.arange(5.0), 20), "y": y}, "g", "y", "t"
    )
    error = jn.error.gaussian("constant", jn.correlation.AR1("t"))
    fit = jn.fit(jn.NLMEModel(line, {"b0": 0.0, "b1": 0.0}, error=error), data, "focei")
    assert not fit.converged
    assert "runs to its bound (rho = " in str(fit.status)


def series(**columns: Any) -> jn.GroupedData:
    table = {"g": np.repeat([1, 2], 3), "y": np.arange(6.0) ** 2, "t": np.tile([0.0, 1.0, 2.0], 2)} | columns
    return jn.GroupedData.from_frame(table, "g", "y", [name for name in table if name not in ("g", "y")])


def doubled(s: Any, t: Any, length: Any) -> Any:
    return 2.0 * jnp.exp(-jnp.abs(s - t) / length)


BAD = {
    "duplicate times": (jn.correlation.CAR1("t"), {"t": [0.0, 1.0, 1.0, 0.0, 1.0, 2.0]}, r"same t \(row 3, group 1"),
    "no whole numbers": (jn.correlation.AR1("t"), {"t": [0.0, 0.5, 1.0, 0.0, 1.0, 2.0]}, "row 2 holds 0.5"),
    "text": (jn.correlation.CAR1("kind"), {"kind": list("abcabc")}, "'kind' of the residual correlation holds text"),
    "no column": (jn.correlation.CAR1("tt"), {}, "'tt' of the residual correlation is not in the data"),
    "rho of five rows": (jn.correlation.CompoundSymmetry(rho=-0.6), {}, "rho must be above -0.5"),
    "single rows": (jn.correlation.AR1(within="t"), {}, "no group has two responses within a value of 't'"),
    "occasions apart": (
        jn.correlation.Unstructured("t"), {"t": [0.0, 1.0, 2.0, 3.0, 1.0, 2.0]}, "no series has responses at t 0 and 3",
    ),
    "variance kernel": (jn.correlation.Kernel(doubled, {"length": 1.0}, "t"), {}, "it is 2 at t = 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    correlation, columns, message = BAD[name]
    model = jn.NLMEModel(line, {"b0": 0.0, "b1": 1.0}, error=jn.error.gaussian("constant", correlation))
    with pytest.raises((jn.ModelError, jn.OptionError), match=message):
        bind(model, series(**columns))


def test_bad_declarations_are_named() -> None:
    with pytest.raises(jn.OptionError, match="Call it, with parentheses"):
        jn.error.gaussian("constant", jn.correlation.AR1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(jn.OptionError, match="outside the region of stationary"):
        jn.correlation.ARMA(2, 0, ar=[0.9, 0.3])
    with pytest.raises(jn.OptionError, match="both have a parameter 'rho'"):
        jn.error.gaussian(jn.error.custom(lambda f, rho: rho + 0.0 * f, {"rho": 1.0}), jn.correlation.AR1())
    with pytest.raises(jn.OptionError, match="have two parameters power"):
        jn.error.gaussian(jn.variance.power() * jn.variance.power())
    model = jn.NLMEModel(line, {"b0": 0.0, "b1": 1.0}, error=jn.error.gaussian(jn.variance.fixed("t")))
    with pytest.raises(jn.ModelError, match=r"'t' of jn\.variance\.fixed is 0 in row 1 and 4"):
        bind(model, series())
    model = jn.NLMEModel(line, {"b0": 0.0, "b1": 1.0}, error=jn.error.gaussian("constant", jn.correlation.ARMA(2, 0)))
    with pytest.raises(jn.ModelError, match="outside the region of stationary"):
        bind(model, series()).params({"ar1": 0.9, "ar2": 0.3})


def serial_data(n: int, obs: int, rho: float, seed: int, sd: float = 0.5) -> jn.GroupedData:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, obs))
    for j in range(1, obs):
        noise[:, j] = rho * noise[:, j - 1] + np.sqrt(1 - rho**2) * noise[:, j]
    t = np.tile(np.arange(obs, dtype=float), (n, 1))
    y = (2.0 + rng.normal(size=(n, 1))) + (0.5 + 0.2 * rng.normal(size=(n, 1))) * t + sd * noise
    table = {"g": np.repeat(np.arange(n), obs), "t": t.ravel(), "y": y.ravel()}
    return jn.GroupedData.from_frame(table, "g", "y", "t")


def serial_model() -> jn.NLMEModel:
    parameters = [jn.Parameter("b0", 1.0, random=True), jn.Parameter("b1", 0.3, random=True)]
    return jn.NLMEModel(line, parameters, error=jn.error.gaussian("constant", jn.correlation.AR1("t")))


def range_model() -> jn.NLMEModel:
    parameters = [jn.Parameter("b0", 1.0, random=True), jn.Parameter("b1", 0.3)]
    return jn.NLMEModel(line, parameters, error=jn.error.gaussian("constant", jn.correlation.Exponential("t")))


@pytest.mark.parametrize("name", ["AR1", "exponential, nugget"])
def test_simulated_residuals_have_the_covariance(name: str) -> None:
    correlation = {"AR1": jn.correlation.AR1("t"), "exponential, nugget": jn.correlation.Exponential("t", nugget=True)}
    values = {"AR1": {"rho": -0.7}, "exponential, nugget": {"range": 2.0, "nugget": 0.3}}[name]
    t = np.array([4.0, 0.0, 1.0, 3.0])
    lag = np.abs(t[:, None] - t[None, :])
    expected = (-0.7) ** lag if name == "AR1" else np.where(lag == 0, 1.0, 0.7 * np.exp(-lag / 2.0))
    table = {"g": np.zeros(4), "t": t, "y": [0.0, np.nan, 1.0, 2.0]}
    data = jn.GroupedData.from_frame(table, "g", "y", "t")
    error = jn.error.gaussian(jn.error.constant(2.0), correlation[name])
    binding = bind(jn.NLMEModel(line, {"b0": 0.0, "b1": 0.0}, error=error), data)
    draws = 20_000
    keys = jax.random.split(jax.random.key(1), draws)
    problem = jax.tree.map(jnp.asarray, binding.problem)
    params = binding.params(values)
    (y,) = jax.jit(jax.vmap(lambda key: jn.simulate_responses(problem, params, key)))(keys)
    covariance = np.cov(np.asarray(y)[:, 0].T) / 4.0
    # the standard error of a covariance of two standard normals is at most sqrt(2 / draws); rows without a response
    # are simulated with the same correlation
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=5.0 * np.sqrt(2.0 / draws))


def test_normalized_residuals_are_uncorrelated() -> None:
    fit = jn.fit(serial_model(), serial_data(150, 8, 0.6, 4), "focei")
    assert fit.converged
    assert fit.estimates.loc["rho", "estimate"] == pytest.approx(0.6, abs=4 * fit.estimates.loc["rho", "se"])
    table = fit.residuals(["iwres", "normalized", "cwres"])
    within = np.asarray(table["cwres"]).reshape(150, 8)
    # decorrelated by the full covariance: variance one, lag-one correlation zero within 4 standard errors
    assert np.var(within) == pytest.approx(1.0, abs=4 * np.sqrt(2.0 / 1200))
    assert np.mean(within[:, 1:] * within[:, :-1]) == pytest.approx(0.0, abs=4 / np.sqrt(1050))
    first = np.asarray(table).reshape(150, 8, 3)
    rho = fit.estimates.loc["rho", "estimate"]
    by_hand = (first[:, 1:, 0] - rho * first[:, :-1, 0]) / np.sqrt(1.0 - rho**2)
    np.testing.assert_allclose(first[:, 1:, 1], by_hand, atol=1e-9)


def test_single_groups_are_fitted_by_generalised_least_squares() -> None:
    data = serial_data(6, 8, 0.6, 5)
    error = jn.error.gaussian("constant", jn.correlation.AR1("t", rho=jn.fixed(0.5)))
    fits = jn.fit_groups(jn.NLMEModel(line, {"b0": 1.0, "b1": 0.3}, error=error), data)
    t = np.arange(8.0)
    x = np.stack([np.ones(8), t], axis=1)
    inverse = np.linalg.inv(0.5 ** np.abs(t[:, None] - t[None, :]))
    for i in range(6):
        expected = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ data.y[i])
        np.testing.assert_allclose(fits.group_params[i], expected, rtol=1e-7)


def test_a_fit_does_not_depend_on_units_and_order() -> None:
    base = serial_data(30, 6, 0.5, 6)
    frame = pd.DataFrame({"g": np.repeat(np.arange(30), 6), "t": base.x["t"].ravel(), "y": base.y.ravel()})
    rng = np.random.default_rng(0)
    shuffled = frame.sample(frac=1.0, random_state=3).assign(t=lambda d: d["t"] * 1e-3, y=lambda d: d["y"] * 100.0)
    fits = []
    for table, unit in ((frame, 1.0), (shuffled, 1e-3)):
        parameters = [jn.Parameter("b0", 1.0 if unit == 1.0 else 100.0, random=True)]
        parameters += [jn.Parameter("b1", 0.3 if unit == 1.0 else 0.3e5)]
        model = jn.NLMEModel(line, parameters, error=jn.error.gaussian("constant", jn.correlation.Exponential("t")))
        fits.append(jn.fit(model, jn.GroupedData.from_frame(table, "g", "y", "t"), "focei"))
    one, two = fits
    assert one.converged and two.converged and rng is not None
    expected = one.estimates["estimate"] * np.array([100.0, 1e5, 100.0, 100.0, 1e-3])
    np.testing.assert_allclose(two.estimates["estimate"], expected, rtol=1e-5)
    assert two.log_likelihood == pytest.approx(one.log_likelihood - 180 * np.log(100.0), abs=1e-6)


def test_saem_finds_the_maximum_with_serial_correlation() -> None:
    data = serial_data(60, 6, 0.5, 7)
    exact = jn.fit(serial_model(), data, "focei")
    assert exact.converged
    fit = jn.fit(serial_model(), data, jn.SAEM(seed=1))
    assert fit.converged, str(fit.status)
    difference = np.abs(fit.estimates["estimate"] - exact.estimates["estimate"]) / exact.estimates["se"]
    assert (difference < 0.05).all(), difference


def test_a_saved_fit_keeps_scale_and_correlation(tmp_path: Path) -> None:
    model = serial_model()
    fit = jn.fit(model, serial_data(20, 5, 0.5, 8), "focei")
    fit.save(tmp_path / "fit.zip")
    again = jn.load(tmp_path / "fit.zip", model=model)
    pd.testing.assert_frame_equal(again.estimates, fit.estimates)
    np.testing.assert_allclose(again.simulate(1, 3), fit.simulate(1, 3))
    assert "corr(e) = rho^lag over t" in repr(fit.summary())


def test_serial_correlation_is_that_of_lme(reference: Path) -> None:
    """Milk with CAR(1), and BodyWeight with a power of the fitted value times an exponential correlation."""
    r = reference_fit(reference, "Milk_int_corCAR1_ML")
    frame = pd.read_csv(DATA / "Milk.csv").assign(t=lambda d: d["Time"])
    data = jn.GroupedData.from_frame(frame, "Cow", "protein", "t", "Diet")
    model = line_model(jn.error.gaussian("constant", jn.correlation.CAR1("t")), (True, False), "Diet", "diagonal")
    fit = jn.fit(model, data, "lme")
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(r["logLik"], abs=1e-6)
    rho = r["correlation"]["parameters"]["Phi"]
    assert fit.estimates.loc["rho", "estimate"] == pytest.approx(rho, rel=1e-5)
    assert 0.0 < fit.estimates.loc["rho", "lower"] < rho < fit.estimates.loc["rho", "upper"] < 1.0

    r = reference_fit(reference, "BodyWeight_intslope_diet_varPower_corExp_ML")
    frame = pd.read_csv(DATA / "BodyWeight.csv").assign(t=lambda d: d["Time"], Diet=lambda d: d["Diet"].astype(str))
    data = jn.GroupedData.from_frame(frame, "Rat", "weight", "t", "Diet")
    model = line_model(jn.error.gaussian(jn.variance.power(), jn.correlation.Exponential("t")), (True, True), "Diet")
    names = ("b0", "b1", "b0 ~ Diet[T.2]", "b0 ~ Diet[T.3]", "b1 ~ Diet[T.2]", "b1 ~ Diet[T.3]")
    values = dict(zip(names, r["fixef"].values(), strict=True)) | {"sigma": r["sigma"]}
    values |= {"power": r["variance_function"]["parameters"]["power"]} | r["correlation"]["parameters"]
    binding = bind(model, data)
    params = binding.params(values, psi=np.array(r["random"]["Rat"]["covariance"]))
    assert np.sum(linearised(binding, params)[1]) == pytest.approx(r["logLik"], abs=1e-5)


@pytest.mark.parametrize("buckets", [1, 2, 3])
def test_buckets_padding_and_order_of_rows_change_nothing(buckets: int) -> None:
    rng = np.random.default_rng(9)
    sizes = (2, 9, 4, 7, 3)
    group = np.repeat(np.arange(5), sizes)
    t = np.concatenate([np.cumsum(rng.integers(1, 3, n)) for n in sizes]).astype(float)
    frame = pd.DataFrame({"g": group, "t": t, "y": rng.normal(size=len(t))})
    error = jn.error.gaussian("constant", jn.correlation.AR1("t"))
    model = jn.NLMEModel(line, [jn.Parameter("b0", 0.1, random=True), jn.Parameter("b1", 0.2)], error=error)
    one = bind(model, jn.GroupedData.from_frame(frame, "g", "y", "t"))
    values = {"rho": -0.5, "a": 0.8}
    expected = np.asarray(jn.group_log_likelihoods(None, one.params(values), one.problem, "focei"))
    # rows in another order (the previous response may be below), more padding, several sizes
    shuffled = jn.GroupedData.from_frame(frame.sample(frac=1.0, random_state=1).sort_values("g"), "g", "y", "t")
    other = bind(model, shuffled.pad_to(12) if buckets == 1 else shuffled, buckets=buckets)
    found = np.asarray(jn.group_log_likelihoods(None, other.params(values), other.problem, "focei"))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # in continuous time a positive correlation is the same model
    continuous = jn.NLMEModel(line, model.parameters, error=jn.error.gaussian("constant", jn.correlation.CAR1("t")))
    values = {"rho": 0.5, "a": 0.8}
    pairs = [(bind(m, one.data), m) for m in (model, continuous)]
    first, second = (np.asarray(jn.group_log_likelihoods(m, b.params(values), one.data, "laplace")) for b, m in pairs)
    np.testing.assert_allclose(first, second, rtol=1e-12)
