"""A generalised linear mixed model met with a table: response, design matrices, grouping factors and offset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxnlme.errors import DataError, ModelError, OptionError, near_matches, some
from jaxnlme.formulas.design import DesignMatrix, design_matrix, response
from jaxnlme.formulas.frames import as_table
from jaxnlme.formulas.mixed import MixedFormula, RandomTerm, nested_order, used_columns
from jaxnlme.formulas.text import called, formula_text, is_sign, terms_of, text_of, tokens_of
from jaxnlme.formulas.units import Units, group_units
from jaxnlme.linear.glmm.response import Response, read_response
from jaxnlme.linear.reading import effect_designs, notes_on_columns, notes_on_rows, usable_rows


@dataclasses.dataclass(frozen=True, eq=False)
class RandomPart:
    """The random effects of one grouping factor.

    **Fields:** `label`; `group`: the columns that label its units; `columns`: those of them that label a unit within
    the unit around it; `designs`: a DesignMatrix for each term; `units`: of the fitted rows.
    """

    label: str
    group: tuple[str, ...]
    columns: tuple[str, ...]
    designs: tuple[DesignMatrix, ...]
    units: Units

    @property
    def effects(self) -> list[str]:
        """The names of the effects, those of all terms."""
        return [name for design in self.designs for name in design.names]

    def matrix(self, frame: Any = None) -> np.ndarray:
        """The columns of Z (rows, effects) of the fitted rows, or of a new `frame`."""
        return np.concatenate([d.matrix if frame is None else d.for_frame(frame) for d in self.designs], axis=1)

    def labels(self, frame: pd.DataFrame) -> list[Any]:
        """The labels of the units of the rows of a `frame`, which count within the unit around."""
        cells = [frame[name].tolist() for name in self.columns]
        return cells[0] if len(cells) == 1 else [":".join(map(str, row)) for row in zip(*cells, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Declaration:
    """A model and its table.

    **Fields:** `formula`, taken apart, without offsets; `family`; `frame`: the rows in use, columns of the formula
    only; `rows`: their positions in the user's table; `response`; `fixed`: design of the fixed effects; `parts`: the
    random effects, outermost first; `offsets`: expressions that are added to the linear predictor; `notes`: sentences
    on the data.
    """

    formula: MixedFormula
    family: str
    frame: pd.DataFrame
    rows: np.ndarray
    response: Response
    fixed: DesignMatrix
    parts: tuple[RandomPart, ...]
    offsets: tuple[str, ...]
    notes: tuple[str, ...]

    def offset(self, frame: pd.DataFrame) -> np.ndarray:
        """The sum of the offsets (rows,). **Raises:** DataError where one is missing or not finite."""
        total = np.zeros(len(frame))
        for expression in self.offsets:
            total = total + response(expression, frame)[0]
        return total


def declare(
    formula: MixedFormula, data: Any, family: str, offset: str | None = None, missing: str = "error"
) -> Declaration:
    """The Declaration of a formula and a table.

    **Arguments:** `offset`: an expression beside those of offset() in the formula; `missing`: "error", or "drop" for
    rows with missing values.
    **Raises:** DataError, ModelError, OptionError that name the column, row or option.
    """
    fixed_text, offsets = _without_offsets(formula.fixed)
    offsets = (*offsets, *(() if offset is None else (offset,)))
    formula = dataclasses.replace(formula, fixed=fixed_text)
    offset_columns = [name for expression in offsets for name in used_columns(expression)]
    names = list(dict.fromkeys([*used_columns(formula), *offset_columns]))
    table = as_table(data, names, "the formula of jn.glmer")
    complete = usable_rows(table, used_columns(formula.response), names, missing)
    frame, rows, notes = table[complete], np.flatnonzero(complete), notes_on_rows(complete)
    found = read_response(formula.response, frame, family, rows)
    if found.categories:
        notes.append(_category_note(found, family))
    fixed = design_matrix(_for_family(formula.fixed, family), frame, drop_aliased=True)
    if family == "ordinal" and "(Intercept)" in fixed.names:
        fixed = _without_intercept_column(fixed)
    notes += notes_on_columns(fixed)
    parts = _parts(formula.random, frame)
    for part in parts:
        if part.units.count == 1:
            raise DataError(
                f"the grouping factor {part.label!r} has one unit, so that a variance between its units cannot be "
                "estimated; leave its random effects out."
            )
        if part.units.count == len(frame) and family in ("bernoulli", "ordinal"):
            notes.append(
                f"Every row is a unit of {part.label!r} by itself, and has one response of family {family!r}: the "
                "variance between units is hardly determined."
            )
    return Declaration(formula, family, frame, rows, found, fixed, parts, offsets, tuple(notes))


def _without_offsets(fixed: str) -> tuple[str, tuple[str, ...]]:
    """A right-hand side without its offset() terms, and their arguments."""
    terms = terms_of(tokens_of(fixed), fixed)
    kept, offsets = [], []
    for term in terms:
        tokens = term.tokens
        if called(tokens, 0) and tokens[0].text == "offset" and is_sign(tokens[-1], ")"):
            if term.sign == "-":
                raise OptionError(f"formula {fixed!r}: an offset cannot be subtracted; write offset(-z).")
            offsets.append(text_of(tokens[2:-1]))
        else:
            kept.append(term)
    return formula_text(kept, fixed), tuple(offsets)


def _for_family(fixed: str, family: str) -> str:
    """The right-hand side; that of an ordinal outcome must have an intercept, which its thresholds take the place of.

    **Raises:** OptionError for an ordinal outcome without one."""
    if family == "ordinal" and fixed.startswith("0"):
        raise OptionError(
            f"formula {fixed!r}: the thresholds of an ordinal outcome take the place of the intercept, which cannot be "
            "left out; drop the 0 or -1."
        )
    return fixed


def _without_intercept_column(design: DesignMatrix) -> DesignMatrix:
    """The design without its first column, the intercept, which coded the factors; new rows get none either."""
    kept = np.arange(len(design._evaluated.names)) if design._kept is None else design._kept
    moved = tuple((label, slice(s.start - 1, s.stop - 1)) for label, s in design.terms if label != "(Intercept)")
    return dataclasses.replace(
        design, matrix=np.ascontiguousarray(design.matrix[:, 1:]), names=design.names[1:], terms=moved, _kept=kept[1:]
    )


def _category_note(found: Response, family: str) -> str:
    """The sentence on how categories were taken."""
    if family == "ordinal":
        return f"The categories of {found.name}, in order: {' < '.join(map(str, found.categories))}."
    return f"Success is {found.categories[1]!r} of the two categories of {found.name}."


def _parts(random: Sequence[RandomTerm], frame: pd.DataFrame) -> tuple[RandomPart, ...]:
    """The random effects by grouping factor, outermost first. **Raises:** ModelError for crossed factors."""
    terms: dict[tuple[str, ...], list[RandomTerm]] = {}
    for term in random:
        terms.setdefault(term.group, []).append(term)
    units = {group: group_units(group, frame) for group in terms}
    order = nested_order(random, frame, units)
    if order is None:
        labels = [repr(group[0].label) for group in terms.values()]
        raise ModelError(
            f"the grouping factors {some(labels)} are crossed: units of one lie in several units of another. jn.glmer "
            "takes nested factors, (1 | a/b); make the factor with few levels a fixed effect, or leave it out. (If "
            "labels of the inner factor are used again in other units of the outer one, write a/b.)"
        )
    parts = []
    around: tuple[str, ...] = ()
    for group in order:
        designs, _ = effect_designs(terms[group], frame)
        own = tuple(name for name in group if name not in around) or group
        parts.append(RandomPart(terms[group][0].label, group, own, designs, units[group]))
        around = (*around, *group)
    return tuple(parts)


def structures_of(parts: Sequence[RandomPart], covariance: Any) -> dict[str, Any]:
    """The covariance structure of each grouping factor: the user's, or full within each term.

    **Raises:** OptionError for an unknown grouping factor.
    """
    labels = [part.label for part in parts]
    by_label = covariance if isinstance(covariance, Mapping) else dict.fromkeys(labels, covariance)
    for name in by_label:
        if name not in labels:
            raise OptionError(
                f"covariance names the grouping factor {name!r}, which the formula does not have; "
                f"{near_matches(str(name), labels)}"
            )
    out = {}
    for part in parts:
        blocks = [list(design.names) for design in part.designs]
        default: Any = "full" if len(blocks) == 1 else blocks
        given = by_label.get(part.label)
        out[part.label] = default if given is None else given
    return out
