"""Gradients and Hessians of every likelihood approximation against differences, for pairs of residual model and
covariance."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from tests.problems import (
    APPROXIMATIONS,
    COVARIANCES,
    ERRORS,
    cheap,
    decay_data,
    decay_model,
    differences,
    gradients_and_hessians,
    slopes,
    stencil,
)

# Each error model with one covariance, each covariance at least twice; `benchmarks/study_gradients.py` runs the
# product. Compiling a gradient takes seconds, so two pairs are tested with every approximation and the others with two,
# in turn.
PAIRS = list(zip(ERRORS, (list(COVARIANCES) * 3)[: len(ERRORS)], strict=True))
SUBSETS = [("FOCE", "Laplace"), ("FO", "FOCEI"), ("FOCEI", "AGQ(3)")]
CASES = [
    (error, covariance, tuple(APPROXIMATIONS) if error in ("combined", "box-cox") else SUBSETS[k % 3])
    for k, (error, covariance) in enumerate(PAIRS)
]

STEP = 1e-3


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def random_points(start: jn.Params, count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    packed = np.concatenate([start.beta, start.covariance, start.error])
    return [packed + rng.uniform(-0.15, 0.15, len(packed)) for _ in range(count)]


@pytest.mark.parametrize(("error", "covariance", "approximations"), CASES, ids=[f"{e}, {c}" for e, c, _ in CASES])
def test_gradient_equals_differences(error: str, covariance: str, approximations: tuple[str, ...]) -> None:
    spec, psi = COVARIANCES[covariance]
    # ragged groups, four more padded rows than needed, one missing response
    binding = bind(decay_model(spec, ERRORS[error]), decay_data().pad_to(9))
    template = binding.params(psi=0.3 * psi)
    for name in approximations:
        for seed, point in enumerate(random_points(template, 2, seed=len(error))):
            at = stencil(point, STEP)
            value, gradient = (np.asarray(a) for a in slopes(binding.problem, APPROXIMATIONS[name], template, at))
            # Fourth order: STEP^4 times a fifth derivative, and rounding of 1e-14 |log L| / STEP, both near 1e-10.
            expected = differences(value, len(point), STEP)
            assert np.isfinite(value).all(), (name, seed)
            assert relative_error(gradient[0], expected) < 1e-7, (name, seed, gradient[0], expected)


@pytest.mark.parametrize("name", ["FOCE", "FOCEI", "Laplace", "AGQ(3)"])
def test_hessian_equals_differences_of_the_gradient(name: str) -> None:
    spec, psi = COVARIANCES["blocks"]
    binding = bind(decay_model(spec, ERRORS["combined"]), decay_data().pad_to(7))
    template = binding.params(psi=0.3 * psi)
    (point,) = random_points(template, 1, seed=5)
    gradient, hessian = (
        np.asarray(a)
        for a in gradients_and_hessians(binding.problem, APPROXIMATIONS[name], template, stencil(point, STEP))
    )
    expected = differences(gradient, len(point), STEP)
    assert relative_error(hessian[0], expected) < 1e-7
    assert relative_error(hessian[0], hessian[0].T) < 1e-10


def test_public_function_under_jit_hessian_and_vmap() -> None:
    model, data = decay_model("diagonal", "constant"), decay_data()
    start = bind(model, data).start

    def total(packed):
        return jn.log_likelihood(model, start.unpack(packed), data, "focei")

    points = np.stack(random_points(start, 2, seed=1))
    hessians = np.asarray(cheap(jax.vmap(jax.hessian(total)))(points))
    problem = bind(model, data).problem
    _, expected = gradients_and_hessians(problem, jn.FOCEI(), start, points)
    # the same derivative by forward over reverse of two programs: rounding
    assert hessians == pytest.approx(np.asarray(expected), rel=1e-9, abs=1e-9 * np.abs(expected).max())


def six(phi, x):
    """Linear in six effects; groups without doses do not depend on three of them."""
    return phi.a + phi.b * x.t + phi.c * x.t**2 + x.dose * (phi.d + phi.e * x.t + phi.g * x.t**2)


@pytest.mark.parametrize("name", ["FOCEI", "Laplace"])
def test_hessian_with_more_effects_than_observations(name: str) -> None:
    """Six effects, three rows a group: the curvature of the whitened effects has the eigenvalue one three times."""
    rng = np.random.default_rng(3)
    parameters = [jn.Parameter(effect, 0.5, random=True, sd=0.4) for effect in "abcdeg"]
    t, dose = np.tile([0.3, 1.1, 2.4], 4) + 0.05 * rng.normal(size=12), np.repeat([0.0, 0.0, 1.0, 2.0], 3)
    y = 0.5 * (1.0 + t + t**2) * (1.0 + dose) + 0.5 * rng.normal(size=12)
    data = jn.GroupedData.from_arrays(y, np.repeat(np.arange(4), 3), {"t": t, "dose": dose})
    binding = bind(jn.NLMEModel(six, parameters, error=jn.error.constant(0.3)), data)
    point = binding.start.pack()
    _, hessian = (
        np.asarray(a) for a in gradients_and_hessians(binding.problem, APPROXIMATIONS[name], binding.start, point[None])
    )
    assert np.isfinite(hessian).all()
    _, gradient = slopes(binding.problem, APPROXIMATIONS[name], binding.start, stencil(point, STEP))
    assert relative_error(hessian[0], differences(np.asarray(gradient), len(point), STEP)) < 1e-7
