"""Simulated responses of a fitted linear mixed model, and refits to other responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_count
from jaxnlme.errors import DataError, OptionError, shown
from jaxnlme.estimators.linear.algorithm import Estimation, estimate
from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.outcome import outcome
from jaxnlme.estimators.linear.problem import linear_problem
from jaxnlme.linear.fit import crossed_likelihood
from jaxnlme.linear.predict import n_levels, predict
from jaxnlme.linear.residual_model import depends_on_fitted, residual_rows
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
    kept, mean = n_levels(fit, level), predict(fit, None, level)
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


def refit(fit: LinearFit, y: np.ndarray) -> tuple[float, Estimation]:
    """The maximised log-likelihood of the same model with other responses (rows,), and the Estimation.

    **Raises:** DataError for responses of another length or that are not finite; OptionError for a variance function
    of the fitted values, whose estimate is no maximum.
    """
    y = np.asarray(y, float)
    if y.shape != (fit.model.n_rows,) or not np.isfinite(y).all():
        raise DataError(f"responses must be {fit.model.n_rows} finite numbers; received shape {y.shape}.")
    if fit.residual is not None and depends_on_fitted(fit.residual.error):
        raise OptionError(
            "a model whose variance is a function of the fitted values cannot be refitted in batches, "
            "as a bootstrap does it; pass method='chi-square' for the approximate distribution."
        )
    designs = [grouping.random_design() for grouping in fit.model.groupings]
    X, theta = fit.model.fixed.matrix, fit.outcome.estimation.theta
    if not fit.model.nested:
        problem, likelihood = crossed_likelihood(y, X, designs, fit.restricted)
    else:
        problem = linear_problem(y, X, designs, fit.series)
        error = None if fit.residual is None else fit.residual.error
        source: Any = cross_products(problem) if error is None else residual_rows(problem, error, fit.model.frame).rows
        likelihood = ProfiledLikelihood(source, problem.n_rows, fit.restricted)
    starts = [theta] if not likelihood.factors or (np.abs(theta) > 0).all() else []
    estimation = estimate(likelihood, starts)
    return outcome(problem, likelihood, estimation).log_likelihood, estimation


def refit_log_likelihoods(fit: LinearFit, responses: np.ndarray) -> np.ndarray:
    """Maximised log-likelihoods of refits.

    **Arguments:** `responses` (n, rows), in the order of the rows of the fit.
    **Returns:** an array (n,); NaN where a refit did not converge.
    """
    out = np.full(len(responses), np.nan)
    for k, y in enumerate(np.asarray(responses, float)):
        value, estimation = refit(fit, y)
        if estimation.converged:
            out[k] = value
    return out
