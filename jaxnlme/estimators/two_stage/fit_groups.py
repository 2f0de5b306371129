"""`fit_groups`: fits of single groups, and starting values of a mixed fit from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from jaxnlme.arguments import check_choice, require_host
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.dry_run import place_and_check
from jaxnlme.binding.explanations import explained_errors
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import check_whole_number, some
from jaxnlme.estimators.core.starting_values import (
    balanced_error_start,
    pooled_start,
    scaled_error_start,
    start_params,
)
from jaxnlme.estimators.two_stage.group_fits import GroupFits
from jaxnlme.estimators.two_stage.population import estimate_population, population_params
from jaxnlme.estimators.two_stage.search import (
    GroupOptima,
    has_single_scale,
    initial_values,
    search_groups,
    shared_error,
)
from jaxnlme.estimators.two_stage.settings import SHARED_ERROR
from jaxnlme.estimators.two_stage.single_group import SingleGroup, matrices, single_group
from jaxnlme.estimators.two_stage.status import GroupStatus, singular
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public


@public("jn.fit_groups")
def fit_groups(
    model: NLMEModel,
    data: GroupedData,
    *,
    start: Params | Mapping[str, float] | FitRecord | None = None,
    starts: str | None = None,
    max_steps: int = 200,
) -> GroupFits:
    """Fit each group by itself, without random effects: all groups in one compiled program, each with its own
    convergence.

    The estimates are the individual parameters on the transformed scale, xb_i = A_i beta + B_i b_i: one number per
    parameter and group, whether it has a random effect or not. Group-level covariates are part of that number; the
    coefficient of a covariate that varies within groups is estimated for each group; a parameter that is fixed and has
    no random effect keeps its start. Under `individual=` each group has its own beta, and b = 0. Weights of a
    structural model that is a module keep their start, and priors are not used.

    With a Gaussian residual each group has its own scale, s_i times that of the residual model (for "constant": least
    squares, and the residual SD with n_i - p degrees of freedom); the other residual parameters (the ratio of the parts
    of the SD, an exponent, strata) are common to all groups and estimated with them. For any other outcome the
    likelihood of the group is maximised.

    **Arguments:** `start`: Params, values by name, or a Fit of the model, where all groups start; the model's own
    starting values where None. `starts`: "pooled" first fits the model without random effects to all data. `max_steps`
    of a group's search. Groups whose search failed are searched once more from the median of the others.
    **Returns:** GroupFits. A group that cannot be fitted has a status with the reason, and does not affect the others.
    **Raises:** DataError, ModelError, OptionError for mistakes found before the first iteration.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 6.1 (nlsList).

    **Example:**

    ```python
    groups = jn.fit_groups(model, data)
    print(groups.estimates)
    ```
    """
    require_host("jn.fit_groups", start, data, getattr(model, "structure", None))
    check_choice("starts", starts, (None, "pooled"))
    max_steps = check_whole_number("max_steps", max_steps, 1)
    with x64(), explained_errors():
        binding = bind(model, data)
        group_model = single_group(binding)
        params = start_params(binding, start)
        named_starts = start if isinstance(start, Mapping) else ()
        default_starts = start is None or bool(named_starts)
        if default_starts:
            params = balanced_error_start(binding, params, named_starts)
        placed, check = place_and_check(binding, params, None, None)
        if default_starts:
            params = scaled_error_start(binding, params, check.misfit, named_starts)
        notes: list[str] = []
        if starts == "pooled":
            params, sentence = pooled_start(binding, params, named_starts, placed)
            notes.append(sentence)
        return _fit(binding, placed, group_model, params, max_steps, notes)


def groups_start(
    binding: Binding, params: Params, user_starts: Collection[str] = (), placed: PlacedProblem | None = None
) -> tuple[Params, str]:
    """Starting values of a mixed fit from fits of single groups (see `GroupFits.start`).

    **Arguments:** `params`: where the groups start, and the values of fixed entries; `user_starts`: names of error
    parameters that keep these values; `placed`: the groups on the devices, made here where None.
    **Returns:** Params, and a sentence for the record of the fit.
    **Raises:** ModelError where single groups have no parameters of their own (see `single_group`).
    """
    placed = PlacedProblem(binding.problem, grid=False) if placed is None else placed
    fits = _fit(binding, placed, single_group(binding), params, 200, [])
    labels = [str(label) for label in binding.data.labels[~fits.usable & (binding.data.weights != 0)]]
    failed = [label for per_process in placed.processes.gather(labels) for label in per_process]
    omitted = f" Left out of the averages, because they could not be fitted: group {some(failed)}." if failed else ""
    contributing = int(np.sum(fits.usable & (binding.data.weights != 0)))
    if sum(placed.processes.gather(contributing)) < 2:
        return params, (
            "The start from single groups failed (fewer than two could be fitted); the fit began from the model's own "
            f"starts.{omitted}"
        )
    population = estimate_population(fits, placed.processes.concatenate)
    outlying = f" Excluded as outlying: group {some(population.outlying)}." if population.outlying else ""
    sentence = f"Started from fits of {population.n_groups} single groups.{omitted}{outlying}"
    start = population_params(fits, population)
    kept = np.array([name in user_starts for name in binding.density.error_names], bool)
    error = np.where(kept, np.asarray(params.error), start.error)
    return Params(start.beta, start.covariance, error, start.free), sentence


def _fit(
    binding: Binding, placed: PlacedProblem, group_model: SingleGroup, params: Params, max_steps: int, notes: list[str]
) -> GroupFits:
    """Alternation of the fits of all groups and of the residual model that they share."""
    gaussian = binding.density.error.is_gaussian
    observed = binding.data.observed.sum(axis=1)
    p = len(group_model.names)
    enough = observed > p if gaussian else observed >= p
    start = initial_values(placed, group_model, params)
    optima = _search_with_restart(placed, group_model, params, start, enough, max_steps)
    free = ~binding.fixed[len(binding.fixed) - len(binding.density.error_names) :]
    single_scale = has_single_scale(binding.density.error)
    if free.any() and not single_scale:
        for _ in range(SHARED_ERROR.max_rounds):
            usable = _group_codes(optima, enough, observed) == GroupStatus.ok
            if not placed.processes.any((usable & (binding.data.weights != 0)).any()):
                break
            usable &= binding.data.weights != 0
            error = shared_error(placed, binding, group_model, params, optima, usable)
            change = np.max(np.abs(error - np.asarray(params.error)), initial=0.0)
            params = Params(params.beta, params.covariance, error, params.free)
            optima = _search_with_restart(placed, group_model, params, optima.group_params, enough, max_steps)
            if change < SHARED_ERROR.max_change:
                break
        else:
            notes.append(
                "The residual model that the groups share had not converged after "
                f"{SHARED_ERROR.max_rounds} alternations."
            )
    codes = _group_codes(optima, enough, observed)
    if params.free is not None:
        notes.append("The free weights of the structural model were held at their starting values.")
    if binding.density.priors:
        notes.append("The model's priors were not used.")
    return GroupFits(
        binding=binding,
        single_group=group_model,
        params=params,
        group_params=optima.group_params,
        curvature=optima.curvature,
        squares=optima.squares,
        code=codes,
        diverging=optima.diverging,
        steps=optima.steps,
        single_scale=single_scale,
        fixed_designs=matrices(group_model.fixed_design, binding),
        random_designs=matrices(group_model.random_design, binding),
        notes=tuple(notes),
    )


def _search_with_restart(
    placed: PlacedProblem,
    group_model: SingleGroup,
    params: Params,
    start: np.ndarray,
    enough: np.ndarray,
    max_steps: int,
) -> GroupOptima:
    """Search of all groups from `start` (groups, params), and a second one, from the median of the others, of the
    groups that failed; `enough` (groups,) bool: the group has enough observations."""
    first = search_groups(placed, group_model, params, start, max_steps)
    good = first.converged & first.finite & enough & ~first.diverging.any(axis=1)
    processes = placed.processes
    if not processes.any((enough & ~good).any()) or not processes.any(good.any()):
        return first
    median = np.median(processes.concatenate(first.group_params[good]), axis=0)
    second = search_groups(placed, group_model, params, np.where(good[:, None], first.group_params, median), max_steps)
    better = ~good & second.converged & second.finite & ~second.diverging.any(axis=1)
    better |= ~first.finite & second.finite

    def better_of(name: str) -> np.ndarray:
        new, old = getattr(second, name), getattr(first, name)
        return np.where(better.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

    optima = GroupOptima(**{field.name: better_of(field.name) for field in dataclasses.fields(GroupOptima)})
    optima.steps = np.where(~good, first.steps + second.steps, first.steps)
    return optima


def _group_codes(optima: GroupOptima, enough: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The GroupStatus of each group (groups,); `observed` (groups,) counts responses."""
    code = np.where(optima.converged, GroupStatus.ok, GroupStatus.not_converged)
    code = np.where(optima.diverging.any(axis=1), GroupStatus.diverging, code)
    code = np.where(singular(optima.curvature), GroupStatus.singular, code)
    code = np.where(~optima.finite, GroupStatus.non_finite, code)
    code = np.where(~enough, GroupStatus.too_few_rows, code)
    return np.where(observed == 0, GroupStatus.no_observations, code)
