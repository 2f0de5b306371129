"""Check for modelfun reading phi[k] with k >= P: JAX returns the last entry for an index beyond the end, no error."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.frontends.matlab.data import TABLE, VALUE, MatlabData
from jaxnlme.frontends.matlab.designs import Designs
from jaxnlme.frontends.matlab.model_function import ModelFunction
from jaxnlme.frontends.matlab.settings import INDEX_CHECK
from jaxnlme.precision import x64


class _LongerPhiRejected(Exception):
    """modelfun raised an error for a phi with additional entries; it may still be valid for phi itself."""


def check_phi_indices(structure: ModelFunction, designs: Designs, data: MatlabData) -> None:
    """Refuse a modelfun that reads phi[k] with k >= P, the number of parameters.

    modelfun is evaluated at a few rows with entries appended to phi, in two lengths, and each appended entry is changed
    by a quarter. An entry that alters a prediction at the same position from the start in both lengths is an index out
    of range, provided that every entry with an effect is explained in this way or as the same position from the end.
    Other uses of the length of phi (sums, halves, strides), and a modelfun that does not accept a longer phi, are not
    refused.

    **Arguments:** `structure`: modelfun as a structural model; `designs`, `data`: of the same call.
    **Raises:** ModelError naming the first such entry and P.
    """
    n_phi = len(designs.transforms)
    try:
        with x64():
            index = _out_of_range(structure, designs, data, n_phi)
    except _LongerPhiRejected:
        return
    if index is not None:
        raise ModelError(
            f"modelfun reads phi[{index}], and beta0 and the designs give {n_phi} parameters, phi[0] to "
            f"phi[{n_phi - 1}]; JAX would return the last one instead. Give a start for every parameter."
        )


def _out_of_range(structure: ModelFunction, designs: Designs, data: MatlabData, n_phi: int) -> int | None:
    """The smallest index k >= `n_phi` that modelfun is found to read, or None."""
    table = data.data
    slots = np.minimum(np.arange(INDEX_CHECK.rows), table.sizes[0] - 1)
    xfun = jnp.asarray(np.stack([column[0, slots] for column in table.x.values()], axis=-1))
    vfun: tuple[Any, ...] = ()
    if data.shapes:
        # The first group has the first shape.
        shape = data.shapes[0]
        vfun = (jnp.asarray(table.tables[TABLE][0][VALUE][0, 1 : 1 + int(np.prod(shape))].reshape(shape)),)
    typical = np.mean(designs.fixed, axis=tuple(range(designs.fixed.ndim - 2))) @ designs.beta
    typical_phi = np.array([float(h.to_natural(float(xb))) for xb, h in zip(typical, designs.transforms, strict=True)])
    extra = INDEX_CHECK.first_extra + INDEX_CHECK.extra_step * np.arange(INDEX_CHECK.extra_long)
    varying = max(designs.fixed.ndim, designs.random.ndim) == 4 and not structure.by_row
    lengths = (n_phi + INDEX_CHECK.extra_short, n_phi + INDEX_CHECK.extra_long)
    phis = [np.concatenate([typical_phi, extra[: length - n_phi]]) for length in lengths]
    changed_phis = [np.where(np.arange(len(phi)) >= n_phi, INDEX_CHECK.change * phi, phi) for phi in phis]

    def values(rows: list[np.ndarray]) -> np.ndarray:
        try:
            return np.asarray(_values(structure, jnp.asarray(np.stack(rows)), xfun, vfun, varying))
        except Exception as error:  # whatever a user's function raises; the dry run reports its errors
            raise _LongerPhiRejected from error

    if not _changes_predictions(values([phis[0], changed_phis[0]])).any():
        return None
    positions = []
    for phi, changed_phi in zip(phis, changed_phis, strict=True):
        one_by_one = [np.where(np.arange(len(phi)) == k, changed_phi, phi) for k in range(n_phi, len(phi))]
        positions.append({n_phi + int(k) for k in np.flatnonzero(_changes_predictions(values([phi, *one_by_one])))})
    shift = INDEX_CHECK.extra_long - INDEX_CHECK.extra_short
    from_start = positions[0] & positions[1]
    from_end = {k for k in positions[0] if k + shift in positions[1]}
    explained = positions[0] <= from_start | from_end and positions[1] <= from_start | {k + shift for k in from_end}
    beyond = from_start - from_end
    return min(beyond) if explained and beyond else None


@eqx.filter_jit
def _values(structure: ModelFunction, phis: Any, xfun: Any, vfun: tuple[Any, ...], varying: bool) -> Any:
    """Predictions (vectors of phi, rows)."""

    def per_row(phi: Any, row: Any) -> Any:
        return jnp.asarray(structure.fn(phi[None, :] if varying else phi, row[None, :], *vfun)).reshape(())

    return jax.vmap(lambda phi: jax.vmap(lambda row: per_row(phi, row))(xfun))(phis)


def _changes_predictions(values: np.ndarray) -> np.ndarray:
    """For each vector of phi after the first, True if it changes a prediction; a NaN difference counts as no change."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (np.abs(values[1:] - values[0]) > INDEX_CHECK.rounding * np.abs(values[0])).any(axis=1)
