"""The profiled likelihood of linear mixed models: gradient, and cross-products of ill-conditioned columns."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.problem import RandomDesign, linear_problem
from jaxnlme.estimators.linear.relative_factor import BlockFactor, DiagonalFactor, FullFactor, IdentityFactor
from jaxnlme.model.covariance.structures import LogCholesky
from jaxnlme.precision import x64


def problem(shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    outer, inner = np.repeat(np.arange(6), 8), np.repeat(np.arange(24), 2)
    x = rng.normal(size=48)
    y = 1 + x + rng.normal(size=6)[outer] + rng.normal(size=24)[inner] * x + 0.5 * rng.normal(size=48)
    X = np.column_stack([np.ones(48), x + shift])
    designs = [
        RandomDesign("outer", ("1", "x"), X, outer, np.arange(6), LogCholesky(2)),
        RandomDesign("inner", ("1", "x"), X, inner, np.arange(24), LogCholesky(2)),
    ]
    return linear_problem(y, X, designs)


@pytest.mark.parametrize("restricted", [False, True])
def test_gradient_against_differences(restricted):
    likelihood = ProfiledLikelihood(cross_products(problem()), 48, restricted)
    theta = np.array([1.1, 0.3, 0.8, 0.9, -0.2, 0.6])
    with x64():
        _, gradient, _ = likelihood.profiled(theta)
        for k in range(6):
            h = np.zeros(6)
            h[k] = 1e-5
            slope = (likelihood.profiled(theta + h)[0] - likelihood.profiled(theta - h)[0]) / 2e-5
            assert gradient[k] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_ill_conditioned_columns_lose_no_digits():
    """With x + 1e6 the cross-products of the columns as they are would lose all digits."""
    theta = np.array([1.1, 0.3, 0.8, 0.9, -0.2, 0.6])
    values = []
    for shift in (0.0, 1e6):
        shifted = problem(shift)
        assert shifted.well_conditioned == (shift == 0.0)
        likelihood = ProfiledLikelihood(cross_products(shifted), 48, True)
        with x64():
            values.append(likelihood.profiled(theta)[0])
    assert values[0] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.parametrize(
    "factor",
    [
        FullFactor(3),
        DiagonalFactor(3),
        IdentityFactor(3),
        BlockFactor(3, (((0, 2), FullFactor(2)), ((1,), DiagonalFactor(1)))),
    ],
)
def test_factors_and_their_inverses(factor):
    rng = np.random.default_rng(1)
    theta = rng.normal(size=factor.n_parameters)
    lower = np.asarray(factor.factor(theta))
    psi = lower @ lower.T
    again = np.asarray(factor.factor(factor.from_psi(psi)))
    np.testing.assert_allclose(again @ again.T, psi, atol=1e-12)
    for column in factor.signed:
        flipped = theta.copy()
        flipped[list(column)] *= -1.0
        other = np.asarray(factor.factor(flipped))
        np.testing.assert_allclose(other @ other.T, psi, atol=1e-12)
