"""Binding a model to data: `bind` resolves designs, factor levels, strata, names and starting values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.continued_columns import with_continued_columns
from jaxnlme.binding.endpoints import (
    member_rows,
    resolve_like,
    resolved_error,
    series_layout,
    with_endpoints,
    without_dropped_rows,
)
from jaxnlme.binding.held_values import (
    check_held_names,
    check_residual_scale,
    elements,
    held_error,
    held_values,
    without_zero_effects,
)
from jaxnlme.binding.individual_design import individual_design
from jaxnlme.binding.limits import group_limits
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.random_effects import RandomEffects, covariance_of, levels_of, psi_matrix
from jaxnlme.binding.separability import unit_coupling
from jaxnlme.binding.settings import CHECKS
from jaxnlme.binding.stacking import check_readable, stack_groups, strata_of, variance_codes
from jaxnlme.binding.user_scale import (
    as_matrix,
    numbers_by_name,
    on_real_line,
    psi_of,
    psi_with,
    theta_from_psi,
    with_error_values,
)
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.model.covariance.base import element_name, elements_by_name
from jaxnlme.model.covariance.held import held_fixed
from jaxnlme.model.covariates import CovariateColumns
from jaxnlme.model.declaration import ModelDeclaration
from jaxnlme.model.density import Density, Group
from jaxnlme.model.effect_distribution import AbstractEffectDistribution
from jaxnlme.model.individual_parameters import check_names
from jaxnlme.model.networks import networks
from jaxnlme.model.params import Params, check_params
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64
from jaxnlme.signatures import public


@dataclasses.dataclass(frozen=True, eq=False)
class Binding:
    """A model bound to data, on the host.

    **Fields:** `model`; `data`; `problem`: density and stacked groups; `start`: Params at the starting values; `fixed`
    (packed,) bool: entries of the packed vector that are not estimated; `packed_names`: names of its entries;
    `transforms`: for each beta that is the typical value of a parameter its transform, None for other coefficients;
    `covariates`: by parameter, the columns that its covariate formulas make; `bucket_groups`: for each bucket the
    positions of its groups in the data; `sd_ranges`: for each random effect the least and largest starting standard
    deviation (`Parameter.sd_start_range`); `held`: values on the user's scale, by reported name, that the model holds
    fixed by `fixed=` or `Parameter(sd=jn.fixed(...))`; `bound_model`: the model without the random effects whose
    standard deviation is held at zero; `random`: the random effects of that model.
    """

    model: ModelDeclaration
    data: GroupedData
    problem: Problem
    start: Params
    fixed: np.ndarray
    packed_names: tuple[str, ...]
    transforms: tuple[Any, ...]
    covariates: dict[str, CovariateColumns]
    bucket_groups: tuple[np.ndarray, ...]
    sd_ranges: tuple[tuple[float, float], ...]
    held: Mapping[str, float]
    bound_model: ModelDeclaration
    random: RandomEffects

    @property
    def used_data(self) -> GroupedData:
        """The data without the responses that the method for censored rows leaves out."""
        return without_dropped_rows(self.density.error, self.data)

    @property
    def density(self) -> Density:
        """The density of one group."""
        return self.problem.density

    def params(self, values: Mapping[str, float] | None = None, *, psi: Any = None) -> Params:
        """Params from values on the user's scale; arguments and exceptions as for `NLMEModel.params`."""
        density = self.density
        values = numbers_by_name(values)
        errors = density.error_names
        covariance_names = density.reported_names[len(density.beta_names) : -len(errors) or None]
        check_names("value", tuple(values), density.reported_names)
        self._check_held(values)
        beta = np.array(self.start.beta, float)
        for k, (name, transform) in enumerate(zip(density.beta_names, self.transforms, strict=True)):
            if name in values:
                beta[k] = values[name] if transform is None else on_real_line(name, values[name], transform)
        theta = np.array(self.start.covariance, float)
        if psi is not None or any(name in values for name in covariance_names):
            matrix = psi_of(density, theta)
            if psi is not None:  # checked here by itself, and below with the values in it
                matrix = as_matrix(psi)
                theta_from_psi(density.covariance, matrix, density.effect_names)
            matrix = psi_with(density, matrix, values)
            theta = theta_from_psi(density.covariance, matrix, density.effect_names)
        error = with_error_values(density, np.array(self.start.error, float), values)
        return Params(beta, theta, error, self.start.free)

    def _check_held(self, values: Mapping[str, float]) -> None:
        """**Raises:** ModelError where `values` gives another value to one that the model holds fixed."""
        effects = self.density.effect_names
        elements = elements_by_name(effects)
        for name, value in values.items():
            is_correlation = len(element := elements.get(name, ())) == 2
            if is_correlation and any(values.get(element_name((k,), effects)) == 0 for k in element):
                continue  # a correlation with an effect of zero variance is reported as zero
            size = 1.0 if is_correlation else abs(self.held.get(name, 0.0))
            if name in self.held and abs(float(value) - self.held[name]) > CHECKS.same_value * size:
                raise ModelError(
                    f"{name} is held fixed at {self.held[name]:g} in this model; received {float(value):g}. Leave it "
                    "out, or change fixed=."
                )

    def values(self, params: Params) -> dict[str, float]:
        """Values on the user's scale by name, as `params` takes them. **Raises:** ModelError for what is no Params."""
        check_params(params)
        density = self.density
        beta = np.asarray(params.beta, float)
        out = {
            name: float(b) if t is None else float(t.to_natural(float(b)))
            for name, b, t in zip(density.beta_names, beta, self.transforms, strict=True)
        }
        if density.n_effects:
            psi = psi_of(density, np.asarray(params.covariance, float))
            sd = np.sqrt(np.diag(psi))
            out |= {element_name((k,), density.effect_names): float(value) for k, value in enumerate(sd)}
            for j, k in density.covariance.correlated_pairs:
                r = psi[j, k] / (sd[j] * sd[k]) if sd[j] * sd[k] > 0 else 0.0
                out[element_name((j, k), density.effect_names)] = float(r)
        natural = density.error.natural(np.asarray(params.error, float))
        return out | {name: float(value) for name, value in zip(density.error_names, natural, strict=True)}


