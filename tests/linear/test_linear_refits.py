"""Profiles, bootstraps and intervals of predictions of linear mixed models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.linear.record import LinearFit

# Limits of lme4 1.1-31, confint(fit, method = "profile"); its are interpolated between points of the profile, ours are
# solved for.
ORTHODONT = {
    "(Intercept)": (15.075768, 19.669686),
    "age": (0.296462, 0.662637),
    "Sex[T.Male]": (-4.0159438, 1.9517392),
    "age:Sex[T.Male]": (0.0669912, 0.5426679),
    "sd((Intercept))": (1.2898813, 2.4119212),
    "sigma": (1.1826091, 1.6104487),
}
PENICILLIN = {
    "(Intercept)": (21.2666274, 24.6778176),
    "sd((Intercept)|plate)": (0.6335660, 1.1821040),
    "sd((Intercept)|sample)": (1.0957892, 3.5562916),
    "sigma": (0.4858454, 0.6294535),
}

# Yields of six batches of five: Box and Tiao (1973), Bayesian Inference in Statistical Analysis, table 5.1.4.
DYESTUFF2 = [
    7.298,
    3.846,
    2.434,
    9.566,
    7.99,
    5.22,
    6.556,
    0.608,
    11.788,
    -0.892,
    0.11,
    10.386,
    13.434,
    5.51,
    8.166,
    2.212,
    4.852,
    7.092,
    9.288,
    4.98,
    0.282,
    9.014,
    4.458,
    9.446,
    7.198,
    1.722,
    4.782,
    8.106,
    0.758,
    3.758,
]


@pytest.fixture(scope="module")
def growth() -> LinearFit:
    return jn.lme("distance ~ age * Sex", "~ 1 | Subject", jn.datasets.orthodont())


@pytest.fixture(scope="module")
def split_plot() -> LinearFit:
    return jn.lme("yield ~ nitro", random="~ 1 | Block/Variety", data=jn.datasets.oats())


def dense_variances(
    fit: LinearFit, count: int, sources: tuple[str, ...], correlation: np.ndarray | None = None
) -> np.ndarray:
    """Variances of the errors of predictions (rows,) with the effects of `count` levels, by V^-1 rows by rows, and the
    `correlation` (rows, rows) of the residuals, None for independent ones."""
    X, rows = fit.model.fixed.matrix, fit.model.n_rows
    residual = fit.sigma**2 * (np.eye(rows) if correlation is None else correlation)
    parts = []
    for grouping, psi in zip(fit.model.groupings, fit.outcome.psi, strict=True):
        same_unit = grouping.units.codes[:, None] == grouping.units.codes[None, :]
        parts.append(same_unit * (grouping.matrix @ psi @ grouping.matrix.T))
    inverse = np.linalg.inv(residual + sum(parts))
    C = np.linalg.inv(X.T @ inverse @ X)
    inside, beyond = sum(parts[:count], np.zeros((rows, rows))), sum(parts[count:], np.zeros((rows, rows)))
    d = X - inside @ inverse @ X
    terms = {
        "effects": np.diag(inside - inside @ inverse @ inside + beyond),
        "parameters": np.einsum("ij,jk,ik->i", d, C, d),
        "residual": np.diag(residual),
    }
    return sum((terms[name] for name in sources), np.zeros(rows))


def half_widths(frame: pd.DataFrame) -> np.ndarray:
    return ((frame["upper"] - frame["lower"]) / 2.0).to_numpy()


# --- intervals of predictions ---


SOURCES = [("parameters",), ("effects",), ("parameters", "effects", "residual")]


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("level", [None, "Block", "population"])
def test_intervals_of_predictions(split_plot: LinearFit, level: str | None, sources: tuple[str, ...]) -> None:
    """By the covariance of all rows; the same for the rows of the fit given as a table."""
    count = {None: 2, "Block": 1, "population": 0}[level]
    found = split_plot.predict(level=level, interval=0.9, uncertainty=sources)
    expected = 1.6448536269514722 * np.sqrt(dense_variances(split_plot, count, sources))
    np.testing.assert_allclose(half_widths(found), expected, rtol=1e-10)
    np.testing.assert_array_equal(found["prediction"], split_plot.predict(level=level))
    again = split_plot.predict(split_plot.model.frame, level=level, interval=0.9, uncertainty=sources)
    pd.testing.assert_frame_equal(again, found)


def test_intervals_with_crossed_factors() -> None:
    fit = jn.lme("diameter ~ 1 + (1 | plate) + (1 | sample)", data=jn.datasets.penicillin())
    found = fit.predict(interval=0.9, uncertainty=("parameters", "effects"))
    expected = 1.6448536269514722 * np.sqrt(dense_variances(fit, 2, ("parameters", "effects")))
    np.testing.assert_allclose(half_widths(found), expected, rtol=1e-8)  # differences of terms a hundred times as large
    for level in ([1], True, 3, 0.5):
        with pytest.raises(jn.OptionError, match="level must be None, a label, or a number from 0 to 2; received"):
            fit.predict(level=level)
    with pytest.raises(jn.OptionError, match="crossed"):
        fit.predict(level=1)


def test_a_new_unit_has_the_interval_of_the_population(growth: LinearFit) -> None:
    new = pd.DataFrame({"age": [16.0, 16.0], "Sex": ["Female", "Female"], "Subject": ["F01", "new"]})
    of_units, population = growth.predict(new, interval=0.95), growth.predict(new, level=0, interval=0.95)
    np.testing.assert_allclose(of_units.iloc[1], population.iloc[1], rtol=1e-12)
    assert half_widths(of_units)[0] < 0.95 * half_widths(population)[0]


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("level", [None, "population"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_intervals_with_random_slopes(shuffled: bool, level: str | None, sources: tuple[str, ...]) -> None:
    data = jn.datasets.orthodont()
    table = data.sample(frac=1.0, random_state=4) if shuffled else data
    fit = jn.lme("distance ~ age", "~ age | Subject", table)
    found = fit.predict(level=level, interval=0.9, uncertainty=sources)
    expected = 1.6448536269514722 * np.sqrt(dense_variances(fit, 0 if level else 1, sources))
    np.testing.assert_allclose(half_widths(found), expected, rtol=1e-8)  # intercepts and slopes correlate by -0.6
    pd.testing.assert_index_equal(found.index, table.index)
    new = fit.predict(data, level=level, interval=0.9, uncertainty=sources)
    pd.testing.assert_frame_equal(new, found.loc[data.index])


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("shuffled", [False, True])
def test_intervals_where_residuals_are_correlated(shuffled: bool, sources: tuple[str, ...]) -> None:
    """By the covariance of all rows, residuals of a subject correlated by rho to the number of rows between them."""
    data = jn.datasets.orthodont()
    subject = data["Subject"].to_numpy()
    noise = np.random.default_rng(2).normal(size=len(data))
    for row in np.flatnonzero(subject[1:] == subject[:-1]) + 1:
        noise[row] = 0.8 * noise[row - 1] + 0.6 * noise[row]
    data = data.assign(distance=data["distance"] + 3.0 * noise)
    data = data.sample(frac=1.0, random_state=4) if shuffled else data
    fit = jn.lme("distance ~ age", "~ 1 | Subject", data, correlation=jn.correlation.AR1())
    assert fit.converged
    assert fit.values["rho"] > 0.3 or shuffled
    subject, place = data["Subject"].to_numpy(), data.groupby("Subject", observed=True).cumcount().to_numpy()
    apart = np.abs(place[:, None] - place[None, :])
    correlation = np.where(subject[:, None] == subject[None, :], fit.values["rho"] ** apart, 0.0)
    found = fit.predict(interval=0.9, uncertainty=sources)
    expected = 1.6448536269514722 * np.sqrt(dense_variances(fit, 1, sources, correlation))
    np.testing.assert_allclose(half_widths(found), expected, rtol=1e-8)
    if "effects" in sources:
        independent = 1.6448536269514722 * np.sqrt(dense_variances(fit, 1, sources))
        assert np.abs(half_widths(found) / independent - 1.0).max() > 1e-3


def test_a_variance_that_depends_on_the_row(growth: LinearFit) -> None:
    data = jn.datasets.orthodont()
    fit = jn.lme("distance ~ age * Sex", "~ 1 | Subject", data, weights=jn.variance.strata("Sex"))
    widths = half_widths(fit.predict(interval=0.95, uncertainty="residual"))
    male = (data["Sex"] == "Male").to_numpy()
    np.testing.assert_allclose(widths / widths[male][0], np.where(male, 1.0, widths[~male][0] / widths[male][0]))
    assert widths[male][0] > 1.5 * widths[~male][0]
    with pytest.raises(jn.OptionError, match=r"function of its rows, which is not computed for other data"):
        fit.predict(data, interval=0.95)
    assert np.isfinite(half_widths(fit.predict(data, interval=0.95, uncertainty=["parameters", "effects"]))).all()


def test_options_of_intervals(growth: LinearFit) -> None:
    with pytest.raises(jn.OptionError, match=r"belongs to intervals: give interval=0.95"):
        growth.predict(uncertainty="residual")
    with pytest.raises(jn.OptionError, match="uncertainty 'residuals' is not known"):
        growth.predict(interval=0.9, uncertainty="residuals")
    with pytest.raises(jn.OptionError, match="interval must be the probability"):
        growth.predict(interval=True)


# --- profiles ---


def test_profile_of_a_growth_curve(growth: LinearFit) -> None:
    found = growth.profile()
    for name, limits in ORTHODONT.items():
        assert found.intervals.loc[name, ["lower", "upper"]].tolist() == pytest.approx(limits, abs=2e-4)
    assert (found.table["status"] == "converged").all()
    assert "refitted by ML" in str(found)
    ends = found.table.set_index("value").loc[found.intervals.loc["sigma", "upper"]]
    assert ends["deviance"] == pytest.approx(3.841459, abs=1e-3)
    assert len(np.ravel(found.plot())) == 6


def test_profile_with_crossed_factors() -> None:
    fit = jn.lme("diameter ~ 1 + (1 | plate) + (1 | sample)", data=jn.datasets.penicillin(), method="ML")
    for name, (lower, upper) in PENICILLIN.items():
        found = fit.profile(name).intervals.loc[name]
        assert (found["lower"], found["upper"]) == pytest.approx((lower, upper), abs=3e-4)


def test_profile_of_a_correlation() -> None:
    """lme4's limits of the sleep study; the table of the profile has the other parameters along it."""
    fit = jn.lme("Reaction ~ Days + (Days | Subject)", data=jn.datasets.sleepstudy())
    found = fit.profile("corr((Intercept), Days)")
    limits = found.intervals.loc["corr((Intercept), Days)"]
    assert (limits["lower"], limits["upper"]) == pytest.approx((-0.4815008, 0.6849863), abs=3e-4)
    table = found.table
    np.testing.assert_allclose(table["corr((Intercept), Days)"], table["value"], atol=1e-5)
    # A held point is a maximum: the likelihood of the values in its row is what the row says.
    assert (table["log_likelihood"] <= fit.update(method="ML").log_likelihood + 1e-6).all()


