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


class CovariateColumns:
    """The columns that a parameter's covariates make of a data set, and what makes the same of another one.

    `names`: column names as formulaic writes them ("log(Wt / 70)", "Sex[T.M]"); `owners`: for each column the index of
    the covariate it belongs to; `spec`: the fitted formula (levels, centres and scales are those of the data it was
    made on).
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
        self.spec: Any = None
        self.spec = self._matrix(None, data).model_spec
        owners: dict[int, int] = {}
        own_terms = [{str(term) for term in _formula(c.formula)} for c in covariates]
        for term, where in self.spec.term_slices.items():
            owner = next((k for k, terms in enumerate(own_terms) if str(term) in terms), 0)
            owners.update(dict.fromkeys(range(where.start, where.stop), owner))
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

    def _matrix(self, source: Any, data: GroupedData) -> Any:
        import pandas as pd

        frame = {}
        for name in self.wanted:
            column = np.asarray(data.x[name] if name in data.x else data.v[name] if name in data.v else data.text[name])
            if self.per_group:
                frame[name] = column
            else:
                frame[name] = (column if column.ndim == 2 else np.repeat(column[:, None], data.y.shape[1], 1)).reshape(
                    -1
                )
        table = pd.DataFrame(frame)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", RuntimeWarning)  # log of zero: `columns` names the place
                if source is None:
                    # Levels and statistics such as a centre come from real rows; later tables are padded ones.
                    return _formula(self.formula).get_model_matrix(
                        table if self.per_group else table[data.rows.reshape(-1)], na_action="ignore"
                    )
                return source.get_model_matrix(table, na_action="ignore")
        except Exception as error:
            raise ModelError(
                f"parameter {self.parameter!r}: the covariates {self.formula[4:]!r} cannot be computed: {error}. "
                f"Columns of the data that formulas may use (listed in v, one value a group, or in x, one a row): "
                f"{', '.join(self.known) or 'none'}."
            ) from error


def _formula(text: str) -> Any:
    """The parsed formula; formulaic is imported here, where a model first has one."""
    from formulaic import Formula

    return Formula(text)  # pyright: ignore[reportAbstractUsage]
