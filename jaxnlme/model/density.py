"""`log_joint`: the joint density of the responses and whitened effects of one group; all estimation starts from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.model.covariance.base import element_name
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.derivatives import jacobian
from jaxnlme.model.effect_distribution import AbstractEffectDistribution
from jaxnlme.model.individual_parameters import AbstractIndividual
from jaxnlme.model.levels import Levels, Units
from jaxnlme.model.networks import Networks, part_of
from jaxnlme.model.params import Params
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.model.residual_error.base import AbstractError
from jaxnlme.model.residual_error.censoring import GroupLimits
from jaxnlme.model.residual_error.correlation_base import SeriesLayout
from jaxnlme.model.residual_error.endpoint_parts import EndpointRows
from jaxnlme.model.structural import Structural
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.precision import x64
from jaxnlme.records import Record, Rows
from jaxnlme.typing import Scalar, Vector


class Group(eqx.Module):
    """The data of one group (or, stacked along a leading axis, of all groups of a bucket).

    **Fields:** `y` (obs,): responses, a finite placeholder where none was observed; `x`: predictors with their masks;
    `v`: group-level predictors; `covariates`: the varying columns of the designs, each () or (obs,); `strata` (obs,):
    index of the level of each row for a residual model with strata, or None; `key` (): an integer hash of the label,
    which seeds the random draws of this group; `units`: those of the nested levels of the data, outermost first;
    `layout`: where the rows stand in their series for a residual model with a correlation, or None; `codes`: for
    variance functions, the level of each row (obs,) for each column of strata; `members`: for a residual model by
    endpoint what each of them has, in the order of the model; `limits`: of quantification, or None.
    """

    y: Any
    x: Rows
    v: Record
    covariates: tuple[Any, ...]
    strata: Any
    key: Any
    units: tuple[Units, ...] = ()
    layout: SeriesLayout | None = None
    codes: tuple[Any, ...] = ()
    members: tuple[EndpointRows, ...] = ()
    limits: GroupLimits | None = None

    @property
    def endpoints(self) -> Any:
        """The number (obs,) of the endpoint of each row in the order of the model, None without endpoints."""
        return self.x.endpoints


class Density(eqx.Module):
    """A model with its designs, strata and names resolved: pure functions of Params and one Group.

    **Fields:** `structural`: the user's function; `individual`: from fixed and random effects to the individual
    parameters phi; `covariance`: family of psi; `error`: residual model; `prior_densities`, `prior_names`: priors and
    the reported values they apply to; `beta_names`, `effect_names`: of the fixed and the distinct random effects;
    `levels`: the layout of random effects of nested levels, None where all are those of the group itself;
    `effect_distribution`: that of effects that are not Gaussian, else None; `solves_equations`: the model function
    solves differential equations, so that its evaluation is what a fit costs.
    """

    structural: Structural
    individual: AbstractIndividual
    covariance: AbstractCovariance
    error: AbstractError
    prior_densities: tuple[AbstractPrior, ...]
    prior_names: tuple[str, ...] = eqx.field(static=True)  # a field of its own, since names are static
    beta_names: tuple[str, ...] = eqx.field(static=True)
    effect_names: tuple[str, ...] = eqx.field(static=True)
    levels: Levels | None = None
    effect_distribution: AbstractEffectDistribution | None = None
    solves_equations: bool = eqx.field(static=True, default=False)

    @property
    def priors(self) -> tuple[tuple[str, AbstractPrior], ...]:
        """Pairs (reported name, prior)."""
        return tuple(zip(self.prior_names, self.prior_densities, strict=True))

    @property
    def n_effects(self) -> int:
        """Number of random effects of a group: with nested levels, those of all their units."""
        return self.covariance.size if self.levels is None else self.levels.size

    def over_units(self, values: np.ndarray, reduce: Callable[..., Any]) -> np.ndarray:
        """One value for each distinct effect (distinct effects,), from `values` (random,) on the host: `reduce`, such
        as np.max, over the units of its level."""
        if self.levels is None:
            return values
        return np.concatenate([reduce(part, axis=0) for part in self.levels.split(values)])

    def map_effects(self, matrix: Any, vectors: Any) -> Any:
        """The products of `matrix` (distinct effects, distinct effects), block diagonal by level, with the random
        effects of every unit in `vectors` (..., random)."""
        return vectors @ matrix.T if self.levels is None else self.levels.map_blocks(matrix, vectors)

    def effects(self, params: Params, z: Vector) -> Vector:
        """The random effects b = L(theta) u(z) (random,) for whitened effects `z` (random,); u(z) = z for Gaussian
        effects."""
        if not self.n_effects:
            return z
        if self.effect_distribution is not None:
            z = self.effect_distribution.transform(params, z)
        if self.levels is None:
            return self.covariance.apply(params.covariance, z)
        return self.map_effects(self.covariance.factor(params.covariance), z)

    def effects_at(self, params: Params, z: np.ndarray) -> np.ndarray:
        """The random effects (..., random) for whitened effects `z` (..., random) of many groups, on the host."""
        if self.effect_distribution is None or not z.size:
            return self.map_effects(np.asarray(self.covariance.factor(np.asarray(params.covariance))), z)
        with x64():
            out = jax.jit(jax.vmap(lambda z: self.effects(params, z)))(z.reshape(-1, z.shape[-1]))
        return np.asarray(out).reshape(z.shape)

    def effect_slopes(self, params: Params, z: np.ndarray) -> np.ndarray:
        """The derivatives db/dz (random, random) at whitened effects `z` (groups, random), or one matrix for all where
        b is linear in z, on the host."""
        if self.effect_distribution is None or not z.size:
            factor = np.asarray(self.covariance.factor(np.asarray(params.covariance)))
            return factor if self.levels is None else self.levels.expanded(factor)
        with x64():
            return np.asarray(jax.jit(jax.vmap(jacobian(lambda z: self.effects(params, z))))(z))

    def phi(self, params: Params, z: Vector, group: Group) -> Record:
        """The individual parameters phi on their natural scale, at whitened effects `z` (random,)."""
        return self.phi_given(params.beta, self.effects(params, z), group, params.free)

    def phi_given(self, beta: Vector, b: Vector, group: Group, free: Networks | None = None) -> Record:
        """The individual parameters phi on their natural scale, at fixed effects `beta` (fixed,), random effects `b`
        (random,) and the free block of Params."""
        b = b if self.levels is None else self.levels.on_rows(b, group.units)
        return self.individual.phi(beta, b, group, free)

    def error_at(self, params: Params) -> AbstractError:
        """The residual model with the arrays of its scale, where that is an Equinox module."""
        return self.error.with_arrays(part_of(params.free, "error"))

    def predict(self, params: Params, z: Vector, group: Group) -> Any:
        """The prediction f(phi, x, v) at whitened effects `z` (random,): (obs,) for a Gaussian outcome."""
        return self.structural(params.free, self.phi(params, z, group), group.x, group.v)

    def log_joint(self, params: Params, z: Vector, group: Group, scale_at: Vector | None = None) -> Scalar:
        """log p(y | b = L z) + log N(z; 0, I), including all constants.

        **Arguments:** `z` (random,): whitened effects; `scale_at` (random,): the whitened effects at which the residual
        scale is computed (zeros for FO and FOCE), None for `z` itself.
        **Returns:** a scalar.
        """
        scale_prediction = None if scale_at is None else self.predict(params, scale_at, group)
        return self.log_joint_given(params, z, group, scale_prediction)

    def log_joint_given(self, params: Params, z: Vector, group: Group, scale_prediction: Any) -> Scalar:
        """`log_joint` with the residual scale computed from the prediction `scale_prediction` (None: that at `z`)."""
        f = self.predict(params, z, group)
        scale_prediction = f if scale_prediction is None else scale_prediction
        prior = -0.5 * jnp.sum(z**2) - self.n_effects * HALF_LOG_2PI
        return prior + self.error_at(params).log_density(f, scale_prediction, params.error, group)

    @property
    def error_names(self) -> tuple[str, ...]:
        """Names of the residual-error parameters; "error.NAME" where a fixed effect is called NAME."""
        names = (p.name for p in self.error.parameters)
        return tuple(f"error.{name}" if name in self.beta_names else name for name in names)

    @property
    def reported_names(self) -> tuple[str, ...]:
        """Names of the values in `reported`."""
        elements = (*((k,) for k in range(self.covariance.size)), *self.covariance.correlated_pairs)
        return self.beta_names + tuple(element_name(e, self.effect_names) for e in elements) + self.error_names

    def reported(self, params: Params) -> Vector:
        """The values that a fit reports: beta (transformed scale), standard deviations and correlations of psi
        (transformed scale), and the residual-error parameters (natural scale).

        A correlation with an effect of zero variance is reported as zero.
        """
        values = [params.beta]
        if self.n_effects:
            lower = self.covariance.factor(params.covariance)
            variance = jnp.sum(lower**2, axis=1)
            positive = variance > 0
            sd = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
            values.append(sd)
            safe = jnp.where(positive, sd, 1.0)
            for j, k in self.covariance.correlated_pairs:
                values.append((jnp.sum(lower[j] * lower[k]) / (safe[j] * safe[k]))[None])
        natural = self.error.natural(params.error)
        values.extend(jnp.reshape(jnp.asarray(value, params.beta.dtype), (1,)) for value in natural)
        return jnp.concatenate(values)

    def log_prior(self, params: Params) -> Scalar:
        """Sum of the log-densities of the priors at the reported values; zero without priors."""
        if not self.priors:
            return jnp.zeros(())
        reported = self.reported(params)
        return sum(prior.log_density(reported[self.reported_names.index(name)]) for name, prior in self.priors)
