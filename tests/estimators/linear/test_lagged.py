"""Cross-products by lag: the likelihood of whitened rows, and fits of tables large enough to use them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
import jaxnlme.linear.fit as linear_fit
from jaxnlme.estimators.linear.lagged import lagged_products
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.precision import x64


def frame(subjects=8, visits=3, rows=6):
    """Visits of subjects, rows at the times 0, 1, 2, ..., some missing: gaps of one and of two units of time."""
    rng = np.random.default_rng(4)
    table = pd.MultiIndex.from_product([range(subjects), range(visits), range(rows)], names=["s", "v", "t"])
    table = table.to_frame(index=False).drop(index=range(2, subjects * visits * rows, 7)).reset_index(drop=True)
    level = rng.normal(size=subjects)[table.s] + 0.5 * rng.normal(size=(subjects, visits))[table.s, table.v]
    return table.assign(x=(x := rng.normal(size=len(table))), y=2.0 + x + level + rng.normal(size=len(table)))


CORRELATIONS = {
    "AR1 over times": jn.correlation.AR1("t", within="v"),
    "AR1 over positions": jn.correlation.AR1(),
    "CAR1": jn.correlation.CAR1("t", within="v"),
    "held": jn.correlation.AR1("t", within="v", rho=jn.fixed(0.4)),
}


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("random", ["~ x | s", "~ 1 | s/v"])
def test_the_likelihood_is_that_of_whitened_rows(name, random):
    fit = jn.lme("y ~ x", random=random, data=frame(), correlation=CORRELATIONS[name])
    by_lag = lagged_products(fit.residual.rows)
    assert by_lag is not None
    quick, rows = (ProfiledLikelihood(source, fit.model.n_rows, True) for source in (by_lag, fit.residual.rows))
    theta = rows.start()
    np.testing.assert_array_equal(quick.start(), theta)
    with x64():
        (value, gradient, rss), expected = quick.profiled(theta), rows.profiled(theta)
    assert value == pytest.approx(expected[0], abs=1e-9)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-8, atol=1e-8)
    assert rss == pytest.approx(expected[2], rel=1e-10)


def test_other_residual_models_have_none():
    """Variance functions, correlations that are not Markov, and many distances of time."""
    table = frame().assign(u=lambda rows: np.cumsum(1.0 + 0.1 * np.arange(len(rows))))
    for options in (
        {"correlation": jn.correlation.AR1("t"), "weights": jn.variance.strata("v")},
        {"correlation": jn.correlation.Gaussian("t")},
        {"correlation": jn.correlation.CAR1("u")},
    ):
        fit = jn.lme("y ~ x", random="~ 1 | s/v", data=table, **options)
        assert lagged_products(fit.residual.rows) is None


def test_a_large_table_is_fitted_by_lag_as_by_rows(monkeypatch):
    table = frame(subjects=600, visits=2, rows=9)
    used = []
    monkeypatch.setattr(linear_fit, "lagged_products", lambda rows: used.append(lagged_products(rows)) or used[-1])
    fit = jn.lme("y ~ x", random="~ 1 | s/v", data=table, correlation=jn.correlation.AR1("t"))
    assert used and used[0] is not None
    assert used[0].largest_correlation(fit.outcome.estimation.theta) < LINEAR.largest_lagged
    monkeypatch.setattr(linear_fit, "lagged_products", lambda rows: None)
    rows = jn.lme("y ~ x", random="~ 1 | s/v", data=table, correlation=jn.correlation.AR1("t"))
    assert fit.log_likelihood == pytest.approx(rows.log_likelihood, abs=1e-7)
    np.testing.assert_allclose(fit.estimates["estimate"], rows.estimates["estimate"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fit.estimates["se"], rows.estimates["se"], rtol=1e-4)
    np.testing.assert_allclose(fit.residuals("normalized"), rows.residuals("normalized"), atol=1e-5)
