"""Inputs of the user's functions of parameters: records of values, and rows of covariates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import DataError, ModelError, OptionError, shown, some
from jaxnlme.model.density import Group
from jaxnlme.model.individual_parameters import FunctionIndividual
from jaxnlme.model.levels import LevelRecord
from jaxnlme.model.params import Params
from jaxnlme.records import Record

if TYPE_CHECKING:
    import pandas as pd


class Values(Record):
    """Values of the parameters on the user's scale, by the names of `fit.values`, traced: typical values on their
    natural scale, covariate coefficients, standard deviations and correlations of the random effects, error parameters.

    **Fields:** beside those of Record, `covariance` (random, random), which is read as `psi`, and `typical`, a function
    that gives the record read as `phi`: the parameters of the structural model without random effects, at covariates.
    A parameter that is itself called psi or phi is read in its place.
    """

    covariance: Any = None
    typical: Callable[[], Record] | None = None

    def __getattr__(self, name: str) -> Any:
        if name in ("psi", "phi") and name not in self.names:
            return self[name]
        return super().__getattr__(name)

    def __getitem__(self, key: int | slice | str) -> Any:
        if key == "psi" and "psi" not in self.names:
            return self.covariance
        if key == "phi" and "phi" not in self.names and self.typical is not None:
            return self.typical()
        return super().__getitem__(key)


class TypicalParameters(Record):
    """Parameters of the structural model without random effects, which belong to no unit of a nested level."""

    def on(self, axis: Any) -> Record:
        """**Raises:** OptionError: there are no units."""
        raise OptionError(
            "phi.on(...) in a derived value: p.phi is without random effects, at one row of covariates, the same for "
            "all units of a level. Read p.phi itself; parameters by unit are fit.parameters(level)."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class CovariateRows:
    """The rows of `at`.

    **Fields:** `frame`: the table; `x`: its numeric columns, a record of arrays (rows,); `covariates`: columns of the
    model's design, each (rows,); `refusal`: the sentence on why there are none (empty where there are).
    """

    frame: pd.DataFrame
    x: Record
    covariates: tuple[np.ndarray, ...]
    refusal: str = ""


def values_at(binding: Binding, params: Params, covariates: tuple[Any, ...], v: Record, refusal: str) -> Values:
    """The Values at `params` (traced).

    **Arguments:** `covariates`, `v`: columns of the design and predictors of one group, for phi; `refusal`: sentence of
    the OptionError that reading phi raises, empty where phi can be computed.
    """
    density = binding.density
    reported = density.reported(params)
    values = [reported[k] for k in range(len(density.reported_names))]
    for k, transform in enumerate(binding.transforms):
        if transform is not None:
            values[k] = transform.to_natural(values[k])
    n = density.covariance.size

    def typical() -> Record:
        if refusal:
            raise OptionError(refusal)
        group = Group(None, None, v, covariates, None, None)  # pyright: ignore[reportArgumentType]
        phi = density.individual.phi(params.beta, jnp.zeros((n,), params.beta.dtype), group, params.free)
        return TypicalParameters(phi.names, phi.values, phi.entry_kind) if isinstance(phi, LevelRecord) else phi

    psi = density.covariance.psi(params.covariance) if n else jnp.zeros((0, 0), params.beta.dtype)
    return Values(density.reported_names, tuple(values), "value", covariance=psi, typical=typical)


def phi_refusal(binding: Binding) -> str:
    """The sentence on why phi cannot be computed without a table of covariates; empty where it can."""
    needed = _formula_columns(binding)
    if needed:
        return f"p.phi depends on covariates: give at=, a table with {some(needed)}, one row for each derived value."
    if isinstance(binding.density.individual, FunctionIndividual) and binding.data.v:
        return (
            "p.phi is computed by the model's individual function, which reads group-level predictors: give at=, a "
            f"table with {some([*binding.data.v])}, one row for each derived value."
        )
    return _design_refusal(binding)


def _design_refusal(binding: Binding) -> str:
    designs = {"fixed_design": binding.model.fixed_design, "random_design": binding.model.random_design}
    varying = [name for name, design in designs.items() if np.ndim(design) > 2]
    if not varying:
        return ""
    return (
        f"p.phi is not defined: {' and '.join(varying)} has an entry for each group of the fitted table. Write the "
        "derived value in terms of the fixed effects, p[...]."
    )


def _formula_columns(binding: Binding) -> list[str]:
    """The columns of the data that the covariate formulas read."""
    return list(dict.fromkeys(name for columns in binding.covariates.values() for name in columns.source_columns))


# --- rows of covariates ---


def covariate_rows(binding: Binding, at: Any) -> CovariateRows:
    """The rows of `at`, a data frame, or a dictionary of columns or single values.

    **Raises:** OptionError where it is none; DataError for columns that cannot be used; ModelError for a level of a
    factor that the fitted data lack.
    """
    frame = _as_frame(at)
    fitted = binding.data
    names = [str(name) for name in frame.columns if name not in (fitted.y_name,)]
    columns = {name: _as_fitted(name in fitted.text, frame[name]) for name in names}
    in_v = [name for name in names if name in fitted.v or (name in fitted.text and fitted.text[name].ndim == 1)]
    in_x = [name for name in names if name not in in_v]
    label = "row of at"
    try:
        data = GroupedData.from_frame(
            {**columns, label: np.arange(1, len(frame) + 1)}, label, "response", in_x, in_v, need_response=False
        )
    except DataError as error:
        raise DataError(f"at: {error}") from error
    numeric = {name: np.asarray(data.x[name][:, 0] if name in data.x else data.v[name]) for name in names
               if name in data.x or name in data.v}  # fmt: skip
    text = tuple(name for name in names if name not in numeric)
    x = Record(tuple(numeric), tuple(numeric.values()), "column of at", text_columns=text)
    refusal = _design_refusal(binding)
    missing = [name for name in _formula_columns(binding) if name not in names]
    if missing:
        refusal = f"p.phi depends on {some([repr(name) for name in missing])}, which `at` lacks: add a column of it."
    if refusal:
        return CovariateRows(frame, x, (), refusal)
    covariates: list[np.ndarray] = []
    for parameter, formulas in binding.covariates.items():
        for name in formulas.source_columns:
            if (name in fitted.text) != (name in text):
                kinds = ("text", "numbers") if name in text else ("numbers", "text")
                raise DataError(
                    f"at: column {name!r}, a covariate of {parameter!r}, holds {kinds[0]}; the fitted data have "
                    f"{kinds[1]}."
                )
        try:
            covariates += [np.asarray(column, float).reshape(len(frame)) for column in formulas.columns(data)]
        except ModelError as error:
            raise ModelError(f"at: {error}") from error
    return CovariateRows(frame, x, tuple(covariates))


def _as_fitted(is_text: bool, column: pd.Series) -> Any:
    """A column of `at` as categories where the fitted data have text or categories in it: a category may be a number,
    which is read as a number without them."""
    import pandas as pd

    return pd.Series(pd.Categorical(column)) if is_text and pd.api.types.is_numeric_dtype(column) else column


def _as_frame(at: Any) -> pd.DataFrame:
    """`at` as a data frame. **Raises:** OptionError for what is no table, has no rows, or repeats a column name."""
    import pandas as pd

    if isinstance(at, Mapping):
        sizes = {name: np.shape(values) for name, values in at.items()}
        wrong = {name: shape for name, shape in sizes.items() if len(shape) > 1}
        lengths = {shape[0] for shape in sizes.values() if len(shape) == 1}
        if wrong or len(lengths) > 1:
            listed = some([f"{name!r} {sizes[name]}" for name in (wrong or at)])
            raise OptionError(f"at: expected columns of one length, or single values; received shapes {listed}.")
        n = lengths.pop() if lengths else 1
        columns = {name: values if len(sizes[name]) else [values] * n for name, values in at.items()}
        frame = pd.DataFrame(columns)
    elif isinstance(at, pd.DataFrame):
        frame = at
    elif hasattr(at, "columns") and hasattr(at, "get_column"):
        frame = pd.DataFrame({name: at[name].to_list() for name in at.columns})
    else:
        raise OptionError(
            f"at must be a data frame, or a dictionary of columns such as {{'Wt': [50, 70, 90]}}; received {shown(at)}."
        )
    repeated = sorted({str(name) for name in frame.columns if list(frame.columns).count(name) > 1})
    if repeated:
        raise OptionError(f"at has several columns called {some(repeated)}; rename or drop the others.")
    if not len(frame) or not len(frame.columns):
        raise OptionError("at has no rows or no columns; give one row for each derived value.")
    return frame
