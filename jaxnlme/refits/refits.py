"""What the batches share: a fit made ready to be refitted many times, and what came of each refit in plain words."""

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
from jaxnlme.estimators.marginal.boundary import COST_OF_ZERO
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.refits.jobs import Jobs, Outcomes, nothing, reached_maximum
from jaxnlme.refits.vectorised_minimiser import run_batch, width_for
from jaxnlme.results.record import Fit

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
T = TypeVar("T")
# Predicted gain at which a lane ends: a quarter of a millionth of a standard error from its maximum. A fit is polished
# by Newton steps with its information matrix; lanes get there by the last, superlinear steps of their minimiser.
TOLERANCE = 1e-12
# A standard deviation below this share of its start may be on its way to zero.
SMALL_SD = 0.1
# Where it is let grow again, as a share of its start; what that, or better modes, have to gain.
OPENED, GAIN = 0.3, 1e-6


def named_options(fn: Callable[P, T]) -> Callable[P, T]:
    """`fn`, refusing options by names that it does not have with the names that come near."""
    known = [name for name, p in inspect.signature(fn).parameters.items() if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in inspect.signature(fn).parameters:
                raise OptionError(f"{fn.__name__} has no option {name!r}; {near_matches(name, known)}")
        return fn(*args, **kwargs)

    return call


def whole_number(name: str, value: Any, least: int, meaning: str = "") -> int:
    """`value` where it is a whole number >= `least`; OptionError, which says what was expected, otherwise."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        said = f"{name}, {meaning}," if meaning else name
        raise OptionError(f"{said} must be a whole number >= {least}; received {value!r}.")
    return int(value)


class Refits:
    """A fit and the minimisations around it, `width` side by side. They run on the default device, all groups there at
    once, whatever devices and chunks the fit had.

    `x` (n,), the estimates packed, variances at zero opened again; `free` (n,) bool; `metrics` (1, n, n), the
    inverse information, None where there is none for every entry; `problem`, `template` as a fit has them.
    """

    def __init__(self, fit: Fit, what: str, max_iterations: int, width: int | None = None, *, converged: bool = True):
        """**Errors:** FitError where the fit did not converge (`converged`: that matters); OptionError for a fit by a
        method whose objective is not a likelihood of the ladder, or a bad `max_iterations` or `width`."""
        if not isinstance(fit.estimator, MaximumLikelihood):
            word = f"restricted {fit.method}" if fit.restricted and fit.method != "RELME" else fit.method
            raise OptionError(
                f"{what} needs a fit by a likelihood of the ladder ('focei', ...), not restricted; this is {word}. "
                "Fit the model so from where this one ended: jn.fit(model, data, 'focei', start=fit)."
            )
        if jax.process_count() > 1:
            raise OptionError(f"{what} runs in one process; load the saved fit in one of its own.")
        max_iterations = whole_number("max_iterations", max_iterations, 1)
        self.width = None if width is None else whole_number("width", width, 1, "how many run side by side")
        if converged and not fit.converged:
            raise FitError(f"{what} needs a fit that converged. {fit.status}", fit)
        self.fit = fit
        self.estimator = MaximumLikelihood(fit.estimator.method, max_iterations, TOLERANCE)
        self.binding: Binding = fit.binding
        self.problem: Problem = fit.binding.problem
        self.template: Params = fit.params
        self.dense = len(self.binding.fixed)
        x = packed(fit.params)
        self.free = np.concatenate([~self.binding.fixed, np.ones(len(x) - self.dense, bool)])
        self.x, opened = opened_variances(self.binding, x)
        self.metrics = _metrics(fit, len(x), opened)

    def own(self, where: Callable[[Problem], Any], values: Any) -> Problem:
        """A Problem that holds `values` at `where` and nothing else: a job's own leaves (see `Jobs`)."""
        return eqx.tree_at(where, nothing(self.problem), values, is_leaf=lambda leaf: leaf is None)

    def run(
        self,
        own: Callable[[np.ndarray], Problem],
        x: np.ndarray,
        *,
        free: np.ndarray | None = None,
        modes: np.ndarray | None = None,
        metrics: np.ndarray | None = None,
        metric: np.ndarray | None = None,
        problem: Problem | None = None,
        expected: int | None = None,
        evaluations: int = 12,
        progress: bool | None = False,
        name: str = "fits",
    ) -> Outcomes:
        """The outcomes of jobs from `x` (jobs, n); variances that vanish are set to exactly zero where that costs
        nothing, as a fit does. `modes`: where searches start, by default at the fit's; `free` (jobs, n); `problem`: one
        other than the fit's, with as many parameters; the rest as in Jobs and `run_batch`."""
        free = np.tile(self.free, (len(x), 1)) if free is None else free
        modes = self.fit.modes if modes is None else modes
        problem = self.problem if problem is None else problem

        expected = len(x) if expected is None else expected
        width = width_for(expected, problem.n_rows) if self.width is None else self.width
        before, free = free, free.copy()

        def go(which, x, free, modes, progress):
            theirs = None if metric is None else metric[which]
            return run_batch(
                problem,
                self.template,
                self.estimator,
                Jobs(x, free, lambda indices: own(which[indices]), modes, metrics, theirs),
                width=width,
                expected=expected,
                evaluations=evaluations,
                progress=progress,
                name=name,
            )

        def again(out, which, x, moving, modes, gain):
            """Runs the jobs `which` once more from elsewhere; keeps what gains, and tells which did."""
            if not len(which) or out.interrupted:
                return out, which[:0]
            new = go(which, x, moving, modes, False)
            rows = np.flatnonzero(new.done & (new.value < out.value[which] - gain))
            free[which[rows]] = moving[rows]
            return out.replaced(which[rows], new.rows(rows)), which[rows]

        with x64():
            out = go(np.arange(len(x)), x, free, modes, progress)
            out, zero = again(out, *self._vanishing(problem, out, free), modes, -COST_OF_ZERO)
            # A variance that a long step threw to zero may have a positive score there: let it grow, and look again.
            opened = np.array([opened_variances(self.binding, out.x[job], problem)[0] for job in zero]).reshape(
                -1, x.shape[1]
            )
            out, _ = again(out, zero, opened, before[zero], modes, GAIN)
            out, _ = again(out, *self._vanishing(problem, out, free), modes, -COST_OF_ZERO)
            # As a fit does: modes are searched afresh from zero; where one is better, the job goes on from there.
            if self.estimator.method.at_mode and problem.density.n_effects:
                near = np.flatnonzero(reached_maximum(out))
                out, moved = again(out, near, out.x[near], free[near], np.zeros_like(modes), GAIN)
                if len(moved):
                    out, _ = again(out, *self._vanishing(problem, out, free), modes, -COST_OF_ZERO)
        return out

    def _vanishing(
        self, problem: Problem, out: Outcomes, free: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Jobs that ended with standard deviations on their way to zero: their indices, x (k, n) with these exactly
        zero, and what is then free (k, n)."""
        density = problem.density
        family, first = density.covariance, len(density.beta_names)
        last = first + family.n_unconstrained
        reference = _reference(self.binding)
        which, starts, frees = [], [], []
        for job in np.flatnonzero(out.done & np.isfinite(out.value)):
            x, moving = out.x[job].copy(), free[job].copy()
            small = [
                first + index
                for index, _, _ in family.log_scales
                if moving[first + index] and x[first + index] < reference[index] + np.log(SMALL_SD)
            ]
            if not small:
                continue
            x[small] = -np.inf
            x[first:last] = family.from_matrix(psi_of(density, x[first:last]))
            for index, _, others in family.log_scales:
                if x[first + index] == -np.inf:
                    moving[[first + index, *(first + o for o in others)]] = False
            held = ~free[job] & np.isfinite(out.x[job])
            # What the job holds fixed must stay where it is.
            if np.allclose(x[held], out.x[job][held], rtol=1e-12, atol=0.0):
                which.append(job)
                starts.append(x)
                frees.append(moving)
        n = out.x.shape[1]
        return np.array(which, int), np.array(starts).reshape(-1, n), np.array(frees, bool).reshape(-1, n)

    @property
    def placement(self) -> list[str]:
        """A sentence where the fit was spread over devices or chunks, as its refits are not; else none."""
        asked = {name: self.fit.options.get(name) for name in ("devices", "chunk_groups")}
        said = " and ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
        return [f"The fit used {said}; these fits held all groups on one device."] if said else []

    def params(self, x: np.ndarray) -> Params:
        """Params (numpy) at a packed vector."""
        with x64():
            return jax.tree.map(np.asarray, unflatten(self.template, np.asarray(x)))

    def values(self, out: Outcomes) -> pd.DataFrame:
        """User-scale values by name, a row a job; NaN where it did not end."""
        import pandas as pd

        names = list(self.fit.values)
        rows = np.full((len(out.x), len(names)), np.nan)
        for job in np.flatnonzero(reached_maximum(out)):
            rows[job] = list(self.binding.values(self.params(out.x[job])).values())
        return pd.DataFrame(rows, columns=names)


def packed(params: Params) -> np.ndarray:
    """The vector (n,) of Params on the host, float64 whatever the session's switch."""
    with x64():
        return np.array(flatten(params), float)


def natural_se(fit: Fit) -> pd.Series:
    """Standard errors on the scale of `fit.values`: those of typical values carried over by the slope, |dh/dxb| se."""
    table = fit.estimates
    relative = table["rse%"] / 100.0 * table["value"].abs()
    typical = table["value"].notna()
    return table["se"].where(~typical, relative)


def opened_variances(binding: Binding, x: np.ndarray, problem: Problem | None = None) -> tuple[np.ndarray, np.ndarray]:
    """x (n,) with standard deviations of exactly zero, unless fixed there, at 0.3 of their start, so that other weights
    or data decide anew; and which entries (n,) of x that concerns, with those of the factor that had no effect.
    `problem`: one with coordinates of its own for the covariance, the binding's where None."""
    density = (binding.problem if problem is None else problem).density
    first = len(density.beta_names)
    x, opened = x.copy(), np.zeros(len(x), bool)
    reference = _reference(binding)
    for index, _, others in density.covariance.log_scales:
        if x[first + index] == -np.inf and not binding.fixed[first + index]:
            x[first + index] = reference[index] + np.log(OPENED)
            opened[[first + index, *(first + o for o in others)]] = True
    return x, opened


def _reference(binding: Binding) -> np.ndarray:
    """A size of each log standard deviation in theta: its start where that is finite, else zero."""
    start = np.asarray(binding.start.covariance, float)
    return np.where(np.isfinite(start), start, 0.0)


def _metrics(fit: Fit, n: int, opened: np.ndarray) -> np.ndarray | None:
    """The inverse information (1, n, n), entries of opened variances with a spread of their own; None without it."""
    info = fit.information
    if info is None or info.covariance is None or len(fit.binding.fixed) != n:
        return None
    metric = np.zeros((n, n))
    metric[np.ix_(info.active, info.active)] = info.covariance
    rest = np.setdiff1d(np.arange(n), info.active)
    metric[rest, rest] = np.where(opened[rest], 0.1, 1.0)
    return metric[None]
