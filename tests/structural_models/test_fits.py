"""Fits of `jn.models` from their starting values: R's nlme, declarations, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.problems import cheap

TABLES = Path(__file__).resolve().parents[1] / "tables"

# Reference fit: model, table, group, response, predictor, random effects.
OF_NLME = {
    "Orange_logis_Asym_ML": ("logistic", "Orange", "Tree", "circumference", "age", "Asym"),
    "CO2_asympOff_Asym_ML": ("asymptotic_offset", "CO2", "Plant", "uptake", "conc", "Asym"),
    "DNase_logis_diag3_ML": ("logistic", "DNase", "Run", "density", "log_conc", True),
    "Nitrendipene_fpl_diag_A_B_ML": ("four_parameter_logistic", "Nitrendipene", "Tissue", "activity", "log.NIF",
                                     ["A", "B"]),
    "Indometh_biexp_diag_A1_lrc1_A2_ML": ("biexponential", "Indometh", "Subject", "conc", "time", ["A1", "lrc1", "A2"]),
    "Cefamandole_biexp_diag_A1_lrc1_A2_ML": ("biexponential", "Cefamandole", "Subject", "conc", "Time",
                                             ["A1", "lrc1", "A2"]),
    "Theoph_ssfol_diag_lKa_lCl_ML": ("first_order_absorption", "Theoph", "Subject", "conc", "Time", ["lKa", "lCl"]),
    "ChickWeight_logis_diag_Asym_xmid_ML": ("logistic", "ChickWeight", "Chick", "weight", "Time", ["Asym", "xmid"]),
}  # fmt: skip


def table(name: str) -> pd.DataFrame:
    package = {"Theoph": jn.datasets.theophylline, "Indometh": jn.datasets.indomethacin, "Orange": jn.datasets.orange}
    frame = package[name]() if name in package else pd.read_csv(TABLES / f"{name}.csv")
    return frame.assign(log_conc=np.log(frame["conc"])) if name == "DNase" else frame


@pytest.mark.parametrize("name", OF_NLME)
def test_fits_of_nlme(name: str, reference: Path) -> None:
    """From the starts to the estimates of nlme 3.1-162 (R 4.2.2), which stops within a hundredth of a log-likelihood
    unit and of a standard error; R was given its starts by hand."""
    function, source, group, y, x, random = OF_NLME[name]
    of_r = json.loads((reference / "r" / f"{name}.json").read_text())
    dose = {"dose": "Dose"} if source == "Theoph" else {}
    data = jn.GroupedData.from_frame(table(source), group, y, [x, *dose.values()])
    model = getattr(jn.models, function)(x, data, random=random, **dose)
    fit = jn.fit(model, data, "lme").throw()
    assert fit.log_likelihood == pytest.approx(of_r["logLik"], abs=0.02)
    for parameter, value in of_r["fixef"].items():
        assert fit.values[parameter] == pytest.approx(value, abs=0.01 * of_r["se"][parameter]), parameter
    start = np.array([float(p.start) for p in model.parameters])
    assert np.abs(start - fit.beta.to_numpy()).max() > 0.01 * np.min(list(of_r["se"].values()))


def test_options_reach_the_model() -> None:
    data = jn.GroupedData.from_frame(table("CO2"), "Plant", "uptake", ["conc"], ["Type"])
    model = jn.models.asymptotic_offset(
        "conc", data, random={"Asym": True, "lrc": True}, covariates={"Asym": ["Type"]}, transforms={"Asym": "log"},
        sd={"lrc": 0.2}, fix="c0", starts={"c0": 49.0}, covariance="full", error="combined",
        fixed={"corr(Asym, lrc)": 0.1}, priors={"lrc": jn.priors.Normal(-4.6, 0.5)},
    )  # fmt: skip
    asym, lrc, c0 = model.parameters
    assert (asym.transform.name, asym.random, asym.covariates[0].formula) == ("log", True, "Type")
    assert (lrc.sd, lrc.random, c0.random, c0.fix, float(c0.start)) == (0.2, True, False, True, 49.0)
    assert model.covariance == "full" and model.fixed == {"corr(Asym, lrc)": 0.1} and "lrc" in model.priors
    assert repr(model).startswith("NLMEModel: asymptotic_offset(conc), ")
    fit = jn.fit(model, data, "focei")
    assert fit.values["c0"] == 49.0 and fit.values["corr(Asym, lrc)"] == pytest.approx(0.1)
    assert "Asym ~ Type[T.Quebec]" in fit.values


def test_no_data_with_all_starts() -> None:
    start = {"Asym": 190.0, "xmid": 730.0, "scal": 350.0}
    model = jn.models.logistic("age", starts=start, random=True)
    assert {p.name: float(p.start) for p in model.parameters} == start
    assert all(p.random for p in model.parameters)
    assert not any(p.random for p in jn.models.logistic("age", starts=start).parameters)


def test_a_dose_of_each_group() -> None:
    """The dose as a group-level column gives the fit of the column by row."""
    frame = table("Theoph")
    by_row = jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose"])
    by_group = jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time"], ["Dose"])
    models = [jn.models.first_order_absorption("Time", d, dose="Dose", random=["lKa"]) for d in (by_row, by_group)]
    assert [float(p.start) for p in models[0].parameters] == [float(p.start) for p in models[1].parameters]
    values = []
    for model, data in zip(models, (by_row, by_group), strict=True):
        value = cheap(lambda params, m=model, d=data: jn.log_likelihood(m, params, d, "fo"))(model.params(data))
        values.append(float(value))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_a_column_that_other_data_lack_is_named() -> None:
    data = jn.GroupedData.from_frame(table("Orange"), "Tree", "circumference", ["age"])
    renamed = jn.GroupedData.from_frame(
        table("Orange").rename(columns={"age": "days"}), "Tree", "circumference", "days"
    )
    with pytest.raises(jn.ModelError, match="'age'"):
        jn.fit(jn.models.logistic("age", data, random=["Asym"]), renamed, "focei")


def test_saved_fits_are_read_again(tmp_path: Path) -> None:
    """With a model declared anew (the same without a warning), and with the one in the file."""
    data = jn.GroupedData.from_frame(table("Orange"), "Tree", "circumference", ["age"])
    fit = jn.fit(jn.models.logistic("age", data, random=["Asym"]), data, "lme")
    path = fit.save(tmp_path / "fit")
    again = jn.models.logistic("age", data, random=["Asym"])
    for loaded in (jn.load(path, model=again), jn.load(path, trust_code=True)):
        np.testing.assert_allclose(loaded.predict(), fit.predict(), rtol=1e-10)
    other = jn.models.gompertz("age", data, random=["Asym"])
    with pytest.raises(jn.OptionError, match="xmid"):
        jn.load(path, model=other)


def growth_table(x_factor: float, y_factor: float) -> pd.DataFrame:
    """Gompertz curves of four animals, 10 exp(-3 0.7^x) and deviations of Asym, with x and y in other units."""
    rng = np.random.default_rng(0)
    x = np.linspace(0.5, 12.0, 10)
    y = (10.0 + rng.normal(size=(4, 1))) * np.exp(-3.0 * 0.7**x) + 0.1 * rng.normal(size=(4, 10))
    return pd.DataFrame({"g": np.repeat(np.arange(4), 10), "x": np.tile(x, 4) * x_factor, "y": y.ravel() * y_factor})


@pytest.mark.parametrize("x_factor, y_factor", [(1e-3, 1e-6), (1e3, 1e6), (1e-6, 1.0), (1e6, 1.0)])
def test_a_gompertz_curve_in_any_unit(x_factor: float, y_factor: float) -> None:
    """b3^x in thousandths of x is 1e-155: b3 then belongs to another unit, and the fit is the same."""
    fits = []
    for factors in ((1.0, 1.0), (x_factor, y_factor)):
        data = jn.GroupedData.from_frame(growth_table(*factors), "g", "y", ["x"])
        fits.append(jn.fit(jn.models.gompertz("x", data, random="Asym"), data, "focei").throw())
    one, other = fits
    unit = other.model.structure.unit
    assert one.model.structure.unit == 1.0
    assert unit == {1e3: 1.0, 1e-3: 1e-3, 1e-6: 1e-6, 1e6: 1e6}[x_factor]
    assert other.log_likelihood == pytest.approx(one.log_likelihood - 40 * np.log(y_factor), abs=1e-6)
    assert other.values["Asym"] == pytest.approx(one.values["Asym"] * y_factor, rel=1e-5)
    assert np.log(other.values["b3"]) == pytest.approx(np.log(one.values["b3"]) * unit / x_factor, rel=1e-5)
    assert (f"gompertz(x / {unit:g})" if unit != 1.0 else "gompertz(x)") in repr(other.summary())


def test_the_unit_of_a_gompertz_curve(tmp_path: Path) -> None:
    data = jn.GroupedData.from_frame(growth_table(1e-3, 1.0), "g", "y", ["x"])
    given = jn.models.gompertz("x", data, unit=2e-3)
    assert given.structure.unit == 2e-3
    assert float(given.parameters[2].start) == pytest.approx(0.7**2, rel=0.02)
    assert jn.models.gompertz("x", starts={"Asym": 1.0, "b2": 2.0, "b3": 0.5}).structure.unit == 1.0
    assert jn.models.gompertz("x", data, starts={"b3": 1e-150}).structure.unit == 1.0
    for bad in (0.0, -1.0, "day", [1.0, 2.0]):
        with pytest.raises(jn.OptionError, match="unit must be a positive number"):
            jn.models.gompertz("x", data, unit=bad)  # pyright: ignore[reportArgumentType]
    model = jn.models.gompertz("x", data, random="Asym")
    fit = jn.fit(model, data, "focei", standard_errors=False)
    fit.save(tmp_path / "fit.zip")
    again = jn.load(tmp_path / "fit.zip", model=model)
    np.testing.assert_allclose(again.predict(), fit.predict())


def nested_rates() -> jn.GroupedData:
    """Michaelis-Menten curves of 12 subjects on three days each, with effects of both on Vm and of subjects on K."""
    rng = np.random.default_rng(5)
    dose = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    rows = []
    for subject in range(12):
        top, half = 20.0 + 3.0 * rng.normal(), 3.0 + 0.3 * rng.normal()
        for day in (1, 2, 3):
            vm = top + 1.5 * rng.normal()
            rows += [(subject, day, d, vm * d / (half + d) + 0.2 * rng.normal()) for d in dose]
    frame = pd.DataFrame(rows, columns=["Subject", "Day", "dose", "rate"])
    return jn.GroupedData.from_frame(frame, ["Subject", "Day"], "rate", ["dose"])


def test_curves_take_random_effects_at_nested_levels() -> None:
    data = nested_rates()
    named = jn.models.michaelis_menten("dose", data, random=["Vm", "Vm|Day", "K"])
    listed = jn.models.michaelis_menten("dose", data, random={"Vm": ["Subject", "Day"], "K": "Subject"})
    assert [p.random for p in named.parameters] == [("Subject", "Day"), ("Subject",)]
    assert jn.models.michaelis_menten("dose", data, random="Vm|Day").parameters[0].random == ("Day",)
    without = jn.models.michaelis_menten("dose", starts={"Vm": 20.0, "K": 3.0}, random="Vm|Day")
    assert without.parameters[0].random == ("Day",)
    fit, other = (jn.fit(model, data, "focei").throw() for model in (named, listed))
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-8)
    assert list(fit.random_effects) == ["Subject", "Day"]
    for name, truth in {"Vm": 20.0, "K": 3.0, "sd(Vm)": 3.0, "sd(Vm|Day)": 1.5}.items():
        assert fit.values[name] == pytest.approx(truth, abs=3.0 * float(np.asarray(fit.estimates.loc[name, "se"])))


def test_random_effects_that_are_none_are_named() -> None:
    data, model = nested_rates(), jn.models.michaelis_menten
    with pytest.raises(jn.OptionError, match=r"'Day', a grouping level; .*\['Vm', 'Vm\|Day'\]"):
        model("dose", data, random=["Subject", "Day"][1:])
    with pytest.raises(jn.OptionError, match="no grouping level 'Dya'"):
        model("dose", data, random="Vm|Dya")
    with pytest.raises(jn.OptionError, match="'Km', no parameter"):
        model("dose", data, random="Km|Day")
    with pytest.raises(jn.OptionError, match="without data the name of the outermost level is not known"):
        model("dose", starts={"Vm": 20.0, "K": 3.0}, random=["Vm", "Vm|Day"])
