"""Output functions: their calls, how they stop a fit, and the plot that ships."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import scipy.linalg

import jaxnlme as jn
from jaxnlme.frontends.matlab import live_plot
from jaxnlme.frontends.matlab.live_plot import LivePlot
from jaxnlme.frontends.matlab.outputs import parametrized
from jaxnlme.frontends.matlab.settings import MatlabSettings
from tests import simulated_fits
from tests.frontends.matlab.matlab_calls import START, Recorder, call

matplotlib.use("Agg")


def growth(phi, x):
    return phi[0] / (1.0 + jnp.exp(-(x[:, 0] - phi[1]) / phi[2]))


def trees(**options: Any) -> Any:
    frame = jn.datasets.orange()
    arguments = {"REParamsSelect": [0], "ApproximationType": "FOCE"} | options
    return jn.nlmefit(frame["age"], frame["circumference"], frame["Tree"], None, growth, [100, 500, 200], **arguments)


@pytest.mark.parametrize(("method", "procedure", "inner"), [("FOCE", "LAP", "PLM"), ("LME", "ALT", "LME")])
def test_stages_and_status(method: str, procedure: str, inner: str) -> None:
    recorder = Recorder()
    beta, psi, stats, b = call(ApproximationType=method, Options={"OutputFcn": recorder}, CovPattern=[1, 1])
    states = [state for _, _, state in recorder.calls]
    assert states[0] == "init" and states[-1] == "done"
    assert set(states[1:-1]) == {"iter"} and states.count("init") == states.count("done") == 1
    assert {status.procedure for _, status, _ in recorder.calls} == {procedure}
    outer = [status for _, status, _ in recorder.calls if status.inner.procedure == "none"]
    iterations = [status.iteration for status in outer]
    assert iterations[0] == 0 and iterations == sorted(iterations)
    assert all(s.inner.state == "none" and np.isnan(s.inner.iteration) for s in outer)
    inside = [status.inner for _, status, _ in recorder.calls if status.inner.procedure != "none"]
    assert {stage.procedure for stage in inside} == {"PNLS", inner}
    assert {stage.state for stage in inside} == {"init", "iter", "done"}
    last_beta, last, _ = recorder.calls[-1]
    assert last_beta == pytest.approx(beta) and last["Psi"] == pytest.approx(psi)
    assert last.fval == pytest.approx(stats.logl) and last.mse == pytest.approx(stats.mse)
    expected = scipy.linalg.logm(psi / stats.mse)[np.triu_indices(2)]
    assert last.theta == pytest.approx(expected, abs=1e-9)


def test_theta_is_the_triangle_of_the_parametrisation() -> None:
    psi = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.5]])
    upper = np.triu_indices(3)
    assert parametrized(psi, 0.5, "chol") == pytest.approx(np.linalg.cholesky(psi / 0.5).T[upper], abs=1e-12)
    assert parametrized(psi, 0.5, "logm") == pytest.approx(scipy.linalg.logm(psi / 0.5)[upper], abs=1e-12)
    singular = np.outer([1.0, 2.0], [1.0, 2.0])
    assert parametrized(singular, 1.0, "chol") == pytest.approx([1.0, 2.0, 0.0], abs=1e-7)  # root of rounding
    assert parametrized(np.diag([1.0, 0.0]), 1.0, "logm") == pytest.approx([0.0, 0.0, -np.inf])


def outfun(beta, status, state):
    """The documentation's example."""
    stop = False
    if status.fval > -132:  # check if the log-likelihood is more than -132
        stop = True
    return stop


def test_the_page_s_example_stops_the_fit() -> None:
    beta, psi, stats, b = trees(Options={"OutputFcn": outfun})
    assert stats.fit.stopped and not stats.converged
    assert stats.logl > -132
    assert stats.logl < trees()[2].logl - 1e-6  # the maximum lies at -131.57
    assert beta.shape == (3,) and b.shape == (1, 5) and stats.covb is None