def check_grouped_data(data: Any) -> None:
    """Check the type of `data`. **Raises:** ModelError where it is not a GroupedData."""
    if not isinstance(data, GroupedData):
        raise ModelError(f"data must be a jn.GroupedData; received {type(data).__name__}. See GroupedData.from_frame.")


@public("jn.bind")
def bind(
    model: ModelDeclaration | None, data: GroupedData, like: Binding | None = None, buckets: int | None = None
) -> Binding:
    """A model bound to data: designs, factor levels, strata, names and starting values are resolved.

    **Arguments:** `model`; `data`; `like`: an earlier binding whose factor levels, centres and strata are used (for new
    data or predictions); `buckets`: number of padded sizes, None: chosen by the amount of padding.
    **Returns:** a Binding.
    **Raises:** ModelError where model and data do not fit together (a missing column, a design of the wrong shape, a
    prior on an unknown name, ...).

    **Example:**

    ```python
    jn.bind(model, data).values(fit.params)
    ```
    """
    if model is None:
        raise ModelError("a model is needed with GroupedData; only a Problem includes its model.")
    if not isinstance(model, ModelDeclaration):
        raise ModelError(f"model must be a jn.NLMEModel; received {type(model).__name__}.")
    check_grouped_data(data)
    check_readable(data)
    declared, (model, held, all_effects) = model, _held(model, data, like)
    individual, columns, beta0, fixed, names, transforms, covariates, random = individual_design(model, data, like)
    effects, sd_ranges = random.names, random.sd_ranges
    if model.psi is not None or model.fix_psi:
        sd_ranges = ((0.0, np.inf),) * len(effects)
    family = covariance_of(model.covariance, random) if like is None else like.density.covariance
    if like is None:
        family = held_fixed(family, elements(held, effects), effects)
    if like is not None:
        error = resolve_like(model.error, data, like.density.error)
    else:
        error = _resolved_error(model, data, held, names)
    used = without_dropped_rows(error, data)
    check_residual_scale(error)
    check_events = getattr(model.structure, "check_events", None)  # of models of dose records
    if check_events is not None:
        check_events(None if data.events is None else data.events.facts)
    # Default SDs may differ between effects although the family has one SD for all: from_matrix averages them.
    psi0 = psi_matrix(model.psi, random)
    theta0 = family.from_matrix(np.diag(random.sds**2)) if psi0 is None else theta_from_psi(family, psi0, effects)
    error0 = error.unconstrained([float(p.start) for p in error.parameters])
    priors = {p.name: p.prior for p in model.parameters if p.prior is not None} | model.priors
    densities = tuple(priors.values())
    effect_levels = levels_of(random, data)
    distribution, of_effects = _effect_distribution(model, effects, effect_levels)
    density = Density(
        with_endpoints(model._structural, error),
        individual,
        family,
        error.with_arrays(None),
        densities,
        tuple(priors),
        names,
        effects,
        effect_levels,
        distribution,
    )
    if held:
        check_held_names(held, density.reported_names, all_effects)
    check_names("prior on", tuple(priors), density.reported_names)
    for k, (name, transform) in enumerate(zip(names, transforms, strict=True)):
        if name in held:
            beta0[k] = held[name] if transform is None else on_real_line(name, held[name], transform)
            fixed[k] = True
    fixed_theta = np.full(len(theta0), model.fix_psi)
    fixed_theta[list(family.fixed_entries)] = True
    fixed = np.concatenate([fixed, fixed_theta, np.array([p.fix for p in error.parameters], bool)])
    packed = (*names, *_theta_names(density), *density.error_names)
    groups = data.bucket_indices(buckets)
    strata, layout, codes = strata_of(used, error), series_layout(used, error), variance_codes(used, error)
    extras = strata, layout, codes, member_rows(used, error), group_limits(error, used)
    problem = Problem(
        density,
        with_continued_columns(tuple(stack_groups(used, positions, columns, *extras) for positions in groups)),
        np.argsort(np.concatenate(groups), kind="stable"),
        np.asarray(data.weights, float),
    )
    free = networks(
        structure=model._structure_arrays,
        individual=model._individual_arrays,
        error=getattr(model.error, "arrays", None),
        effects=of_effects,
    )
    start = Params(beta0, theta0, error0, free)
    density = dataclasses.replace(density, solves_equations=_solves_equations(density, start, problem.buckets[0]))
    problem = dataclasses.replace(problem, density=density)
    if effect_levels is not None:
        coupling = unit_coupling(problem, start, data, columns)
        effect_levels = dataclasses.replace(effect_levels, separable=not coupling, coupling=coupling)
        problem = dataclasses.replace(problem, density=dataclasses.replace(density, levels=effect_levels))
    return Binding(
        declared, data, problem, start, fixed.astype(bool), packed, transforms, covariates, tuple(groups),
        sd_ranges, held, model, random,
    )  # fmt: skip


