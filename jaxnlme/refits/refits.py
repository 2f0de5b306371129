"""Refits of one fit: the problem, starting point and inverse Hessian that bootstrap, jackknife, multistart and profile
likelihood share."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.binding.bind import Binding
from jaxnlme.binding.limits import response_leaves, with_limited_responses
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import FitError, OptionError, check_whole_number, near_matches
from jaxnlme.estimators.core.objective import flatten, unflatten
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.refits.job_runs import BatchOptions, JobRuns
from jaxnlme.refits.jobs import Outcomes, empty_overlay, reached_maximum
from jaxnlme.refits.settings import BATCH, REFIT
from jaxnlme.refits.vectorised_minimiser import width_for
from jaxnlme.refits.zero_variances import restart_zero_variances, with_zero_variances
from jaxnlme.results.record import FitRecord

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
T = TypeVar("T")


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


class Refits:
    """A fit with what its refits share. They run on the default device with all groups at once, whatever devices and
    chunks the fit used, `width` of them at a time.

    `x` (n,), the packed estimates, standard deviations of zero restarted (`restart_zero_variances`); `free` (n,) bool;
    `inverse_hessians` (1, n, n), the inverse information, None without information on every entry; `dense`, the number
    of entries that are not weights of the structural model; `problem`, `template` as of a fit.

    **Arguments:** `fit`; `analysis`: its name, for messages ("a bootstrap"); `max_iterations` of a refit; `width`;
    `require_converged`: refuse a fit that did not converge.
    **Raises:** FitError where the fit did not converge; OptionError for a fit that does not maximise a likelihood
    approximation, more than one process, or a bad `max_iterations` or `width`.
    """

    def __init__(
        self,
        fit: FitRecord,
        analysis: str,
        max_iterations: int,
        width: int | None = None,
        *,
        require_converged: bool = True,
    ):
        require_host(analysis)
        if not isinstance(fit.estimator, MaximumLikelihood):
            method = f"restricted {fit.method}" if fit.restricted and fit.method != "RELME" else fit.method
            raise OptionError(
                f"{analysis} needs a fit that maximises a likelihood approximation ('focei', ...), not a restricted "
                f"likelihood; this one is by {method}. Fit the model that way from these estimates: "
                "jn.fit(model, data, 'focei', start=fit)."
            )
        if jax.process_count() > 1:
            raise OptionError(f"{analysis} runs in one process; save the fit and load it in a single process.")
        max_iterations = check_whole_number("max_iterations", max_iterations, 1)
        self.width = None if width is None else check_whole_number("width", width, 1, "the number of refits at a time")
        if require_converged and not fit.converged:
            raise FitError(f"{analysis} needs a fit that converged. {fit.status}", fit)
        self.fit = fit
        self.estimator = MaximumLikelihood(fit.estimator.method, max_iterations, REFIT.tolerance)
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

    def overlay_responses(self, responses: Sequence[np.ndarray]) -> Problem:
        """The overlay of other responses, each (jobs, groups, obs), one array for each bucket: with the limits of
        quantification of their rows applied, where these have some."""
        error, buckets = self.problem.density.error, self.problem.buckets
        drawn = [with_limited_responses(error, b, y) for b, y in zip(buckets, responses, strict=True)]
        if all(limits is None for _, limits, _ in drawn):
            return self.overlay(lambda p: [bucket.y for bucket in p.buckets], [y for y, _, _ in drawn])
        return self.overlay(response_leaves, list(itertools.chain(*drawn)))

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
        evaluations: int = BATCH.expected_evaluations,
        progress: bool | None = False,
        name: str = "fits",
    ) -> Outcomes:
        """Run jobs from `x` (jobs, n) to their maxima (see `_to_maxima`).

        **Arguments:** `overlay`, `inverse_hessians`, `hessian_index`: as in `Jobs`; `free` (jobs, n) bool, by default
        that of the fit; `modes` (groups, random): where mode searches start, by default the fit's; `problem`: another
        one with as many parameters, by default the fit's; `expected`, `evaluations`, `progress`, `name`: as in
        `run_jobs`.
        **Returns:** the Outcomes.
        """
        free = np.tile(self.free, (len(x), 1)) if free is None else free
        modes = self.fit.modes if modes is None else modes
        problem = self.problem if problem is None else problem
        expected = len(x) if expected is None else expected
        width = width_for(expected, problem.n_rows) if self.width is None else self.width
        options = BatchOptions(width, expected, evaluations, name)
        with x64():
            runs = JobRuns(
                problem, self.template, self.estimator, options, overlay, free, inverse_hessians, hessian_index
            )
            self._to_maxima(runs, x, free, modes, progress)
        return runs.out

    def _to_maxima(
        self, runs: JobRuns, x: np.ndarray, free: np.ndarray, modes: np.ndarray, progress: bool | None
    ) -> None:
        """Minimise `runs` from `x` (jobs, n), and repeat the checks by which a fit improves its end point:

        1. Minimise from `x`.
        2. Where standard deviations became small, minimise again with these exactly zero, and keep that result if it
           costs no log-likelihood, as a fit does.
        3. Where that happened, also try them again from larger values (a long step may have set one to zero whose score
           is positive there), then repeat step 2.
        4. Search the conditional modes again from zero, as a fit does; a job whose modes improve goes on from there.

        **Arguments:** `free` (jobs, n) bool, entries that are not held fixed; `modes` (groups, random): where mode
        searches start; `progress` of the first minimisation.
        """
        problem = runs.problem
        runs.start(x, modes, progress)
        zero = self._try_zero_variances(runs, modes)
        restarted = [restart_zero_variances(self.binding, runs.out.x[job], problem)[0] for job in zero]
        restarted = np.array(restarted).reshape(-1, x.shape[1])
        runs.rerun(zero, restarted, free[zero], modes, REFIT.least_gain)
        self._try_zero_variances(runs, modes)
        if self.estimator.method.at_mode and problem.density.n_effects:
            at_maximum = np.flatnonzero(reached_maximum(runs.out))
            points, from_zero = runs.out.x[at_maximum], np.zeros_like(modes)
            improved = runs.rerun(at_maximum, points, runs.free[at_maximum], from_zero, REFIT.least_gain)
            if len(improved):
                self._try_zero_variances(runs, modes)

    def _try_zero_variances(self, runs: JobRuns, modes: np.ndarray) -> np.ndarray:
        """Rerun jobs with their small standard deviations exactly zero, and keep what costs no log-likelihood; the
        indices of the jobs that were replaced."""
        starts = with_zero_variances(self.binding, runs.problem, runs.out, runs.free)
        return runs.rerun(*starts, modes, -REFIT.cost_of_zero)

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


def _inverse_information(fit: FitRecord, n: int, restarted: np.ndarray) -> np.ndarray | None:
    """The inverse information (1, n, n), with variances of `RefitSettings` for `restarted` (n,) entries and for others
    without information; None where the fit has none."""
    info = fit.information
    if info is None or info.covariance is None or len(fit.binding.fixed) != n:
        return None
    inverse = np.zeros((n, n))
    inverse[np.ix_(info.active, info.active)] = info.covariance
    rest = np.setdiff1d(np.arange(n), info.active)
    inverse[rest, rest] = np.where(restarted[rest], REFIT.restarted_variance, REFIT.other_variance)
    return inverse[None]
