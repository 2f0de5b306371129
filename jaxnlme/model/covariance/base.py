"""What a family of covariances is, and what the families share on the host."""

from __future__ import annotations

import abc

import equinox as eqx
import numpy as np

from jaxnlme.numerics.linalg import lower_product, semidefinite_cholesky
from jaxnlme.typing import Matrix, Vector


class AbstractCovariance(eqx.Module):
    """A family of covariance matrices psi (random, random), parametrised by theta (unconstrained,)."""

    size: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def n_unconstrained(self) -> int:
        """Length of theta."""

    @abc.abstractmethod
    def factor(self, theta: Vector) -> Matrix:
        """Lower triangular L (random, random) with psi = L L'."""

    @abc.abstractmethod
    def from_matrix(self, psi: np.ndarray) -> np.ndarray:
        """theta (unconstrained,) of the member nearest to `psi` (random, random), on the host; entries may be -inf.

        **Errors:** ValueError where psi is not positive semidefinite.
        """

    @property
    def has_closed_form(self) -> bool:
        """Whether `from_moment` exists."""
        return False

    def from_moment(self, moment: Matrix) -> Vector:
        """theta (unconstrained,) of the member that maximises -log|psi| - tr(psi^-1 moment), inside a compiled program.

        **Arguments:** `moment` (random, random), a positive definite mean of outer products b b'.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form of its maximum likelihood estimate.")

    @property
    @abc.abstractmethod
    def log_scales(self) -> tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]:
        """How a variance can go to zero: for each entry of theta that is the log of a factor's diagonal, the triple
        (its index, the effects concerned, the other entries of theta that then have no effect)."""

    def apply(self, theta: Vector, z: Vector) -> Vector:
        """b = L(theta) z (random,)."""
        return lower_product(self.factor(theta), z)

    def psi(self, theta: Vector) -> Matrix:
        """psi = L L' (random, random)."""
        lower = self.factor(theta)
        return lower @ lower.T

    @property
    @abc.abstractmethod
    def related(self) -> tuple[tuple[int, int], ...]:
        """Pairs (j, k), j < k, of effects whose correlation is a parameter."""


def log_sd(variances: np.ndarray) -> np.ndarray:
    """Half the logarithms; -inf where a variance is zero."""
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(variances)


def positive(psi: np.ndarray) -> np.ndarray:
    """psi as floats. **Errors:** ValueError where it is not positive semidefinite."""
    psi = np.asarray(psi, float)
    semidefinite_cholesky(psi)
    return psi
