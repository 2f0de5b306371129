"""Results on a GPU agree with those on the CPU of the same machine. Run with `pytest -m gpu`."""

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


def assert_same(actual: jn.Fit, expected: jn.Fit) -> None:
    """Equality up to rounding (sums in another order), amplified by curvatures and steps to the maximum."""
    assert actual.converged and expected.converged, (actual.status, expected.status)
    assert actual.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-7)
    for name in ("estimate", "se"):
        np.testing.assert_allclose(actual.estimates[name], expected.estimates[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(actual.random_effects, expected.random_effects, atol=1e-5)
    np.testing.assert_allclose(actual.predict(), expected.predict(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: getattr(method, "name", method))
def test_fits_of_theophylline(method: Any) -> None:
    assert_same(*on_both(lambda: jn.fit(*theophylline(), method, progress=False)))


@pytest.mark.parametrize("options", [{"restricted": True}, {"devices": "all"}, {"chunk_groups": 5}], ids=str)
def test_fit_options(options: dict[str, Any], gpu: jax.Device) -> None:
    model, data = theophylline()
    actual = jn.fit(model, data, "focei", progress=False, **options)
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jn.fit(model, data, "focei", progress=False, restricted=options.get("restricted", False))
    assert_same(actual, expected)


def polynomial(phi, x):
    """A polynomial of degree five."""
    return sum(phi[k] * x.t**k for k in range(6))


@pytest.mark.parametrize("approximation", ["foce", "laplace"])
def test_many_effects_use_the_linear_algebra_library_of_the_device(approximation: str) -> None:
    """Six correlated effects, more than straight-line algebra covers: the value and its gradient agree."""
    rng = np.random.default_rng(1)
    t = np.tile(np.linspace(-1.0, 1.0, 9), 20)
    group = np.repeat(np.arange(20), 9)
    y = (rng.normal(size=(20, 6))[group] * t[:, None] ** np.arange(6)).sum(axis=1) + 0.3 * rng.normal(size=t.size)
    parameters = [jn.Parameter(f"c{k}", 0.1, random=True, sd=0.8) for k in range(6)]
    model = jn.NLMEModel(polynomial, parameters, covariance="full", error=jn.error.constant(0.4))
    data = jn.GroupedData.from_arrays(y, group, x={"t": t})

    def value_and_gradient() -> tuple[Any, Any]:
        params = model.params(data=data)
        fn = jax.jit(lambda x: jn.log_likelihood(model, params.unpack(x), data, approximation))
        return jax.tree.map(np.asarray, jax.value_and_grad(fn)(jnp.asarray(params.pack())))

    actual, expected = on_both(value_and_gradient)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-7, atol=1e-7)


def test_batches_of_fits() -> None:
    """Bootstrap replicates have the same resamples and the same estimates."""
    fit = jn.fit(*theophylline(), "focei", progress=False)
    actual, expected = on_both(lambda: fit.bootstrap(20, seed=1, progress=False).replicates)
    assert actual["status"].tolist() == expected["status"].tolist()
    numbers = expected.select_dtypes("number").columns
    np.testing.assert_allclose(actual[numbers], expected[numbers], rtol=1e-4, atol=1e-8)


def test_groups_by_themselves() -> None:
    model, data = theophylline()
    actual, expected = on_both(lambda: jn.fit_groups(model, data).estimates)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_saem_finds_the_same_maximum():
    """Sums are rounded differently, so that a proposal may be accepted on one device only: the estimates agree within
    their Monte Carlo errors."""
    model, data = theophylline()
    actual, expected = on_both(lambda: jn.fit(model, data, jn.SAEM(seed=1), progress=False))
    assert actual.converged and expected.converged, (actual.status, expected.status)
    on_gpu, on_cpu = actual.sampling.errors, expected.sampling.errors
    noise = np.hypot(on_gpu["monte carlo se"], on_cpu["monte carlo se"])
    assert (np.abs(on_gpu["estimate"] - on_cpu["estimate"]) < 4.0 * noise + 0.01 * on_gpu["se"]).all()
