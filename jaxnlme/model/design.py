"""The design matrices A and B of xb = A beta + B b: constant, per group, or per observation, stored as sparse sums."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.numerics.written_out import Entries
from jaxnlme.typing import Vector

# One term of a row of a design: (coefficient index, constant or None, column index or None). A constant entry of the
# matrix is static; an entry that varies is a column of the group's covariates, () or (obs,).
Term = tuple[int, float | None, int | None]


class Design(eqx.Module):
    """A design matrix.

    **Fields:** `terms`: for each row (phi) a tuple of terms; `columns`: the number of coefficients.
    """

    terms: tuple[tuple[Term, ...], ...] = eqx.field(static=True)
    columns: int = eqx.field(static=True)

    def apply(self, coefficients: Vector, varying: tuple[Any, ...]) -> list[Any]:
        """The product of the matrix with `coefficients` (columns,): one value per row, () or (obs,).

        **Arguments:** `varying`: the covariate columns of the group, each () or (obs,).
        """
        out = []
        for row in self.terms:
            total: Any = 0.0
            for index, constant, column in row:
                if column is not None:
                    total = total + coefficients[index] * varying[column]
                else:
                    total = total + (coefficients[index] if constant == 1.0 else constant * coefficients[index])
            out.append(total if row else jnp.zeros(()))
        return out

    def times_column(self, coefficient: int, column: int) -> Design:
        """The design with the constant entries of a `coefficient` multiplied by a varying `column`."""
        terms = tuple(
            tuple((k, None, column) if k == coefficient and c == 1.0 else (k, c, of) for k, c, of in row)
            for row in self.terms
        )
        return Design(terms, self.columns)

    def entries(self, varying: tuple[Any, ...]) -> Entries | None:
        """The matrix (phi, columns) of one group by entries; None where an entry varies within the group.

        **Arguments:** `varying`: the covariate columns of the group, each () or (obs,).
        """
        used = [varying[column] for terms in self.terms for _, _, column in terms if column is not None]
        return None if any(jnp.ndim(value) for value in used) else self.entries_of_units(varying)

    def entries_of_units(self, varying: tuple[Any, ...]) -> Entries:
        """The matrices (phi, columns) of the units of one group by entries, each a number, () or (units,).

        **Arguments:** `varying`: the covariate columns of the group, each () or (units,).
        """
        out: Entries = {}
        for row, terms in enumerate(self.terms):
            for index, constant, column in terms:
                value: Any = constant if column is None else varying[column]
                out[row, index] = out[row, index] + value if (row, index) in out else value
        return out


def selection(rows: int, chosen: list[int]) -> Design:
    """The design matrix with `rows` rows that adds coefficient k to row `chosen[k]`."""
    terms: list[tuple[Term, ...]] = [()] * rows
    for k, row in enumerate(chosen):
        terms[row] = (*terms[row], (k, 1.0, None))
    return Design(tuple(terms), len(chosen))


def from_array(
    array: np.ndarray, name: str, rows: int, shape: tuple[int, int], first_column: int
) -> tuple[Design, list[np.ndarray]]:
    """A design from a matrix (phi, k), (groups, phi, k) or (groups, obs, phi, k), on the host.

    **Arguments:** `name`: for messages; `rows`: the number of parameters; `shape`: (groups, obs) of the data;
    `first_column`: the index that the first varying column of this design gets among the group's covariates.
    **Returns:** the design, and its varying columns, each (groups,) or (groups, obs).
    **Raises:** ModelError naming the shapes expected and received, or where entries are not finite.
    """
    array = np.asarray(array, float)
    leading = array.shape[:-2]
    if array.ndim < 2 or array.shape[-2] != rows or leading not in ((), shape[:1], shape):
        raise ModelError(
            f"{name} must have shape ({rows}, k), ({shape[0]}, {rows}, k) for one per group, or "
            f"({shape[0]}, {shape[1]}, {rows}, k) for one per observation; received {array.shape}."
        )
    if not np.isfinite(array).all():
        raise ModelError(f"{name} has entries that are not finite.")
    terms: list[tuple[Term, ...]] = []
    varying: list[np.ndarray] = []
    for p in range(rows):
        row: list[Term] = []
        for k in range(array.shape[-1]):
            entry = array[..., p, k]
            if not entry.any():
                continue
            if (entry == entry.flat[0]).all():
                row.append((k, float(entry.flat[0]), None))
            else:
                row.append((k, None, first_column + len(varying)))
                varying.append(per_group_where_constant(entry))
        terms.append(tuple(row))
    return Design(tuple(terms), array.shape[-1]), varying


def per_group_where_constant(column: np.ndarray) -> np.ndarray:
    """`column` (groups, obs) reduced to (groups,) if it is constant in every group; others unchanged."""
    if column.ndim == 2 and (column == column[:, :1]).all():
        return column[:, 0]
    return column
