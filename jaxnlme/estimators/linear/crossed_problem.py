"""A linear mixed model with crossed grouping factors as arrays: as `problem.py`, but rows in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxnlme.errors import DataError
from jaxnlme.estimators.linear.problem import Level, LinearProblem, RandomDesign, _effect_transform, _least_squares
from jaxnlme.estimators.linear.relative_factor import relative_factor
from jaxnlme.estimators.linear.settings import LINEAR


def crossed_problem(y: np.ndarray, X: np.ndarray, designs: Sequence[RandomDesign]) -> LinearProblem:
    """The LinearProblem of `y` (rows,), `X` (rows, fixed) of full rank, and `designs` of factors that may be crossed.

    The units of its levels are in the order of their codes; `starts` holds the first row of each, which need not be
    followed by the others, and `parents` is zero.

    **Raises:** as `linear_problem`.
    """
    R, ordinary, rss, well_conditioned = _least_squares(X, y)
    scale = float(np.sqrt(rss / max(len(y), 1)))
    if not scale > LINEAR.least_residual * float(np.sqrt(np.mean(y**2))):
        raise DataError(
            "the responses are fitted exactly by the fixed effects (residual standard deviation "
            f"{scale:.3g}), so that no variance can be estimated."
        )
    levels = []
    for design in designs:
        transform, clear = _effect_transform(design, design.matrix)
        well_conditioned = well_conditioned and clear
        starts = np.unique(design.codes, return_index=True)[1]
        none = np.zeros(design.n_units, int)
        levels.append(
            Level(
                design,
                relative_factor(design.structure),
                design.matrix,
                transform,
                starts,
                none,
                np.arange(design.n_units),
            )
        )
    return LinearProblem(slice(None), X, y, R, ordinary, scale, tuple(levels), well_conditioned)


def transformed_right(problem: LinearProblem) -> np.ndarray:
    """The columns [Q, transformed y] (rows, fixed + 1)."""
    Q = problem.X @ np.linalg.inv(problem.R) if problem.n_fixed else problem.X
    y = (problem.y - problem.X @ problem.ordinary) / problem.scale
    return np.column_stack([Q, y - Q @ (Q.T @ y)])
