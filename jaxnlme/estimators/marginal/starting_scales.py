"""Starting scales of a search: standard deviations and residual scales that are far off, brought near their size.

By Fisher's identity the derivative of the log-likelihood in the logarithm of a scale s is E[S | y] / s^2 - N, with S
the sum of squares of the N residuals (or of the m effects b_k) that it scales. A step of the EM algorithm for s is
therefore

    log s <- log s + log(1 + g / N) / 2,    g the derivative,

and needs no more than the gradient. Where s is too small by a factor of a thousand, the curvature of the likelihood is
a million times that at the maximum, and changes as fast: quasi-Newton steps in all parameters lead astray there.

EM hardly moves a standard deviation of effects that is so small that the data do not show it. There the derivatives of
the groups are proportional to its square v, and a scoring step in v itself, whose information is that of the outer
products, is

    log s <- log s + log(1 + 2 g / sum_i g_i^2) / 2.

EM is slow, too, where almost all of the variation is missing information. A residual scale that explains all of it
(relative residuals of predictions that are almost zero are huge) leaves the random effects nothing: their modes are
zero, and the EM step is short although the likelihood rises steeply towards smaller scales. From there quasi-Newton
steps make predictions, not residuals, small.

1. If residual standard deviations at the responses, in root mean square, exceed the standard deviation of the
   responses, and the EM steps of residual scales are downwards: reduce these by that ratio, then by factors of e, while
   the objective decreases.
2. Compute the EM step of every free scale, or, for effects, the scoring step if it is longer and upwards. End if none
   is longer than `STARTING_SCALES.least_log_step`.
3. Take all of these together, or, if the objective is not lower there, the longest; end if that does not help either.
   Repeat 2 and 3, STARTING_SCALES.most_steps times.

**Source:** Dempster, Laird and Rubin (1977), Journal of the Royal Statistical Society B 39, 1-38, for EM; Fisher's
identity: Louis (1982), Journal of the Royal Statistical Society B 44, 226-233.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.endpoints import rows_of_stratum
from jaxnlme.estimators.core.starting_values import log_excess_of_residuals
from jaxnlme.estimators.marginal.settings import STARTING_SCALES
from jaxnlme.model.levels import units_with_response
from jaxnlme.model.transforms import Log

if TYPE_CHECKING:
    from jaxnlme.binding.bind import Binding
    from jaxnlme.estimators.marginal.session import Session
    from jaxnlme.model.density import Density, Group

# Packed indices of the entries of one scale, and the number of residuals or effects that it scales.
Scale = tuple[np.ndarray, float]


def adjust_starting_scales(session: Session) -> None:
    """Move `session` to scales near their size (see the module); nothing happens where they are."""
    scales = [
        (indices[session.free[indices]], count)
        for indices, count in scales_of(session)
        if count > 0 and session.free[indices].any()
    ]
    _reduce_residual_scales(session, scales)
    for _ in range(STARTING_SCALES.most_steps):
        steps = np.array([em_step(session, indices, count) for indices, count in scales])
        far = np.flatnonzero(np.abs(steps) > STARTING_SCALES.least_log_step)
        if not len(far):
            return
        longest = far[[np.argmax(np.abs(steps[far]))]]
        for which in (far, longest) if len(far) > 1 else (far,):
            x = session.x.copy()
            for k in which:
                x[scales[k][0]] += steps[k]
            trial = session.evaluate(x, session.objective.evaluator.modes_at(x, session.best))
            if trial.value < session.best.value and np.isfinite(trial.sums.gradient).all():
                session.move(trial)
                break
        else:
            return


def _reduce_residual_scales(session: Session, scales: list[Scale]) -> None:
    """Step 1 of the module."""
    first = session.n_dense - len(session.binding.density.error_names)
    residual = [(indices, count) for indices, count in scales if indices[0] >= first]
    steps = [em_step(session, indices, count) for indices, count in residual]
    if not min(steps, default=0.0) < STARTING_SCALES.downward_log_step:
        return
    entries = np.concatenate([indices for indices, _ in residual])
    step = log_excess_of_residuals(session.binding, session.params(), session.placed)
    if not step > 0.0:
        return
    for _ in range(STARTING_SCALES.most_steps):
        x = session.x.copy()
        x[entries] -= step
        trial = session.evaluate(x, session.best.modes)
        if not (trial.value < session.best.value and np.isfinite(trial.sums.gradient).all()):
            return
        session.move(trial)
        step = STARTING_SCALES.least_log_step


def em_step(session: Session, indices: np.ndarray, count: float) -> float:
    """The step of the logarithm of a scale, with `indices` and `count` as in `Scale`; zero where it is not finite."""
    sums, first = session.best.sums, len(session.binding.density.beta_names)
    score = -float(np.sum(np.asarray(sums.gradient)[indices]))
    ratio = max(1.0 + score / count, STARTING_SCALES.least_ratio)
    if indices[0] < first + session.binding.density.covariance.n_unconstrained and score > 0:
        squares = float(np.asarray(sums.outer)[indices[0], indices[0]])
        ratio = max(ratio, 1.0 + 2.0 * score / squares if squares > 0 else 0.0)
    return 0.5 * float(np.log(ratio)) if np.isfinite(ratio) and np.isfinite(session.x[indices]).all() else 0.0


def scales_of(session: Session) -> list[Scale]:
    """The scales of a model: of the random effects and, for Gaussian outcomes, of the residuals, one of each stratum
    with all its positive parameters together."""
    binding, density = session.binding, session.binding.density
    first, error = len(density.beta_names), density.error
    of_error = first + density.covariance.n_unconstrained
    is_log = np.array([isinstance(p.transform, Log) for p in error.parameters], bool)
    strata = [(part, entries, endpoint, level) for part, entries, endpoint in error.gaussian_parts()
              for level in range(max(len(part.levels), 1) if part.by is not None else 1)]  # fmt: skip
    totals = session.processes.total(np.concatenate(_weighted_counts(binding, strata)))
    of_effects, rows = totals[: density.covariance.size], totals[density.covariance.size :]
    out = [
        (np.array([first + index]), float(sum(of_effects[k] for k in effects)))
        for index, effects, _ in density.covariance.log_scales
    ]
    for (part, entries, _, level), count in zip(strata, rows, strict=True):
        n = len(part.levels) if part.by is not None else 1
        own = np.array(entries[: part.n_scale], int)
        chosen = own[(np.arange(len(own)) % n == level) & is_log[own]]
        if len(chosen):
            out.append((of_error + chosen, float(count)))
    return out


def _weighted_counts(binding: Binding, strata: list[tuple[Any, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted numbers of the units (of the groups, or of nested levels) of each distinct effect with a response
    (distinct effects,), and of the responses of each stratum (strata,).

    **Arguments:** `strata`: for each the GaussianError, its entries, its endpoint (None: all rows), and the level.
    """
    problem, weights = binding.problem, np.asarray(binding.data.weights)
    effects, rows, start = np.zeros(binding.density.covariance.size), np.zeros(len(strata)), 0
    positions = np.argsort(np.asarray(problem.order))
    for bucket in problem.buckets:
        observed = np.asarray(bucket.x.observed)
        weight = weights[positions[start : start + len(observed)]]
        start += len(observed)
        effects += weight @ observed_units(binding.density, bucket, observed)
        for k, (part, _, endpoint, level) in enumerate(strata):
            rows[k] += float(weight @ rows_of_stratum(bucket, part, endpoint, level).sum(axis=1))
    return effects, rows


def observed_units(density: Density, bucket: Group, observed: np.ndarray) -> np.ndarray:
    """The number of units with a response that have each distinct effect (groups, distinct effects): one for the groups
    themselves, the units of nested levels.

    **Arguments:** `bucket`: stacked groups; `observed` (groups, obs).
    """
    out = np.repeat(observed.any(axis=1, keepdims=True), density.covariance.size, axis=1).astype(float)
    for level in () if density.levels is None else density.levels.levels:
        if level.depth:
            unit = np.asarray(bucket.units[level.depth - 1].index)
            seen = units_with_response(unit, observed, level.units)
            out[:, list(level.effects)] = seen.sum(axis=1)[:, None]
    return out
