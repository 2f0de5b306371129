"""The linear mixed model of a linearisation, against the same model with dense matrices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import jaxnlme as jn
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.lindstrom_bates.objective import partial_sums_linearised
from jaxnlme.likelihood.lindstrom_bates import Linearised
from tests.problems import COVARIANCES, ERRORS, cheap, decay_data, decay_model, differences, stencil

# Differences of fourth order with this step have errors of 1e-9 for values of order ten.
STEP, SLOPE = 1e-3, 1e-7


@functools.cache
def data() -> jn.GroupedData:
    return decay_data()


def bound(error: str, covariance: str) -> tuple[Binding, np.ndarray]:
    """A binding and a packed vector that is no optimum."""
    spec, psi = COVARIANCES[covariance]
    binding = bind(decay_model(spec, ERRORS[error]), data())
    params = binding.params({"a": 2.1, "b": 2.7, "c": 1.2}, psi=psi)
    return binding, np.asarray(params.pack())


@cheap
def evaluated(problem, method, template, about, x):
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    return partial_sums_linearised(problem, (method, template, about, x), modes)


@cheap
def _rows(problem, about, b, error):
    """e, S, the log-slopes, X and Z of the rows of every group, linearised at `about` and effects b, at `error`."""
    density = problem.density

    def per_group(group, b):
        def predict(beta, b):
            phi = density.individual.phi(beta, b, group)
            return density.structural(None, phi, group.x, group.v)

        f = predict(about.beta, b)
        by_beta, by_b = jax.jacfwd(predict, (0, 1))(about.beta, b)
        residual, scale, slope = density.error.moments(f, f, error, group)
        residual_slope = jnp.diagonal(jax.jacfwd(lambda mean: density.error.moments(mean, f, error, group)[0])(f))[
            :, None
        ]
        return residual, scale, slope, -residual_slope * by_beta, -residual_slope * by_b

    return jax.vmap(per_group)(problem.buckets[0], b)


class Dense:
    """The model linearised at `packed` and effects b, group by group with dense matrices in numpy."""

    def __init__(self, binding: Binding, packed: np.ndarray, modes: np.ndarray):
        self.binding, self.density = binding, binding.density
        self.about = binding.start.unpack(packed)
        factor = np.asarray(self.density.covariance.factor(np.asarray(self.about.covariance)))
        self.b = modes @ factor.T
        self.observed = np.asarray(binding.problem.buckets[0].x.observed)

    def rows(self, error: np.ndarray):
        """e, S, the log-slopes, X and Z of the observed rows, group by group."""
        parts = [np.asarray(part) for part in _rows(self.binding.problem, self.about, self.b, np.asarray(error))]
        return [tuple(part[i][observed] for part in parts) for i, observed in enumerate(self.observed)]

    def value(self, packed: np.ndarray) -> np.ndarray:
        """log p(y) of each group of the linearised model at `packed`."""
        params = self.binding.start.unpack(packed)
        psi, out = psi_of(self.density, np.asarray(params.covariance)), []
        for i, (e, scale, slope, x, z) in enumerate(self.rows(params.error)):
            mean = x @ (np.asarray(params.beta) - self.about.beta) - z @ self.b[i]
            out.append(multivariate_normal.logpdf(e, mean, z @ psi @ z.T + np.diag(scale**2)) + slope.sum())
        return np.array(out)

    def information(self, packed: np.ndarray) -> np.ndarray:
        """sum of X' V^-1 X."""
        params = self.binding.start.unpack(packed)
        psi, total = psi_of(self.density, np.asarray(params.covariance)), 0.0
        for _, scale, _, x, z in self.rows(params.error):
            total = total + x.T @ np.linalg.solve(z @ psi @ z.T + np.diag(scale**2), x)
        return total

    def effects(self) -> np.ndarray:
        """psi Z' V^-1 (e + Z b): the solution of the mixed model equations for b, at the point of linearisation."""
        psi = psi_of(self.density, np.asarray(self.about.covariance))
        return np.array(
            [
                psi @ z.T @ np.linalg.solve(z @ psi @ z.T + np.diag(scale**2), e + z @ b)
                for (e, scale, _, _, z), b in zip(self.rows(self.about.error), self.b, strict=True)
            ]
        )


