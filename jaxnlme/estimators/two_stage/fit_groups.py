"""`fit_groups`: the door to fits of single groups; and the starting values that they give a mixed fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.dry_run import place
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, some
from jaxnlme.estimators.core.starting_values import pooled_start, scaled_error_start, start_params
from jaxnlme.estimators.two_stage.group_fits import GroupFits
from jaxnlme.estimators.two_stage.population import second_stage
from jaxnlme.estimators.two_stage.population import start_params as population_params
from jaxnlme.estimators.two_stage.search import (
    ROUNDS,
    SETTLED,
    GroupOptima,
    initial_values,
    one_scale,
    search_groups,
    shared_error,
)
from jaxnlme.estimators.two_stage.single_group import SingleGroup, matrices, single_group
from jaxnlme.estimators.two_stage.status import GroupStatus, singular
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.record import Fit


def fit_groups(
    model: NLMEModel,
    data: GroupedData,
    *,
    start: Params | Mapping[str, float] | Fit | None = None,
    starts: str | None = None,
    max_steps: int = 200,
) -> GroupFits:
    """Fits each group by itself, without random effects: all groups as one compiled program, each with its own end.

    Estimated are the individual parameters on the transformed scale (xb_i = A_i beta + B_i b_i): one number a parameter
    for each group, whether it has a random effect or not. Group-level covariates are part of it; the coefficient of a
    covariate that varies within groups is estimated for each group; what is fixed and has no random effect stays at its
    start. Under `individual=` each group has a beta of its own, b = 0. Weights of a structural model that is a module
    stay at their start, priors take no part.

    A Gaussian residual has a scale of its own in each group, s_i times that of the residual model (for "constant" least
    squares, its SD with n_i - p degrees of freedom); what else the residual model holds (the ratio of its parts, an
    exponent, strata) is common to all groups and estimated with them. Any other outcome has the maximum of its
    likelihood.

    **Arguments:** `start`: Params, values by name, or a Fit of the model, where all groups begin; the model's own
    where None. `starts`: "pooled" first fits the model without random effects to all data. `max_steps` of a group's
    search. Groups whose search failed are tried once more from the median of the others.
    **Returns:** GroupFits. A group that cannot be fitted is named there with the reason, and touches no other.
    **Errors:** DataError, ModelError, OptionError for faults found before iterating.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 6.1 (nlsList).
    """
    if starts not in (None, "pooled"):
        raise OptionError(f"starts must be None or 'pooled'; received {starts!r}.")
    if not isinstance(max_steps, (int, np.integer)) or isinstance(max_steps, bool) or max_steps < 1:
        raise OptionError(f"max_steps must be a whole number >= 1; received {max_steps!r}.")
    with x64():
        binding = bind(model, data)
        own = single_group(binding)
        params = start_params(binding, start)
        placed, found = place(binding, params, None, None)
        given = start if isinstance(start, Mapping) else ()
        if start is None or given:
            params = scaled_error_start(binding, params, found.misfit, given)
        notes: list[str] = []
        if starts == "pooled":
            params, sentence = pooled_start(binding, params, given, placed)
            notes.append(sentence)
        return _fit(binding, placed, own, params, int(max_steps), notes)


def groups_start(
    binding: Binding, params: Params, given: Collection[str] = (), placed: PlacedProblem | None = None
) -> tuple[Params, str]:
    """Params from fits of single groups (see `GroupFits.start`), and a sentence for the record. What is fixed, and
    error parameters named in `given`, stay.

    **Errors:** ModelError where the design has no single groups' parameters.
    """
    placed = PlacedProblem(binding.problem, grid=False) if placed is None else placed
    fits = _fit(binding, placed, single_group(binding), params, 200, [])
    labels = [str(label) for label in binding.data.labels[~fits.usable & (binding.data.weights != 0)]]
    failed = [label for own in placed.processes.everyone(labels) for label in own]
    left = f" Left out of the averages, because they could not be fitted alone: group {some(failed)}." if failed else ""
    counted = int(np.sum(fits.usable & (binding.data.weights != 0)))
    if sum(placed.processes.everyone(counted)) < 2:
        return params, (
            "The start from single groups failed (fewer than two could be fitted); the fit began from the model's own "
            f"starts.{left}"
        )
    stage = second_stage(fits, placed.processes.concatenate)
    aside = f" Set aside as outlying: group {some(stage.outlying)}." if stage.outlying else ""
    sentence = f"Started from fits of {stage.count} single groups.{left}{aside}"
    found = population_params(fits, stage)
    kept = np.array([name in given for name in binding.density.error_names], bool)
    error = np.where(kept, np.asarray(params.error), found.error)
    return Params(found.beta, found.covariance, error, found.free), sentence


def _fit(
    binding: Binding, placed: PlacedProblem, own: SingleGroup, params: Params, max_steps: int, notes: list[str]
) -> GroupFits:
    """Rounds of group fits and of the residual model that they share."""
    gaussian = binding.density.error.has_gaussian_moments
    observed = binding.data.observed.sum(axis=1)
    p = len(own.names)
    enough = observed > p if gaussian else observed >= p
    ends = _search_twice(placed, own, params, initial_values(placed, own, params), enough, max_steps)
    free = ~binding.fixed[len(binding.fixed) - len(binding.density.error_names) :]
    single = one_scale(binding.density.error)
    if free.any() and not single:
        for _ in range(ROUNDS):
            usable = _codes(ends, enough, observed) == GroupStatus.ok
            if not placed.processes.any((usable & (binding.data.weights != 0)).any()):
                break
            usable &= binding.data.weights != 0
            error = shared_error(placed, binding, own, params, ends, usable)
            change = np.max(np.abs(error - np.asarray(params.error)), initial=0.0)
            params = Params(params.beta, params.covariance, error, params.free)
            ends = _search_twice(placed, own, params, ends.own, enough, max_steps)
            if change < SETTLED:
                break
        else:
            notes.append("The residual model that the groups share had not settled when its rounds were used up.")
    codes = _codes(ends, enough, observed)
    if params.free is not None:
        notes.append("The free weights of the structural model were held at their starting values.")
    if binding.density.priors:
        notes.append("The model's priors took no part.")
    return GroupFits(
        binding=binding,
        single_group=own,
        params=params,
        own=ends.own,
        curvature=ends.curvature,
        squares=ends.squares,
        code=codes,
        fading=ends.fading,
        steps=ends.steps,
        single_scale=single,
        designs=matrices(own.begin, binding),
        effects=matrices(own.effects, binding),
        notes=tuple(notes),
    )


def _search_twice(
    placed: PlacedProblem, own: SingleGroup, params: Params, start: np.ndarray, enough: np.ndarray, max_steps: int
) -> GroupOptima:
    """A search of all groups, and one more from the others' median for those that failed."""
    ends = search_groups(placed, own, params, start, max_steps)
    good = ends.converged & ends.finite & enough & ~ends.fading.any(axis=1)
    processes = placed.processes
    if not processes.any((enough & ~good).any()) or not processes.any(good.any()):
        return ends
    middle = np.median(processes.concatenate(ends.own[good]), axis=0)
    again = search_groups(placed, own, params, np.where(good[:, None], ends.own, middle), max_steps)
    better = ~good & again.converged & again.finite & ~again.fading.any(axis=1)
    better |= ~ends.finite & again.finite

    def chosen(name: str) -> np.ndarray:
        new, old = getattr(again, name), getattr(ends, name)
        return np.where(better.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

    picked = GroupOptima(
        *(chosen(name) for name in ("own", "curvature", "squares", "converged", "fading", "finite", "steps"))
    )
    picked.steps = np.where(~good, ends.steps + again.steps, ends.steps)
    return picked


def _codes(ends: GroupOptima, enough: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """A GroupStatus for each group (groups,)."""
    code = np.where(ends.converged, GroupStatus.ok, GroupStatus.not_converged)
    code = np.where(ends.fading.any(axis=1), GroupStatus.run_off, code)
    code = np.where(singular(ends.curvature), GroupStatus.singular, code)
    code = np.where(~ends.finite, GroupStatus.non_finite, code)
    code = np.where(~enough, GroupStatus.too_few_rows, code)
    return np.where(observed == 0, GroupStatus.no_observations, code)
