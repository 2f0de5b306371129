"""Checks and notes that linear models and generalised linear ones share when they read a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import DataError, ModelError, some
from jaxnlme.formulas.design import DesignMatrix, design_matrix
from jaxnlme.formulas.frames import complete_rows
from jaxnlme.formulas.mixed import RandomTerm


def usable_rows(frame: Any, of_response: Sequence[str], columns: Sequence[str], missing: str) -> np.ndarray:
    """A mask (rows,) of the complete rows of a table.

    **Arguments:** `of_response`: the columns of the response, rows without which are left out; `columns`: all columns;
    `missing`: "error" refuses rows with a response that lack a covariate, "drop" leaves them out.
    **Raises:** DataError naming columns and the first row; where no row is complete.
    """
    complete = complete_rows(frame, columns)
    if complete.all() and complete.size:
        return complete
    observed = complete_rows(frame, of_response)
    bad = observed & ~complete
    if missing == "error" and bad.any():
        covariates = [name for name in columns if name not in of_response]
        incomplete = [name for name in covariates if (observed & ~complete_rows(frame, [name])).any()]
        raise DataError(
            f"{some(incomplete)} {'is' if len(incomplete) == 1 else 'are'} missing in {int(bad.sum())} rows (first: "
            f"row {int(np.argmax(bad)) + 1}) that have a response: fill them in, or leave these rows out with "
            "missing='drop'."
        )
    if not complete.any():
        raise DataError("no row has values in all columns of the formula: check the columns for missing values.")
    return complete


def notes_on_rows(complete: np.ndarray) -> list[str]:
    """The sentence on rows that were left out, if there are any."""
    count = int((~complete).sum())
    return [f"{count} of {len(complete)} rows have missing values and were left out."] if count else []


def notes_on_columns(fixed: DesignMatrix) -> list[str]:
    """The sentence on columns of fixed effects that were left out, if there are any."""
    if not fixed.aliased:
        return []
    return [f"Left out of the fixed effects, because other columns determine them: {some(list(fixed.aliased))}."]


def effect_designs(terms: Sequence[RandomTerm], frame: Any) -> tuple[tuple[DesignMatrix, ...], list[str]]:
    """The DesignMatrix of each random term of a grouping factor, and the names of all effects.

    **Raises:** ModelError for an effect that is written twice.
    """
    designs = tuple(design_matrix(term.formula, frame) for term in terms)
    effects = [name for design in designs for name in design.names]
    if len(set(effects)) < len(effects):
        twice = [name for name in dict.fromkeys(effects) if effects.count(name) > 1]
        raise ModelError(
            f"the random effects {some(twice)} of {terms[0].label!r} occur twice in the formula; write each once."
        )
    return designs, effects
