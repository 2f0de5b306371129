"""Event records and the doses made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.binding.padding import pad_groups
from jaxnlme.data.events.records import EventRecords

LABELS = np.array([1, 2], object)


def records() -> EventRecords:
    """Group 1: a dose with two added ones, then a reset with an infusion; group 2: steady state."""
    columns = {
        "TIME": [0, 0, 24], "EVID": [1, 1, 4], "AMT": [100, 50, 10], "RATE": [0, 0, 5], "CMT": [1, 1, 1],
        "SS": [0, 1, 0], "II": [12, 12, 0], "ADDL": [2, 0, 0], "rows_before": [0, 0, 2], "row": [-1, -1, -1],
    }  # fmt: skip
    return EventRecords.of(columns, np.array([0, 1, 0]), LABELS, "ID", np.array([0, 1, 2]), time="TIME")


def test_doses():
    """ADDL and EVID 4 give rows of their own; a reset and steady state 1 begin a new segment."""
    table, mask = records().doses()
    assert mask.sum(axis=1).tolist() == [5, 1]
    assert table["time"][0].tolist() == [0, 12, 24, 24, 24]
    assert table["amount"][0].tolist() == [100, 100, 100, 0, 10]
    assert table["reset"][0].tolist() == [0, 0, 0, 1, 0]
    assert table["segment"].tolist() == [[0, 0, 0, 1, 1], [1] * 5]
    assert table["amount"][1].tolist() == [50, 0, 0, 0, 0]


def test_facts():
    """What is known of the events before compilation."""
    facts = records().facts
    assert facts.infusions and not facts.modelled_duration and facts.steady_state == (1,)
    assert facts.segments == 1 and facts.dosed == (1,) and not facts.rows_are_records


def test_groups_and_model():
    """Selected groups keep their records, and a model reads the doses as v.events."""
    frame = pd.DataFrame({"ID": [1, 1, 1, 2, 2], "TIME": [1.0, 2, 3, 1, 2], "DV": [9.0, 7, 5, 8, 6]})
    data = jn.GroupedData.from_frame(frame, "ID", "DV", ["TIME"]).with_event_records(records())
    assert data.select([1]).events.to_frame()["AMT"].tolist() == [50]
    assert data.select([1]).tables["events"][0]["amount"].tolist() == [[50]]

    def f(phi, x, v):
        assert v.events.facts.time == "TIME"
        since = x.TIME[:, None] - v.events.time[None, :]
        amount = jnp.where(v.events.mask[None, :] & (since >= 0), v.events.amount[None, :], 0.0)
        return jnp.sum(amount * jnp.exp(-phi.k * jnp.maximum(since, 0.0)), axis=1)

    model = jn.NLMEModel(f, {"k": 0.2})
    binding = jn.bind(model, data)
    group = binding.problem.buckets[0]
    first = model.structure(jn.records.Record(("k",), (0.2,)), *(_of_first(part) for part in (group.x, group.v)))
    np.testing.assert_allclose(first, 100 * np.exp(-0.2 * np.array([1.0, 2, 3])), rtol=1e-12)


def _of_first(record):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), record)


def test_padding_holds_no_doses():
    """A group that fills its axis of doses is padded with rows that are no doses, as shorter groups are."""
    frame = pd.DataFrame({"ID": [1, 1, 2, 2], "TIME": [1.0, 2, 1, 2], "DV": [9.0, 7, 8, 6]})
    data = jn.GroupedData.from_frame(frame, "ID", "DV", ["TIME"]).with_event_records(records())
    bucket = jn.bind(jn.NLMEModel(lambda phi, x, v: phi.k * x.TIME, {"k": 0.2}), data).problem.buckets[0]
    events = pad_groups(bucket, np.arange(2), 2, {"events": 8}, (0,)).v.events
    assert events.mask.sum(axis=1).tolist() == [5, 1]
    for name in ("amount", "rate", "steady_state", "interval", "reset"):
        assert not events[name][~events.mask].any(), name
    assert events.time[0, 5:].tolist() == [24] * 3 and events.segment[0, 5:].tolist() == [1] * 3
