"""Starting values of generalised linear mixed models: the model without random effects by iteratively reweighted least
squares, and variances from the spread of its residuals between units."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import xlog1py, xlogy

from jaxnlme.linear.glmm.links import Link
from jaxnlme.linear.glmm.settings import GLMM


@dataclasses.dataclass(frozen=True)
class PooledFit:
    """A generalised linear model without random effects.

    **Fields:** `beta` (fixed,); `mean` (rows,); `weights` (rows,): of the working least-squares problem;
    `residuals` (rows,): on the scale of the linear predictor; `dispersion`: Pearson's, of the rows.
    """

    beta: np.ndarray
    mean: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    dispersion: float


def pooled_fit(
    x: np.ndarray, y: np.ndarray, trials: np.ndarray, offset: np.ndarray, family: str, link: Link, size: float = np.inf
) -> PooledFit:
    """The PooledFit of a design matrix.

    **Arguments:** `x` (rows, fixed); `y` (rows,): proportions for a binomial outcome of `trials` (rows,), ones for
    others; `offset` (rows,); `size`: of the negative binomial.
    **Source:** McCullagh and Nelder (1989), Generalized Linear Models, section 2.5.
    """
    kind = "binomial" if family == "bernoulli" else family
    mean = (trials * y + 0.5) / (trials + 1.0) if kind == "binomial" else np.where(y > 0, y, 0.1 + 0.0 * y)
    eta = _inside(link, np.asarray(link.forward(mean), float))
    beta = np.zeros(x.shape[1])
    deviance = np.inf
    for step in range(GLMM.irls_steps):
        mean, slope = link.inverse(eta), link.slope(eta)
        weights = trials * slope**2 / np.maximum(_variance(kind, mean, size), 1e-300)
        working = (eta - offset) + (y - mean) / np.where(slope == 0, 1e-300, slope)
        usable = np.isfinite(working) & np.isfinite(weights) & (weights > 0)
        if x.shape[1]:
            root = np.sqrt(weights[usable])
            proposal = np.linalg.lstsq(x[usable] * root[:, None], working[usable] * root, rcond=None)[0]
        else:
            proposal = beta
        new, change = np.inf, 1.0
        for _ in range(GLMM.irls_halvings):
            candidate = x @ (beta + change * (proposal - beta)) + offset
            if link.within(candidate).all():
                new = _deviance(kind, y, link.inverse(candidate), trials, size)
                if step == 0 or new <= deviance * (1 + 1e-12) + 1e-12:
                    break
            change *= 0.5
        if not np.isfinite(new) or (new > deviance and step > 0):
            break
        beta = beta + change * (proposal - beta)
        eta = x @ beta + offset
        done = abs(deviance - new) <= GLMM.irls_tolerance * (abs(new) + 0.1)
        deviance = new
        if done:
            break
    if not link.within(eta).all() or not np.isfinite(deviance):
        # No coefficients of this link fit all rows: the constant that is nearest to the mean.
        center = float(link.forward(np.clip(np.average(y, weights=trials), 1e-3, None)))
        beta = np.linalg.lstsq(x, np.full(len(y), center) - offset, rcond=None)[0] if x.shape[1] else beta
        eta = _inside(link, x @ beta + offset)
    mean, slope = link.inverse(eta), link.slope(eta)
    variance = np.maximum(_variance(kind, mean, size), 1e-300)
    weights = trials * slope**2 / variance
    residuals = (y - mean) / np.where(slope == 0, 1e-300, slope)
    degrees = max(len(y) - x.shape[1], 1)
    return PooledFit(beta, mean, weights, residuals, float(np.sum(trials * (y - mean) ** 2 / variance) / degrees))


def _inside(link: Link, eta: np.ndarray) -> np.ndarray:
    """The linear predictor moved into the bounds of the link."""
    low, high = link.bounds
    return np.clip(eta, low + 1e-3 if np.isfinite(low) else None, high - 1e-3 if np.isfinite(high) else None)


def _variance(family: str, mean: np.ndarray, size: float) -> np.ndarray:
    """The variance function of a family."""
    if family == "binomial":
        return mean * (1.0 - mean)
    if family == "gamma":
        return mean**2
    return mean + (mean**2 / size if family == "negative binomial" else 0.0)


def _deviance(family: str, y: np.ndarray, mean: np.ndarray, trials: np.ndarray, size: float) -> float:
    """Minus twice the part of the log-likelihood that depends on the mean."""
    with np.errstate(all="ignore"):
        if family == "binomial":
            value = trials * (xlogy(y, mean) + xlog1py(1.0 - y, -mean))
        elif family == "gamma":
            value = -y / mean - np.log(mean)
        elif family == "negative binomial":
            value = xlogy(y, mean) - (y + size) * np.log1p(mean / size) - y * np.log(size)
        else:
            value = xlogy(y, mean) - mean
        total = -2.0 * float(np.sum(value))
    return total if np.isfinite(total) else np.inf


def size_by_moments(y: np.ndarray, mean: np.ndarray) -> float:
    """A starting size of the negative binomial, from variance = mean + mean^2 / size. Random effects will take part of
    the spread, so that twice the moment estimate is returned."""
    excess = float(np.sum((y - mean) ** 2 - mean))
    low, high = GLMM.dispersion_bounds
    return float(np.clip(2.0 * np.sum(mean**2) / excess if excess > 0 else high, low, high))


def shape_by_moments(dispersion: float) -> float:
    """A starting shape of the gamma distribution, from its Pearson dispersion, doubled as `size_by_moments`."""
    low, high = GLMM.dispersion_bounds
    return float(np.clip(2.0 / dispersion if dispersion > 0 else high, low, high))


def effect_sds(z: np.ndarray, codes: np.ndarray, count: int, pooled: PooledFit) -> np.ndarray:
    """Starting standard deviations (effects,) of random effects: the spread of least-squares estimates by unit from the
    residuals of the pooled fit, less their sampling variance.

    **Arguments:** `z` (rows, effects); `codes` (rows,): the unit of each row; `count`: of the units.
    """
    out = np.empty(z.shape[1])
    residuals = np.nan_to_num(pooled.residuals, nan=0.0, posinf=0.0, neginf=0.0)
    weights = np.nan_to_num(pooled.weights, nan=0.0, posinf=0.0, neginf=0.0) / max(pooled.dispersion, 1e-6)
    for k, column in enumerate(z.T):
        information = np.bincount(codes, weights * column**2, count)
        seen = information > 1e-8 * max(information.max(), 1e-300)
        if not seen.any():
            out[k] = 1.0
            continue
        estimate = np.bincount(codes, weights * column * residuals, count)[seen] / information[seen]
        noise = 1.0 / information[seen]
        precision = 1.0 / noise
        spread = np.sum(precision * estimate**2) / np.sum(precision)
        expected = len(noise) / np.sum(precision)
        out[k] = np.sqrt(max(spread - expected, GLMM.least_variance_fraction * expected))
    return np.clip(out, 1e-6, 1e6)
