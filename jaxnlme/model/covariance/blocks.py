"""Block diagonal covariances: independent blocks of random effects."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import AbstractCovariance
from jaxnlme.numerics.arrays import xp


class Blocks(AbstractCovariance):
    """A block diagonal psi, up to the order of the effects: independent blocks, each with its own structure.

    theta is the concatenation of the blocks' vectors.

    **Arguments:** `size`: the number of random effects; `parts`: pairs (effects, covariance), where `effects` are the
    positions of the block's effects; each of 0, ..., size - 1 occurs once.
    **Raises:** OptionError where they do not.
    """

    size: int = eqx.field(static=True)
    positions: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    families: tuple[AbstractCovariance, ...]

    def __init__(self, size: int, parts: tuple[tuple[tuple[int, ...], AbstractCovariance], ...]):
        self.size = size
        self.positions = tuple(tuple(effects) for effects, _ in parts)
        self.families = tuple(part for _, part in parts)

    @property
    def parts(self) -> tuple[tuple[tuple[int, ...], AbstractCovariance], ...]:
        """Pairs of the effects of a block and its covariance."""
        return tuple(zip(self.positions, self.families, strict=True))

    def __check_init__(self):
        listed = sorted(k for effects, _ in self.parts for k in effects)
        if listed != list(range(self.size)):
            raise OptionError(
                f"covariance blocks must name each of the {self.size} random effects once; received positions {listed}."
            )

    @property
    def n_unconstrained(self) -> int:
        return sum(part.n_unconstrained for _, part in self.parts)

    def _blocks(self, theta):
        """For each block the start of its part of theta, its effects, its covariance, and its part of theta."""
        start = 0
        for effects, part in self.parts:
            yield start, np.array(effects), part, theta[start : start + part.n_unconstrained]
            start += part.n_unconstrained

    def factor(self, theta):
        """L (random, random) with L L' = psi; not triangular where the effects of blocks alternate."""
        n = self.size
        lower = xp(theta).zeros((n, n))
        for _, effects, part, part_theta in self._blocks(theta):
            selection = np.eye(n)[:, effects]
            lower = lower + selection @ part.factor(part_theta) @ selection.T
        return lower

    def apply(self, theta, z):
        b: list[Any] = [None] * self.size
        for _, effects, part, part_theta in self._blocks(theta):
            block_b = part.apply(part_theta, jnp.stack([z[k] for k in effects]))
            for j, k in enumerate(effects):
                b[k] = block_b[j]
        return jnp.stack(b)

    def from_matrix(self, psi):
        psi = np.asarray(psi, float)
        return np.concatenate(
            [part.from_matrix(psi[np.ix_(effects, effects)]) for effects, part in ((list(e), p) for e, p in self.parts)]
        )

    @property
    def has_closed_form(self):
        return all(part.has_closed_form for _, part in self.parts)

    def from_moment(self, moment):
        return jnp.concatenate(
            [
                part.from_moment(moment[np.ix_(effects, effects)])
                for effects, part in ((list(e), p) for e, p in self.parts)
            ]
        )

    def with_elements(self, sds, pairs):
        parts = []
        for effects, part in self.parts:
            own_sds = [effects.index(j) for j in sds if j in effects]
            # Positions in the block, in order: the effects of a block need not be sorted.
            own = [(effects.index(j), effects.index(k)) for j, k in pairs if j in effects and k in effects]
            own_pairs = [(min(pair), max(pair)) for pair in own]
            parts.append((effects, part.with_elements(own_sds, own_pairs) if own_sds or own_pairs else part))
        return Blocks(self.size, tuple(parts))

    @property
    def fixed_entries(self):
        out = []
        for start, _, part, _ in self._blocks(np.zeros(self.n_unconstrained)):
            out += [start + entry for entry in part.fixed_entries]
        return tuple(out)

    @property
    def log_scales(self):
        out = []
        for start, effects, part, _ in self._blocks(np.zeros(self.n_unconstrained)):
            for index, vanishing, others in part.log_scales:
                out.append((start + index, tuple(int(effects[k]) for k in vanishing), tuple(start + o for o in others)))
        return tuple(out)

    @property
    def correlated_pairs(self):
        pairs = []
        for effects, part in self.parts:
            pairs += [tuple(sorted((effects[j], effects[k]))) for j, k in part.correlated_pairs]
        return tuple(pairs)
