"""State of a maximisation by quasi-Newton steps, and its inverse Hessian: from the scores of the groups, and for
entries that have almost no information."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.estimators.core.objective import Evaluation
from jaxnlme.estimators.marginal.settings import SEARCH
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.bfgs import BFGS, BFGSState
from jaxnlme.typing import Matrix


class MaximumLikelihoodState(eqx.Module):
    """State of a maximisation: the state `bfgs` of the `minimiser`; at its best point `modes`, `log_likelihood`, and
    `squares` (dense,), the sums of the squares of the groups' scores."""

    bfgs: BFGSState
    minimiser: BFGS
    modes: Any
    log_likelihood: Any
    squares: Any


def blank_state(n: int, dense: int, modes: Any, width: tuple[int, ...] = ()) -> MaximumLikelihoodState:
    """A state before the first evaluation: zeros.

    **Arguments:** `n`: number of entries; `dense`: without the free block; `modes` (*width, groups, random): starts of
    the searches of the modes; `width`: () for one minimisation, or (count,).
    """

    def zeros(*shape: int, dtype: Any = float) -> Any:
        return np.zeros((*width, *shape), dtype)

    bfgs = BFGSState(
        x=zeros(n),
        value=zeros(),
        gradient=zeros(n),
        inverse=zeros(n, n),
        direction=zeros(n),
        slope=zeros(),
        step=zeros(),
        decrement=zeros(),
        evaluations=zeros(dtype=int),
        iterations=zeros(dtype=int),
        stalled=zeros(dtype=bool),
    )
    return MaximumLikelihoodState(bfgs, BFGS(zeros(n, dtype=bool), zeros(n) + 1.0), modes, zeros(), zeros(dense))


def with_longer_steps(state: MaximumLikelihoodState, accepted: Any) -> BFGS:
    """The minimiser with larger steps allowed for entries in the user's units whose step was limited, if the point was
    accepted at the first trial: the first limit is only a guess where a start is far from the data, or near zero."""
    minimiser, bfgs = state.minimiser, state.bfgs
    xnp = xp(bfgs.x)
    limited = xnp.abs(bfgs.inverse @ bfgs.gradient) > minimiser.max_change
    longer = limited & (minimiser.max_change != SEARCH.largest_log_step) & accepted & (bfgs.step == 1.0)
    factor = xnp.where(longer, SEARCH.limit_growth, 1.0)
    largest = xnp.clip(minimiser.max_change * factor, 1.0 / SEARCH.largest_change, SEARCH.largest_change)
    return BFGS(minimiser.free, largest)


def without_flat_entries(bfgs: BFGSState, minimiser: BFGS, result: Evaluation) -> BFGSState:
    """`bfgs` with another inverse Hessian if an entry on a log scale without information limits the step.

    Where a standard deviation is almost zero, no group's likelihood depends on its logarithm t: derivatives of all
    orders in t vanish like exp(2 t), and an inverse Hessian, by scores or by steps, says nothing of t. A long step in t
    would shorten that of all other entries, iteration after iteration, and gain nothing. Such an entry is taken out of
    the inverse Hessian: with the gradient g and the sum s of the squares of the groups' scores, its step is

        log(1 + 2 |g| / s) / 2

    if the likelihood rises away from zero, a scoring step in the variance exp(2 t) itself (see `starting_scales`), and
    a short one otherwise. The same holds for a part of a residual scale, and mirrored for a correlation near its bound.

    **Arguments:** `bfgs` at an accepted point; `result`: the evaluation there.
    """
    xnp = xp(bfgs.x)
    p = result.outer.shape[0]
    units, slope, square = minimiser.max_change[:p], bfgs.gradient[:p], xnp.diagonal(result.outer)
    flat = minimiser.free[:p] & (units == SEARCH.largest_log_step) & (square < SEARCH.least_information)
    flat = flat & (xnp.abs(bfgs.inverse @ bfgs.gradient)[:p] > units)
    size = xnp.abs(slope)
    step = units**2 * size / xnp.maximum(1.0, units * size)
    inwards = slope * bfgs.x[:p] > 0.0
    scoring = 0.5 * xnp.log1p(2.0 * size / xnp.where(square > 0.0, square, 1.0))
    step = xnp.where(inwards & (square > 0.0), xnp.minimum(scoring, units), step)
    diagonal = xnp.where(size > 0.0, step / xnp.where(size > 0.0, size, 1.0), units**2)
    flat = xnp.concatenate([flat, xnp.zeros(bfgs.x.shape[0] - p, bool)])
    diagonal = xnp.concatenate([diagonal, xnp.zeros(bfgs.x.shape[0] - p)])
    inverse = xnp.where(flat[:, None] | flat[None, :], 0.0, bfgs.inverse)
    inverse = inverse + xnp.diag(xnp.where(flat, diagonal, 0.0))
    apart = minimiser.with_inverse(bfgs, inverse)
    return jax.tree.map(lambda new, old: xnp.where(xnp.any(flat), new, old), apart, bfgs)


