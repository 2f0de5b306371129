"""Newton and BFGS on difficult functions, and derivatives of minimisers to third order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.bfgs import BFGS
from jaxnlme.numerics.implicit import implicit_minimiser, value_gradient_hessian
from jaxnlme.numerics.newton import newton
from tests.problems import cheap

TOLERANCE = 1e-6


def rosenbrock(z):
    return (1.0 - z[0]) ** 2 + 100.0 * (z[1] - z[0] ** 2) ** 2


def valley(z):
    """Nearly flat far from the minimum, where the Hessian is indefinite."""
    return jnp.log1p(jnp.sum(z**2)) + 0.5 * z[0] ** 2 / (1.0 + z[0] ** 2)


def double_well(z):
    """Indefinite between the wells at (-1, 0) and (1, 0)."""
    return (z[0] ** 2 - 1.0) ** 2 + z[1] ** 2


def steep(z):
    return jnp.sum(jnp.exp(3.0 * z) - 3.0 * z)


def half_plane(z):
    """Not finite for z[0] <= 0; the minimum is at (1, 0)."""
    return z[0] - jnp.log(z[0]) + z[1] ** 2


def not_finite(z):
    return jnp.sum(z) * jnp.nan


def search(fn, starts, fallback=(0.0, 0.0), steps=200):
    run = cheap(
        jax.vmap(
            lambda z0: newton(lambda z: value_gradient_hessian(fn, z), z0, jnp.asarray(fallback), steps, TOLERANCE)
        )
    )
    z, outcome = run(jnp.asarray(starts, float))
    return np.asarray(z), jax.tree.map(np.asarray, outcome)


@pytest.mark.parametrize(
    ("fn", "starts", "minima"),
    [
        (rosenbrock, [(-1.2, 1.0), (5.0, -5.0), (1.0, 1.0)], [(1.0, 1.0)]),
        (valley, [(6.0, -4.0), (2.0, 0.0), (-3.0, 8.0)], [(0.0, 0.0)]),
        (double_well, [(0.1, 5.0), (-0.2, 0.0), (60.0, 60.0)], [(1.0, 0.0), (-1.0, 0.0)]),
        (steep, [(40.0, -40.0), (-60.0, 3.0)], [(0.0, 0.0)]),
        (half_plane, [(1e-3, 50.0), (80.0, 0.0)], [(1.0, 0.0)]),
    ],
    ids=["rosenbrock", "valley", "double well", "steep", "half plane"],
)
def test_newton_on_hard_functions(fn, starts, minima) -> None:
    z, outcome = search(fn, starts, fallback=starts[0])
    assert outcome.converged.all()
    assert outcome.positive.all()
    assert outcome.finite.all()
    # the last step was shorter than 1e-6, and convergence is quadratic: 1e-12 times a curvature ratio of 1e3 at most
    for end in z:
        assert min(np.max(np.abs(end - np.array(m))) for m in minima) < 1e-9


def test_newton_needs_one_evaluation_at_the_minimum_and_two_for_a_parabola() -> None:
    def parabola(z):
        return jnp.sum((z - 2.0) ** 2) + z[0] * z[1]

    _, outcome = search(parabola, [(4.0 / 3.0, 4.0 / 3.0), (0.0, 0.5)])
    assert outcome.evaluations.tolist() == [1, 2]


def test_newton_falls_back_where_the_start_is_not_finite() -> None:
    z, outcome = search(half_plane, [(-1.0, 0.0), (np.nan, 1.0)], fallback=(3.0, 1.0))
    assert z == pytest.approx(np.array([[1.0, 0.0]] * 2), abs=1e-9)
    assert outcome.converged.all()


def test_newton_reports_that_it_did_not_converge() -> None:
    z, outcome = search(not_finite, [(1.0, 2.0)], fallback=(0.5, 0.25))
    assert not outcome.converged.any()
    assert not outcome.finite.any()
    assert z.tolist() == [[0.5, 0.25]]
    _, outcome = search(rosenbrock, [(-1.2, 1.0)], steps=3)
    assert not outcome.converged.any()
    assert outcome.finite.all()
    assert outcome.evaluations.tolist() == [3]


@cheap
def _minimise(x0, free):
    solver = BFGS(free, jnp.full(3, 10.0))
    evaluate = jax.value_and_grad(lambda x: rosenbrock(x[:2]) + jnp.where(x[0] > 3.0, jnp.nan, (x[2] - x[0]) ** 2))

    def body(state):
        return solver.update(state, *evaluate(solver.trial(state)))[0]

    def not_done(state):
        return (jnp.max(jnp.abs(state.gradient)) > 1e-8) & ~state.stalled & (state.evaluations < 300)

    return jax.lax.while_loop(not_done, body, solver.init(x0, *evaluate(x0), jnp.eye(3)))


def test_bfgs_in_a_while_loop_under_vmap() -> None:
    starts = jnp.array([(-1.2, 1.0, 0.0), (2.9, -2.0, 5.0), (0.0, 0.0, 0.0)])
    end = jax.vmap(lambda x: _minimise.__wrapped__(x, jnp.ones(3, bool)))(starts)
    # gradient 1e-8 over the smallest curvature, 0.4
    assert np.asarray(end.x) == pytest.approx(np.ones((3, 3)), abs=1e-6)
    assert (np.asarray(end.evaluations) < 120).all()
    assert np.asarray(end.value) == pytest.approx(0.0, abs=1e-12)


def test_bfgs_does_not_change_fixed_variables() -> None:
    end = _minimise(jnp.array([-1.2, 1.0, 0.0]), jnp.array([True, False, True]))
    assert float(end.x[1]) == 1.0
    assert abs(float(end.x[0])) == pytest.approx(1.0, abs=0.01)
    assert np.asarray(end.x[2]) == pytest.approx(np.asarray(end.x[0]), abs=1e-6)


def _objective(z, args):
    a, b = args
    return 0.25 * jnp.sum(z**4) + 0.5 * jnp.sum((z - a) ** 2) + b * z[0] * z[1] * a[0]


_minimum = implicit_minimiser(
    jax.grad(_objective),
    lambda z, args: value_gradient_hessian(lambda z: _objective(z, args), z)[2],
    lambda args, z0: newton(
        lambda z: value_gradient_hessian(lambda z: _objective(z, args), z), z0, jnp.zeros(2), 50, 1e-8
    ),
)


def _newton_by_hand(a, b, steps=40):
    """The same minimiser by unrolled Newton steps, through which JAX can differentiate."""
    z = jnp.zeros(2)
    for _ in range(steps):
        _, gradient, hessian = value_gradient_hessian(lambda z: _objective(z, (a, b)), z)
        determinant = hessian[0, 0] * hessian[1, 1] - hessian[0, 1] ** 2
        inverse = jnp.array([[hessian[1, 1], -hessian[0, 1]], [-hessian[0, 1], hessian[0, 0]]]) / determinant
        z = z - inverse @ gradient
    return z


def test_implicit_derivatives_to_third_order() -> None:
    a, b = jnp.array([0.7, -0.4]), jnp.asarray(0.6)

    def function(p):
        return jnp.sum(jnp.sin(_minimum((p[:2], p[2]), jnp.zeros(2))[0]) * jnp.array([1.0, 2.0]))

    p = jnp.append(a, b)
    first, second = jax.grad(function), jax.hessian(function)
    third = jax.jit(jax.jacfwd(second))
    step = 1e-3

    def difference(fn):
        """Central difference of fourth order; its error is step^4 times a fifth derivative, 1e-12 times some
        hundreds."""
        columns = []
        for e in np.eye(3):
            columns.append(
                (8 * (fn(p + step * e) - fn(p - step * e)) - fn(p + 2 * step * e) + fn(p - 2 * step * e)) / 12
            )
        return np.stack(columns, axis=-1) / step

    first, second = jax.jit(first), jax.jit(second)
    assert np.asarray(_minimum((a, b), jnp.zeros(2))[0]) == pytest.approx(
        np.asarray(_newton_by_hand(a, b, 8)), abs=1e-12
    )
    assert np.asarray(first(p)) == pytest.approx(difference(jax.jit(function)), abs=1e-8)
    assert np.asarray(second(p)) == pytest.approx(difference(first), abs=1e-8)
    assert np.asarray(third(p)) == pytest.approx(difference(second), abs=1e-7)


def test_no_derivative_flows_through_the_start_of_a_search() -> None:
    a, b = jnp.array([0.7, -0.4]), jnp.asarray(0.6)
    slope = jax.jacfwd(lambda z0: _minimum((a, b), z0)[0])(jnp.array([0.3, 0.1]))
    assert np.asarray(slope) == pytest.approx(np.zeros((2, 2)))


def misfit(z):
    """Half a sum of squares with large residuals at its minimum."""
    t = jnp.arange(6.0)
    return 2.0 * jnp.exp(-0.5 * t * jnp.exp(z[0]) + z[1]) - jnp.asarray([2.5, 0.4, 1.1, 0.1, 0.5, -0.3])


@pytest.mark.parametrize("start", [[0.0, 0.0], [1.5, -1.0]])
def test_newton_with_the_hessian_of_gauss_and_newton_and_secants(start) -> None:
    def expand(z):
        jacobian = jax.jacfwd(misfit)(z)
        return 0.5 * jnp.sum(misfit(z) ** 2), jacobian.T @ misfit(z), jacobian.T @ jacobian

    def exact(z):
        return value_gradient_hessian(lambda z: 0.5 * jnp.sum(misfit(z) ** 2), z)

    start, zero = jnp.asarray(start), jnp.zeros(2)
    z, found = newton(expand, start, zero, 100, 1e-6, approximate=True)
    plain, without = newton(expand, start, zero, 100, 1e-6)
    best, _ = newton(exact, start, zero, 100, 1e-8)
    assert found.converged and float(jnp.max(jnp.abs(z - best))) < 1e-7
    assert int(found.evaluations) < int(without.evaluations)
