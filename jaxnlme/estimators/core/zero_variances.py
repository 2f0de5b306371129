"""Sentences of a fit about variances, and parts of a residual scale, that are estimated as zero."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.model.density import Density
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.families import TWO_PART_SCALES


def zero_sentences(density: Density, theta: np.ndarray, zeroed: set[int], converged: bool) -> list[str]:
    """One sentence for each variance, or conditional variance, that is estimated as zero.

    **Arguments:** `theta` (unconstrained,), the covariance parameters; `zeroed`, packed indices of the log scales at
    minus infinity; `converged`: the fit is at a maximum, and only then it shows what the data say of them.
    """
    first = len(density.beta_names)
    psi = psi_of(density, theta) if density.n_effects else None
    sentences = []
    for index, effects, _ in density.covariance.log_scales:
        if first + index not in zeroed or psi is None:
            continue
        names = ", ".join(density.effect_names[k] for k in effects)
        if not converged:
            sentences.append(f"The (conditional) variance of the random effect of {names} is zero at this point.")
        elif all(psi[k, k] == 0.0 for k in effects):
            sentences.append(
                f"The variance of the random effect of {names} is estimated as zero: the likelihood falls as it grows "
                "from zero (score at the boundary). The effect can be dropped."
            )
        else:
            sentences.append(
                f"Psi is singular: the random effect of {names} is a linear function of the effects before it "
                "(conditional variance zero). A simpler covariance fits as well."
            )
    return sentences


@dataclasses.dataclass(frozen=True)
class VanishedPart:
    """A part of a residual scale such as a + b |f|^c that is estimated as zero: its `name`, the name of the residual
    model without it (`without`), and its `size`, the logarithm of the value that makes both parts equal."""

    name: str
    without: str
    size: float

    def sentence(self, value: float) -> str:
        """A sentence on the part, with its `value`."""
        return (
            f"The part {self.name} of the residual error is estimated as zero ({value:.1g}): error={self.without!r} "
            "fits as well."
        )


def vanished_parts(binding: Binding, x: np.ndarray) -> dict[int, VanishedPart]:
    """Parts of a residual scale that are estimated as zero, by packed index: at predictions as large as the largest (b)
    or the smallest (a) responses, they are a fraction of the other part below RUN_SETTINGS.vanished_part. Their
    logarithm goes to minus infinity, and the likelihood no longer depends on it.

    **Arguments:** `x` (packed,).
    """
    density, error = binding.density, binding.density.error
    if not isinstance(error, GaussianError) or error.scale not in TWO_PART_SCALES or error.of_transformed:
        return {}
    first = len(density.beta_names) + density.covariance.n_unconstrained
    strata = max(len(error.levels), 1)
    y = np.abs(np.asarray(binding.data.y[binding.data.observed]))
    if not (y > 0).any():
        return {}
    low, high = np.log(np.min(y[y > 0])), np.log(np.max(y))
    out = {}
    for level in range(strata):
        a, b = first + level, first + strata + level
        power = error.scale is TWO_PART_SCALES[2]
        c = x[first + 2 * strata + level] if power else 1.0
        for k, size, without in (
            (b, x[a] - c * high, "constant"),
            (a, x[b] + c * low, "power" if power else "proportional"),
        ):
            if x[k] - size < np.log(RUN_SETTINGS.vanished_part) and not binding.fixed[k]:
                out[k] = VanishedPart(density.error_names[k - first], without, float(size))
    return out
