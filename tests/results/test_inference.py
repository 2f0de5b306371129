"""The table of estimates: delta method against finite differences, intervals, fixed values."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.results.criteria import criteria, weighted_totals


def test_delta_method(fit: jn.Fit) -> None:
    """The Jacobian of the reported values against central differences, and the covariance made of it."""
    density, params = fit.binding.density, jax.tree.map(jnp.asarray, fit.params)
    packed = np.asarray(params.pack())
    steps = 1e-6 * np.eye(len(packed))
    reported = jax.jit(jax.vmap(lambda vector: density.reported(params.unpack(vector))))
    numeric = (reported(packed + steps) - reported(packed - steps)) / 2e-6
    np.testing.assert_allclose(fit.information.jacobian, numeric.T, atol=1e-8)
    covariance = numeric.T @ np.linalg.inv(fit.information.matrix) @ numeric
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(fit.estimates["se"], np.sqrt(np.diag(covariance)), rtol=1e-6)


def test_table_of_estimates(fit: jn.Fit) -> None:
    table = fit.estimates
    names = ["ka", "cl", "vol", "cl ~ center(log(Wt))", "sd(ka)", "sd(cl)", "sd(vol)", "a", "b"]
    assert table.index.tolist() == names
    logs = ["ka", "cl", "vol"]
    np.testing.assert_allclose(table.loc[logs, "rse%"], 100.0 * table.se[logs], rtol=1e-12)
    others = table.drop(index=logs)
    np.testing.assert_allclose(others["rse%"], 100.0 * others.se / others.estimate.abs(), rtol=1e-12)
    for column, natural in (("estimate", "value"), ("lower", "value_lower"), ("upper", "value_upper")):
        np.testing.assert_allclose(table.loc[logs, natural], np.exp(table.loc[logs, column]), rtol=1e-12)
    np.testing.assert_allclose(table.upper[:4] - table.lower[:4], 2 * 1.959963984540054 * table.se[:4], rtol=1e-12)
    # Positive parameters: symmetric on the log scale.
    np.testing.assert_allclose(table.upper[4:] * table.lower[4:], table.estimate[4:] ** 2, rtol=1e-12)
    sd = table.estimate["sd(ka)"]
    assert table["cv%"]["sd(ka)"] == pytest.approx(100.0 * np.sqrt(np.exp(sd**2) - 1.0))
    assert not table.fixed.any()
    wide = fit.confidence_intervals(0.99)
    assert (wide.lower < table.lower).all()
    assert (wide.upper > table.upper).all()
    for name, value in fit.values.items():
        row = table.loc[name]
        assert value == pytest.approx(row["value"] if np.isfinite(row["value"]) else row["estimate"])


def test_criteria(fit: jn.Fit) -> None:
    c = fit.criteria
    assert (c.n_parameters, c.n_obs, c.n_groups, c.n_fixed, c.n_free) == (9, 129, 12, 0, 0)
    assert fit.bic - fit.aic == pytest.approx(9 * (np.log(129) - 2))
    assert fit.objective == pytest.approx(-2 * fit.log_likelihood - 129 * np.log(2 * np.pi))
    assert fit.log_likelihood == pytest.approx(fit.group_log_likelihood.sum())


def test_criteria_of_a_restricted_likelihood(fit: jn.Fit) -> None:
    """Values of R's nlme 3.1-162 for lme(distance ~ age, Orthodont, ~ age | Subject): logLik to AIC and BIC, with 106
    of 108 observations for two fixed effects; a fixed one is not integrated out and does not count."""
    data = dataclasses.replace(fit.data, weights=np.full(12, 108 / 129))
    of_r = criteria(-221.318342942064, np.zeros(6, bool), None, data, integrated=2)
    assert (of_r.n_parameters, of_r.n_integrated, of_r.n_used) == (6, 2, pytest.approx(106))
    assert of_r.aic == pytest.approx(454.636685884128, abs=1e-9)
    assert of_r.bic == pytest.approx(470.617320448801, abs=1e-9)
    fixed = np.array([True, False, False, False, False, False])
    assert criteria(-1.0, fixed, None, data, integrated=2).n_integrated == 1
    restricted = dataclasses.replace(fit, restricted=True)
    p = len(fit.binding.density.beta_names)
    assert restricted.bic - restricted.aic == pytest.approx(9 * (np.log(129 - p) - 2))
    assert restricted.objective == pytest.approx(-2 * fit.log_likelihood - (129 - p) * np.log(2 * np.pi))
    text = str(restricted.summary())
    assert f"{fit.log_likelihood:.4f} (restricted: {p} fixed effects integrated out)" in text
    assert f"BIC {restricted.bic:.2f} (N = 129 - {p} observations)" in text
    assert "FOCEI, restricted likelihood" in text
    assert "restricted log-likelihood" in repr(restricted)
    assert "restricted" not in str(fit.summary()) + repr(fit)


def test_groups_count_with_their_weights(fit: jn.Fit, data: jn.GroupedData) -> None:
    """A group of weight zero is no group, one of weight two is two; the fit without the group is the reference."""
    weights = np.ones(12)
    weights[3] = 0.0
    weighted = jn.fit(fit.model, data.with_weights(weights), "focei", standard_errors=False)
    without = jn.fit(fit.model, data.select(weights == 1.0), "focei", standard_errors=False)
    for name in ("objective", "aic", "bic", "bic_groups"):
        assert getattr(weighted, name) == pytest.approx(getattr(without, name), abs=1e-6), name
    assert (weighted.criteria.n_obs, weighted.criteria.n_groups) == (without.data.n_obs, 11)
    assert f"BIC {weighted.bic:.2f} (N = {without.data.n_obs} observations)" in str(weighted.summary())
    assert f"BIC {weighted.bic_groups:.2f} (N = 11 groups)" in str(weighted.summary())
    multinomial = dataclasses.replace(fit, binding=jn.bind(fit.model, data.with_weights(1.5 * weights)))
    assert (multinomial.criteria.n_obs, multinomial.criteria.n_groups) == (1.5 * without.data.n_obs, 16.5)


def test_groups_without_information_are_not_counted(fit: jn.Fit, data: jn.GroupedData) -> None:
    """A group without responses or with weight zero has b = 0, which is no sign of shrinkage."""
    observed = data.observed.copy()
    observed[3] = False
    assert weighted_totals(dataclasses.replace(data, observed=observed)) == (observed.sum(), 11.0, 0.0)
    weights = np.ones(12)
    weights[5] = 0.0
    weighted = jn.fit(fit.model, data.with_weights(weights), "focei", standard_errors=False)
    effects = weighted.random_effects.to_numpy()[weights > 0]
    expected = 100.0 * (1.0 - effects.std(axis=0, ddof=1) / np.sqrt(np.diag(weighted.psi)))
    np.testing.assert_allclose(weighted.shrinkage, expected, rtol=1e-10)


def test_random_effects(fit: jn.Fit) -> None:
    b, se = fit.random_effects, fit.random_effects_se
    assert b.index.tolist() == fit.data.labels.tolist()
    # A conditional standard error is smaller than the standard deviation of the effect.
    assert (se < np.sqrt(np.diag(fit.psi))).all().all()
    expected = 100.0 * (1.0 - b.std(ddof=1) / np.sqrt(np.diag(fit.psi)))
    np.testing.assert_allclose(fit.shrinkage, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["log", "logit", "logit(-2, 5)", "probit", "identity"])
def test_relative_errors_are_those_of_the_natural_value(fit: jn.Fit, name: str) -> None:
    """The standard error of h(xb) by the delta method, h differenced, over |h(xb)|; near xb = 0 too."""
    transform = jn.transforms.transform(name)
    binding = dataclasses.replace(fit.binding, transforms=(transform, *fit.binding.transforms[1:]))
    for xb in (1e-9, 0.4, -1.3):
        values = np.array([xb, *fit.params.beta[1:]])
        information = dataclasses.replace(fit.information, reported=np.array([*values, *fit.information.reported[4:]]))
        row = dataclasses.replace(fit, binding=binding, information=information).confidence_intervals().loc["ka"]
        slope = (transform.to_natural(xb + 1e-5) - transform.to_natural(xb - 1e-5)) / 2e-5
        assert row["rse%"] == pytest.approx(100.0 * row.se * slope / abs(transform.to_natural(xb)), rel=1e-7)


def test_very_wide_intervals_do_not_warn(fit: jn.Fit) -> None:
    """Standard errors of 3000 on the log scale: infinite upper limits, without a warning (warnings are errors here)."""
    wide = dataclasses.replace(fit.information, matrix=1e-7 * np.eye(len(fit.information.matrix)))
    table = dataclasses.replace(fit, information=wide).estimates
    assert np.isinf(table.value_upper["ka"])
    assert table.value_lower["ka"] == 0.0