CASES = [(error, "full") for error in ERRORS] + [("constant", name) for name in COVARIANCES if name != "full"]


@pytest.mark.parametrize("error, covariance", CASES)
def test_value_score_and_effects_are_those_of_the_mixed_model(error: str, covariance: str) -> None:
    binding, packed = bound(error, covariance)
    sums, groups = evaluated(binding.problem, Linearised(restricted=True), binding.start, packed, packed)
    assert (np.asarray(groups.status) == jn.Status.ok).all()
    dense = Dense(binding, packed, np.asarray(groups.modes))
    assert groups.values == pytest.approx(dense.value(packed), rel=1e-10)
    # Random effects have an error of the squared mode tolerance, 1e-12, or of the tolerance of reweighting, 1e-9.
    assert dense.b == pytest.approx(dense.effects(), rel=1e-6, abs=1e-8)
    n, p = len(packed), 3
    around = stencil(packed, STEP)
    slopes = differences(np.array([dense.value(at) for at in around]), n, STEP)
    assert np.asarray(groups.scores) == pytest.approx(slopes.T, rel=SLOPE, abs=SLOPE)
    assert sums.information == pytest.approx(dense.information(packed), rel=1e-9)
    information_slopes = differences(np.array([dense.information(at) for at in around]), n, STEP)
    assert information_slopes[:p] == pytest.approx(0.0, abs=1e-6)
    assert np.asarray(sums.slopes) == pytest.approx(information_slopes[p:], rel=SLOPE, abs=1e-6)


def test_value_and_score_away_from_the_point_of_linearisation() -> None:
    """The score is the gradient of the value at x of the model linearised at another point."""
    binding, packed = bound("combined", "full")
    x = packed + 0.1 * np.cos(np.arange(len(packed)))
    _, there = evaluated(binding.problem, Linearised(), binding.start, packed, packed)
    _, groups = evaluated(binding.problem, Linearised(), binding.start, packed, x)
    assert groups.modes == pytest.approx(np.asarray(there.modes), abs=1e-12)
    dense = Dense(binding, packed, np.asarray(groups.modes))
    assert groups.values == pytest.approx(dense.value(x), rel=1e-9)
    slopes = differences(np.array([dense.value(at) for at in stencil(x, STEP)]), len(packed), STEP)
    assert np.asarray(groups.scores) == pytest.approx(slopes.T, rel=SLOPE, abs=SLOPE)


def test_designs_that_vary_within_groups_are_linearised_in_beta_and_b() -> None:
    """The same model with designs per observation and with constant designs."""
    fixed = np.broadcast_to(np.eye(3), (*data().y.shape, 3, 3)).copy()
    plain = decay_model("full", "combined")
    # Entries that differ in rows without a response make the design vary, and change no result.
    fixed[1, ~data().observed[1], 0, 0] = 2.0
    parameters = [jn.Parameter(p.name, p.start, "log", sd=0.3) for p in plain.parameters]
    varying = jn.NLMEModel(
        plain.structure,
        parameters,
        "full",
        "combined",
        fixed_design=fixed,
        random_design=np.eye(3),
        beta=np.log([2.0, 3.0, 1.0]),
    )
    results = []
    for model in (plain, varying):
        binding = bind(model, data())
        packed = np.asarray(binding.start.pack())
        results.append(evaluated(binding.problem, Linearised(restricted=True), binding.start, packed, packed))
    (sums, groups), (varying_sums, varying_groups) = results
    assert varying_groups.values == pytest.approx(np.asarray(groups.values), rel=1e-10)
    assert varying_groups.scores == pytest.approx(np.asarray(groups.scores), rel=1e-8, abs=1e-8)
    assert varying_sums.slopes == pytest.approx(np.asarray(sums.slopes), rel=1e-8, abs=1e-8)
