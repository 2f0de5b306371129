"""Likelihoods of groups whose conditional distributions are known from draws: nothing is searched.

A sampler leaves for each group the mean of its whitened effects given y (`centre`) and their covariance (`spread`).
What is integrated or linearised there needs neither modes nor second derivatives of the model. Centre and spread say
where to look and how wide, and no more than that: importance sampling is right for every centre and every positive
definite spread, with the error it states, and quadrature has the same limit; poor ones cost draws or nodes.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, Status, near_matches
from jaxnlme.likelihood.approximations import GroupResult, require_gaussian_moments
from jaxnlme.likelihood.integrals import GaussHermite, ImportanceIntegral, MonteCarlo, exact_integral
from jaxnlme.likelihood.lindstrom_bates import tangent_at
from jaxnlme.likelihood.linear_mixed_model import mixed
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.linalg import cholesky_solve, guarded_cholesky
from jaxnlme.numerics.quadrature import MAX_NODES
from jaxnlme.typing import Matrix, Vector

# Pivots of a correlation matrix below this are taken for none: a variance that others explain to eight digits is of a
# chain that did not move, or of fewer draws than effects.
NO_PIVOT = 1e-8

# Points of a quadrature that a default may use, and nodes per effect; three effects have 15**3 = 3,375.
MOST_POINTS, MOST_NODES = 20_000, 15

# Points of a group computed at a time.
BATCH = 100


class AbstractCentred(eqx.Module):
    """log p(y) of one group, given where its conditional distribution sits."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The word users write."""

    @property
    def stochastic(self) -> bool:
        """Whether the value carries Monte Carlo error."""
        return False

    @abc.abstractmethod
    def check(self, density: Density) -> None:
        """**Errors:** ModelError or OptionError where the model does not suit this method."""

    @abc.abstractmethod
    def evaluate(self, density: Density, params: Params, group: Group, centre: Vector, spread: Matrix) -> GroupResult:
        """**Arguments:** `centre` (random,) and `spread` (random, random), conditional mean and covariance of the
        whitened effects z given y at `params`, as a sampler estimates them.
        **Returns:** a GroupResult with `centre` for its mode, whose `curvature` is that which was integrated with;
        status ok, non_finite or no_observations."""


class CentredImportance(AbstractCentred):
    """Importance sampling from a multivariate t with `df` degrees of freedom (0: Gaussian), centred at `centre` with
    scale matrix `spread`; `draws` a group, `batch` at a time, folded from (`seed`, the group's key).

    The value's standard error and the effective number of draws are in `monte_carlo`. Memory: `draws` times random
    effects, and `batch` times rows, for each group on the device.

    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038; with t proposals,
    Geweke (1989), Econometrica 57, 1317-1339.
    """

    integral: ImportanceIntegral

    def __init__(self, draws: int = 2000, *, df: float = 5.0, seed: Any = 0, batch: int = BATCH):
        if not _whole(draws, 2) or not df >= 0 or not _whole(batch, 1):
            raise OptionError(
                "importance sampling needs draws >= 2, df >= 0 and batch >= 1; "
                f"received {draws!r}, {df!r} and {batch!r}."
            )
        self.integral = ImportanceIntegral(int(draws), float(df), seed, int(batch))

    @property
    def name(self) -> str:
        return "is"

    @property
    def stochastic(self) -> bool:
        return True

    def check(self, density):
        pass

    def evaluate(self, density, params, group, centre, spread):
        return _integrated(self.integral, density, params, group, centre, spread)


class CentredQuadrature(AbstractCentred):
    """Gauss-Hermite quadrature around `centre`, scaled by a factor of `spread`, `nodes` per effect.

    `nodes` None: the largest odd number up to 15 with at most 20,000 points in all (15 for one to three effects, 11 for
    four, 7, 5, then 3 for seven to nine; more effects are refused).

    **Source:** Naylor and Smith (1982), Journal of the Royal Statistical Society C 31, 214-225: posterior means and
    covariances for the scaling.
    """

    nodes: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.nodes is not None and not _whole(self.nodes, 1):
            raise OptionError(f"nodes must be a whole number of at least 1, or None; received {self.nodes!r}.")

    @property
    def name(self) -> str:
        return "gq"

    def check(self, density):
        self.nodes_of(density.n_effects)

    def nodes_of(self, effects: int) -> int:
        """Nodes per effect of a model with so many. **Errors:** OptionError where that makes too many points."""
        if self.nodes is not None:
            if self.nodes**effects > MAX_NODES:
                raise OptionError(
                    f"{self.nodes} nodes on {effects} random effects make {self.nodes**effects:,} points, more than "
                    f"{MAX_NODES:,}; use fewer nodes, or importance sampling ('is')."
                )
            return self.nodes
        fitting = [nodes for nodes in range(3, MOST_NODES + 1, 2) if nodes**effects <= MOST_POINTS]
        if not fitting:
            raise OptionError(
                f"quadrature ('gq') on {effects} random effects needs more than {MOST_POINTS:,} points for 3 nodes "
                "each; use importance sampling ('is')."
            )
        return fitting[-1]

    def evaluate(self, density, params, group, centre, spread):
        nodes = self.nodes_of(density.n_effects)
        # A power of the nodes divides their grid: no remainder, for which the model would be compiled once more.
        batch = nodes
        while nodes > 1 and batch * nodes <= 2.5 * BATCH:
            batch *= nodes
        return _integrated(GaussHermite(nodes, batch), density, params, group, centre, spread)


