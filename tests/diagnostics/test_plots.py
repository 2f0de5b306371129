"""The plots show the values of the fit, and state if it did not converge."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from types import SimpleNamespace

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.diagnostics.curves import prediction_curves
from jaxnlme.frontends.cli.demo import theophylline

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def fit() -> jn.Fit:
    return jn.fit(*theophylline(), standard_errors=False)


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_individual_fits_draw_rows_and_curves(fit):
    axes = fit.plot.individual_fits(groups=[3, 1], columns=1)
    assert [ax.get_title() for ax in axes] == ["Subject 3", "Subject 1"]
    population, individual, dots = axes[0].get_lines()
    assert axes[0].figure.legends[0].get_title().get_text() == ""
    rows = fit.data.to_frame().query("Subject == 3")
    np.testing.assert_array_equal(dots.get_xdata(), rows.Time)
    np.testing.assert_array_equal(dots.get_ydata(), rows.conc)
    assert len(individual.get_xdata()) > 90
    assert np.abs(individual.get_ydata() - population.get_ydata()).max() > 0.1
    axes[0].figure.canvas.draw()


def test_individual_fits_on_a_logarithmic_axis(fit):
    axes = fit.plot.individual_fits(groups=[1], logy=True)
    assert axes[0].get_yscale() == "log" and fit.plot.individual_fits(groups=[1])[0].get_yscale() == "linear"
    axes[0].figure.canvas.draw()  # concentrations of zero at time zero are left out without a warning


def test_curves_pass_through_the_predictions_of_rows(fit):
    """A fine grid contains the rows' own times; there the curve is the fit's prediction."""
    fine = prediction_curves(fit, [4], "Time")
    rows = prediction_curves(fit, [4], "Time", points=0)
    assert len(rows) == 11
    assert set(rows.Subject) == set(fine.Subject) == {5}
    for level in ("population prediction", "individual prediction"):
        np.testing.assert_allclose(np.interp(rows.Time, fine.Time, fine[level]), rows[level], rtol=1e-12)


def doses_as_rows(phi, x):
    """Bolus doses superposed: every row with a dose acts on the rows at and after it."""
    since = x.time[:, None] - x.time[None, :]
    fraction = jnp.where(since >= 0.0, jnp.exp(-0.1 * jnp.maximum(since, 0.0)), 0.0)
    return fraction @ jnp.where(x.mask, x.dose, 0.0) / phi.vol


def test_events_in_rows_are_not_repeated_between_them():
    """Rows between a dose and the next row would be doses too: the curve uses the rows only, and the legend states it.
    A column constant in each group, by which the residuals differ, does not split the curves."""
    time, dose = np.tile([0.0, 2.0, 8.0, 12.0, 14.0, 20.0], 8), np.tile([10.0, 0.0, 0.0, 5.0, 0.0, 0.0], 8)
    group = np.repeat(np.arange(8), 6)
    rng = np.random.default_rng(0)
    one_group = SimpleNamespace(time=time[:6], dose=dose[:6], mask=np.ones(6, bool))
    typical = np.tile(doses_as_rows(SimpleNamespace(vol=2.0), one_group), 8)
    simulated = typical * np.exp(0.3 * rng.normal(size=8))[group] + 0.1 * rng.normal(size=48)
    table = {"id": group, "time": time, "dose": dose, "conc": np.where(dose > 0, np.nan, simulated), "arm": group % 2}
    data = jn.GroupedData.from_frame(table, "id", "conc", x=["time", "dose"], v=["arm"])
    volume = jn.Parameter("vol", 2.0, transform="log", random=True)
    fit = jn.fit(jn.NLMEModel(doses_as_rows, [volume], error=jn.error.constant(by="arm")), data, standard_errors=False)
    axes = fit.plot.individual_fits(groups=[0, 1])
    population, individual, dots = axes[0].get_lines()
    np.testing.assert_array_equal(individual.get_xdata(), time[:6])
    np.testing.assert_allclose(individual.get_ydata(), fit.predict()[:6])
    legend = axes[0].figure.legends[0]
    assert legend.get_title().get_text().startswith("drawn through the fitted rows")
    assert [entry.get_text() for entry in legend.get_texts()] == ["population", "individual", "observed"]


def test_observed_predicted_has_a_panel_per_level(fit):
    both = fit.plot.observed_predicted()
    dots = both[1].get_lines()[1]
    np.testing.assert_allclose(dots.get_xdata(), fit.predict(level="group"))
    assert len(fit.plot.observed_predicted("population")) == 1
    with pytest.raises(jn.OptionError, match="2 panels"):
        fit.plot.observed_predicted(ax=both[0])
    with pytest.raises(jn.OptionError, match="level"):
        fit.plot.observed_predicted("subject")


def test_residuals_against_prediction_and_columns(fit):
    ax = fit.plot.residuals("cwres", "Time", smooth=False)
    np.testing.assert_allclose(ax.get_lines()[-1].get_ydata(), fit.residuals("cwres")["cwres"])
    assert ax.get_xlabel() == "Time" and ax.get_title() == "Residuals by FOCEI"
    assert fit.plot.residuals("pres", title="Theophylline").get_title() == "Theophylline"
    assert fit.plot.residuals("iwres").get_xlabel() == "predicted conc, individual"
    with pytest.raises(jn.OptionError, match="did you mean 'Time'"):
        fit.plot.residuals("cwres", "time")


def test_random_effects_and_history(fit):
    ax = fit.plot.random_effects()
    assert len(ax.get_yticklabels()) == 3
    ax = fit.plot.history()
    assert ax.get_lines()[0].get_ydata()[-1] == pytest.approx(fit.log_likelihood, abs=1e-6)


def test_titles_mark_a_fit_that_did_not_converge():
    fit = jn.fit(*theophylline(), max_iterations=1, standard_errors=False)
    assert not fit.converged
    assert fit.plot.history().get_title().startswith("NOT CONVERGED")
    axes = fit.plot.individual_fits(groups=[1])
    assert axes[0].figure.get_suptitle().startswith("NOT CONVERGED")


def test_without_matplotlib_the_extra_is_named(fit, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxnlme\[plot\]'"):
        _ = fit.plot
