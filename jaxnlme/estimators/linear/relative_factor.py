"""Factors of the covariance of random effects relative to the residual variance: psi = sigma^2 L(theta) L(theta)'.

The likelihood of a linear mixed model is smooth in the entries of L, also where a variance is zero, and does not change
with the sign of a column of L. theta holds entries of L, not their logarithms: a variance of zero is then an ordinary
point of the search.

**Source:** Bates, Maechler, Bolker and Walker (2015), Journal of Statistical Software 67(1), section 2.2 (theta).
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.model.covariance.structures import (
    AbstractCovariance,
    Blocks,
    Diagonal,
    LogCholesky,
    LogMatrix,
    MultipleOfIdentity,
)
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.central_differences import central_differences


class AbstractRelativeFactor(eqx.Module):
    """A family of factors L (effects, effects) with parameters theta (parameters,)."""

    size: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def n_parameters(self) -> int:
        """The length of theta."""

    @abc.abstractmethod
    def start(self) -> np.ndarray:
        """theta (parameters,) of L = I, as nearly as the family allows."""

    @abc.abstractmethod
    def factor(self, theta: Any) -> Any:
        """L (effects, effects), of the type of `theta`."""

    @abc.abstractmethod
    def from_psi(self, psi: np.ndarray) -> np.ndarray:
        """theta (parameters,) of the matrix of the family nearest to `psi` (effects, effects), relative to sigma^2."""

    @property
    def signed(self) -> tuple[tuple[int, ...], ...]:
        """Entries of theta, by column of L, whose signs may be changed together without changing psi."""
        return ()

    @property
    def scales(self) -> tuple[int, ...]:
        """Entries of theta that are a variance of zero where they are zero and all others are at their values."""
        return ()

    def equivariance(self) -> str:
        """The linear maps of the effects that keep the family: "any" (triangular), "diagonal", or "scalar"."""
        return "scalar"


class FullFactor(AbstractRelativeFactor):
    """Lower triangular L: theta is its lower triangle by rows."""

    size: int = eqx.field(static=True)

    @property
    def n_parameters(self) -> int:
        return self.size * (self.size + 1) // 2

    def start(self) -> np.ndarray:
        return np.eye(self.size)[np.tril_indices(self.size)]

    def factor(self, theta: Any) -> Any:
        module = xp(theta)
        zero = module.zeros_like(theta[0])
        entries = iter(range(self.n_parameters))
        rows = [[theta[next(entries)] if j <= i else zero for j in range(self.size)] for i in range(self.size)]
        return module.stack([module.stack(row) for row in rows])

    def from_psi(self, psi: np.ndarray) -> np.ndarray:
        from jaxnlme.numerics.linalg import semidefinite_cholesky

        return semidefinite_cholesky(psi)[np.tril_indices(self.size)]

    @property
    def signed(self) -> tuple[tuple[int, ...], ...]:
        columns = np.tril_indices(self.size)[1]
        return tuple(tuple(int(k) for k in np.flatnonzero(columns == column)) for column in range(self.size))

    @property
    def scales(self) -> tuple[int, ...]:
        rows, columns = np.tril_indices(self.size)
        return tuple(int(k) for k in np.flatnonzero(rows == columns))

    def equivariance(self) -> str:
        return "any"


class DiagonalFactor(AbstractRelativeFactor):
    """Diagonal L: theta is its diagonal."""

    size: int = eqx.field(static=True)

    @property
    def n_parameters(self) -> int:
        return self.size

    def start(self) -> np.ndarray:
        return np.ones(self.size)

    def factor(self, theta: Any) -> Any:
        return xp(theta).diag(theta)

    def from_psi(self, psi: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(np.diag(psi), 0.0))

    @property
    def signed(self) -> tuple[tuple[int, ...], ...]:
        return tuple((k,) for k in range(self.size))

    @property
    def scales(self) -> tuple[int, ...]:
        return tuple(range(self.size))

    def equivariance(self) -> str:
        return "diagonal"


class IdentityFactor(AbstractRelativeFactor):
    """L = theta I: effects with one standard deviation."""

    size: int = eqx.field(static=True)

    @property
    def n_parameters(self) -> int:
        return 1

    def start(self) -> np.ndarray:
        return np.ones(1)

    def factor(self, theta: Any) -> Any:
        return theta[0] * np.eye(self.size)

    def from_psi(self, psi: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(np.mean(np.diag(psi), keepdims=True), 0.0))

    @property
    def signed(self) -> tuple[tuple[int, ...], ...]:
        return ((0,),)

    @property
    def scales(self) -> tuple[int, ...]:
        return (0,)


class StructuredFactor(AbstractRelativeFactor):
    """The factor of another covariance structure of `jn.covariances`, in its own unconstrained parameters."""

    size: int = eqx.field(static=True)
    structure: AbstractCovariance

    @property
    def n_parameters(self) -> int:
        return self.structure.n_unconstrained

    def start(self) -> np.ndarray:
        return np.asarray(self.structure.from_matrix(np.eye(self.size)))

    def factor(self, theta: Any) -> Any:
        return self.structure.factor(theta)

    def from_psi(self, psi: np.ndarray) -> np.ndarray:
        return np.asarray(self.structure.from_matrix(psi))


class BlockFactor(AbstractRelativeFactor):
    """Block diagonal L, with a factor for each block of effects."""

    size: int = eqx.field(static=True)
    parts: tuple[tuple[tuple[int, ...], AbstractRelativeFactor], ...]

    @property
    def n_parameters(self) -> int:
        return sum(part.n_parameters for _, part in self.parts)

    def _starts(self) -> list[int]:
        return [int(k) for k in np.cumsum([0, *(part.n_parameters for _, part in self.parts)])]

    def start(self) -> np.ndarray:
        return np.concatenate([part.start() for _, part in self.parts])

    def factor(self, theta: Any) -> Any:
        out = xp(theta).zeros((self.size, self.size), theta.dtype)
        for first, (effects, part) in zip(self._starts(), self.parts, strict=False):
            place = np.eye(self.size)[list(effects)]
            out = out + place.T @ part.factor(theta[first : first + part.n_parameters]) @ place
        return out

    def from_psi(self, psi: np.ndarray) -> np.ndarray:
        return np.concatenate([part.from_psi(psi[np.ix_(effects, effects)]) for effects, part in self.parts])

    @property
    def signed(self) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(first + k for k in column)
            for first, (_, part) in zip(self._starts(), self.parts, strict=False)
            for column in part.signed
        )

    @property
    def scales(self) -> tuple[int, ...]:
        pairs = zip(self._starts(), self.parts, strict=False)
        return tuple(first + k for first, (_, part) in pairs for k in part.scales)


def relative_factor(structure: AbstractCovariance) -> AbstractRelativeFactor:
    """The family of relative factors of a covariance structure."""
    if isinstance(structure, (LogCholesky, LogMatrix)):
        return FullFactor(structure.size)
    if isinstance(structure, Diagonal):
        return DiagonalFactor(structure.size)
    if isinstance(structure, MultipleOfIdentity):
        return IdentityFactor(structure.size)
    if isinstance(structure, Blocks):
        parts = tuple((tuple(effects), relative_factor(part)) for effects, part in structure.parts)
        return BlockFactor(structure.size, parts)
    return StructuredFactor(structure.size, structure)


def psi_and_slopes(factor: AbstractRelativeFactor, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """psi (effects, effects), relative to sigma^2, and its derivatives (parameters, effects, effects) at `theta`."""
    relative = np.asarray(factor.factor(theta))
    half = relative @ np.swapaxes(central_differences(lambda point: np.asarray(factor.factor(point)), theta), 1, 2)
    return relative @ relative.T, half + np.swapaxes(half, 1, 2)
