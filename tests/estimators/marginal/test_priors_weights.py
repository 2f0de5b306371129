"""Priors, fixed parameters, group weights, and invariance to the order of groups, the unit of y and padding."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxnlme as jn
from tests.estimators import catalogue

START = {"Asym": 192.0, "xmid": 728.0, "scal": 356.0}


def logistic(**changes):
    parameters = [jn.Parameter(name, value, random=name == "Asym") for name, value in START.items()]
    return jn.NLMEModel(catalogue.sslogis, parameters, **changes)


@functools.cache
def plain():
    return jn.fit(logistic(), catalogue.data("Orange"), "focei")


def same(fit, expected, rel=1e-5):
    assert fit.converged, fit.status
    assert fit.values.keys() == expected.values.keys()
    for name, value in expected.values.items():
        assert fit.values[name] == pytest.approx(value, rel=rel), name


def test_a_prior_pulls_and_ends_at_the_penalised_maximum():
    data = catalogue.data("Orange")
    priors = {"xmid": jn.priors.Normal(600.0, 20.0), "sd(Asym)": jn.priors.LogNormal(20.0, 0.2)}
    fit = jn.fit(logistic(priors=priors), data, "focei")
    assert fit.converged, fit.status
    assert 600.0 < fit.values["xmid"] < plain().values["xmid"] - 20.0
    assert fit.values["sd(Asym)"] < plain().values["sd(Asym)"] - 2.0

    # The same penalised objective by scipy, with the densities written out.
    problem = fit.binding.problem
    template = jax.tree.map(jnp.asarray, fit.params)

    @jax.jit
    def penalised(u):
        packed = u.at[:3].multiply(100.0)
        xmid, log_sd = packed[1], packed[3]
        prior = -0.5 * ((xmid - 600.0) / 20.0) ** 2 - 0.5 * ((log_sd - jnp.log(20.0)) / 0.2) ** 2 - log_sd
        return -jn.log_likelihood(None, template.unpack(packed), problem, "focei") - prior

    start = np.array([1.9, 7.2, 3.5, 3.4, 2.1])
    value = jax.jit(jax.value_and_grad(penalised))
    best = minimize(lambda u: [np.asarray(v) for v in value(jnp.asarray(u))], start, jac=True, options={"gtol": 1e-7})
    np.testing.assert_allclose(fit.params.pack(), best.x * np.array([100.0, 100.0, 100.0, 1.0, 1.0]), rtol=1e-5)
    constants = -2 * 0.5 * np.log(2 * np.pi) - np.log(20.0) - np.log(0.2)
    assert fit.log_likelihood + fit.log_prior == pytest.approx(-best.fun + constants, abs=1e-6)


def test_a_prior_on_a_parameter_is_the_same_as_one_by_name():
    parameters = [
        jn.Parameter("Asym", 192.0, random=True),
        jn.Parameter("xmid", 728.0, prior=jn.priors.Normal(600.0, 20.0)),
        jn.Parameter("scal", 356.0),
    ]
    on_parameter = jn.fit(jn.NLMEModel(catalogue.sslogis, parameters), catalogue.data("Orange"), "focei")
    by_name = jn.fit(logistic(priors={"xmid": jn.priors.Normal(600.0, 20.0)}), catalogue.data("Orange"), "focei")
    same(on_parameter, by_name)
    assert 600.0 < on_parameter.values["xmid"] < plain().values["xmid"] - 20.0


def test_fixed_parameters_stay_and_are_not_counted():
    parameters = [
        jn.Parameter("Asym", 192.0, random=True, sd=25.0),
        jn.Parameter("xmid", 700.0, fix=True),
        jn.Parameter("scal", 356.0),
    ]
    model = jn.NLMEModel(catalogue.sslogis, parameters, psi=[[625.0]], fix_psi=True)
    fit = jn.fit(model, catalogue.data("Orange"), "focei")
    assert fit.converged, fit.status
    assert fit.values["xmid"] == 700.0 and fit.values["sd(Asym)"] == pytest.approx(25.0, rel=1e-12)
    assert fit.log_likelihood < plain().log_likelihood - 0.1
    assert fit.criteria.n_parameters == plain().criteria.n_parameters - 2 == 3
    table = fit.estimates
    assert table.fixed.tolist() == [False, True, False, True, False]
    assert table.se.isna().tolist() == [False, True, False, True, False]
    # Freed at the other fit's values, it is that fit again.
    same(jn.fit(logistic(), catalogue.data("Orange"), "focei", start=fit.values), plain())


def relabelled(frame, repeats):
    """Orange trees with tree k repeated `repeats[k]` times under new labels."""
    import pandas as pd

    parts = []
    for tree, count in repeats.items():
        parts += [frame[frame.Tree == tree].assign(Tree=f"{tree}-{k}") for k in range(count)]
    return jn.GroupedData.from_frame(pd.concat(parts).rename(columns={"age": "t"}), "Tree", "circumference", "t")


def test_weights_repeat_and_delete_groups():
    frame = catalogue.table("Orange")
    trees = list(dict.fromkeys(frame.Tree))
    for weights in ([2.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 3.0, 1.0, 1.0, 0.0]):
        repeats = {tree: int(w) for tree, w in zip(trees, weights, strict=True)}
        weighted = jn.fit(logistic(), catalogue.data("Orange").with_weights(weights), "focei")
        repeated = jn.fit(logistic(), relabelled(frame, repeats), "focei")
        same(weighted, repeated)
        assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, abs=1e-6)
        np.testing.assert_allclose(weighted.estimates.se, repeated.estimates.se, rtol=1e-3)


def test_order_of_groups_and_rows_and_padding_do_not_matter():
    frame = catalogue.table("Orange").rename(columns={"age": "t"})
    shuffled = frame.sample(frac=1.0, random_state=4)
    fit = jn.fit(logistic(), jn.GroupedData.from_frame(shuffled, "Tree", "circumference", "t"), "focei")
    same(fit, plain(), rel=1e-6)
    assert fit.log_likelihood == pytest.approx(plain().log_likelihood, abs=1e-8)
    shuffled_effects, effects = fit.random_effects["Asym"], plain().random_effects["Asym"]
    np.testing.assert_allclose(shuffled_effects.loc[effects.index], effects, rtol=1e-5)
    padded = jn.fit(logistic(), catalogue.data("Orange").pad_to(11), "focei")
    same(padded, plain(), rel=1e-6)


def test_the_unit_of_y_does_not_matter():
    frame = catalogue.table("Orange").rename(columns={"age": "t"})
    for unit in (1e-4, 1e3):
        scaled = jn.GroupedData.from_frame(frame.assign(y=frame.circumference * unit), "Tree", "y", "t")
        parameters = [jn.Parameter("Asym", 192.0 * unit, random=True), jn.Parameter("xmid", 728.0)]
        fit = jn.fit(jn.NLMEModel(catalogue.sslogis, [*parameters, jn.Parameter("scal", 356.0)]), scaled, "focei")
        assert fit.converged, fit.status
        assert fit.log_likelihood + 35 * np.log(unit) == pytest.approx(plain().log_likelihood, abs=1e-6)
        for name, value in plain().values.items():
            scale = unit if name in ("Asym", "sd(Asym)", "a") else 1.0
            assert fit.values[name] == pytest.approx(value * scale, rel=1e-4), name
        # The iterations are the same too: residual scales start from the misfit, steps from the scores.
        assert abs(len(fit.history) - len(plain().history)) <= 3


def test_pooled_starts_and_chains_of_methods():
    far = {"Asym": 60.0, "xmid": 2000.0, "scal": 900.0}
    pooled = jn.fit(logistic(), catalogue.data("Orange"), "focei", start=far, starts="pooled")
    same(pooled, plain())
    # Already close: the pooled fit gives the curve, without the differences between trees.
    assert pooled.history[0]["log_likelihood"] > plain().log_likelihood - 40
    chain = jn.fit(logistic(), catalogue.data("Orange"), ["fo", "focei"])
    same(chain, plain())
    assert chain.method == "FOCEI"
    first = jn.fit(logistic(), catalogue.data("Orange"), "fo")
    assert first.converged and chain.history[0]["log_likelihood"] > plain().history[0]["log_likelihood"] + 1
