"""Linear models with tables, arguments and pairs of models that a user gets wrong: a sentence or the right number."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.comparison.conftest import TABLES, frame


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
