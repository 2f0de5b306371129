"""Predictions against the formula in numpy; new tables, new groups, missing responses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.results.parameter_draws import parameter_draws


def phi_by_hand(fit: jn.Fit, table: pd.DataFrame, b: pd.DataFrame, centre: float) -> dict[str, np.ndarray]:
    """ka, cl and vol of every row: exp(beta + covariate + b)."""
    beta, effects = fit.beta, b.loc[table.Subject]
    slope = beta.filter(like="cl ~").iloc[0] * (np.log(table.Wt.to_numpy()) - centre)
    return {
        "ka": np.exp(beta["ka"] + effects.ka.to_numpy()),
        "cl": np.exp(beta["cl"] + slope + effects.cl.to_numpy()),
        "vol": np.exp(beta["vol"] + effects.vol.to_numpy()),
    }


def curve(table: pd.DataFrame, phi: dict[str, np.ndarray]) -> np.ndarray:
    time, dose = table.Time.to_numpy(), table.Dose.to_numpy()
    ke = phi["cl"] / phi["vol"]
    return dose * phi["ka"] / (phi["vol"] * (phi["ka"] - ke)) * (np.exp(-ke * time) - np.exp(-phi["ka"] * time))


@pytest.fixture(scope="module")
def centre(frame: pd.DataFrame) -> float:
    """The mean log weight over subjects, which center() subtracted when the model was fitted."""
    return float(np.log(frame.groupby("Subject").Wt.first()).mean())


@pytest.mark.parametrize("level", ["group", "population"])
def test_fitted_rows(fit: jn.Fit, frame: pd.DataFrame, centre: float, level: str) -> None:
    b = fit.random_effects if level == "group" else 0.0 * fit.random_effects
    prediction = fit.predict(level=level)
    assert prediction.name == "prediction"
    assert prediction.index.equals(pd.RangeIndex(len(frame)))
    np.testing.assert_allclose(prediction, curve(frame, phi_by_hand(fit, frame, b, centre)), rtol=1e-12)


def test_individual_parameters(fit: jn.Fit, frame: pd.DataFrame, centre: float) -> None:
    first = frame.drop_duplicates("Subject")
    table = fit.parameters()
    assert table.index.name == "Subject"
    assert table.index.tolist() == first.Subject.tolist()
    for name, values in phi_by_hand(fit, first, fit.random_effects, centre).items():
        np.testing.assert_allclose(table[name], values, rtol=1e-12)
    assert fit.parameters(level="population")["ka"].nunique() == 1


def test_new_rows_of_known_groups(fit: jn.Fit, frame: pd.DataFrame, centre: float) -> None:
    """The centre stays that of the fit though the new table has other weights; no response column is needed."""
    new = pd.DataFrame({"Subject": [3, 1, 3], "Wt": [150.0, 20.0, 150.0], "Dose": [300.0, 200.0, 300.0],
                        "Time": [1.0, 5.0, 30.0]})  # fmt: skip
    expected = curve(new, phi_by_hand(fit, new, fit.random_effects, centre))
    np.testing.assert_allclose(fit.predict(new), expected, rtol=1e-12)


def test_new_groups_with_responses(fit: jn.Fit, frame: pd.DataFrame) -> None:
    """A fitted subject under a new label gets the same mode, so the same predictions; groups in any order."""
    renamed = frame[frame.Subject.isin([1, 7, 9])].iloc[::-1].reset_index(drop=True)
    original = fit.predict(renamed)
    renamed["Subject"] = renamed.Subject.replace({7: 70})
    np.testing.assert_allclose(fit.predict(renamed), original, rtol=1e-8)


def test_new_groups_without_responses(fit: jn.Fit, frame: pd.DataFrame, centre: float) -> None:
    new = frame[frame.Subject == 2].drop(columns="conc").assign(Subject="two")
    with pytest.warns(UserWarning, match=r"'two' is not in the fit .* those of the population"):
        prediction = fit.predict(new)
    with pytest.raises(jn.DataError, match="the fit has the int 2"):
        fit.predict(new.assign(Subject="2"))
    zero = pd.DataFrame(0.0, index=["two"], columns=["ka", "cl", "vol"])
    expected = curve(new, phi_by_hand(fit, new, zero, centre))
    np.testing.assert_allclose(fit.predict(new, level="population"), expected, rtol=1e-12)
    np.testing.assert_allclose(prediction, expected, rtol=1e-12)


def test_one_new_group_without_responses(fit: jn.Fit, frame: pd.DataFrame, centre: float) -> None:
    new = frame[frame.Subject.isin([1, 2])].assign(Subject=lambda table: table.Subject.astype(object)).copy()
    new.loc[new.Subject == 2, "conc"] = np.nan
    new.loc[new.Subject == 2, "Subject"] = "two"
    with pytest.warns(UserWarning, match=r"group 'two' is not in the fit and has no response .* of the population"):
        prediction = fit.predict(new)
    one = new.Subject == 1
    np.testing.assert_allclose(prediction[one], fit.predict(frame[frame.Subject == 1]), rtol=1e-8)
    np.testing.assert_allclose(prediction[~one], fit.predict(new, level="population")[~one], rtol=1e-12)


def test_mistakes_are_named(fit: jn.Fit, frame: pd.DataFrame) -> None:
    with pytest.raises(jn.OptionError, match="level"):
        fit.predict(level="subject")
    with pytest.raises(jn.OptionError, match="did you mean 'population'"):
        fit.predict(level="pop")
    with pytest.raises(jn.DataError, match="Time"):
        fit.predict(frame.drop(columns="Time"))
    with pytest.raises(jn.DataError, match="Wt"):
        fit.predict(frame.assign(Wt=np.arange(len(frame))))
    weight_in_x = jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose", "Wt"])
    with pytest.raises(jn.DataError, match="'Wt' is in x"):
        fit.predict(weight_in_x)
    without = jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose"])
    with pytest.raises(jn.DataError, match="lack 'Wt'"):
        fit.predict(without)
    no_estimates = dataclasses.replace(fit, params=dataclasses.replace(fit.params, beta=np.full(4, np.nan)))
    with pytest.raises(jn.FitError, match="no estimates"):
        no_estimates.predict()


def test_parameters_that_vary_within_groups(fit: jn.Fit, data: jn.GroupedData, frame: pd.DataFrame) -> None:
    """A row of parameters per row of the table, in its order."""
    clearance = jn.Parameter("cl", 2.8, "log", random=True, covariates=[jn.Covariate("log(Time + 1)", 0.1)])
    parameters = [fit.model.parameters[0], clearance, fit.model.parameters[2]]
    bound = jn.bind(jn.NLMEModel(fit.model.structure, parameters, error="combined"), data)
    varying = dataclasses.replace(fit, binding=bound, params=bound.start)
    table = varying.parameters()
    assert table.index.equals(pd.RangeIndex(len(frame)))
    b = varying.random_effects.loc[frame.Subject].reset_index(drop=True)
    np.testing.assert_allclose(table.cl, 2.8 * (frame.Time + 1.0) ** 0.1 * np.exp(b.cl), rtol=1e-12)
    np.testing.assert_allclose(table.ka, 1.5 * np.exp(b.ka), rtol=1e-12)


def test_further_tables_cannot_come_from_a_frame(fit: jn.Fit, data: jn.GroupedData, frame: pd.DataFrame) -> None:
    doses = data.with_table("doses", frame, "Subject", ["Dose"])
    bound = jn.bind(fit.model, doses, like=fit.binding)
    with pytest.raises(jn.DataError, match=r"doses.*with_table"):
        dataclasses.replace(fit, binding=bound).predict(frame)


def nested_lines(levels: list[str]) -> jn.Fit:
    """Lines with effects of subjects and days on the intercept."""
    rng = np.random.default_rng(1)
    t, subject, day = (part.ravel() for part in np.meshgrid(np.arange(4.0), np.arange(8), [1, 2, 3]))
    y = 2.0 + rng.normal(size=8)[subject] + 0.5 * rng.normal(size=24)[3 * subject + day - 1] + 0.5 * t
    table = {"S": subject, "D": day, "t": t, "y": y + 0.2 * rng.normal(size=96)}
    parameters = [jn.Parameter("b0", 1.0, random=levels), jn.Parameter("b1", 0.5)]
    data = jn.GroupedData.from_frame(table, levels, "y", ["t"])
    return jn.fit(jn.NLMEModel(lambda phi, x: phi.b0 + phi.b1 * x.t, parameters), data, "focei", standard_errors=False)


@pytest.mark.parametrize("levels", [["S"], ["S", "D"]])
def test_a_table_needs_the_columns_of_the_levels_that_are_used(levels: list[str]) -> None:
    fit = nested_lines(levels)
    table = pd.DataFrame({"t": [0.0, 1.0]}, index=["u", "w"])
    population = fit.predict(table, level="population")
    expected = fit.values["b0"] + fit.values["b1"] * table["t"]
    pd.testing.assert_series_equal(population, expected.rename("prediction"))
    np.testing.assert_allclose(fit.predict({"t": [0.0, 1.0]}, level=0), population)
    known = fit.predict(table.assign(S=[1, 2]), level="S")
    b0 = fit.parameters("S")["b0"]
    np.testing.assert_allclose(known, [b0[1], b0[2] + fit.values["b1"]])
    assert np.abs(known - population).min() > 0.01
    with pytest.raises(jn.DataError, match="no column 'S'"):
        fit.predict(table, level="S")


def test_new_groups_are_those_of_the_population_with_and_without_known_ones() -> None:
    fit = nested_lines(["S", "D"])
    table = pd.DataFrame({"t": [0.0, 1.0], "S": [91, 92]})
    expected = fit.predict(table, level="population")
    for subjects in ([91, 92], [91, 2]):
        with pytest.warns(UserWarning, match=r"group 91.* is not in the fit .* those of the population"):
            predicted = fit.predict(table.assign(S=subjects), level="S")
        assert predicted[0] == pytest.approx(expected[0], rel=1e-12)
        assert (predicted[1] == pytest.approx(expected[1], rel=1e-12)) == (subjects[1] == 92)
    with pytest.raises(jn.DataError, match=r"no column 'D', which is needed to find the random effects of S 91"):
        fit.predict(table.assign(S=[91, 2], y=[1.0, 2.0]), level="S")
    with pytest.raises(jn.DataError, match=r"'91' is not in the fit|the fit has the int 1"):
        fit.predict(table.assign(S=["1", "2"], D=[1, 1]))


def test_a_part_of_the_scale_that_is_almost_zero_spoils_no_draw(fit: jn.Fit) -> None:
    """With a standard error of 3000 of log b, the draws of all others are those given b."""
    info = fit.information
    position = int(np.flatnonzero(info.active == len(fit.params.pack()) - 1)[0])
    matrix = info.matrix.copy()
    others = np.arange(len(matrix)) != position
    matrix[position, others] = matrix[others, position] = 0.0
    matrix[position, position] = 1e-7
    wide = dataclasses.replace(fit, information=dataclasses.replace(info, matrix=matrix))
    with pytest.warns(UserWarning, match="do not determine b .*held at its estimate"):
        packed, redrawn = parameter_draws(wide, 4000, 1, "a test")
    assert redrawn == 0
    assert (packed[:, -1] == fit.params.pack()[-1]).all()
    given = np.linalg.inv(matrix[np.ix_(others, others)])
    active = info.active[others]
    # 4,000 draws: a relative Monte Carlo error of 2.2% of a variance.
    assert packed[:, active].var(axis=0, ddof=1) == pytest.approx(np.diag(given), rel=0.1)
    names = [wide.binding.density.beta_names[0], "b"]
    with pytest.warns(UserWarning, match="fit.derive: the data do not determine b .*held at its estimate"):
        derived = wide.derive({name: lambda p, name=name: p[name] for name in names}, method="draws", draws=4000)
    assert np.isfinite(derived.draws).all()
    assert derived.draws[:, 0].std() > 0
    assert np.ptp(derived.draws[:, 1]) == 0.0
