"""Covariate formulas: columns of a design from the columns of the data, through formulaic."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.model.design import within_or_per_group
from jaxnlme.model.parameters import Covariate

# What a formula of the user's can raise where it is read or computed, beside formulaic's own errors.
_FORMULA_ERRORS = (ArithmeticError, AttributeError, LookupError, NameError, SyntaxError, TypeError, ValueError)


class CovariateColumns:
    """The columns that a parameter's covariates make of a data set, and what makes the same of another one.

    `names`: column names as formulaic writes them ("log(Wt / 70)", "Sex[T.M]"); `owners`: for each column the index of
    the covariate it belongs to; `spec`: the fitted formula (levels, centres and scales are those of the data it was
    made on); `levels`: those of categorical columns, in their declared order, the first the reference.

    **Errors:** ModelError where the formulas cannot be computed, or two covariates hold the same term.
    """

    def __init__(self, parameter: str, covariates: Sequence[Covariate], data: GroupedData):
        self.parameter = parameter
        self.formula = "1 + " + " + ".join(f"({c.formula})" for c in covariates)
        known = [*data.x, *data.v, *data.text]
        self.wanted = [name for name in known if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.(])", self.formula)]
        self.known = known
        self.per_group = all(
            name in data.v or (name in data.text and data.text[name].ndim == 1) for name in self.wanted
        )
        self.levels = {name: _present(data, name) for name in self.wanted if name in data.levels}
        self.spec: Any = None
        self.spec = self._matrix(None, data).model_spec
        owners = self._owners(covariates)
        self.keep = [k for k, name in enumerate(self.spec.column_names) if name != "Intercept"]
        self.names = [str(self.spec.column_names[k]) for k in self.keep]
        self.owners = [owners[k] for k in self.keep]

    def columns(self, data: GroupedData) -> list[np.ndarray]:
        """One array per column: (groups,) where constant in every group, (groups, obs) otherwise.

        **Errors:** ModelError where a covariate is not finite or has a level that the first data set lacked.
        """
        matrix = np.asarray(self._matrix(self.spec, data), float)[:, self.keep]
        out = []
        for k, name in enumerate(self.names):
            if self.per_group:
                column = matrix[:, k]
                where = "group"
                places: Any = data.labels
            else:
                column = matrix[:, k].reshape(data.rows.shape)
                where = "row"
                places = data.row_index + 1
            bad = ~np.isfinite(column)
            if bad.any():
                raise ModelError(
                    f"parameter {self.parameter!r}: covariate {name!r} is not finite in {where} "
                    f"{np.asarray(places)[bad].flat[0]}; check the column and the formula (log of zero?)."
                )
            out.append(within_or_per_group(column))
        return out

    def _owners(self, covariates: Sequence[Covariate]) -> dict[int, int]:
        """For each column of the matrix but the intercept the index of the covariate whose term it is."""
        own_terms = [self._terms(c.formula) for c in covariates]
        owners: dict[int, int] = {}
        for term, where in self.spec.term_slices.items():
            if term == "1":
                continue
            found = [k for k, terms in enumerate(own_terms) if term in terms]
            if len(found) > 1:
                both = " and ".join(repr(covariates[k].formula) for k in found)
                raise ModelError(
                    f"parameter {self.parameter!r}: the covariates {both} both hold the term {str(term)!r}; name each "
                    "term once."
                )
            if not found:
                raise ModelError(
                    f"parameter {self.parameter!r}: the term {str(term)!r} of {self.formula[4:]!r} belongs to none of "
                    "the covariates alone, so it has no start; write one formula with all terms."
                )
            owners.update(dict.fromkeys(range(where.start, where.stop), found[0]))
        return owners

    def _terms(self, formula: str) -> set[Any]:
        from formulaic.errors import FormulaicError

        try:
            return set(_formula(formula))
        except FormulaicError as error:
            raise ModelError(
                f"parameter {self.parameter!r}: the covariate {formula!r} is no formula: {error}."
            ) from error

    def _matrix(self, source: Any, data: GroupedData) -> Any:
        import pandas as pd
        from formulaic.errors import DataMismatchWarning, FormulaicError

        frame = {}
        for name in self.wanted:
            column = np.asarray(data.x[name] if name in data.x else data.v[name] if name in data.v else data.text[name])
            if self.per_group:
                frame[name] = column
            else:
                frame[name] = (column if column.ndim == 2 else np.repeat(column[:, None], data.y.shape[1], 1)).reshape(
                    -1
                )
            if name in self.levels:
                # Levels that are new come last, where formulaic finds and refuses them.
                known = self.levels[name]
                new = [level for level in pd.unique(frame[name]) if level is not None and level not in known]
                frame[name] = pd.Categorical(frame[name], categories=[*known, *new])
        table = pd.DataFrame(frame)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DataMismatchWarning)
                warnings.simplefilter("ignore", RuntimeWarning)  # log of zero: `columns` names the place
                if source is None:
                    # Levels and statistics such as a centre come from real rows; later tables are padded ones.
                    return _formula(self.formula).get_model_matrix(
                        table if self.per_group else table[data.rows.reshape(-1)], na_action="ignore"
                    )
                return source.get_model_matrix(table, na_action="ignore")
        except (FormulaicError, DataMismatchWarning, *_FORMULA_ERRORS) as error:
            raise ModelError(
                f"parameter {self.parameter!r}: the covariates {self.formula[4:]!r} cannot be computed: {error}. "
                f"Columns of the data that formulas may use (listed in v, one value a group, or in x, one a row): "
                f"{', '.join(self.known) or 'none'}."
            ) from error


def _present(data: GroupedData, name: str) -> list[Any]:
    """The levels of a categorical column that real rows have, in their declared order."""
    column = data.text.get(name, data.x.get(name, data.v.get(name)))
    cells = np.asarray(column)
    seen = set((cells if cells.ndim == 1 else cells[data.rows]).tolist())
    return [level for level in data.levels[name] if level in seen]


def _formula(text: str) -> Any:
    """The parsed formula; formulaic is imported here, where a model first has one."""
    from formulaic import Formula

    return Formula(text)  # pyright: ignore[reportAbstractUsage]
