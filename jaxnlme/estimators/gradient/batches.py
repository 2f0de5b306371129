"""Groups held out of the training, and the groups of each step.

Both are drawn with random keys folded from the labels of the groups, so that they do not depend on the order of the
groups.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, some

# Random streams of one seed.
HELD_OUT, BATCHES, CHAINS = 1, 2, 3


def group_uniforms(seed: int, stream: int, number: int, keys: np.ndarray) -> np.ndarray:
    """A uniform number (groups,) for each group of `keys` (groups,), hashes of their labels."""
    base = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), number)
    return np.asarray(_uniforms(base, np.asarray(keys, np.uint32)))


@jax.jit
def _uniforms(base: jax.Array, keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(base, key)))(keys)


def held_out_groups(data: GroupedData, keys: np.ndarray, held_out: Any, seed: int) -> np.ndarray:
    """Groups (groups,) bool that are held out of the training: with `held_out` a fraction, those of the smallest random
    numbers among the groups of weight other than zero; else those with these labels.

    **Raises:** OptionError for a label that is no group, or where no group remains on one of the two sides.
    """
    out, used = np.zeros(data.n_groups, bool), np.asarray(data.weights) != 0
    if held_out is None:
        return out
    if isinstance(held_out, float):
        order = np.argsort(np.where(used, group_uniforms(seed, HELD_OUT, 0, keys), np.inf), kind="stable")
        out[order[: round(held_out * used.sum())]] = True
    else:
        place = {label: k for k, label in enumerate(data.labels.tolist())}
        unknown = [str(label) for label in held_out if label not in place]
        if unknown:
            raise OptionError(f"Gradient: held_out names {some(unknown)}, no group of the data; expected group labels.")
        out[[place[label] for label in held_out]] = True
    if not out.any() or not (used & ~out).any():
        n = int(used.sum())
        raise OptionError(
            f"Gradient: held_out leaves {int((used & ~out).sum())} groups to train on and {int(out.sum())} held out, "
            f"of {n}; both need one at least."
        )
    return out


class Batches:
    """The groups of each step: every pass over the data is a random order of the groups, cut into batches; the groups
    that do not fill a batch wait for the next pass.

    **Arguments:** `keys` (groups,): hashes of the labels; `trained` (groups,) bool; `size` of a batch, None: all groups
    that are trained on; `seed`.
    **Attributes:** `size`; `scale`: number of groups trained on, over `size`; `steps_per_pass`.
    """

    def __init__(self, keys: np.ndarray, trained: np.ndarray, size: int | None, seed: int):
        self.keys, self.seed = keys, seed
        self.positions = np.flatnonzero(trained)
        self.size = len(self.positions) if size is None else size
        self.scale = len(self.positions) / self.size
        self.steps_per_pass = len(self.positions) // self.size
        self._pass, self._order = -1, self.positions

    def of_step(self, step: int) -> np.ndarray:
        """Positions (size,) of the groups of the step with a number."""
        if self.size == len(self.positions):
            return self.positions
        number, place = divmod(step, self.steps_per_pass)
        if number != self._pass:
            uniform = group_uniforms(self.seed, BATCHES, number, self.keys[self.positions])
            self._pass, self._order = number, self.positions[np.lexsort((self.keys[self.positions], uniform))]
        return self._order[place * self.size : (place + 1) * self.size]
