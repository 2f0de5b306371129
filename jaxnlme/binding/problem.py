"""Problem: a density and the data of all groups as one pytree, an argument for jit, vmap and grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.binding.settings import PLACEMENT
from jaxnlme.errors import ModelError
from jaxnlme.model.density import Density, Group
from jaxnlme.typing import PyTree


class Problem(eqx.Module):
    """A model bound to a data set.

    **Fields:** `density`; `buckets`: stacked groups, each bucket padded to one number of rows; `order` (groups,): the
    position of each group of the data in the concatenated buckets; `weights` (groups,) of the log-likelihood.

    **Example:**

    ```python
    jn.bind(model, data).problem.n_groups
    ```
    """

    density: Density
    buckets: tuple[Group, ...]
    order: Any
    weights: Any

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.order.shape[0]

    @property
    def n_rows(self) -> int:
        """Number of rows computed, padding included."""
        return sum(bucket.y.shape[0] * bucket.y.shape[1] for bucket in self.buckets)

    def map(self, fn: Callable[..., PyTree], *per_group: Any) -> PyTree:
        """vmap of fn(group, *values) over all groups.

        **Arguments:** `fn`: its outputs must have the same shape for every bucket (no obs axis; see `map_buckets` for
        those); `per_group`: pytrees with a leading groups axis in the order of the data, one slice a group.
        **Returns:** the outputs with a leading groups axis, in the order of the data.
        """
        by_bucket = self.map_buckets(fn, *per_group)
        if len(by_bucket) == 1:
            return by_bucket[0]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[self.order], *by_bucket)

    def replace_zero_weight_groups(self, weights: Any) -> Problem:
        """The problem with the data of groups of zero weight replaced by those of a group with a positive weight: zero
        times NaN is NaN, so their own likelihoods must not be computed.

        **Arguments:** `weights` (groups,).
        **Returns:** a Problem.
        """
        inverse = jnp.argsort(self.order)
        buckets, start = [], 0
        for bucket in self.buckets:
            count = bucket.y.shape[0]
            positive = jnp.asarray(weights)[inverse[start : start + count]] != 0
            # Only one group is sent to other devices; no device needs the data of all groups.
            source = jnp.argmax(positive)

            def replaced(leaf, positive=positive, source=source):
                return jnp.where(positive.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, leaf[source])

            buckets.append(jax.tree.map(replaced, bucket))
            start += count
        return Problem(self.density, tuple(buckets), self.order, self.weights)

    def map_buckets(self, fn: Callable[..., PyTree], *per_group: Any) -> list[PyTree]:
        """`map` of `fn` and `per_group` values with one output per bucket, groups in the order of the bucket."""
        if len(self.buckets) == 1:
            return [_in_blocks(fn, self.buckets[0], *per_group)]
        inverse = jnp.argsort(self.order)
        outputs, start = [], 0
        for bucket in self.buckets:
            count = bucket.y.shape[0]
            groups = inverse[start : start + count]
            values = jax.tree.map(lambda leaf, groups=groups: leaf[groups], per_group)
            outputs.append(_in_blocks(fn, bucket, *values))
            start += count
        return outputs


def check_problem(value: Any) -> None:
    """**Raises:** ModelError where `value` is not a Problem."""
    if not isinstance(value, Problem):
        raise ModelError(
            f"problem must be a jn.Problem, as in jn.bind(model, data).problem; received {type(value).__name__}."
        )


def _in_blocks(fn: Callable[..., PyTree], bucket: Group, *values: Any) -> PyTree:
    """vmap of fn(group, *values), on a CPU in blocks of groups that fit its caches; an iterative search then ends with
    the slowest group of its block rather than of all groups."""
    groups, obs = bucket.y.shape
    blocks = min(groups, round(groups * obs / PLACEMENT.block_rows)) if jax.default_backend() == "cpu" else 1
    if blocks < 2:
        return jax.vmap(fn)(bucket, *values)
    width = -(-groups // blocks)
    missing = width * blocks - groups

    def cut(leaf):
        leaf = jnp.asarray(leaf)
        if missing:
            leaf = jnp.concatenate([leaf, leaf[:missing]])
        return leaf.reshape(blocks, width, *leaf.shape[1:])

    out = jax.lax.map(lambda block: jax.vmap(fn)(*block), jax.tree.map(cut, (bucket, *values)))
    return jax.tree.map(lambda leaf: leaf.reshape(blocks * width, *leaf.shape[2:])[:groups], out)
