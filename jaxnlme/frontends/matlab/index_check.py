"""Does modelfun read a phi that is not there? JAX answers phi[k] beyond the end with the last entry, without a word."""

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
from jaxnlme.precision import x64

# Rows that are asked: one alone may not tell (a rate has no effect at time zero).
ROWS = 8
# Entries that a longer phi has beyond P. Two lengths tell phi[2] from phi[-1], which moves with the end.
LONGER, LONGEST = 8, 16
# A change of a quarter that moves a prediction by less than this share is rounding.
ROUNDING = 1e-9


class _TakesNoLongerPhi(Exception):
    """modelfun failed on a phi that is longer than it is, which says nothing of how it does on its own."""


def check_reads(structure: ModelFunction, designs: Designs, data: MatlabData) -> None:
    """Looks at which entries move the predictions of a few rows when phi is handed over longer than it is.

    An entry at or beyond P that is read at the same position from the start in two lengths is an index out of range,
    if every entry that is read is explained so or as the same position from the end; whatever else modelfun does with
    the length of phi (sums, halves, strides) leaves its reads unjudged, and so does a modelfun that takes no longer
    phi.

    **Errors:** ModelError naming the first such entry and P.
    """
    n_phi = len(designs.transforms)
    try:
        with x64():
            found = _out_of_range(structure, designs, data, n_phi)
    except _TakesNoLongerPhi:
        return
    if found is not None:
        raise ModelError(
            f"modelfun reads phi[{found}], and beta0 and the designs give {n_phi} parameters, phi[0] to "
            f"phi[{n_phi - 1}]; JAX would hand over the last one instead. Give a start for every parameter."
        )


def _out_of_range(structure: ModelFunction, designs: Designs, data: MatlabData, n_phi: int) -> int | None:
    table = data.data
    slots = np.minimum(np.arange(ROWS), table.sizes[0] - 1)
    xfun = jnp.asarray(np.stack([column[0, slots] for column in table.x.values()], axis=-1))
    vfun: tuple[Any, ...] = ()
    if data.shapes:
        # The first group has the first shape.
        shape = data.shapes[0]
        vfun = (jnp.asarray(table.tables[TABLE][0][VALUE][0, 1 : 1 + int(np.prod(shape))].reshape(shape)),)
    typical = np.mean(designs.fixed, axis=tuple(range(designs.fixed.ndim - 2))) @ designs.beta
    known = np.array([float(h.to_natural(float(xb))) for xb, h in zip(typical, designs.transforms, strict=True)])
    extra = 0.5 + 0.07 * np.arange(LONGEST)
    varying = max(designs.fixed.ndim, designs.random.ndim) == 4 and not structure.by_row
    lengths = (n_phi + LONGER, n_phi + LONGEST)
    phis = [np.concatenate([known, extra[: length - n_phi]]) for length in lengths]
    changed = [np.where(np.arange(length) >= n_phi, 1.25 * phi, phi) for phi, length in zip(phis, lengths, strict=True)]

    def values(rows: list[np.ndarray]) -> np.ndarray:
        try:
            return np.asarray(_values(structure, jnp.asarray(np.stack(rows)), xfun, vfun, varying))
        except Exception as error:  # whatever a user's function raises; its faults the dry run names
            raise _TakesNoLongerPhi from error

    if not _moved(values([phis[0], changed[0]])).any():
        return None
    reads = []
    for phi, other in zip(phis, changed, strict=True):
        one_by_one = [np.where(np.arange(len(phi)) == k, other, phi) for k in range(n_phi, len(phi))]
        reads.append({n_phi + int(k) for k in np.flatnonzero(_moved(values([phi, *one_by_one])))})
    shift = LONGEST - LONGER
    from_start = reads[0] & reads[1]
    from_end = {k for k in reads[0] if k + shift in reads[1]}
    explained = reads[0] <= from_start | from_end and reads[1] <= from_start | {k + shift for k in from_end}
    beyond = from_start - from_end
    return min(beyond) if explained and beyond else None


@eqx.filter_jit
def _values(structure: ModelFunction, phis: Any, xfun: Any, vfun: tuple[Any, ...], varying: bool) -> Any:
    """Predictions (vectors of phi, rows)."""

    def one(phi: Any, row: Any) -> Any:
        return jnp.asarray(structure.fn(phi[None, :] if varying else phi, row[None, :], *vfun)).reshape(())

    return jax.vmap(lambda phi: jax.vmap(lambda row: one(phi, row))(xfun))(phis)


def _moved(values: np.ndarray) -> np.ndarray:
    """Which vectors give other predictions than the first of them; what is not finite does not tell."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (np.abs(values[1:] - values[0]) > ROUNDING * np.abs(values[0])).any(axis=1)
