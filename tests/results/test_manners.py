"""Behaviour that users rely on: results aligned with the table, and clear messages for mistakes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def level(phi, x):
    return phi.level + 0.0 * x.t


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(6), 4)
    y = 3.0 + rng.normal(size=6)[group] + 0.3 * rng.normal(size=24)
    frame = pd.DataFrame(
        {"group": group, "t": np.tile(np.arange(4.0), 6), "kind": np.where(group < 3, "a", "b"), "y": y}
    )
    frame.index = frame.index + 100
    return frame.sample(frac=1.0, random_state=1)


@pytest.fixture(scope="module")
def fit(frame):
    data = jn.GroupedData.from_frame(frame, group="group", y="y", x=["t"], v=["kind"])
    return jn.fit(jn.NLMEModel(level, [jn.Parameter("level", 3.0, random=True)]), data, "focei")


def test_rows_keep_the_index_of_the_table(fit, frame):
    """Shuffled and relabelled: pandas aligns by label, so predictions and residuals must carry the table's."""
    together = frame.assign(prediction=fit.predict(), ires=fit.residuals("ires")["ires"])
    np.testing.assert_allclose(together["y"] - together["prediction"], together["ires"], rtol=1e-12)
    kept = jn.GroupedData.from_frame(frame, "group", "y", x="t").select([4, 1])
    assert set(kept.row_labels) == set(frame.index[frame["group"].isin(kept.labels.tolist())])
    new = frame[frame["group"] < 2]
    assert fit.predict(new).index.equals(new.index)


def test_simulated_rows_are_responses(fit):
    """`with_response` takes the result of `simulate`, in the order of the table."""
    simulated = fit.simulate(1, key=3)[0]
    again = fit.data.with_response(simulated)
    np.testing.assert_array_equal(again.rows_to_column(again.y), simulated)
    with pytest.raises(jn.DataError, match="one per row of the table"):
        fit.data.with_response(simulated[:-1])


@pytest.mark.parametrize("wrong", [90, -0.5, 0.0, 1.0])
def test_a_level_is_a_probability(fit, wrong):
    with pytest.raises(jn.OptionError, match=r"0\.9 for 90%"):
        fit.confidence_intervals(wrong)


def test_flags_are_true_or_false():
    with pytest.raises(jn.ModelError, match="random must be True or False"):
        jn.Parameter("level", 1.0, random="no")  # pyright: ignore[reportArgumentType]


def test_a_text_column_is_not_for_the_model_function(fit):
    model = jn.NLMEModel(lambda phi, x, v: phi.level * v.kind, [jn.Parameter("level", 1.0, random=True)])
    with pytest.raises(AttributeError, match="'kind' is a text column"):
        jn.fit(model, fit.data, "focei")


def test_a_start_outside_its_domain(fit):
    model = jn.NLMEModel(level, [jn.Parameter("level", 3.0, "log", random=True)])
    with pytest.raises(jn.ModelError, match=r"inside \(0, inf\), the domain of its log transform; received -5"):
        jn.fit(model, fit.data, "focei", start={"level": -5.0})


@pytest.mark.parametrize("weights", [np.ones(3), -np.ones(6)], ids=["length", "sign"])
def test_weights_of_groups(fit, weights):
    with pytest.raises(jn.OptionError, match="weights must"):
        jn.log_likelihood(fit.model, fit.params, fit.data, "focei", weights)
    with pytest.raises(jn.OptionError, match="weights must"):
        jn.estimate(fit.model, fit.params, fit.data, "focei", jnp.asarray(weights))
