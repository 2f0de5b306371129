"""Simulated responses of a fitted linear mixed model, and refits to other responses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_count
from jaxnlme.errors import DataError, OptionError, shown
from jaxnlme.estimators.linear.algorithm import estimate
from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.interface import Likelihood
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.outcome import LinearOutcome, outcome
from jaxnlme.estimators.linear.problem import LinearProblem, linear_problem
from jaxnlme.linear.fit import crossed_likelihood
from jaxnlme.linear.predict import means, n_levels
from jaxnlme.linear.refits.resampled_rows import ResampledRows
from jaxnlme.linear.residual_model import ResidualRows, depends_on_fitted, residual_rows
from jaxnlme.numerics.linalg import semidefinite_cholesky

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


def simulate(fit: LinearFit, n: int = 1, key: Any = 0, level: str | int | None = "population") -> np.ndarray:
    """Responses drawn from the fitted model, at the rows of the fit.

    **Arguments:** `n` replicates; `key`: seed of numpy's generator; `level`: "population" draws new random effects of
    all units; a level as for `predict` keeps the estimated effects of that level and those around it, None of all.
    **Returns:** (n, rows).
    **Raises:** OptionError for other numbers and levels.
    """
    n = check_count("n", n, 1)
    try:
        rng = np.random.default_rng(key)
    except (TypeError, ValueError):
        raise OptionError(
            f"key is the seed of numpy's generator, a whole number >= 0 or a generator; received {shown(key)}."
        ) from None
    kept, mean = n_levels(fit, level), means(fit, None, level)
    out = np.empty((n, fit.model.n_rows))
    roots = [semidefinite_cholesky(psi) for psi in fit.outcome.psi]
    for k in range(n):
        y = mean + _residuals(fit, rng)
        for grouping, root in list(zip(fit.model.groupings, roots, strict=True))[kept:]:
            effects = rng.standard_normal((grouping.units.count, len(root))) @ root.T
            y = y + np.einsum("ij,ij->i", grouping.matrix, effects[grouping.units.codes])
        out[k] = y
    return out


def _residuals(fit: LinearFit, rng: np.random.Generator) -> np.ndarray:
    """Residuals (rows,) with the fitted covariance."""
    noise = rng.standard_normal(fit.model.n_rows) * fit.outcome.sigma
    if fit.residual is None:
        return noise
    colored = fit.residual.colored(noise, fit.residual.delta(fit.outcome.estimation.theta))
    out = np.empty_like(colored)
    out[fit.problem.order] = colored
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class Refit:
    """The model of a fit with other responses, rows or fixed effects: what of a LinearFit depends on these."""

    problem: LinearProblem
    likelihood: Likelihood
    residual: ResidualRows | None
    outcome: LinearOutcome

    @property
    def log_likelihood(self) -> float:
        """The maximised log-likelihood; by REML the restricted one."""
        return self.outcome.log_likelihood

    @property
    def converged(self) -> bool:
        """True if the search ended at a maximum."""
        return self.outcome.estimation.converged


def refit(
    fit: LinearFit,
    y: np.ndarray | None = None,
    X: np.ndarray | None = None,
    rows: ResampledRows | None = None,
) -> Refit:
    """The same model with other responses, columns of fixed effects or rows, by the criterion of the fit (REML or ML).

    The search begins at the estimates only (where some variance is estimated as zero, as for new data), while
    `fit_linear` also tries other starts, with a residual covariance several: of several maxima a refit may find another
    one than a fit to the same data would.

    **Arguments:** `y` (rows,); `X` (rows, fixed); `rows`, drawn from those of the fit; None: those of the fit.
    **Returns:** a Refit; `.converged` says whether the search ended at a maximum.
    **Raises:** DataError for responses of another length or that are not finite, and for drawn rows that do not
    determine the fixed effects; OptionError for a variance function of the fitted values, whose estimate is no maximum.
    """
    y = fit.model.y if y is None else np.asarray(y, float)
    X = fit.model.fixed.matrix if X is None else X
    if y.shape != (fit.model.n_rows,) or not np.isfinite(y).all():
        raise DataError(f"responses must be {fit.model.n_rows} finite numbers; received shape {y.shape}.")
    if fit.residual is not None and depends_on_fitted(fit.residual.error):
        raise OptionError(
            "a model whose variance is a function of the fitted values maximises no likelihood, so that it cannot be "
            "refitted to other responses or with values held; use a variance function of a column, or compare by the "
            "approximate distribution (method='chi-square')."
        )
    designs, frame = [grouping.random_design() for grouping in fit.model.groupings], fit.model.frame
    if rows is not None:
        y, X = y[rows.index], X[rows.index]
        designs, frame = rows.designs(designs), rows.frame(fit)
        rank = np.linalg.matrix_rank(X / np.maximum(np.linalg.norm(X, axis=0), np.finfo(float).tiny))
        if rank < X.shape[1]:
            raise DataError(f"the {X.shape[1]} columns of fixed effects have rank {rank} in the rows that were drawn.")
    residual = None
    if not fit.model.nested:
        problem, likelihood = crossed_likelihood(y, X, designs, fit.restricted)
    else:
        problem = linear_problem(y, X, designs, fit.series)  # series: of models without units to draw
        error = None if fit.residual is None else fit.residual.error
        if error is not None:
            residual = residual_rows(problem, error, frame)
        source: Any = cross_products(problem) if residual is None else residual.rows
        likelihood = ProfiledLikelihood(source, problem.n_rows, fit.restricted)
    theta = fit.outcome.estimation.theta
    starts = [theta] if not likelihood.factors or (np.abs(theta) > 0).all() else []
    estimation = estimate(likelihood, starts)
    return Refit(problem, likelihood, residual, outcome(problem, likelihood, estimation))


def refit_log_likelihoods(fit: LinearFit, responses: np.ndarray) -> np.ndarray:
    """Maximised log-likelihoods of refits.

    **Arguments:** `responses` (n, rows), in the order of the rows of the fit.
    **Returns:** an array (n,); NaN where a refit did not converge.
    """
    out = np.full(len(responses), np.nan)
    for k, y in enumerate(np.asarray(responses, float)):
        found = refit(fit, y)
        if found.converged:
            out[k] = found.log_likelihood
    return out
