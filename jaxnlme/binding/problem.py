"""Problem: a density and the data of all groups as one pytree, which jit, vmap and grad take whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.model.density import Density, Group
from jaxnlme.typing import PyTree

# Rows that a CPU takes at a time, so that what is made of them stays in a core's caches: blocks of 1,500 to 4,000 rows
# ran alike, a third faster than 6,000 and three times as fast as 110,000 at once.
BLOCK_ROWS = 3_000


class Problem(eqx.Module):
    """The model resolved against a data set.

    `buckets`: stacked groups, padded to one size each; `order` (groups,): the place of each group in the
    concatenated buckets; `weights` (groups,) of the objective.
    """

    density: Density
    buckets: tuple[Group, ...]
    order: Any
    weights: Any

    @property
    def n_groups(self) -> int:
        return self.order.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows that are computed, padding included."""
        return sum(bucket.y.shape[0] * bucket.y.shape[1] for bucket in self.buckets)

    def map(self, fn: Callable[..., PyTree], *per_group: Any) -> PyTree:
        """vmap of fn(group, *values) over all groups, in the order of the data.

        **Arguments:** `per_group`: pytrees with a leading groups axis, handed over one slice a group. Outputs must have
        the same shape for every bucket (nothing with an obs axis); see `map_buckets` for those.
        """
        pieces = self.map_buckets(fn, *per_group)
        if len(pieces) == 1:
            return pieces[0]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[self.order], *pieces)

    def with_spared(self, weights: Any) -> Problem:
        """The problem in which groups of zero `weights` (groups,) hold the data of a group that counts: nothing times
        NaN is NaN, so what a weight of zero leaves out must not be computed at all."""
        inverse = jnp.argsort(self.order)
        buckets, start = [], 0
        for bucket in self.buckets:
            count = bucket.y.shape[0]
            counts = jnp.asarray(weights)[inverse[start : start + count]] != 0
            # One group is read and the others stay where they are: no device collects the data of all.
            spare = jnp.argmax(counts)

            def spared(leaf, counts=counts, spare=spare):
                return jnp.where(counts.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, leaf[spare])

            buckets.append(jax.tree.map(spared, bucket))
            start += count
        return Problem(self.density, tuple(buckets), self.order, self.weights)

    def map_buckets(self, fn: Callable[..., PyTree], *per_group: Any) -> list[PyTree]:
        """Like `map`, one output per bucket, groups in the bucket's order."""
        if len(self.buckets) == 1:
            return [_in_blocks(fn, self.buckets[0], *per_group)]
        inverse = jnp.argsort(self.order)
        pieces, start = [], 0
        for bucket in self.buckets:
            count = bucket.y.shape[0]
            own = inverse[start : start + count]
            values = jax.tree.map(lambda leaf, own=own: leaf[own], per_group)
            pieces.append(_in_blocks(fn, bucket, *values))
            start += count
        return pieces


def _in_blocks(fn: Callable[..., PyTree], bucket: Group, *values: Any) -> PyTree:
    """vmap of fn(group, *values), on a CPU in blocks of groups that fit its cache; a search then lasts as long as the
    slowest group of its block, not of all."""
    groups, obs = bucket.y.shape
    blocks = min(groups, round(groups * obs / BLOCK_ROWS)) if jax.default_backend() == "cpu" else 1
    if blocks < 2:
        return jax.vmap(fn)(bucket, *values)
    width = -(-groups // blocks)
    short = width * blocks - groups

    def cut(leaf):
        leaf = jnp.asarray(leaf)
        if short:
            leaf = jnp.concatenate([leaf, leaf[:short]])
        return leaf.reshape(blocks, width, *leaf.shape[1:])

    out = jax.lax.map(lambda block: jax.vmap(fn)(*block), jax.tree.map(cut, (bucket, *values)))
    return jax.tree.map(lambda leaf: leaf.reshape(blocks * width, *leaf.shape[2:])[:groups], out)
