"""The posterior distribution of one patient's random effects, given the levels and the population parameters.

By Laplace's approximation: normal around the conditional mode, with the inverse curvature of the log joint density as
covariance. By importance sampling: draws from a t distribution with this centre and scale, weighted by the joint
density and resampled; exact up to the Monte Carlo error that the effective number of draws tells of.

With uncertainty of the population parameters theta, their distribution given the data of the fit is the normal one of
the estimates. Draws of theta from it, with effects from the same proposal, have the weight p(levels, effects | theta)
over the proposal's density: the patient's levels count in theta, too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import FitError
from jaxnlme.forecasting.settings import POSTERIOR
from jaxnlme.likelihood.integrals import log_t_density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.by_level import units_in_common
from jaxnlme.results.evaluate import find_modes
from jaxnlme.results.parameter_draws import parameter_draws
from jaxnlme.results.record import FitRecord
from jaxnlme.results.simulate import draw
from jaxnlme.sampling.importance import normalised_weights, systematic_resample


@dataclasses.dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of a patient's random effects.

    **Fields:** `mode` (random,), whitened, and `covariance` (random, random), Laplace's; `effects` (draws, random),
    whitened; `packed` (draws or 1, packed): the population parameters of each draw, or of all; `method`; `ess`: the
    effective number of `proposals`, of importance sampling; `binding`: the model bound to the patient's data; `seed` of
    the effects of units of nested levels that these data do not have.
    """

    binding: Binding
    seed: int
    mode: np.ndarray
    covariance: np.ndarray
    effects: np.ndarray
    packed: np.ndarray
    method: str
    ess: float
    proposals: int

    def effects_for(self, binding: Binding) -> np.ndarray:
        """The draws of the effects (draws, random) for other rows of the patient: a unit of a nested level has the
        effects of the unit with its labels in the patient's data, a new one is drawn from the population."""
        return self._by_units(binding, self.effects, np.random.default_rng([self.seed, 12]))

    def mode_for(self, binding: Binding) -> np.ndarray:
        """The mode (random,) for other rows of the patient, zero for new units of nested levels."""
        return self._by_units(binding, self.mode[None, :], None)[0]

    def _by_units(self, binding: Binding, effects: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        levels, known_levels = binding.density.levels, self.binding.density.levels
        if levels is None or known_levels is None:
            return effects
        out = []
        for level, part in zip(levels.levels, known_levels.split(effects), strict=True):
            if level.depth:
                shape = (len(effects), level.units, part.shape[-1])
                new = np.zeros(shape) if rng is None else rng.standard_normal(shape)
                for (_, unit), (_, known) in units_in_common(self.binding.data, binding.data, level.depth):
                    new[:, unit] = part[:, known]
                part = new
            out.append(np.asarray(part))
        return np.asarray(levels.join(out))

    @property
    def sentence(self) -> str:
        """The method in words."""
        n = len(self.effects)
        if self.method == "laplace":
            return f"Posterior by Laplace's approximation, {n} draws."
        words = f"Posterior by importance sampling: {n} of {self.proposals} weighted draws, effectively {self.ess:.0f}"
        if self.ess < POSTERIOR.least_effective * self.proposals:
            return f"{words}: FEW, so that intervals are not reliable; give more draws."
        return f"{words}."


def posterior(fit: FitRecord, binding: Binding, method: str, draws: int, n_parameters: int, seed: int) -> Posterior:
    """The posterior of the effects of the one group of `binding`.

    **Arguments:** `method`: "laplace" or "importance"; `n_parameters`: draws of the population parameters, 0: held at
    the estimates; `seed`.
    **Raises:** FitError where the conditional mode is not found.
    """
    modes, curvatures = find_modes(fit, binding, np.ones(1, bool))
    mode, curvature = modes[0], curvatures[0]
    q = len(mode)
    packed, _ = parameter_draws(fit, n_parameters, seed, "jn.pkpd.forecast")
    if not q and not n_parameters:
        none = np.zeros((draws, 0))
        return Posterior(binding, seed, mode, np.zeros((0, 0)), none, packed, "laplace", np.nan, 0)
    try:
        factor = np.linalg.cholesky(np.linalg.inv(curvature)) if q else np.zeros((0, 0))
    except np.linalg.LinAlgError:
        factor = np.full((q, q), np.nan)
    if not (np.isfinite(mode).all() and np.isfinite(factor).all()):
        raise FitError(
            "the conditional mode of the patient's random effects was not found; check levels and doses.", fit
        )
    rng = np.random.default_rng([seed, 11])
    covariance = factor @ factor.T
    if method == "laplace":
        effects = mode + rng.standard_normal((draws, q)) @ factor.T
        return Posterior(binding, seed, mode, covariance, effects, packed, method, np.nan, 0)
    n = POSTERIOR.proposals * draws
    df = POSTERIOR.degrees_of_freedom
    u = rng.standard_normal((n, q)) * np.sqrt(df / rng.chisquare(df, n))[:, None]
    z = mode + u @ factor.T
    which = np.arange(n) % len(packed)
    with x64():
        program = compiled(_log_joint, n * binding.data.rows.size, once=True)
        problem, template = on_device((binding.problem, fit.params))
        log_joint = np.asarray(program(problem, template, packed[which], z))
        log_q = np.asarray(log_t_density(jnp.asarray(u), df)) - np.log(np.diag(factor)).sum()
        weights, ess = normalised_weights(jnp.asarray(log_joint - log_q))
        chosen = np.asarray(systematic_resample(weights, draws, jnp.asarray(rng.uniform())))
    if not np.isfinite(float(ess)):
        raise FitError("the joint density of the patient's levels is not finite; check levels and doses.", fit)
    chosen = rng.permutation(chosen)
    own = packed if len(packed) == 1 else packed[which[chosen]]
    return Posterior(binding, seed, mode, covariance, z[chosen], own, method, float(ess), n)


def _log_joint(problem: Problem, template: Params, packed: jax.Array, effects: jax.Array) -> jax.Array:
    """log p(y, z) (draws,) of the first group."""
    group = jax.tree.map(lambda leaf: leaf[0], problem.buckets[0])

    def one(pair: Any) -> jax.Array:
        row, z = pair
        return problem.density.log_joint(template.unpack(row), z, group)

    return jax.lax.map(one, (packed, effects), batch_size=2000)


def predictive(
    fit: FitRecord, binding: Binding, packed: np.ndarray, effects: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Predictions, responses (draws, rows) and individual parameters (draws,) or (draws, rows) of one group at draws of
    its effects (draws, random) and the parameters (draws or 1, packed)."""
    packed = np.broadcast_to(packed, (len(effects), packed.shape[1]))
    with x64():
        program = compiled(_predictive, len(effects) * binding.data.rows.size, once=True)
        problem, template = on_device((binding.problem, fit.params))
        f, y, phi = program(problem, template, packed, effects, jax.random.key(seed))
        named = dict(zip(phi.names, (np.asarray(value) for value in phi.values), strict=True))
        return np.asarray(f), np.asarray(y), named


def _predictive(problem: Problem, template: Params, packed: jax.Array, effects: jax.Array, key: jax.Array) -> Any:
    group = jax.tree.map(lambda leaf: leaf[0], problem.buckets[0])
    density = problem.density

    def one(args: Any) -> Any:
        row, z, number = args
        params = template.unpack(row)
        f = density.predict(params, z, group)
        return f, draw(density, params, jax.random.fold_in(key, number), f, group), density.phi(params, z, group)

    return jax.lax.map(one, (packed, effects, jnp.arange(effects.shape[0])), batch_size=2000)
