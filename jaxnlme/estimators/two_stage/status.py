"""How the fits of single groups ended, in words."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.results.inference import direction_words

# A direction whose curvature, in units of the parameters' own, is below this is not told by the group.
SINGULAR = 1e-12


class GroupStatus(enum.IntEnum):
    """How the fit of a single group ended."""

    ok = 0
    no_observations = 1
    too_few_rows = 2
    non_finite = 3
    singular = 4
    not_converged = 5
    run_off = 6


def singular(curvature: np.ndarray) -> np.ndarray:
    """Which matrices (groups, n, n) are not positive definite beyond rounding, in units where their diagonal is one."""
    return ~(_scaled(curvature)[0][:, 0] > SINGULAR)


def _scaled(curvature: np.ndarray) -> tuple[Any, Any]:
    """Eigenvalues (groups, n) and vectors in units where the diagonal is one; NaN becomes a zero matrix."""
    finite: Any = np.isfinite(curvature).all(axis=(1, 2))
    matrix = np.where(finite[:, None, None], curvature, 0.0)
    scale = np.sqrt(np.abs(np.einsum("ikk->ik", matrix)))
    scale = np.where(scale > 0, scale, 1.0)
    return np.linalg.eigh(matrix / (scale[:, :, None] * scale[:, None, :]))


def singular_sentence(names: Sequence[str], curvature: np.ndarray) -> str:
    """What a group with a singular `curvature` (own, own) does not tell of the parameters `names`."""
    vector = _scaled(curvature[None])[1][0, :, 0].tolist()
    shares = sorted(zip(names, vector, strict=True), key=lambda pair: -abs(pair[1]))
    told = {name: share for name, share in shares if abs(share) > 0.1}
    if len(told) == 1:
        return f"Its rows carry no information on {next(iter(told))} where the search ended; start elsewhere."
    return (
        f"Its rows carry no information along the direction {direction_words(told)} (shares of standardised "
        "parameters): they cannot be told apart where the search ended; starts='pooled' or other starts may lead "
        "elsewhere."
    )


# Of several groups at once.
PLURAL = {
    GroupStatus.no_observations: "They have no observed response.",
    GroupStatus.too_few_rows: "They have too few observations for the parameters.",
    GroupStatus.non_finite: "The model is not finite for them where their search began; start elsewhere.",
    GroupStatus.singular: "Some parameters cannot be told apart in them (`status` says which).",
    GroupStatus.not_converged: "No maximum was found; the estimates may run off to infinity.",
    GroupStatus.run_off: "The likelihood rises without end as parameters run off to infinity (`status` says which).",
}
