"""Functions of parameters: the delta method against closed forms, differences and draws; covariates; messages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.results.derived_record import Derived

TABLES = Path(__file__).resolve().parents[1] / "tables"
NORMAL = 1.959963984540054


def half_life(p):
    return jnp.log(2.0) * p.vol / p.cl


def growth(phi, x):
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.age) / phi.scale))


def offset(phi, x):
    return phi.Asym * (1.0 - jnp.exp(-jnp.exp(phi.lrc) * (x.conc - phi.c0)))


@pytest.fixture(scope="module")
def trees() -> jn.GroupedData:
    return jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", ["age"])


def tree_model(mid: str = "identity", **options) -> jn.NLMEModel:
    parameters = [
        jn.Parameter("asym", 190.0, random=True),
        jn.Parameter("mid", 700.0, mid),
        jn.Parameter("scale", 350.0),
    ]
    return jn.NLMEModel(growth, parameters, **options)


@pytest.fixture(scope="module")
def tree_fit(trees: jn.GroupedData) -> jn.Fit:
    return jn.fit(tree_model(), trees, "lme").throw()


@pytest.fixture(scope="module")
def plants() -> jn.Fit:
    """Uptake of CO2 with a factor (text) and a row-level constant covariate of Asym."""
    table = pd.read_csv(TABLES / "CO2.csv")
    data = jn.GroupedData.from_frame(table, "Plant", "uptake", ["conc"], ["Type", "Treatment"])
    asym = jn.Parameter("Asym", 32.0, random=True, covariates=["Type * Treatment"])
    model = jn.NLMEModel(offset, [asym, jn.Parameter("lrc", -4.6), jn.Parameter("c0", 49.0)])
    return jn.fit(model, data, "lme").throw()


def differenced(fit: jn.Fit, fn) -> np.ndarray:
    """Derivatives (active,) of fn(values, psi) by central differences of the packed parameters, on the host."""
    packed, active = np.asarray(fit.params.pack()), fit.information.active

    def at(vector):
        params = fit.params.unpack(vector)
        return fn(fit.binding.values(params), np.asarray(fit.binding.density.covariance.psi(params.covariance)))

    steps = 1e-5 * np.eye(len(packed))[active]
    return np.array([(at(packed + step) - at(packed - step)) / 2e-5 for step in steps])


# --- the delta method ---


def test_a_half_life_by_hand(fit: jn.Fit) -> None:
    """log of the half-life is log log 2 + log vol - log cl: the standard error follows from the reported covariance."""
    derived = fit.derive(half_life, transform="log")
    value = np.log(2.0) * fit.values["vol"] / fit.values["cl"]
    v = fit.covariance
    relative = np.sqrt(v.loc["vol", "vol"] + v.loc["cl", "cl"] - 2.0 * v.loc["cl", "vol"])
    row = derived.table.loc["half_life"]
    np.testing.assert_allclose(row["estimate"], value, rtol=1e-12)
    np.testing.assert_allclose(row["se"], value * relative, rtol=1e-9)
    np.testing.assert_allclose(row["rse%"], 100.0 * relative, rtol=1e-9)
    np.testing.assert_allclose([row["lower"], row["upper"]], value * np.exp([-NORMAL * relative, NORMAL * relative]))
    wider = derived.intervals(0.99).loc["half_life"]
    assert wider["lower"] < row["lower"] and wider["upper"] > row["upper"]
    plain = fit.derive(half_life).table.loc["half_life"]
    np.testing.assert_allclose([plain["lower"], plain["upper"]], value + NORMAL * value * relative * np.array([-1, 1]))


def test_derivatives_equal_differences(fit: jn.Fit) -> None:
    """Of values of every kind: typical values, a coefficient, an SD, an error parameter, psi."""

    def mixed(p):
        return p["cl ~ center(log(Wt))"] * p.ka / p.cl + p["sd(ka)"] ** 2 * p.a + p.b * jnp.sum(jnp.exp(p.psi))

    def on_host(p, psi):
        return p["cl ~ center(log(Wt))"] * p["ka"] / p["cl"] + p["sd(ka)"] ** 2 * p["a"] + p["b"] * np.exp(psi).sum()

    derived = fit.derive({"mixed": mixed, "half-life": half_life})
    np.testing.assert_allclose(derived.jacobian[0], differenced(fit, on_host), rtol=1e-6, atol=1e-8)
    slope = differenced(fit, lambda p, psi: np.log(2.0) * p["vol"] / p["cl"])
    np.testing.assert_allclose(derived.jacobian[1], slope, rtol=1e-6, atol=1e-8)
    inverse = np.linalg.inv(fit.information.matrix)
    np.testing.assert_allclose(derived.covariance, derived.jacobian @ inverse @ derived.jacobian.T, rtol=1e-8)
    assert derived.estimate[0] == pytest.approx(on_host(fit.values, fit.psi.to_numpy()), rel=1e-12)


def test_reported_values_have_their_reported_standard_errors(fit: jn.Fit) -> None:
    """Every reported value as a derived one, by observed information and by the sandwich; the whole covariance."""
    names = list(fit.values)
    logs = {"ka", "cl", "vol"}

    def reported(p):
        return {name: jnp.log(p[name]) if name in logs else p[name] for name in names}

    for robust, column in ((False, "se"), (True, "robust se")):
        derived = fit.derive(reported, robust=robust)
        np.testing.assert_allclose(derived.table["se"], fit.estimates[column], rtol=1e-9)
    np.testing.assert_allclose(fit.derive(reported).covariance, fit.covariance, rtol=1e-8, atol=1e-12)
    # The interval of an SD in the table of estimates is the one on the log scale.
    sds = [name for name in names if name.startswith("sd(")]
    scales = fit.derive(reported, transform={name: "log" for name in sds})
    np.testing.assert_allclose(scales.table.loc[sds, ["lower", "upper"]], fit.estimates.loc[sds, ["lower", "upper"]])


def test_coefficients_of_variation(fit: jn.Fit) -> None:
    derived = fit.derive(lambda p: {"cv": 100.0 * jnp.sqrt(jnp.expm1(jnp.diag(p.psi)))})
    assert derived.quantities == ("cv[0]", "cv[1]", "cv[2]")
    sd = fit.estimates.loc[["sd(ka)", "sd(cl)", "sd(vol)"]]
    np.testing.assert_allclose(derived.table["estimate"], sd["cv%"], rtol=1e-12)
    s = sd["estimate"].to_numpy()
    expected = 100.0 * s * np.exp(s**2) / np.sqrt(np.expm1(s**2)) * sd["se"].to_numpy()
    np.testing.assert_allclose(derived.table["se"], expected, rtol=1e-9)


def test_nlme_and_the_delta_method_by_hand(tree_fit: jn.Fit, reference: Path) -> None:
    """Age at 90% of the asymptote, xmid + scal log 9, of orange trees; half-life and volume of theophylline. By hand
    with nlme's covariance of the fixed effects (R 4.2.2, nlme 3.1-162), which takes the variances as known: ours is of
    all parameters together, and the difference is small."""

    def by_hand(name: str, gradient: list[float]) -> float:
        return float(np.sqrt(np.array(gradient) @ np.array(of_r[name]["vcov_fixed"]["matrix"]) @ np.array(gradient)))

    names = ("Orange_logis_Asym_ML", "Theoph_ssfol_diag_lKa_lCl_ML")
    of_r = {name: json.loads((reference / "r" / f"{name}.json").read_text()) for name in names}
    fixed = of_r[names[0]]["fixef"]
    row = tree_fit.derive({"age": lambda p: p.mid + p.scale * jnp.log(9.0)}).table.loc["age"]
    assert row["estimate"] == pytest.approx(fixed["xmid"] + np.log(9.0) * fixed["scal"], rel=1e-4)
    assert row["se"] == pytest.approx(by_hand(names[0], [0.0, 1.0, np.log(9.0)]), rel=5e-3)

    data = jn.GroupedData.from_frame(jn.datasets.theophylline(), "Subject", "conc", ["Time", "Dose"])
    model = jn.models.first_order_absorption("Time", data, dose="Dose", random=["lKa", "lCl"])
    functions = {"half-life": lambda p: jnp.log(2.0) * jnp.exp(-p.lKe), "volume": lambda p: jnp.exp(p.lCl - p.lKe)}
    table = jn.fit(model, data, "lme").derive(functions).table
    fixed = of_r[names[1]]["fixef"]
    half_life, volume = np.log(2.0) * np.exp(-fixed["lKe"]), np.exp(fixed["lCl"] - fixed["lKe"])
    np.testing.assert_allclose(table["estimate"], [half_life, volume], rtol=1e-3)
    expected = [half_life * by_hand(names[1], [1.0, 0.0, 0.0]), volume * by_hand(names[1], [-1.0, 0.0, 1.0])]
    np.testing.assert_allclose(table["se"], expected, rtol=1e-3)


def test_another_parametrisation_gives_the_same(trees: jn.GroupedData) -> None:
    """The midpoint on the log scale is the same model: estimate, standard error and interval of a derived value."""
    fits = [jn.fit(tree_model(mid), trees, "focei", tolerance=1e-10).throw() for mid in ("identity", "log")]
    rows = [f.derive(lambda p: p.mid / p.scale, transform="log").table.loc["value"] for f in fits]
    np.testing.assert_allclose(rows[0], rows[1], rtol=2e-4)


# --- draws ---


def test_draws_of_a_linear_function(fit: jn.Fit) -> None:
    """log vol - log cl is normal: SDs of draws are the standard error up to Monte Carlo error, for several seeds; the
    percentiles are Wald's limits."""

    def ratio(p):
        return {"log": jnp.log(p.vol / p.cl), "coefficient": p["cl ~ center(log(Wt))"]}

    exact = fit.derive(ratio)
    n, ratios = 4000, []
    for seed in range(5):
        drawn = fit.derive(ratio, method="draws", draws=n, seed=seed)
        np.testing.assert_array_equal(drawn.estimate, exact.estimate)
        ratios.append(drawn.standard_errors / exact.standard_errors)
        for column in ("lower", "upper"):
            # The standard deviation of a 2.5% percentile of n normal draws: sqrt(p q / n) / density = 2.67 / sqrt(n).
            gap = (drawn.table[column] - exact.table[column]) / exact.standard_errors
            assert (gap.abs() < 4.0 * 2.67 / np.sqrt(n)).all()
    assert (np.abs(np.array(ratios) - 1.0) < 4.0 / np.sqrt(2.0 * n)).all()
    assert np.std(ratios, axis=0).min() > 0.1 / np.sqrt(2.0 * n)  # other seeds, other draws
    again = fit.derive(ratio, method="draws", draws=n, seed=4)
    np.testing.assert_array_equal(again.draws, drawn.draws)
    correlation = exact.covariance.iloc[0, 1] / np.prod(exact.standard_errors)
    assert drawn.covariance.iloc[0, 1] / np.prod(drawn.standard_errors) == pytest.approx(correlation, abs=0.07)


