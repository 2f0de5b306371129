"""`simulate`: populations of new subjects under a regimen, with and without uncertainty of the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_choice, check_flag, require_host
from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import DataError, ModelError, OptionError, UnknownNameError, check_whole_number, shown
from jaxnlme.forecasting.covariate_path import as_path
from jaxnlme.forecasting.new_subjects import covariate_columns, data_of_subjects, sorted_times
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.forecasting.simulation import Simulation
from jaxnlme.forecasting.uncertainty import number_of_draws
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.evaluate import rebind, require_estimates
from jaxnlme.results.parameter_draws import parameter_draws
from jaxnlme.results.record import FitRecord
from jaxnlme.results.settings import SIMULATION
from jaxnlme.results.simulate import check_sampler, draw, draw_effects
from jaxnlme.signatures import public


@public("jn.pkpd.simulate")
def simulate(
    fit: FitRecord,
    regimen: Regimen | None = None,
    times: Any = None,
    subjects: int = 1000,
    covariates: Any = None,
    *,
    rows: Any = None,
    uncertainty: bool | int = False,
    residual: bool = True,
    at_dose: str = "before",
    time: str | None = None,
    robust: bool = False,
    seed: int = 0,
) -> Simulation:
    """Responses of new subjects drawn from a fitted model: new random effects for each subject, and new residuals.

    **Arguments:**

    - `fit`; `regimen`: the doses; None where the model reads doses from columns of x or v.
    - `times`: of the observations.
    - `subjects`: their number.
    - `covariates`: a dictionary of single values or columns, or a data frame. With as many rows as there are subjects
      each has its own; of a table with another number of rows each subject gets a row drawn with replacement.
    - `rows`: further columns of x with one value for each time, or one for all: the endpoint, the occasion, a dose
      that the model reads from x. With a column of time among them (`rows={"TIME": [0, 24], "CRCL": [90, 60]}`) they
      are records of their own, and what holds between these does not depend on `times`.
    - `uncertainty`: False, all parameters at their estimates; a number of draws (True: 100) of all parameters from the
      normal distribution of their estimates on the unconstrained scales, each with `subjects` subjects of its own.
    - `residual`: False leaves the residuals out, and there are no responses, only predictions.
    - `at_dose`: an observation at the time of a dose is "before" or "after" it; see `Regimen.data`.
    - `time`: name of the column of time, for data without event records in which no column is called time.
    - `robust`: the covariance of the estimates is the sandwich.
    - `seed`. The random numbers of a subject are a function of seed, draw and subject: neither the number of subjects
      or draws, nor how many are computed at once, changes them.

    **Returns:** a Simulation, with percentiles, exposure, attainment of targets, and a plot.
    **Raises:** OptionError for arguments that do not fit; DataError where a column that the model reads is missing,
    with its name; FitError where the fit has no estimates, or no standard errors with `uncertainty`; ModelError where
    the outcome cannot be drawn.

    **Example:**

    ```python
    doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
    v = jn.Parameter("v", 32.0, "log", random=True)
    pk = jn.fit(jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v]), doses, "focei")
    jn.pkpd.simulate(pk, jn.pkpd.regimen(300, 12, doses=4), times=[12.0, 24.0, 48.0], subjects=50)
    ```
    """
    require_host("jn.pkpd.simulate", covariates, times, seed)
    check_fit("jn.pkpd.simulate", fit)
    n = check_whole_number("subjects", subjects, 1)
    seed = check_whole_number("seed", seed, 0)
    check_choice("at_dose", at_dose, ("before", "after"))
    check_flag("residual", residual)
    check_flag("robust", robust)
    check_regimen(fit, regimen)
    if times is None:
        raise OptionError("times= is needed: the times at which the new subjects are observed.")
    if residual:
        check_sampler(fit.binding.density)
    columns = drawn_covariates(covariates, n, seed)
    labels = np.array(range(1, n + 1), object)
    data, kept = data_of_subjects(regimen, times, labels, columns, rows, at_dose == "before", fit.data, None, time)
    packed, redrawn = parameter_draws(fit, number_of_draws(uncertainty), seed, "jn.pkpd.simulate", robust)
    with missing_columns_named():
        binding = rebind(fit, data)
        z, phi, prediction, response = _populations(fit, binding, packed, seed, residual)
    time_name = next(iter(data.x))
    path = as_path(rows, time_name)
    further = sorted_times(times, rows)[1] if path is None else path[1] | {time_name: path[0]}
    return Simulation(
        fit, regimen, binding, time_name, kept, packed, z, phi, prediction[..., kept],
        None if response is None else response[..., kept], seed, redrawn, columns, further,
    )  # fmt: skip


def check_fit(caller: str, fit: Any) -> None:
    """**Raises:** OptionError for what is no fit; FitError for a fit without estimates."""
    if not isinstance(fit, FitRecord):
        raise OptionError(f"{caller} takes a fit of jn.fit; received {shown(fit)}.")
    require_estimates(fit)


def check_regimen(fit: FitRecord, regimen: Any) -> None:
    """**Raises:** OptionError for what is no regimen, and where the model reads no event records."""
    if regimen is None:
        return
    if not isinstance(regimen, Regimen):
        raise OptionError(f"regimen must be made by jn.pkpd.regimen(...), or be None; received {shown(regimen)}.")
    if fit.data.events is None:
        raise OptionError(
            "the fitted data have no event records (v.events), so that the model would not see the doses of a regimen; "
            "give regimen=None, and the columns from which the model reads doses in covariates= or rows=."
        )


def drawn_covariates(covariates: Any, n: int, seed: int) -> dict[str, np.ndarray]:
    """Covariates of `n` subjects; of a table with another number of rows, rows drawn with replacement, row k the same
    for every n."""
    columns = covariate_columns(covariates, None)
    size = len(next(iter(columns.values()), ()))
    if not columns or size == n:
        return columns
    if size == 1:
        return {name: np.repeat(column, n) for name, column in columns.items()}
    chosen = np.random.default_rng([seed, 7]).integers(0, size, n)
    return {name: column[chosen] for name, column in columns.items()}


@contextmanager
def missing_columns_named() -> Iterator[None]:
    """Context in which a column that the model reads and new subjects lack ends in a sentence with its name."""
    try:
        yield
    except UnknownNameError as error:
        raise DataError(
            f"the model reads {error.args[-1]!r}, which the new subjects lack: give it in covariates= (a value for "
            f"each subject) or rows= (a value for each time). {error}"
        ) from error


def _populations(
    fit: FitRecord, binding: Binding, packed: np.ndarray, seed: int, residual: bool
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Whitened effects (draws, subjects, random), individual parameters, predictions and responses (draws, subjects,
    rows) of a population for each row of `packed` (draws, packed)."""
    size = max(SIMULATION.cells_per_call // max(binding.data.rows.size, 1), 1)
    size = min(size, len(packed))
    parts = []
    with x64():
        draws = _with_residuals if residual else _without_residuals
        program = compiled(draws, size * binding.data.rows.size, once=True)
        problem, template = on_device((binding.problem, fit.params))
        key = jax.random.key(seed)
        for start in range(0, len(packed), size):
            # The last call may draw more than needed, so that no other size is compiled.
            numbers = np.arange(start, start + size)
            out = program(problem, template, packed[np.minimum(numbers, len(packed) - 1)], key, numbers)
            parts.append(jax.tree.map(np.asarray, out))
    z, phi, prediction, response = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(packed)], *parts)
    if np.shape(prediction)[2:] != (binding.data.rows.shape[1],):
        raise ModelError(
            f"the structural model returns shape {np.shape(prediction)[2:]} for a subject of "
            f"{binding.data.rows.shape[1]} rows; a simulation of new subjects needs one number per row."
        )
    return z, dict(zip(phi.names, phi.values, strict=True)), prediction, response if residual else None


def _with_residuals(problem: Problem, template: Params, packed: jax.Array, key: jax.Array, numbers: jax.Array) -> Any:
    return _draws(problem, template, packed, key, numbers, True)


def _without_residuals(problem: Problem, template: Params, packed: Any, key: jax.Array, numbers: jax.Array) -> Any:
    return _draws(problem, template, packed, key, numbers, False)


def _draws(problem: Problem, template: Params, packed: Any, key: jax.Array, numbers: Any, residual: bool) -> Any:
    """Effects, parameters, predictions and responses of a population for each draw of the parameters."""
    density = problem.density

    def of_draw(row: jax.Array, number: jax.Array) -> Any:
        params = template.unpack(row)
        draw_key = jax.random.fold_in(key, number)

        def per_group(group):
            effects, noise = jax.random.split(jax.random.fold_in(draw_key, group.key))
            z = draw_effects(density, effects, params.beta.dtype)
            f = density.predict(params, z, group)
            y = draw(density, params, noise, f, group) if residual else jnp.zeros(())
            return z, density.phi(params, z, group), f, y

        return problem.map_buckets(per_group)[0]

    return jax.vmap(of_draw)(packed, numbers)
