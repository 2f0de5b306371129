"""A linear mixed model met with a table: design matrices, grouping factors, and what was written."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import DataError, OptionError, near_matches, some
from jaxnlme.estimators.linear.problem import RandomDesign
from jaxnlme.formulas.design import DesignMatrix, design_matrix, response
from jaxnlme.formulas.mixed import MixedFormula, RandomTerm, nested_order, used_columns
from jaxnlme.formulas.units import Units, group_units
from jaxnlme.linear.reading import effect_designs, notes_on_columns, notes_on_rows, usable_rows
from jaxnlme.model.covariance.specification import covariance
from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """Random effects of one grouping factor.

    **Fields:** `label`; `group`: the columns that label its units; `effects`: names; `designs`: the DesignMatrix of
    each term; `units`; `structure` of the covariance.
    """

    label: str
    group: tuple[str, ...]
    effects: tuple[str, ...]
    designs: tuple[DesignMatrix, ...]
    units: Units
    structure: AbstractCovariance

    @property
    def matrix(self) -> np.ndarray:
        """The columns of Z (rows, effects)."""
        matrices = [design.matrix for design in self.designs]
        return matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1)

    def random_design(self) -> RandomDesign:
        """The arrays of the level."""
        return RandomDesign(
            self.label, self.effects, self.matrix, self.units.codes, np.arange(self.units.count), self.structure
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear mixed model and its data.

    **Fields:** `formula`, taken apart; `frame`: the rows that are used, as given; `y`; `fixed`: the DesignMatrix of
    the fixed effects; `groupings`, outermost first where `nested`, by size where factors are crossed; `notes`:
    sentences on the data.
    """

    formula: MixedFormula
    frame: Any
    y: np.ndarray
    fixed: DesignMatrix
    groupings: tuple[Grouping, ...]
    nested: bool
    notes: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        """The number of observations."""
        return len(self.y)


def linear_model(
    formula: MixedFormula, frame: Any, structures: Any = None, missing: str = "error", extra: Sequence[str] = ()
) -> LinearModel:
    """The LinearModel of a formula and a table.

    **Arguments:** `structures`: a covariance structure for all grouping factors, or a dictionary by their labels; None:
    full within each term; `missing`: "error", or "drop" for rows with missing values in columns of the formula;
    `extra`: further columns that rows must have.
    **Raises:** DataError, ModelError, OptionError that name the column, row or option.
    """
    columns = [*used_columns(formula), *(name for name in extra if name not in used_columns(formula))]
    frame, notes = _complete(formula, frame, columns, missing)
    y, _ = response(formula.response, frame)
    largest = float(np.abs(y).max(initial=0.0))
    if not (largest == 0.0 or 1e-100 < largest < 1e100):
        raise DataError(
            f"the largest response is {largest:.1e} in absolute value, whose square cannot be computed: use "
            "another unit."
        )
    fixed = design_matrix(formula.fixed, frame, drop_aliased=True)
    notes += notes_on_columns(fixed)
    if len(y) <= fixed.matrix.shape[1]:
        raise DataError(
            f"there are {len(y)} complete rows for {fixed.matrix.shape[1]} fixed effects; expected more rows than that."
        )
    terms: dict[tuple[str, ...], list[RandomTerm]] = {}
    for term in formula.random:
        terms.setdefault(term.group, []).append(term)
    units = {group: group_units(group, frame) for group in terms}
    order = nested_order(formula.random, frame, units) if terms else ()
    nested = order is not None
    if order is None:
        order = tuple(sorted(terms, key=lambda group: -units[group].count))
    _check_structures(structures, [terms[group][0].label for group in order])
    groupings = []
    for group in order:
        grouping = _grouping(terms[group], frame, units[group], structures)
        if units[group].count == 1:
            raise DataError(
                f"the grouping factor {grouping.label!r} has one unit, so that a variance between its units cannot be "
                "estimated; leave its random effects out."
            )
        groupings.append(grouping)
    return LinearModel(formula, frame, y, fixed, tuple(groupings), nested, tuple(notes))


def _complete(formula: MixedFormula, frame: Any, columns: Sequence[str], missing: str) -> tuple[Any, list[str]]:
    """The rows of the table that are complete, and notes."""
    complete = usable_rows(frame, used_columns(formula.response), columns, missing)
    if complete.all():
        return frame, []
    kept = frame[complete] if hasattr(frame, "iloc") else _filtered(frame, complete)
    return kept, notes_on_rows(complete)


def _filtered(frame: Any, rows: np.ndarray) -> Any:
    """The rows of a table that is not pandas'."""
    if hasattr(frame, "filter") and hasattr(frame, "get_columns"):
        return frame.filter(rows)
    return {name: np.asarray(column)[rows] for name, column in frame.items()}


def _grouping(terms: Sequence[RandomTerm], frame: Any, units: Units, structures: Any) -> Grouping:
    """The Grouping of the terms of one factor."""
    designs, effects = effect_designs(terms, frame)
    label = terms[0].label
    spec = structures.get(label) if isinstance(structures, Mapping) else structures
    if spec is None and len(terms) > 1:
        ends = np.cumsum([0, *(len(design.names) for design in designs)])
        parts = [tuple(range(a, b)) for a, b in itertools.pairwise(ends)]
        blocks = tuple((part, covariance("full", [effects[k] for k in part])) for part in parts)
        structure: AbstractCovariance = Blocks(len(effects), blocks)
    else:
        structure = covariance("full" if spec is None else spec, effects)
    return Grouping(label, terms[0].group, tuple(effects), designs, units, structure)


def _check_structures(structures: Any, labels: Sequence[str]) -> None:
    """**Raises:** OptionError for covariance structures of unknown grouping factors."""
    if isinstance(structures, Mapping):
        for name in structures:
            if name not in labels:
                raise OptionError(
                    f"covariance names the grouping factor {name!r}, which the formula does not have; it has "
                    f"{some([repr(label) for label in labels]) or 'none'}; {near_matches(str(name), labels)}"
                )
