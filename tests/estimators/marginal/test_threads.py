"""Groups shared out to several threads give the fit that one thread gives, and exceptions are raised."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.settings import PlacementSettings
from jaxnlme.numerics.threads import run_concurrently
from tests.problems import decay_data, decay_model


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxnlme.binding.placement.PLACEMENT", PlacementSettings(thread_rows=2))
    monkeypatch.setattr("jaxnlme.binding.placement.cores", lambda: 3)


def test_a_fit_by_three_threads(three_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the minimiser, modes, likelihoods of groups and predictions."""
    model = decay_model("diagonal", jn.error.proportional(0.1))
    data = decay_data()
    assert len(PlacedProblem(bind(model, data).problem).chunks) == 2  # two groups each: the third thread has none
    shared = jn.fit(model, data, "focei", max_iterations=15)
    monkeypatch.undo()
    assert len(PlacedProblem(bind(model, data).problem).chunks) == 1
    single = jn.fit(model, data, "focei", max_iterations=15)
    # The same sums in another order, along the same path.
    np.testing.assert_allclose(shared.params.pack(), single.params.pack(), rtol=1e-7, atol=1e-7)
    assert shared.log_likelihood == pytest.approx(single.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(shared.modes, single.modes, atol=1e-6)
    np.testing.assert_allclose(shared.group_log_likelihood, single.group_log_likelihood, atol=1e-7)
    np.testing.assert_allclose(shared.predict(), single.predict(), atol=1e-6)


def test_one_call_goes_ahead_and_the_order_is_kept() -> None:
    main, calls = threading.current_thread(), []

    def call(number):
        def run():
            calls.append((number, threading.current_thread() is main))
            return number

        return run

    assert run_concurrently([call(k) for k in range(4)], compile_first=True) == [0, 1, 2, 3]
    assert calls[0] == (0, True) and not any(here for _, here in calls[1:])
    calls.clear()
    assert run_concurrently([call(k) for k in range(4)], compile_first=False) == [0, 1, 2, 3]
    assert not any(here for _, here in calls)


def test_shapes_stay_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of similar size share the shapes of a thread's part, too."""
    monkeypatch.setattr("jaxnlme.binding.placement.PLACEMENT", PlacementSettings(thread_rows=100))
    monkeypatch.setattr("jaxnlme.binding.placement.cores", lambda: 2)

    def shapes(groups):
        t = np.tile(np.linspace(0.1, 2.0, 5), groups)
        data = jn.GroupedData.from_arrays(np.exp(-t), np.repeat(np.arange(groups), 5), {"t": t, "kind": 0 * t})
        pieces = PlacedProblem(bind(decay_model("diagonal"), data).problem).chunks
        return [len(piece.source) for piece in pieces]

    assert shapes(90) == shapes(91) == shapes(96) and len(shapes(90)) == 2


def test_an_error_in_a_thread_is_raised() -> None:
    def fails():
        raise ValueError("from a thread")

    with pytest.raises(ValueError, match="from a thread"):
        run_concurrently([lambda: 1, fails], compile_first=False)
