"""Centred coefficients (part of the mean of the random effects): which they are, and invariance of predictions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.em.parameter_layout import parameter_layout
from jaxnlme.model.centring import Centring, centring

GROUPS, ROWS = 6, 4
RNG = np.random.default_rng(8)
SIZE = RNG.normal(size=GROUPS)
TIME = RNG.uniform(size=(GROUPS, ROWS))
# Two rows of each group at one occasion, two at another.
OCCASION = np.tile([1.0, 1.0, 0.0, 0.0], (GROUPS, 1))


def two(phi, x):
    return phi.a + phi.c * x.t


@functools.cache
def data():
    group = np.repeat(np.arange(GROUPS), ROWS)
    y = RNG.normal(size=GROUPS * ROWS)
    frame = {"id": group, "y": y, "t": TIME.ravel(), "size": SIZE[group], "sex": np.where(group % 2, "f", "m")}
    return jn.GroupedData.from_frame(frame, group="id", y="y", x=["t"], v=["size", "sex"])


def matrix(*entries):
    """A design (2, k), (groups, 2, k) or (groups, obs, 2, k), depending on the shapes of the entries."""
    depth = max(np.ndim(entry) for row in entries for entry in row)
    shape = (GROUPS, ROWS)[:depth]
    full = [[np.broadcast_to(_lifted(entry, depth), shape) for entry in row] for row in entries]
    return np.moveaxis(np.array(full), (0, 1), (-2, -1))


def _lifted(entry, depth):
    entry = np.asarray(entry, float)
    return entry[:, None] if entry.ndim == 1 and depth == 2 else entry


def design(fixed, random):
    fixed, random = matrix(*fixed), matrix(*random)
    parameters = [jn.Parameter("a", 1.0), jn.Parameter("c", 0.5)]
    return jn.NLMEModel(
        two, parameters, fixed_design=fixed, random_design=random, beta=0.5 + 0.25 * np.arange(fixed.shape[-1])
    )


def declared(**options):
    return jn.NLMEModel(
        two,
        [
            jn.Parameter("a", 1.0, random=True, covariates=["size", "sex"]),
            jn.Parameter("c", 0.5, **options, covariates=["size"]),
        ],
    )


# name: (model, {coefficient: random effect} for each centred coefficient)
CASES = {
    "covariates of a random parameter": (
        declared(random=True),
        {"a": 0, "a ~ size": 0, "a ~ sex[T.m]": 0, "c": 1, "c ~ size": 1},
    ),
    "covariates of one without": (declared(), {"a": 0, "a ~ size": 0, "a ~ sex[T.m]": 0}),
    "scaled effect": (design([[1, 0], [0, 1]], [[1, 0], [0, 1000.0]]), {0: 0, 1: 1}),
    "one effect for two parameters": (design([[1, 0], [1, 1]], [[1], [1]]), {0: 0}),
    "two coefficients, one effect for both": (design([[1, 0], [0, 1]], [[1], [1]]), {}),
    "fewer rows than the coefficient": (design([[1, 0], [1, 1]], [[1], [0]]), {}),
    "slope by observation": (design([[1, TIME, 0], [0, 0, 1]], [[1, TIME], [0, 0]]), {0: 0, 1: 1}),
    "slope without an effect": (design([[1, TIME, 0], [0, 0, 1]], [[1], [0]]), {0: 0}),
    "covariate and a slope": (design([[1, TIME, SIZE], [0, 0, 0]], [[1, TIME], [0, 0]]), {0: 0, 1: 1, 2: 0}),
    "covariate and occasions": (
        design([[1, SIZE, 0], [0, 0, 1]], [[1, OCCASION, 1 - OCCASION], [0, 0, 0]]),
        {0: 0, 1: 0},
    ),
    "slope only within groups": (design([[1, TIME], [0, 1]], [[1], [0]]), {0: 0}),
    "designs per group": (design([[1, SIZE, 0], [0, 0, 1]], [[1, 0], [0, 1]]), {0: 0, 1: 0, 2: 1}),
    "effects scaled by a covariate": (design([[SIZE, 1, 0], [0, 0, 1]], [[SIZE], [0]]), {0: 0}),
}


def centring_of(model):
    """The binding of a model and its Centring."""
    binding = jn.bind(model, data())
    columns = [[np.asarray(column)] for column in binding.problem.buckets[0].covariates]
    return binding, centring(binding.density.individual, binding.density.n_effects, columns)


@pytest.mark.parametrize("name", CASES)
def test_centred_coefficients(name):
    model, expected = CASES[name]
    binding, centres = centring_of(model)
    names = list(binding.density.beta_names)
    by_index = {}
    for key, effect in expected.items():
        by_index[names.index(key) if isinstance(key, str) else key] = effect
    assert {index: effect for index, effect, _, _ in centres.terms} == by_index


@pytest.mark.parametrize("name", CASES)
def test_changing_centred_coefficients_leaves_predictions_unchanged(name):
    """A beta + B b = A beta' + B b' with b' = b + C (beta - beta'), where beta' differs in the centred coefficients."""
    model, _ = CASES[name]
    binding, centres = centring_of(model)
    individual = binding.density.individual
    rng = np.random.default_rng(1)
    beta, b = rng.normal(size=len(binding.density.beta_names)), rng.normal(size=centres.n_effects)
    changed = beta.copy()
    changed[centres.centred] += rng.normal(size=len(centres.centred))

    def both(group):
        c = centres.coefficients(group)
        shifted = b + centres.mean(beta, c) - centres.mean(changed, c)
        np.testing.assert_allclose(centres.mean(beta, c), c @ centres.mean_matrix(beta), atol=1e-14)
        return individual.xb(beta, jnp.asarray(b), group), individual.xb(changed, jnp.asarray(shifted), group)

    for k in range(GROUPS):
        group = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf)[k], binding.problem.buckets[0])
        for before, after in zip(*both(group), strict=True):
            np.testing.assert_allclose(before, after, rtol=1e-12, atol=1e-12)


def test_models_with_a_function_of_the_user_have_no_centred_coefficients():
    model = jn.NLMEModel(
        two,
        [jn.Parameter("a", 1.0, random=True), jn.Parameter("c", 0.5)],
        individual=lambda beta, b, v: {"a": beta.a + b.a, "c": beta.c},
    )
    assert centring_of(model)[1] == Centring((), 1)


def test_columns_that_agree_only_in_small_groups_are_different():
    """With several size buckets, a slope is centred only if its columns agree in all of them."""
    sizes = np.array([2, 2, 2, 9, 9, 9])
    group = np.repeat(np.arange(6), sizes)
    t = np.concatenate([np.arange(1.0, n + 1.0) for n in sizes])
    slow = np.where(t > 5, 5.0, t)
    table = jn.GroupedData.from_arrays(np.sin(t), group, {"t": t})

    def per_observation(column):
        out = np.zeros((6, 9, 2, 2))
        out[..., 0, 0] = 1.0
        for g in range(6):
            rows = column[group == g]
            out[g, :, 1, 1] = np.append(rows, np.full(9 - len(rows), rows[-1]))
        return out

    parameters = [jn.Parameter("a", 1.0), jn.Parameter("c", 0.5)]
    for column, count in ((slow, 1), (t, 2)):
        model = jn.NLMEModel(
            two,
            parameters,
            fixed_design=per_observation(t),
            random_design=per_observation(column),
            beta=[1.0, 0.5],
            psi=np.eye(2),
        )
        for buckets in (1, 2):
            assert len(parameter_layout(jn.bind(model, table, buckets=buckets), "auto").centring.terms) == count
