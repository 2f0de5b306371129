"""R's spelling of functions and operators in formulas, for formulaic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import near_matches
from jaxnlme.formulas.text import Token, called, is_sign, refuse, tokens_of

# Functions of R that are computed by those of numpy and formulaic.
_NUMPY: dict[str, Any] = {
    "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "abs": np.abs, "floor": np.floor, "round": np.round,
    "ceiling": np.ceil, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sign": np.sign, "ifelse": np.where,
    "pmin": np.minimum, "pmax": np.maximum, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh,
}  # fmt: skip
_VALUES: dict[str, Any] = {"TRUE": True, "FALSE": False, "NULL": None, "pi": np.pi}
# Functions of R without a counterpart under their name, with what to write.
_ELSEWHERE = {
    "ns": "natural splines are cr(x, df=4, constraints='center') here",
    "s": "smooths are written as bs(x, df=5), or cr(x, df=5, constraints='center')",
    "offset": "an offset is no term with a coefficient: subtract it from the response, I(y - z) ~ x",
    "relevel": "the reference is chosen by C(f, contr.treatment('b'))",
    "cut": "make a column of the intervals, with pandas.cut",
    "interaction": "the combinations of two factors are a:b",
    "c": "lists are written in brackets, [1, 2]",
    "ordered": "polynomial contrasts are C(f, contr.poly)",
    "as.numeric": "convert the column in the data frame",
    "as.integer": "convert the column in the data frame",
    "as.ordered": "polynomial contrasts are C(f, contr.poly)",
    "ln": "the natural logarithm is log",
    "mean": "center(x) subtracts the mean, scale(x) also divides by the standard deviation",
    "Error": "strata of errors are random terms, (1 | group)",
    "cbind": "several columns are added as terms",
    "rcs": "restricted cubic splines are cr(x, df=4, constraints='center')",
    "lag": "make a column of lagged values within each group, with groupby(...).shift()",
}


def context_of(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """The functions and values that formulas may use besides formulaic's, those of the caller first."""
    from formulaic.transforms import TRANSFORMS

    return {**_NUMPY, **_VALUES, "log": _log, "factor": TRANSFORMS["C"], **(context or {})}


def _log(x: Any, base: float | None = None) -> Any:
    """The logarithm, natural or to a base."""
    return np.log(x) if base is None else np.log(x) / np.log(base)


def translated(formula: str, columns: Sequence[str], known: Mapping[str, Any] | None = None) -> str:
    """The formula in formulaic's spelling.

    In arguments of functions and in braces ^ becomes **; `%in%` becomes a colon, `as.factor` becomes `factor`; names of
    `columns` with dots get backticks.

    **Arguments:** `known`: the functions and values of the caller by name.
    **Raises:** OptionError for a power of a single column, for `.`, and for functions that are not known.
    """
    from formulaic.transforms import TRANSFORMS

    tokens = tokens_of(formula)
    functions = {**_NUMPY, "factor": None, "as.factor": None, **(known or {})}
    functions |= {name: None for name in TRANSFORMS if name not in ("np", "contr", "lag")}
    names = set(columns)
    in_call = _in_calls(tokens)
    out: list[str] = []
    for k, token in enumerate(tokens):
        text = token.text
        if token.kind == "name":
            if called(tokens, k):
                if text not in functions and not text.startswith(("np.", "contr.")):
                    _unknown_function(formula, text, [*functions])
                text = "factor" if text == "as.factor" else text
            elif "." in text and text in names:
                text = f"`{text}`"
        elif token.kind == "sign":
            if text == "^":
                text = "**"
            if text == "**" and not in_call[k]:
                _check_power(formula, tokens, k)
            if text == "%in%":
                text = ":"
            if text == "." and not in_call[k]:
                refuse(formula, "'.' for all columns is not read; name the columns.")
        out.append(text)
    return "".join(out)


def _in_calls(tokens: Sequence[Token]) -> list[bool]:
    """For each token whether it lies in the arguments of a function or in braces or brackets."""
    out, open_calls = [], [False]
    for k, token in enumerate(tokens):
        if token.kind == "sign" and token.text in (")", "]", "}"):
            open_calls.pop()
        out.append(open_calls[-1])
        if token.kind == "sign" and token.text in ("(", "[", "{"):
            call = token.text != "(" or (k > 0 and called(tokens, k - 1))
            open_calls.append(open_calls[-1] or call)
    return out


def _check_power(formula: str, tokens: Sequence[Token], k: int) -> None:
    """**Raises:** OptionError for a power of a single column: in formulas ^ crosses terms, and x^2 is x."""
    before = next(token for token in [*reversed(tokens[:k]), tokens[k]] if token.kind != "space")
    if not is_sign(before, ")", depth=before.depth):
        refuse(
            formula,
            f"in formulas ^ crosses terms, so that {before.text}^2 is the same as {before.text}; write "
            f"I({before.text}^2) for the square.",
        )


def _unknown_function(formula: str, name: str, functions: list[str]) -> None:
    """**Raises:** OptionError with what to write in the place of the function."""
    if name in _ELSEWHERE:
        refuse(formula, f"there is no function {name}(); {_ELSEWHERE[name]}.")
    advice = near_matches(name, functions)
    if not advice.startswith("did"):
        advice = "compute the column in the data frame, or pass the function in context={...}."
    refuse(formula, f"there is no function {name}(); {advice}")
