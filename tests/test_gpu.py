"""On a GPU: the numbers that the CPU of the same machine finds. Run with `pytest -m gpu`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.frontends.cli.demo import theophylline

pytestmark = pytest.mark.gpu

METHODS = ("fo", "foce", "focei", "laplace", jn.AGQ(3), "is", "lme", "relme")


@pytest.fixture(scope="module", autouse=True)
def gpu():
    """The accelerator that JAX computes on by default."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        pytest.skip("JAX finds no GPU here, only the CPU")
    return device


def on_both(compute: Any) -> tuple[Any, Any]:
    """`compute()` on the GPU and on the CPU."""
    with jax.default_device(jax.devices("cpu")[0]):
        expected = compute()
    return compute(), expected


def assert_same(found: jn.Fit, expected: jn.Fit) -> None:
    """Sums in another order along the same path: rounding, which curvatures and the steps to the maximum magnify."""
    assert found.converged and expected.converged, (found.status, expected.status)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-7)
    for name in ("estimate", "se"):
        np.testing.assert_allclose(found.estimates[name], expected.estimates[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.random_effects, expected.random_effects, atol=1e-5)
    np.testing.assert_allclose(found.predict(), expected.predict(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: getattr(method, "name", method))
def test_fits_of_theophylline(method: Any) -> None:
    assert_same(*on_both(lambda: jn.fit(*theophylline(), method, progress=False)))


@pytest.mark.parametrize("options", [{"restricted": True}, {"devices": "all"}, {"chunk_groups": 5}], ids=str)
def test_ways_to_fit(options: dict[str, Any], gpu: jax.Device) -> None:
    model, data = theophylline()
    found = jn.fit(model, data, "focei", progress=False, **options)
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jn.fit(model, data, "focei", progress=False, restricted=options.get("restricted", False))
    assert_same(found, expected)


def polynomial(phi, x):
    """Of degree five."""
    return sum(phi[k] * x.t**k for k in range(6))


@pytest.mark.parametrize("approximation", ["foce", "laplace"])
def test_many_effects_go_to_the_devices_own_library(approximation: str) -> None:
    """Six correlated effects: matrices beyond those whose algebra is written out. The value and its gradient."""
    rng = np.random.default_rng(1)
    t = np.tile(np.linspace(-1.0, 1.0, 9), 20)
    group = np.repeat(np.arange(20), 9)
    y = (rng.normal(size=(20, 6))[group] * t[:, None] ** np.arange(6)).sum(axis=1) + 0.3 * rng.normal(size=t.size)
    parameters = [jn.Parameter(f"c{k}", 0.1, random=True, sd=0.8) for k in range(6)]
    model = jn.NLMEModel(polynomial, parameters, covariance="full", error=jn.error.constant(0.4))
    data = jn.GroupedData.from_arrays(y, group, x={"t": t})

    def slope() -> tuple[Any, Any]:
        params = model.params(data=data)
        fn = jax.jit(lambda x: jn.log_likelihood(model, params.unpack(x), data, approximation))
        return jax.tree.map(np.asarray, jax.value_and_grad(fn)(jnp.asarray(params.pack())))

    found, expected = on_both(slope)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-7, atol=1e-7)


def test_batches_of_fits() -> None:
    """As many replicates, the same draws, the same estimates."""
    fit = jn.fit(*theophylline(), "focei", progress=False)
    found, expected = on_both(lambda: fit.bootstrap(20, seed=1, progress=False).replicates)
    assert found["status"].tolist() == expected["status"].tolist()
    numbers = expected.select_dtypes("number").columns
    np.testing.assert_allclose(found[numbers], expected[numbers], rtol=1e-4, atol=1e-8)


def test_groups_by_themselves() -> None:
    model, data = theophylline()
    found, expected = on_both(lambda: jn.fit_groups(model, data).estimates)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_saem_finds_the_same_maximum():
    """Another device adds up in another order, and a draw may be accepted here and not there: the estimates agree
    within their Monte Carlo errors."""
    model, data = theophylline()
    found, expected = on_both(lambda: jn.fit(model, data, jn.SAEM(seed=1), progress=False))
    assert found.converged and expected.converged, (found.status, expected.status)
    ours, theirs = found.sampling.errors, expected.sampling.errors
    noise = np.hypot(ours["monte carlo se"], theirs["monte carlo se"])
    assert (np.abs(ours["estimate"] - theirs["estimate"]) < 4.0 * noise + 0.01 * ours["se"]).all()
