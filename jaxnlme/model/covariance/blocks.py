"""Covariances of independent blocks of effects."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import AbstractCovariance
from jaxnlme.numerics.arrays import xp


class Blocks(AbstractCovariance):
    """A permuted block diagonal psi: independent `parts`, each on its own effects.

    **Arguments:** `parts`: pairs (effects, covariance), the effects as positions; together they cover 0..random-1 once.
    """

    size: int = eqx.field(static=True)
    parts: tuple[tuple[tuple[int, ...], AbstractCovariance], ...] = eqx.field(static=True)

    def __check_init__(self):
        listed = sorted(k for effects, _ in self.parts for k in effects)
        if listed != list(range(self.size)):
            raise OptionError(
                f"covariance blocks must name each of the {self.size} random effects once; received positions {listed}."
            )

    @property
    def n_unconstrained(self) -> int:
        return sum(part.n_unconstrained for _, part in self.parts)

    def _pieces(self, theta):
        start = 0
        for effects, part in self.parts:
            yield start, np.array(effects), part, theta[start : start + part.n_unconstrained]
            start += part.n_unconstrained

    def factor(self, theta):
        """Not triangular where blocks interleave; L L' = psi all the same."""
        n = self.size
        lower = xp(theta).zeros((n, n))
        for _, effects, part, own in self._pieces(theta):
            spread = np.eye(n)[:, effects]
            lower = lower + spread @ part.factor(own) @ spread.T
        return lower

    def apply(self, theta, z):
        b: list[Any] = [None] * self.size
        for _, effects, part, own in self._pieces(theta):
            piece = part.apply(own, jnp.stack([z[k] for k in effects]))
            for place, k in enumerate(effects):
                b[k] = piece[place]
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

    @property
    def log_scales(self):
        out = []
        for start, effects, part, _ in self._pieces(np.zeros(self.n_unconstrained)):
            for index, which, others in part.log_scales:
                out.append((start + index, tuple(int(effects[k]) for k in which), tuple(start + o for o in others)))
        return tuple(out)

    @property
    def related(self):
        pairs = []
        for effects, part in self.parts:
            pairs += [tuple(sorted((effects[j], effects[k]))) for j, k in part.related]
        return tuple(pairs)