def test_draws_of_a_positive_value_stay_positive(fit: jn.Fit) -> None:
    """Percentiles of the half-life are those of its logarithm, carried over."""
    table = fit.derive({"t": half_life, "log": lambda p: jnp.log(half_life(p))}, method="draws", draws=999).table
    # With 999 draws the 2.5% percentile lies between two draws, where exp of a mean is not a mean of exp.
    np.testing.assert_allclose(
        table.loc["t", ["lower", "upper"]], np.exp(table.loc["log", ["lower", "upper"]]), rtol=1e-3
    )


def test_undefined_and_infinite_draws_are_counted(fit: jn.Fit) -> None:
    drawn = fit.derive(
        {"root": lambda p: jnp.sqrt(p["cl ~ center(log(Wt))"] - 0.0), "ok": half_life}, method="draws", draws=500
    )
    root = drawn.table.loc["root"]
    undefined = int(np.isnan(drawn.draws[:, 0]).sum())
    assert 0 < undefined < 500 and np.isnan(root[["se", "lower", "upper"]]).all()
    assert f"Not a number in some draws, so that there is no standard error: 'root' ({undefined})" in str(
        drawn
    ).replace("\n  ", " ")
    assert np.isfinite(drawn.table.loc["ok"]).all()


# --- covariates ---


