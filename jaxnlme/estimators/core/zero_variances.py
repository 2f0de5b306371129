"""Sentences of a fit about variances that are estimated as zero."""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.model.density import Density


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
