"""The pure functions have the derivatives of the likelihood that is written out, in parameters and in data."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.likelihood.log_likelihood import evaluate_groups
from tests.problems import ERRORS, cheap, decay_data, decay_model

METHODS: dict[str, Any] = {
    "FO": jn.FO(),
    "FOCE": jn.FOCE(),
    "FOCEI": jn.FOCEI(),
    "Laplace": jn.Laplace(),
    "AGQ(2)": jn.AGQ(2),
    "importance sampling": jn.ImportanceSampling(20),
}


def correlated() -> tuple[jn.NLMEModel, jn.GroupedData]:
    error = jn.error.gaussian(scale="constant", correlation=jn.correlation.CAR1("t"))
    return decay_model("diagonal", error), decay_data()


def nested() -> tuple[jn.NLMEModel, jn.GroupedData]:
    rng = np.random.default_rng(5)
    subject, occasion = np.repeat([1, 2, 3], 8), np.tile(np.repeat([1, 2], 4), 3)
    t = np.tile([0.5, 1.0, 2.0, 4.0], 6)
    data = jn.GroupedData.from_arrays(
        10.0 * np.exp(-0.4 * t) + 0.5 * rng.normal(size=24), {"S": subject, "O": occasion}, {"t": t}
    )
    parameters = [jn.Parameter("a", 10.0, "log", random=["S", "O"], sd=0.3), jn.Parameter("k", 0.4, "log", random="S")]
    return jn.NLMEModel(lambda phi, x: phi.a * jnp.exp(-phi.k * x.t), parameters, error=jn.error.constant(0.5)), data


def independent() -> tuple[jn.NLMEModel, jn.GroupedData]:
    return decay_model("diagonal", ERRORS["combined"]), decay_data()


CASES = [("independent", method) for method in METHODS] + [
    (problem, method) for problem in ("correlated", "nested") for method in ("FOCE", "FOCEI", "Laplace")
]


@pytest.mark.parametrize(("problem", "method"), CASES, ids=[f"{p}, {m}" for p, m in CASES])
def test_derivatives_are_those_of_the_likelihood_written_out(problem: str, method: str) -> None:
    """First and second derivatives along two directions, against JAX's of the approximation without rules of its own
    but that of the mode: two programs for one number, equal but for rounding."""
    model, data = {"correlated": correlated, "nested": nested, "independent": independent}[problem]()
    bound = jax.tree.map(jnp.asarray, bind(model, data).problem)
    start = bind(model, data).start
    packed = start.pack() + 0.02 * jnp.arange(start.pack().shape[0])
    direction = jnp.cos(jnp.arange(packed.shape[0]) + 1.0)
    approximation = METHODS[method]

    def ours(packed):
        return jn.log_likelihood(None, start.unpack(packed), bound, approximation)

    def written_out(packed):
        return jnp.sum(evaluate_groups(bound, start.unpack(packed), jax.tree.map(jnp.asarray, approximation)).value)

    @functools.partial(cheap, static_argnums=0)
    def gradient_and_product(fn, packed):
        return jax.jvp(jax.grad(fn), (packed,), (direction,))

    for actual, expected in zip(
        gradient_and_product(ours, packed), gradient_and_product(written_out, packed), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["FOCE", "FOCEI", "AGQ(2)"])
def test_derivatives_in_the_data_equal_differences(method: str) -> None:
    """In responses and a predictor, by itself and together with the parameters."""
    model, data = independent()
    bound = jax.tree.map(jnp.asarray, bind(model, data).problem)
    start = bind(model, data).start
    group = bound.buckets[0]
    shape = np.random.default_rng(2)
    y_dot = jnp.asarray(shape.normal(size=group.y.shape)) * group.x.observed
    t_dot = jnp.asarray(shape.normal(size=group.y.shape)) * group.x.mask
    packed_dot = jnp.asarray(shape.normal(size=start.pack().shape))

    @cheap
    def value_and_slopes(step):
        def along(step):
            moved = jax.tree.map(lambda leaf: leaf, bound)
            y, t = group.y + step[0] * y_dot, group.x.t + step[1] * t_dot
            bucket = _replaced(group, y, t)
            moved = type(bound)(bound.density, (bucket, *bound.buckets[1:]), bound.order, bound.weights)
            return jn.log_likelihood(None, start.unpack(start.pack() + step[2] * packed_dot), moved, METHODS[method])

        return along(step), jax.grad(along)(step), jax.hessian(along)(step)

    h = 1e-4
    here = value_and_slopes(jnp.zeros(3))
    for k in range(3):
        up, down = (value_and_slopes(sign * h * jnp.eye(3)[k]) for sign in (1.0, -1.0))
        # Second-order differences: h^2 times a third derivative, near 1e-8 relative, and rounding.
        assert float(here[1][k]) == pytest.approx(float(up[0] - down[0]) / (2 * h), rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(here[2][k], (up[1] - down[1]) / (2 * h), rtol=1e-6, atol=1e-5)


def _replaced(group: Any, y: Any, t: Any) -> Any:
    return eqx.tree_at(lambda g: (g.y, g.x.t), group, (y, t))


def test_score_and_information_are_the_derivatives() -> None:
    model, data = independent()
    start = jax.tree.map(jnp.asarray, bind(model, data).start)
    value, score = cheap(lambda params: jn.log_likelihood_and_score(model, params, data))(start)
    matrix = cheap(lambda params: jn.information(model, params, data))(start)
    total = cheap(lambda packed: jn.log_likelihood(model, start.unpack(packed), data))
    packed, h = np.asarray(start.pack()), 1e-4
    assert float(value) == pytest.approx(float(total(packed)), rel=1e-12)
    axes = h * np.eye(len(packed))
    slope = [float(total(packed + axis) - total(packed - axis)) / (2 * h) for axis in axes]
    np.testing.assert_allclose(score.pack(), slope, rtol=1e-5, atol=1e-5)
    assert np.asarray(matrix) == pytest.approx(np.asarray(matrix).T, rel=1e-8, abs=1e-8)


def test_groups_without_a_response_have_no_derivatives() -> None:
    model, data = independent()
    bound = jax.tree.map(jnp.asarray, bind(model, data).problem)
    start = jax.tree.map(jnp.asarray, bind(model, data).start)
    group = bound.buckets[0]
    observed = group.x.observed.at[0].set(False)
    bucket = eqx.tree_at(lambda g: g.x.observed, group, observed)
    empty = type(bound)(bound.density, (bucket, *bound.buckets[1:]), bound.order, bound.weights)
    jacobian = cheap(jax.jacrev(lambda packed: jn.group_log_likelihoods(None, start.unpack(packed), empty)))(
        start.pack()
    )
    first = int(np.asarray(bound.order).tolist().index(0)) if len(bound.buckets) > 1 else 0
    assert (np.asarray(jacobian)[first] == 0.0).all()
    assert (np.abs(np.delete(np.asarray(jacobian), first, 0)).max(axis=1) > 0.0).all()
