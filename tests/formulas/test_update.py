"""Changed formulas, as R's update.formula makes them."""

from __future__ import annotations

import pytest

import jaxnlme as jn
from jaxnlme.formulas.update import fixed_terms, updated_formula

# The first three columns and R 4.2.2's update.formula(old, change) agree but for the order of factors in a product.
UPDATES = [
    ("y ~ age * Sex", ". ~ . - Sex:age", "y ~ age + Sex"),
    ("y ~ age", "log(.) ~ . + Sex", "log(y) ~ age + Sex"),
    ("y ~ 0 + x", "~ . + z", "y ~ 0 + x + z"),
    ("y ~ x", ". ~ . - 1", "y ~ 0 + x"),
    ("y ~ x + z", ". ~ .^2", "y ~ x + z + x:z"),
    ("y ~ x + z", ". ~ .:w", "y ~ x:w + z:w"),
    ("y ~ x", ". ~ . - x", "y ~ 1"),
    ("y ~ log(x) + `a b`", ". ~ . - log(x)", "y ~ `a b`"),
    ("y ~ x", "z ~ w", "z ~ w"),
]


@pytest.mark.parametrize(("old", "change", "new"), UPDATES)
def test_formulas_are_those_of_r(old: str, change: str, new: str) -> None:
    assert updated_formula(old, change) == new


def test_random_effects_stay_with_a_dot_only() -> None:
    assert updated_formula("y ~ x + (1 | g/h)", ". ~ . + z") == "y ~ x + z + (1 | g/h)"
    assert updated_formula("y ~ x + (1 | g)", ". ~ . + (0 + x | g)") == "y ~ x + (1 | g) + (0 + x | g)"
    assert updated_formula("y ~ x + (1 | g)", ". ~ x") == "y ~ x"
    assert updated_formula("y ~ x + (1 | g)", ". ~ . + z", keep_random=False) == "y ~ x + z"
    with pytest.raises(jn.OptionError, match="random="):
        updated_formula("y ~ x + (1 | g)", ". ~ . - (1 | g)")
    with pytest.raises(jn.OptionError, match="one ~"):
        updated_formula("y ~ x", ". + z")


def test_margins_of_products() -> None:
    intercept, terms = fixed_terms("age * Sex * log(w)")
    by_text = {term.text: term for term in terms}
    assert intercept and len(terms) == 7
    assert by_text["age:Sex:log(w)"].contains(by_text["Sex:log(w)"])
    assert not by_text["age:Sex"].contains(by_text["log(w)"])
    assert not by_text["age"].contains(by_text["age"])