def test_contrasts_of_covariate_coefficients(plants: jn.Fit) -> None:
    """The effect of chilling at each site, by the coefficients, and as differences of phi at rows of covariates."""
    treatment = "Asym ~ Treatment[T.nonchilled]"
    both = "Asym ~ Type[T.Quebec]:Treatment[T.nonchilled]"
    derived = plants.derive(lambda p: {"Mississippi": p[treatment], "Quebec": p[treatment] + p[both]})
    v = plants.covariance
    variance = v.loc[treatment, treatment] + v.loc[both, both] + 2.0 * v.loc[treatment, both]
    assert derived.table.loc["Quebec", "se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert derived.table.loc["Mississippi", "se"] == pytest.approx(plants.estimates.loc[treatment, "se"], rel=1e-9)

    at = {"Type": ["Quebec", "Quebec", "Mississippi", "Mississippi"], "Treatment": ["chilled", "nonchilled"] * 2}
    cells = plants.derive({"Asym": lambda p: p.phi.Asym}, at=at)
    table = cells.table.loc["Asym"]
    assert table["Type"].tolist() == at["Type"]
    columns = {"Type": plants.data.text["Type"], "Treatment": plants.data.text["Treatment"]}
    of_plants = plants.parameters("population").join(pd.DataFrame(columns, plants.data.labels))
    means = of_plants.groupby(["Type", "Treatment"])["Asym"].first()
    np.testing.assert_allclose(table["estimate"], [means[cell] for cell in zip(*at.values(), strict=True)], rtol=1e-10)
    contrasts = np.array([[0.0, 0.0, -1.0, 1.0], [-1.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(contrasts @ cells.estimate, derived.estimate, rtol=1e-9)
    np.testing.assert_allclose(contrasts @ cells.covariance.to_numpy() @ contrasts.T, derived.covariance, rtol=1e-8)


def test_rows_of_a_continuous_covariate(fit: jn.Fit) -> None:
    """Clearance and AUC at weights: the formula of the model with the centre of the fitted data; a frame with an index;
    several quantities; draws of the same rows."""
    at = pd.DataFrame({"Wt": [50, 70, 90], "Dose": 320.0}, index=["light", "middle", "heavy"])

    def exposure(p, x):
        return {"cl": p.phi.cl, "auc": x.Dose / p.phi.cl}

    derived = fit.derive(exposure, at=at)
    centre = np.mean(np.log(fit.data.to_frame()["Wt"].groupby(fit.data.to_frame()["Subject"]).first()))
    theta = fit.values["cl ~ center(log(Wt))"]
    cl = fit.values["cl"] * np.exp(theta * (np.log([50.0, 70.0, 90.0]) - centre))
    table = derived.table
    np.testing.assert_allclose(table.loc["cl", "estimate"], cl, rtol=1e-10)
    np.testing.assert_allclose(table.loc["auc", "estimate"], 320.0 / cl, rtol=1e-10)
    assert table.loc["cl"].index.tolist() == ["light", "middle", "heavy"]
    assert derived.covariance.shape == (6, 6)
    v, d = fit.covariance, np.log([50.0, 70.0, 90.0]) - centre
    variance = v.loc["cl", "cl"] + d**2 * v.loc["cl ~ center(log(Wt))"]["cl ~ center(log(Wt))"]
    variance += 2.0 * d * v.loc["cl", "cl ~ center(log(Wt))"]
    np.testing.assert_allclose(table.loc["cl", "se"], cl * np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose(table.loc["auc", "rse%"], table.loc["cl", "rse%"], rtol=1e-9)
    drawn = fit.derive(exposure, at=at, method="draws", draws=2000)
    assert drawn.draws.shape == (2000, 6)
    np.testing.assert_allclose(np.median(drawn.draws, axis=0), derived.estimate, rtol=0.05)
    single = fit.derive(lambda p, x: p.cl * x.factor, at={"factor": 2.0})  # a number is one row; no covariates needed
    assert single.table["estimate"].tolist() == [pytest.approx(2.0 * fit.values["cl"])]


def test_typical_parameters_without_covariates(tree_fit: jn.Fit) -> None:
    """phi needs no table where no parameter has covariates; curves over rows of times."""
    derived = tree_fit.derive(lambda p: p.phi.asym / 2.0)
    assert derived.estimate[0] == pytest.approx(tree_fit.values["asym"] / 2.0)
    ages = [484.0, 1004.0]
    curve = tree_fit.derive({"mean": lambda p, x: growth(p.phi, x)}, at={"age": ages})
    predicted = tree_fit.predict({"Tree": [1, 1], "age": ages}, level="population")
    np.testing.assert_allclose(curve.table["estimate"], predicted, rtol=1e-12)


def test_categories_that_are_numbers(trees: jn.GroupedData) -> None:
    """A factor with the levels 1 and 2: a row of `at` with the number 2 is that level, not a number."""
    frame = jn.datasets.orange().assign(plot=lambda t: pd.Categorical(1 + t["Tree"] % 2))
    data = jn.GroupedData.from_frame(frame, "Tree", "circumference", ["age"], ["plot"])
    model = jn.models.logistic("age", data, random=["Asym"], covariates={"Asym": ["plot"]})
    fit = jn.fit(model, data, "lme").throw()
    name = next(name for name in fit.values if "plot" in name)
    derived = fit.derive(lambda p: p.phi.Asym, at={"plot": [1, 2]})
    np.testing.assert_allclose(np.diff(derived.estimate), fit.values[name], rtol=1e-9)
    with pytest.raises(jn.ModelError, match="the level 3, which the fitted data lacked"):
        fit.derive(lambda p: p.phi.Asym, at={"plot": 3})


def individual(beta, b, v):
    return {"asym": (beta.asym + b.asym) * v.size, "mid": beta.mid, "scale": beta.scale}


def test_an_individual_function_reads_rows(trees: jn.GroupedData) -> None:
    frame = jn.datasets.orange().assign(size=lambda t: 1.0 + 0.1 * t["Tree"])
    data = jn.GroupedData.from_frame(frame, "Tree", "circumference", ["age"], ["size"])
    fit = jn.fit(tree_model(individual=individual), data, "focei")
    derived = fit.derive(lambda p: p.phi.asym, at={"size": [1.0, 2.0]})
    np.testing.assert_allclose(derived.estimate, fit.values["asym"] * np.array([1.0, 2.0]), rtol=1e-12)
    with pytest.raises(jn.OptionError, match=r"individual function.* give at=, a table with size"):
        fit.derive(lambda p: p.phi.asym)


# --- fits of every kind ---


def logistic(phi, x):
    return phi.Asym / (1.0 + jnp.exp((phi.xmid - x.log_conc) / phi.scal))


def test_zero_variances_and_held_values() -> None:
    """What is zero or held fixed is known: no standard error of it, and the others have theirs. (R's nlme has an SD of
    xmid of 5e-6.)"""
    table = pd.read_csv(TABLES / "DNase.csv").assign(log_conc=lambda t: np.log(t["conc"]))
    data = jn.GroupedData.from_frame(table, "Run", "density", ["log_conc"])
    parameters = [jn.Parameter(name, start, random=True) for name, start in (("Asym", 2.49), ("xmid", 1.5))]
    model = jn.NLMEModel(logistic, [*parameters, jn.Parameter("scal", 1.05, random=True)], fixed={"a": 0.0246})
    fit = jn.fit(model, data, "lme").throw()
    assert fit.at_zero and fit.values["sd(xmid)"] == 0.0
    derived = fit.derive(
        {
            "sd": lambda p: p["sd(xmid)"],
            "cv": lambda p: jnp.sqrt(jnp.expm1(p["sd(xmid)"] ** 2)),
            "held": lambda p: p.a,
            "ratio": lambda p: p.Asym / p.a,
        }
    )
    text = str(derived).replace("\n  ", " ")
    assert np.isnan(derived.standard_errors[:3]).all()
    assert "Without a standard error, for no estimated parameter changes it: 'sd' and 'held'." in text
    assert "The derivative of 'cv' is not finite" in text
    assert "What is zero is taken as known." in text
    expected = fit.estimates.loc["Asym", "se"] / 0.0246
    assert derived.standard_errors[3] == pytest.approx(expected, rel=1e-9)
    drawn = fit.derive(lambda p: {"held": p.a, "ratio": p.Asym / p.a}, method="draws", draws=4000)
    assert np.isnan(drawn.table.loc["held", ["se", "lower", "upper"]]).all()
    root = fit.derive({"cv": lambda p: jnp.sqrt(jnp.expm1(p["sd(xmid)"] ** 2))}, method="draws", draws=20)
    assert np.isnan(root.standard_errors).all() and "for no estimated parameter changes it: 'cv'" in str(root)
    assert drawn.table.loc["ratio", "se"] == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("method, options", [("focei", {"restricted": True}), ("relme", {}), ("laplace", {})])
def test_other_methods(trees: jn.GroupedData, method: str, options: dict) -> None:
    fit = jn.fit(tree_model(), trees, method, **options).throw()
    row = fit.derive(lambda p: p.asym / p.scale).table.loc["value"]
    v, (a, s) = fit.covariance, (fit.values["asym"], fit.values["scale"])
    g = np.array([1.0 / s, -a / s**2])
    block = v.loc[["asym", "scale"], ["asym", "scale"]].to_numpy()
    assert row["se"] == pytest.approx(np.sqrt(g @ block @ g), rel=1e-9)


def test_a_stochastic_fit(trees: jn.GroupedData) -> None:
    fit = jn.fit(tree_model(), trees, jn.SAEM(likelihood="none"))
    se = fit.derive(lambda p: p.mid + p.scale).table.loc["value", "se"]
    v = fit.covariance.loc[["mid", "scale"], ["mid", "scale"]].to_numpy()
    assert se == pytest.approx(np.sqrt(v.sum()), rel=1e-9)


def test_a_fit_that_has_not_converged_says_so_first(fit: jn.Fit) -> None:
    derived = dataclasses.replace(fit, converged=False).derive(half_life)
    assert str(derived).startswith("The fit has NOT converged")
    assert not str(fit.derive(half_life)).startswith("The fit has NOT")


def test_fits_without_standard_errors_are_refused(fit: jn.Fit) -> None:
    with pytest.raises(jn.FitError, match="fit with standard_errors=True"):
        dataclasses.replace(fit, information=None).derive(half_life)
    with pytest.raises(jn.FitError, match="they were not computed, for the fit has not converged"):
        dataclasses.replace(fit, information=None, converged=False).derive(half_life)
    info = dataclasses.replace(fit.information, singular=({"ka": 0.7, "vol": -0.7},))
    with pytest.raises(jn.FitError, match=r"singular in the direction \+0.70 ka -0.70 vol"):
        dataclasses.replace(fit, information=info).derive(half_life)


def test_loaded_fits(tree_fit: jn.Fit, tmp_path: Path) -> None:
    path = tree_fit.save(tmp_path / "fit")
    with pytest.raises(jn.OptionError, match=r"fit.derive needs the model.*jn\.load\(path, model=model\)"):
        jn.load(path).derive(lambda p: p.mid)
    loaded = jn.load(path, model=tree_fit.model)
    expected, actual = (f.derive(lambda p: p.mid / p.scale).table for f in (tree_fit, loaded))
    pd.testing.assert_frame_equal(expected, actual)


def test_results_do_not_depend_on_the_sessions_precision(tree_fit: jn.Fit) -> None:
    expected = tree_fit.derive(lambda p: p.mid / p.scale).table
    with jax.enable_x64(False):
        pd.testing.assert_frame_equal(tree_fit.derive(lambda p: p.mid / p.scale).table, expected)


# --- outputs and messages ---


def test_names_of_what_functions_return(tree_fit: jn.Fit) -> None:
    def pair(p):
        return jnp.array([[p.mid, p.scale]])

    assert tree_fit.derive(pair).quantities == ("pair[0, 0]", "pair[0, 1]")
    assert tree_fit.derive({"x": lambda p: (p.mid, 2)}).quantities == ("x[0]", "x[1]")
    nested = tree_fit.derive({"x": lambda p: {"a": p.mid, "b": [p.mid, p.scale]}, "y": lambda p: p.asym})
    assert nested.quantities == ("x: a", "x: b[0]", "x: b[1]", "y")
    assert isinstance(nested, Derived) and nested._repr_html_().startswith("<div>")
    assert tree_fit.derive(lambda p: {"x": p.mid}).table.index.tolist() == ["x"]


def test_a_value_that_is_not_finite_is_named(tree_fit: jn.Fit) -> None:
    derived = tree_fit.derive(
        {"a": lambda p, x: jnp.log(x.d * p.mid), "b": lambda p, x: x.d + p.mid}, at={"d": [1.0, -1.0]}
    )
    assert "Not finite at the estimates: 'a' in row 1 of at." in str(derived)
    assert np.isfinite(derived.table["se"]).tolist() == [True, False, True, True]
    kink = tree_fit.derive({"root": lambda p: jnp.sqrt(p.mid - p.mid)})
    assert "The derivative of 'root' is not finite" in str(kink)


MESSAGES = [
    (lambda f: f.derive(), jn.OptionError, "needs fn"),
    (lambda f: f.derive(3), jn.OptionError, "fn must be a function of p.*received 3"),
    (lambda f: f.derive({}), jn.OptionError, "empty dictionary"),
    (lambda f: f.derive(lambda: 1.0), jn.OptionError, r"must take p, or \(p, x\) with at="),
    (lambda f: f.derive(lambda p, x: p.mid), jn.OptionError, "takes two arguments.*give at="),
    (lambda f: f.derive(lambda p: p.midd), jn.ModelError, "no value is called 'midd'; did you mean 'mid'"),
    (lambda f: f.derive({"x": lambda p: np.log(p.mid)}), jn.ModelError, "'x' is not pure JAX.*test_derived.py, line"),
    (lambda f: f.derive(lambda p: p.mid if p.mid > 1 else 0.0), jn.ModelError, r"jnp.where\(condition, a, b\)"),
    (lambda f: f.derive(lambda p: None), jn.ModelError, "must return a number.*it returned None"),
    (lambda f: f.derive(lambda p: 1j * p.mid), jn.ModelError, "it returned an array of complex128"),
    (lambda f: f.derive(lambda p: 1 / 0), ZeroDivisionError, "division by zero"),
    (
        lambda f: f.derive(lambda p: p.mid, methods="draws"),
        jn.OptionError,
        "no option 'methods'; did you mean 'method'",
    ),
    (lambda f: f.derive(lambda p: p.mid, method="mc"), jn.OptionError, "'delta' or 'draws'"),
    (lambda f: f.derive(lambda p: p.mid, draws=10), jn.OptionError, "belong to method='draws'"),
    (lambda f: f.derive(lambda p: p.mid, method="draws", transform="log"), jn.OptionError, "the same on every scale"),
    (lambda f: f.derive(lambda p: -p.mid, transform="log"), jn.OptionError, r"outside \(0, inf\), the domain"),
    (lambda f: f.derive(lambda p: p.mid, transform="box-cox"), jn.OptionError, "exponent of its own"),
    (
        lambda f: f.derive(lambda p: p.mid, transform={"mid": "log"}),
        jn.OptionError,
        "no derived quantity is called 'mid'",
    ),
    (lambda f: f.derive(lambda p: p.mid, level=95), jn.OptionError, "level is a probability"),
    (
        lambda f: f.derive(lambda p: p.mid, at={"age": [1.0, 2.0]}),
        jn.OptionError,
        "does not depend on the rows of `at`",
    ),
    (lambda f: f.derive(lambda p, x: x.age, at={"age": [1.0, np.nan]}), jn.DataError, "at: .*age.*row"),
    (lambda f: f.derive(lambda p, x: x.sex * p.mid, at={"sex": ["a"]}), jn.ModelError, "is a text column"),
    (lambda f: f.derive(lambda p, x: x.age, at=3), jn.OptionError, "at must be a data frame"),
    (lambda f: f.derive(lambda p, x: x.a, at={"a": [1, 2], "b": [1]}), jn.OptionError, "columns of one length"),
    (lambda f: f.derive(lambda p, x: x.a, at=pd.DataFrame({"a": []})), jn.OptionError, "no rows"),
]


@pytest.mark.parametrize("call, error, message", MESSAGES)
def test_messages(tree_fit: jn.Fit, call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(tree_fit)


def test_messages_on_covariates(fit: jn.Fit, plants: jn.Fit) -> None:
    with pytest.raises(jn.OptionError, match=r"p\.phi depends on covariates: give at=, a table with Wt"):
        fit.derive(lambda p: p.phi.cl)
    with pytest.raises(jn.OptionError, match=r"p\.phi depends on 'Wt', which `at` lacks"):
        fit.derive(lambda p: p.phi.cl, at={"Dose": 3.0})
    with pytest.raises(jn.ModelError, match="the level 'Ontario', which the fitted data lacked"):
        plants.derive(lambda p: p.phi.Asym, at={"Type": "Ontario", "Treatment": "chilled"})
    with pytest.raises(jn.DataError, match="at: column 'Wt', a covariate of 'cl', holds text"):
        fit.derive(lambda p: p.phi.cl, at={"Wt": ["heavy"]})


def test_units_of_nested_levels_are_refused_by_name() -> None:
    rng = np.random.default_rng(1)
    t, subject, day = (part.ravel() for part in np.meshgrid(np.arange(4.0), np.arange(8), [1, 2, 3]))
    y = 2.0 + rng.normal(size=8)[subject] + 0.5 * rng.normal(size=24)[3 * subject + day - 1] + 0.2 * rng.normal(size=96)
    data = jn.GroupedData.from_frame({"S": subject, "D": day, "t": t, "y": y}, ["S", "D"], "y", ["t"])
    model = jn.NLMEModel(lambda phi, x: phi.b0 + 0.0 * x.t, [jn.Parameter("b0", 1.0, random=["S", "D"])])
    fit = jn.fit(model, data, "focei")
    with pytest.raises(jn.OptionError, match=r"phi\.on\(\.\.\.\) in a derived value"):
        fit.derive({"a": lambda p: p.phi.on("D").b0})
    with pytest.raises(jn.ModelError, match=r"p\.psi is the matrix of all random effects"):
        fit.derive({"a": lambda p: p.psi["D"]})
    derived = fit.derive({"total": lambda p: p.psi[0, 0] + p["sd(b0|D)"] ** 2, "typical": lambda p: p.phi.b0})
    expected = [fit.values["sd(b0)"] ** 2 + fit.values["sd(b0|D)"] ** 2, fit.values["b0"]]
    np.testing.assert_allclose(derived.table["estimate"], expected, rtol=1e-10)
