"""Values held fixed in `fit.update`, in saved fits and in refits."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.core.model_digest import binding_digest
from jaxnlme.fitting.model_changes import ModelChange
from tests.estimators import catalogue
from tests.refits.conftest import lines


def model(**options: object) -> jn.NLMEModel:
    parameters = [
        jn.Parameter("mu", 1.0, random=True, sd=options.pop("sd_mu", None)),
        jn.Parameter("slope", 0.5, random=True),
    ]
    return jn.NLMEModel(catalogue.line, parameters, options.pop("covariance", "full"), **options)


@functools.cache
def free() -> jn.Fit:
    return jn.fit(model(), lines(), "focei").throw()


def changed(fit: jn.Fit, **options: object) -> jn.NLMEModel:
    """The model of an update, without a fit."""
    change = ModelChange(fit)
    change.drop([options.pop("drop")] if "drop" in options else [])
    change.hold(options.pop("fixed", {}))
    return change.model(options.pop("covariance", None), options.pop("error", None))


def with_model(fit: jn.Fit, model: jn.NLMEModel) -> jn.Fit:
    """`fit` with another model at its starting values, in the place of a fit."""
    binding = jn.bind(model, fit.data)
    return dataclasses.replace(fit, binding=binding, params=binding.start)


def test_updates_hold_and_release() -> None:
    fit = free()
    held = changed(fit, fixed={"sd(mu)": 0.8, "a": 0.5})
    assert held.fixed == {"sd(mu)": 0.8, "a": 0.5}
    at_estimates = changed(fit, fixed=["corr(mu, slope)", "slope"])
    assert at_estimates.fixed == {name: fit.values[name] for name in ("corr(mu, slope)", "slope")}
    again = with_model(fit, model(fixed={"sd(mu)": 0.8, "corr(mu, slope)": 0.1}, error=jn.error.constant(fix=0.4)))
    assert changed(again).fixed == again.model.fixed
    assert changed(again).error.parameters[0].fix
    assert changed(again, fixed={"sd(mu)": None}).fixed == {"corr(mu, slope)": 0.1}
    assert changed(again, drop="mu").fixed == {}
    assert not changed(again, fixed={"a": None}).error.parameters[0].fix
    moved = changed(again, fixed={"a": 0.6})
    assert jn.bind(moved, fit.data).values(jn.bind(moved, fit.data).start)["a"] == pytest.approx(0.6)
    by_parameter = with_model(fit, model(sd_mu=jn.fixed(0.8)))
    assert changed(by_parameter, fixed={"sd(mu)": None}).parameters[0].sd == 0.8
    assert jn.bind(changed(by_parameter, fixed={"sd(mu)": 0.9}), fit.data).held == {"sd(mu)": 0.9}
    with pytest.raises(jn.OptionError, match=r"fixed: 'sd\(m\)' is not a value of this fit; did you mean 'sd\(mu\)'"):
        fit.update(fixed={"sd(m)": 1.0})
    without = with_model(fit, model(sd_mu=0))
    assert [p.random for p in changed(without).parameters] == [False, True]


def test_an_update_fits_with_the_value_held() -> None:
    held = free().update(fixed={"sd(mu)": 0.8}).throw()
    afresh = jn.fit(model(fixed={"sd(mu)": 0.8}), lines(), "focei")
    assert held.values["sd(mu)"] == pytest.approx(0.8, rel=1e-12)
    assert held.log_likelihood == pytest.approx(afresh.log_likelihood, abs=1e-6)
    back = held.update(fixed={"sd(mu)": None})
    assert back.log_likelihood == pytest.approx(free().log_likelihood, abs=1e-6)


def test_files_keep_what_is_held(tmp_path: Path) -> None:
    held = with_model(free(), model(fixed={"sd(mu)": 0.8, "a": 0.5}))
    held.save(tmp_path / "fit")
    loaded = jn.load(tmp_path / "fit", model=model(fixed={"sd(mu)": 0.8, "a": 0.5}))
    assert loaded.values == held.values
    assert loaded.binding.held == {"sd(mu)": 0.8, "a": 0.5}
    assert jn.load(tmp_path / "fit", trust_code=True).binding.held == held.binding.held
    assert jn.load(tmp_path / "fit").estimates.loc["a", "fixed"]
    for others in ({"sd(mu)": 0.8, "a": 0.6}, {"sd(mu)": 0.9, "a": 0.5}, {"corr(mu, slope)": 0.8, "a": 0.5}, {}):
        with pytest.raises(jn.OptionError, match="holds a fit of another model"):
            jn.load(tmp_path / "fit", model=model(fixed=others))


def test_the_digest_knows_the_values() -> None:
    def digest(**fixed: float) -> str:
        names = {"mu": "mu", "sd": "sd(mu)", "corr": "corr(mu, slope)", "a": "a"}
        return binding_digest(jn.bind(model(fixed={names[n]: v for n, v in fixed.items()}), lines()))

    different = [{}, {"sd": 0.5}, {"sd": 0.6}, {"corr": 0.5}, {"a": 0.5}, {"a": 0.6}, {"mu": 0.5}, {"mu": 0.6}]
    assert len({digest(**fixed) for fixed in different}) == len(different)
    assert digest(sd=0.5) == digest(sd=0.5)


def test_refits_keep_what_is_held() -> None:
    fit = jn.fit(model(fixed={"corr(mu, slope)": 0.2, "a": 0.4}), lines(), "focei").throw()
    profile = fit.profile(["sd(mu)"])
    limit = float(profile.intervals.loc["sd(mu)", "upper"])
    there = jn.fit(model(fixed={"corr(mu, slope)": 0.2, "a": 0.4, "sd(mu)": limit}), lines(), "focei").throw()
    assert 2.0 * (fit.log_likelihood - there.log_likelihood) == pytest.approx(3.8415, abs=1e-3)
    for name in ("corr(mu, slope)", "a"):
        with pytest.raises(jn.OptionError, match="is fixed, so it has no profile"):
            fit.profile(name)
    values = fit.bootstrap(4, seed=1).replicates
    assert values["corr(mu, slope)"].to_numpy() == pytest.approx(0.2, rel=1e-12)
    assert values["a"].to_numpy() == pytest.approx(0.4, rel=1e-12)
    assert values["sd(mu)"].std() > 0.01


def test_the_profile_of_a_correlation_beside_a_held_sd() -> None:
    fit = jn.fit(model(fixed={"sd(slope)": 0.4}), lines(), "focei").throw()
    intervals = fit.profile(["corr(mu, slope)", "sd(mu)", "mu"]).intervals
    assert list(intervals.index) == ["corr(mu, slope)", "sd(mu)", "mu"]
    for name in ("corr(mu, slope)", "sd(mu)"):
        limit = float(intervals.loc[name, "lower"])
        there = jn.fit(model(fixed={"sd(slope)": 0.4, name: limit}), lines(), "focei").throw()
        assert 2.0 * (fit.log_likelihood - there.log_likelihood) == pytest.approx(3.8415, abs=1e-3)
        assert np.isfinite(intervals.loc[name, "upper"])


@pytest.mark.parametrize("declared", ["sd", "fixed"])
def test_an_effect_held_at_zero_is_released(declared: str) -> None:
    """The model is fitted without the effect, which an update brings back."""
    options = {"sd_mu": 0.0} if declared == "sd" else {"fixed": {"sd(mu)": 0.0}}
    without = jn.fit(model(covariance="diagonal", **options), lines(), "focei", standard_errors=False)
    assert "sd(mu)" not in without.values
    released = without.update(fixed={"sd(mu)": None}, standard_errors=False).throw()
    full = jn.fit(model(covariance="diagonal"), lines(), "focei", standard_errors=False).throw()
    assert released.log_likelihood == pytest.approx(full.log_likelihood, abs=1e-5)
    assert released.values["sd(mu)"] == pytest.approx(full.values["sd(mu)"], rel=1e-3)
    assert full.log_likelihood > without.log_likelihood + 1.0
    held = changed(without, fixed={"sd(mu)": 0.3})
    assert jn.bind(held, without.data).held == {"sd(mu)": 0.3}
    assert "sd(mu)" not in jn.bind(changed(without, fixed={"sd(mu)": 0.0}), without.data).density.reported_names
