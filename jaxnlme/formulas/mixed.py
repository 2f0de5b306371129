"""Formulas of mixed models: response, fixed effects and random effects, from lme4's spelling and nlme's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxnlme.errors import OptionError, shown
from jaxnlme.formulas.text import (
    Term,
    Token,
    called,
    columns_in,
    formula_text,
    is_sign,
    refuse,
    split,
    stripped,
    terms_of,
    text_of,
    tokens_of,
    unquoted,
    with_intercept,
)
from jaxnlme.formulas.units import nested_order as nested_order


@dataclasses.dataclass(frozen=True)
class RandomTerm:
    """Random effects of one grouping factor that are correlated with each other, and with no others.

    **Fields:** `formula`: of the effects, a right-hand side that begins with its intercept, "1 + Days" or "0 + x";
    `group`: the columns whose combination labels a unit; `label`: of the grouping factor: "Subject", "batch:cask" for
    lme4's `batch:cask`, the column "cask" for the inner factor of `batch/cask`.
    """

    formula: str
    group: tuple[str, ...]
    label: str


@dataclasses.dataclass(frozen=True)
class MixedFormula:
    """A formula of a mixed model taken apart.

    **Fields:** `response`: the left-hand side; `fixed`: the right-hand side without random terms, which begins with its
    intercept; `random`: the random terms in the order written, outer factors of a/b first; empty where there are none.
    """

    response: str
    fixed: str
    random: tuple[RandomTerm, ...]


def parse_mixed(formula: str) -> MixedFormula:
    """A formula in lme4's spelling, such as "Reaction ~ Days + (Days | Subject)".

    `(1 | a/b)` means `(1 | a) + (1 | a:b)`. `(x || g)` has uncorrelated effects: `(1 | g) + (0 + x | g)`; the columns
    of one term (a factor, a polynomial) stay correlated, as in lme4.

    **Arguments:** `formula`: with ~; the names of columns that are no names of Python in backticks.
    **Returns:** the parts; `random` is empty without a term in parentheses with a bar.
    **Raises:** OptionError where the formula cannot be read, with the part concerned and what to write.
    **Source:** Bates, Mächler, Bolker and Walker (2015), Journal of Statistical Software 67(1), table 2.
    """
    response, right = _sides(formula, "formula")
    fixed: list[Term] = []
    random: list[RandomTerm] = []
    _take_apart(right, formula, 0, fixed, random)
    return MixedFormula(response, formula_text(fixed, formula), _distinct_labels(random))


def parse_lme(fixed: str, random: str | Mapping[str, str] | None = None) -> MixedFormula:
    """Formulas in the spelling of nlme's `lme`: `fixed` and `random` apart.

    **Arguments:** `fixed`: "distance ~ age"; `random`: "~ age | Subject"; "~ 1 | Block/Variety", the same effects at
    nested levels; a dictionary of formulas by column, outermost first, {"Block": "~ 1", "Variety": "~ 1"}, each level
    nested in the one before; None for the terms in parentheses of `fixed`, as `parse_mixed` reads them. With || in the
    place of | the effects are uncorrelated.
    **Returns:** the parts; `random` is empty where neither names a random effect.
    **Raises:** OptionError where a formula cannot be read, or both have random terms.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 4.1.
    """
    parsed = parse_mixed(fixed)
    if random is None:
        return parsed
    if parsed.random:
        refuse(
            fixed, "it has random terms in parentheses, and random= has some as well; write all of them in one place."
        )
    terms: list[RandomTerm] = []
    if isinstance(random, Mapping):
        if not random:
            raise OptionError("random is an empty dictionary; expected formulas by column, as in {'Subject': '~ age'}.")
        groups: tuple[str, ...] = ()
        for name, effects in random.items():
            if not isinstance(name, str) or name in groups:
                raise OptionError(f"random: the keys are names of columns, each once; received {shown(name)}.")
            groups = (*groups, name)
            body = _one_sided(effects, f"random[{name!r}]")
            if any(is_sign(token, "|", "||") for token in body):
                refuse(effects, f"the key {name!r} of random names the grouping column already; leave out the bar.")
            terms.append(RandomTerm(formula_text(terms_of(body, effects), effects), groups, name))
    elif isinstance(random, str):
        body = _one_sided(random, "random")
        if not any(is_sign(token, "|", "||") for token in body):
            refuse(random, "it names no group; write '~ x | group', with the column of the group behind the bar.")
        terms.extend(_random_terms(body, random, 0))
    else:
        raise OptionError(
            f"random must be a formula such as '~ age | Subject' or a dictionary of formulas by column, outermost "
            f"first; received {shown(random)}."
        )
    return dataclasses.replace(parsed, random=_distinct_labels(terms))


def used_columns(formula: str | MixedFormula | RandomTerm) -> tuple[str, ...]:
    """The names of the columns that a formula uses, in order, those of grouping factors included.

    **Arguments:** `formula`: text (one side or both), or what `parse_mixed` and `parse_lme` return.
    **Raises:** OptionError where it cannot be read.
    """
    if isinstance(formula, MixedFormula):
        parts = [used_columns(formula.response), used_columns(formula.fixed), *map(used_columns, formula.random)]
        return tuple(dict.fromkeys(name for part in parts for name in part))
    if isinstance(formula, RandomTerm):
        return tuple(dict.fromkeys([*used_columns(formula.formula), *formula.group]))
    return tuple(dict.fromkeys(columns_in(tokens_of(formula))))


def cbind_parts(response: str) -> tuple[str, ...] | None:
    """The expressions of a response `cbind(successes, failures)`; None for others."""
    tokens = [token for token in tokens_of(response, "response") if token.kind != "space"]
    if not (called(tokens, 0) and tokens[0].text == "cbind" and is_sign(tokens[-1], ")")):
        return None
    return tuple(text_of(part) for part in split(stripped(tokens_of(response))[2:-1], ",", depth=1))


def _sides(formula: Any, role: str) -> tuple[str, tuple[Token, ...]]:
    """The left-hand side, and the tokens of the right. **Raises:** OptionError where one is missing."""
    sides = split(tokens_of(formula, role), "~")
    if len(sides) != 2:
        refuse(formula, f"expected one ~ between the response and the terms, as in 'y ~ x'; found {len(sides) - 1}.")
    if not sides[0]:
        refuse(formula, "there is no response; write it before the ~, as in 'y ~ x'.")
    if not sides[1]:
        refuse(formula, "there is no term after the ~; write 1 for an intercept only.")
    return text_of(sides[0]), sides[1]


def _one_sided(formula: Any, role: str) -> tuple[Token, ...]:
    """The tokens behind the ~ of a one-sided formula. **Raises:** OptionError for any other."""
    if not isinstance(formula, str):
        raise OptionError(f"{role} must be a formula such as '~ age'; received {shown(formula)}.")
    tokens = tokens_of(formula, role)
    if any(called(tokens, k) and token.text.startswith("pd") for k, token in enumerate(tokens)):
        refuse(formula, "covariance classes such as pdDiag() are no part of a formula; '~ x || group' is diagonal.")
    sides = split(tokens, "~")
    if len(sides) != 2 or sides[0] or not sides[1]:
        refuse(formula, f"{role} is a formula without response: write '~ age', or '~ 1' for an intercept only.")
    return sides[1]


def _take_apart(tokens: Sequence[Token], formula: str, depth: int, fixed: list[Term], random: list[RandomTerm]) -> None:
    """Append the terms of the tokens to `fixed` and `random`. **Raises:** OptionError for a bar in another place."""
    if any(is_sign(token, "|", "||", depth=depth) for token in tokens):
        refuse(formula, "a random term must be in parentheses, as in 'y ~ x + (x | group)'.")
    for term in terms_of(tokens, formula, depth):
        inner = _in_parentheses(term.tokens, depth)
        if inner is not None and any(is_sign(token, "|", "||", depth=depth + 1) for token in inner):
            if term.sign == "-":
                refuse(formula, f"{text_of(term.tokens)} cannot be subtracted; leave it out.")
            random.extend(_random_terms(inner, formula, depth + 1))
        elif not _has_random_term(term.tokens):
            fixed.append(term)
        elif inner is not None and term.sign == "+":
            _take_apart(inner, formula, depth + 1, fixed, random)
        else:
            refuse(formula, f"{text_of(term.tokens)} combines a random term by another sign than +; add it with +.")


def _in_parentheses(tokens: Sequence[Token], depth: int) -> tuple[Token, ...] | None:
    """The tokens inside one pair of parentheses around all of them; None where there is no such pair."""
    ends = [k for k, token in enumerate(tokens) if is_sign(token, "(", ")", depth=depth)]
    return stripped(tokens[1:-1]) if ends == [0, len(tokens) - 1] else None


def _has_random_term(tokens: Sequence[Token]) -> bool:
    """True where a bar lies in parentheses that are no call of a function."""
    solid = [token for token in tokens if token.kind != "space"]
    calls: list[bool] = []
    for k, token in enumerate(solid):
        if token.kind != "sign":
            continue
        if token.text in ("(", "[", "{"):
            calls.append(any(calls) or token.text != "(" or (k > 0 and solid[k - 1].kind == "name"))
        elif token.text in (")", "]", "}"):
            calls.pop()
        elif token.text in ("|", "||") and calls and not calls[-1]:
            return True
    return False


def _random_terms(tokens: Sequence[Token], formula: str, depth: int) -> list[RandomTerm]:
    """The random terms of "effects | group"; `depth`: that of the bar. **Raises:** OptionError."""
    whole, parts = text_of(tokens), split(tokens, "|", "||", depth=depth)
    if len(parts) != 2:
        refuse(formula, f"({whole}) has {len(parts) - 1} bars; expected one, as in (x | group).")
    if not parts[0]:
        refuse(formula, f"({whole}) has no effect before the bar; write 1 for an intercept, as in (1 | group).")
    effects = terms_of(parts[0], formula, depth)
    uncorrelated = any(is_sign(token, "||", depth=depth) for token in tokens)
    sides = _uncorrelated(effects, formula) if uncorrelated else [formula_text(effects, formula)]
    groups = _groups(parts[1], formula, whole)
    if with_intercept(effects, formula) == (False, []):
        refuse(formula, f"({whole}) has no effect; write 1 for an intercept, as in (1 | group).")
    return [RandomTerm(side, group, label) for group, label in groups for side in sides]


def _uncorrelated(effects: Sequence[Term], formula: str) -> list[str]:
    """A right-hand side for the intercept and each further term; * and / are written out by formulaic."""
    intercept, others = with_intercept(effects, formula)
    sides = ["1"] if intercept else []
    simple = all(term.sign == "+" and not _combines(term.tokens) for term in others)
    if simple:
        return [*sides, *(f"0 + {text}" for text in dict.fromkeys(text_of(term.tokens) for term in others))]
    from formulaic import Formula
    from formulaic.errors import FormulaicError

    try:
        expanded: Any = Formula(formula_text(others, formula))  # pyright: ignore[reportAbstractUsage]
    except FormulaicError as error:
        refuse(formula, f"the effects {formula_text(effects, formula)!r} cannot be read; {str(error).splitlines()[0]}")
    return [*sides, *(f"0 + {':'.join(map(factor_text, term.factors))}" for term in expanded if str(term) != "1")]


def _combines(tokens: Sequence[Token]) -> bool:
    """True where the tokens hold an operator between terms other than a colon."""
    least = min(token.depth for token in tokens)
    return any(is_sign(token, "*", "/", "^", "**", "(", depth=least) for token in tokens[:1]) or any(
        is_sign(token, "*", "/", "^", "**", "%in%", depth=least) for token in tokens
    )


def factor_text(factor: Any) -> str:
    """A factor of formulaic as it is written in a formula."""
    if factor.eval_method.value == "lookup":
        return factor.expr if factor.expr.isidentifier() else f"`{factor.expr}`"
    return factor.expr if factor.expr.endswith(")") and factor.expr[:1].isalpha() else f"{{{factor.expr}}}"


def _groups(tokens: Sequence[Token], formula: str, whole: str) -> list[tuple[tuple[str, ...], str]]:
    """The grouping factors behind a bar with their labels, outer ones first. **Raises:** OptionError."""
    inner = _in_parentheses(tokens, min((token.depth for token in tokens), default=0))
    if inner is not None:
        return _groups(inner, formula, whole)
    solid = [token for token in tokens if token.kind != "space"]
    names, signs = solid[::2], solid[1::2]
    if not solid or len(solid) % 2 == 0 or any(token.kind not in ("name", "quoted") for token in names):
        refuse(
            formula,
            f"({whole}): behind the bar expected a column, a:b for the combinations of two, or a/b for b nested in a; "
            "make a column of any other labels.",
        )
    columns = [unquoted(token) for token in names]
    if any(token.text not in (":", "/") for token in signs):
        first, second = columns[0], columns[1]
        refuse(
            formula,
            f"({whole}): grouping factors are combined by : and /; for two factors write "
            f"(... | {first}) + (... | {second}), for their combinations (... | {first}:{second}).",
        )
    if len(set(columns)) < len(columns):
        refuse(formula, f"({whole}) names a grouping column twice; name each once.")
    out: list[tuple[tuple[str, ...], str]] = []
    start = 0  # a part between two slashes: columns joined by colons
    for k in range(1, len(columns) + 1):
        if k == len(columns) or signs[k - 1].text == "/":
            out.append((tuple(columns[:k]), ":".join(columns[start:k])))
            start = k
    return out


def _distinct_labels(terms: Sequence[RandomTerm]) -> tuple[RandomTerm, ...]:
    """The terms with all columns in the label where another grouping factor would have the same one.

    **Raises:** OptionError where two terms are the same."""
    groups: dict[str, set[tuple[str, ...]]] = {}
    for term in terms:
        groups.setdefault(term.label, set()).add(term.group)
    out = [
        dataclasses.replace(term, label=":".join(term.group)) if len(groups[term.label]) > 1 else term for term in terms
    ]
    for k, term in enumerate(out):
        if term in out[:k]:
            raise OptionError(f"the random term ({term.formula} | {term.label}) is there twice; write it once.")
    return tuple(out)
