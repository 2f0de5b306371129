"""The interface of covariance families of the random effects."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

from jaxnlme.model.settings import MODEL
from jaxnlme.numerics.linalg import lower_product, semidefinite_cholesky
from jaxnlme.typing import Matrix, Vector

# A standard deviation (j,) or a correlation (j, k), j < k, by the positions of the effects.
Element = tuple[int, ...]


class AbstractCovariance(eqx.Module):
    """A family of covariance matrices psi (random, random), parametrised by a vector theta (unconstrained,).

    A subclass defines `size` (the number of random effects), `n_unconstrained`, `factor`, `from_matrix`, `log_scales`
    and `correlated_pairs`; a psi may be singular, so everything is computed from a factor L with psi = L L'.
    """

    size: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def n_unconstrained(self) -> int:
        """Number of parameters: the length of theta."""

    @abc.abstractmethod
    def factor(self, theta: Vector) -> Matrix:
        """A matrix L (random, random) with psi = L L', lower triangular unless the subclass says otherwise.

        **Arguments:** `theta` (unconstrained,); entries of -inf are allowed where they are log standard deviations.
        """

    @abc.abstractmethod
    def from_matrix(self, psi: np.ndarray) -> np.ndarray:
        """theta of the matrix of this family nearest to `psi`, on the host.

        **Arguments:** `psi` (random, random), positive semidefinite.
        **Returns:** (unconstrained,); log standard deviations may be -inf.
        **Raises:** ValueError where psi is not positive semidefinite.
        """

    @property
    def has_closed_form(self) -> bool:
        """True if `from_moment` is implemented: the maximum likelihood estimate given b has a closed form."""
        return False

    def from_moment(self, moment: Matrix) -> Vector:
        """theta that maximises -log|psi| - tr(psi^-1 moment), the likelihood of effects with this second moment;
        traceable.

        **Arguments:** `moment` (random, random): a positive definite mean of outer products b b'.
        **Returns:** (unconstrained,).
        **Raises:** NotImplementedError where there is no closed form (`has_closed_form`).
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form of its maximum likelihood estimate.")

    @property
    @abc.abstractmethod
    def log_scales(self) -> tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]:
        """The entries of theta that are log standard deviations and can go to -inf, where variances are zero.

        For each a triple (index, effects, others): its index in theta, the random effects whose variances then vanish,
        and the indices of the other entries of theta that psi then no longer depends on.
        """

    def apply(self, theta: Vector, z: Vector) -> Vector:
        """The random effects b = L(theta) z (random,) for whitened effects `z` (random,)."""
        return lower_product(self.factor(theta), z)

    def psi(self, theta: Vector) -> Matrix:
        """The covariance matrix psi = L L' (random, random)."""
        lower = self.factor(theta)
        return lower @ lower.T

    @property
    @abc.abstractmethod
    def correlated_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs (j, k), j < k, of effects whose correlation is estimated."""

    def with_elements(self, sds: Sequence[int], pairs: Sequence[tuple[int, int]]) -> AbstractCovariance:
        """The same family of matrices, with elements of psi as entries of theta that other elements leave free, so that
        they can be held fixed (`held.py`).

        **Arguments:** `sds`: effects whose standard deviation is to be an entry; `pairs`: pairs (j, k), j < k, whose
        correlation is.
        **Returns:** an AbstractCovariance; this one, where its entries are standard deviations and correlations.
        """
        return self

    @property
    def fixed_entries(self) -> tuple[int, ...]:
        """Entries of theta that are held fixed."""
        return ()

    @property
    def unwrapped(self) -> AbstractCovariance:
        """The structure itself, without the values that are held fixed in it."""
        return self


def factor_pattern(covariance: AbstractCovariance, n: int) -> list[tuple[int, int]]:
    """The entries (row, column) of the factor L that are not zero by structure.

    For the families of this package they are those of the factor at arbitrary parameters (n,), computed on the host;
    for other families, and where the family has traced leaves, all entries.
    """
    covariance = covariance.unwrapped
    of_package = type(covariance).__module__.startswith("jaxnlme.")
    if not of_package or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(covariance)):
        return [(i, j) for i in range(covariance.size) for j in range(covariance.size)]
    factor = np.asarray(covariance.factor(np.linspace(*MODEL.pattern_range, n)))
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(factor), strict=True)]


def log_sd(variances: np.ndarray) -> np.ndarray:
    """Log standard deviations, half the logarithms of `variances`; -inf where a variance is zero."""
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(variances)


def as_semidefinite(psi: np.ndarray) -> np.ndarray:
    """psi as an array of floats. **Raises:** ValueError where it is not positive semidefinite."""
    psi = np.asarray(psi, float)
    semidefinite_cholesky(psi)
    return psi


def element_name(element: Element, effects: Sequence[str]) -> str:
    """The reported name of an element of psi, such as "sd(ka)" or "corr(ka, cl)"."""
    return f"{'sd' if len(element) == 1 else 'corr'}({', '.join(effects[k] for k in element)})"


def elements_by_name(effects: Sequence[str]) -> dict[str, Element]:
    """All standard deviations and correlations of the random effects `effects`, by reported name."""
    sds = [(k,) for k in range(len(effects))]
    pairs = [(j, k) for k in range(len(effects)) for j in range(k)]
    return {element_name(element, effects): element for element in (*sds, *pairs)}
