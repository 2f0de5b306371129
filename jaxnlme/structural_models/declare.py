"""From a curve, names of columns and data to an `NLMEModel` with starting values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, cast

import numpy as np

from jaxnlme.binding.bind import check_grouped_data
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError, OptionError, near_matches, shown, some
from jaxnlme.model.parameters import Parameter
from jaxnlme.records import Record
from jaxnlme.structural_models.least_squares import PooledRows, improved_parameters, pooled_parameters
from jaxnlme.structural_models.linear_parts import AbstractLinearPart
from jaxnlme.structural_models.options import by_parameter, chosen_parameters, random_by_parameter, start_value
from jaxnlme.structural_models.settings import STARTS


class Options(TypedDict, total=False):
    """Options of the functions of `jn.models`.

    - `starts`: starting values by name, on the natural scale. Without `data` all of them; with `data` those that are
      not given are estimated beside the given ones.
    - `random`: names of the parameters with random effects, True for all (default: none). With nested levels also
      names of effects, `["Vm", "Vm|Occasion"]`, or the levels by parameter, `{"Vm": ["Subject", "Occasion"]}`.
    - `covariates`: by parameter, formulas as `jn.Parameter` takes them: `{"Asym": ["log(Wt / 70)"]}`.
    - `transforms`: by parameter ("log", ...); default: the identity, R's parametrisation.
    - `sd`: by parameter, the starting standard deviation of its random effect, or `jn.fixed(...)`; with nested levels
      also a dictionary by level.
    - `fix`: names of parameters whose typical value stays at its start.
    - `covariance`, `error`, `psi`, `fix_psi`, `fixed`, `priors`: as of `jn.NLMEModel`.
    """

    starts: Mapping[str, float]
    random: Any
    covariates: Mapping[str, Any]
    transforms: Mapping[str, Any]
    sd: Mapping[str, Any]
    fix: str | Sequence[str]
    covariance: Any
    error: Any
    psi: Any
    fix_psi: bool
    fixed: Mapping[str, float]
    priors: Mapping[str, Any]


_OF_THE_MODEL = ("covariance", "error", "psi", "fix_psi", "fixed", "priors")


@dataclasses.dataclass(frozen=True)
class CurveOfColumns:
    """A curve as a model function (phi, x, v).

    **Fields:** `curve`: a function of the inputs and the parameters; `inputs`: the columns that it reads, the predictor
    last; `names` of the parameters; `unit`: of the predictor, by which its column is divided.
    """

    curve: Callable[..., Any]
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    unit: float = 1.0

    def __call__(self, phi: Record, x: Record, v: Record) -> Any:
        """The predictions (obs,). **Arguments:** `phi`, `x`, `v` of one group."""
        columns = [v[name] if name not in x.names and name in v.names else x[name] for name in self.inputs]
        if self.unit != 1.0:
            columns[-1] = columns[-1] / self.unit
        return self.curve(*columns, *(phi[name] for name in self.names))

    @property
    def __name__(self) -> str:
        per_unit = "" if self.unit == 1.0 else f" / {self.unit:g}"
        return f"{self.curve.__name__}({', '.join(self.inputs)}{per_unit})"


def declare(
    curve: Callable[..., Any],
    part: AbstractLinearPart,
    names: tuple[str, ...],
    inputs: tuple[str, ...],
    data: GroupedData | None,
    options: Options,
    unit: float | None = 1.0,
) -> NLMEModel:
    """The model of a curve.

    **Arguments:** `curve`: of the inputs and the parameters; `part`: the same for least squares; `names` of the
    parameters; `inputs`: columns of the data, the predictor last; `data`, None where all starts are given; `options`;
    `unit` of the predictor, None: chosen by `unit_of_predictor`, for curves with a factor for one unit.
    **Returns:** an NLMEModel.
    **Raises:** OptionError for unknown options and names; DataError where the data do not determine the curve.
    """
    title = f"jn.models.{curve.__name__}"
    chosen = cast("dict[str, Any]", options)
    for option in chosen:
        if option not in Options.__annotations__:
            near = near_matches(option, ["data", *Options.__annotations__])
            raise OptionError(f"{title} has no option {option!r}; {near}")
    for name in inputs:
        if not isinstance(name, str):
            raise OptionError(f"{title} takes names of columns, such as x='time'; received {shown(name)}.")
    by_name = {option: by_parameter(title, option, chosen.get(option), names)
               for option in ("starts", "covariates", "transforms", "sd")}  # fmt: skip
    given = {name: start_value(title, name, value) for name, value in by_name["starts"].items()}
    if data is not None:
        check_grouped_data(data)
    levels = () if data is None else data.level_names
    random = random_by_parameter(title, chosen.get("random", ()), names, levels)
    fix = chosen_parameters(title, "fix", chosen.get("fix", ()), names)
    unit, starts = _starts(title, curve, part, names, inputs, data, given, unit)
    parameters = [
        Parameter(
            name,
            starts[name],
            by_name["transforms"].get(name, "identity"),
            random.get(name, False),
            by_name["covariates"].get(name, ()),
            name in fix,
            by_name["sd"].get(name),
        )
        for name in names
    ]
    of_model = {option: chosen[option] for option in _OF_THE_MODEL if option in chosen}
    return NLMEModel(CurveOfColumns(curve, inputs, names, unit), parameters, **of_model)


def _starts(
    title: str,
    curve: Callable[..., Any],
    part: AbstractLinearPart,
    names: tuple[str, ...],
    inputs: tuple[str, ...],
    data: GroupedData | None,
    given: dict[str, float],
    unit: float | None,
) -> tuple[float, dict[str, float]]:
    """The unit of the predictor (1 where it is None and no factor is estimated), and starting values by name: the
    `given` ones, the others by least squares on the pooled `data`."""
    missing = [name for name in names if name not in given]
    if not missing:
        return unit or 1.0, given
    if data is None:
        listed = ", ".join(f"{name!r}: ..." for name in missing)
        raise OptionError(
            f"{title} needs starting values for {some(missing)}: give data=, from which they are estimated, or "
            f"starts={{{listed}}}."
        )
    rows = _pooled(title, data, inputs)
    if unit is None:
        unit = 1.0 if part.factor in given else unit_of_predictor(part, names, rows, title)
    rows = dataclasses.replace(rows, x=rows.x / unit)
    found = pooled_parameters(part, names, rows, title)
    return unit, improved_parameters(curve, found, given, rows) if given else found


def unit_of_predictor(part: AbstractLinearPart, names: Sequence[str], rows: PooledRows, title: str) -> float:
    """The unit of x for a curve with a factor for one unit of x: 1, or where that factor would be too close to 0 or 1
    to be estimated (`StartSettings.factor_logs`) the power of ten for which its logarithm is nearest to one.

    **Arguments:** `part`: the curve; `names` of its parameters; `rows`; `title` of the model, for messages.
    **Raises:** DataError where the rows do not determine the curve.
    """
    scale = float(np.abs(rows.x).max()) or 1.0
    scaled = dataclasses.replace(rows, x=rows.x / scale)
    rate = abs(np.log(pooled_parameters(part, names, scaled, title)[part.factor])) / scale
    low, high = STARTS.factor_logs
    return 1.0 if low <= rate <= high or not rate > 0 else float(10.0 ** -np.round(np.log10(rate)))


def _pooled(title: str, data: GroupedData, inputs: tuple[str, ...]) -> PooledRows:
    """The observed rows of groups with a weight."""
    use = data.observed & (data.weights > 0)[:, None]
    columns = []
    for position, name in enumerate(inputs):
        is_predictor = position == len(inputs) - 1
        if name in data.x:
            columns.append(data.x[name][use])
        elif name in data.v and not is_predictor:
            columns.append(np.broadcast_to(data.v[name][:, None], use.shape)[use])
        elif name in data.v:
            raise ModelError(
                f"{title}: column {name!r} is constant in each group (it is in v), so that no group has a curve; list "
                "it in x=[...] of GroupedData.from_frame."
            )
        else:
            where = [*data.x] if is_predictor else [*data.x, *data.v]
            raise ModelError(f"{title}: the data have no column of numbers {name!r}; {near_matches(name, where)}")
    if not use.any():
        raise ModelError(f"{title}: the data have no observed response to estimate starting values from; give starts=.")
    weights = np.broadcast_to(data.weights[:, None], use.shape)[use]
    dose = columns[0] if len(columns) == 2 else None
    return PooledRows(columns[-1], data.y[use], weights, dose, inputs[-1], data.y_name, data.row_index[use] + 1)