class CentredLinearisation(AbstractCentred):
    """The exact marginal likelihood of the model linearised at `centre`; `spread` is not needed.

    The transformed mean is replaced by its tangent at (beta, b = L centre), the residual scale is that of the
    prediction there: e ~ N(-J B b, S^2 + J B psi B' J'), e the residual, J the Jacobian (linear_mixed_model.py).

    **Source:** Lavielle (2014), Mixed Effects Models for the Population Approach. R's saemix linearises at conditional
    means, as here (the tests agree with it), Monolix at conditional modes, as their manuals say.
    """

    @property
    def name(self) -> str:
        return "lin"

    def check(self, density):
        require_gaussian_moments("a likelihood by linearisation ('lin')", density)

    def evaluate(self, density, params, group, centre, spread):
        model = mixed(density, tangent_at(density, params, group, centre), params, group, False)
        return _result(model.value, centre, model.hessian, exact_integral(), group)


METHODS = {"is": CentredImportance, "gq": CentredQuadrature, "lin": CentredLinearisation}


def centred(name: str, **options: Any) -> AbstractCentred:
    """The method "is" (`draws`, `df`, `seed`, `batch`), "gq" (`nodes`) or "lin" by its name.

    **Errors:** OptionError for another name."""
    if name not in METHODS:
        raise OptionError(f"likelihood {name!r} is not known; {near_matches(name, METHODS)}")
    return METHODS[name](**options)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def curvature_of(spread: Matrix) -> Matrix:
    """The inverse (random, random) of a positive definite neighbour of an estimated covariance.

    A variance that is not positive and finite becomes the prior's, one, without correlations. A pivot of the
    correlation matrix below 1e-8 becomes one: that effect keeps its own variance, and loses what correlates it with the
    effects before. Both make the proposal wider, which costs draws; a proposal that is too narrow in some direction
    would hide what lies outside. Other spreads are inverted as they are.
    """
    n = spread.shape[0]
    variance = jnp.diagonal(spread)
    known = jnp.isfinite(variance) & (variance > 0)
    sd = jnp.sqrt(jnp.where(known, variance, 1.0))
    off = 0.5 * (spread + spread.T) / (sd[:, None] * sd[None, :])
    off = jnp.where(known[:, None] & known[None, :] & jnp.isfinite(off), off, 0.0)
    correlation = jnp.where(jnp.eye(n, dtype=bool), 1.0, off)
    lower, _ = guarded_cholesky(correlation, floor=NO_PIVOT)
    columns = [cholesky_solve(lower, jnp.asarray(axis, spread.dtype)) for axis in np.eye(n)]
    return jnp.stack(columns) / (sd[:, None] * sd[None, :]) if n else spread


def _integrated(
    integral: ImportanceIntegral | GaussHermite,
    density: Density,
    params: Params,
    group: Group,
    centre: Vector,
    spread: Matrix,
) -> GroupResult:
    def log_joint(z):
        return density.log_joint(params, z, group)

    if density.n_effects == 0:
        return _result(log_joint(centre), centre, spread, exact_integral(), group)
    curvature = jax.lax.stop_gradient(curvature_of(spread))
    value, monte_carlo = integral(log_joint, centre, curvature, group.key, at_mode=False)
    return _result(value, centre, curvature, monte_carlo, group)


def _result(value: Any, centre: Vector, curvature: Matrix, monte_carlo: MonteCarlo, group: Group) -> GroupResult:
    """The record of one group. A group without an observed response has likelihood one, exactly."""
    seen = jnp.any(group.x.observed)
    status = jnp.where(jnp.isfinite(value), Status.ok, Status.non_finite)
    status = jnp.where(seen, status, Status.no_observations)
    monte_carlo = MonteCarlo(jnp.where(seen, monte_carlo.variance, 0.0), monte_carlo.ess)
    return GroupResult(jnp.where(seen, value, 0.0), centre, status, jnp.zeros((), int), curvature, monte_carlo)
