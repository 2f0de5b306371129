"""Refits of one fit: the problem, starting point and inverse Hessian that bootstrap, jackknife, multistart and profile
likelihood share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.errors import FitError, OptionError, near_matches
from jaxnlme.estimators.core.objective import flatten, unflatten
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.estimators.marginal.settings import BOUNDARY
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.refits.jobs import Jobs, Outcomes, empty_overlay, reached_maximum
from jaxnlme.refits.vectorised_minimiser import run_batch, width_for
from jaxnlme.results.record import FitRecord

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
T = TypeVar("T")
# Predicted gain of a further step (log-likelihood units) at which a refit ends, about a millionth of a standard error
# from its maximum. A fit ends with Newton steps by its information matrix; a refit gets as close by the last steps of
# its minimiser, which converges superlinearly.
TOLERANCE = 1e-12
# Standard deviation, as a fraction of its start, below which a refit with that variance at zero is tried.
SMALL_SD = 0.1
# Standard deviation, as a fraction of its start, at which one of exactly zero is started again.
RESTARTED_SD = 0.3
# Gain (log-likelihood units) for which a rerun, from larger variances or from new modes, replaces a refit.
LEAST_GAIN = 1e-6


def check_option_names(fn: Callable[P, T]) -> Callable[P, T]:
    """`fn`, with an OptionError that suggests similar names for an option that it does not have."""
    options = [name for name, p in inspect.signature(fn).parameters.items() if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in inspect.signature(fn).parameters:
                raise OptionError(f"{fn.__name__} has no option {name!r}; {near_matches(name, options)}")
        return fn(*args, **kwargs)

    return call


def check_whole_number(name: str, value: Any, least: int, meaning: str = "") -> int:
    """`value` as an int.

    **Raises:** OptionError where it is not a whole number >= `least`; `meaning` of the option `name`, for the message.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        subject = f"{name}, {meaning}," if meaning else name
        raise OptionError(f"{subject} must be a whole number >= {least}; received {value!r}.")
    return int(value)


