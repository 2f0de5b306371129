"""Starts of mode searches at a new point that leave the individual parameters where they were.

The mode of a group with enough data moves little in its individual parameters when population parameters change, but
far in whitened effects: where a standard deviation grows seven-fold, old whitened effects are seven times too far out.
Searches from there cost models that solve differential equations more than all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.estimators.marginal.evaluations import EvaluatedPoint, Evaluator
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.numerics.written_out import as_matrix


class Designs:
    """Design matrices of all groups, of a model whose individual parameters are constant in a group.

    **Fields:** `fixed` (groups, phi, fixed), on the transformed scale; `inverse` (groups, random, phi): pseudo-inverse
    of that of the random effects.
    """

    def __init__(self, fixed: np.ndarray, random: np.ndarray):
        self.fixed, self.inverse = fixed, np.linalg.pinv(random)


def designs_of(binding: Binding) -> Designs | None:
    """The Designs of a bound model; None for those without linear individual parameters that are constant in a group,
    without random effects, or with some at nested levels."""
    density = binding.density
    individual = density.individual
    if not density.n_effects or density.levels is not None or not isinstance(individual, LinearIndividual):
        return None
    n = len(individual.names)
    matrices = []
    for design, columns in ((individual.fixed, len(density.beta_names)), (individual.random, density.n_effects)):
        by_bucket = []
        for bucket in binding.problem.buckets:
            if design.entries(jax.tree.map(lambda leaf: leaf[0], bucket.covariates)) is None:
                return None

            def matrix(covariates: Any, design: Any = design, columns: int = columns) -> Any:
                return as_matrix(design.entries(covariates), n, float, columns)

            each = (bucket.x.mask, bucket.covariates)
            by_bucket.append(np.asarray(jax.vmap(lambda _, covariates, matrix=matrix: matrix(covariates))(*each)))
        matrices.append(np.concatenate(by_bucket)[binding.problem.order])
    return Designs(*matrices)


def starts_at_same_parameters(
    evaluator: Evaluator, designs: Designs | None, x: np.ndarray, best: EvaluatedPoint
) -> Sequence[Any]:
    """Starts of the mode searches at `x` (n,), as `Evaluator.run` takes them: the modes of `best`, moved so that the
    individual parameters stay; as they are without `designs`, or where psi overflows."""
    if designs is None:
        return best.modes
    density = evaluator.binding.density
    old, new = evaluator.params(best.x), evaluator.params(x)
    before, after = (np.asarray(density.covariance.factor(np.asarray(params.covariance))) for params in (old, new))
    if not np.isfinite(after).all():
        return best.modes
    shift = designs.fixed @ (np.asarray(new.beta) - np.asarray(old.beta))
    b = evaluator.placed.collect(best.modes) @ before.T - (designs.inverse @ shift[:, :, None])[:, :, 0]
    z = b @ np.linalg.pinv(after).T
    return evaluator.place_modes(np.where(np.isfinite(z).all(axis=1, keepdims=True), z, 0.0))
