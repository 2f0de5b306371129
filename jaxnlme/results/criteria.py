"""Likelihood criteria, and the one place where parameters are counted."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Criteria:
    """Log-likelihood and information criteria of a fit.

    `n_parameters` counts estimated entries: unfixed beta, covariance and error parameters, and free leaves (an effect
    whose variance is estimated as zero still counts). `bic` uses log(number of observed responses), `bic_groups`
    log(number of groups). `objective` is NONMEM's: -2 log L - N log(2 pi).
    """

    log_likelihood: float
    n_parameters: int
    n_obs: int
    n_groups: int

    @property
    def aic(self) -> float:
        return -2.0 * self.log_likelihood + 2.0 * self.n_parameters

    @property
    def bic(self) -> float:
        return -2.0 * self.log_likelihood + np.log(self.n_obs) * self.n_parameters

    @property
    def bic_groups(self) -> float:
        return -2.0 * self.log_likelihood + np.log(self.n_groups) * self.n_parameters

    @property
    def objective(self) -> float:
        return -2.0 * self.log_likelihood - self.n_obs * float(np.log(2.0 * np.pi))


def count_parameters(fixed: np.ndarray, n_free: int) -> int:
    """Estimated entries: unfixed dense ones, and the leaves of the free block."""
    return int(np.sum(~fixed)) + n_free
