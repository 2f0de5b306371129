"""Sample sizes of single parameters, for the BIC of mixed models: groups (or units of a nested level) for what varies
between them, observations for the rest."""

from __future__ import annotations

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.settings import CHECKS
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.data.grouped import GroupedData
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.results.record import FitRecord


def parameter_units(fit: FitRecord) -> dict[str, float]:
    """For each estimated entry its sample size in BICc.

    Entries of psi: the number of units of the level of their effects. Typical values and coefficients of parameters
    with a random effect: the number of units of the outermost level by which the parameter varies, if their column of
    the design is constant in these units (that of an inner level with an effect, if it is constant there). Others, and
    residual parameters: the number of observations (for a restricted likelihood less the fixed effects).

    **Source:** Delattre, Lavielle and Poursat (2014), Electronic Journal of Statistics 8, 456-475. Nested levels, and
    covariates that vary within the groups, are not in the paper; they follow its argument, that the information on a
    parameter grows with the number of units that vary in it.
    """
    binding, n_obs = fit.binding, float(fit.criteria.n_used)
    sizes = _units_by_depth(fit)
    p, n_theta = len(binding.density.beta_names), binding.density.covariance.n_unconstrained
    entries = [*_beta_units(binding, fit.data, sizes, n_obs), *_theta_units(binding, sizes)]
    entries += [n_obs] * (len(binding.packed_names) - p - n_theta)
    names = [f"{k}: {name}" for k, name in enumerate(binding.packed_names)]
    units = {name: size for name, size, held in zip(names, entries, binding.fixed, strict=True) if not held}
    free = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(fit.params.free))
    return units | {f"weight {k}": n_obs for k in range(free)}


def _units_by_depth(fit: FitRecord) -> list[float]:
    """The number of units with an observed response at each level, weighted as the groups are."""
    data = fit.data
    sizes = [float(fit.criteria.n_groups)]
    for level in data.nested:
        units = np.arange(level.labels.shape[1])
        seen = ((level.unit[:, :, None] == units) & data.observed[:, :, None]).any(axis=1)
        sizes.append(float(np.sum(np.asarray(data.weights)[:, None] * seen)))
    return sizes


def _depths(binding: Binding) -> tuple[int, ...]:
    """The level of each distinct effect."""
    return (0,) * len(binding.density.effect_names) if binding.random is None else binding.random.depths


def _theta_units(binding: Binding, sizes: list[float]) -> list[float]:
    """The number of units for each entry of theta."""
    density, depths = binding.density, _depths(binding)
    theta = np.zeros(density.covariance.n_unconstrained)
    base, units = psi_of(density, theta), []
    for k in range(len(theta)):
        moved = theta.copy()
        moved[k] = CHECKS.theta_step
        changed = np.abs(psi_of(density, moved) - base) > CHECKS.theta_change * CHECKS.theta_step
        of_effects = np.flatnonzero(changed.any(axis=1))
        units.append(sizes[min((depths[j] for j in of_effects), default=0)])
    return units


def _beta_units(binding: Binding, data: GroupedData, sizes: list[float], n_obs: float) -> list[float]:
    """The sample size of each fixed effect."""
    individual, depths = binding.density.individual, _depths(binding)
    names = binding.density.beta_names
    if not isinstance(individual, LinearIndividual):
        owners = () if binding.random is None else binding.random.parameters or ()
        with_effect: dict[str, int] = {}
        for owner, depth in zip(owners, depths, strict=True):
            name = binding.model.parameters[owner].name
            with_effect[name] = min(depth, with_effect.get(name, depth))
        return [sizes[with_effect[name]] if name in with_effect else n_obs for name in names]
    units = [n_obs] * len(names)
    for fixed_terms, random_terms in zip(individual.fixed.terms, individual.random.terms, strict=True):
        levels = sorted({depths[k] for k, _, _ in random_terms})
        for k, _, column in fixed_terms:
            constant = (d for d in levels if column is None or _constant_within(binding, data, column, d))
            depth = next(constant, None)
            if depth is not None:
                units[k] = min(units[k], sizes[depth])
    return units


def _constant_within(binding: Binding, data: GroupedData, column: int, depth: int) -> bool:
    """True if a column of the design is constant in every unit of a level, on its rows with a response."""
    for which, bucket in zip(binding.bucket_groups, binding.problem.buckets, strict=True):
        values = np.asarray(bucket.covariates[column])
        if values.ndim == 1:
            continue
        observed = np.asarray(bucket.x.observed)
        unit = data.nested[depth - 1].unit[which][:, : values.shape[1]] if depth else np.zeros(values.shape, int)
        for u in range(int(unit.max(initial=0)) + 1):
            inside = (unit == u) & observed
            high = np.where(inside, values, -np.inf).max(axis=1)
            low = np.where(inside, values, np.inf).min(axis=1)
            if (high > low).any():
                return False
    return True
