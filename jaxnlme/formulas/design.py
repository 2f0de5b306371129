"""Design matrices of the right-hand side of a formula, for the rows they were made from and for new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxnlme.errors import DataError, OptionError, some
from jaxnlme.formulas.evaluation import Evaluated, evaluate, matrix_of
from jaxnlme.formulas.frames import as_table, row_count, rows_text
from jaxnlme.formulas.mixed import cbind_parts, used_columns
from jaxnlme.formulas.rank import independent_columns
from jaxnlme.formulas.spelling import translated
from jaxnlme.formulas.text import Term, formula_text, is_sign, refuse, terms_of, tokens_of, unquoted, with_intercept


@dataclasses.dataclass(frozen=True, eq=False)
class DesignMatrix:
    """The design matrix of a formula.

    **Fields:** `formula`; `matrix` (rows, columns): float64; `names`: of the columns, "(Intercept)" for the
    intercept; `terms`: of each term its label and the columns it takes; `aliased`: the names of columns that were left
    out because they depend linearly on columns before them. `_columns`: the columns of the data in use; `_levels`: the
    categories of those that are no numbers; `_kept`: the positions of the columns among all, None for all;
    `_evaluated`: how to compute them again.
    """

    formula: str
    matrix: np.ndarray
    names: tuple[str, ...]
    terms: tuple[tuple[str, slice], ...]
    aliased: tuple[str, ...]
    _columns: tuple[str, ...]
    _levels: Mapping[str, tuple[Any, ...]]
    _kept: np.ndarray | None
    _evaluated: Evaluated

    def for_frame(self, frame: Any) -> np.ndarray:
        """The same columns for other rows, with the categories, contrasts, centres, scales and knots recorded.

        **Arguments:** `frame`: a pandas or polars data frame, or a dictionary of arrays, with the columns in use.
        **Returns:** a matrix (rows, columns).
        **Raises:** DataError for missing columns, categories that the first data lacked, and values not finite.
        """
        table = as_table(frame, self._columns, f"formula {self.formula!r}")
        for name, levels in self._levels.items():
            _check_levels(table, name, levels)
            column: Any = table[name]
            categorical = isinstance(column.dtype, pd.CategoricalDtype)
            table[name] = (
                column.cat.set_categories(list(levels))
                if categorical
                else pd.Series(_coded(column, levels), index=table.index)
            )
        for name in self._columns:
            if name not in self._levels and isinstance(table[name].dtype, pd.CategoricalDtype):
                raise DataError(f"column {name!r} holds text; it held numbers in the data of the fit: convert it.")
        _check_missing(table, self.formula)
        matrix = matrix_of(self._evaluated, table)
        matrix = matrix if self._kept is None else np.ascontiguousarray(matrix[:, self._kept])
        _check_finite(matrix, self.names, table, self.formula)
        return matrix

    def extension(self, frame: Any) -> tuple[DesignMatrix, np.ndarray]:
        """The design with the columns that were left out because others determine them, and the matrix (columns, all
        columns) that computes all from the others in the rows of `frame`, the first data. A combination of rows is
        estimable where it computes them there, too."""
        full = dataclasses.replace(self, _kept=None, names=(*self.names, *self.aliased))
        return full, np.linalg.lstsq(self.matrix, full.for_frame(frame), rcond=None)[0]

    def not_estimable(self, first: Any, frame: Any) -> np.ndarray:
        """True (rows,) where columns that others determine in the data `first` are not in `frame` what these say."""
        if not self.aliased:
            return np.zeros(row_count(frame), bool)
        full, extension = self.extension(first)
        every = full.for_frame(frame)
        largest = np.abs(every).max(axis=1, initial=1.0)
        gap = np.abs(self.for_frame(frame) @ extension - every).max(axis=1)
        return gap > np.sqrt(np.finfo(float).eps) * largest


def design_matrix(
    formula: str, frame: Any, *, drop_aliased: bool = False, context: Mapping[str, Any] | None = None
) -> DesignMatrix:
    """The design matrix of a right-hand side in R's spelling.

    Text, categories, truth values and `factor(x)` have treatment contrasts, also ordered ones (`C(x, contr.poly)` has
    polynomials); of categories only those that occur count. `I(x^2)`, `poly`, `bs`, `scale`, `log`, `sqrt` and the
    like are computed as in R.

    **Arguments:** `formula`: "1 + Days", "x * Sex", "0 + poly(age, 2)"; `frame`: a pandas or polars data frame, or a
    dictionary of arrays; `drop_aliased`: leave out columns that depend linearly on columns before them, as R's lm does;
    `context`: further functions and values by name.
    **Raises:** OptionError where the formula cannot be read or computed; DataError for unknown columns, a factor with
    one category, and values that are missing or not finite, with their rows.
    """
    terms = terms_of(tokens_of(formula), formula)
    text = formula_text(terms, formula)
    for term in terms:
        if any(is_sign(token, "|", "||", "~") for token in term.tokens):
            refuse(formula, "expected one right-hand side, without ~ and bars; parse_mixed takes formulas apart.")
    columns = used_columns(text)
    table = as_table(frame, [name for name in columns if _in_table(name, frame, context)], f"formula {text!r}")
    levels = {
        name: tuple(table[name].cat.categories)
        for name in table.columns
        if isinstance(table[name].dtype, pd.CategoricalDtype)
    }
    _check_missing(table, text)
    plain = _plain_columns(terms, formula, levels)
    evaluated = evaluate(text, table, plain, context)
    matrix, names, slices = evaluated.matrix, evaluated.names, evaluated.terms
    _check_finite(matrix, names, table, text)
    kept, aliased = None, ()
    if drop_aliased:
        independent = independent_columns(matrix)
        if not independent.all():
            kept = np.flatnonzero(independent)
            aliased = tuple(name for name, keep in zip(names, independent, strict=True) if not keep)
            names = tuple(names[k] for k in kept)
            matrix = np.ascontiguousarray(matrix[:, kept])
            slices = _kept_slices(slices, independent)
    recipe = dataclasses.replace(evaluated, matrix=np.empty((0, len(evaluated.names))))
    return DesignMatrix(text, matrix, names, slices, aliased, tuple(table.columns), levels, kept, recipe)


def response(formula_lhs: str, frame: Any, context: Mapping[str, Any] | None = None) -> tuple[np.ndarray, str]:
    """The response that the left-hand side of a formula describes, arithmetic included: "y", "log(y)", "y / 100".

    **Arguments:** `formula_lhs`; `frame`: a pandas or polars data frame, or a dictionary of arrays; `context`: further
    functions and values by name.
    **Returns:** the values (rows,) float64, and the text of the left-hand side.
    **Raises:** OptionError where it cannot be computed, and for cbind(), whose parts are two responses; DataError for
    text, and for values that are missing or not finite.
    """
    tokens = [token for token in tokens_of(formula_lhs, "response") if token.kind != "space"]
    if cbind_parts(formula_lhs) is not None:
        raise OptionError(f"response {formula_lhs}: cbind() has several columns; a linear model takes one: y ~ x.")
    single = len(tokens) == 1 and tokens[0].kind in ("name", "quoted")
    name = unquoted(tokens[0]) if single else formula_lhs.strip()
    columns = [c for c in used_columns(formula_lhs) if _in_table(c, frame, context)]
    table = as_table(frame, columns, f"response {name!r}")
    for column in columns:
        dtype = table[column].dtype
        if isinstance(dtype, pd.CategoricalDtype):
            truth = set(dtype.categories) <= {True, False} and all(isinstance(c, bool) for c in dtype.categories)
            if not truth:
                shown = f" (such as {dtype.categories.tolist()[0]!r})" if len(dtype.categories) else ""
                raise DataError(
                    f"response {name!r}: column {column!r} holds text or categories{shown}; expected numbers: convert "
                    "the column."
                )
            table[column] = table[column].astype(float)
    if not columns:
        raise OptionError(f"response {name!r} uses no column; write the name of one before the ~.")
    if single:
        values = np.asarray(table[name].to_numpy(), np.float64)
    else:
        # One expression, computed like an argument of a function.
        expression = translated(f"I({formula_lhs.strip()})", list(table.columns), context)
        found = evaluate(f"0 + {expression}", table, None, context, f"response {name!r}")
        if found.matrix.shape[1] != 1:
            raise OptionError(f"response {name}: it has {found.matrix.shape[1]} columns; expected one.")
        values = found.matrix[:, 0]
    if not values.size:
        raise DataError("the table is empty (no rows); expected at least one row: check how it was read or filtered.")
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(
            f"response {name!r} is missing or not finite in {rows_text(bad, table.index)}; expected finite numbers: "
            "correct them or drop the rows (the log of zero is infinite)."
        )
    return values, name


def _in_table(name: str, frame: Any, context: Mapping[str, Any] | None) -> bool:
    """False for a name of `context` that is no column; unknown names count as columns, and are refused as such."""
    return context is None or name not in context or name in getattr(frame, "columns", frame)


def _plain_columns(terms: Sequence[Term], formula: str, levels: Mapping[str, Any]) -> list[str] | None:
    """The columns of a sum of numeric columns; None for other formulas, which formulaic computes."""
    names = []
    for term in with_intercept(terms, formula)[1]:
        token = term.tokens[0]
        if term.sign == "-" or len(term.tokens) > 1 or token.kind not in ("name", "quoted"):
            return None
        names.append(unquoted(token))
    return list(dict.fromkeys(names)) if not set(names) & set(levels) else None


def _coded(column: pd.Series, levels: Sequence[Any]) -> Any:
    """A column of numbers as categories, 1 and 0 also as True and False. Missing and unknown ones are missing."""
    number = {level: k for k, level in enumerate(levels)}
    codes = np.array([number.get(value, -1) for value in column.tolist()], np.intp)
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(levels)))


def _kept_slices(slices: Sequence[tuple[str, slice]], kept: np.ndarray) -> tuple[tuple[str, slice], ...]:
    """The columns of each term among the kept ones; terms without any are left out."""
    position = np.concatenate([[0], np.cumsum(kept)])
    moved = [(label, slice(int(position[s.start]), int(position[s.stop]))) for label, s in slices]
    return tuple((label, s) for label, s in moved if s.stop > s.start)


def _check_missing(table: pd.DataFrame, formula: str) -> None:
    """**Raises:** DataError for categories that are missing (missing numbers are found in the matrix)."""
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype) and (column.cat.codes.to_numpy() < 0).any():
            rows = rows_text(column.cat.codes.to_numpy() < 0, table.index)
            raise DataError(
                f"formula {formula!r}: column {name!r} is missing in {rows}; expected a category in every row: fill it "
                "in (a category 'unknown' will do) or drop the rows."
            )


def _check_levels(table: pd.DataFrame, name: str, known: Sequence[Any]) -> None:
    """**Raises:** DataError for categories that are not known."""
    column = table[name]
    categories = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else pd.unique(column.dropna())
    new = [level for level in categories if level not in known]
    if new:
        rows = rows_text(np.asarray(column.isin(new)), table.index)
        kinds = "categories" if len(new) > 1 else "category"
        raise DataError(
            f"column {name!r} has the {kinds} {some([repr(_plain(level)) for level in new])} in {rows}, which the "
            "data of the fit lacked, so that there is no coefficient for it; known: "
            f"{some([repr(_plain(level)) for level in known])}."
        )


def _plain(level: Any) -> Any:
    """A category as a Python value, for messages."""
    return level.item() if isinstance(level, np.generic) else level


def _check_finite(matrix: np.ndarray, names: Sequence[str], table: pd.DataFrame, formula: str) -> None:
    """**Raises:** DataError naming the column and rows of values that are missing or not finite."""
    with np.errstate(all="ignore"):
        if np.isfinite(matrix.sum()):
            return
        bad = ~np.isfinite(matrix)
    if bad.any():
        k = int(np.argmax(bad.any(axis=0)))
        raise DataError(
            f"formula {formula!r}: {names[k]!r} is missing or not finite in {rows_text(bad[:, k], table.index)}; "
            "expected finite numbers: correct the column, drop the rows, or change the formula (log of zero?)."
        )
