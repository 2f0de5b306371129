"""Residuals of generalised linear mixed models, at the predictions given the random effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import xlogy

from jaxnlme.errors import ModelError, OptionError, near_matches

if TYPE_CHECKING:
    from jaxnlme.linear.glmm.fit import GeneralisedLinearFit

KINDS = ("response", "pearson", "deviance")


def residuals(fit: GeneralisedLinearFit, kinds: str | Sequence[str] = KINDS) -> pd.DataFrame:
    """Residuals by row, those of `glm` at the means given the random effects.

    **Arguments:** `kinds`: among "response", y - mean (proportions for a binomial outcome); "pearson", that over its
    standard deviation, the estimated size or shape included; "deviance", signed roots of the contributions to the
    deviance (for the gamma family times the shape).
    **Returns:** a data frame, a column for each kind.
    **Raises:** OptionError for another kind; ModelError for an ordinal outcome.
    **Source:** McCullagh and Nelder (1989), Generalized Linear Models, section 2.4.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise OptionError(f"residuals of kind {kind!r} are not known; {near_matches(str(kind), KINDS)}")
    if fit.family == "ordinal":
        raise ModelError(
            "an ordinal outcome has no residuals; compare fit.predict(), the probabilities, with the data."
        )
    mean = fit.predict()
    mu = mean.to_numpy()
    data = fit.declaration.response
    n = np.ones(len(data.y)) if data.trials is None else data.trials
    position = fit.data.row_index[fit.data.rows]
    order = np.sort(position)
    y, n = data.y[order], n[order]
    if data.trials is not None:
        y = np.where(n > 0, y / np.maximum(n, 1.0), mu)
    parameter = [fit.values[name] for name in fit.binding.density.error_names]
    variance, deviance = _variance_and_deviance(fit.family, y, mu, n, parameter)
    out = {"response": y - mu}
    with np.errstate(all="ignore"):
        out["pearson"] = (y - mu) / np.sqrt(variance)
        out["deviance"] = np.sign(y - mu) * np.sqrt(np.maximum(deviance, 0.0))
    return pd.DataFrame({kind: out[kind] for kind in kinds}, index=mean.index)


def _variance_and_deviance(
    family: str, y: np.ndarray, mu: np.ndarray, n: np.ndarray, parameter: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The variance of each response, and its part of the deviance."""
    with np.errstate(all="ignore"):
        if family in ("binomial", "bernoulli"):
            deviance = 2.0 * n * (xlogy(y, y) - xlogy(y, mu) + xlogy(1 - y, 1 - y) - xlogy(1 - y, 1 - mu))
            return mu * (1.0 - mu) / np.maximum(n, 1.0), deviance
        if family == "gamma":
            return mu**2 / parameter[0], 2.0 * parameter[0] * ((y - mu) / mu - np.log(y / mu))
        if family == "negative binomial":
            size = parameter[0]
            deviance = 2.0 * (xlogy(y, y) - xlogy(y, mu) - (y + size) * np.log((y + size) / (mu + size)))
            return mu + mu**2 / size, deviance
        return mu, 2.0 * (xlogy(y, y) - xlogy(y, mu) - (y - mu))
