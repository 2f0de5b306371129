"""From formula and table to a LinearFit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.linear.algorithm import Estimation, estimate
from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.outcome import LinearOutcome, outcome
from jaxnlme.estimators.linear.problem import linear_problem
from jaxnlme.formulas.mixed import MixedFormula
from jaxnlme.linear.declaration import LinearModel, linear_model
from jaxnlme.linear.record import LinearFit, LinearStatus
from jaxnlme.results.display import number


def fit_linear(
    formula: MixedFormula, frame: Any, restricted: bool, structures: Any, missing: str, call: dict[str, Any]
) -> LinearFit:
    """The LinearFit of a formula and a table.

    **Arguments:** `restricted`: REML; `structures`, `missing`: see `linear_model`; `call`: the user's arguments.
    """
    model = linear_model(formula, frame, structures, missing)
    designs = [grouping.random_design() for grouping in model.groupings]
    if model.nested:
        problem = linear_problem(model.y, model.fixed.matrix, designs)
        likelihood = ProfiledLikelihood(cross_products(problem), problem.n_rows, restricted)
    else:
        # These import scipy's sparse matrices, which nested levels do not need.
        from jaxnlme.estimators.linear.crossed_likelihood import CrossedLikelihood
        from jaxnlme.estimators.linear.crossed_problem import crossed_problem
        from jaxnlme.estimators.linear.crossed_products import crossed_products

        problem = crossed_problem(model.y, model.fixed.matrix, designs)
        likelihood = CrossedLikelihood(crossed_products(problem), problem.n_rows, restricted)
    estimation = estimate(likelihood)
    found = outcome(problem, likelihood, estimation)
    zeros = tuple(zero_sentences(model, found))
    status = LinearStatus((*_convergence(estimation), *zeros, *model.notes))
    method = "REML" if restricted else "ML"
    return LinearFit(model, problem, found, restricted, estimation.converged, status, zeros, method, call)


def _convergence(estimation: Estimation) -> list[str]:
    """Sentences on convergence, the first one whether there is any."""
    if not estimation.converged:
        return ["NOT CONVERGED.", *(f"{text[0].upper()}{text[1:]}" for text in estimation.problems)]
    gain = max(estimation.minimum.decrement, 0.0)
    return [
        f"Converged: a further step is expected to gain {number(gain, 2)} log-likelihood units (limit 1e-06); the "
        "information matrix of the variance parameters is positive definite."
    ]


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
