"""From formula and table to a LinearFit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import OptionError, some
from jaxnlme.estimators.linear.algorithm import Estimation, estimate, residual_start
from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.interface import Likelihood
from jaxnlme.estimators.linear.lagged import lagged_products
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.outcome import LinearOutcome, fitted_rows, outcome
from jaxnlme.estimators.linear.problem import LinearProblem, RandomDesign, linear_problem
from jaxnlme.estimators.linear.settings import LINEAR
from jaxnlme.formulas.mixed import MixedFormula
from jaxnlme.formulas.units import group_units
from jaxnlme.linear.declaration import LinearModel, linear_model
from jaxnlme.linear.record import LinearFit, LinearStatus
from jaxnlme.linear.residual_model import ResidualRows, columns_of, depends_on_fitted, residual_rows
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.results.display import number


def fit_linear(
    formula: MixedFormula,
    frame: Any,
    restricted: bool,
    structures: Any,
    missing: str,
    error: GaussianError | None,
    call: dict[str, Any],
) -> LinearFit:
    """The LinearFit of a formula and a table.

    **Arguments:** `restricted`: REML; `structures`, `missing`: see `linear_model`; `error`: the residual model, None
    for independent residuals of one variance; `call`: the user's arguments.
    """
    model = linear_model(formula, frame, structures, missing, columns_of(error))
    series, residual = None, None
    if error is not None and error.correlation is not None and error.correlation.within and not model.groupings:
        series = group_units((error.correlation.within,), model.frame).codes
    designs = [grouping.random_design() for grouping in model.groupings]
    if not model.nested:
        problem, likelihood, estimation = _crossed(model, designs, restricted, error)
    else:
        problem = linear_problem(model.y, model.fixed.matrix, designs, series)
        if error is None:
            likelihood = ProfiledLikelihood(cross_products(problem), problem.n_rows, restricted)
            estimation = estimate(likelihood)
        else:
            residual = residual_rows(problem, error, model.frame)
            likelihood, estimation = _with_residual_model(problem, residual, restricted, depends_on_fitted(error))
            residual = residual.at(likelihood.source)
    found = outcome(problem, likelihood, estimation)
    apart = not_apart(model, error) + no_maximum(model, estimation, found)
    if apart:
        estimation = dataclasses.replace(estimation, converged=False, problems=(*estimation.problems, *apart))
    zeros = tuple(zero_sentences(model, found))
    status = LinearStatus((*_convergence(estimation), *zeros, *model.notes))
    method = "REML" if restricted else "ML"
    return LinearFit(
        model,
        problem,
        likelihood,
        found,
        residual,
        restricted,
        estimation.converged,
        status,
        zeros,
        method,
        series,
        call,
    )


def _crossed(
    model: LinearModel, designs: Sequence[RandomDesign], restricted: bool, error: GaussianError | None
) -> tuple[LinearProblem, Likelihood, Estimation]:
    """Problem, likelihood and Estimation with crossed grouping factors.

    **Raises:** OptionError for a residual covariance.
    """
    if error is not None:
        labels = " and ".join(grouping.label for grouping in model.groupings)
        raise OptionError(
            f"the grouping factors {labels} are crossed, and weights or correlation are available for nested factors "
            "only: leave them out, or one of the factors."
        )
    problem, likelihood = crossed_likelihood(model.y, model.fixed.matrix, designs, restricted)
    return problem, likelihood, estimate(likelihood)


def crossed_likelihood(
    y: np.ndarray, X: np.ndarray, designs: Sequence[RandomDesign], restricted: bool
) -> tuple[LinearProblem, Likelihood]:
    """Problem and likelihood of `y` (rows,), `X` (rows, fixed) and crossed `designs`."""
    # These import scipy's sparse matrices, which nested levels do not need.
    from jaxnlme.estimators.linear.crossed_likelihood import CrossedLikelihood
    from jaxnlme.estimators.linear.crossed_problem import crossed_problem
    from jaxnlme.estimators.linear.crossed_products import crossed_products

    problem = crossed_problem(y, X, designs)
    return problem, CrossedLikelihood(crossed_products(problem), problem.n_rows, restricted)


def _with_residual_model(
    problem: LinearProblem, residual: ResidualRows, restricted: bool, alternate: bool
) -> tuple[ProfiledLikelihood, Estimation]:
    """The likelihood and the Estimation with a residual covariance.

    A variance function of the fitted values is computed at those of the estimates before, from a fit without it on,
    until the estimates repeat themselves: a fixed point, as R's nlme.

    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.2.
    """
    plain = ProfiledLikelihood(cross_products(problem), problem.n_rows, restricted)
    without = estimate(plain)
    # Random effects and correlation explain the same data in different ways, so that there may be several maxima.
    starts = [np.append(without.theta, residual.rows.residual_start())]
    if residual.rows.work <= LINEAR.work_of_second_search:
        starts += [np.append(plain.start(scale), residual.rows.residual_start()) for scale in LINEAR.random_starts]
    fitted = fitted_rows(problem, without) if alternate else None
    rows = residual.rows if fitted is None else residual.with_fitted(fitted)
    first = ProfiledLikelihood(rows, problem.n_rows, restricted)
    by_lag = lagged_products(residual.rows) if residual.rows.work > LINEAR.work_of_second_search else None
    if by_lag is not None:
        quick = ProfiledLikelihood(by_lag, problem.n_rows, restricted)
        estimation = estimate(quick, [residual_start(quick, starts[0])])
        if by_lag.largest_correlation(estimation.theta) < LINEAR.largest_lagged:
            return first, estimation
        starts.insert(0, estimation.theta)
    starts.insert(0, residual_start(first, starts[0]))
    if fitted is None:
        return first, estimate(first, starts)
    # Each start leads to a fixed point of its own: the highest is the estimate.
    ends = [_fixed_point(problem, residual, restricted, fitted, start) for start in starts]
    return min(ends, key=lambda end: end[1].minimum.value)


def _fixed_point(
    problem: LinearProblem, residual: ResidualRows, restricted: bool, fitted: np.ndarray, start: np.ndarray
) -> tuple[ProfiledLikelihood, Estimation]:
    """The end of the alternation between fitted values (rows,) and estimates from `start` (parameters,)."""
    theta, moved = start, np.inf
    for alternation in range(LINEAR.alternations):
        likelihood = ProfiledLikelihood(residual.with_fitted(fitted), problem.n_rows, restricted)
        estimation = estimate(likelihood, [theta])
        step = (estimation.theta - theta)[estimation.free]
        moved = float(np.sqrt(np.abs(step @ estimation.minimum.hessian @ step) / 2.0))
        if not np.isfinite(moved) or (alternation and moved < LINEAR.fixed_point):
            return likelihood, estimation
        theta = estimation.theta
        fitted = fitted_rows(problem, estimation)
    problem_sentence = (
        f"the alternation between fitted values and variances still moves by {moved:.1e} standard errors (limit "
        f"{LINEAR.fixed_point:g}) after {LINEAR.alternations} rounds."
    )
    return likelihood, dataclasses.replace(
        estimation, converged=False, problems=(*estimation.problems, problem_sentence)
    )


def _convergence(estimation: Estimation) -> list[str]:
    """Sentences on convergence, the first one whether there is any."""
    if not estimation.converged:
        return ["NOT CONVERGED.", *(f"{text[0].upper()}{text[1:]}" for text in estimation.problems)]
    gain = max(estimation.minimum.decrement, 0.0)
    return [
        f"Converged: a further step is expected to gain {number(gain, 2)} log-likelihood units (limit "
        f"{LINEAR.tolerance:g}); the information matrix of the variance parameters is positive definite."
    ]


def not_apart(model: LinearModel, error: GaussianError | None) -> tuple[str, ...]:
    """Sentences on effects that cannot be distinguished: intercepts of single rows beside residuals of one
    variance, and effects of two grouping factors with the same units."""
    rows = () if error is not None else tuple(
        f"the variances of {grouping.effects[0]} | {grouping.label} and of the residuals are not determined, only "
        "their sum is, because every row is a unit by itself: leave that term out."
        for grouping in model.groupings
        if grouping.units.count == model.n_rows and len(grouping.effects) == 1 and np.ptp(grouping.matrix) == 0.0
    )  # fmt: skip
    return rows + tuple(
        f"the variances of {some(shared)} by {one.label} and by {other.label} are not determined, only their sums are, "
        "because both divide the rows into the same units: leave one of them out."
        for one, other in itertools.combinations(model.groupings, 2)
        if (shared := [name for name in one.effects if name in other.effects])
        and np.array_equal(one.units.codes, other.units.codes)
    )


def no_maximum(model: LinearModel, estimation: Estimation, found: LinearOutcome) -> tuple[str, ...]:
    """A sentence on a search that did not converge because sigma tends to zero."""
    spread = float(np.std(model.y))
    if estimation.converged or not found.sigma < LINEAR.vanishing_sigma * spread:
        return ()
    return (
        f"sigma tends to zero ({found.sigma:.1e}, the responses have the standard deviation {spread:.1e}): fixed and "
        "random effects fit the responses exactly, so that the likelihood has no maximum; leave random effects out.",
    )


def zero_sentences(model: LinearModel, found: LinearOutcome) -> list[str]:
    """Sentences on variances estimated as zero and on singular covariances."""
    out = []
    for grouping, psi in zip(model.groupings, found.psi, strict=True):
        sds = np.sqrt(np.diag(psi))
        zero = [name for name, sd in zip(grouping.effects, sds, strict=True) if sd == 0]
        for name in zero:
            out.append(f"The variance of {name} | {grouping.label} is estimated as zero.")
        kept = sds > 0
        if kept.sum() > 1:
            correlation = (psi / np.where(kept, sds, 1.0)[:, None] / np.where(kept, sds, 1.0)[None, :])[kept][:, kept]
            if np.linalg.eigvalsh(correlation)[0] < len(psi) * np.finfo(float).eps * 10:
                out.append(
                    f"The covariance matrix of the random effects of {grouping.label} is singular: a combination of "
                    "them has variance zero (with two effects, a correlation of 1 or -1)."
                )
    return out
