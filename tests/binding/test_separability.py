"""The probe for separable units: its reasons, and what it leaves to the dry run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

import jaxnlme as jn


def decay(phi, x):
    return 10.0 * jnp.exp(-phi.k * x.t)


def data() -> jn.GroupedData:
    rows = [(s, o, t, 9.0 - t - 0.1 * o * s) for s in range(4) for o in range(2) for t in (1.0 + o, 2.5 + o, 6.0 + o)]
    frame = pd.DataFrame(rows, columns=["id", "occ", "t", "y"])
    return jn.GroupedData.from_frame(frame, ["id", "occ"], "y", ["t"])


def model(f=decay, **options) -> jn.NLMEModel:
    return jn.NLMEModel(f, [jn.Parameter("k", 0.2, "log", random=["id", "occ"])], **options)


def coupling(model: jn.NLMEModel) -> str:
    levels = jn.bind(model, data()).density.levels
    assert levels.separable == (not levels.coupling)
    return levels.coupling


def carried(phi, x):
    return decay(phi, x) + 0.1 * jnp.cumsum(phi.k * x.t)


@jax.custom_vjp
def reverse_only(k):
    return k


reverse_only.defvjp(lambda k: (k, None), lambda _, ct: (ct,))


def test_reasons():
    assert not coupling(model())
    assert "predictions depend on the parameters of several units" in coupling(model(carried))
    across = jn.error.gaussian("constant", jn.correlation.CAR1("t"))
    assert not coupling(model(error=jn.error.gaussian("constant", jn.correlation.CAR1("t", within="occ"))))
    assert "residuals are correlated across units" in coupling(model(error=across))
    assert "not computed (in no group are they finite" in coupling(model(lambda phi, x: jnp.sqrt(-phi.k * x.t)))


def test_the_reason_is_on_the_record():
    fit = jn.fit(model(carried), data(), "fo", standard_errors=False)
    assert any("computed together" in s and "several units" in s for s in fit.status.sentences)
    assert not any("together" in s for s in jn.fit(model(), data(), "fo", standard_errors=False).status.sentences)


def test_what_cannot_be_differentiated_is_a_reason_and_is_refused_by_the_dry_run():
    def f(phi, x):
        return decay(phi, x) * reverse_only(phi.k)

    assert "derivative in reverse mode only" in coupling(model(f))
    with pytest.raises(jn.ModelError, match="reverse mode only"):
        jn.fit(model(f), data(), "focei")


def test_errors_of_the_user_are_raised_as_they_are():
    def misspelt(phi, x):
        return 10.0 * jnp.exp(-phi.k * tme)  # pyright: ignore[reportUndefinedVariable]

    with pytest.raises(NameError, match="tme"):
        jn.bind(model(misspelt), data())
    with pytest.raises(jn.ModelError, match="one prediction a row"):
        jn.bind(model(lambda phi, x: jnp.sum(phi.k * x.t)), data())


def test_predictions_with_parts_that_belong_to_no_row():
    """The dense path serves them."""

    def f(phi, x):
        return {"mean": decay(phi, x), "shift": jnp.mean(phi.k)}

    def density(y, f, p, x, v):
        return -0.5 * (y - f["mean"] - f["shift"]) ** 2

    assert "several units" in coupling(model(f, error=jn.GroupLogLikelihood(density)))
