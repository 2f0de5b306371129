"""Models whose value, derivative or second derivative is not finite, and kinks under a mode: named with their rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.model_errors import kink_sentence, non_finite_sentence

P = jn.Parameter


def table(first=0.0, groups=3, unit=1.0):
    """`unit` of the dose."""
    t = np.array([first, 1.0, 2.0, 4.0])
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(groups), len(t))
    y = 1.0 + np.tile(t, groups) + 0.1 * rng.normal(size=len(g))
    return jn.GroupedData.from_frame({"g": g, "dose": unit * np.tile(t, groups), "y": y}, "g", "y", ["dose"])


def hill(p, x):
    u = (x.dose / p.b) ** p.c
    return p.a * u / (1.0 + u)


def hill_safe(p, x):
    u = jn.safe_power(x.dose / p.b, p.c)
    return p.a * u / (1.0 + u)


def root(p, x):
    return p.a + p.b * jnp.sqrt(p.c * x.dose)


def logarithm(p, x):
    return p.a + p.b * jnp.log(p.c * x.dose)


def shifted_power(p, x):
    return p.a + (x.dose + p.b - 1.0) ** p.c


def onset(p, x):
    return p.a * jnp.maximum(x.dose - p.b, 0.0) + p.c


def masked(p, x):
    # The logarithm of zero is not selected: the error must not be looked for there.
    return p.a + p.b * jnp.where(x.dose > 0, jnp.log(jnp.where(x.dose > 0, x.dose, 1.0)), 0.0) + jnp.sqrt(p.c * x.dose)


def model(fn, starts=(1.0, 1.0, 1.5)):
    return jn.NLMEModel(fn, [P("a", starts[0], random=True), P("b", starts[1]), P("c", starts[2])])


def sentence(fn, data=None, starts=(1.0, 1.0, 1.5)):
    binding = jn.bind(model(fn, starts), table() if data is None else data)
    return non_finite_sentence(binding, binding.start, np.zeros((3, 1)), np.ones(3, bool))


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (
            hill,
            ["row 1 (dose = 0)", "second derivative in b", "a power of zero", "(x.dose / p.b) ** p.c", "safe_power"],
        ),
        (root, ["row 1 (dose = 0)", "its derivative in c", "square root of zero", "jnp.sqrt(p.c * x.dose)"]),
        (logarithm, ["row 1 (dose = 0)", "the model is not finite", "a logarithm of zero", "jnp.where"]),
        (shifted_power, ["row 1", "derivative in b", "at these parameters only", "parametrisation"]),
        (masked, ["row 1", "derivative in c", "square root"]),
    ],
)
def test_rows_and_operation_are_named(fn, words):
    text = sentence(fn)
    for word in words:
        assert word in text, text
    assert __file__ in text


def test_a_finite_model_has_no_error():
    assert sentence(hill, table(first=0.5)) == "" and sentence(hill_safe) == ""


def test_a_fit_that_cannot_begin_says_why():
    fit = jn.fit(model(hill), table(), "focei")
    assert not fit.converged and "safe_power" in str(fit.status) and "dose = 0" in str(fit.status)
    assert "overflows" not in str(fit.status)


def test_safe_power_is_the_power_and_its_derivatives_are_zero_at_zero():
    base, exponent = np.array([0.0, 0.5, 2.0]), 0.7
    np.testing.assert_array_equal(jn.safe_power(base, exponent)[1:], (jnp.asarray(base) ** exponent)[1:])
    np.testing.assert_array_equal(jn.safe_power(jnp.zeros(2), jnp.array([0.0, 0.3])), [1.0, 0.0])

    def power(x):
        return jn.safe_power(x[0] * base, x[1]).sum()

    at = jnp.array([1.3, exponent])
    reference = jax.hessian(lambda x: ((x[0] * base[1:]) ** x[1]).sum())(at)
    np.testing.assert_allclose(jax.hessian(power)(at), reference, rtol=1e-13)


def test_a_kink_under_a_mode_is_named():
    data = table()
    binding = jn.bind(model(onset, (1.0, 1.0, 1.0)), data)  # b = 1 is a dose of the table
    text = kink_sentence(binding, binding.start, np.zeros((3, 1)), np.ones(3, bool))
    assert text == "", "the effect is on a, so that no mode lies on the kink"
    kinked = jn.NLMEModel(onset, [P("a", 1.0), P("b", 1.0, random=True), P("c", 1.0)])
    binding = jn.bind(kinked, data)
    text = kink_sentence(binding, binding.start, np.zeros((3, 1)), np.array([False, True, False]))
    for word in ("group 1", "row 6 (dose = 1)", "max", "jnp.maximum(x.dose - p.b, 0.0)", "jn.SAEM()"):
        assert word in text, text
    assert not kink_sentence(binding, binding.start, np.full((3, 1), 0.5), np.ones(3, bool))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("fn", "starts", "words"),
    [
        (hill, lambda unit: (1.0, unit, 1.5), ["row 1 (dose = 0)", "a power of zero", "safe_power"]),
        (root, lambda unit: (1.0, 1.0, 1.5 / unit), ["row 1 (dose = 0)", "square root of zero"]),
        (logarithm, lambda unit: (1.0, 1.0, 1.0 / unit), ["row 1 (dose = 0)", "a logarithm of zero"]),
    ],
)
def test_rows_and_operation_in_other_units(unit, fn, starts, words):
    text = sentence(fn, table(unit=unit), starts(unit))
    for word in words:
        assert word in text, text


def test_draws_without_derivatives_say_why():
    method = jn.SAEM((4, 4, 4), chains=4, max_iterations=12, likelihood="none")
    fit = jn.fit(model(hill), table(), method)
    text = str(fit.status)
    assert not fit.converged and "not finite" in text and "safe_power" in text and "dose = 0" in text, text
    assert "not positive definite along" not in text
