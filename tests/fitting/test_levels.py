"""Nested levels for users: updates level by level, tables by unit, notes, curves, parameters of units without effects.

Updates look at the arguments with which `fit` is called, as in test_update.py."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.data.grouped import GroupedData
from tests.fitting.test_update import called  # noqa: F401  (a fixture)


def decay(phi, x):
    return 100.0 / phi.vol * jnp.exp(-phi.cl / phi.vol * x.hour)


def table(subjects=6, occasions=3) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    out = []
    for subject in range(subjects):
        b = 0.3 * rng.normal()
        for occasion in range(1, occasions + 1):
            cl = 1.6 * np.exp(b + 0.3 * rng.normal())
            out += [(subject, occasion, t, 12.5 * np.exp(-cl / 8 * t) + 0.3 * rng.normal()) for t in (0.5, 2.0, 5.0)]
    return pd.DataFrame(out, columns=["id", "occ", "hour", "conc"])


def nested(frame=None) -> GroupedData:
    return GroupedData.from_frame(table() if frame is None else frame, ["id", "occ"], "conc", ["hour"])


BOTH = {"id": "full", "occ": "diagonal"}


def model(covariance=BOTH, f=decay, **options) -> jn.NLMEModel:
    parameters = [
        jn.Parameter("cl", 1.6, "log", random=["id", "occ"], sd={"id": 0.3, "occ": 0.2}),
        jn.Parameter("vol", 8.0, "log", random=["id", "occ"], sd=jn.fixed(0.1)),
    ]
    return jn.NLMEModel(f, parameters, covariance, **options)


@pytest.fixture(scope="module")
def begun() -> jn.Fit:
    """A fit of no iterations: updates need values, whatever they are."""
    return jn.fit(model(), nested(), "fo", max_iterations=1, standard_errors=False)


def effects(update) -> tuple[str, ...]:
    return jn.bind(update.model, update.data).density.effect_names


def held(begun: jn.Fit, model: jn.NLMEModel) -> jn.Fit:
    binding = jn.bind(model, begun.data)
    return dataclasses.replace(begun, binding=binding, params=binding.params())


# --- updates ---


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize(
    ("dropped", "random"),
    [("cl|occ", ("id",)), ("cl", ("occ",)), (["cl", "cl|occ"], False)],
)
def test_dropping_an_effect_leaves_the_other_levels(begun, dropped, random):
    update = begun.update(drop=dropped)
    assert update.model.parameters[0].random == random
    names = [dropped] if isinstance(dropped, str) else dropped
    assert effects(update) == tuple(name for name in begun.binding.density.effect_names if name not in names)
    # psi of the effects that remain starts at the estimates, correlations of one level included.
    kept = [name for name in update.start if name.startswith(("sd(", "corr("))]
    assert kept and all(update.start[name] == pytest.approx(begun.values[name]) for name in kept)
    assert ("corr(cl, vol)" in kept) == ("cl" not in names)


@pytest.mark.usefixtures("called")
def test_random_lists_effects_by_level(begun):
    moved = begun.update(random=["cl", "vol|occ"])
    assert effects(moved) == ("cl", "vol|occ")
    assert moved.model.parameters[0].sd == {"id": 0.3} and moved.start["sd(cl)"] == pytest.approx(
        begun.values["sd(cl)"]
    )
    flat = held(
        begun, jn.NLMEModel(decay, [jn.Parameter("cl", 1.6, "log", random=True), jn.Parameter("vol", 8.0)], "full")
    )
    more = flat.update(random=["cl", "cl|occ", "vol|occ"])
    assert effects(more) == ("cl", "cl|occ", "vol|occ") and "sd(vol|occ)" in more.start
    with pytest.raises(jn.OptionError, match=r"random='cl.day' is no parameter or parameter.level of this model; did"):
        begun.update(random=["cl|day"])


@pytest.mark.usefixtures("called")
def test_covariance_psi_and_priors_by_level(begun):
    wider = begun.update(covariance={"occ": "full"})
    names = jn.bind(wider.model, wider.data).density.reported_names
    assert "corr(cl|occ, vol|occ)" in names and "corr(cl, vol)" not in names
    psi = {"id": np.diag([0.09, 0.01]), "occ": np.diag([0.04, 0.01])}
    priors = {"sd(cl|occ)": jn.priors.Gamma(2.0, 5.0), "corr(cl, vol)": jn.priors.Normal(0.0, 0.5)}
    fit = held(begun, model(psi=psi, priors=priors))
    fewer = fit.update(drop="vol|occ")
    assert fewer.model.psi["occ"] == pytest.approx(np.array([[0.04]])) and fewer.model.psi["id"].shape == (2, 2)
    assert set(fewer.model.priors) == set(priors)
    assert set(fit.update(drop="cl|occ").model.priors) == {"corr(cl, vol)"}
    assert set(fit.update(drop="vol").model.priors) == {"sd(cl|occ)"}


@pytest.mark.usefixtures("called")
def test_holding_and_releasing_by_level(begun):
    assert begun.update(fixed={"sd(cl|occ)": 0.25}).model.fixed == {"sd(cl|occ)": 0.25}
    released = begun.update(fixed={"sd(vol|occ)": None})
    sd = released.model.parameters[1].sd
    assert sd["occ"] == 0.1 and isinstance(sd["id"], type(jn.fixed(0.1)))
    assert "sd(vol|occ)" not in jn.bind(released.model, released.data).held


# --- notes, tables and curves ---


def test_times_are_compared_within_units():
    """Time that begins anew in each occasion is no mistake; within one occasion it is noted as before."""
    assert nested().notes == ()
    assert nested(table().sample(frac=1.0, random_state=3).sort_values("hour")).notes == ()
    frame = table()
    frame.loc[2, "hour"] = 0.1
    assert [note for note in nested(frame).notes if "not sorted within group 0;" in note]
    frame.loc[2, "hour"] = 2.0
    assert nested(frame).notes == ("x column 'hour' has repeated values within group 0 (replicates).",)
    uneven = table().drop(index=[0, 1])  # padding belongs to the last occasion
    assert nested(uneven).notes == ()


def test_parameters_have_a_row_for_each_unit(begun):
    by_subject, by_occasion = begun.parameters("id"), begun.parameters("occ")
    assert by_subject.shape == (6, 2) and by_occasion.shape == (18, 2)
    assert by_occasion.index.names == ["id", "occ"] and by_subject.index.name == "id"
    b, c = begun.random_effects["id"]["cl"], begun.random_effects["occ"]["cl|occ"]
    expected = begun.values["cl"] * np.exp(b.loc[2] + c.loc[2, 3])
    assert by_occasion.loc[(2, 3), "cl"] == pytest.approx(expected)
    assert by_subject.loc[2, "cl"] == pytest.approx(begun.values["cl"] * np.exp(b.loc[2]))
    # rounding: exp of the same number by two programs
    assert begun.parameters("population")["cl"].to_numpy() == pytest.approx(begun.values["cl"], rel=1e-14)
    new = {"id": [2, 2, 2], "occ": [3, 9, 9], "hour": [1.0, 1.0, 2.0]}
    tables = begun.parameters(data=new)
    assert list(tables.index) == [(2, 3), (2, 9)]
    assert tables["cl"].to_numpy() == pytest.approx([expected, by_subject.loc[2, "cl"]])


def test_a_table_to_predict_may_have_one_unit_of_each_group(begun):
    """In a table to fit such levels would be in the wrong order."""
    new = {"id": [0, 1, 2, 3], "occ": [1, 1, 2, 2], "hour": [2.0] * 4}
    known = begun.predict()[[3 * 3 * i + 3 * (o - 1) + 1 for i, o in zip(new["id"], new["occ"], strict=True)]]
    assert begun.predict(new).to_numpy() == pytest.approx(known.to_numpy())
    with pytest.raises(jn.DataError, match="list the outer level first"):
        nested(pd.DataFrame(new | {"conc": 1.0}))


def test_a_covariate_within_units_makes_rows(begun):
    parameters = [
        jn.Parameter("cl", 1.6, "log", random=["id", "occ"], covariates={"hour": 0.1}),
        jn.Parameter("vol", 8.0),
    ]
    fit = held(begun, jn.NLMEModel(decay, parameters))
    assert fit.parameters("population").shape == (54, 2)


def test_individual_fits_draw_a_curve_for_each_occasion(begun):
    axes = begun.plot.individual_fits(groups=[0, 1])
    curves = [line for line in axes[0].lines if line.get_label().startswith("individual")]
    assert [line.get_label() for line in curves] == [f"individual (occ {k})" for k in (1, 2, 3)]
    assert len({line.get_color() for line in curves}) == 3
    frame = table()
    frame["occ"] = frame["id"].astype(str) + "/" + frame["occ"].astype(str)  # 18 labels: none in the legend
    frame["hour"] += 24.0 * (frame.index // 3 % 3)
    fit = held(dataclasses.replace(begun, binding=jn.bind(model(), nested(frame))), model())
    curves = [line for line in fit.plot.individual_fits(groups=[0])[0].lines if line.get_label() == "individual"]
    # Each spans its own occasion.
    assert [(line.get_xdata().min(), line.get_xdata().max()) for line in curves] == [
        (0.5, 5.0),
        (24.5, 29.0),
        (48.5, 53.0),
    ]


def test_summary_counts_units(begun):
    assert "6 groups (id), 18 units inside (occ), 54 observations in 54 rows" in str(begun.summary())


# --- the model function ---


def test_parameters_of_units_without_their_random_effects():
    """phi.on works whatever levels have random effects."""

    def by_occasion(phi, x):
        assert not jnp.ndim(phi.on("occ").cl)  # one number in the group
        return decay(phi.on("occ"), x)

    parameters = [jn.Parameter("cl", 1.6, "log", random=True), jn.Parameter("vol", 8.0, "log")]
    asked, plain = (
        jn.fit(jn.NLMEModel(f, parameters), nested(), "focei", standard_errors=False) for f in (by_occasion, decay)
    )
    assert asked.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-8)
    assert jn.fit_groups(jn.NLMEModel(by_occasion, parameters), nested()).usable.any()


def test_sentences_where_levels_are_not_there():
    parameters = [jn.Parameter("cl", 1.6, "log", random=True), jn.Parameter("vol", 8.0, "log")]
    flat = GroupedData.from_frame(table(), "id", "conc", ["hour"])
    with pytest.raises(jn.ModelError, match="is there for data with nested levels"):
        jn.fit(jn.NLMEModel(lambda phi, x: phi.on("occ").cl * x.hour, parameters), flat)
    period = [jn.Parameter("cl", 1.6, "log", random=True, covariates=["C(occ)"]), parameters[1]]
    with pytest.raises(jn.ModelError, match="'occ' is no column or function; it holds labels of groups: list a copy"):
        jn.bind(jn.NLMEModel(decay, period), nested())


def test_a_level_with_one_unit_each_is_left_out():
    """With one occasion each the model is that without the level, and a note says so."""
    frame = table(occasions=1)
    data = nested(frame)
    assert any("every id has one occ" in note and "left out" in note for note in data.notes)
    of_groups = [
        jn.Parameter("cl", 1.6, "log", random=True, sd=0.3),
        jn.Parameter("vol", 8.0, "log", random="id", sd=0.1),
    ]
    plain = jn.NLMEModel(decay, of_groups, covariance="full")
    both = jn.NLMEModel(
        decay,
        [
            jn.Parameter("cl", 1.6, "log", random=["id", "occ"], sd={"id": 0.3, "occ": 0.2}),
            jn.Parameter("vol", 8.0, "log", random=["id", "occ"], sd=0.1),
        ],
        covariance={"id": "full", "occ": "diagonal"},
    )
    binding = jn.bind(both, data)
    assert binding.density.effect_names == ("cl", "vol")
    single = GroupedData.from_frame(frame, "id", "conc", ["hour"])
    values = [float(jn.log_likelihood(m, m.params(d), d, "fo")) for m, d in ((plain, single), (both, data))]
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    # A table to predict with one occasion of each subject keeps the effects of the fit.
    assert len(jn.bind(both, nested(frame), like=jn.bind(both, nested())).density.effect_names) == 4


def test_crossed_labels_are_noted():
    frame = table().assign(occ=lambda f: f["occ"].map({1: "red", 2: "blue", 3: "green"}))
    assert any("crossed" in note and "jn.lme('y ~ x + (1 | id) + (1 | occ)'" in note for note in nested(frame).notes)
    assert not any("crossed" in note for note in nested().notes)  # running numbers


def test_simulation_with_known_effects(fit_of_levels):
    """With all effects known only the residuals are drawn; with those of subjects known, occasions vary as well."""
    fit = fit_of_levels
    f, of_subject = fit.predict().to_numpy(), fit.predict(level="id").to_numpy()
    residual = fit.values["a"]
    known = fit.simulate(400, 1, level="group")
    # 400 draws: means within five standard errors
    assert np.abs(known.mean(axis=0) - f).max() < 5 * residual / 20
    partly = fit.simulate(400, 1, level="id")
    assert (partly.std(axis=0) > known.std(axis=0)).mean() > 0.7
    spread = partly.std(axis=0)
    assert np.abs(np.median(partly, axis=0) - of_subject).max() < 5 * 1.25 * spread.max() / 20
    with pytest.raises(jn.OptionError, match="level 'occc' is not known"):
        fit.simulate(1, level="occc")


@pytest.fixture(scope="module")
def fit_of_levels():
    parameters = [
        jn.Parameter("cl", 1.6, "log", random=["id", "occ"], sd=0.3),
        jn.Parameter("vol", 8.0, "log"),
    ]
    return jn.fit(jn.NLMEModel(decay, parameters), nested(), "focei", progress=False)


def test_predictions_where_an_inner_effect_is_held_at_zero():
    parameters = [
        jn.Parameter("cl", 1.6, "log", random=["id", "occ"], sd={"id": 0.3, "occ": 0}),
        jn.Parameter("vol", 8.0, "log"),
    ]
    fit = jn.fit(jn.NLMEModel(decay, parameters), nested(), "focei", progress=False)
    one = {"id": [1], "occ": [1], "hour": [2.0]}
    assert fit.predict(one).to_numpy() == pytest.approx(fit.predict(level="id").to_numpy()[10:11], rel=1e-9)
    assert fit.simulate(2, data=one).shape == (2, 1)
