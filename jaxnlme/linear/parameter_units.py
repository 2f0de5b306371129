"""Sample sizes of the parameters of a linear mixed model, for BICc, and columns of X that shift a random effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.linear.declaration import Grouping

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


def parameter_units(fit: LinearFit) -> dict[str, float]:
    """For each estimated parameter its sample size in BICc.

    Standard deviations and correlations of random effects: the units of their grouping factor. A fixed effect whose
    column is a random effect's column times a value for each unit, so that it shifts that effect: the units. Others
    and residual parameters: the observations (for a restricted likelihood less the fixed effects).

    **Source:** Delattre, Lavielle and Poursat (2014), Electronic Journal of Statistics 8, 456-475.
    """
    n_obs = float(fit.criteria.n_used)
    names, out = fit.parameter_names, {}
    for k, name in enumerate(fit.model.fixed.names):
        shifted = shifted_effect(fit, fit.model.fixed.matrix[:, k])
        out[name] = n_obs if shifted is None else float(fit.model.groupings[shifted[0]].units.count)
    entries = [
        float(grouping.units.count)
        for grouping in fit.model.groupings
        for _ in range(grouping.structure.n_unconstrained)
    ]
    residual = fit.criteria.n_parameters - len(out) - len(entries)
    entries += [n_obs] * residual
    # Structures with shared variances report other names than they have parameters: the count is what matters.
    rest = names[len(out) :]
    labels = rest if len(rest) == len(entries) else [f"variance parameter {k + 1}" for k in range(len(entries))]
    return out | dict(zip(labels, entries, strict=True))


def shifted_effect(fit: LinearFit, column: np.ndarray) -> tuple[int, int, np.ndarray] | None:
    """The random effect that a column (rows,) of fixed effects shifts: position of the grouping factor, outermost
    first, and of the effect, and the shift (units,); None where the column is no effect's column times a value for
    each unit."""
    for k, grouping in enumerate(fit.model.groupings):
        for j in range(len(grouping.effects)):
            shift = _unit_values(grouping, grouping.matrix[:, j], column)
            if shift is not None:
                return k, j, shift
    return None


def _unit_values(grouping: Grouping, z: np.ndarray, column: np.ndarray) -> np.ndarray | None:
    """c (units,) with column = c z in every unit, None where there is none."""
    codes, count = grouping.units.codes, grouping.units.count
    norm = np.bincount(codes, z * z, count)
    shift = np.divide(np.bincount(codes, z * column, count), norm, out=np.zeros(count), where=norm > 0)
    gap = np.abs(column - shift[codes] * z).max()
    return shift if gap <= 1e-9 * max(float(np.abs(column).max()), np.finfo(float).tiny) else None
