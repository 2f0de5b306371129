"""Identifiability check for refits: the group scores must span every free parameter (they do not if a covariate level
is absent from the resample)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.objective import partial_sums
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64
from jaxnlme.refits.refits import Refits
from jaxnlme.refits.settings import IDENTIFIABILITY


def identifiable(refits: Refits, overlay: Callable[[np.ndarray], Problem], jobs: int) -> np.ndarray:
    """True (jobs,) for jobs whose groups have scores that span every free parameter; false where the likelihood of no
    group with weight changes along some direction. All true for a model with priors, which are informative as well.

    **Arguments:** `overlay(indices)`: a Problem with the weights of the jobs, as in `Jobs`; `jobs`: their number.
    **Returns:** bool (jobs,).
    """
    result = np.ones(jobs, bool)
    if refits.binding.density.priors:
        return result
    scores = _scores(refits)
    step = IDENTIFIABILITY.jobs_at_a_time
    for first in range(0, jobs, step):
        indices = np.arange(first, min(first + step, jobs))
        counts = (np.asarray(overlay(indices).weights) != 0).astype(float)
        gram = np.einsum("jg,gab->jab", counts, np.einsum("pga,pgb->gab", scores, scores))
        values = np.linalg.eigvalsh(gram)
        result[indices] = values[:, 0] > IDENTIFIABILITY.least_eigenvalue_ratio * values[:, -1]
    return result


def _scores(refits: Refits) -> np.ndarray:
    """Scores (points, groups, free) at random points around the estimates, each parameter scaled to root mean square 1.
    Several points, since a score may vanish by chance at the estimates, and a group spans one direction per point.
    """
    moving = np.flatnonzero(refits.free[: refits.dense])
    rng = np.random.default_rng(0)
    spread = np.full(refits.dense, IDENTIFIABILITY.spread)
    if refits.inverse_hessians is not None:
        se = np.sqrt(np.diag(refits.inverse_hessians[0]))[: refits.dense]
        farthest = IDENTIFIABILITY.spread * np.maximum(np.abs(refits.x[: refits.dense]), 1.0)
        spread = np.where(se > 0, np.minimum(se, farthest), IDENTIFIABILITY.spread)
    groups = refits.problem.n_groups
    points = 2 if groups > IDENTIFIABILITY.groups_per_parameter * len(moving) else len(moving) + 2
    with x64():
        placed = PlacedProblem(refits.problem)
        template, modes = on_device(refits.template), placed.scatter(refits.fit.modes)
        scores = []
        for _ in range(points):
            x = refits.x.copy()
            x[: refits.dense] += spread * rng.uniform(-1.0, 1.0, refits.dense)
            _, pieces = placed.run(partial_sums, (refits.estimator.method, template, x), modes)
            scores.append(placed.collect([piece.scores for piece in pieces])[:, moving])
    scores = np.where(np.isfinite(scores), scores, 0.0)
    size = np.sqrt(np.mean(scores**2, axis=(0, 1)))
    return scores / np.where(size > 0.0, size, 1.0)
