"""`estimate`, the fit as a pure function: fits under vmap equal single fits; one compilation serves many data sets."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators import catalogue

START = {"Asym": 192.0, "xmid": 728.0, "scal": 356.0}


@functools.cache
def orange():
    """Logistic growth of five trees, with a start for every parameter, packed."""
    parameters = [
        jn.Parameter(name, value, random=name == "Asym", sd=30.0 if name == "Asym" else None)
        for name, value in START.items()
    ]
    model = jn.NLMEModel(catalogue.sslogis, parameters, error=jn.error.constant(10.0))
    data = catalogue.data("Orange")
    return model, data, jax.tree.map(jnp.asarray, model.params(data))


@functools.cache
def batched_estimate():
    """One program: fits over starts and weights."""
    model, data, start = orange()
    problem = jax.tree.map(jnp.asarray, jn.bind(model, data).problem)

    def estimate(packed, weights):
        return jn.estimate(None, start.unpack(packed), problem, "focei", weights)

    return jax.jit(jax.vmap(estimate))


def test_batched_fits_are_single_fits():
    model, data, start = orange()
    weights = np.array([[1.0] * 5, [2, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 3, 1, 1, 0], [1.0] * 5])
    starts = np.tile(np.asarray(start.pack()), (5, 1))
    starts[4] *= [1.4, 0.75, 1.3, 1.1, 1.2]
    out = batched_estimate()(jnp.asarray(starts), jnp.asarray(weights))
    assert out.ended.all()
    for k in range(5):
        single = jn.fit(model, data.with_weights(weights[k]), "focei")
        assert single.converged
        assert out.log_likelihood[k] == pytest.approx(single.log_likelihood, abs=1e-6)
        packed = np.asarray(jax.tree.map(lambda leaf, k=k: leaf[k], out.params).pack())
        error = np.abs(packed - single.params.pack()) / np.sqrt(np.diag(single.information.covariance))
        assert error.max() < 2e-3
        used = weights[k] > 0
        np.testing.assert_allclose(out.modes[k][used], single.modes[used], atol=2e-3)
    assert out.log_likelihood[4] == pytest.approx(float(out.log_likelihood[0]), abs=1e-6)


def test_a_fit_that_diverges_affects_no_other():
    _, _, start = orange()
    starts = np.tile(np.asarray(start.pack()), (5, 1))
    starts[1, 0] = np.nan
    starts[3, 2] = 1e-3
    weights = jnp.ones((5, 5))
    out = batched_estimate()(jnp.asarray(starts), weights)
    good = batched_estimate()(jnp.tile(start.pack(), (5, 1)), weights)
    for k in (0, 2, 4):
        assert out.ended[k]
        assert float(out.log_likelihood[k]) == float(good.log_likelihood[k])
        np.testing.assert_array_equal(out.params.beta[k], good.params.beta[k])
    assert not out.ended[1]


def test_the_best_of_several_starts_under_jit():
    """estimate composes: here a multi-start inside one jitted function, with its winner."""
    model, data, start = orange()

    @jax.jit
    def best(starts):
        out = jax.vmap(lambda packed: jn.estimate(model, start.unpack(packed), data))(starts)
        return out.log_likelihood, jnp.argmax(jnp.where(out.ended, out.log_likelihood, -jnp.inf))

    values, winner = best(start.pack()[None, :] * jnp.array([[1.0], [0.9], [1.1]]))
    assert float(values[winner]) == pytest.approx(-131.571885, abs=1e-5)


def test_estimate_keeps_what_the_model_fixes():
    parameters = [jn.Parameter("Asym", 192.0, random=True, sd=30.0), jn.Parameter("xmid", 700.0, fix=True)]
    model = jn.NLMEModel(catalogue.sslogis, [*parameters, jn.Parameter("scal", 356.0)], error=jn.error.constant(10.0))
    out = eqx.filter_jit(jn.estimate)(model, model.params(catalogue.data("Orange")), catalogue.data("Orange"))
    assert out.ended
    assert float(out.params.beta[1]) == 700.0
    fit = jn.fit(model, catalogue.data("Orange"))
    assert float(out.log_likelihood) == pytest.approx(fit.log_likelihood, abs=1e-6)


def simulated(seed, groups=30):
    """y = Asym_i / (1 + exp((xmid - t) / scal)) + e, Asym_i ~ N(10, 2^2), seven times."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 12.0, 7)
    f = (10.0 + 2.0 * rng.normal(size=(groups, 1))) / (1.0 + np.exp((5.0 - t) / 1.5))
    y = f + 0.4 * rng.normal(size=f.shape)
    return jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(groups), 7), {"t": np.tile(t, groups)})


