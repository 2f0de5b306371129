"""Fits of other data, starts, options and fixed values use the programs of an earlier fit; padding changes nothing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.binding.placement import PlacedProblem

calls = 0
# Calls of f that the shape check of the dry run may make: the prediction, and the log-density (FOCE asks for its scale
# too).
DRY = 3


def curve(phi, x, v):
    """A straight line with dose events; counts how often Python runs it."""
    global calls
    calls += 1
    dose = jnp.sum(jnp.where(v.doses.mask, v.doses.amount, 0.0))
    return phi.level + phi.slope * x.t + 0.05 * dose


def model(fix=False):
    parameters = [
        jn.Parameter("level", 1.0, random=True, covariates=["size"]),
        jn.Parameter("slope", 0.5, random=True, fix=fix),
    ]
    return jn.NLMEModel(curve, parameters)


def data(groups, rows, doses=3, seed=1):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    keep = rng.uniform(size=len(group)) < 0.8
    keep[::rows] = True
    keep[:rows] = True
    t = np.tile(np.arange(float(rows)), groups)
    size = rng.normal(size=groups)
    b = rng.normal(size=(groups, 2)) * [0.8, 0.2]
    y = 1.0 + 0.3 * size[group] + b[group, 0] + (0.5 + b[group, 1]) * t + 0.3 * rng.normal(size=len(group))
    table = {"id": group, "y": y, "t": t, "size": size[group]}
    table = {name: column[keep] for name, column in table.items()}
    events = np.repeat(np.arange(groups), doses)[: groups * doses - 1]
    events = {"id": events, "amount": rng.uniform(1, 2, len(events))}
    grouped = jn.GroupedData.from_frame(table, group="id", y="y", x=["t"], v=["size"])
    return grouped.with_table("doses", events, "id", "amount")


@pytest.fixture(scope="module")
def first():
    fit = jn.fit(model(), data(18, 5), "focei")
    assert fit.converged
    return fit


@pytest.mark.parametrize(
    "change",
    ["groups", "rows and events", "start", "tolerance", "weights", "fix", "mode search"],
)
def test_another_fit_traces_nothing(first, change):
    """f runs in Python no more often than the shape check of the dry run needs, and no program is compiled."""
    table, method, options = data(18, 5, seed=2), "focei", {}
    if change == "groups":
        table = data(20, 5, seed=2)
    elif change == "rows and events":
        # 9 and 10 rows share a shape, as do 18 and 20 groups; events 5 to 5.
        jn.fit(model(), data(18, 9, 9), "focei")
        table = data(17, 10, 10, seed=2)
    elif change == "start":
        options = {"start": {"level": 2.0, "sd(slope)": 0.1}}
    elif change == "tolerance":
        options = {"tolerance": 1e-6, "max_iterations": 40}
    elif change == "weights":
        table = table.with_weights(np.arange(18) % 3)
    elif change == "mode search":
        method = jn.FOCEI(mode_steps=50, mode_tolerance=1e-5)
    before = calls
    fit = jn.fit(model(fix=change == "fix"), table, method, **options)
    assert fit.converged
    assert calls - before <= DRY
    assert fit.timings.get("compile", 0.0) == 0.0
    assert fit.data.n_groups == len(fit.modes) == len(fit.status.code)


def test_the_pooled_start_traces_once(first):
    jn.fit(model(), data(18, 5), "focei", starts="pooled")
    before = calls
    fit = jn.fit(model(), data(20, 5, seed=3), "focei", starts="pooled")
    assert fit.converged and calls - before <= DRY


@pytest.mark.parametrize("method", ["fo", "foce", "laplace"])
def test_padding_changes_rounding_only(method, monkeypatch):
    """The padded fit equals the fit of the same groups as they are."""
    table = data(18, 5)
    padded = jn.fit(model(), table, method)
    original = PlacedProblem.__init__
    monkeypatch.setattr(
        PlacedProblem, "__init__", lambda self, *args, **kw: original(self, *args, **(kw | {"grid": False}))
    )
    unpadded = jn.fit(model(), table, method)
    for name in ("log_likelihood", "group_log_likelihood", "modes", "curvature"):
        np.testing.assert_allclose(getattr(padded, name), getattr(unpadded, name), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(padded.estimates["estimate"], unpadded.estimates["estimate"], rtol=1e-9)
    np.testing.assert_allclose(padded.estimates["se"], unpadded.estimates["se"], rtol=1e-7)


@pytest.mark.parametrize("buckets", [1, 2, 3])
@pytest.mark.parametrize("chunk", [None, 4])
def test_slots(buckets, chunk):
    """Every group has one slot, in the order of the data; padding groups have weight zero, padding rows are masked."""
    binding = bind(model(), data(19, 9), buckets=buckets)
    placed = PlacedProblem(binding.problem, chunk=chunk)
    values = np.arange(19.0)
    assert placed.collect(placed.scatter(values)).tolist() == values.tolist()
    sums, groups = placed.run(_count_rows, ())
    assert float(np.asarray(sums)) == binding.data.n_obs
    assert placed.collect(groups).tolist() == binding.data.observed.sum(axis=1).tolist()
    assert sum(piece.real.sum() for piece in placed.chunks) == 19


def _count_rows(problem, shared, per_group):
    rows = problem.map(lambda group: jnp.sum(group.x.observed))
    assert problem.buckets[0].y.shape[1] in (1, 2, 3, 4, 5, 6, 7, 8, 10)
    return jnp.sum(problem.weights * rows), rows


def mixing(phi, x):
    """Reads a row from the end: only valid if all groups have as many rows."""
    return phi.level + phi.slope * (x.t - x.t[-1])


def fixed_length(phi, x):
    return phi.level + phi.slope * jnp.arange(9.0)


@pytest.mark.parametrize("fn", [mixing, fixed_length])
def test_a_model_that_padding_would_break(fn):
    """Groups of equal length keep their rows where the model needs it."""
    rng = np.random.default_rng(0)
    t, group = np.tile(np.arange(9.0), 10), np.repeat(np.arange(10), 9)
    y = 1.0 + rng.normal(size=10)[group] + 0.5 * t + 0.3 * rng.normal(size=90)
    parameters = [jn.Parameter("level", 1.0, random=True), jn.Parameter("slope", 0.5)]
    fit = jn.fit(jn.NLMEModel(fn, parameters), jn.GroupedData.from_arrays(y, group, {"t": t}), "focei")
    assert fit.converged and fit.values["slope"] == pytest.approx(0.5, abs=0.05)


def test_predictions_of_a_fit_in_chunks(first):
    """Predictions, residuals, modes and parameters of a fit in chunks are those of a fit at once; another table
    uses their programs."""
    table = data(18, 5)
    whole, chunks = jn.fit(model(), table, "fo"), jn.fit(model(), table, "fo", chunk_groups=5)
    for ask in (jn.Fit.predict, jn.Fit.residuals, jn.Fit.parameters, lambda fit: fit.random_effects):
        np.testing.assert_allclose(ask(chunks), ask(whole), rtol=1e-7, atol=1e-9, equal_nan=True)
    other = jn.fit(model(), data(20, 5, seed=4), "fo")
    before = calls
    assert np.isfinite(other.random_effects.to_numpy()).all() and np.isfinite(other.predict()).all()
    assert calls == before
