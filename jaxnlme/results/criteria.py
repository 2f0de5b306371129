"""Information criteria, and the counts of parameters, observations and groups that they use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme import markup
from jaxnlme.data.grouped import GroupedData


@dataclasses.dataclass(frozen=True)
class Criteria:
    """Log-likelihood and information criteria of a fit.

    `n_parameters` counts estimated entries: unfixed beta, covariance and error parameters, and the `n_free` leaves of
    the free block (an effect whose variance is estimated as zero still counts); `n_fixed`, entries held at their
    start. Observations and groups are weighted as in the log-likelihood: `n_obs` =
    sum_i w_i n_i (n_i observed responses of group i), `n_groups` = sum_i w_i over the groups with an observed response
    (the others add nothing to the likelihood), floats where these are not whole. `bic` uses log(n_used), `bic_groups`
    log(n_groups). `objective` is NONMEM's: -2 log L - n_used log(2 pi), where
    censored responses, of which a probability is in the likelihood and no density, are not counted (`n_censored` of
    n_obs).

    `n_integrated` is the number of unfixed beta of a restricted likelihood, which integrates them out, and zero
    otherwise. `n_parameters` includes them, and `n_used` = n_obs - n_integrated, as in R's nlme (Pinheiro and Bates
    2000, Mixed-Effects Models in S and S-PLUS, section 2.4.1).
    """

    log_likelihood: float
    n_parameters: int
    n_fixed: int
    n_free: int
    n_obs: int | float
    n_groups: int | float
    n_integrated: int = 0
    n_censored: int | float = 0

    @property
    def n_used(self) -> int | float:
        """n_obs - n_integrated."""
        return self.n_obs - self.n_integrated

    @property
    def aic(self) -> float:
        """-2 log L + 2 n_parameters."""
        return -2.0 * self.log_likelihood + 2.0 * self.n_parameters

    @property
    def bic(self) -> float:
        """-2 log L + n_parameters log n_used."""
        return -2.0 * self.log_likelihood + float(np.log(self.n_used)) * self.n_parameters

    @property
    def bic_groups(self) -> float:
        """-2 log L + n_parameters log n_groups."""
        return -2.0 * self.log_likelihood + float(np.log(self.n_groups)) * self.n_parameters

    @property
    def objective(self) -> float:
        """-2 log L - (n_used - n_censored) log(2 pi), the objective of NONMEM."""
        return -2.0 * self.log_likelihood - (self.n_used - self.n_censored) * float(np.log(2.0 * np.pi))

    def _repr_html_(self) -> str:
        values = {
            "log-likelihood": f"{self.log_likelihood:.4f}",
            "AIC": f"{self.aic:.2f}",
            "BIC": f"{self.bic:.2f} (N = {self.n_used:g})",
            "BIC groups": f"{self.bic_groups:.2f} ({self.n_groups:g} groups)",
            "objective": f"{self.objective:.4f} (-2 log L - N log 2 pi)",
            "parameters": f"{self.n_parameters} estimated, {self.n_fixed} fixed",
        }
        return markup.table("", (), list(values.items()))


class HasCriteria:
    """Base of what has `criteria`, with its values as properties."""

    if TYPE_CHECKING:

        @property
        def criteria(self) -> Criteria:
            """Log-likelihood, AIC, BIC and the counts behind them."""
            ...

    @property
    def aic(self) -> float:
        """-2 log L + 2 k."""
        return self.criteria.aic

    @property
    def bic(self) -> float:
        """-2 log L + k log(number of observed responses, each with the weight of its group; for a restricted likelihood
        less the number of beta that it integrates out)."""
        return self.criteria.bic

    @property
    def bic_groups(self) -> float:
        """-2 log L + k log(number of groups with an observed response, their weights added)."""
        return self.criteria.bic_groups

    @property
    def objective(self) -> float:
        """NONMEM's objective: -2 log L - N log(2 pi), N the number of responses as in `bic`."""
        return self.criteria.objective


def criteria(
    log_likelihood: float,
    fixed: np.ndarray,
    free: Any,
    data: GroupedData,
    totals: tuple[float, ...] | None = None,
    integrated: int = 0,
) -> Criteria:
    """The Criteria of a log-likelihood.

    **Arguments:** `fixed` (packed,) bool; `free`, the free block of Params; `data`, with the weights of the fit;
    `totals`: the weighted totals of all data where `data` are those of one process; `integrated`: a restricted
    likelihood integrates out those of the first `integrated` packed entries (beta) that are not fixed; zero for other
    likelihoods.
    """
    n_free = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(free))
    n_fixed = int(np.sum(fixed))
    if totals is None:
        totals = weighted_totals(data)
    n_obs, n_groups, n_censored = map(_whole, (*totals, 0.0)[:3])
    n_parameters = len(fixed) - n_fixed + n_free
    n_integrated = int(np.sum(~np.asarray(fixed[:integrated], bool)))
    return Criteria(log_likelihood, n_parameters, n_fixed, n_free, n_obs, n_groups, n_integrated, n_censored)


def weighted_totals(data: GroupedData) -> tuple[float, float, float]:
    """Numbers of observed responses, of groups that have one, and of responses that are censored, each with the weight
    of its group."""
    per_group = data.observed.sum(axis=1)
    censored = 0.0 if data.limits is None else (data.observed & data.limits.censored).sum(axis=1)
    counts = float(np.sum(data.weights * per_group)), float(np.sum(data.weights[per_group > 0]))
    return *counts, float(np.sum(data.weights * censored))


def _whole(count: float) -> int | float:
    """The count as an int where it is a whole number."""
    return int(count) if count.is_integer() else count
