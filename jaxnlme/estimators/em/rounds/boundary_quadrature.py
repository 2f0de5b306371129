"""Log-likelihoods at the boundary of psi and inside it, by quadrature, where draws do not decide which is higher.

At a maximum on a face of the boundary the sign of the slope into the interior decides (`boundary.slopes`). Where it is
within its Monte Carlo error, the log-likelihood is computed at the face and at points of the ray psi + c D, with D the
steepest direction into the interior, by Gauss-Hermite quadrature around the conditional means of the draws: it has no
Monte Carlo error.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.core.centred_likelihood import centred_log_likelihood
from jaxnlme.estimators.em.boundary import inward_directions
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.rounds.boundary_evidence import direction_is_clear, enough_iterations_for_move, has_kinks
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import BOUNDARY
from jaxnlme.likelihood.from_draws import QuadratureFromDraws
from jaxnlme.model.params import Params


def higher_interior_point(run: Run, estimates: list[ScoreAndInformation]) -> np.ndarray | None:
    """Parameters (replicates, packed) in the interior of psi whose log-likelihood is higher than at the face.

    **Arguments:** `run`, at its maximum on the face; `estimates` of the round.
    **Returns:** None if psi is in the interior, if the draws decide, if no replicate has a higher point, or if the
    quadrature would take too many evaluations or the move too many iterations; replicates without a higher point get
    the point of the ray nearest to the face.
    """
    if direction_is_clear(run, estimates) or has_kinks(estimates) or not enough_iterations_for_move(run):
        return None
    q, rule = run.binding.density.n_effects, QuadratureFromDraws()
    if q > BOUNDARY.most_quadrature_effects:
        return None
    points_of_all = (len(BOUNDARY.ray_fractions) + 1) * run.replicates
    evaluations = rule.nodes_of(q) ** q * run.placed.n_rows * points_of_all
    if evaluations > BOUNDARY.most_quadrature_evaluations:
        return None
    points = [_best_point(run, rule, r, estimate) for r, estimate in enumerate(estimates)]
    if all(point is None for point in points):
        return None
    return np.stack(
        [_ray(run, estimate)[0] if point is None else point for point, estimate in zip(points, estimates, strict=True)]
    )


def _best_point(run: Run, rule: QuadratureFromDraws, r: int, estimate: ScoreAndInformation) -> np.ndarray | None:
    """The highest point (packed,) of the ray of replicate `r`; None if the face is as high."""
    assert run.layout.whitened  # the moments are then those of z, as quadrature takes them
    sums, n = run.score_sums(), estimate.n_iterations
    mean = sums.first_moment[:, r] / n
    covariance = sums.second_moment[:, r] / n - mean[:, :, None] * mean[:, None, :]

    def log_likelihood(packed: np.ndarray) -> float:
        params: Params = run.template.unpack(packed)
        return float(centred_log_likelihood(run.placed, rule, params, mean, covariance)[0].log_likelihood)

    points = _ray(run, estimate)
    values = np.array([log_likelihood(point) for point in points])
    gains = values - log_likelihood(estimate.packed)
    best = int(np.argmax(np.where(np.isfinite(gains), gains, -np.inf)))
    return points[best] if gains[best] > BOUNDARY.least_ray_gain else None


def _ray(run: Run, estimate: ScoreAndInformation) -> list[np.ndarray]:
    """Points (packed,) on the steepest ray into the interior, from near the face on."""
    density, layout = run.binding.density, run.interior_layout
    theta = layout.theta(estimate.packed)
    slope = estimate.psi_slopes.mean(axis=0)
    direction = max(inward_directions(density, theta, slope), key=lambda change: float(np.sum(change * slope)))
    psi, start = psi_of(density, theta), np.diag(psi_of(density, layout.theta(run.model_start)))
    variances = np.where(np.diag(psi) > 0, np.diag(psi), start)
    along = np.diag(direction)
    largest = float(np.min(variances[along > 0] / along[along > 0]))
    out = []
    for fraction in BOUNDARY.ray_fractions:
        point = estimate.packed.copy()
        layout.theta(point)[:] = density.covariance.from_matrix(psi + fraction * largest * direction)
        out.append(point)
    return out
