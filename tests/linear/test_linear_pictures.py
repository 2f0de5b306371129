"""Pictures and visual predictive checks of linear mixed models."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

import jaxnlme as jn

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def fit() -> jn.LinearFit:
    return jn.lme("distance ~ age * Sex", random="~ age | Subject", data=jn.datasets.orthodont())


def test_pictures_have_the_numbers_of_the_fit(fit: jn.LinearFit) -> None:
    panels = fit.plot()
    assert len(panels) == 7 and panels.figure.get_suptitle() == "REML: 108 rows"
    dots = [next(line for line in ax.get_lines() if line.get_marker() == "o") for ax in panels]
    y = jn.datasets.orthodont()["distance"].to_numpy()
    np.testing.assert_allclose(dots[0].get_xydata(), np.stack([fit.predict(level="population"), y], axis=1))
    np.testing.assert_allclose(dots[1].get_xydata(), np.stack([fit.fitted, y], axis=1))
    np.testing.assert_allclose(dots[2].get_ydata(), (y - fit.fitted) / fit.sigma)
    slopes = fit.random_effects["Subject"]["age"] / np.sqrt(fit.psi["Subject"].loc["age", "age"])
    np.testing.assert_allclose(dots[6].get_ydata(), np.sort(slopes))
    boxes = fit.plot.residuals(against="Sex")
    assert [text.get_text() for text in boxes.get_xticklabels()] == ["Female\nn = 44", "Male\nn = 64"]
    with pytest.raises(jn.OptionError, match="did you mean 'Sex'"):
        fit.plot.residuals(against="Sx")


def test_vpc_has_percentiles_of_simulated_tables(fit: jn.LinearFit) -> None:
    table = jn.datasets.orthodont()
    check = fit.vpc(replicates=50, seed=3)
    draws = fit.simulate(50, 3)
    rows = (table["age"] == 12).to_numpy()
    medians = np.median(draws[:, rows], axis=1)
    row = check.simulated.query("percentile == 50").iloc[2]
    np.testing.assert_allclose(row[["low", "median", "high"]].astype(float), np.quantile(medians, [0.025, 0.5, 0.975]))
    assert check.observed.query("percentile == 50")["value"].iloc[2] == table["distance"][rows].median()
    with pytest.raises(jn.OptionError, match="x: no column 'agee'"):
        fit.vpc("agee")
    with pytest.raises(jn.DataError, match="Sex"):
        fit.vpc("Sex", replicates=20)


def test_what_is_not_there_is_named_with_what_is(fit: jn.LinearFit) -> None:
    with pytest.raises(AttributeError, match=r"no fit.confidence_intervals: use fit.intervals\(level\)"):
        fit.confidence_intervals  # noqa: B018
    with pytest.raises(AttributeError, match=r"fits of jn\.fit have it"):
        fit.multistart()
    with pytest.raises(AttributeError, match="it has gof, observed_predicted"):
        fit.plot.individual_fits()
