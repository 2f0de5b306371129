"""Newton step of a replicate from its score and observed information, and its distance from the maximum.

With s the score of the log-likelihood and I the observed information (`louis.py`), d = I^-1 s leads to the maximum of
the quadratic approximation.

1. `significantly_off_maximum`: d is significant beside its Monte Carlo error, and so long that a last Newton step would
   leave too much of the distance.
2. `newton_point`: theta + d, shortened to `STEPS.longest_step` standard errors.
3. `uphill_point`, where the information is not positive definite: a step along which the log-likelihood increases.

**Source:** Gu and Kong (1998), PNAS 95, 7270-7274, for Newton steps from draws.
"""

from __future__ import annotations

import numpy as np

from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.rounds.boundary_evidence import scale_entries
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import CRITERIA, STEPS


def deciding_replicates(estimates: list[ScoreAndInformation]) -> list[ScoreAndInformation]:
    """Replicates used by the stopping rule.

    **Arguments:** `estimates`, score and information of all replicates.
    **Returns:** those with positive definite observed information, or all if there are none.
    """
    return [estimate for estimate in estimates if estimate.positive_definite] or estimates


def significantly_off_maximum(run: Run, estimate: ScoreAndInformation) -> bool:
    """True if the maximum is away from the parameters of a replicate, beyond Monte Carlo error, and so far that the
    last Newton step would leave too much of the distance; also if the information is not positive definite.

    With x the longest significant step in standard errors, a Newton step leaves about c x^2 (c a bound on the relative
    change of the curvature along it), and 2 e x of it where the information has a relative error of 2 e.

    **Arguments:** `run`, for its tolerance and its scales; `estimate`, score and information of the replicate.
    **Returns:** True if a step, not only the last one, is needed.
    """
    if not estimate.positive_definite:
        return True
    distance = float(np.max(significant_distances(estimate), initial=0.0))
    tolerance = float(run.estimator.tolerance)
    # The log-likelihood is the farther from quadratic, the larger the standard error of a log standard deviation.
    curvature_change = 1.0 + 2.0 * float(np.max(estimate.se[np.isin(estimate.active, scale_entries(run))], initial=0.0))
    return distance > tolerance or distance * (curvature_change * distance + 2.0 * estimate.se_mc_error) > max(
        CRITERIA.remainder_per_mc_error * estimate.mc_error_ratio, CRITERIA.remainder_per_tolerance * tolerance
    )


def significant_distances(estimate: ScoreAndInformation) -> np.ndarray:
    """Entries (active,) of the Newton step in standard errors, in absolute value; zero for those that are not
    significant beside their Monte Carlo error."""
    step = np.abs(estimate.step)
    return np.where(step > CRITERIA.significant_mc_errors * estimate.monte_carlo_se, step / estimate.se, 0.0)


def newton_point(run: Run, estimate: ScoreAndInformation, doublings: int = 0) -> np.ndarray:
    """Parameters after a Newton step d = I^-1 s, shortened to `STEPS.longest_step` standard errors, and to
    `STEPS.longest_log_scale_newton_step` in the logarithm of a scale.

    **Arguments:** `run`, for its scales; `estimate`, score and information at the present parameters; `doublings` of
    the longest step, where the information is that of transported draws.
    **Returns:** the new parameters (packed,); the present ones if the information is not positive definite.
    """
    if not estimate.positive_definite:
        return estimate.packed
    # Where almost nothing is observed of an entry, its standard error is mostly noise, and where the information is
    # almost singular, it changes along the step: the standard error of complete data limits the step as well.
    longest, complete = STEPS.longest_step, STEPS.longest_complete_step
    if estimate.transported:
        longest *= 2.0**doublings
        limiting_se = np.minimum(estimate.se, complete / estimate.complete_scale)
    else:
        observed = np.sqrt(np.maximum(estimate.observed_fraction, 0.0))
        limiting_se = estimate.se * np.minimum(1.0, complete * observed)
    # In the place of a divisor of zero: no step in that entry, or no limit.
    tiny = float(np.sqrt(np.finfo(float).tiny))
    length = np.max(np.abs(estimate.step) / np.maximum(limiting_se, tiny), initial=0.0)
    # The standard error of a scale that is hardly observed is no measure of how far a step may lead.
    log_scales = np.abs(estimate.step[np.isin(estimate.active, scale_entries(run))])
    longest_log = STEPS.longest_log_scale_newton_step * 2.0**doublings
    shrink = min(longest / max(length, tiny), longest_log / max(np.max(log_scales, initial=0.0), tiny))
    out = estimate.packed.copy()
    out[estimate.active] += estimate.step * min(1.0, shrink)
    return out


