"""Residual families by name: derivatives at a prediction of zero, formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.model.residual_error.base import GaussianError


def oral(phi, x, v):
    """One compartment with first-order absorption: exactly zero at the dose."""
    ke = phi.cl / phi.v
    return x.Dose * phi.ka / (phi.v * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


@pytest.mark.parametrize(
    "error", [jn.error.power(0.2, 1.5), jn.error.constant_power(0.1, 0.2, 0.7)], ids=lambda e: e.name
)
def test_powers_have_finite_derivatives_at_zero(error: GaussianError) -> None:
    start = jnp.array([float(p.start) for p in error.parameters])

    def total(f, values):
        return jnp.sum(error.scale(f, *values) * jnp.array([1.0, 2.0, 3.0]))

    f = jnp.array([0.0, -2.0, 3.0])
    first = jax.grad(total, argnums=(0, 1))(f, start)
    second = jax.hessian(total, argnums=(0, 1))(f, start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first, second)))
    # derivatives for the other rows do not depend on the row of zero
    b, c = float(start[-2]), float(start[-1])
    assert first[0].tolist() == pytest.approx([0.0, -2 * b * c * 2.0 ** (c - 1), 3 * b * c * 3.0 ** (c - 1)])
    assert float(first[1][-1]) == pytest.approx(b * (2 * 2.0**c * np.log(2.0) + 3 * 3.0**c * np.log(3.0)))


def test_constant_plus_power_with_predictions_of_zero() -> None:
    data = jn.GroupedData.from_frame(jn.datasets.theophylline(), "Subject", "conc", ["Time", "Dose"])
    parameters = [
        jn.Parameter("ka", 1.5, "log", random=True),
        jn.Parameter("cl", 0.04, "log"),
        jn.Parameter("v", 0.5, "log"),
    ]
    model = jn.NLMEModel(oral, parameters, error=jn.error.constant_power(0.3, 0.1, 0.8))
    params = jax.tree.map(jnp.asarray, model.params(data))
    slope = jax.jit(jax.grad(lambda p: jnp.sum(jn.group_log_likelihoods(model, p, data, "focei"))))(params)
    assert np.isfinite(slope.pack()).all()
    assert np.abs(slope.pack()).max() > 0


def test_formula_of_a_transformed_scale() -> None:
    def half_of(f, a):
        return a * jnp.exp(-f)

    error = jn.error.transform_both_sides("log", jn.error.custom(half_of, {"a": 1.0}), of_transformed=True)
    assert error.sd_formula == "half_of"
    error = jn.error.transform_both_sides("log", "combined", of_transformed=True)
    assert error.sd_formula == "a + b |h(f)|"


def early_and_late(f, x, a, b):
    return jnp.where(x.late > 0.5, b, a)


def line(phi, x):
    return phi.mu + phi.slope * x.t


def test_a_scale_of_the_predictors_is_that_of_their_strata() -> None:
    """Two standard deviations chosen by a column: as a function of x, and by the strata of a text column."""
    rng = np.random.default_rng(0)
    group, t = np.repeat(np.arange(4), 6), np.tile(np.arange(6.0), 4)
    columns = {"g": group, "t": t, "late": (t > 2).astype(float), "part": np.where(t > 2, "late", "early")}
    columns["y"] = 2.0 + rng.normal(size=4)[group] + 0.5 * t + np.where(t > 2, 0.8, 0.2) * rng.normal(size=24)
    data = jn.GroupedData.from_frame(columns, "g", "y", ["t", "late", "part"])
    parameters = [jn.Parameter("mu", 2.0, random=True), jn.Parameter("slope", 0.5)]
    parts = [jn.ErrorParameter("a", 0.3, "log"), jn.ErrorParameter("b", 0.6, "log", fix=True)]
    by_x = jn.NLMEModel(line, parameters, error=jn.error.custom(early_and_late, parts))
    by_part = jn.NLMEModel(line, parameters, error=jn.error.constant(by="part"))
    params = by_x.params(data)
    strata = {"a[early]": 0.3, "a[late]": 0.6}
    assert by_part.params(data, strata).error.tolist() == pytest.approx(params.error.tolist())
    bindings = [jn.bind(model, data) for model in (by_x, by_part)]
    values = []
    for binding in bindings:
        group = jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), binding.problem.buckets[0])
        values.append(float(binding.density.log_joint(params, jnp.zeros(1) + 0.4, group)))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    draws = [jn.simulate_responses(binding.problem, params, jax.random.key(1))[0] for binding in bindings]
    np.testing.assert_allclose(draws[0], draws[1], rtol=1e-12)
    assert bindings[0].fixed.tolist()[-2:] == [False, True]


def test_representation_of_a_model() -> None:
    parameters = [
        jn.Parameter("ka", 1.5, "log", random=True, covariates="log(Wt / 70)"),
        jn.Parameter("cl", 0.04, "log", random=True),
        jn.Parameter("v", 0.5, fix=True),
    ]
    assert repr(jn.NLMEModel(oral, parameters, "full", "combined")).splitlines() == [
        "NLMEModel: oral, y = f + (a + b |f|) e",
        "  ka = 1.5, log, random ~ 1 + log(Wt / 70)",
        "  cl = 0.04, log, random",
        "  v = 0.5, fixed",
        "  covariance of the random effects: full",
    ]
    assert repr(jn.NLMEModel(oral, {"ka": 1.5}, random_design=[[1.0]])).splitlines()[1:] == [
        "  ka = 1.5",
        "  random_design: shape (1, 1)",
        "  covariance of the random effects: diagonal",
    ]
    # With a fixed design the starting values are those of beta.
    parameters = [jn.Parameter("ka", 1.0, "log", random=True), jn.Parameter("cl", 1.0)]
    assert repr(jn.NLMEModel(oral, parameters, fixed_design=np.eye(2), beta=[0.4, -3.2])).splitlines()[1:] == [
        "  ka, log, random",
        "  cl",
        "  fixed_design: shape (2, 2), beta starts at 0.4, -3.2",
        "  covariance of the random effects: diagonal",
    ]
