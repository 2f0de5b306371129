"""Starts of mode searches that leave individual parameters where they were."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.estimators.core.objective import flatten, unflatten
from jaxnlme.estimators.marginal.mode_starts import designs_of, starts_at_same_parameters


def decline(phi, x):
    return phi.a - phi.b * x.t + 0.0 * phi.c


def binding_of(parameters: list[jn.Parameter], **options) -> jn.Binding:
    """A model bound to seven groups of two to four rows, with a covariate that is constant in a group."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(7), [2, 4, 3, 4, 2, 3, 4])
    t = np.concatenate([np.arange(n) for n in np.bincount(groups)]).astype(float)
    weight = rng.uniform(50.0, 90.0, 7)[groups]
    table = pd.DataFrame({"g": groups, "t": t, "w": weight, "y": rng.normal(size=len(groups))})
    data = jn.GroupedData.from_frame(table, group="g", y="y", x=["t"], v=["w"])
    return jn.bind(jn.NLMEModel(decline, parameters, error="constant", **options), data)


PARAMETERS = [
    jn.Parameter("a", 2.0, "log", random=True, covariates=["w"]),
    jn.Parameter("b", 1.0, random=True),
    jn.Parameter("c", 1.0),
]


def test_individual_parameters_stay() -> None:
    """At other typical values, coefficients and correlated effects, those with an effect are where they were."""
    binding = binding_of(PARAMETERS, covariance="full")
    density, start = binding.density, binding.start
    rng = np.random.default_rng(2)
    old = np.asarray(flatten(start)) + 0.3 * rng.normal(size=len(np.asarray(flatten(start))))
    new = old + rng.normal(size=len(old))
    evaluator = SimpleNamespace(
        binding=binding,
        params=lambda x: jax.tree.map(np.asarray, unflatten(start, x)),
        placed=SimpleNamespace(collect=lambda modes: modes),
        place_modes=lambda modes: modes,
    )
    z = rng.normal(size=(7, 2))
    best, designs = SimpleNamespace(x=old, modes=z), designs_of(binding)
    moved = starts_at_same_parameters(evaluator, designs, new, best)
    assert np.abs(moved - z).max() > 0.1
    with np.errstate(over="ignore"):
        assert starts_at_same_parameters(evaluator, designs, new + 1e4, best) is z

    def individual(x, modes):
        params, order = evaluator.params(x), np.asarray(binding.problem.order)
        by_bucket = np.split(modes[np.argsort(order)], np.cumsum([b.x.mask.shape[0] for b in binding.problem.buckets]))
        found = [
            jax.vmap(lambda z, group: density.phi(params, z, group))(part, bucket)
            for part, bucket in zip(by_bucket, binding.problem.buckets, strict=False)
        ]
        return {name: np.concatenate([np.asarray(phi[name]) for phi in found]) for name in "abc"}

    before, after = individual(old, z), individual(new, moved)
    for name in "ab":
        np.testing.assert_allclose(after[name], before[name], rtol=1e-9)
    assert not np.allclose(after["c"], before["c"])


def test_models_without_such_designs_keep_their_modes() -> None:
    """No random effects, or effects of a function of the user: modes are passed on as they are."""
    assert designs_of(binding_of([jn.Parameter(name, 1.0) for name in "abc"])) is None
    best = SimpleNamespace(modes="modes")
    assert starts_at_same_parameters(None, None, None, best) == "modes"