def test_several_functions_are_all_called_at_the_last_stage() -> None:
    first, second = Recorder(), Recorder(stop_at=1)
    stats = call(Options={"OutputFcn": [second, first]})[2]
    assert stats.fit.stopped
    assert len(first.calls) == len(second.calls)
    assert [state for _, _, state in first.calls][-1] == "done"


def test_a_function_gets_copies() -> None:
    """Writing into beta does not reach the fit, and returning nothing does not stop it."""

    def spoil(beta, status, state):
        beta[:] = np.nan

    stats = call(Options={"OutputFcn": (spoil,)})[2]
    assert stats.converged and stats.logl == pytest.approx(call()[2].logl, abs=1e-7)  # the same tolerance


def test_errors_of_a_function_are_raised_and_the_others_get_done() -> None:
    recorder = Recorder()

    def broken(beta, status, state):
        if status.iteration == 1 and state == "iter":
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        call(Options={"OutputFcn": [recorder, broken]})
    assert recorder.calls[-1][2] == "done"


@pytest.mark.parametrize("when", ["init", "iter", "done"])
def test_an_interrupted_fit_is_not_lost(when: str) -> None:
    """Also where the function interrupts again at "done"; the others are called with "done"."""
    recorder = Recorder()

    def interrupt(beta, status, state):
        if state in (when, "done"):
            raise KeyboardInterrupt

    beta, _, stats, _ = call(Options={"OutputFcn": [interrupt, recorder]})
    assert stats.fit.interrupted and np.isfinite(beta).all()
    assert stats.converged == (when == "done")
    assert recorder.calls[-1][2] == "done"


def test_a_fit_continued_by_chol_is_one_fit_for_its_functions() -> None:
    from tests.frontends.matlab.matlab_calls import GROUP, GROUPS, TIME, N

    rng = np.random.default_rng(3)
    y = (5.0 + 0.8 * rng.normal(size=GROUPS)[GROUP]) * np.exp(-TIME) + 0.15 * rng.normal(size=N)
    recorder = Recorder()
    stats = call(y=y, CovPattern=[0, 0], Options={"OutputFcn": recorder})[2]
    assert "was continued" in str(stats.fit.status)
    states = [state for _, _, state in recorder.calls]
    assert states.count("init") == states.count("done") == 1
    iterations = [status.iteration for _, status, _ in recorder.calls if status.inner.procedure == "none"]
    assert iterations == sorted(iterations)


# ---- the plot


def lines(plot: LivePlot) -> list[np.ndarray]:
    return [axis.lines[-1].get_ydata() for axis in plot.axes]


def test_the_plot_draws_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "progress.png"
    plot = jn.nlmefitoutputfcn.to_file(path)
    beta, psi, stats, b = call(Options={"OutputFcn": plot})
    assert path.stat().st_size > 5_000  # five panels
    titles = [axis.get_title() for axis in plot.axes]
    assert titles == ["beta[0]", "beta[1]", "Psi[0, 0]", "Psi[1, 1]", "log-likelihood"]
    ends = [line[-1] for line in lines(plot)]
    assert ends == pytest.approx([*beta, *np.diag(psi), stats.logl])
    assert stats.converged


@pytest.mark.parametrize("method", ["focei", jn.SAEM(chains=8, likelihood="none")])
def test_the_plot_is_a_callback_of_fit(method, tmp_path: Path) -> None:
    live = jn.nlmefitoutputfcn.to_file(tmp_path / "fit.png")
    fit = jn.fit(simulated_fits.MODEL, simulated_fits.data(), method, callbacks=[live])
    titles = ["a", "c", "variance of a", "variance of c"] + ["log-likelihood"] * (method == "focei")
    assert [panel.get_title() for panel in live.axes] == titles
    (line,) = live.axes[1].get_lines()
    # The step after the iterations (the last one of SAEM) is within the limit of the convergence criterion.
    assert line.get_ydata()[-1] == pytest.approx(fit.params.beta[1], abs=0.2 * fit.estimates.loc["c", "se"])
    assert len(line.get_xdata()) > 3 and (tmp_path / "fit.png").stat().st_size > 10_000


