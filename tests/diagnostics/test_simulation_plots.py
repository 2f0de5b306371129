"""The plots of stochastic fits show the values of `fit.sampling`."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest

import jaxnlme as jn
from tests.simulated_fits import MODEL, data, several, unfinished

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def labels(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def test_trajectories_draw_every_parameter_and_replicate():
    fit = several()
    axes = fit.plot.trajectories()
    names = ["a", "c", "sd(a)", "sd(c)", "error.a"]
    assert [ax.get_title() for ax in axes] == ["a (log)", "c (log)", *names[2:]]
    best = fit.sampling.best
    for ax, name in zip(axes, names, strict=True):
        other, best_line, estimate = ax.get_lines()
        np.testing.assert_array_equal(best_line.get_ydata(), fit.sampling.trajectory.loc[best, name])
        np.testing.assert_array_equal(other.get_ydata(), fit.sampling.trajectory.loc[1 - best, name])
        assert best_line.get_xdata()[0] == -5 and set(estimate.get_ydata()) == {fit.estimates.loc[name, "estimate"]}
    shown = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    phases = ["burn-in", "annealing", "full steps", "decreasing steps", "fixed parameters and Newton steps"]
    assert shown == [*phases, "other replicates", f"replicate {best} (best)", "estimate"]
    axes[0].figure.canvas.draw()


def test_trajectories_into_axes_passed_by_the_user():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    (drawn,) = several().plot.trajectories("sd(c)", ax=ax)
    assert drawn is ax and ax.get_title() == "sd(c)"
    with pytest.raises(jn.OptionError, match=r"did you mean 'sd\(c\)'"):
        several().plot.trajectories("sd(cc)")
    with pytest.raises(jn.OptionError, match="2 panels"):
        several().plot.trajectories(["a", "c"], ax=ax)
    with pytest.raises(jn.OptionError, match="name at least one"):
        several().plot.trajectories([])


def test_a_run_that_was_too_short_is_marked_above_its_trajectories():
    axes = unfinished().plot.trajectories()
    assert axes[0].figure.get_suptitle().startswith("NOT CONVERGED")


def test_monte_carlo_errors_beside_the_tolerance():
    fit = several()
    ax = fit.plot.monte_carlo()
    errors = fit.sampling.errors
    _, drawn, limit = ax.get_lines()
    np.testing.assert_array_equal(drawn.get_xdata(), errors["monte carlo se"] / errors["se"])
    assert set(limit.get_xdata()) == {0.05} and "tolerance 0.05" in labels(ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(errors.index)
    ax.figure.canvas.draw()


def test_individual_parameters_are_quantiles_of_the_draws():
    fit = several()
    axes = fit.plot.individual_parameters()
    assert [ax.get_xlabel() for ax in axes] == ["a", "c"]
    mean = axes[1].get_lines()[-1].get_xdata()
    np.testing.assert_allclose(mean, fit.sampling.parameters_mean["c"], rtol=1e-12)
    wide = axes[1].collections[0].get_segments()
    np.testing.assert_allclose(wide[3][:, 0], np.quantile(fit.sampling.parameter_samples[3, :, 1], [0.025, 0.975]))
    axes[0].figure.canvas.draw()


def test_plots_that_a_fit_cannot_have_are_refused():
    exact = jn.fit(MODEL, data(), "focei", max_iterations=0, standard_errors=False)
    for plot in ("trajectories", "monte_carlo", "individual_parameters"):
        with pytest.raises(jn.OptionError, match="by FOCEI"):
            getattr(exact.plot, plot)()
    with pytest.raises(jn.OptionError, match="trajectories"):
        several().plot.history()
