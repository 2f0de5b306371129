"""Rows of a linear mixed model whose outermost units were drawn with replacement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.estimators.linear.problem import RandomDesign
from jaxnlme.formulas.frames import as_table
from jaxnlme.linear.residual_model import columns_of

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


@dataclasses.dataclass(frozen=True, eq=False)
class ResampledRows:
    """The rows `index` (drawn rows,) of a table, and the number `unit` (drawn rows,) of the draw each belongs to: a
    unit that is drawn twice is two units."""

    index: np.ndarray
    unit: np.ndarray

    @classmethod
    def drawn(cls, codes: np.ndarray, rng: np.random.Generator) -> ResampledRows:
        """As many units as `codes` (rows,) has, drawn with replacement."""
        order = np.argsort(codes, kind="stable")
        rows_of = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
        chosen = [rows_of[k] for k in rng.integers(len(rows_of), size=len(rows_of))]
        unit = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
        return cls(np.concatenate(chosen), unit)

    def designs(self, designs: Sequence[RandomDesign]) -> list[RandomDesign]:
        """The designs of all levels at these rows."""
        out = []
        for design in designs:
            codes = self._distinct(design.codes)
            new = {"matrix": design.matrix[self.index], "codes": codes, "units": np.arange(codes.max() + 1)}
            out.append(dataclasses.replace(design, **new))
        return out

    def frame(self, fit: LinearFit) -> Any:
        """The columns that the residual model of `fit` reads at these rows, None without such a model; the column that
        separates series separates the draws too."""
        if fit.residual is None:
            return None
        error = fit.residual.error
        table = (
            as_table(fit.model.frame, columns_of(error), "the residual model").iloc[self.index].reset_index(drop=True)
        )
        within = None if error.correlation is None else error.correlation.within
        if within is None:
            return table
        codes = np.unique(np.asarray(table[within]).astype(str), return_inverse=True)[1]
        pairs = np.stack([self.unit, codes], axis=1)
        return table.assign(**{within: np.unique(pairs, axis=0, return_inverse=True)[1].ravel()})

    def _distinct(self, codes: np.ndarray) -> np.ndarray:
        """Numbers of the distinct pairs of draw and code."""
        pairs = np.stack([self.unit, codes[self.index]], axis=1)
        return np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
