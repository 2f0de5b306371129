"""Formulas computed on a table: sums of numeric columns directly, all others by formulaic."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxnlme.errors import DataError, OptionError, some
from jaxnlme.formulas.spelling import context_of, translated

# Exceptions that parsing or computing a formula can raise, besides those of formulaic.
_FORMULA_ERRORS = (ArithmeticError, AttributeError, LookupError, NameError, SyntaxError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A formula computed on a table.

    **Fields:** `formula`; `matrix` (rows, columns); `names`; `terms`: label and columns of each; `intercept` and
    `plain`: of a sum of numeric columns, `plain` None for others; `spec`: formulaic's record of categories and the
    like; `context`: functions and values of the caller.
    """

    formula: str
    matrix: np.ndarray
    names: tuple[str, ...]
    terms: tuple[tuple[str, slice], ...]
    plain: tuple[str, ...] | None
    intercept: bool
    spec: Any
    context: Mapping[str, Any] | None


def evaluate(
    formula: str,
    table: pd.DataFrame,
    plain: Sequence[str] | None,
    context: Mapping[str, Any] | None,
    role: str = "",
) -> Evaluated:
    """A right-hand side that begins with its intercept, computed on a table.

    **Arguments:** `plain`: the columns, where the formula is a sum of numeric columns; None otherwise; `role`: for
    messages, in the place of the formula.
    **Raises:** OptionError where it cannot be computed, DataError for a factor with one category.
    """
    intercept = formula.startswith("1")
    if plain is not None and all(name in table.columns for name in plain):
        names = ("(Intercept)",) * intercept + tuple(plain)
        terms = tuple((name, slice(k, k + 1)) for k, name in enumerate(names))
        return Evaluated(
            formula, _sum_matrix(table, plain, intercept), names, terms, tuple(plain), intercept, None, None
        )
    _check_degrees(formula, table)
    matrix, spec = _computed(formula, table, None, context, role)
    _check_factors(spec, formula)
    slices = {as_written(str(term), table): columns for term, columns in spec.term_slices.items()}
    names = [as_written(str(name), table) for name in spec.column_names]
    if "1" in slices:
        names[slices["1"].start] = "(Intercept)"
    terms = tuple(("(Intercept)" if label == "1" else label, columns) for label, columns in slices.items())
    names = tuple(names)
    return Evaluated(formula, matrix, names, terms, None, intercept, spec, context)


def matrix_of(evaluated: Evaluated, table: pd.DataFrame) -> np.ndarray:
    """The columns of an evaluated formula for another table. **Raises:** DataError for unknown categories,
    OptionError where the formula cannot be computed."""
    if evaluated.plain is not None:
        return _sum_matrix(table, evaluated.plain, evaluated.intercept)
    return _computed(evaluated.formula, table, evaluated.spec, evaluated.context)[0]


def _sum_matrix(table: pd.DataFrame, columns: Sequence[str], intercept: bool) -> np.ndarray:
    """The matrix of an intercept and numeric columns, one column after the other in memory, as they are used."""
    matrix = np.empty((len(table), intercept + len(columns)), order="F")
    if intercept:
        matrix[:, 0] = 1.0
    for k, name in enumerate(columns, int(intercept)):
        matrix[:, k] = table[name].to_numpy()
    return matrix


def _computed(
    formula: str, table: pd.DataFrame, spec: Any, context: Mapping[str, Any] | None, role: str = ""
) -> tuple[Any, Any]:
    """formulaic's matrix (float64, C order) and record of a formula, or of the record `spec` of other data."""
    from formulaic import Formula
    from formulaic.errors import DataMismatchWarning, FormulaicError

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # log of zero: the rows are named later
            warnings.simplefilter("error", DataMismatchWarning)
            if spec is None:
                source: Any = Formula(translated(formula, list(table.columns), context))  # pyright: ignore
            else:
                source = spec
            options: dict[str, Any] = {"context": context_of(context), "na_action": "ignore"}
            found = source.get_model_matrix(table, output="numpy", **options)
    except OptionError:
        raise
    except DataMismatchWarning as warning:
        new = re.search(r"\{(.*)\}", str(warning))
        listed = re.sub(r"np\.\w+\(([^)]*)\)", r"\1", new[1]) if new else "unknown ones"
        raise DataError(
            f"formula {formula!r}: the table has categories that the data of the fit lacked ({listed}), so that there "
            "is no coefficient for them; drop these rows."
        ) from warning
    except (FormulaicError, *_FORMULA_ERRORS) as error:
        reason = _reason(error, combines=not role)
        raise OptionError(f"{role or f'formula {formula!r}'} cannot be computed: {reason}") from error
    return np.ascontiguousarray(found, np.float64).view(np.ndarray), found.model_spec


def as_written(text: str, table: pd.DataFrame) -> str:
    """A name of formulaic without the backticks that `translated` gave to names with dots; whole numbers among the
    categories of factor(x) without a decimal point."""
    text = re.sub(r"\[([A-Z]\.)?(-?\d+)\.0\]", r"[\1\2]", text)
    for column in table.columns:
        if "." in column and "`" in text and re.fullmatch(r"[\w.]+", column):
            text = text.replace(f"`{column}`", column)
    return text


def _check_factors(spec: Any, formula: str) -> None:
    """**Raises:** DataError for a factor with one category."""
    for factor, (kind, state) in spec.encoder_state.items():
        categories = list(state.get("categories", ())) if isinstance(state, dict) else []
        if kind.value == "categorical" and len(categories) == 1:
            raise DataError(
                f"formula {formula!r}: {factor} has the single category {some([repr(categories[0])])}; a factor needs "
                "two: leave it out."
            )


def _check_degrees(formula: str, table: pd.DataFrame) -> None:
    """**Raises:** DataError for a polynomial of a column with too few values (formulaic returns rounding errors)."""
    for name, degree in re.findall(r"\bpoly\(\s*`?([\w. ]+?)`?\s*,\s*(?:degree\s*=\s*)?(\d+)", formula):
        values = table[name].nunique() if name in table.columns else None
        if values is not None and int(degree) >= values:
            raise DataError(
                f"formula {formula!r}: a polynomial of degree {degree} needs more than {degree} different values, and "
                f"{name!r} has {values}; choose a lower degree."
            )


def _reason(error: Exception, combines: bool) -> str:
    """The message of formulaic's `error`, without marks for colours; `combines`: operators combine terms."""
    text = re.sub(r"\x1b\[[0-9;]*m|[⧛⧚](?:\[[0-9;]*m)?", "", str(error)).strip()
    first = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    name = re.search(r"name '(\w+)' is not defined", first)
    if name is not None:
        return f"{name[1]!r} is no column, function or value; pass it in context={{...}}."
    if combines and (isinstance(error, SyntaxError) or "perator" in first or "literal" in first):
        first += ". In formulas *, :, + and - combine terms: write arithmetic inside I(), as in I(Wt / 70)"
    return f"{first}."
