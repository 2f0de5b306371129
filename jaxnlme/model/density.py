"""`log_joint`: the density of one group's responses and whitened effects, the only place where model meets data."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.individual_parameters import AbstractIndividual
from jaxnlme.model.params import Params
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.model.residual_error.base import AbstractError
from jaxnlme.model.structural import Structural
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.records import Record, Rows
from jaxnlme.typing import Scalar, Vector


class Group(eqx.Module):
    """The data of one group (or, stacked, of all groups of a bucket).

    `y` (obs,), a safe number where nothing was observed; `x`, the predictors with their masks; `v`, the group-level
    predictors; `covariates`, the varying columns of the designs, each () or (obs,); `strata` (obs,) int or None;
    `key` (), an integer made of the label, from which random draws of this group are folded.
    """

    y: Any
    x: Rows
    v: Record
    covariates: tuple[Any, ...]
    strata: Any
    key: Any


class Density(eqx.Module):
    """A model with its designs, strata and names settled: pure functions of Params and one Group."""

    structural: Structural
    individual: AbstractIndividual
    covariance: AbstractCovariance
    error: AbstractError
    prior_densities: tuple[AbstractPrior, ...]
    prior_names: tuple[str, ...] = eqx.field(static=True)  # beside the densities: a name is no array of a pytree
    beta_names: tuple[str, ...] = eqx.field(static=True)
    effect_names: tuple[str, ...] = eqx.field(static=True)

    @property
    def priors(self) -> tuple[tuple[str, AbstractPrior], ...]:
        """Reported name and prior, in pairs."""
        return tuple(zip(self.prior_names, self.prior_densities, strict=True))

    @property
    def n_effects(self) -> int:
        """Number of whitened effects z of a group."""
        return self.covariance.size

    def effects(self, params: Params, z: Vector) -> Vector:
        """b = L(theta) z (random,)."""
        return self.covariance.apply(params.covariance, z) if self.n_effects else z

    def phi(self, params: Params, z: Vector, group: Group) -> Record:
        """The individual parameters on their natural scale."""
        return self.individual.phi(params.beta, self.effects(params, z), group)

    def predict(self, params: Params, z: Vector, group: Group) -> Any:
        """f(phi, x, v): (obs,) for a Gaussian outcome."""
        return self.structural(params.free, self.phi(params, z, group), group.x, group.v)

    def log_joint(self, params: Params, z: Vector, group: Group, scale_at: Vector | None = None) -> Scalar:
        """log p(y | b = L z) + log N(z; 0, I), with every constant.

        **Arguments:** `z` (random,), whitened effects; `scale_at`, the z at which the residual scale is taken (FO and
        FOCE: zeros), the same z where None.
        """
        scale_prediction = None if scale_at is None else self.predict(params, scale_at, group)
        return self.log_joint_given(params, z, group, scale_prediction)

    def log_joint_given(self, params: Params, z: Vector, group: Group, scale_prediction: Any) -> Scalar:
        """`log_joint` with the prediction for the residual scale at hand (None: the one at z)."""
        f = self.predict(params, z, group)
        scale_prediction = f if scale_prediction is None else scale_prediction
        prior = -0.5 * jnp.sum(z**2) - self.n_effects * HALF_LOG_2PI
        return prior + self.error.log_density(f, scale_prediction, params.error, group)

    @property
    def error_names(self) -> tuple[str, ...]:
        """Names of the error parameters; one that is also a parameter of the model is called "error.NAME"."""
        names = (p.name for p in self.error.parameters)
        return tuple(f"error.{name}" if name in self.beta_names else name for name in names)

    @property
    def reported_names(self) -> tuple[str, ...]:
        """Names of `reported`, in its order."""
        sds = tuple(f"sd({name})" for name in self.effect_names)
        pairs = tuple(f"corr({self.effect_names[j]}, {self.effect_names[k]})" for j, k in self.covariance.related)
        return self.beta_names + sds + pairs + self.error_names

    def reported(self, params: Params) -> Vector:
        """The values a fit reports: beta (transformed scale), SDs and correlations of psi, natural error parameters.

        A correlation with an effect of zero variance is zero.
        """
        values = [params.beta]
        if self.n_effects:
            lower = self.covariance.factor(params.covariance)
            variance = jnp.sum(lower**2, axis=1)
            positive = variance > 0
            sd = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
            values.append(sd)
            safe = jnp.where(positive, sd, 1.0)
            for j, k in self.covariance.related:
                values.append((jnp.sum(lower[j] * lower[k]) / (safe[j] * safe[k]))[None])
        natural = self.error.natural(params.error)
        values.extend(jnp.reshape(jnp.asarray(value, params.beta.dtype), (1,)) for value in natural)
        return jnp.concatenate(values)

    def log_prior(self, params: Params) -> Scalar:
        """Sum of the log prior densities of the reported values that have one; zero without priors."""
        if not self.priors:
            return jnp.zeros(())
        reported = self.reported(params)
        return sum(prior.log_density(reported[self.reported_names.index(name)]) for name, prior in self.priors)
