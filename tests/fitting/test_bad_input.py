"""Errors found before iterating: each message names the problem and the remedy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.estimators import catalogue

PARAMETERS = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5)]


def frame(groups=4, rows=5):
    rng = np.random.default_rng(0)
    group, t = np.repeat(np.arange(groups), rows), np.tile(np.arange(float(rows)), groups)
    y = 2.0 + rng.normal(size=groups)[group] + 0.7 * t + 0.3 * rng.normal(size=group.size)
    return pd.DataFrame({"g": group, "t": t, "y": y, "w": 60.0 + group})


def table(**changes):
    return jn.GroupedData.from_frame(frame().assign(**changes), "g", "y", "t", "w")


def refusal(function, parameters=PARAMETERS, data=None, **options):
    with pytest.raises(jn.ModelError) as caught:
        jn.fit(jn.NLMEModel(function, parameters, **options), table() if data is None else data, "focei")
    return str(caught.value)


def with_numpy(phi, x):
    return phi.mu + np.exp(phi.slope) * x.t


def with_math(phi, x):
    return phi.mu + math.exp(phi.slope) * x.t


def with_if(phi, x):
    if phi.slope > 0:
        return phi.mu + phi.slope * x.t
    return phi.mu + 0.0 * x.t


def with_boolean_index(phi, x):
    return phi.mu + phi.slope * x.t[x.t > 0]


def with_if_on_data(phi, x):
    if x.t > 2.0:
        return phi.mu
    return phi.mu + phi.slope * x.t


def filled(phi, x):
    y = jnp.zeros(x.t.shape)
    y[0] = phi.mu
    return y + phi.slope * x.t


def filled_by_numpy(phi, x):
    y = np.zeros(x.t.shape)
    y[0] = phi.mu
    return y + phi.slope * x.t


def with_range(phi, x):
    return phi.mu + sum(phi.slope * x.t for _ in range(phi.mu))


@pytest.mark.parametrize(
    ("function", "line", "advice"),
    [
        (with_if_on_data, "if x.t > 2.0:", "jnp.where(condition, a, b)"),
        (filled, "y[0] = phi.mu", "y.at[k].set(value)"),
        (filled_by_numpy, "y[0] = phi.mu", "y.at[k].set(value)"),
        (with_range, "range(phi.mu)", "cannot depend on parameters"),
        (with_numpy, "np.exp(phi.slope)", "jnp.exp for np.exp"),
        (with_math, "math.exp(phi.slope)", "not numpy or math"),
        (with_if, "if phi.slope > 0:", "jnp.where(condition, a, b)"),
        (with_boolean_index, "x.t[x.t > 0]", "Indexing with a condition changes shapes"),
    ],
)
def test_models_that_are_not_pure_jax(function, line, advice):
    message = refusal(function)
    assert "The model is not pure JAX" in message
    assert "test_bad_input.py, line" in message
    assert line in message and advice in message


def test_a_record_is_not_a_matrix():
    message = refusal(lambda phi, x: phi.mu + phi.slope * x[:, 0])
    assert "a record of named values (predictor (x): t) is not a matrix and has no entry [:, 0]: write .t" in message


def test_a_residual_sd_held_at_zero():
    for error in (jn.error.constant(fix=0), jn.error.combined(a=jn.fixed(0.0), b=jn.fixed(0.0))):
        message = refusal(lambda phi, x: phi.mu + phi.slope * x.t, error=error)
        assert "the residual standard deviation is held at zero (a" in message
    without_constant = jn.error.combined(a=jn.fixed(0.0))
    message = refusal(lambda phi, x: phi.slope * x.t, error=without_constant)
    assert "a held at zero. Leave these rows out, or estimate a" in message


@jax.custom_vjp
def solved(mu, slope, t):
    """A solver with a derivative in reverse mode only, which is not finite over intervals of length zero."""
    return mu + slope * t


def forward(mu, slope, t):
    return solved(mu, slope, t), t


def backward(t, cotangent):
    gap = jnp.min(jnp.diff(t))
    exists = jnp.where(gap == 0.0, jnp.nan, 1.0)
    return jnp.sum(cotangent) * exists, jnp.sum(cotangent * t) * exists, jnp.zeros_like(t)


solved.defvjp(forward, backward)


def reverse_only(phi, x):
    return solved(phi.mu, phi.slope, x.t)


def with_callback(phi, x):
    return phi.mu + jax.pure_callback(lambda t: t, jax.ShapeDtypeStruct(x.t.shape, x.t.dtype), phi.slope * x.t)


@pytest.mark.parametrize(
    ("function", "rows", "reason", "remedy"),
    [
        (reverse_only, 5, "a derivative in reverse mode only", "diffrax with any adjoint"),
        (reverse_only, 9, "a derivative in reverse mode only", "diffrax with any adjoint"),
        (with_callback, 5, "it calls Python from inside a JAX program", "Write that part with jax.numpy"),
    ],
)
def test_models_without_the_derivatives_of_a_fit(function, rows, reason, remedy):
    data = jn.GroupedData.from_frame(frame(rows=rows), "g", "y", "t", "w")  # nine rows are padded to a larger shape
    message = refusal(function, data=data)
    assert "cannot be differentiated as a fit needs it" in message and reason in message and remedy in message
    assert len(message.splitlines()) == 1


def scale_with_loop(f, a):
    return a + 0.0 * jax.lax.while_loop(lambda state: state > 1.0, lambda state: state * 0.5, jnp.sum(f) + a + 4.0)


def test_a_residual_sd_without_the_derivatives_of_a_fit():
    """A loop in the model function is served, one in the residual standard deviation is not."""
    message = refusal(catalogue.line, error=jn.error.custom(scale_with_loop, {"a": 1.0}))
    assert "the number of steps of a loop in it depends on values" in message
    assert "move it into the model function f(phi, x, v)" in message


def test_a_pure_likelihood_without_its_derivatives():
    data = table()
    model = jn.NLMEModel(reverse_only, PARAMETERS)
    with pytest.raises(jn.ModelError, match="a derivative in reverse mode only"):
        jn.log_likelihood(model, model.params(data), data, "focei")


def misses_slope(phi, x):
    return phi.mu + 0.0 * x.t


def misses_effect(phi, x):
    return 3.0 + phi.slope * x.t


def one_number(phi, x):
    return phi.mu + phi.slope


def too_long(phi, x):
    return jnp.concatenate([phi.mu + phi.slope * x.t, x.t])


def counts(phi, x):
    return (x.t > 2).astype(int)


def test_parameters_without_effect_are_named():
    message = refusal(misses_slope)
    assert "no effect on any prediction" in message and "slope" in message and "mu" not in message.split(":")[1]
    message = refusal(misses_effect, [jn.Parameter("mu", 1.0, random=True, fix=True), jn.Parameter("slope", 0.5)])
    assert "random effect of mu" in message
    both = refusal(misses_effect, PARAMETERS)
    assert "mu" in both and "random effect of mu" not in both


def idle(f, a, c):
    return a + 0.0 * f + 0.0 * c


def test_an_error_parameter_without_effect_is_named():
    message = refusal(catalogue.line, error=jn.error.custom(idle, {"a": 1.0, "c": 1.0}))
    assert "no effect on the residual standard deviation at the starting values: c, declared" in message


def test_wrong_shapes():
    for function in (one_number, too_long):
        message = refusal(function)
        assert "one prediction a row, shape (obs,) = (5,)" in message
    assert "()" in refusal(one_number) and "(10,)" in refusal(too_long)
    assert "real numbers" in refusal(counts)


def centred(phi, x):
    return phi.mu + phi.slope * (x.t - jnp.mean(x.t))


def centred_with_mask(phi, x):
    return phi.mu + phi.slope * (x.t - jnp.sum(jnp.where(x.mask, x.t, 0.0)) / jnp.sum(x.mask))


def test_a_model_that_mixes_padded_rows_is_refused():
    short = jn.GroupedData.from_frame(frame().drop(index=[18, 19]), "g", "y", "t", "w")
    message = refusal(centred, data=short)
    assert "change with the padding of short groups (group 3)" in message and "x.mask" in message
    assert jn.fit(jn.NLMEModel(centred_with_mask, PARAMETERS), short, "focei").converged


def test_errors_of_the_table():
    with pytest.raises(jn.DataError, match=r"'w' is missing \(NaN\) in row 3"):
        table(w=np.where(np.arange(20) == 2, np.nan, 60.0))
    with pytest.raises(jn.DataError, match="row 4"):
        table(g=[None if k == 3 else str(k // 5) for k in range(20)])
    with (
        pytest.raises(jn.ModelError, match=r"covariate 'log\(w - 60\)' is not finite in group 0"),
        np.errstate(divide="ignore"),
    ):
        parameters = [jn.Parameter("mu", 1.0, random=True, covariates=["log(w - 60)"]), jn.Parameter("slope", 0.5)]
        jn.fit(jn.NLMEModel(catalogue.line, parameters), table(), "focei")


def through_zero(phi, x):
    return phi.slope * x.t


def test_zero_predictions_under_proportional_error_are_numbered():
    message = refusal(through_zero, [jn.Parameter("slope", 0.5, random=True)], error="proportional")
    assert "residual standard deviation is zero in rows 1, 6, 11 and 16" in message
    assert "b |f|" in message and "error='combined'" in message


def misspelt(phi, x):
    return phi.mu + phi.slpoe * x.t


def wrong_column(phi, x):
    return phi["mu"] + phi["slope"] * x["time"]


def own_key_error(phi, x):
    return phi.mu + {"a": 1.0}["b"] * x.t


def test_errors_in_user_code_surface_as_themselves():
    data = table()
    with pytest.raises(AttributeError, match="did you mean 'slope'"):
        jn.fit(jn.NLMEModel(misspelt, PARAMETERS), data)
    with pytest.raises(KeyError, match="no predictor"):
        jn.fit(jn.NLMEModel(wrong_column, PARAMETERS), data)
    with pytest.raises(KeyError, match="'b'"):
        jn.fit(jn.NLMEModel(own_key_error, PARAMETERS), data)


def test_unknown_options_are_refused_by_name():
    model, data = jn.NLMEModel(catalogue.line, PARAMETERS), table()
    for options, part in [
        ({"method": "foccei"}, "did you mean 'focei'"),
        ({"method": []}, "empty list"),
        ({"starts": "pool"}, "'pooled'"),
        ({"on_bad_group": "skip"}, "'leave out'"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"start": 3}, "start must be"),
    ]:
        with pytest.raises(jn.OptionError, match=part):
            jn.fit(model, data, **options)
    with pytest.raises(jn.ModelError, match="did you mean 'slope'"):
        jn.fit(model, data, start={"slop": 1.0})
    with pytest.raises(TypeError):
        jn.fit(model, data, max_iter=5)
    with pytest.raises(jn.ModelError, match=r"GroupedData\.from_frame"):
        jn.fit(model, frame())
    with pytest.raises(jn.OptionError, match="'proportional'"):
        jn.NLMEModel(catalogue.line, PARAMETERS, error="proportonal")
