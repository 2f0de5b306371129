"""Likelihoods of groups from draws of their conditional distributions, without a search of modes.

A sampler estimates for each group the conditional mean and covariance of its whitened effects given y. The likelihood
is integrated or linearised there, which needs neither modes nor second derivatives of the model. Mean and covariance
only place and scale the integration: importance sampling is consistent for every mean and every positive definite
covariance, with the Monte Carlo error that it reports, and quadrature has the same limit; inaccurate ones require more
draws or nodes.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, Status, near_matches, shown
from jaxnlme.likelihood.group_result import GroupResult
from jaxnlme.likelihood.integrals import GaussHermite, ImportanceIntegral, MonteCarloError, no_monte_carlo_error
from jaxnlme.likelihood.lindstrom_bates import model_of_tangent, tangent_from_draws
from jaxnlme.likelihood.requirements import require_linearisable
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.typing import Matrix, Vector


class AbstractFromDraws(eqx.Module):
    """log p(y) of one group from the mean and covariance of its conditional distribution."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of the method: "is", "gq" or "lin"."""

    @abc.abstractmethod
    def check(self, density: Density) -> None:
        """Check that the model suits the method. **Raises:** ModelError or OptionError where it does not."""

    @abc.abstractmethod
    def evaluate(self, density: Density, params: Params, group: Group, mean: Vector, covariance: Matrix) -> GroupResult:
        """Likelihood of one group.

        **Arguments:** `mean` (random,) and `covariance` (random, random): conditional mean and covariance of the
        whitened effects z given y at `params`, as a sampler estimates them.
        **Returns:** a GroupResult with `mean` for its mode and the curvature that was used; its status is ok,
        non_finite or no_observations.
        """


class ImportanceFromDraws(AbstractFromDraws):
    """Importance sampling from a multivariate t with the conditional mean as mean and the conditional covariance as
    scale matrix.

    The result has the Monte Carlo variance and the effective number of draws in `monte_carlo`. Memory: `draws` times
    random effects, and `batch` times rows, for each group on the device.

    **Arguments:** `draws`: per group, at least 2; `df`: degrees of freedom of the t (0: Gaussian); `seed`: of the
    random numbers, which also depend on the group's key; `batch`: draws computed at a time.
    **Raises:** OptionError for numbers out of range.
    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038; with t proposals,
    Geweke (1989), Econometrica 57, 1317-1339.
    """

    integral: ImportanceIntegral

    def __init__(self, draws: int = 2000, *, df: float = 5.0, seed: Any = 0, batch: int = INTEGRATION.batch):
        if not _whole(draws, 2) or not df >= 0 or not _whole(batch, 1):
            raise OptionError(
                "importance sampling needs draws >= 2, df >= 0 and batch >= 1; "
                f"received {shown(draws)}, {df!r} and {batch!r}."
            )
        self.integral = ImportanceIntegral(int(draws), float(df), seed, int(batch))

    @property
    def name(self) -> str:
        return "is"

    def check(self, density):
        pass

    def evaluate(self, density, params, group, mean, covariance):
        return _integrated(self.integral, density, params, group, mean, covariance)


class QuadratureFromDraws(AbstractFromDraws):
    """Gauss-Hermite quadrature around the conditional mean, scaled by a factor of the conditional covariance.

    **Arguments:** `nodes`: per effect; None: the largest odd number up to 15 with at most 20,000 points in all (15 for
    one to three effects, 11 for four, 7 for five, 5 for six, 3 for seven to nine; more effects are refused).
    **Raises:** OptionError unless nodes is a whole number of at least 1 or None.
    **Source:** Naylor and Smith (1982), Journal of the Royal Statistical Society C 31, 214-225: posterior means and
    covariances for the scaling.
    """

    nodes: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.nodes is not None and not _whole(self.nodes, 1):
            raise OptionError(f"nodes must be a whole number of at least 1, or None; received {shown(self.nodes)}.")

    @property
    def name(self) -> str:
        return "gq"

    def check(self, density):
        self.nodes_of(density.n_effects)

    def nodes_of(self, effects: int) -> int:
        """Nodes per effect for a model with `effects` random effects. **Raises:** OptionError for too many points."""
        if self.nodes is not None:
            if self.nodes**effects > COMPUTATION.max_grid_points:
                raise OptionError(
                    f"{self.nodes} nodes on {effects} random effects make {self.nodes**effects:,} points, more than "
                    f"{COMPUTATION.max_grid_points:,}; use fewer nodes, or importance sampling ('is')."
                )
            return self.nodes
        feasible = [
            nodes for nodes in range(3, INTEGRATION.most_nodes + 1, 2) if nodes**effects <= INTEGRATION.most_points
        ]
        if not feasible:
            raise OptionError(
                f"quadrature ('gq') on {effects} random effects needs more than {INTEGRATION.most_points:,} points for "
                "3 nodes each; use importance sampling ('is')."
            )
        return feasible[-1]

    def evaluate(self, density, params, group, mean, covariance):
        nodes = self.nodes_of(density.n_effects)
        # A power of `nodes` divides the size of the grid; a remainder would be compiled as another program.
        batch = nodes
        while nodes > 1 and batch * nodes <= INTEGRATION.grid_batch * INTEGRATION.batch:
            batch *= nodes
        return _integrated(GaussHermite(nodes, batch), density, params, group, mean, covariance)