def test_profile_of_a_variance_estimated_as_zero() -> None:
    """lme4's limits: 0 to 2.084043."""
    data = pd.DataFrame({"Yield": DYESTUFF2, "Batch": np.repeat(list("ABCDEF"), 5)})
    fit = jn.lme("Yield ~ 1 + (1 | Batch)", data=data)
    found = fit.profile(["sd((Intercept))", "sigma"])
    assert found.intervals.loc["sd((Intercept))", ["lower", "upper"]].tolist() == pytest.approx([0, 2.084043], abs=2e-4)
    assert found.intervals.loc["sigma", ["lower", "upper"]].tolist() == pytest.approx([2.892831, 4.815833], abs=2e-4)
    assert "estimated as zero" in found.intervals.loc["sd((Intercept))", "note"]


def test_refusals_of_a_profile(growth: LinearFit) -> None:
    with pytest.raises(jn.OptionError, match=r"'ages' is not a parameter of this fit.*age"):
        growth.profile("ages")
    data = jn.datasets.orthodont()
    by_fitted = jn.lme("distance ~ age", "~ 1 | Subject", data, weights=jn.variance.power(), method="ML")
    with pytest.raises(jn.OptionError, match="function of the fitted values maximises no likelihood"):
        by_fitted.profile("age")


