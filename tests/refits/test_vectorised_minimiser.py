"""The vectorised minimiser: each job gives the result of a single fit, whatever the other slots hold."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.estimators.core.objective import flatten
from jaxnlme.refits import vectorised_minimiser
from jaxnlme.refits.jobs import Jobs, empty_overlay
from jaxnlme.refits.settings import REFIT
from jaxnlme.refits.vectorised_minimiser import run_jobs, width_for

WEIGHTS = np.array([[1.0] * 5, [2, 1, 1, 1, 0], [1, 1, 0, 1, 1], [0, 3, 1, 1, 0], [1, 0, 2, 1, 1], [1, 1, 1, 0, 2]])


def jobs(fit, weights, x=None, from_information=True):
    problem = fit.binding.problem
    start = np.tile(flatten(fit.params), (len(weights), 1)) if x is None else x
    inverse_hessians = fit.information.covariance[None] if from_information else None

    def overlay(indices):
        empty = empty_overlay(problem)
        return eqx.tree_at(lambda p: p.weights, empty, weights[indices], is_leaf=lambda leaf: leaf is None)

    return Jobs(start, np.ones(start.shape, bool), overlay, fit.modes, inverse_hessians)


def run(fit, *args, width=4, **options):
    estimator = jn.MaximumLikelihood(fit.estimator.method, 100, REFIT.tolerance)
    return run_jobs(fit.binding.problem, fit.params, estimator, jobs(fit, *args, **options), width=width)


def test_a_job_is_the_fit_with_its_weights(orange):
    """Also the fit of copied data: a group of weight two is the group twice."""
    out = run(orange, WEIGHTS)
    assert out.done.all() and (out.n_failed_modes == 0).all() and (out.decrement < 1e-8).all()
    for k in (0, 1, 3):
        single = jn.fit(orange.model, orange.data.with_weights(WEIGHTS[k]), "focei").throw()
        np.testing.assert_allclose(out.x[k], flatten(single.params), rtol=1e-6)
        assert out.log_likelihood[k] == pytest.approx(single.log_likelihood, abs=1e-8)
    frame = orange.data.to_frame()
    first, *_, last = orange.data.labels
    table = pd.concat([frame[frame.Tree != last], frame[frame.Tree == first].assign(Tree="again")])
    copied = jn.GroupedData.from_frame(table.astype({"Tree": str}), "Tree", "circumference", "t")
    single = jn.fit(orange.model, copied, "focei").throw()
    np.testing.assert_allclose(out.x[1], flatten(single.params), rtol=1e-6)


def test_results_do_not_depend_on_the_width(orange):
    """Nor on the initial inverse Hessian."""
    four, single = run(orange, WEIGHTS), run(orange, WEIGHTS, width=1)
    scores = run(orange, WEIGHTS, from_information=False)
    for other in (single, scores):
        np.testing.assert_allclose(other.x, four.x, rtol=1e-6)
        np.testing.assert_allclose(other.log_likelihood, four.log_likelihood, rtol=1e-10)
    np.testing.assert_array_equal(single.iterations, four.iterations)


def test_a_job_that_diverges_does_not_affect_the_others(orange):
    x = np.tile(flatten(orange.params), (6, 1))
    good = run(orange, WEIGHTS, x)
    x[1, 0], x[3, 2], x[4, 4] = np.nan, 1e-300, 800.0
    out = run(orange, WEIGHTS, x)
    for k in (0, 2, 5):
        np.testing.assert_array_equal(out.x[k], good.x[k])
        assert out.value[k] == good.value[k]
    assert not np.isfinite(out.value[[1, 4]]).any()
    assert out.done.all()


def test_a_group_of_weight_zero_has_no_effect(orange):
    """Its responses are NaN in one job only."""
    problem = orange.binding.problem
    y = np.tile(problem.buckets[0].y, (2, 1, 1))
    y[1, 4] = np.nan
    weights = np.tile(WEIGHTS[1], (2, 1))

    def overlay(indices):
        leaves = (weights[indices], y[indices])
        empty = empty_overlay(problem)
        return eqx.tree_at(lambda p: (p.weights, p.buckets[0].y), empty, leaves, is_leaf=lambda leaf: leaf is None)

    x = np.tile(flatten(orange.params), (2, 1))
    two_jobs = Jobs(x, np.ones(x.shape, bool), overlay, orange.modes)
    out = run_jobs(
        problem, orange.params, jn.MaximumLikelihood(orange.estimator.method, 100, REFIT.tolerance), two_jobs, width=4
    )
    assert out.done.all() and (out.n_failed_modes == 0).all()
    np.testing.assert_allclose(out.x[1], out.x[0], rtol=1e-9)
    # The likelihood of all groups needs the mode of every group.
    assert np.isfinite(out.full_log_likelihood[0]) and np.isnan(out.full_log_likelihood[1])


def test_one_program_for_any_number_of_jobs(orange):
    run(orange, WEIGHTS)
    compilations = []

    def record(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        out = run(orange, np.tile(WEIGHTS[1:4], (5, 1)))
    finally:
        jax.monitoring.unregister_event_duration_listener(record)
    assert not compilations
    assert out.done.all()
    np.testing.assert_allclose(out.x[:3], out.x[-3:], rtol=1e-6)


def test_an_interruption_keeps_the_jobs_that_have_ended(orange, monkeypatch):
    shown = []

    def show(self, text, done):
        shown.append(done)
        if done >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(vectorised_minimiser.ProgressLine, "show", show)
    out = run(orange, np.tile(WEIGHTS, (4, 1)))
    assert out.interrupted
    assert 4 <= out.done.sum() < 24
    assert np.isfinite(out.x[out.done]).all() and np.isnan(out.x[~out.done]).all()


def test_the_width_follows_memory_and_jobs():
    assert width_for(500, 132) == 64
    assert width_for(500, 500_000) == 1
    assert width_for(1, 132) == 1
    assert width_for(12, 132) == 16