class LinearisationFromDraws(AbstractFromDraws):
    """The exact marginal likelihood of the model linearised at the conditional mean; the covariance is not used.

    The transformed mean is replaced by its tangent at (beta, b = L mean), and the residual scale is that of the
    prediction there: e ~ N(-J B b, S^2 + J B psi B' J'), e the residual, J the Jacobian (linear_mixed_model.py).

    **Source:** Lavielle (2014), Mixed Effects Models for the Population Approach. R's saemix linearises at conditional
    means, as here (the tests agree with it), Monolix at conditional modes, as their manuals say.
    """

    @property
    def name(self) -> str:
        return "lin"

    def check(self, density):
        require_linearisable("a likelihood by linearisation ('lin')", density)

    def evaluate(self, density, params, group, mean, covariance):
        model = model_of_tangent(density, tangent_from_draws(density, params, group, mean), params, group, False)
        return _result(model.value, mean, model.hessian, no_monte_carlo_error(), group)


METHODS = {"is": ImportanceFromDraws, "gq": QuadratureFromDraws, "lin": LinearisationFromDraws}


def likelihood_from_draws(name: str, **options: Any) -> AbstractFromDraws:
    """The method "is", "gq" or "lin" by its name.

    **Arguments:** `name`; `options`: for "is" `draws`, `df`, `seed`, `batch`; for "gq" `nodes`.
    **Raises:** OptionError for another name.
    """
    if name not in METHODS:
        raise OptionError(f"likelihood {name!r} is not known; {near_matches(name, METHODS)}")
    return METHODS[name](**options)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def curvature_from_covariance(covariance: Matrix) -> Matrix:
    """The inverse (random, random) of an estimated covariance matrix (random, random), made positive definite first.

    A variance that is not positive and finite is replaced by the prior variance, one, without correlations. A pivot of
    the correlation matrix below 1e-8 is replaced by one: that effect keeps its variance, and its correlations with the
    previous effects are removed. Both make a proposal wider, which costs draws, whereas one that is too narrow in some
    direction would miss a part of the distribution. Other matrices are inverted exactly.
    """
    n = covariance.shape[0]
    variance = jnp.diagonal(covariance)
    usable = jnp.isfinite(variance) & (variance > 0)
    sd = jnp.sqrt(jnp.where(usable, variance, 1.0))
    off = 0.5 * (covariance + covariance.T) / (sd[:, None] * sd[None, :])
    off = jnp.where(usable[:, None] & usable[None, :] & jnp.isfinite(off), off, 0.0)
    correlation = jnp.where(jnp.eye(n, dtype=bool), 1.0, off)
    lower, _ = guarded_cholesky(correlation, floor=INTEGRATION.zero_pivot)
    columns = [cholesky_solve(lower, jnp.asarray(axis, covariance.dtype)) for axis in np.eye(n)]
    return jnp.stack(columns) / (sd[:, None] * sd[None, :]) if n else covariance


def _integrated(
    integral: ImportanceIntegral | GaussHermite,
    density: Density,
    params: Params,
    group: Group,
    mean: Vector,
    covariance: Matrix,
) -> GroupResult:
    def log_joint(z):
        return density.log_joint(params, z, group)

    if density.n_effects == 0:
        return _result(log_joint(mean), mean, covariance, no_monte_carlo_error(), group)
    curvature = jax.lax.stop_gradient(curvature_from_covariance(covariance))
    value, monte_carlo = integral(log_joint, mean, curvature, group.key, at_mode=False)
    return _result(value, mean, curvature, monte_carlo, group)


def _result(value: Any, mean: Vector, curvature: Matrix, monte_carlo: MonteCarloError, group: Group) -> GroupResult:
    """The GroupResult of one group. A group without an observed response has likelihood one, exactly."""
    observed = jnp.any(group.x.observed)
    status = jnp.where(jnp.isfinite(value), Status.ok, Status.non_finite)
    status = jnp.where(observed, status, Status.no_observations)
    monte_carlo = MonteCarloError(jnp.where(observed, monte_carlo.variance, 0.0), monte_carlo.ess)
    value, no_mode = jnp.where(observed, value, 0.0), jnp.full((), jnp.nan)
    return GroupResult(value, mean, status, jnp.zeros((), int), curvature, monte_carlo, no_mode)
