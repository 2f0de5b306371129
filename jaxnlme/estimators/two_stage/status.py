"""Outcome of the fit of a single group: status codes and their sentences."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.estimators.two_stage.settings import STATUS
from jaxnlme.results.inference import direction_words


class GroupStatus(enum.IntEnum):
    """Outcome of the fit of a single group.

    **Example:**

    ```python
    jn.fit_groups(model, data).status
    ```
    """

    ok = 0
    no_observations = 1
    too_few_rows = 2
    non_finite = 3
    singular = 4
    not_converged = 5
    diverging = 6


def singular(curvature: np.ndarray) -> np.ndarray:
    """True (groups,) for each matrix of `curvature` (groups, n, n) that, scaled to unit diagonal, is not positive
    definite beyond rounding."""
    return ~(_scaled(curvature)[0][:, 0] > STATUS.singular_eigenvalue)


def _scaled(curvature: np.ndarray) -> tuple[Any, Any]:
    """Eigenvalues (groups, n) and eigenvectors of the matrices scaled to unit diagonal; a matrix with NaN becomes
    zero."""
    finite: Any = np.isfinite(curvature).all(axis=(1, 2))
    matrix = np.where(finite[:, None, None], curvature, 0.0)
    scale = np.sqrt(np.abs(np.einsum("ikk->ik", matrix)))
    scale = np.where(scale > 0, scale, 1.0)
    return np.linalg.eigh(matrix / (scale[:, :, None] * scale[:, None, :]))


def singular_sentence(names: Sequence[str], curvature: np.ndarray) -> str:
    """Sentence naming the direction in the parameters `names` that a group with a singular `curvature` (params, params)
    does not determine."""
    vector = _scaled(curvature[None])[1][0, :, 0].tolist()
    coefficients = sorted(zip(names, vector, strict=True), key=lambda pair: -abs(pair[1]))
    direction = {name: coefficient for name, coefficient in coefficients if abs(coefficient) > STATUS.least_coefficient}
    if len(direction) == 1:
        return (
            f"The group's data carry no information on {next(iter(direction))} where the search ended; try other "
            "starting values."
        )
    return (
        f"The group's data carry no information along the direction {direction_words(direction)} (coefficients of "
        "standardised parameters): these parameters cannot be distinguished where the search ended; try "
        "starts='pooled' or other starting values."
    )


# Sentences for several groups with the same status.
PLURAL = {
    GroupStatus.no_observations: "They have no observed response.",
    GroupStatus.too_few_rows: "They have too few observations for the parameters.",
    GroupStatus.non_finite: "The model is not finite for them at the starting values; try other ones.",
    GroupStatus.singular: "Their data do not distinguish some of the parameters (`status` names them).",
    GroupStatus.not_converged: "No maximum was found; the estimates may diverge to infinity.",
    GroupStatus.diverging: (
        "The likelihood increases without bound as parameters diverge to infinity (`status` names them)."
    ),
}