# --- bootstraps ---


def test_parametric_bootstrap(growth: LinearFit) -> None:
    """Standard deviations of 200 replicates are the standard errors, up to a Monte Carlo error of 5%."""
    found = growth.bootstrap(200, seed=3)
    assert found.converged.all()
    ratio = found.se / growth.estimates["se"]
    assert ((ratio > 0.8) & (ratio < 1.25)).all()
    again = growth.bootstrap(5, seed=3)
    pd.testing.assert_frame_equal(again.replicates, found.replicates.head(5))
    limits = found.intervals(0.9, "basic")
    assert (limits["lower"] < limits["estimate"]).all()
    with pytest.raises(jn.OptionError, match="jackknife"):
        found.intervals(kind="bca")


def test_case_bootstrap_of_nested_units(split_plot: LinearFit) -> None:
    """A replicate is the fit to a table with the drawn blocks, each a block of its own."""
    found = split_plot.bootstrap(3, seed=1, kind="case")
    data = jn.datasets.oats()
    codes = split_plot.model.groupings[0].units.codes
    chosen = np.random.default_rng([1, 2]).integers(6, size=6)
    table = pd.concat([data[codes == unit].assign(Block=f"draw {k}") for k, unit in enumerate(chosen)])
    expected = jn.lme("yield ~ nitro", random="~ 1 | Block/Variety", data=table)
    assert found.replicates.loc[2, "log_likelihood"] == pytest.approx(expected.log_likelihood, abs=1e-7)
    for name, value in expected.values.items():
        assert found.replicates.loc[2, name] == pytest.approx(value, rel=1e-4, abs=1e-4)
    assert "There are 6 groups" in str(found)


