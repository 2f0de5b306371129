"""Formulas of mixed models taken apart, in lme4's spelling and nlme's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jaxnlme.errors import DataError, OptionError
from jaxnlme.formulas.mixed import (
    MixedFormula,
    RandomTerm,
    cbind_parts,
    nested_order,
    parse_lme,
    parse_mixed,
    used_columns,
)
from jaxnlme.formulas.units import group_units


def random_of(formula: str) -> list[tuple]:
    return [(term.formula, term.group, term.label) for term in parse_mixed(formula).random]


def test_a_formula_of_lme4() -> None:
    assert parse_mixed("Reaction ~ Days + (Days | Subject)") == MixedFormula(
        "Reaction", "1 + Days", (RandomTerm("1 + Days", ("Subject",), "Subject"),)
    )


@pytest.mark.parametrize(
    "formula, expected",
    [
        ("y ~ (1 | a) + (1|b)", [("1", ("a",), "a"), ("1", ("b",), "b")]),
        ("y ~ (1 | batch:cask)", [("1", ("batch", "cask"), "batch:cask")]),
        ("y ~ (1 | batch/cask)", [("1", ("batch",), "batch"), ("1", ("batch", "cask"), "cask")]),
        ("y ~ (1 | a/b:c)", [("1", ("a",), "a"), ("1", ("a", "b", "c"), "b:c")]),
        ("y ~ (x | (a:b))", [("1 + x", ("a", "b"), "a:b")]),
        ("y ~ (0 + x | g)", [("0 + x", ("g",), "g")]),
        ("y ~ (x - 1 | g)", [("0 + x", ("g",), "g")]),
        ("y ~ (-1 + x | g)", [("0 + x", ("g",), "g")]),
        ("y ~ (x || g)", [("1", ("g",), "g"), ("0 + x", ("g",), "g")]),
        ("y ~ (0 + x || g)", [("0 + x", ("g",), "g")]),
        ("y ~ (x*z || g)", [("1", ("g",), "g"), *((f"0 + {e}", ("g",), "g") for e in ("x", "z", "x:z"))]),
        ("y ~ (poly(t, 2) || g)", [("1", ("g",), "g"), ("0 + poly(t, 2)", ("g",), "g")]),
        ("y ~ (0 + `my x` * z || g)", [(f"0 + {e}", ("g",), "g") for e in ("`my x`", "z", "`my x`:z")]),
        ("y ~ (log(x + 1) + I(z | w) | g)", [("1 + log(x + 1) + I(z | w)", ("g",), "g")]),
        ("y ~ (1 | `my herd`) + (1|Sample.ID)", [("1", ("my herd",), "my herd"), ("1", ("Sample.ID",), "Sample.ID")]),
        ("y ~ (x + (1 | g))", [("1", ("g",), "g")]),
        # The inner factors share a column: their labels name all columns.
        ("y ~ (0 + x | a/c) + (1 | c)", [("0 + x", ("a",), "a"), ("0 + x", ("a", "c"), "a:c"), ("1", ("c",), "c")]),
        ("y ~ x", []),
    ],
)  # fmt: skip
def test_random_terms(formula: str, expected: list[tuple]) -> None:
    assert random_of(formula) == expected


@pytest.mark.parametrize(
    "formula, fixed",
    [
        ("y ~ 1 + (1|g)", "1"),
        ("y ~ (1|g)", "1"),
        ("y ~ 0 + (1|g)", "0"),
        ("y ~ x + (1|g) - 1", "0 + x"),
        ("y ~ x*z + (1|g) + I(x | z)", "1 + x*z + I(x | z)"),
        ("y ~ x + (1|g) - z + log(x + 1)", "1 + x - z + log(x + 1)"),
        ("y ~ (x + (1 | g)) + (z)", "1 + x + (z)"),
        ("y ~ C(f, Treatment('a | b')) + (1|g)", "1 + C(f, Treatment('a | b'))"),
    ],
)
def test_fixed_effects(formula: str, fixed: str) -> None:
    assert parse_mixed(formula).fixed == fixed


def test_responses_are_kept_as_text() -> None:
    assert parse_mixed("log(y + 1) ~ x").response == "log(y + 1)"
    assert parse_mixed("cbind(y,  n - y) ~ x + (1|g)").response == "cbind(y, n - y)"
    assert cbind_parts("cbind(y, n - y)") == ("y", "n - y")
    assert cbind_parts("cbind(log(y, 2), n)") == ("log(y, 2)", "n")
    assert cbind_parts("log(y)") is None


@pytest.mark.parametrize(
    "formula, message",
    [
        ("y ~ x*(1|g)", r"x\*\(1\|g\) combines a random term by another sign than \+"),
        ("y ~ (1|g):x", "another sign"),
        ("y ~ x - (1|g)", "cannot be subtracted"),
        ("y ~ x + 1 | g", "must be in parentheses"),
        ("y ~ (1|g", r"'\(' is never closed; add '\)'"),
        ("y ~ x)", r"'\)' at character 6 closes no '\('"),
        ("y ~ [x)", r"closes no '\('"),
        ("y ~ `x", "quotation mark ` at character 5"),
        ("~ x", "no response"),
        ("y ~", "no term after the ~"),
        ("y", "expected one ~"),
        ("y ~ x ~ z", "found 2"),
        ("y ~ x +", "missing at the end"),
        ("y ~ 2 + x", "2 is no term"),
        ("y ~ (1|g|h)", "2 bars"),
        ("y ~ (|g)", "no effect before the bar"),
        ("y ~ (0|g)", "has no effect"),
        ("y ~ (1|)", "expected a column"),
        ("y ~ (1|log(g))", "expected a column"),
        ("y ~ (1|a + b)", r"write \(\.\.\. \| a\) \+ \(\.\.\. \| b\)"),
        ("y ~ (1|a:a)", "twice"),
        ("y ~ (1|g) + (1|g)", "there twice"),
        ("", "must be a formula"),
        (3, "must be a formula"),
    ],
)
def test_formulas_that_cannot_be_read(formula: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_mixed(formula)


def test_formulas_of_nlme() -> None:
    assert parse_lme("distance ~ age", "~ age | Subject").random == (RandomTerm("1 + age", ("Subject",), "Subject"),)
    nested = (RandomTerm("1", ("Block",), "Block"), RandomTerm("1", ("Block", "Variety"), "Variety"))
    assert parse_lme("yield ~ nitro", "~ 1 | Block/Variety").random == nested
    assert parse_lme("yield ~ nitro", {"Block": "~ 1", "Variety": "~ 1"}).random == nested
    assert parse_lme("y ~ x + (1 | g)") == parse_mixed("y ~ x + (1 | g)")
    assert parse_lme("y ~ x").random == ()
    assert [term.formula for term in parse_lme("y ~ x", "~ x || g").random] == ["1", "0 + x"]


@pytest.mark.parametrize(
    "random, message",
    [
        ("~ x", "it names no group"),
        ("x | g", "without response"),
        ("y ~ x | g", "without response"),
        ({"g": "~ 1 | g"}, "names the grouping column already"),
        ({"g": "pdDiag(~ x)"}, "pdDiag"),
        ({"g": 1}, r"random\['g'\] must be a formula"),
        ({}, "empty dictionary"),
        (["~ 1 | g"], "must be a formula such as"),
    ],
)
def test_random_effects_that_cannot_be_read(random: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_lme("y ~ x", random)


def test_random_effects_in_two_places_are_refused() -> None:
    with pytest.raises(OptionError, match="in one place"):
        parse_lme("y ~ x + (1 | g)", "~ 1 | g")


def test_columns_in_use() -> None:
    formula = parse_mixed(
        "log(y) ~ poly(x, degree=2)*C(`my f`, Treatment('b')) + I(z.1^2) + np.sin(q) + scale(x2) + (w | a/b)"
    )
    assert used_columns(formula) == ("y", "x", "my f", "z.1", "q", "x2", "w", "a", "b")
    assert used_columns("cbind(y, n - y)") == ("y", "n")
    assert used_columns("1") == ()


def test_units_are_counted_in_order_of_appearance() -> None:
    frame = pd.DataFrame({"a": [7, 7, 3, 3, 7], "b": ["u", "v", "u", "u", "u"]})
    units = group_units(("a", "b"), frame)
    np.testing.assert_array_equal(units.codes, [0, 1, 2, 2, 0])
    assert units.labels == [(7, "u"), (7, "v"), (3, "u")]
    assert units.count == 3
    assert group_units(("a",), frame).labels == [7, 3]
    far = pd.DataFrame({"a": [10**15, 5, 10**15], "b": [1, 2, 10**12]})  # not to be counted by arrays of that size
    np.testing.assert_array_equal(group_units(("a", "b"), far).codes, [0, 1, 2])


@pytest.mark.parametrize("kind", ["int", "float", "str", "category", "bool", "polars", "dict"])
def test_units_of_any_kind_of_labels(kind: str) -> None:
    labels = np.array([1, 0, 1, 0, 0])
    frame: object = pd.DataFrame({"g": labels})
    if kind == "polars":
        frame = pytest.importorskip("polars").DataFrame({"g": ["b", "a", "b", "a", "a"]})
    elif kind == "dict":
        frame = {"g": labels.tolist()}
    else:
        frame["g"] = frame["g"].astype(kind)
    np.testing.assert_array_equal(group_units(("g",), frame).codes, [0, 1, 0, 1, 1])


def test_rows_without_a_label_are_named() -> None:
    with pytest.raises(DataError, match="'g' has no label in row 2"):
        group_units(("g",), pd.DataFrame({"g": ["a", None, "b"]}))
    with pytest.raises(DataError, match="no column 'gg'; did you mean 'g'"):
        group_units(("gg",), pd.DataFrame({"g": ["a"]}))


def test_nested_and_crossed_factors() -> None:
    frame = pd.DataFrame({"a": [1, 1, 2, 2], "b": [1, 2, 1, 2], "c": [1, 2, 3, 4], "d": [5, 6, 7, 8]})
    assert nested_order(parse_mixed("y ~ (1 | a/b)").random, frame) == (("a",), ("a", "b"))
    assert nested_order(parse_mixed("y ~ (1 | a:b) + (1 | a)").random, frame) == (("a",), ("a", "b"))
    assert nested_order(parse_mixed("y ~ (1 | a) + (1 | b)").random, frame) is None
    assert nested_order(parse_mixed("y ~ (1 | c) + (1 | a) + (0 + x | a)").random, frame) == (("a",), ("c",))
    assert nested_order(parse_mixed("y ~ (1 | c) + (1 | d)").random, frame) == (("c",), ("d",))
    assert nested_order(parse_mixed("y ~ (1 | c:d) + (1 | d)").random, frame) == (("d",), ("c", "d"))
    assert nested_order((), frame) == ()
