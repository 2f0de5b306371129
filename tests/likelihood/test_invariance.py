"""The likelihood does not depend on the order of groups and rows, on padding, buckets, or the unit of time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.binding.settings import PlacementSettings
from tests.problems import APPROXIMATIONS, ERRORS, decay_data, decay_model, slopes, values

# Rounding of sums in another order, and modes found to 1e-12.
SAME = {"rel": 1e-10, "abs": 1e-10}

MODEL = decay_model("full", ERRORS["combined by stratum"])
ALL = APPROXIMATIONS | {"IS": jn.ImportanceSampling(50)}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    binding = bind(MODEL, decay_data())
    return {name: values(binding.problem, approximation, binding.start) for name, approximation in ALL.items()}


def shuffled(rows: bool) -> tuple[jn.GroupedData, np.ndarray]:
    """The data with groups (and the rows within them) in another order, and the new position of each group."""
    data = decay_data()
    frame = data.to_frame()
    order = [2, 0, 3, 1]
    frame = pd.concat([frame[frame["group"] == k].iloc[:: -1 if rows else 1] for k in order])
    reordered = jn.GroupedData.from_frame(frame, "group", "y", x=["t", "kind"])
    return reordered, np.argsort(order)


@pytest.mark.parametrize("rows", [False, True], ids=["groups", "groups and rows"])
def test_order(rows: bool, expected: dict[str, np.ndarray]) -> None:
    data, position = shuffled(rows)
    binding = bind(MODEL, data)
    for name, approximation in ALL.items():
        # importance sampling: the draws depend on the group's label
        assert values(binding.problem, approximation, binding.start)[position] == pytest.approx(
            expected[name], **SAME
        ), name


def test_padding(expected: dict[str, np.ndarray]) -> None:
    binding = bind(MODEL, decay_data().pad_to(11))
    for name, approximation in ALL.items():
        assert values(binding.problem, approximation, binding.start) == pytest.approx(expected[name], **SAME), name


def test_buckets(expected: dict[str, np.ndarray]) -> None:
    data, position = shuffled(rows=False)
    binding = bind(MODEL, data, buckets=2)
    assert len(binding.problem.buckets) == 2
    for name in ("FO", "FOCEI", "IS"):
        value = values(binding.problem, ALL[name], binding.start)
        assert value[position] == pytest.approx(expected[name], **SAME), name


def test_blocks(expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient of four groups in three blocks of two, with fillers."""
    binding = bind(MODEL, decay_data())
    x = np.concatenate([binding.start.beta, binding.start.covariance, binding.start.error])
    rows = binding.problem.buckets[0].y.size
    expected_slopes = slopes(binding.problem, APPROXIMATIONS["FOCEI"], binding.start, x[None])
    monkeypatch.setattr("jaxnlme.binding.problem.PLACEMENT", PlacementSettings(block_rows=round(rows / 3)))
    jax.clear_caches()  # the cache of compiled programs does not depend on the size of blocks
    value = values(binding.problem, APPROXIMATIONS["FOCEI"], binding.start)
    assert value == pytest.approx(expected["FOCEI"], **SAME)
    in_blocks = slopes(binding.problem, APPROXIMATIONS["FOCEI"], binding.start, x[None])
    for actual, whole in zip(in_blocks, expected_slopes, strict=True):
        np.testing.assert_allclose(actual, whole, rtol=1e-9, atol=1e-9)
    jax.clear_caches()


def test_gradient_with_padding_and_buckets() -> None:
    plain = bind(MODEL, decay_data())
    at = plain.start.pack()[None]
    _, expected = slopes(plain.problem, APPROXIMATIONS["FOCEI"], plain.start, at)
    padded = bind(MODEL, decay_data().pad_to(11), buckets=2)
    _, gradient = slopes(padded.problem, APPROXIMATIONS["FOCEI"], padded.start, at)
    assert np.asarray(gradient) == pytest.approx(np.asarray(expected), rel=1e-9, abs=1e-9)


def test_unit_of_time(expected: dict[str, np.ndarray]) -> None:
    frame = decay_data().to_frame()
    minutes = jn.GroupedData.from_frame(frame.assign(t=frame["t"] * 60.0), "group", "y", x=["t", "kind"])
    binding = bind(MODEL, minutes)
    params = binding.params({"c": 1.0 / 60.0})
    for name, approximation in ALL.items():
        assert values(binding.problem, approximation, params) == pytest.approx(expected[name], rel=1e-9), name