def test_case_bootstrap_with_correlated_residuals() -> None:
    data = jn.datasets.orthodont()
    fit = jn.lme("distance ~ age", "~ 1 | Subject", data, correlation=jn.correlation.AR1())
    found = fit.bootstrap(2, seed=5, kind="case")
    codes = fit.model.groupings[0].units.codes
    chosen = np.random.default_rng([5, 1]).integers(27, size=27)
    table = pd.concat([data[codes == unit].assign(Subject=f"draw {k}") for k, unit in enumerate(chosen)])
    expected = jn.lme("distance ~ age", "~ 1 | Subject", table, correlation=jn.correlation.AR1())
    assert found.replicates.loc[1, "log_likelihood"] == pytest.approx(expected.log_likelihood, abs=1e-5)


def test_a_sample_that_lacks_a_category_is_counted() -> None:
    """Sex of 3 subjects: a draw of one sex has no information on it."""
    data = jn.datasets.orthodont()
    few = data[data["Subject"].isin(["M01", "F01", "F02"])]
    found = jn.lme("distance ~ age + Sex", "~ 1 | Subject", few, method="ML").bootstrap(20, kind="case")
    lacking = found.replicates["status"] == "without information on some parameter"
    assert 1 <= lacking.sum() < 20
    assert found.replicates.loc[lacking, "age"].isna().all()
    assert "without information" in str(found)


def test_an_interrupted_bootstrap_keeps_its_replicates(growth: LinearFit, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(self: ProgressLine, text: str, done: int = 0) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLine, "show", show)
    found = growth.bootstrap(5)
    assert found.interrupted
    assert found.converged.sum() == 2
    assert "Interrupted: 2 of 5 replicates were run." in str(found)


def test_refusals_of_a_bootstrap() -> None:
    fit = jn.lme("diameter ~ 1 + (1 | plate) + (1 | sample)", data=jn.datasets.penicillin())
    with pytest.raises(jn.OptionError, match=r"outermost grouping factor, and they are crossed: use 'parametric'"):
        fit.bootstrap(5, kind="case")
    with pytest.raises(jn.OptionError, match="kind"):
        fit.bootstrap(5, kind="residual")
