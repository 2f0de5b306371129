"""Variances at zero in refits: standard deviations that became small are tried at exactly zero, and those of exactly
zero are started again."""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.model.density import Density
from jaxnlme.refits.jobs import Outcomes
from jaxnlme.refits.settings import REFIT


def with_zero_variances(
    binding: Binding, problem: Problem, out: Outcomes, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starting points with variances of zero for the jobs that ended with small standard deviations
    (`RefitSettings.small_sd`).

    **Arguments:** `problem` of the jobs; `out`, their outcomes; `free` (jobs, n) bool, entries that are not held fixed.
    **Returns:** the indices of these jobs (k,), x (k, n) with the small standard deviations exactly zero, and the
    entries that are then free (k, n) bool.
    """
    initial_log_sd = _initial_log_sd(binding)
    which, starts, frees = [], [], []
    for job in np.flatnonzero(out.done & np.isfinite(out.value)):
        x, still_free = _zeroed(problem.density, out.x[job], free[job], initial_log_sd)
        if x is None:
            continue
        fixed = ~free[job] & np.isfinite(out.x[job])
        # Entries that the job holds fixed must keep their values.
        if np.allclose(x[fixed], out.x[job][fixed], rtol=REFIT.held_value_error, atol=0.0):
            which.append(job)
            starts.append(x)
            frees.append(still_free)
    n = out.x.shape[1]
    return np.array(which, int), np.array(starts).reshape(-1, n), np.array(frees, bool).reshape(-1, n)


def _zeroed(
    density: Density, end: np.ndarray, free: np.ndarray, initial_log_sd: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """The end point `end` (n,) of a job with its small standard deviations exactly zero, None where it has none, and
    the entries that are then free (n,) bool.

    **Arguments:** `free` (n,) bool in the job; `initial_log_sd` (unconstrained,).
    """
    family, first = density.covariance, len(density.beta_names)
    last = first + family.n_unconstrained
    x, still_free = end.copy(), free.copy()
    small = [
        first + index
        for index, _, _ in family.log_scales
        if still_free[first + index] and x[first + index] < initial_log_sd[index] + np.log(REFIT.small_sd)
    ]
    if not small:
        return None, still_free
    x[small] = -np.inf
    x[first:last] = family.from_matrix(psi_of(density, x[first:last]))
    for index, _, others in family.log_scales:
        if x[first + index] == -np.inf:
            still_free[[first + index, *(first + o for o in others)]] = False
    return x, still_free


def restart_zero_variances(
    binding: Binding, x: np.ndarray, problem: Problem | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Restart standard deviations that are exactly zero, and not fixed, at `RefitSettings.restarted_sd` times their
    start, so that a refit with other data or weights estimates them anew.

    **Arguments:** `x` (n,), packed; `problem`: one with another parametrisation of the covariance, the binding's where
    None.
    **Returns:** x (n,), and True (n,) for the restarted entries and the entries of the factor that had no effect at
    zero.
    """
    density = (binding.problem if problem is None else problem).density
    first = len(density.beta_names)
    x, restarted = x.copy(), np.zeros(len(x), bool)
    initial_log_sd = _initial_log_sd(binding)
    for index, _, others in density.covariance.log_scales:
        if x[first + index] == -np.inf and not binding.fixed[first + index]:
            x[first + index] = initial_log_sd[index] + np.log(REFIT.restarted_sd)
            restarted[[first + index, *(first + o for o in others)]] = True
    return x, restarted


def _initial_log_sd(binding: Binding) -> np.ndarray:
    """Log standard deviations in theta (unconstrained,) at their start, zero where that is not finite."""
    start = np.asarray(binding.start.covariance, float)
    return np.where(np.isfinite(start), start, 0.0)
