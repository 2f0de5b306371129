"""Linear models with tables, arguments and pairs of models that a user gets wrong: a sentence or the right number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.comparison.conftest import frame


@pytest.fixture(scope="module")
def slopes() -> jn.LinearFit:
    return jn.lme("distance ~ age + (age | Subject)", data=frame())


def casks() -> pd.DataFrame:
    """Three casks in each of ten batches, two rows of each; casks are called a, b and c in every batch."""
    rng = np.random.default_rng(4)
    batch, cask = np.repeat(np.arange(10), 6), np.tile(np.repeat(np.arange(3), 2), 10)
    y = 60.0 + rng.standard_normal(10)[batch] + 2.0 * rng.standard_normal(30)[3 * batch + cask]
    y += 0.8 * rng.standard_normal(60)
    labels = np.array(list("abc"))[cask]
    sample = [f"{b}{c}" for b, c in zip(batch, labels, strict=True)]
    return pd.DataFrame({"batch": batch, "cask": labels, "sample": sample, "y": y, "x": np.arange(60) % 7.0})


def test_a_grouping_factor_more_is_a_nested_model() -> None:
    table = casks()
    batch, both = (jn.lme(f"y ~ 1 + (1 | {group})", data=table) for group in ("batch", "batch/cask"))
    test = jn.likelihood_ratio_test(batch, both)
    assert test.method == "mixture" and test.nesting.added == ("sd((Intercept)|cask)",)
    chi2 = 2.0 * (both.log_likelihood - batch.log_likelihood)
    assert chi2 > 1.0 and f"{chi2:.4g}"[:4] in str(test)
    # Another name for the same units, and the factor that crosses the batches by the name of the nested one.
    sample = jn.lme("y ~ 1 + (1 | sample)", data=table)
    assert jn.likelihood_ratio_test(sample, both).nesting.added == ("sd((Intercept)|batch)",)
    with pytest.raises(jn.OptionError, match="lacks sd"):
        jn.likelihood_ratio_test(jn.lme("y ~ 1 + (1 | cask)", data=table), both)
    assert np.isfinite(jn.compare(batch, both).table["p"].iloc[1])


def test_a_column_of_the_same_name_with_other_values_is_not_nested() -> None:
    table = casks()
    small = jn.lme("y ~ x + (1 | batch)", data=table, method="ML")
    other = table.assign(z=table.x, x=np.arange(60) % 11.0)
    with pytest.raises(jn.OptionError, match="different values in the column of x"):
        jn.likelihood_ratio_test(small, small.update(". ~ . + z", data=other))
    with pytest.raises(jn.OptionError, match="lacks sd"):
        mixed = table.assign(batch=table.batch.to_numpy()[::-1] // 2 + np.arange(60) % 2 * 5)
        jn.likelihood_ratio_test(small, small.update(". ~ . + z", data=mixed.assign(z=table.x**2)))


def test_predictions_averaged_over_linear_models(slopes: jn.LinearFit) -> None:
    models = [slopes.update(method="ML"), slopes.update(". ~ . + Sex", method="ML")]
    comparison = jn.compare(*models)
    new = frame().iloc[[5, 1]]
    mean = sum(w * model.predict(new) for w, model in zip(comparison.weights, models, strict=True))
    averaged = comparison.predict(new)
    np.testing.assert_allclose(averaged, mean, rtol=1e-12)
    assert list(averaged.index) == [5, 1] and len(comparison.predict(level="population")) == 108


def test_predictions_of_odd_tables(slopes: jn.LinearFit) -> None:
    assert slopes.predict(frame()[:0]).shape == (0,)
    with pytest.raises(jn.DataError, match="different lengths"):
        slopes.predict({"age": [8.0, 9.0], "Subject": ["M01"]})
    with pytest.raises(jn.DataError, match="'Subject' are numbers, and text"):
        slopes.predict({"age": [8.0], "Subject": [1]})
    # A new unit has effects of zero, beside known ones or by itself.
    new = slopes.predict({"age": [8.0, 8.0], "Subject": ["M01", "new"]})
    assert new[1] == pytest.approx(slopes.predict({"age": [8.0], "Subject": ["other"]})[0])
    assert new[1] == pytest.approx(slopes.beta.iloc[0] + 8.0 * slopes.beta.iloc[1]) and abs(new[0] - new[1]) > 0.1
    with pytest.raises(jn.OptionError, match=r"; did you mean 'Subject'"):
        slopes.predict(level="subject")


@pytest.mark.parametrize(
    ("weights", "value", "sentence"),
    [("w", np.inf, "holds inf; expected finite"), (jn.variance.power("w"), 0.0, "constant_power")],
)
def test_weights_that_cannot_be(weights: object, value: float, sentence: str) -> None:
    table = frame().assign(w=1.0 + np.arange(108) % 3)
    table.loc[4, "w"] = value
    with pytest.raises(jn.DataError, match=sentence):
        jn.gls("distance ~ age", table, weights=weights)


def test_a_model_without_fixed_effects() -> None:
    fit = jn.lme("distance ~ 0 + (1 | Subject)", data=frame())
    assert len(fit.beta) == 0 and "sd((Intercept))" in str(fit.summary())
    with pytest.raises(jn.OptionError, match="no fixed effects"):
        fit.anova()


def test_rows_that_are_units_have_no_variance_of_their_own() -> None:
    table = casks().assign(row=np.arange(60))
    fit = jn.lme("y ~ x + (1 | row)", data=table)
    assert not fit.converged and "only their sum is" in str(fit.status)
    assert fit.psi["row"].iloc[0, 0] + fit.sigma**2 == pytest.approx(jn.gls("y ~ x", table).sigma ** 2, rel=1e-6)
    assert not jn.lme("y ~ x + (1 | batch/row)", data=table).converged


def test_responses_that_are_fitted_exactly() -> None:
    table = casks()
    fit = jn.lme("y ~ x + (1 | batch)", data=table.assign(y=table.batch + 2.0 * table.x))
    assert not fit.converged and "igma tends to zero" in str(fit.status)


@pytest.mark.parametrize("unit", [1e200, 1e-170])
def test_units_whose_squares_are_no_numbers(unit: float) -> None:
    with pytest.raises(jn.DataError, match="another unit"):
        jn.gls("distance ~ age", frame().assign(distance=frame().distance * unit))


def test_arguments_in_other_places(slopes: jn.LinearFit) -> None:
    with pytest.raises(jn.OptionError, match="second argument is random="):
        jn.lme("distance ~ age + (1 | Subject)", frame())
    with pytest.raises(jn.OptionError, match="key is the seed"):
        slopes.simulate(1, key="a")


def test_predictions_of_combinations_that_the_data_lack() -> None:
    table = casks().assign(late=np.repeat([0, 1], 30)).query("cask != 'c' or late == 0")
    fit = jn.lme("y ~ cask * C(late) + (1 | batch)", data=table)
    new = pd.DataFrame({"cask": ["a", "c", "c"], "late": [1, 0, 1], "batch": [0, 0, 0]})
    predicted = fit.predict(new)
    assert np.isfinite(predicted[:2]).all() and np.isnan(predicted[2])
    np.testing.assert_allclose(fit.predict(table), fit.predict())
    # A column that is twice another one is known wherever that is.
    doubled = jn.gls("y ~ x + w", table.assign(w=2.0 * table.x))
    assert np.isfinite(doubled.predict({"x": [3.5], "w": [7.0]})).all()
    assert np.isnan(doubled.predict({"x": [3.5], "w": [3.5]})).all()


def test_two_factors_with_the_same_units() -> None:
    table = casks()
    fit = jn.lme("y ~ x + (1 | batch) + (1 | twin)", data=table.assign(twin=table.batch + 100))
    assert not fit.converged and "the same units" in str(fit.status)


def test_generalised_models_are_nested_by_their_columns() -> None:
    table = casks()
    table["count"] = np.random.default_rng(2).poisson(np.exp(1.0 + 0.1 * table.x + 0.1 * (table.y - 60.0)))
    null, slope, units = (
        jn.glmer(f"count ~ {right}", table, family="poisson")
        for right in ("1 + (1 | batch)", "x + (1 | batch)", "1 + (1 | batch/cask)")
    )
    test = jn.likelihood_ratio_test(null, slope)
    assert test.method == "chi-square" and test.nesting.added == ("x",) and test.nesting.only_fixed_effects
    assert jn.likelihood_ratio_test(null, units).nesting.one_variance
    other = jn.glmer("count ~ x + z + (1 | batch)", table.assign(z=table.x, x=np.arange(60) % 5.0), family="poisson")
    with pytest.raises(jn.OptionError, match="column of x"):
        jn.likelihood_ratio_test(slope, other)
    held = slope.update(fixed={"x": 0.3})
    assert jn.likelihood_ratio_test(held, slope).nesting.df == 1
    wider = jn.glmer("count ~ x + I(x^2) + (1 | batch)", table, family="poisson")
    with pytest.raises(jn.OptionError, match="held"):
        jn.likelihood_ratio_test(held, wider)
    with pytest.raises(jn.OptionError, match=r"call jn\.glmer"):
        slope.update(". ~ . - x")


def test_generalised_predictions_of_combinations_that_the_data_lack() -> None:
    table = casks().assign(late=np.repeat([0, 1], 30), count=np.arange(60) % 4).query("cask != 'c' or late == 0")
    fit = jn.glmer("count ~ cask * C(late) + (1 | batch)", table, family="poisson")
    new = pd.DataFrame({"cask": ["a", "c"], "late": [1, 1]})
    predicted = fit.predict(new, level="population")
    assert np.isfinite(predicted[0]) and np.isnan(predicted[1])


def test_long_names_of_a_table_stay_distinct() -> None:
    table = casks().assign(treatment=np.tile(["one", "another", "a third"], 20))
    text = str(jn.lme("y ~ 1 + (treatment | batch)", data=table).summary())
    names = [line.split("   ")[0] for line in text.splitlines() if line.startswith("corr(")]
    assert len(names) == 3 and len(set(names)) == 3
