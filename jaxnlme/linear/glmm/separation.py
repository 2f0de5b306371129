"""Separation: directions of the fixed effects along which the likelihood rises for ever, so that no estimate exists.

A direction d separates the data where no row is less likely along it, whatever its random effects, and some are more
likely: with rows r of a matrix R of signed design rows, R d >= 0 and not all zero. It is found, or shown not to exist,
by a linear program.

**Source:** Albert and Anderson (1984), Biometrika 71, 1-10; Konis (2007), Linear programming algorithms for detecting
separated data in binary logistic regression models, for the linear program; Correia, Guimaraes and Zylkin (2020),
arXiv:1903.01633, for counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnlme.errors import ModelError, some
from jaxnlme.linear.glmm.declaration import Declaration
from jaxnlme.linear.glmm.densities import PROBABILITIES
from jaxnlme.linear.glmm.settings import GLMM
from jaxnlme.linear.glmm.start import PooledFit


@dataclasses.dataclass(frozen=True)
class Separation:
    """A direction that separates the data.

    **Fields:** `direction` (coefficients,): the change of each coefficient, zeros where it does not move; `complete`:
    every row becomes more likely along it.
    """

    direction: np.ndarray
    complete: bool


def signed_rows(x: np.ndarray, y: np.ndarray, trials: np.ndarray, family: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that must not decrease along a separating direction, and rows that must stay.

    **Arguments:** `x` (rows, fixed); `y` (rows,): counts; `trials` (rows,).
    **Returns:** R (k, fixed) of rows at their bound (no success, only successes; counts of zero), with the sign that
    makes them more likely, and the other rows of x.
    """
    if family in ("binomial", "bernoulli"):
        present = trials > 0
        at_bound = present & ((y == 0) | (y == trials))
        sign = np.where(y[at_bound] == 0, -1.0, 1.0)
        return x[at_bound] * sign[:, None], x[present & ~at_bound]
    return -x[y == 0], x[y > 0]


def ordinal_rows(x: np.ndarray, category: np.ndarray, count: int) -> np.ndarray:
    """As `signed_rows` for ordered categories, with the coefficients (thresholds, beta): threshold_y - x beta must not
    decrease, threshold_(y - 1) - x beta must not increase."""
    thresholds = np.eye(count - 1)
    upper, lower = category < count - 1, category > 0
    above = np.concatenate([thresholds[category[upper]], -x[upper]], axis=1)
    below = np.concatenate([-thresholds[category[lower] - 1], x[lower]], axis=1)
    return np.concatenate([above, below])


def separation(rising: np.ndarray, constant: np.ndarray | None = None) -> Separation | None:
    """The Separation with the smallest number of moving coefficients (by the sum of their sizes, columns scaled), or
    None where the data are not separated.

    **Arguments:** `rising` (k, coefficients): R of the module; `constant` (l, coefficients): rows with R d = 0.
    """
    from scipy.optimize import linprog

    p = rising.shape[1]
    constant = np.zeros((0, p)) if constant is None else constant
    rising, constant = np.unique(rising, axis=0), np.unique(constant, axis=0)
    if not p or not len(rising) or len(rising) + len(constant) > GLMM.most_separation_rows:
        return None
    scale = np.max(np.abs(np.concatenate([rising, constant])), axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    r, c = rising / scale, constant / scale
    if len(c) > p:  # its row space is enough
        c = np.asarray(np.linalg.qr(c, mode="r"))
    total = r.sum(axis=0)
    # d = u - w with u, w >= 0; minimise the sum of sizes among directions with total gain one.
    inequality = -np.concatenate([np.concatenate([r, -r], axis=1), np.concatenate([total, -total])[None]])
    bound = np.concatenate([np.zeros(len(r)), [-1.0]])
    equality = np.concatenate([c, -c], axis=1) if len(c) else None
    found = linprog(
        np.ones(2 * p), A_ub=inequality, b_ub=bound, A_eq=equality, b_eq=None if equality is None else np.zeros(len(c))
    )
    if found.status != 0:
        return None
    d = found.x[:p] - found.x[p:]
    d[np.abs(d) < GLMM.separation_zero * np.max(np.abs(d))] = 0.0
    return Separation(d / scale, not len(c) and _is_complete(r))


def _is_complete(rising: np.ndarray) -> bool:
    """True if some direction makes every row more likely."""
    from scipy.optimize import linprog

    free = [(None, None)] * rising.shape[1]
    found = linprog(np.zeros(rising.shape[1]), A_ub=-rising, b_ub=-np.ones(len(rising)), bounds=free)
    return found.status == 0


def separation_sentence(found: Separation, names: Sequence[str], outcome: str) -> str:
    """The sentence that names the coefficients that run off, with their directions.

    **Arguments:** `names`: of the coefficients; `outcome`: what the rows have, "the responses are 0 or 1".
    """
    moving = [(names[k], d) for k, d in enumerate(found.direction) if d != 0.0]
    unit = max(abs(d) for _, d in moving)
    kind = "completely" if found.complete else "partly (quasi-separation)"
    if len(moving) == 1:
        name, d = moving[0]
        what = f"the coefficient of {name!r} runs off to {'+' if d > 0 else '-'}infinity"
    else:
        parts = [f"{name!r} by {d / unit:+.3g}" for name, d in moving]
        what = f"the likelihood rises for ever along a combination of coefficients: {some(parts, 8)}"
    return (
        f"the fixed effects separate the data {kind}: {what}, because along it {outcome}. No finite estimate exists. "
        "Leave the column out, merge categories, or give a prior, "
        f"priors={{{moving[0][0]!r}: jn.priors.Normal(0, 2.5)}}."
    )


def refuse_separation(
    declaration: Declaration, link: str, pooled: PooledFit, errors: Sequence[str], held: Sequence[str]
) -> None:
    """Check that no direction of coefficients separates the data.

    **Arguments:** `link`: its name; `pooled`: the model without random effects; `errors`: names of the thresholds of an
    ordinal outcome; `held`: names of coefficients that have a prior or are held fixed.
    **Raises:** ModelError that names the coefficients and their direction.
    """
    family, found, x = declaration.family, declaration.response, declaration.fixed.matrix
    names = list(declaration.fixed.names)
    if family == "gamma" or link in ("identity", "sqrt") or (family in PROBABILITIES and link == "log"):
        return  # the mean cannot run to a bound for ever
    constant = None
    if family == "ordinal":
        names = [*errors, *names]
        rising = ordinal_rows(x, found.y.astype(int), len(found.categories))
        outcome = "every response is as likely as before or more"
    else:
        near = pooled.mean if family not in ("binomial", "bernoulli") else np.minimum(pooled.mean, 1.0 - pooled.mean)
        if (near > GLMM.suspect_mean).all():
            return
        trials = np.ones(len(x)) if found.trials is None else found.trials
        rising, constant = signed_rows(x, found.y, trials, family)
        counts = family in ("poisson", "negative binomial")
        outcome = "all counts are zero" if counts else "there are only successes or only failures"
        outcome += " in the rows that it concerns"
    free = [k for k, name in enumerate(names) if name not in held]
    separated = separation(rising[:, free], None if constant is None else constant[:, free])
    if separated is not None:
        raise ModelError(separation_sentence(separated, [names[k] for k in free], outcome))
