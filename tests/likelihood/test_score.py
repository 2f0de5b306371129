"""Value and score for estimators, from the jet of the model, equal the public likelihood and its gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.estimators.core.objective import flatten, partial_sums
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.one_pass import one_pass
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.numerics.jets import count_partials
from tests.problems import (
    APPROXIMATIONS,
    COVARIANCES,
    ERRORS,
    OUTCOMES,
    cheap,
    decay,
    decay_data,
    decay_model,
    log_rate,
    slopes,
)

PAIRS = list(zip(ERRORS, (list(COVARIANCES) * 3)[: len(ERRORS)], strict=True))
SUBSETS = [("FOCEI", "FOCE"), ("FOCEI", "Laplace"), ("FO", "Laplace"), ("FOCEI", "AGQ(3)")]

sums = cheap(lambda problem, point, modes: partial_sums(problem, point, modes)[0])


def assert_agreement(binding: Binding, approximation: LikelihoodApproximation, template: jn.Params) -> None:
    """Value and gradient of the estimators equal those of the public likelihood, at a point away from the starting
    values."""
    x = np.asarray(flatten(template))
    x = x + np.random.default_rng(len(x)).uniform(-0.15, 0.15, len(x))
    problem = jax.tree.map(jnp.asarray, binding.problem)
    actual = sums(problem, (approximation, template, x), jnp.zeros((problem.n_groups, problem.density.n_effects)))
    value, gradient = slopes(binding.problem, approximation, template, x[None])
    assert np.isfinite(gradient).all()
    # Rounding: the same derivatives by two programs, at modes found to 1e-12.
    assert -float(actual.value) == pytest.approx(float(value[0]), rel=1e-11)
    np.testing.assert_allclose(-actual.gradient, gradient[0], rtol=0, atol=1e-9 * np.abs(gradient).max())


@pytest.mark.parametrize(("number", "error", "covariance"), [(k, *pair) for k, pair in enumerate(PAIRS)])
def test_every_error_model(number: int, error: str, covariance: str) -> None:
    spec, psi = COVARIANCES[covariance]
    binding = bind(decay_model(spec, ERRORS[error]), decay_data().pad_to(9))
    for name in SUBSETS[number % 4]:
        assert_agreement(binding, APPROXIMATIONS[name], binding.params(psi=0.3 * psi))


def test_parameters_without_random_effects() -> None:
    """Second derivatives in two parameters that do not vary between groups are not computed."""
    parameters = [
        jn.Parameter(p, start, "log", random=p == "b") for p, start in zip("abc", (2.0, 3.0, 1.0), strict=True)
    ]
    binding = bind(jn.NLMEModel(decay, parameters, "diagonal", ERRORS["proportional"]), decay_data().pad_to(9))
    assert_agreement(binding, APPROXIMATIONS["FOCEI"], binding.params(psi=np.array([[0.1]])))


def test_an_outcome_with_a_log_likelihood_of_the_user() -> None:
    rng = np.random.default_rng(0)
    data = jn.GroupedData.from_arrays(rng.poisson(2.0, 20), np.repeat(np.arange(5), 4), {"t": rng.uniform(0, 1, 20)})
    model = jn.NLMEModel(log_rate, [jn.Parameter(n, 0.5, random=True) for n in "ab"], error=OUTCOMES["poisson"])
    binding = bind(model, data)
    assert_agreement(binding, APPROXIMATIONS["Laplace"], binding.start)


def varying(phi: Any, x: Any) -> Any:
    return phi.a * jnp.exp(-phi.c * x.t)


def many(phi: Any, x: Any) -> Any:
    return sum((phi[k] * x.t**k / (1 + k) for k in range(len(phi))), jnp.zeros(()))


def test_models_without_a_jet() -> None:
    """A parameter that varies within its group, and more parameters than a jet is used for."""
    data = decay_data()
    within = [
        jn.Parameter("a", 4.0, "log", random=True, covariates=["kind"]),
        jn.Parameter("c", 0.3, "log", random=True),
    ]
    eight = [jn.Parameter(f"p{k}", 1.0, random=k < 2) for k in range(8)]
    assert count_partials(len(eight), 2) > INTEGRATION.most_partials
    for structure, parameters in ((varying, within), (many, eight)):
        binding = bind(jn.NLMEModel(structure, parameters, error=jn.error.constant(0.3)), data)
        group = jax.tree.map(lambda leaf: leaf[0], binding.problem.buckets[0])
        assert one_pass(APPROXIMATIONS["FOCEI"], binding.density, binding.start, group) is None
        assert_agreement(binding, APPROXIMATIONS["FOCEI"], binding.start)


class Halved(AbstractCovariance):
    """A covariance class of a user: half standard deviations, with jnp."""

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size

    def factor(self, theta):
        return 0.5 * jnp.diag(jnp.exp(jnp.asarray(theta)))

    def from_matrix(self, psi):
        return np.log(2.0 * np.sqrt(np.diag(psi)))

    @property
    def log_scales(self):
        return tuple((k, (k,), ()) for k in range(self.size))

    @property
    def correlated_pairs(self):
        return ()


def test_a_covariance_class_of_the_user() -> None:
    binding = bind(decay_model("diagonal"), decay_data())
    problem = eqx.tree_at(lambda p: p.density.covariance, binding.problem, Halved(3))
    assert_agreement(dataclasses.replace(binding, problem=problem), APPROXIMATIONS["FOCEI"], binding.start)


def test_outcomes_with_an_integer_among_the_predictions() -> None:
    """With a group without responses, whose likelihood is one at any parameters."""

    def structure(phi, x):
        return {"rate": phi.a + phi.b * x.t, "trials": jnp.full(x.t.shape, 3)}

    def density(y, f, p, x, v):
        terms = y * f["rate"] - f["trials"] * jnp.logaddexp(0.0, f["rate"])
        return jnp.sum(jnp.where(x.mask, terms, 0.0))

    rng = np.random.default_rng(1)
    y = rng.binomial(3, 0.6, 20).astype(float)
    y[8:12] = np.nan
    data = jn.GroupedData.from_arrays(y, np.repeat(np.arange(5), 4), {"t": rng.uniform(0, 1, 20)})
    model = jn.NLMEModel(
        structure, [jn.Parameter(n, 0.5, random=True) for n in "ab"], error=jn.GroupLogLikelihood(density)
    )
    binding = bind(model, data)
    assert_agreement(binding, APPROXIMATIONS["Laplace"], binding.start)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_few_groups_of_many_rows(groups: int) -> None:
    """Groups with more rows than a block."""
    t = np.tile(np.linspace(0.0, 3.0, 4_000), groups)
    y = 2.0 + 3.0 * np.exp(-t) + 0.1 * np.random.default_rng(0).normal(size=len(t))
    data = jn.GroupedData.from_arrays(y, np.repeat(np.arange(groups), 4_000), {"t": t, "kind": 0.0 * t})
    binding = bind(decay_model("diagonal"), data)
    assert_agreement(binding, APPROXIMATIONS["FOCEI"], binding.start)