def test_unit_of_the_response() -> None:
    frame = decay_data().to_frame()
    model = decay_model("full", jn.error.combined(0.1, 0.1))
    plain = bind(model, decay_data())
    frame["y"] *= 1000.0
    thousand = bind(model, jn.GroupedData.from_frame(frame, "group", "y", x=["t", "kind"]))
    shift = np.log(1000.0)
    start = plain.start
    params = jn.Params(
        start.beta + np.array([shift, shift, 0.0]), start.covariance, start.error + np.array([shift, 0.0])
    )
    observed = decay_data().observed.sum(axis=1)
    for name in ("FO", "FOCEI"):
        value = values(thousand.problem, APPROXIMATIONS[name], params) + observed * shift
        assert value == pytest.approx(values(plain.problem, APPROXIMATIONS[name], plain.start), rel=1e-9), name


def test_draws_of_importance_sampling_depend_on_the_seed() -> None:
    binding = bind(MODEL, decay_data())
    runs = [values(binding.problem, jn.ImportanceSampling(50, seed=seed), binding.start) for seed in (1, 1, 2)]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).all()


def test_the_seed_of_importance_sampling_may_be_traced() -> None:
    seeds = jnp.arange(3)
    made = jax.vmap(lambda seed: jn.ImportanceSampling(50, seed=seed))(seeds)
    assert (made.integral.seed == seeds).all()


def test_rows_without_a_response_add_nothing() -> None:
    frame = decay_data().to_frame()
    extra = pd.DataFrame({"group": [0, 1, 1, 3], "y": np.nan, "t": [0.0, 9.0, 1e6, 2.0], "kind": [0.0, 1.0, 1.0, 0.0]})
    both = jn.GroupedData.from_frame(pd.concat([extra, frame]), "group", "y", x=["t", "kind"])
    order = np.argsort([0, 1, 3, 2])
    plain, extended = bind(MODEL, decay_data()), bind(MODEL, both)
    value = values(extended.problem, APPROXIMATIONS["FOCEI"], extended.start)
    labels = both.labels.tolist()
    assert labels == [0, 1, 3, 2]
    assert value[order] == pytest.approx(values(plain.problem, APPROXIMATIONS["FOCEI"], plain.start), **SAME)


def test_group_without_a_response_has_likelihood_one() -> None:
    frame = decay_data().to_frame()
    frame.loc[frame["group"] == 2, "y"] = np.nan
    binding = bind(MODEL, jn.GroupedData.from_frame(frame, "group", "y", x=["t", "kind"]))
    for name in ("FO", "FOCEI", "Laplace", "AGQ(3)"):
        value = values(binding.problem, APPROXIMATIONS[name], binding.start)
        assert value[2] == pytest.approx(0.0, abs=1e-12), name
        _, gradient = slopes(binding.problem, APPROXIMATIONS["FO"], binding.start, binding.start.pack()[None])
        assert np.isfinite(np.asarray(gradient)).all()


def test_one_trace_for_all_values() -> None:
    count = []

    @jax.jit
    def total(problem, params):
        count.append(1)
        return jn.log_likelihood(None, params, problem, "focei")

    for seed in (2, 3):
        binding = bind(MODEL, decay_data(seed))
        for shift in (0.0, 0.1):
            start = binding.start
            total(binding.problem, jn.Params(start.beta + shift, start.covariance, start.error)).block_until_ready()
    assert len(count) == 1


def _root(phi, x):
    return phi.level + jnp.sqrt(x.t)


@pytest.mark.parametrize("buckets", [1, 2])
def test_a_group_of_weight_zero_may_have_any_likelihood(buckets: int) -> None:
    """Value and gradient are those of the data without it, although its likelihood is NaN."""
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(6), [3, 4, 3, 5, 4, 3])
    t = rng.uniform(1.0, 2.0, len(group))
    t[group == 2] = -1.0
    data = jn.GroupedData.from_arrays(rng.normal(size=len(group)), group, {"t": t})
    model = jn.NLMEModel(_root, [jn.Parameter("level", 1.0, random=True)])
    weights = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 1.0])
    problem = jn.bind(model, data, buckets=buckets).problem
    rest = data.with_weights(weights).select(weights != 0)
    params = jax.tree.map(jnp.asarray, model.params(data))

    def value(params, data, weights=None):
        return jn.log_likelihood(model, params, data, "focei", weights)

    actual = jax.jit(jax.value_and_grad(value))(params, problem, weights)
    expected = jax.value_and_grad(value)(params, rest)
    for leaf, expected_leaf in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-9)  # rounding in batches of another size
