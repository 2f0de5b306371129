"""The gradient by moments of the effects against automatic differentiation, and the first step of a search."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.estimators.linear.adjoint import factor_slopes
from jaxnlme.estimators.linear.algorithm import estimate
from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.curvature import first_hessian, moment_start
from jaxnlme.estimators.linear.elimination import eliminate
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.problem import LinearProblem, RandomDesign, linear_problem
from jaxnlme.model.covariance.structures import CompoundSymmetry, Diagonal, LogCholesky, MultipleOfIdentity
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.precision import x64

STRUCTURES = {
    "one level": (LogCholesky(2),),
    "two levels": (LogCholesky(2), Diagonal(2)),
    "three levels": (MultipleOfIdentity(2), LogCholesky(2), LogCholesky(1)),
    "compound symmetry": (CompoundSymmetry(2),),
}


def problem(structures, unequal=False, seed=0, effects=None) -> LinearProblem:
    """Nested levels of 6, 24 and 72 units; `unequal`: one outer unit has most of the inner ones."""
    rng = np.random.default_rng(seed)
    inner = np.repeat(np.arange(72), 5)
    middle = np.minimum(inner // 3, 23) if not unequal else np.maximum(inner - 48, 0)
    outer = middle // 4 if not unequal else np.maximum(middle - 18, 0)
    x = rng.normal(size=(len(inner), 1 if effects is None else effects - 1))
    X = np.column_stack([np.ones(len(inner)), x])
    y = X.sum(axis=1) + rng.normal(size=len(inner))
    for codes in (outer, middle, inner):
        y = y + (X * rng.normal(size=(codes.max() + 1, X.shape[1]))[codes]).sum(axis=1)
    designs = []
    for codes, structure in zip((outer, middle, inner), structures, strict=False):
        names = ("1", "x", "x2", "x3", "x4", "x5", "x6", "x7")[: structure.size]
        units = np.arange(codes.max() + 1)
        designs.append(RandomDesign("level", names, X[:, : structure.size], codes, units, structure))
    return linear_problem(y, X, designs)


def slopes_both_ways(products, theta, slope):
    """df/dL of each level, and df/dB, by moments and by automatic differentiation, for f = log|A| + tr(slope S)."""
    relative = [factor.factor(part) for factor, part in zip(products.factors, products.split(theta), strict=True)]
    moments = factor_slopes(products, relative, eliminate(products, theta), slope, True)

    def fn(blocks, theta):
        found = eliminate(jax.tree_util.tree_unflatten(structure, [*blocks, *rest]), theta)
        return found.logdet + jnp.sum(slope * found.cross)

    leaves, structure = jax.tree_util.tree_flatten(products)
    rest = leaves[len(products.blocks) :]
    of_blocks, of_theta = jax.grad(fn, argnums=(0, 1))(list(products.blocks), theta)
    return moments, of_blocks, of_theta


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("name", list(STRUCTURES))
def test_slopes_against_automatic_differentiation(name, unequal):
    products = cross_products(problem(STRUCTURES[name], unequal))
    rng = np.random.default_rng(1)
    root = rng.normal(size=products.cross.shape)
    with x64():
        placed = on_device(products)
        theta = jnp.asarray(0.7 * rng.normal(size=products.n_parameters) + 0.4)
        (slopes, block_slopes), of_blocks, of_theta = jax.jit(slopes_both_ways)(
            placed, theta, jnp.asarray(root + root.T)
        )
        first = 0
        for factor, slope in zip(placed.factors, slopes, strict=True):
            part = theta[first : first + factor.n_parameters]
            (gradient,) = jax.vjp(factor.factor, part)[1](slope)
            np.testing.assert_allclose(gradient, of_theta[first : first + factor.n_parameters], rtol=1e-10)
            first += factor.n_parameters
        for got, expected in zip(block_slopes, of_blocks, strict=True):
            size = got.shape[0]
            # Z'Z is symmetric: its derivative is one of both entries together.
            symmetric = 0.5 * (expected[:, :size] + jnp.swapaxes(expected[:, :size], 0, 1))
            np.testing.assert_allclose(got[:, :size], symmetric, rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(got[:, size:], expected[:, size:], rtol=1e-9, atol=1e-10)


def test_many_effects_are_computed_by_matrix_operations():
    size = COMPUTATION.unrolled + 1
    products = cross_products(problem((LogCholesky(size),), effects=size))
    theta = products.factors[0].start() + 0.05
    with x64():
        likelihood = ProfiledLikelihood(products, 360, True)
        _, gradient, _ = likelihood.profiled(theta)
        for k in range(0, len(theta), 4):
            h = 1e-5 * np.eye(len(theta))[k]
            slope = (likelihood.profiled(theta + h)[0] - likelihood.profiled(theta - h)[0]) / 2e-5
            assert gradient[k] == pytest.approx(slope, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_the_first_step_raises_the_likelihood(name):
    likelihood = ProfiledLikelihood(cross_products(problem(STRUCTURES[name])), 360, False)
    with x64():
        start = likelihood.start()
        moved = moment_start(likelihood, start)
        assert likelihood.profiled(moved)[0] < likelihood.profiled(start)[0] - 1.0
        hessian = first_hessian(likelihood, moved)
    assert hessian is not None and np.linalg.eigvalsh(hessian)[0] > 0


def test_a_search_takes_few_evaluations():
    """Some 20 evaluations, 12 of them for two Hessians; from relative variances of one it takes 40."""
    likelihood = ProfiledLikelihood(cross_products(problem((LogCholesky(2),))), 360, True)
    points, profiled = [], likelihood.profiled
    likelihood.profiled = lambda theta: points.append(theta) or profiled(theta)
    with x64():
        start = moment_start(likelihood, likelihood.start())
        assert estimate(likelihood, [start]).converged
    assert len(points) < 30