def _solves_equations(density: Density, start: Params, bucket: Group) -> bool:
    """True for a model function that solves differential equations; by tracing one group."""
    found = []

    def trace(start: Params, group: Group) -> None:
        phi = density.phi(start, jnp.zeros(density.n_effects), group)
        found.append(density.structural.solves_equations(start.free, phi, group.x, group.v))

    with x64():
        group = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), bucket)
        try:
            jax.eval_shape(trace, on_device(start), group)
        except Exception:  # of the user's function for individual parameters: the dry run reports it
            return False
    return found[0]


def _effect_distribution(
    model: ModelDeclaration, effects: tuple[str, ...], levels: Any
) -> tuple[AbstractEffectDistribution | None, Any]:
    """The distribution of the random effects called `effects` (None: Gaussian), and its arrays in the free block.

    **Raises:** ModelError where the model has no effects, or has them at nested levels.
    """
    if model.effects is None:
        return None, None
    if not effects:
        raise ModelError(f"effects={model.effects.description}, and the model has no random effects; leave it out.")
    if levels is not None:
        raise ModelError(
            f"effects={model.effects.description} is for random effects of the groups; those of nested levels are "
            "Gaussian: leave effects= out, or declare effects of one level."
        )
    return model.effects.resolve(effects)


def _resolved_error(
    model: ModelDeclaration, data: GroupedData, held: Mapping[str, float], names: Sequence[str]
) -> AbstractError:
    """The residual model with its strata and series from the data, and the values `held` fixed."""
    return held_error(resolved_error(model.error, data, {*held, *model.priors}), held, names)


def _held(
    model: ModelDeclaration, data: GroupedData, like: Binding | None
) -> tuple[ModelDeclaration, dict[str, float], tuple[str, ...]]:
    """The model without the effects whose standard deviation is held at zero, all values that it holds fixed, by
    reported name, and the names of all effects (none where it holds nothing fixed)."""
    if not model.fixed and not any(p.holds_sd for p in model.parameters):
        return model, {}, ()
    random = individual_design(model, data, like)[-1]
    held = held_values(model, random)
    zero = [name for k, name in enumerate(random.names) if held.get(element_name((k,), random.names)) == 0]
    return without_zero_effects(model, random, zero), held, random.names


def _theta_names(density: Density) -> tuple[str, ...]:
    """Names of the entries of theta: log standard deviations are named after their effects."""
    names = [f"psi[{k}]" for k in range(density.covariance.n_unconstrained)]
    for index, effects, _ in density.covariance.log_scales:
        names[index] = f"log sd({', '.join(density.effect_names[k] for k in effects)})"
    return tuple(names)