TRUTH = {"Asym": 10.0, "xmid": 5.0, "scal": 1.5, "sd(Asym)": 2.0, "a": 0.4}


def test_a_simulated_truth_is_recovered():
    """20 data sets in one program; the mean of each estimate is within Monte Carlo error of the truth."""
    parameters = [jn.Parameter("Asym", 8.0, random=True), jn.Parameter("xmid", 4.0), jn.Parameter("scal", 1.0)]
    model = jn.NLMEModel(catalogue.sslogis, parameters)
    first = simulated(0)
    problem = jax.tree.map(jnp.asarray, jn.bind(model, first).problem)
    start = model.params(first)

    def per_data_set(y):
        return jn.estimate(None, start, eqx.tree_at(lambda p: p.buckets[0].y, problem, y), "focei")

    out = jax.jit(jax.vmap(per_data_set))(jnp.stack([jnp.asarray(simulated(seed).y) for seed in range(20)]))
    assert out.ended.all()
    values = [model.values(jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), out.params), first) for k in range(20)]
    for name, truth in TRUTH.items():
        estimates = np.array([v[name] for v in values])
        error = estimates.std(ddof=1) / np.sqrt(20)
        # Maximum likelihood underestimates a variance of 30 groups by a factor 29/30.
        bias = -2.0 / 60 if name == "sd(Asym)" else 0.0
        assert abs(estimates.mean() - truth - bias) < 3.5 * error, name
        assert estimates.std() < 0.2 * truth
    # And the standard errors of one of them are of the size of that spread.
    fit = jn.fit(model, first, "focei")
    assert fit.values["Asym"] == pytest.approx(values[0]["Asym"], rel=1e-4)
    for name in ("xmid", "scal", "a", "sd(Asym)"):
        spread = np.std([v[name] for v in values], ddof=1)
        assert 0.5 < fit.estimates.se[name] / spread < 2.0, name


def traced(phi, x):
    return phi.Asym / (1.0 + jnp.exp((phi.xmid - x.t) / phi.scal))


