"""Pathfinder: paths of a quasi-Newton maximisation from dispersed starts, a normal approximation from each, and their
draws resampled by importance ratios that are smoothed by a generalised Pareto distribution (ArviZ)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from jaxnlme.errors import OptionError
from jaxnlme.estimators.bayes.method import Pathfinder
from jaxnlme.estimators.bayes.objective import Target
from jaxnlme.estimators.bayes.settings import PATHFINDER, RUN
from jaxnlme.numerics.compiling import compiled
from jaxnlme.results.posterior.arviz_export import arviz


def find_path(target: Target, estimator: Pathfinder) -> tuple[np.ndarray, np.ndarray, float]:
    """Draws (draws, n) in the coordinates of `target`, their log densities (draws,), and Pareto's k.

    **Raises:** OptionError where no path has a finite evidence lower bound.
    """
    random = np.random.default_rng(estimator.seed)
    starts = RUN.dispersion * random.standard_normal((estimator.paths, target.scaling.size))
    of_each = -(-estimator.draws * PATHFINDER.pool // estimator.paths)
    rows = target.problem.n_rows * estimator.steps * PATHFINDER.elbo_draws
    program = compiled(_paths(estimator.steps, of_each), rows, once=True)
    keys = jax.random.split(jax.random.key(estimator.seed), estimator.paths)
    with jax.numpy_rank_promotion("allow"):  # blackjax broadcasts by rank
        found = program(target, keys, jnp.asarray(starts))
    draws, log_density, log_normal, elbo = (np.asarray(part) for part in found)
    good = np.isfinite(elbo)
    if not good.any():
        raise OptionError(
            "jn.Pathfinder: no path has a finite evidence lower bound. Begin at a fit, ['focei', jn.Pathfinder(...)], "
            "or give other starting values."
        )
    draws, log_density, log_normal = draws[good], log_density[good], log_normal[good]
    # The proposals are a mixture of the paths' approximations, each with its own draws: ratios as if from its own.
    ratios = (log_density - log_normal).ravel()
    ratios = np.where(np.isfinite(ratios), ratios, -np.inf)
    usable = np.isfinite(ratios)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothed, pareto_k = arviz().psislw(ratios[usable])
    weights = np.exp(smoothed - logsumexp(smoothed))
    flat = draws.reshape(-1, draws.shape[-1])[usable]
    # Systematic resampling: the number of copies of a draw is within one of its expectation.
    points = (np.arange(estimator.draws) + random.uniform()) / estimator.draws
    chosen = np.minimum(np.searchsorted(np.cumsum(weights / weights.sum()), points), len(flat) - 1)
    chosen = random.permutation(chosen)
    return flat[chosen], log_density.ravel()[usable][chosen], float(pareto_k)


@functools.cache
def _paths(steps: int, draws: int) -> Callable[..., tuple[Any, Any, Any, Any]]:
    """The program of all paths: draws (paths, draws, n), log densities, log densities of the approximation, and
    evidence lower bounds (paths,)."""
    from blackjax.vi.pathfinder import approximate, sample

    def path(target: Target, key: Any, start: Any) -> tuple[Any, Any, Any, Any]:
        searching, drawing = jax.random.split(key)
        state, _ = approximate(
            searching, target.log_density, start, PATHFINDER.elbo_draws, maxiter=steps, maxcor=PATHFINDER.memory,
            maxls=PATHFINDER.most_line_search,
        )  # fmt: skip
        positions, log_normal = sample(drawing, state, draws)
        return positions, jax.lax.map(target.log_density, positions), log_normal, state.elbo

    def paths(target: Target, keys: Any, starts: Any) -> tuple[Any, Any, Any, Any]:
        return jax.lax.map(lambda entry: path(target, *entry), (keys, starts))

    return paths