def test_the_plot_without_a_display_draws_in_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    call(Options={"OutputFcn": jn.nlmefitoutputfcn})
    assert (tmp_path / "nlmefit.png").exists()


def test_the_plot_draws_into_axes_and_closing_stops_the_fit() -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 5)
    beta, psi, stats, b = call(Options={"OutputFcn": jn.nlmefitoutputfcn.into(axes)})
    assert stats.converged
    assert axes[-1].lines[-1].get_ydata()[-1] == pytest.approx(stats.logl)
    plt.close(figure)
    figure, axes = plt.subplots(1, 5)

    def close(beta, status, state):
        if status.iteration == 2:
            plt.close(figure)

    stats = call(Options={"OutputFcn": [jn.nlmefitoutputfcn.into(axes), close]})[2]
    assert stats.fit.stopped
    with pytest.raises(jn.OptionError, match="axes holds 3 axes; expected 5"):
        call(Options={"OutputFcn": jn.nlmefitoutputfcn.into(plt.subplots(1, 3)[1])})
    with pytest.raises(jn.OptionError, match="path or axes"):
        LivePlot("x.png", axes)
    plt.close("all")


def test_fits_in_threads_have_pictures_of_their_own(tmp_path: Path, monkeypatch) -> None:
    """One plot object, called in alternation by two fits with different numbers of parameters."""
    monkeypatch.chdir(tmp_path)
    plot, barrier = jn.nlmefitoutputfcn, threading.Barrier(2)

    def follow(size: int) -> list[list[float]]:
        for iteration, state in enumerate(("init", "iter", "iter", "done")):
            barrier.wait(timeout=60)
            status = {"inner": {"procedure": "none"}, "iteration": iteration, "fval": -size, "Psi": np.eye(size)}
            assert not plot(np.full(size, 10.0 * size + iteration), status, state)
        return [line.tolist() for line in lines(plot)]

    with ThreadPoolExecutor(2) as pool:
        for size, result in zip((1, 2), pool.map(follow, (1, 2)), strict=True):
            beta = [10.0 * size + iteration for iteration in range(4)]
            assert result == [beta] * size + [[1.0] * 4] * size + [[-size] * 4]


def test_in_a_window_the_plot_is_live(monkeypatch) -> None:
    """The window's own calls, on a backend without one."""
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr("jaxnlme.frontends.matlab.live_plot._display", lambda: "window")
    monkeypatch.setattr(plt, "show", lambda block: shown.append(block))
    before = set(plt.get_fignums())
    plot = LivePlot()
    assert call(Options={"OutputFcn": plot})[2].converged
    assert shown == [False] and len(set(plt.get_fignums()) - before) == 1  # left open at the end

    def close(beta, status, state):
        if status.iteration == 1:
            plt.close("all")

    assert call(Options={"OutputFcn": [plot, close]})[2].fit.stopped
    plt.close("all")


def test_in_a_notebook_one_display_is_updated(monkeypatch) -> None:
    IPython = pytest.importorskip("IPython")
    from IPython import display as shown

    pictures: list[str] = []

    class Handle:
        def update(self, picture):
            pictures.append("update")

    def display(picture, display_id):
        pictures.append("display")
        return Handle()

    assert IPython.__version__
    monkeypatch.setattr(shown, "display", display)
    monkeypatch.setattr("jaxnlme.frontends.matlab.live_plot._display", lambda: "notebook")
    monkeypatch.setattr(live_plot, "MATLAB", MatlabSettings(notebook_interval=0.0))
    assert call(Options={"OutputFcn": LivePlot()}, beta0=START)[2].converged
    assert pictures[0] == "display" and set(pictures[1:]) == {"update"} and len(pictures) > 3