def test_other_data_of_the_same_shape_compile_nothing():
    """Neither does another start, weights, or a second fit: everything but the shape is traced."""
    parameters = [jn.Parameter("Asym", 8.0, random=True), jn.Parameter("xmid", 4.0), jn.Parameter("scal", 1.0)]
    model = jn.NLMEModel(traced, parameters)
    jn.fit(model, simulated(1), "focei").estimates  # noqa: B018
    compilations = []

    def count_compilation(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    calls = []
    again = jn.NLMEModel(traced, [jn.Parameter("Asym", 9.0, random=True), *parameters[1:]])
    jax.monitoring.register_event_duration_secs_listener(count_compilation)
    try:
        jn.fit(model, simulated(2), "focei", callbacks=[lambda iteration: calls.append(iteration.iteration)])
        jn.fit(model, simulated(3).with_weights(np.arange(30.0)), "focei", start={"xmid": 6.0}, tolerance=1e-8)
        jn.fit(again, simulated(4), jn.FOCEI(mode_steps=50)).estimates  # noqa: B018
    finally:
        jax.monitoring.unregister_event_duration_listener(count_compilation)
    assert calls
    assert len(compilations) == 0


def test_the_model_is_traced_once_a_program():
    """A fit traces f in few places: each of its programs once."""
    count = []

    def counted(phi, x):
        count.append(1)
        return traced(phi, x)

    parameters = [jn.Parameter("Asym", 8.0, random=True), jn.Parameter("xmid", 4.0), jn.Parameter("scal", 1.0)]
    model = jn.NLMEModel(counted, parameters)
    jn.fit(model, simulated(5), "focei")
    first = len(count)
    jn.fit(model, simulated(6), "focei")
    # The dry run checks the shapes for every data set, which costs a few traces and no compilation.
    assert len(count) - first <= 3
    assert first <= 40


def theophylline(**options):
    """One compartment with doses in mg/kg, where the standard deviation of log ke is estimated as zero."""

    def f(phi, x):
        scale = x.Dose * phi.ka * phi.ke / (phi.cl * (phi.ka - phi.ke))
        return scale * (jnp.exp(-phi.ke * x.Time) - jnp.exp(-phi.ka * x.Time))

    starts = {"ka": 1.6, "cl": 0.04, "ke": 0.085}
    parameters = [jn.Parameter(name, value, "log", random=True) for name, value in starts.items()]
    return jn.NLMEModel(f, parameters, **options)


def loglogistic(**options):
    """Growth of the orange trees, whose maximum is inside."""
    return jn.NLMEModel(
        catalogue.sslogis,
        [
            jn.Parameter(name, value, random=name == "Asym", sd=30.0 if name == "Asym" else None)
            for name, value in START.items()
        ],
        **options,
    )


@pytest.mark.parametrize("boundary", [False, True], ids=["inside", "at the boundary"])
def test_the_derivative_of_an_estimate(boundary):
    """In the weight of a group, a response, a prior's scale and a fixed value, at once, by the implicit theorem and by
    differences of whole fits."""
    if boundary:
        data = jn.GroupedData.from_frame(jn.datasets.theophylline(), group="Subject", y="conc", x=["Time", "Dose"])
        model = theophylline(priors={"ka": jn.priors.Normal(0.4, 0.5)})
        fixed = {"a": 0.7}
    else:
        data, model = catalogue.data("Orange"), loglogistic(priors={"xmid": jn.priors.Normal(700.0, 40.0)})
        fixed = {"a": 8.0}
    binding = jn.bind(model, data)
    start = jax.tree.map(jnp.asarray, model.params(data, fixed))
    problem = jax.tree.map(jnp.asarray, binding.problem)
    size = start.pack().shape[0]
    held = jnp.arange(size) == size - 1  # the residual standard deviation
    step = 1e-2

    def moved(t):
        group = problem.buckets[0]
        bucket = eqx.tree_at(lambda g: g.y, group, group.y.at[0, 3].add(0.3 * t[1]))
        at = eqx.tree_at(lambda p: (p.buckets, p.weights), problem, ((bucket,), problem.weights.at[2].add(t[0])))
        at = eqx.tree_at(
            lambda p: p.density.prior_densities[0].sd, at, at.density.prior_densities[0].sd * jnp.exp(2.0 * t[2])
        )
        params = eqx.tree_at(lambda p: p.error, start, start.error + 2.0 * t[3])
        return jn.estimate(None, params, at, "focei", fixed=held, tolerance=1e-14)

    here = jax.jit(moved)(jnp.zeros(4))
    names = np.arange(size)[np.asarray(here.at_boundary)]
    assert names.tolist() == ([5] if boundary else [])
    exact = np.asarray(jax.jit(jax.jacfwd(lambda t: moved(t).params.pack()))(jnp.zeros(4)))
    restart = eqx.filter_jit(lambda t: moved(t).params.pack())
    # Central differences of fourth order; each fit ends within 1.4e-7 standard errors of its maximum.
    weights = {-2: 1.0, -1: -8.0, 1: 8.0, 2: -1.0}
    differences = np.stack(
        [sum(w * restart(k * step * axis) for k, w in weights.items()) / (12 * step) for axis in np.eye(4)], axis=1
    )
    inside = ~np.asarray(here.at_boundary)
    assert np.isfinite(exact).all()
    assert (exact[~inside] == 0.0).all()
    assert (np.abs(exact[inside]).max(axis=0) > 1e-4).all()
    scale = np.abs(differences[inside]).max(axis=0)
    np.testing.assert_allclose(exact[inside] / scale, differences[inside] / scale, rtol=1e-5, atol=1e-5)


def test_derivatives_of_many_weights_by_conjugate_gradients(monkeypatch):
    """The same derivative by differences of the gradient and by conjugate gradients."""
    from jaxnlme.estimators.marginal import estimate as module

    data, model = catalogue.data("Orange"), loglogistic()
    start, problem = jax.tree.map(jnp.asarray, (model.params(data), jn.bind(model, data).problem))

    def jacobian():
        fn = lambda weights: jn.estimate(None, start, problem, "focei", weights, tolerance=1e-14).params.pack()  # noqa: E731
        return np.asarray(jax.jit(jax.jacfwd(fn))(jnp.ones(5)))

    differenced = jacobian()
    monkeypatch.setattr(module, "ESTIMATE", dataclasses.replace(module.ESTIMATE, most_differenced=0))
    np.testing.assert_allclose(jacobian(), differenced, rtol=1e-6, atol=1e-7 * np.abs(differenced).max())
