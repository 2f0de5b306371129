"""Random effects of a posterior: those of the draws, or, where the sampler integrates them out, drawn given the data at
draws of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.results.effect_draws import draws_at, laplace_deviations
from jaxnlme.results.posterior.likelihood import effect_moments
from jaxnlme.results.settings import DRAWS

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def posterior_moments(fit: FitRecord) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations of the random effects (groups, random) of a fit with a posterior.

    Where the sampler integrated the effects out, they are drawn from Laplace's approximation around their conditional
    modes at `DrawSettings.posterior_draws` draws of the parameters.
    """
    posterior = fit.posterior
    assert posterior is not None
    if posterior.z is not None:
        return effect_moments(fit.binding, posterior.kept, posterior.z.reshape(-1, *posterior.z.shape[2:]))
    m, q = fit.conditional[0].shape
    if not q:
        return np.zeros((m, 0)), np.zeros((m, 0))
    n = min(DRAWS.posterior_draws, len(posterior.kept))
    packed = posterior.kept[posterior.choose(n, 0)]
    deviations = laplace_deviations(fit.conditional[1], n, 0)
    z = draws_at(fit, fit.binding, fit.conditional, packed, deviations)
    return effect_moments(fit.binding, packed, np.moveaxis(z, 1, 0))