def score_metric(result: Evaluation, minimiser: BFGS) -> Matrix:
    """Approximate inverse Hessian (n, n): the inverse of the sum of outer products of the groups' scores, shrunk
    towards its diagonal if groups are few; for a free block, a multiple of the identity whose step has length 0.1.

    A score that vanishes by chance at the point (of a coefficient that affects one group, at that group's maximum) does
    not imply zero curvature: the information of an entry is bounded below by what its largest step corresponds to.

    **Source:** Berndt, Hall, Hall and Hausman (1974), Annals of Economic and Social Measurement 3, 653-665.
    """
    free, largest = minimiser.free, minimiser.max_change
    outer, counted = result.outer, result.counted
    xnp = xp(outer)
    p = outer.shape[0]
    # Where the scores of most groups agree in sign and size, their squares say how far the maximum is, not how curved
    # the likelihood is: -log L falls like exp(-2 x) on a log scale that is far too small, with curvature 2 |gradient|.
    # With a prior, whose slope is no score of a group, nothing follows from the gradient.
    slope, square = xnp.abs(result.gradient[:p]), xnp.diagonal(outer)
    agree = (largest[:p] == SEARCH.largest_log_step) & (slope**2 > SEARCH.agreeing_scores * counted * square)
    agree = agree & (result.value == -result.log_likelihood)
    capped = xnp.where(agree & (square > 2.0 * slope), 2.0 * slope / xnp.where(square > 0.0, square, 1.0), 1.0)
    outer = outer * xnp.sqrt(capped)[:, None] * xnp.sqrt(capped)[None, :]
    n_rest = result.gradient.shape[0] - p
    diagonal = xnp.diagonal(outer)
    shrink = p / (p + counted)
    least = xnp.where(
        largest == SEARCH.largest_log_step, SEARCH.least_information, (SEARCH.largest_step_in_se / largest) ** 2
    )[:p]
    scale = 1.0 / xnp.sqrt(xnp.maximum(xnp.where(diagonal > 0, diagonal, 0.0), least))
    unit = outer * scale[:, None] * scale[None, :]
    unit = (1.0 - shrink) * unit + shrink * xnp.eye(p)
    used = free[:p]
    unit = xnp.where(used[:, None] & used[None, :], unit, xnp.eye(p))
    inverse = xnp.linalg.inv(unit) * scale[:, None] * scale[None, :]
    if n_rest == 0:
        return inverse
    length = xnp.sqrt(xnp.sum(result.gradient[p:] ** 2))
    rest = xnp.eye(n_rest) * (SEARCH.first_free_step / xnp.maximum(length, 1e-12))
    return xnp.block([[inverse, xnp.zeros((p, n_rest))], [xnp.zeros((n_rest, p)), rest]])
