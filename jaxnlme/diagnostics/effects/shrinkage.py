"""Shrinkage of random effects and residuals, by every definition in use.

**Source:** Savic and Karlsson (2009), AAPS Journal 11, 558-569 (standard deviations of modes and of IWRES); Bertrand,
Comets, Laffont, Chenel and Mentre (2009), Journal of Pharmacokinetics and Pharmacodynamics 36, 317-339, and Combes,
Retout, Frey and Mentre (2013), Pharmaceutical Research 30, 2355-2367 (variances, and conditional variances).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.residuals import endpoint_rows, residuals
from jaxnlme.diagnostics.tidy import by_level, level_of_effects
from jaxnlme.results.by_level import columns_of_effects, effect_columns

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


def shrinkage_table(fit: FitRecord) -> pd.DataFrame:
    """Shrinkage in percent, a row for each random effect and one, "epsilon", for the residuals of each endpoint.

    **Returns:** a data frame: `effect`, `level`; `sd`, the standard deviation of the model (1 for epsilon); `n`, the
    informative units; `sd of modes`; `sd shrinkage%` = 100 (1 - SD(modes) / sd), that of `fit.shrinkage`; `variance
    shrinkage%` = 100 (1 - var(modes) / sd^2); `conditional variance%` = 100 mean(conditional variance) / sd^2, from the
    draws of a stochastic fit where it has them and from the curvature at the modes otherwise. For epsilon, SD(IWRES) in
    the place of SD(modes). NaN for an effect of zero variance, for less than two units, and for an outcome without
    IWRES.
    """
    import pandas as pd

    density, data = fit.binding.density, fit.data
    sds = np.sqrt(np.diag(fit._psi))
    modes = effect_columns(fit.binding, fit._b)
    rows = []
    levels = level_of_effects(density, data)
    variances = _conditional_variances(fit)
    for name, level, sd, values in zip(density.effect_names, levels, sds, modes, strict=True):
        row = _row(name, level, sd, float(np.std(values, ddof=1)) if len(values) > 1 else np.nan, len(values))
        of_effect = variances.get(name, np.zeros(0))
        ratio = 100.0 * float(np.mean(of_effect)) / sd**2 if sd > 0 and len(of_effect) else np.nan
        rows.append(row | {"conditional variance%": ratio})
    if density.error.has_residuals:
        iwres = residuals(fit, "iwres")["iwres"].to_numpy()
        for label, mask in endpoint_rows(fit):
            values = iwres[mask & np.isfinite(iwres)]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
            rows.append(_row("epsilon", "" if label is None else label, 1.0, spread, len(values)))
    names = ["effect", "level", "sd", "n", "sd of modes", "sd shrinkage%", "variance shrinkage%"]
    return pd.DataFrame(rows, columns=[*names, "conditional variance%"])


def _row(name: str, level: str, sd: float, spread: float, n: int) -> dict[str, Any]:
    ratio = spread / sd if sd > 0 else np.nan
    row = {"effect": name, "level": level, "sd": sd, "n": n, "sd of modes": spread}
    return row | {"sd shrinkage%": 100.0 * (1.0 - ratio), "variance shrinkage%": 100.0 * (1.0 - ratio**2)}


def _conditional_variances(fit: FitRecord) -> dict[str, np.ndarray]:
    """Conditional variances of each effect over the informative units."""
    sampling = fit.sampling
    if sampling is not None and np.isfinite(sampling.covariance).all():
        variances = np.diagonal(sampling.covariance, axis1=1, axis2=2)
        columns = effect_columns(fit.binding, variances)
        return dict(zip(fit.binding.density.effect_names, columns, strict=True))
    tables = by_level(fit.random_effects_se, fit.data)
    return {name: values**2 for name, values in columns_of_effects(tables).items()}
