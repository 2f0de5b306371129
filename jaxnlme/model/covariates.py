"""Covariate formulas: columns of a design from the columns of the data, by the package formulaic."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError, near_matches, some
from jaxnlme.model.design import per_group_where_constant
from jaxnlme.model.parameters import Covariate

_ARITHMETIC = (
    "In formulas *, :, + and - combine terms: write arithmetic in braces, {Wt / 70}, or inside a function, "
    "log(Wt / 70)."
)
# Exceptions that parsing or computing a user's formula can raise, besides those of formulaic.
_FORMULA_ERRORS = (ArithmeticError, AttributeError, LookupError, NameError, SyntaxError, TypeError, ValueError)


class CovariateColumns:
    """Design columns of the covariates of one parameter, for one data set and, with the same coding, for others.

    **Arguments:** `parameter`: its name; `covariates`: its terms; `data`: the data that determine factor levels,
    centres and scales.
    **Fields:** `names`: of the columns, as formulaic writes them ("log(Wt / 70)", "Sex[T.M]"); `owners`: for each
    column the index of its covariate; `spec`: the fitted formula; `levels`: those of categorical columns in their
    declared order, the first being the reference; `source_columns`: the columns of the data that the formulas use.
    **Raises:** ModelError where the formulas cannot be computed, or two covariates have a term in common.
    """

    def __init__(self, parameter: str, covariates: Sequence[Covariate], data: GroupedData):
        self.parameter = parameter
        self.formula = "1 + " + " + ".join(f"({c.formula})" for c in covariates)
        available = [*data.x, *data.v, *data.text]
        self.source_columns = [
            name for name in available if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.(])", self.formula)
        ]
        self.available = available
        self.group_names = data.level_names
        self.per_group = all(
            name in data.v or (name in data.text and data.text[name].ndim == 1) for name in self.source_columns
        )
        self.levels = {name: _present(data, name) for name in self.source_columns if name in data.levels}
        self.known_levels = {name: _values(data, name) for name in self._categorical(data)}
        self.spec: Any = None
        self.spec = self._matrix(None, data).model_spec
        owners = self._owners(covariates)
        self.keep = [k for k, name in enumerate(self.spec.column_names) if name != "Intercept"]
        names = [str(self.spec.column_names[k]) for k in self.keep]
        # The table holds numbers as floats: the level 2022 of C(year) is 2022.0 to formulaic.
        numbers = [levels for name, levels in self.known_levels.items() if name not in data.text]
        if numbers and all(float(level).is_integer() for levels in numbers for level in levels):
            names = [re.sub(r"\[(T\.)?(-?\d+)\.0\]", r"[\1\2]", name) for name in names]
        self.names = names
        self.owners = [owners[k] for k in self.keep]

    def columns(self, data: GroupedData) -> list[np.ndarray]:
        """The design columns for `data`, each (groups,) where constant in every group, (groups, obs) otherwise.

        **Raises:** ModelError where a covariate is not finite, or has a level that the first data set does not have.
        """
        self._check_levels(data)
        matrix = np.asarray(self._matrix(self.spec, data), float)[:, self.keep]
        out = []
        for k, name in enumerate(self.names):
            if self.per_group:
                column = matrix[:, k]
                unit = "group"
                labels: Any = data.labels
            else:
                column = matrix[:, k].reshape(data.rows.shape)
                unit = "row"
                labels = data.row_index + 1
            bad = ~np.isfinite(column)
            if bad.any():
                raise ModelError(
                    f"parameter {self.parameter!r}: covariate {name!r} is not finite in {unit} "
                    f"{np.asarray(labels)[bad].flat[0]}; check the column and the formula (log of zero?)."
                )
            out.append(per_group_where_constant(column))
        return out

    def _categorical(self, data: GroupedData) -> list[str]:
        """The source columns that are categories: text, and C(name) in a formula."""
        return [
            name
            for name in self.source_columns
            if name in data.text or re.search(rf"(?<![\w.])C\(\s*{re.escape(name)}\s*[,)]", self.formula)
        ]

    def _check_levels(self, data: GroupedData) -> None:
        """**Raises:** ModelError for a level that the first data set does not have."""
        for name, known in self.known_levels.items():
            new = [level for level in _values(data, name) if level not in known]
            if new:
                raise ModelError(
                    f"parameter {self.parameter!r}: column {name!r} has {'levels' if len(new) > 1 else 'the level'} "
                    f"{some(_words(new))}, which the fitted data lacked, so that there is no coefficient for it; "
                    f"known levels: {', '.join(_words(known))}."
                )

    def _owners(self, covariates: Sequence[Covariate]) -> dict[int, int]:
        """For each column of the design matrix except the intercept the index of the covariate with its term."""
        terms_of = [self._terms(c.formula) for c in covariates]
        owners: dict[int, int] = {}
        for term, columns in self.spec.term_slices.items():
            if term == "1":
                continue
            holders = [k for k, terms in enumerate(terms_of) if term in terms]
            if len(holders) > 1:
                both = " and ".join(repr(covariates[k].formula) for k in holders)
                raise ModelError(
                    f"parameter {self.parameter!r}: the covariates {both} both hold the term {str(term)!r}; name each "
                    "term once."
                )
            if not holders:
                raise ModelError(
                    f"parameter {self.parameter!r}: the term {str(term)!r} of {self.formula[4:]!r} is in none of the "
                    "covariates by itself, so it has no starting value; write one formula with all terms."
                )
            owners.update(dict.fromkeys(range(columns.start, columns.stop), holders[0]))
        return owners

    def _terms(self, formula: str) -> set[Any]:
        from formulaic.errors import FormulaicError

        try:
            return set(_formula(formula))
        except FormulaicError as error:
            raise ModelError(
                f"parameter {self.parameter!r}: the covariate {formula!r} is not a formula: {_first_line(error)}. "
                f"{_ARITHMETIC}"
            ) from error

    def _matrix(self, source: Any, data: GroupedData) -> Any:
        import pandas as pd
        from formulaic.errors import DataMismatchWarning, FormulaicError

        frame = {}
        for name in self.source_columns:
            column = np.asarray(data.x[name] if name in data.x else data.v[name] if name in data.v else data.text[name])
            if self.per_group:
                frame[name] = column
            else:
                frame[name] = (column if column.ndim == 2 else np.repeat(column[:, None], data.y.shape[1], 1)).reshape(
                    -1
                )
            if name in self.levels:
                # New levels are appended, so that formulaic finds and refuses them.
                levels = self.levels[name]
                new = [level for level in pd.unique(frame[name]) if level is not None and level not in levels]
                frame[name] = pd.Categorical(frame[name], categories=[*levels, *new])
        table = pd.DataFrame(frame)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DataMismatchWarning)
                warnings.simplefilter("ignore", RuntimeWarning)  # log of zero: `columns` reports the row
                if source is None:
                    # Levels and statistics such as a centre are computed from real rows only; later tables include
                    # padding.
                    return _formula(self.formula).get_model_matrix(
                        table if self.per_group else table[data.rows.reshape(-1)], na_action="ignore"
                    )
                return source.get_model_matrix(table, na_action="ignore")
        except (FormulaicError, DataMismatchWarning, *_FORMULA_ERRORS) as error:
            if re.search(r"(?<![\w.])(as\.)?factor\(", self.formula):
                raise ModelError(
                    f"parameter {self.parameter!r}: the covariates {self.formula[4:]!r} use factor(), which is R's: "
                    "write C(column), or use a column of text, which is categorical by itself."
                ) from error
            reason = _first_line(error)
            unknown = re.search(r"name '(\w+)' is not defined", reason)
            if unknown is not None:
                name = unknown[1]
                hint = "the natural logarithm is log" if name == "ln" else near_matches(name, self.available)
                if name in self.group_names:
                    hint = "it holds labels of groups: list a copy of it under another name in x or v"
                reason = f"{name!r} is no column or function; {hint.rstrip('.')}"
            elif "perator" in reason:
                reason = f"{reason}. {_ARITHMETIC}"
            reason = reason if reason[-1] in ".?" else f"{reason}."
            raise ModelError(
                f"parameter {self.parameter!r}: the covariates {self.formula[4:]!r} cannot be computed: {reason} "
                f"Columns of the data that formulas may use (listed in v, one value a group, or in x, one a row): "
                f"{', '.join(self.available) or 'none'}."
            ) from error


def _present(data: GroupedData, name: str) -> list[Any]:
    """The levels of the categorical column `name` that occur in real rows, in their declared order."""
    column = data.text.get(name, data.x.get(name, data.v.get(name)))
    cells = np.asarray(column)
    present = set((cells if cells.ndim == 1 else cells[data.rows]).tolist())
    return [level for level in data.levels[name] if level in present]


def _values(data: GroupedData, name: str) -> list[Any]:
    """The different values of column `name` in real rows, missing ones left out, in order where they have one."""
    column = np.asarray(data.x[name] if name in data.x else data.v[name] if name in data.v else data.text[name])
    cells = column if column.ndim == 1 else column[data.rows]
    values = {value for value in cells.tolist() if value is not None and value == value}
    return sorted(values, key=lambda value: (str(type(value)), value))


def _words(levels: Sequence[Any]) -> list[str]:
    """Levels as text, whole numbers without a decimal point."""
    return [f"{level:g}" if isinstance(level, float) else repr(level) for level in levels]


def _formula(text: str) -> Any:
    """The parsed formula; formulaic is imported only if a model has one."""
    from formulaic import Formula

    return Formula(text)  # pyright: ignore[reportAbstractUsage]


def _first_line(error: Exception) -> str:
    """The first line of the message of formulaic's `error`, without marks for colours."""
    text = re.sub(r"\x1b\[[0-9;]*m|[⧛⧚]", "", str(error)).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
