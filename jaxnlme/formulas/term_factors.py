"""The factors of the terms of a design matrix: which are categorical, by which columns, and which are numeric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.formulas.design import DesignMatrix
from jaxnlme.formulas.evaluation import as_written
from jaxnlme.formulas.frames import as_table
from jaxnlme.formulas.mixed import used_columns


@dataclasses.dataclass(frozen=True)
class TermFactors:
    """The factors of a term: `label`; `columns` of the matrix; `categorical`: the columns of the data that are its
    categorical factors; `numeric`: its numeric factors as written."""

    label: str
    columns: slice
    categorical: frozenset[str]
    numeric: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Predictors:
    """The columns of the data behind a design matrix.

    **Fields:** `levels`: the categories of each categorical column, those of `factor(x)` and `C(x)` included;
    `numeric`: the columns that are used as numbers; `terms`.
    """

    levels: Mapping[str, tuple[Any, ...]]
    numeric: tuple[str, ...]
    terms: tuple[TermFactors, ...]


def predictors(design: DesignMatrix, frame: Any) -> Predictors:
    """The Predictors of a design matrix and the table that it was made from.

    **Raises:** OptionError for a column that enters both as categories and as numbers, and for categories computed from
    several columns.
    """
    table = as_table(frame, design._columns, f"formula {design.formula!r}")
    levels: dict[str, tuple[Any, ...]] = {name: tuple(values) for name, values in design._levels.items()}
    spec = design._evaluated.spec
    if spec is None:
        terms = tuple(
            TermFactors(label, columns, frozenset(), frozenset(() if label == "(Intercept)" else (label,)))
            for label, columns in design.terms
        )
        return Predictors(levels, design._columns, terms)
    column_of: dict[str, str] = {}
    numeric_columns: list[str] = []
    for expression, (kind, state) in spec.encoder_state.items():
        used = [name for name in used_columns(expression) if name in design._columns]
        if kind.value != "categorical":
            numeric_columns += used
            continue
        categories = state.get("categories", ())
        if len(used) != 1 or len(categories) != (known := _distinct(table, used[0], levels)):
            reason = "several columns" if len(used) != 1 else f"{known} values of the column {used[0]!r}"
            raise OptionError(
                f"{expression} has categories that are computed from {reason}; put them in a column of the table, and "
                "that column in the formula."
            )
        column_of[expression] = used[0]
        levels.setdefault(used[0], tuple(np.unique(table[used[0]].to_numpy()).tolist()))
    both = [name for name in dict.fromkeys(numeric_columns) if name in levels]
    if both:
        raise OptionError(
            f"column {both[0]!r} enters {design.formula!r} both as categories and as numbers; give the categories a "
            "column of their own."
        )
    by_label: dict[str, Any] = {}
    for part in spec.structure:
        label = as_written(str(part.term), table)
        by_label["(Intercept)" if label == "1" else label] = part.term
    terms = []
    for label, columns in design.terms:
        expressions = [factor.expr for factor in by_label[label].factors if factor.expr in spec.encoder_state]
        categorical = frozenset(column_of[e] for e in expressions if e in column_of)
        terms.append(TermFactors(label, columns, categorical, frozenset(e for e in expressions if e not in column_of)))
    return Predictors(levels, tuple(dict.fromkeys(numeric_columns)), tuple(terms))


def _distinct(table: Any, name: str, levels: Mapping[str, tuple[Any, ...]]) -> int:
    """The number of different values of a column."""
    return len(levels[name]) if name in levels else len(np.unique(table[name].to_numpy()))
