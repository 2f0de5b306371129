"""Prediction discrepancies: the place of an observation in the distribution of its simulations."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def prediction_discrepancies(
    observed: np.ndarray, simulated: np.ndarray, uniform: np.ndarray | None = None
) -> np.ndarray:
    """Prediction discrepancies pd, the predictive distribution function at the observation.

    Without `uniform` the share of the K simulations strictly below the observation, with 0 replaced by 1/(2K) and 1 by
    1 - 1/(2K), so that their normal quantiles are finite. With `uniform` u, (below + u (equal + 1)) / (K + 1): the
    randomised quantile, whose distribution under the model is exactly uniform for every K, ties or not.

    **Arguments:** `observed` (..., rows); `simulated` (K, ..., rows); `uniform` (..., rows), uniform numbers on (0, 1),
    or None.
    **Returns:** (..., rows), NaN where the observation is.
    **Source:** Mentre and Escolar (2006), Journal of Pharmacokinetics and Pharmacodynamics 33, 345-367; the limits as
    in the R package npde 3.5; Dunn and Smyth (1996), Journal of Computational and Graphical Statistics 5, 236-244.
    """
    count = len(simulated)
    below = np.sum(simulated < observed, axis=0)
    if uniform is None:
        share = np.clip(below / count, 0.5 / count, 1.0 - 0.5 / count)
    else:
        share = (below + uniform * (np.sum(simulated == observed, axis=0) + 1)) / (count + 1)
    return np.where(np.isnan(observed), np.nan, share)


def tied_share(observed: np.ndarray, simulated: np.ndarray) -> float:
    """Average over the observations of the share of simulations equal to them: 0 for continuous responses."""
    return float(np.mean(simulated == observed)) if observed.size else 0.0


def to_normal(discrepancies: np.ndarray) -> np.ndarray:
    """Normalised discrepancies, the quantiles of the standard normal distribution at `discrepancies`; NaN where these
    are.

    Python's own quantile function is Wichura's algorithm AS 241, as R's qnorm is. The quantiles at k/K and 1 - k/K
    differ in their last bit at most, and that bit orders them in the Wilcoxon test: with this function as in R.
    """
    quantile = NormalDist().inv_cdf
    values, place = np.unique(discrepancies, return_inverse=True)
    quantiles = np.array([quantile(value) if value == value else np.nan for value in values.tolist()])
    return quantiles[place].reshape(np.shape(discrepancies))
