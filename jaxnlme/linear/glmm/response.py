"""Responses of generalised linear mixed models: what the left-hand side of a formula gives a family, checked by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, OptionError, shown, some
from jaxnlme.formulas.design import response
from jaxnlme.formulas.mixed import cbind_parts
from jaxnlme.formulas.text import called, is_sign, stripped, text_of, tokens_of, unquoted
from jaxnlme.linear.glmm.settings import GLMM

_CORRECT = "correct or drop the rows"


@dataclasses.dataclass(frozen=True)
class Response:
    """The response of a family.

    **Fields:** `name`: the left-hand side; `y` (rows,): successes, counts, numbers, or positions of categories;
    `trials` (rows,), None for one a row; `categories`: of an ordinal response in order, or the two of a binary one
    given as text, the second of which is success; empty for numbers.
    """

    name: str
    y: np.ndarray
    trials: np.ndarray | None = None
    categories: tuple[Any, ...] = ()


def proportions(response: Response) -> np.ndarray:
    """The response (rows,), of several trials the share of successes (NaN without trials)."""
    if response.trials is None:
        return response.y
    return np.where(response.trials > 0, response.y / np.maximum(response.trials, 1.0), np.nan)


def read_response(
    text: str, frame: pd.DataFrame, family: str, rows: np.ndarray, categories: Sequence[Any] = ()
) -> Response:
    """The Response of a left-hand side.

    **Arguments:** `text`: "y", "cbind(y, n - y)", "log(y)"; `frame`: complete rows; `rows`: their positions in the
    user's table; `categories`: those of the fit, for new data.
    **Raises:** DataError naming rows outside the range of the family; OptionError for a form that it does not take.
    """
    parts = cbind_parts(text)
    if parts is not None:
        return _counts_of_two(text, parts, frame, family, rows)
    column = _column(text, frame, family)
    if family == "ordinal" or (family in ("binomial", "bernoulli") and _is_categorical(column)):
        return _categorical(text, column, family, rows, categories)
    y, name = response(text, frame)
    if family in ("binomial", "bernoulli"):
        bad = (y != 0) & (y != 1)
        whole = np.abs(y - np.round(y)) <= GLMM.whole * np.maximum(np.abs(y), 1.0)
        remedy = (
            "for numbers of successes write cbind(successes, failures) ~ ..."
            if family == "binomial"
            else "for numbers of successes use family='binomial' with cbind(successes, failures) ~ ..."
        )
        if (bad & ~whole).any():
            remedy = "a proportion needs its number of trials: cbind(successes, failures) ~ ... with family='binomial'"
        _refuse(bad, rows, f"response {name!r}", f"neither 0 nor 1, which family {family!r} takes", y, remedy)
        return Response(name, y)
    if family == "gamma":
        _refuse(~(y > 0), rows, f"response {name!r}", "not positive, as family 'gamma' takes it", y, _CORRECT)
        return Response(name, y)
    return Response(name, _whole(y, rows, f"response {name!r}", family))


def _counts_of_two(text: str, parts: Sequence[str], frame: pd.DataFrame, family: str, rows: np.ndarray) -> Response:
    """The Response of cbind(successes, failures)."""
    if family != "binomial":
        raise OptionError(f"response {text}: cbind() goes with family='binomial'; received family={family!r}.")
    if len(parts) != 2:
        raise OptionError(f"response {text}: cbind() takes successes and failures; received {len(parts)} parts.")
    successes, failures = (response(part, frame)[0] for part in parts)
    successes = _whole(successes, rows, f"response {text}: the number of successes {parts[0]!r}", family)
    failures = _whole(
        failures, rows, f"response {text}: the number of failures {parts[1]!r}", family,
        " (more successes than trials)" if "-" in parts[1] else "",
    )  # fmt: skip
    return Response(text, successes, successes + failures)


def _whole(y: np.ndarray, rows: np.ndarray, what: str, family: str, why: str = "") -> np.ndarray:
    """Whole numbers >= 0, rounded. **Raises:** DataError naming the other rows."""
    nearest = np.round(y)
    _refuse(y < 0, rows, what, f"negative{why}, and family {family!r} takes counts", y, _CORRECT)
    fraction = np.abs(y - nearest) > GLMM.whole * np.maximum(np.abs(y), 1.0)
    remedy = "give counts, with an offset for the time or area they were counted in"
    remedy = remedy if family != "binomial" else "give counts of successes and failures"
    _refuse(fraction, rows, what, f"no whole number, and family {family!r} takes counts", y, remedy)
    return nearest


def _refuse(bad: np.ndarray, rows: np.ndarray, what: str, problem: str, y: np.ndarray, remedy: str) -> None:
    """**Raises:** DataError where any row is `bad`; `rows`: positions in the user's table."""
    if bad.any():
        first = float(y[np.argmax(bad)])
        raise DataError(f"{what}: the value {first:g} is {problem}, in {name_rows(rows[bad])}: {remedy}.")


def _column(text: str, frame: pd.DataFrame, family: str) -> Any:
    """The column that a left-hand side names, also within factor() or ordered(); None for an expression."""
    tokens = stripped(tokens_of(text, "response"))
    wrapped = called(tokens, 0) and tokens[0].text in ("factor", "ordered", "as.factor", "as.ordered")
    if wrapped and is_sign(tokens[-1], ")"):
        tokens = stripped(tokens[2:-1])
    if len(tokens) == 1 and tokens[0].kind in ("name", "quoted"):
        name = unquoted(tokens[0])
        if name not in frame:
            raise DataError(f"response {text!r}: no column is called {name!r}.")
        column = frame[name]
        return column.astype("category") if wrapped and not _is_categorical(column) else column
    if family == "ordinal":
        raise OptionError(
            f"response {text_of(tokens)!r}: family='ordinal' takes one column of ordered categories; expected a name."
        )
    return None


def _is_categorical(column: Any) -> bool:
    return column is not None and isinstance(column.dtype, pd.CategoricalDtype)


def _categorical(text: str, column: pd.Series, family: str, rows: np.ndarray, categories: Sequence[Any]) -> Response:
    """The Response of a column of categories, or for an ordinal outcome of numbers."""
    if _is_categorical(column):
        column = column.cat.remove_unused_categories()
        present = column.cat.categories.tolist()
    else:
        present = sorted(set(column.tolist()))
        present = [int(c) if isinstance(c, float) and c.is_integer() else c for c in present]
    if not categories:
        categories = present
        if family == "ordinal" and len(categories) < 2:
            raise DataError(f"response {text!r} has one category, {shown(present[0])}; expected two or more.")
        if family != "ordinal" and len(categories) != 2:
            raise DataError(
                f"response {text!r} has {len(categories)} categories ({some([repr(c) for c in present])}); family "
                f"{family!r} takes two, the second of which is success; for ordered ones use family='ordinal'."
            )
    known = {category: k for k, category in enumerate(categories)}
    codes = np.array([known.get(value, -1) for value in column.tolist()])
    if (codes < 0).any():
        _refuse_category(text, column, codes < 0, rows, categories)
    return Response(text, codes.astype(float), None, tuple(categories))


def _refuse_category(
    text: str, column: pd.Series, bad: np.ndarray, rows: np.ndarray, categories: Sequence[Any]
) -> NoReturn:
    """**Raises:** DataError for categories that the fit does not have."""
    raise DataError(
        f"response {text!r} has the category {shown(column.tolist()[int(np.argmax(bad))])} in {name_rows(rows[bad])}, "
        f"which the data of the fit lacked; known: {some([repr(c) for c in categories])}."
    )
