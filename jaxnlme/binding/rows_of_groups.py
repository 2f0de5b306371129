"""Single groups of a binding, and rows of the table in words, for messages."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import some
from jaxnlme.model.density import Group


def group_at(binding: Binding, index: int) -> Group:
    """The group with position `index` in the data."""
    for bucket, positions in zip(binding.problem.buckets, binding.bucket_groups, strict=True):
        at = np.flatnonzero(np.asarray(positions) == index)
        if len(at):
            return jax.tree.map(lambda leaf, k=int(at[0]): jnp.asarray(leaf[k]), bucket)
    raise IndexError(f"there is no group with position {index}.")


def row_numbers(data: GroupedData, index: int, rows: np.ndarray) -> list[int]:
    """The numbers in the table, from 1, of the `rows` (obs,) bool of the group with position `index`."""
    return [int(data.row_index[index, j]) + 1 for j in np.flatnonzero(rows)]


def rows_in_words(numbers: Sequence[int]) -> str:
    """ "row 3", or "rows 1, 2 and 5"; of many the first ones and how many more."""
    return f"row{'s' if len(numbers) > 1 else ''} {some([str(number) for number in numbers])}"
