"""Groups with several conditional modes: one rule for the likelihood as a function and for fits."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.likelihood.mode import mode_starts

GROUPS, GRID = 8, np.linspace(-5.0, 5.0, 20_001)


def wave(phi, x):
    return jnp.sin(phi.a * x.t)


@functools.cache
def waves(last):
    """Sines with few rows and much noise, whose frequency has several modes in a group, the more the later the last
    time."""
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(GROUPS), 4), np.tile(np.array([0.16, 0.36, 0.56, 1.0]) * last, GROUPS)
    y = np.sin((1.0 + rng.normal(size=GROUPS))[g] * t) + 0.4 * rng.normal(size=len(t))
    return jn.GroupedData.from_frame({"g": g, "t": t, "y": y}, "g", "y", ["t"])


def wave_model(start=1.0):
    return jn.NLMEModel(wave, [jn.Parameter("a", start, random=True, sd=1.0)])


def joint_on_grid(data, a, sd, sigma):
    """log p(y, z) of each group (groups, grid), by numpy."""
    t, y = np.asarray(data.x["t"]), np.asarray(data.y)
    f = np.sin((a + sd * GRID)[None, :, None] * t[:, None, :])
    density = -0.5 * ((y[:, None, :] - f) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    return density.sum(2) - 0.5 * GRID**2 - 0.5 * np.log(2 * np.pi)


@pytest.mark.parametrize("last", [2.5, 3.2])
def test_the_mode_is_that_of_the_highest_density(last):
    data, model = waves(last), wave_model()
    params = model.params(data, {"a": 1.0, "sd(a)": 1.0})
    joint = joint_on_grid(data, 1.0, 1.0, float(np.exp(np.asarray(params.error)[0])))
    highest = GRID[joint.argmax(axis=1)]
    problem = jn.bind(model, data).problem
    from_one_start = jn.evaluate_groups(problem, params, jn.Laplace(), jnp.full((GROUPS, 1), -1.0))
    ruled = jn.evaluate_groups(problem, params, jn.Laplace())
    np.testing.assert_allclose(np.asarray(ruled.mode)[:, 0], highest, atol=1e-3)  # the grid's step
    np.testing.assert_allclose(ruled.joint, joint.max(axis=1), atol=1e-6)
    same = np.abs(np.asarray(from_one_start.mode) - np.asarray(ruled.mode))[:, 0] < 1e-6
    assert 0 < same.sum() < GROUPS, "one start must not do for these data"
    np.testing.assert_allclose(np.asarray(ruled.value)[same], np.asarray(from_one_start.value)[same], rtol=1e-12)


@pytest.mark.parametrize("start", [0.2, 1.0, 2.5])
def test_what_is_called_converged_is_reproduced(start):
    data, model = waves(2.5), wave_model(start)
    fit = jn.fit(model, data, "laplace")
    assert fit.converged
    assert float(jn.log_likelihood(model, fit.params, data, "laplace")) == pytest.approx(fit.log_likelihood, abs=1e-9)
    joint = joint_on_grid(data, fit.values["a"], fit.values["sd(a)"], fit.values["error.a"])
    peak = (joint[:, 1:-1] > joint[:, :-2]) & (joint[:, 1:-1] > joint[:, 2:])
    second = np.sort(np.where(peak, joint[:, 1:-1], -np.inf), axis=1)[:, -2]
    near = [str(k) for k in np.flatnonzero(second > joint.max(axis=1) - 3.0)]
    sentence = next((s for s in str(fit.status).split("\n") if "another mode" in s), "Group : ")
    assert sentence.split(":")[0] == f"Group {' and '.join(near)}"
    assert not near or "jn.AGQ" in sentence


def test_starts_of_the_search():
    starts = mode_starts(2)
    assert starts.shape == (9, 2) and not starts[0].any()
    assert len({tuple(start) for start in starts}) == 9
    assert [len(mode_starts(n)) for n in (0, 1, 3, 4, 9)] == [1, 5, 7, 9, 9]