class Refits:
    """A fit with what its refits share. They run on the default device with all groups at once, whatever devices and
    chunks the fit used, `width` of them at a time.

    `x` (n,), the packed estimates, standard deviations of zero restarted (`restart_zero_variances`); `free` (n,) bool;
    `inverse_hessians` (1, n, n), the inverse information, None without information on every entry; `dense`, the number
    of entries that are not weights of the structural model; `problem`, `template` as of a fit.

    **Arguments:** `fit`; `what`: the analysis, for messages ("a bootstrap"); `max_iterations` of a refit; `width`;
    `converged`: refuse a fit that did not converge.
    **Raises:** FitError where the fit did not converge; OptionError for a fit that does not maximise a likelihood
    approximation, more than one process, or a bad `max_iterations` or `width`.
    """

    def __init__(
        self, fit: FitRecord, what: str, max_iterations: int, width: int | None = None, *, converged: bool = True
    ):
        if not isinstance(fit.estimator, MaximumLikelihood):
            method = f"restricted {fit.method}" if fit.restricted and fit.method != "RELME" else fit.method
            raise OptionError(
                f"{what} needs a fit that maximises a likelihood approximation ('focei', ...), not a restricted "
                f"likelihood; this one is by {method}. Fit the model that way from these estimates: "
                "jn.fit(model, data, 'focei', start=fit)."
            )
        if jax.process_count() > 1:
            raise OptionError(f"{what} runs in one process; save the fit and load it in a single process.")
        max_iterations = check_whole_number("max_iterations", max_iterations, 1)
        self.width = None if width is None else check_whole_number("width", width, 1, "the number of refits at a time")
        if converged and not fit.converged:
            raise FitError(f"{what} needs a fit that converged. {fit.status}", fit)
        self.fit = fit
        self.estimator = MaximumLikelihood(fit.estimator.method, max_iterations, TOLERANCE)
        self.binding: Binding = fit.binding
        self.problem: Problem = fit.binding.problem
        self.template: Params = fit.params
        self.dense = len(self.binding.fixed)
        x = pack_on_host(fit.params)
        self.free = np.concatenate([~self.binding.fixed, np.ones(len(x) - self.dense, bool)])
        self.x, restarted = restart_zero_variances(self.binding, x)
        self.inverse_hessians = _inverse_information(fit, len(x), restarted)

    def overlay(self, where: Callable[[Problem], Any], values: Any) -> Problem:
        """A Problem with `values` at `where` and None elsewhere: the leaves that differ between jobs (see `Jobs`)."""
        return eqx.tree_at(where, empty_overlay(self.problem), values, is_leaf=lambda leaf: leaf is None)

    def run(
        self,
        overlay: Callable[[np.ndarray], Problem],
        x: np.ndarray,
        *,
        free: np.ndarray | None = None,
        modes: np.ndarray | None = None,
        inverse_hessians: np.ndarray | None = None,
        hessian_index: np.ndarray | None = None,
        problem: Problem | None = None,
        expected: int | None = None,
        evaluations: int = 12,
        progress: bool | None = False,
        name: str = "fits",
    ) -> Outcomes:
        """Run jobs from `x` (jobs, n) to their maxima.

        1. Minimise from `x`.
        2. Where standard deviations became small, minimise again with these exactly zero, and keep that result if it
           costs no log-likelihood, as a fit does.
        3. Where that happened, also try them again from larger values (a long step may have set one to zero whose score
           is positive there), then repeat step 2.
        4. Search the conditional modes again from zero, as a fit does; a job whose modes improve goes on from there.

        **Arguments:** `overlay`, `inverse_hessians`, `hessian_index`: as in `Jobs`; `free` (jobs, n) bool, by default
        that of the fit; `modes` (groups, random): where mode searches start, by default the fit's; `problem`: another
        one with as many parameters, by default the fit's; `expected`, `evaluations`, `progress`, `name`: as in
        `run_batch`.
        **Returns:** the Outcomes.
        """
        free = np.tile(self.free, (len(x), 1)) if free is None else free
        modes = self.fit.modes if modes is None else modes
        problem = self.problem if problem is None else problem

        expected = len(x) if expected is None else expected
        width = width_for(expected, problem.n_rows) if self.width is None else self.width
        free_at_start, free = free, free.copy()

        def run_jobs(which, x, free, modes, progress):
            return run_batch(
                problem,
                self.template,
                self.estimator,
                Jobs(
                    x,
                    free,
                    lambda indices: overlay(which[indices]),
                    modes,
                    inverse_hessians,
                    None if hessian_index is None else hessian_index[which],
                ),
                width=width,
                expected=expected,
                evaluations=evaluations,
                progress=progress,
                name=name,
            )

        def rerun(out, which, x, free_now, modes, gain):
            """Run the jobs `which` (indices) again from `x`; returns the outcomes, with those that gained more than
            `gain` in place, and the indices of these."""
            if not len(which) or out.interrupted:
                return out, which[:0]
            new = run_jobs(which, x, free_now, modes, False)
            rows = np.flatnonzero(new.done & (new.value < out.value[which] - gain))
            free[which[rows]] = free_now[rows]
            return out.replaced(which[rows], new.rows(rows)), which[rows]

        with x64():
            out = run_jobs(np.arange(len(x)), x, free, modes, progress)
            out, zero = rerun(out, *self._with_zero_variances(problem, out, free), modes, -BOUNDARY.cost_of_zero)
            restarted = [restart_zero_variances(self.binding, out.x[job], problem)[0] for job in zero]
            restarted = np.array(restarted).reshape(-1, x.shape[1])
            out, _ = rerun(out, zero, restarted, free_at_start[zero], modes, LEAST_GAIN)
            out, _ = rerun(out, *self._with_zero_variances(problem, out, free), modes, -BOUNDARY.cost_of_zero)
            if self.estimator.method.at_mode and problem.density.n_effects:
                at_maximum = np.flatnonzero(reached_maximum(out))
                from_zero = np.zeros_like(modes)
                out, improved = rerun(out, at_maximum, out.x[at_maximum], free[at_maximum], from_zero, LEAST_GAIN)
                if len(improved):
                    out, _ = rerun(out, *self._with_zero_variances(problem, out, free), modes, -BOUNDARY.cost_of_zero)
        return out

    def _with_zero_variances(
        self, problem: Problem, out: Outcomes, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Jobs that ended with small standard deviations (SMALL_SD): their indices (k,), x (k, n) with these exactly
        zero, and the entries that are then free (k, n) bool."""
        density = problem.density
        family, first = density.covariance, len(density.beta_names)
        last = first + family.n_unconstrained
        initial_log_sd = _initial_log_sd(self.binding)
        which, starts, frees = [], [], []
        for job in np.flatnonzero(out.done & np.isfinite(out.value)):
            x, still_free = out.x[job].copy(), free[job].copy()
            small = [
                first + index
                for index, _, _ in family.log_scales
                if still_free[first + index] and x[first + index] < initial_log_sd[index] + np.log(SMALL_SD)
            ]
            if not small:
                continue
            x[small] = -np.inf
            x[first:last] = family.from_matrix(psi_of(density, x[first:last]))
            for index, _, others in family.log_scales:
                if x[first + index] == -np.inf:
                    still_free[[first + index, *(first + o for o in others)]] = False
            fixed = ~free[job] & np.isfinite(out.x[job])
            # Entries that the job holds fixed must keep their values.
            if np.allclose(x[fixed], out.x[job][fixed], rtol=1e-12, atol=0.0):
                which.append(job)
                starts.append(x)
                frees.append(still_free)
        n = out.x.shape[1]
        return np.array(which, int), np.array(starts).reshape(-1, n), np.array(frees, bool).reshape(-1, n)

    @property
    def device_sentences(self) -> list[str]:
        """A sentence where the fit used several devices or chunks, which its refits do not; else an empty list."""
        options = {name: self.fit.options.get(name) for name in ("devices", "chunk_groups")}
        used = " and ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return [f"The fit used {used}; these refits held all groups on one device."] if used else []

    def params(self, x: np.ndarray) -> Params:
        """Params (numpy) of a packed vector x (n,)."""
        with x64():
            return jax.tree.map(np.asarray, unflatten(self.template, np.asarray(x)))

    def values(self, out: Outcomes) -> pd.DataFrame:
        """User-scale values by name, a row per job; NaN where it did not reach a maximum."""
        import pandas as pd

        names = list(self.fit.values)
        rows = np.full((len(out.x), len(names)), np.nan)
        for job in np.flatnonzero(reached_maximum(out)):
            rows[job] = list(self.binding.values(self.params(out.x[job])).values())
        return pd.DataFrame(rows, columns=names)


def pack_on_host(params: Params) -> np.ndarray:
    """The packed vector (n,) of Params on the host, in float64 whatever the session's precision."""
    with x64():
        return np.array(flatten(params), float)


def natural_se(fit: FitRecord) -> pd.Series:
    """Standard errors on the scale of `fit.values`; for typical values h(xb) by the delta method, |dh/dxb| se(xb)."""
    table = fit.estimates
    relative = table["rse%"] / 100.0 * table["value"].abs()
    typical = table["value"].notna()
    return table["se"].where(~typical, relative)


def restart_zero_variances(
    binding: Binding, x: np.ndarray, problem: Problem | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Restart standard deviations that are exactly zero, and not fixed, at RESTARTED_SD times their start, so that a
    refit with other data or weights estimates them anew.

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
            x[first + index] = initial_log_sd[index] + np.log(RESTARTED_SD)
            restarted[[first + index, *(first + o for o in others)]] = True
    return x, restarted


def _initial_log_sd(binding: Binding) -> np.ndarray:
    """Log standard deviations in theta (unconstrained,) at their start, zero where that is not finite."""
    start = np.asarray(binding.start.covariance, float)
    return np.where(np.isfinite(start), start, 0.0)


def _inverse_information(fit: FitRecord, n: int, restarted: np.ndarray) -> np.ndarray | None:
    """The inverse information (1, n, n), with a variance of 0.1 for `restarted` (n,) entries and 1 for others without
    information; None where the fit has none."""
    info = fit.information
    if info is None or info.covariance is None or len(fit.binding.fixed) != n:
        return None
    inverse = np.zeros((n, n))
    inverse[np.ix_(info.active, info.active)] = info.covariance
    rest = np.setdiff1d(np.arange(n), info.active)
    inverse[rest, rest] = np.where(restarted[rest], 0.1, 1.0)
    return inverse[None]