def updated_doublings(run: Run, estimates: list[ScoreAndInformation]) -> int:
    """Doublings of the longest step after a round: one more if the step before it ended short of the maximum, one less
    if it went beyond, in the metric of the information (where that is not positive definite, of the complete one).

    **Arguments:** `run`, with the last steps (replicates, active) in its outer state; `estimates` of the round.
    """
    state = run.outer_state
    cosines = []
    for estimate, last in zip(estimates, state.last_steps, strict=False):
        if estimate.transported and len(last) == len(estimate.active):
            step, metric = estimate.step, estimate.information
            if not estimate.positive_definite:
                step, metric = uphill_direction(estimate), estimate.complete
            size = np.sqrt((last @ metric @ last) * max(step @ metric @ step, 0.0))
            cosines.append(last @ metric @ step / max(size, np.finfo(float).tiny))
    if not cosines:
        return 0
    change = int(min(cosines) > STEPS.same_direction) - int(min(cosines) < 0.0)
    return int(np.clip(state.doublings + change, 0, STEPS.most_doublings))


def changes_of_standard_errors(run: Run, estimates: list[ScoreAndInformation]) -> list[np.ndarray]:
    """Changes (active,) of the logarithms of the standard errors of each replicate over the last step, in absolute
    value, by the information of transported draws: on a curved ridge it changes over a small part of a standard error.
    Zero for other information.

    **Arguments:** `run`, with the standard errors before the last step (replicates, active) in its outer state;
    `estimates` of all replicates.
    """
    before = run.outer_state.last_se
    return [
        np.abs(np.log(estimate.se / before[r]))
        if estimate.transported and r < len(before) and len(before[r]) == len(estimate.active)
        else np.zeros(len(estimate.active))
        for r, estimate in enumerate(estimates)
    ]


def standard_errors_changed(run: Run, estimates: list[ScoreAndInformation]) -> bool:
    """True if a standard error of a replicate changed over the last step by more than `largest_stable_change`."""
    changes = changes_of_standard_errors(run, estimates)
    return any(
        not (change <= largest_stable_change(estimate)).all()
        for change, estimate in zip(changes, estimates, strict=True)
    )


def largest_stable_change(estimate: ScoreAndInformation) -> float:
    """Change of the logarithm of a standard error over a step that counts as none: `STEPS.stable_se`, or what the Monte
    Carlo errors of two standard errors explain."""
    return max(STEPS.stable_se, CRITERIA.se_mc_errors * np.sqrt(2.0) * estimate.se_mc_error)


def uphill_direction(estimate: ScoreAndInformation) -> np.ndarray:
    """A step (active,) along which the log-likelihood increases, of no limited length: the Newton step with the
    eigenvalues of the information, in units of the complete one, replaced by their absolute values,
    `STEPS.min_curvature_fraction` at least. The information of transported draws is accurate where little is observed:
    its least curvature is smaller."""
    unit = estimate.complete_scale
    values, vectors = np.linalg.eigh(estimate.information / np.outer(unit, unit))
    least = STEPS.min_transported_fraction if estimate.transported else STEPS.min_curvature_fraction
    return vectors @ ((vectors.T @ (estimate.score / unit)) / np.maximum(np.abs(values), least)) / unit


def uphill_point(run: Run, estimate: ScoreAndInformation, doublings: int = 0) -> np.ndarray:
    """Parameters (packed,) after an uphill step of limited length, for an information that is not positive definite.

    **Arguments:** `doublings` of the longest step, where the information is that of transported draws.
    """
    step, out = uphill_direction(estimate), estimate.packed.copy()
    longest = 1.0 / STEPS.min_curvature_fraction
    if estimate.transported:
        longest = STEPS.longest_complete_step * 2.0**doublings
    is_scale = np.isin(estimate.active, scale_entries(run))
    limits = np.where(is_scale, STEPS.longest_log_scale_step, longest / estimate.complete_scale)
    out[estimate.active] += step / max(1.0, np.max(np.abs(step) / limits, initial=0.0))
    return out
