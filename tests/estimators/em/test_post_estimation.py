"""Computations after the iterations of a SAEM fit: interrupts, disagreeing replicates, early refusals; resumed runs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.errors import Status
from jaxnlme.estimators.core import checkpoint
from jaxnlme.estimators.core.settings import RunSettings
from jaxnlme.estimators.em import post_estimation
from jaxnlme.estimators.em.convergence import replicate_disagreement, words_on_change
from jaxnlme.estimators.em.louis import ScoreAndInformation
from tests.estimators.em.test_messages_and_callbacks import MODEL, QUICK, EveryStage, data

SHORT = jn.SAEM(**QUICK | {"max_iterations": 400, "tolerance": 0.5})


@pytest.mark.parametrize("stage", ["equilibrate", "_draws", "_likelihood", "_information"])
def test_an_interrupt_at_the_end_keeps_the_estimates(monkeypatch, stage):
    expected = jn.fit(MODEL, data(), SHORT)

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(post_estimation, stage, interrupt)
    fit = jn.fit(MODEL, data(), jn.SAEM(**QUICK | {"max_iterations": 400, "tolerance": 0.5, "likelihood": "lin"}))
    assert fit.interrupted and not fit.converged and "at the end" in fit.status.sentences[1]
    np.testing.assert_allclose(fit.params.pack(), expected.params.pack(), rtol=1e-9)
    assert fit.information is None and (fit.sampling.samples.shape[1] > 0) == (stage in ("_likelihood", "_information"))
    assert "NOT CONVERGED" in str(fit.summary())


def test_a_callback_cannot_stop_a_fit_at_its_end():
    class StopsWhenDone(EveryStage):
        def __call__(self, entry):
            return entry.state == "done"

    fit = jn.fit(MODEL, data(), SHORT, callbacks=[StopsWhenDone()])
    assert not fit.stopped and fit.converged


def test_the_last_step_is_limited():
    """A run that ends far from the maximum moves by a standard error at most."""
    fit = jn.fit(MODEL, data(), jn.SAEM((1, 1, 1), chains=4, max_iterations=3, likelihood="none"))
    last, errors = fit.sampling.packed[-1, 0], fit.sampling.errors
    assert not fit.converged and "Not at the maximum" in fit.status.sentences[1]
    np.testing.assert_array_equal(last, fit.params.pack())
    before = fit.sampling.packed[5 + 3 + 10, 0]
    assert (np.abs(last - before)[fit.information.active] <= errors["se"] * (1.0 + 1e-9)).all()


def estimate_at(at, noise=0.01):
    """ScoreAndInformation of a replicate with its maximum at `at` (active,) and standard errors of one."""
    n = len(at)
    batches = noise * np.random.default_rng(n).normal(size=(20, n))
    batches -= batches.mean(axis=0)
    outer, none = np.zeros((20, n, n)), np.zeros((0, n))
    square = np.zeros(n), np.eye(n), np.eye(n), outer
    return ScoreAndInformation(np.asarray(at, float), np.arange(n), *square, batches, 20, none, outer, outer, True)


def test_replicates_that_disagree():
    unknown, names = np.full(2, np.nan), ["a", "b"]
    near, far = [estimate_at([1.0, 2.0]), estimate_at([1.0, 2.02])], [estimate_at([1.0, 2.0]), estimate_at([1.0, 3.0])]
    assert replicate_disagreement(near, unknown, unknown, 0, names) == []
    (sentence,) = replicate_disagreement(far, unknown, unknown, 0, names)
    assert "R-hat of b" in sentence and "likelihood than 'none'" in sentence
    (sentence,) = replicate_disagreement(far, np.array([-10.0, -20.0]), np.zeros(2), 0, names)
    assert "only one reached" in sentence and "-20.00" in sentence
    (sentence,) = replicate_disagreement(far, np.array([-10.0, np.nan]), np.zeros(2), 0, names)
    assert "without a log-likelihood" in sentence
    assert replicate_disagreement(far, np.array([-10.0, -10.1]), np.zeros(2), 0, names) == []


def test_a_likelihood_that_is_not_finite(monkeypatch):
    status = np.where(np.arange(12) == 5, int(Status.non_finite), int(Status.ok))
    nothing = np.full(12, np.nan)
    groups = SimpleNamespace(status=status, values=nothing, variance=nothing, ess=nothing)
    monkeypatch.setattr(post_estimation, "_likelihood", lambda *args: (-np.inf, np.nan, groups))
    fit = jn.fit(MODEL, data(), jn.SAEM(**QUICK | {"max_iterations": 400, "tolerance": 0.5, "likelihood": "lin"}))
    assert not fit.converged and "The log-likelihood of group 5 by likelihood='lin'" in fit.status.sentences[1]


def test_quadrature_with_too_many_nodes_is_refused_before_the_run():
    entries = []
    with pytest.raises(jn.OptionError, match="nodes"):
        jn.fit(MODEL, data(), jn.SAEM(**QUICK | {"likelihood": "gq", "nodes": 5000}), callbacks=[entries.append])
    assert not entries


def test_options_that_may_change_at_a_checkpoint(tmp_path):
    """The likelihood computed at the end may change; the number of draws in an iteration may not."""
    path, options = tmp_path / "run.npz", dict(draws=40, likelihood="none", max_iterations=20)
    jn.fit(MODEL, data(), jn.IMP((3, 3), **options), checkpoint=path)
    jn.fit(MODEL, data(), jn.IMP((3, 3), **options, likelihood_draws=50), checkpoint=path)
    with pytest.raises(jn.OptionError, match="another method"):
        jn.fit(MODEL, data(), jn.IMP((3, 3), **options | {"draws": 60}), checkpoint=path)


class Killed(Exception):
    pass


def test_a_run_from_an_earlier_fit_is_resumed_without_that_fit(tmp_path, monkeypatch):
    """Its phases are those that it began with: no annealing."""
    always = RunSettings(checkpoint_interval=0.0, writing_fraction=1e9)
    monkeypatch.setattr(checkpoint, "RUN_SETTINGS", always)
    earlier = jn.fit(MODEL, data(), "focei")

    def die(entry):
        if entry.iteration == 15 and entry.state == "iter":
            raise Killed

    with pytest.raises(Killed):
        jn.fit(MODEL, data(), SHORT, start=earlier, callbacks=[die], checkpoint=tmp_path / "run.npz")
    fit = jn.fit(MODEL, data(), SHORT, checkpoint=tmp_path / "run.npz")
    expected = jn.fit(MODEL, data(), SHORT, start=earlier)
    assert "annealing" not in fit.sampling.phases and fit.sampling.phases == expected.sampling.phases
    np.testing.assert_allclose(fit.params.pack(), expected.params.pack(), rtol=1e-9)


def test_a_standard_error_unknown_before_the_last_step_is_no_change_in_percent():
    assert "changed by 65% over the last step (limit 11%)" in words_on_change("E0", 0.5, 0.1)
    unknown = words_on_change("E0", np.nan, 0.1)
    assert unknown.startswith("The standard error of E0 is known after the last step only") and "nan" not in unknown
