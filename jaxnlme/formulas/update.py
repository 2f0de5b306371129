"""Changed formulas, as R's `update` makes them, and the terms of a right-hand side with their margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxnlme.formulas.mixed import factor_text, parse_mixed, used_columns
from jaxnlme.formulas.spelling import translated
from jaxnlme.formulas.text import (
    Term,
    Token,
    formula_text,
    is_sign,
    refuse,
    split,
    terms_of,
    text_of,
    tokens_of,
)


class FixedTerm(NamedTuple):
    """A term of fixed effects. **Fields:** `text`, "age:Sex"; `factors`: of the product, in any order."""

    text: str
    factors: frozenset[str]

    def contains(self, other: FixedTerm) -> bool:
        """True where `other` is a margin of this term: a product of some of its factors, but not of all."""
        return other.factors < self.factors


def fixed_terms(right: str) -> tuple[bool, tuple[FixedTerm, ...]]:
    """True where a right-hand side has an intercept, and its other terms, products written out: "age * Sex" has the
    terms age, Sex and age:Sex.

    **Raises:** OptionError where the formula cannot be read.
    """
    from formulaic import Formula
    from formulaic.errors import FormulaicError

    text = translated(formula_text(terms_of(tokens_of(right), right), right), used_columns(right))
    try:
        expanded = list(Formula(text))  # pyright: ignore[reportAbstractUsage, reportArgumentType]
    except FormulaicError as error:
        refuse(right, f"it cannot be read; {str(error).splitlines()[0]}")
    terms = [tuple(factor_text(factor) for factor in term.factors) for term in expanded if str(term) not in ("1", "0")]
    return any(str(term) == "1" for term in expanded), tuple(FixedTerm(":".join(t), frozenset(t)) for t in terms)


def right_side(intercept: bool, terms: Sequence[str]) -> str:
    """A right-hand side with these terms."""
    return " + ".join([*([] if intercept else ["0"]), *terms] or ["1"])


def updated_formula(old: str, change: str, keep_random: bool = True) -> str:
    """The formula `change` with "." for what `old` has there: "." on the left is its response, on the right its fixed
    effects. Random effects in parentheses stay where the right-hand side has a ".".

    **Arguments:** `old`: "y ~ age * Sex + (1 | Subject)"; `change`: ". ~ . + x", "log(.) ~ .", "~ . - age:Sex";
    `keep_random`: False leaves the random effects of `old` out.
    **Returns:** the formula, its products written out and terms that were subtracted left out, as R's `update`.
    **Raises:** OptionError where a formula cannot be read.
    """
    sides = split(tokens_of(change), "~")
    if len(sides) != 2 or not sides[1]:
        refuse(change, "expected one ~, as in '. ~ . + x'; '.' stands for what the formula had on that side.")
    before = parse_mixed(old)
    response = _substituted(sides[0], before.response) if sides[0] else before.response
    old_terms = terms_of(tokens_of(before.fixed), before.fixed)
    fixed: list[Term] = []
    random: list[str] = []
    with_dot = False
    for term in terms_of(sides[1], change):
        if _is_random(term.tokens):
            if term.sign == "-":
                refuse(change, f"{text_of(term.tokens)} cannot be subtracted; give random= in its place.")
            random.append(text_of(term.tokens))
        elif text_of(term.tokens) == "." and term.sign == "+":
            fixed += old_terms
            with_dot = True
        elif any(_is_dot(term.tokens, k) for k in range(len(term.tokens))):
            inner = tokens_of(_substituted(term.tokens, f"({_without_intercept(old_terms)})"))
            fixed.append(Term(term.sign, inner))
            with_dot = True
        else:
            fixed.append(term)
    if with_dot and keep_random:
        random = random_texts(old) + random
    intercept, terms = fixed_terms(formula_text(fixed, change))
    right = right_side(intercept, [term.text for term in terms])
    return f"{response} ~ {' + '.join([right, *dict.fromkeys(random)])}"


def random_texts(formula: str) -> list[str]:
    """The random terms in parentheses of a formula, as they are written."""
    terms = terms_of(split(tokens_of(formula), "~")[1], formula)
    return [text_of(term.tokens) for term in terms if _is_random(term.tokens)]


def without_random(formula: str) -> str:
    """The formula without its random effects in parentheses."""
    parsed = parse_mixed(formula)
    return f"{parsed.response} ~ {parsed.fixed.removeprefix('1 + ')}"


def _without_intercept(terms: Sequence[Term]) -> str:
    """The terms as text without their intercept, which formulaic does not take in brackets."""
    kept = [term for term in terms if not (len(term.tokens) == 1 and term.tokens[0].kind == "number")]
    return "".join(f" {term.sign} {text_of(term.tokens)}" for term in kept).removeprefix(" + ") or "1"


def _is_dot(tokens: Sequence[Token], k: int) -> bool:
    return tokens[k].kind == "sign" and tokens[k].text == "."


def _substituted(tokens: Sequence[Token], text: str) -> str:
    return "".join(text if _is_dot(tokens, k) else token.text for k, token in enumerate(tokens)).strip()


def _is_random(tokens: Sequence[Token]) -> bool:
    """True for a term in parentheses with a bar."""
    bars = any(token.kind == "sign" and token.text in ("|", "||") for token in tokens)
    return bars and is_sign(tokens[0], "(", depth=tokens[0].depth)
