"""Formulas as text: tokens, brackets, terms joined by + and -, and the names of columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from jaxnlme.errors import OptionError

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<quoted>`[^`]*`)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>\.?[^\W\d][\w.]*)|(?P<space>\s+)
    |(?P<sign>%\w*%|\*\*|\|\||==|!=|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)
_OPEN, _CLOSE = {"(": ")", "[": "]", "{": "}"}, {")": "(", "]": "[", "}": "{"}
# Names in arguments of functions that are no columns: values of Python and R, contrasts of formulaic.
_NO_COLUMNS = {"True", "False", "None", "TRUE", "FALSE", "NULL", "pi", "and", "or", "not", "in", "if", "else", "is"}
_CONTRASTS = {"Treatment", "Sum", "Helmert", "Diff", "Poly"}


class Token(NamedTuple):
    """A piece of a formula. **Fields:** `kind`: string, quoted (a name in backticks), number, name, space or sign;
    `text`; `depth`: the number of brackets it lies in, for a bracket those around the pair."""

    kind: str
    text: str
    depth: int


class Term(NamedTuple):
    """A term of a formula. **Fields:** `sign`: "+" or "-"; `tokens`, without spaces at either end."""

    sign: str
    tokens: tuple[Token, ...]


def refuse(formula: str, problem: str) -> NoReturn:
    """**Raises:** OptionError: the `formula` and its `problem`."""
    raise OptionError(f"formula {formula!r}: {problem}")


def tokens_of(formula: object, role: str = "formula") -> tuple[Token, ...]:
    """The tokens of a formula.

    **Arguments:** `role`: of the argument, for the message.
    **Raises:** OptionError where it is no text, is empty, or its brackets or quotation marks do not match.
    """
    if not isinstance(formula, str) or not formula.strip():
        raise OptionError(f"{role} must be a formula such as 'y ~ x + (1 | group)'; received {formula!r}.")
    out: list[Token] = []
    opened: list[str] = []
    for match in _TOKEN.finditer(formula):
        kind, text = str(match.lastgroup), match.group()
        if text in _CLOSE and kind == "sign" and (not opened or opened.pop() != _CLOSE[text]):
            refuse(formula, f"{text!r} at character {match.start() + 1} closes no {_CLOSE[text]!r}; remove it.")
        if kind == "sign" and text in "\"'`":
            refuse(formula, f"the quotation mark {text} at character {match.start() + 1} has no partner; add it.")
        out.append(Token(kind, text, len(opened)))
        if text in _OPEN and kind == "sign":
            opened.append(text)
    if opened:
        refuse(formula, f"{opened[-1]!r} is never closed; add {_OPEN[opened[-1]]!r}.")
    # R allows a space between a function and its arguments.
    after = ["", *(token.kind for token in out)], [*(token.text for token in out[1:]), ""]
    return tuple(
        t for t, b, a in zip(out, *after, strict=False) if not (t.kind == "space" and b == "name" and a == "(")
    )


def text_of(tokens: Sequence[Token]) -> str:
    """The text of tokens, with single spaces."""
    return "".join(" " if token.kind == "space" else token.text for token in tokens).strip()


def stripped(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens without spaces at either end."""
    kept = [k for k, token in enumerate(tokens) if token.kind != "space"]
    return tuple(tokens[kept[0] : kept[-1] + 1]) if kept else ()


def is_sign(token: Token, *texts: str, depth: int = 0) -> bool:
    """True for a sign (operator or bracket) with one of the `texts` at that `depth`."""
    return token.kind == "sign" and token.depth == depth and token.text in texts


def split(tokens: Sequence[Token], *texts: str, depth: int = 0) -> list[tuple[Token, ...]]:
    """The tokens between the signs `texts` at that `depth`, each part without spaces at its ends."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if is_sign(token, *texts, depth=depth):
            parts.append([])
        else:
            parts[-1].append(token)
    return [stripped(part) for part in parts]


def terms_of(tokens: Sequence[Token], formula: str, depth: int = 0) -> list[Term]:
    """The terms that + and - join at that `depth`. **Raises:** OptionError where one of them is missing."""
    out: list[Term] = []
    sign, current, signed = "+", [], False
    for token in tokens:
        if is_sign(token, "+", "-", depth=depth):
            if stripped(current):
                out.append(Term(sign, stripped(current)))
                sign, current = token.text, []
            else:  # "x + -1" and a sign before the first term
                sign = "+" if sign == token.text else "-"
            signed = True
        else:
            current.append(token)
    if stripped(current):
        out.append(Term(sign, stripped(current)))
    elif signed:
        refuse(formula, "a term is missing at the end, after + or -; remove the sign or add the term.")
    return out


def with_intercept(terms: Sequence[Term], formula: str) -> tuple[bool, list[Term]]:
    """True where the terms have an intercept (0, -1 and + 0 take it away), and the other terms.

    **Raises:** OptionError for other numbers.
    """
    intercept, others = True, []
    for term in terms:
        if len(term.tokens) == 1 and term.tokens[0].kind == "number":
            number = term.tokens[0].text
            if number not in ("0", "1"):
                refuse(formula, f"{number} is no term; 1 is the intercept, 0 or -1 leave it out.")
            intercept = (number == "1") == (term.sign == "+")
        else:
            others.append(term)
    return intercept, others


def formula_text(terms: Sequence[Term], formula: str) -> str:
    """The terms as one right-hand side that begins with its intercept: "1 + Days", "0 + x"."""
    intercept, others = with_intercept(terms, formula)
    return "".join(["1" if intercept else "0", *(f" {term.sign} {text_of(term.tokens)}" for term in others)])


def unquoted(token: Token) -> str:
    """The name that a token holds, without backticks."""
    return token.text[1:-1] if token.kind == "quoted" else token.text


def called(tokens: Sequence[Token], k: int) -> bool:
    """True where token `k` is the name of a function that is called."""
    return k + 1 < len(tokens) and tokens[k].kind == "name" and is_sign(tokens[k + 1], "(", depth=tokens[k].depth)


def columns_in(tokens: Sequence[Token]) -> Iterator[str]:
    """The names of columns that tokens hold, in order, also repeated: names that are no functions or their options."""
    solid = [token for token in tokens if token.kind != "space"]
    for k, token in enumerate(solid):
        if token.kind == "quoted":
            yield unquoted(token)
        if token.kind != "name" or called(solid, k):
            continue
        inside = token.depth > 0
        option = inside and k + 1 < len(solid) and is_sign(solid[k + 1], "=", depth=token.depth)
        after_dot = k > 0 and solid[k - 1].text == "."
        module = token.text.startswith(("np.", "contr."))
        if not (option or after_dot or module or (inside and token.text in _NO_COLUMNS | _CONTRASTS)):
            yield token.text
