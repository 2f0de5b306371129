"""Tests of columns and adjusted p values against R 4.2 (shapiro.test, cor.test, aov, kruskal.test, p.adjust)."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnlme.diagnostics.effects.hypothesis_tests import (
    adjusted,
    categorical_tests,
    normality_tests,
    numeric_tests,
    outlier_p,
)
from jaxnlme.diagnostics.effects.outliers import _distances

X = np.array([0.3, -1.2, 0.8, 2.1, -0.4, 0.05, 1.7, -0.9, 0.6, -2.2, 1.1, 0.2])
Z = np.array([1.0, 0.2, 1.4, 1.9, 0.7, 0.9, 1.1, 0.5, 1.3, 0.1, 2.2, 0.8])
G = np.array(list("abacbacbcbca"), object)


def test_normality() -> None:
    t, shapiro, variance = normality_tests(X, 1.5)
    assert (t["statistic"], t["p"]) == pytest.approx((0.506647923495, 0.622403108157))
    assert (shapiro["statistic"], shapiro["p"]) == pytest.approx((0.984848357864, 0.996282285791), abs=1e-6)
    assert variance["statistic"] == pytest.approx(11 * np.var(X, ddof=1) / 1.5)
    assert [row["n"] for row in normality_tests(np.append(X, np.nan))] == [12, 12]
    assert np.isnan(normality_tests(np.ones(5))[1]["p"]), "equal values have no test of normality"
    large = np.random.default_rng(0).standard_normal(6000)
    assert normality_tests(large)[1]["test"] == "normal (D'Agostino-Pearson)"
    assert normality_tests(np.exp(large))[1]["p"] < 1e-10 < normality_tests(large)[1]["p"]


def test_numeric_covariates() -> None:
    pearson, spearman = numeric_tests(X, Z)
    assert (pearson["estimate"], pearson["p"]) == pytest.approx((0.864749248154492, 0.000282782225912))
    assert pearson["statistic"] == pytest.approx(5.445153520385464)
    assert (spearman["estimate"], spearman["p"]) == pytest.approx((0.937062937063, 6.99316495321e-06))
    assert np.isnan(numeric_tests(X, np.ones(12))[0]["p"])
    assert numeric_tests(np.append(X, 9.0), np.append(Z, np.nan))[0] == pearson


def test_categorical_covariates() -> None:
    anova, kruskal = categorical_tests(X, G)
    assert (anova["statistic"], anova["p"]) == pytest.approx((17.6615700168, 7.66044418148e-04))
    assert anova["estimate"] == pytest.approx(0.796945794157)
    assert (kruskal["statistic"], kruskal["p"]) == pytest.approx((9.26923076923077, 0.00970984087444))
    missing = categorical_tests(np.append(X, 5.0), np.append(G, None))
    assert missing[0] == anova
    assert np.isnan(categorical_tests(X, np.full(12, "a", object))[0]["p"])


def test_adjusted_p_values() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.5, 0.005, 0.2])
    expected = {
        "holm": [0.05, 0.12, np.nan, 0.12, 0.50, 0.03, 0.40],
        "bh": [0.03, 0.06, np.nan, 0.06, 0.50, 0.03, 0.24],
        "bonferroni": [0.06, 0.24, np.nan, 0.18, 1.00, 0.03, 1.00],
    }
    for method, values in expected.items():
        np.testing.assert_allclose(adjusted(p, method), values, atol=1e-12)
    np.testing.assert_array_equal(adjusted(p, "none"), p)


def test_outlying_values() -> None:
    """t distribution beside the other values, R's pt; under normality the p values are uniform."""
    assert outlier_p(X)[9] == pytest.approx(0.0594203012975)
    draws = np.random.default_rng(1).standard_normal((4000, 8)) * 3.0
    first = np.array([outlier_p(row)[0] for row in draws])
    assert np.mean(first < 0.05) == pytest.approx(0.05, abs=0.011)


def test_distances_of_modes_of_a_linear_model() -> None:
    """Modes of a linear model with known parameters have the covariance I - C: distances are chi-square, also where the
    data do not inform one of three directions."""
    rng = np.random.default_rng(2)
    jacobian = rng.standard_normal((5, 3)) @ np.diag([1.0, 2.0, 0.0])
    curvature = np.eye(3) + jacobian.T @ jacobian
    z = rng.standard_normal((5000, 3))
    y = z @ jacobian.T + rng.standard_normal((5000, 5))
    modes = np.linalg.solve(curvature, jacobian.T @ y.T).T
    distance, df, scaled = _distances(modes, np.broadcast_to(curvature, (5000, 3, 3)))
    assert set(df) == {2}
    assert distance.mean() == pytest.approx(2.0, abs=0.12) and distance.var() == pytest.approx(4.0, abs=0.6)
    assert np.isnan(scaled[:, 2]).all()
    np.testing.assert_allclose(scaled[:, :2].var(axis=0), 1.0, atol=0.08)
