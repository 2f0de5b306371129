"""Whether the data of a refit tell every parameter: a level that no drawn group has leaves its coefficient anywhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.objective import share
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64
from jaxnlme.refits.refits import Refits

# A direction in which scores are smaller than this, relative to the largest, is one without information. (Squares of
# scores are compared: rounding leaves 1e-16, a direction that a single group tells 1e-4 or more.)
NOTHING = 1e-11
JOBS_AT_A_TIME = 256


def identifiable(refits: Refits, own: Callable[[np.ndarray], Problem], jobs: int) -> np.ndarray:
    """Which jobs (jobs,) have groups whose scores span every free parameter: false where some direction moves the
    likelihood of no group that counts. All true where there are priors, which inform as well.

    **Arguments:** `own(indices)`: a Problem that holds the jobs' weights, as in `Jobs`.
    """
    known = np.ones(jobs, bool)
    if refits.binding.density.priors:
        return known
    scores = _scores(refits)
    for first in range(0, jobs, JOBS_AT_A_TIME):
        indices = np.arange(first, min(first + JOBS_AT_A_TIME, jobs))
        counts = (np.asarray(own(indices).weights) != 0).astype(float)
        gram = np.einsum("jg,gab->jab", counts, np.einsum("pga,pgb->gab", scores, scores))
        values = np.linalg.eigvalsh(gram)
        known[indices] = values[:, 0] > NOTHING * values[:, -1]
    return known


def _scores(refits: Refits) -> np.ndarray:
    """Scores (points, groups, free) at points around the estimates, each parameter in units of its scores' size. At the
    estimates themselves a score may vanish by chance; a single group's scores span no more than one direction a point.
    """
    moving = np.flatnonzero(refits.free[: refits.dense])
    rng = np.random.default_rng(0)
    spread = np.full(refits.dense, 0.1)
    if refits.metrics is not None:
        known = np.sqrt(np.diag(refits.metrics[0]))[: refits.dense]
        spread = np.where(known > 0, np.minimum(known, 0.1 * np.maximum(np.abs(refits.x[: refits.dense]), 1.0)), 0.1)
    groups = refits.problem.n_groups
    points = 2 if groups > 10 * len(moving) else len(moving) + 2
    with x64():
        placed = PlacedProblem(refits.problem)
        template, modes = on_device(refits.template), placed.spread(refits.fit.modes)
        found = []
        for _ in range(points):
            x = refits.x.copy()
            x[: refits.dense] += spread * rng.uniform(-1.0, 1.0, refits.dense)
            _, pieces = placed.run(share, (refits.estimator.method, template, x), modes)
            found.append(placed.own([piece.scores for piece in pieces])[:, moving])
    scores = np.where(np.isfinite(found), found, 0.0)
    size = np.sqrt(np.mean(scores**2, axis=(0, 1)))
    return scores / np.where(size > 0.0, size, 1.0)
