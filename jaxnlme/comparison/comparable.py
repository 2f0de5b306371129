"""Fits in a comparison: the protocol for results of other kinds, and candidates, the same for all kinds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxnlme.comparison.designs import fixed_effects_digest
from jaxnlme.comparison.exactness import approximation_of, is_exact
from jaxnlme.comparison.parameter_units import parameter_units
from jaxnlme.data._responses import observed_responses, response_digest
from jaxnlme.errors import OptionError, shown
from jaxnlme.results.criteria import Criteria, HasCriteria
from jaxnlme.results.record import FitRecord


class Comparable(Protocol):
    """A result that `jn.compare` takes beside the fits of `jn.fit`.

    **Fields:**

    - `log_likelihood`; `restricted`: it is a restricted one; `criteria`; `converged`; `status`, whose text explains it.
    - `fingerprint`: `jaxnlme.data._responses.response_digest` of the responses, in the order of the table.
    - `method`: the likelihood; equal names are the same function of the parameters.
    - `parameter_names`: all estimated parameters, by reported name.
    - `fixed_effects_design`: a digest of X; restricted likelihoods with different X are not comparable.
    - `variance_parameters`: by level the names of the random effects.

    Optional:

    - `exact_likelihood`, bool: the likelihood is exact, and comparable with exact ones by other methods (false where
      absent).
    - `parameter_units`: by estimated parameter its sample size in BICc, groups or observations (no BICc where absent).
    - `at_zero`: sentences on variances estimated as zero, as of a FitRecord (none where absent).
    - `fixed_effect_names`: those among `parameter_names` that are fixed effects (none where absent).
    - `fixed_columns`: by name the column (rows,) of each fixed effect; `level_designs`: by grouping factor the unit of
      each row, counted by first appearance, and by effect its column; `qualified_names(labels)`: `parameter_names` that
      always have their grouping factor, called as `labels` says. With these, nested models may have other grouping
      factors.
    - `boundary_parameters`: names of parameters that are at a bound where the model without them is, besides
      variances (none where absent).
    - `estimates`, a table with columns "estimate" and "se", for averages; `predict(data, level)`, for averaged
      predictions; `simulate(n, key)`, an array (n, rows), and `refit_log_likelihoods(responses)`, the log-likelihoods
      (n,) of fits to responses (n, n_obs), NaN where a fit failed, for a bootstrap.
    """

    log_likelihood: float
    restricted: bool
    criteria: Criteria
    converged: bool
    status: Any
    fingerprint: str
    method: str
    parameter_names: tuple[str, ...]
    fixed_effects_design: str
    variance_parameters: Mapping[str, Sequence[str]]


REQUIRED = tuple(Comparable.__annotations__)


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A fit in a comparison.

    **Fields:** `name`; `fit`; `fingerprint` of the responses; `method` for display, `approximation` for comparability;
    `parameter_names` (estimated, reported), `fixed_effects_design`, `variance_parameters`, `at_zero`, as of Comparable;
    `units`: by estimated entry its sample size in BICc, None where not known; `responses`: with their weights, None
    where not known; `has_priors`; `mc_se`, the Monte Carlo standard error of the log-likelihood; `exactness`: a
    function that decides whether the log-likelihood is exact.
    """

    name: str
    fit: Any
    fingerprint: str
    method: str
    approximation: str
    parameter_names: tuple[str, ...]
    fixed_effects_design: Callable[[], str]
    variance_parameters: Mapping[str, tuple[str, ...]]
    at_zero: tuple[str, ...]
    units: Mapping[str, float] | None
    responses: tuple[np.ndarray, np.ndarray] | None
    has_priors: bool
    mc_se: float
    exactness: Callable[[], bool]

    @property
    def criteria(self) -> Criteria:
        """Log-likelihood, criteria and counts."""
        return self.fit.criteria

    @property
    def log_likelihood(self) -> float:
        """The log-likelihood, restricted for a restricted fit."""
        return float(self.fit.log_likelihood)

    @property
    def restricted(self) -> bool:
        """True if the log-likelihood is a restricted one."""
        return bool(self.fit.restricted)

    @property
    def converged(self) -> bool:
        """True if the fit converged."""
        return bool(self.fit.converged)

    @functools.cached_property
    def exact(self) -> bool:
        """True if the log-likelihood is exact (`exactness.py`)."""
        return self.exactness()

    @property
    def aicc(self) -> float:
        """AIC + 2 k (k + 1) / (n - k - 1), n the number of observations in BIC; infinite for n <= k + 1.

        **Source:** Hurvich and Tsai (1989), Biometrika 76, 297-307."""
        k, n = self.criteria.n_parameters, self.criteria.n_used
        return self.criteria.aic + 2.0 * k * (k + 1.0) / (n - k - 1.0) if n > k + 1 else np.inf

    @property
    def bicc(self) -> float:
        """-2 log L + sum over parameters of log(sample size) (`parameter_units`); NaN where these are not known."""
        if self.units is None or len(self.units) != self.criteria.n_parameters:
            return np.nan
        return -2.0 * self.log_likelihood + float(np.sum(np.log(list(self.units.values()))))


def candidate(fit: Any, name: str, position: int) -> Candidate:
    """The Candidate of a fit. **Arguments:** `position` in the call, from 1 on, for messages.

    **Raises:** OptionError for what is no fit, and a fit loaded without its model.
    """
    if isinstance(fit, FitRecord):
        return _of_record(fit, name)
    if isinstance(fit, HasCriteria):  # the only other record of these: a fit read from a file without its model
        raise OptionError(
            f"{name} was loaded without its model, which a comparison needs: load it with jn.load(path, model=...), or "
            "trust_code=True."
        )
    missing = [field for field in REQUIRED if not hasattr(fit, field)]
    if missing:
        raise OptionError(
            f"argument {position} must be a fit, the result of jn.fit or of a function for linear models; received "
            f"{shown(fit)}{f', which has no {missing[0]}' if len(missing) < len(REQUIRED) else ''}."
        )
    units = getattr(fit, "parameter_units", None)
    return Candidate(
        name=name,
        fit=fit,
        fingerprint=fit.fingerprint,
        method=fit.method,
        approximation=fit.method,
        parameter_names=tuple(fit.parameter_names),
        fixed_effects_design=lambda: fit.fixed_effects_design,
        variance_parameters={level: tuple(names) for level, names in fit.variance_parameters.items()},
        at_zero=tuple(getattr(fit, "at_zero", ())),
        units=None if units is None else dict(units),
        responses=None,
        has_priors=False,
        mc_se=0.0,
        exactness=lambda: bool(getattr(fit, "exact_likelihood", False)),
    )


def _of_record(fit: FitRecord, name: str) -> Candidate:
    """The Candidate of a FitRecord."""
    binding, density = fit.binding, fit.binding.density
    if not np.isfinite(np.asarray(fit.params.beta)).all():
        raise OptionError(f"{name} has no estimates, so there is nothing to compare. {fit.status}")
    responses = observed_responses(fit.data)
    held = fit.estimates["fixed"].to_numpy(bool)
    free = tuple(n for n, is_held in zip(density.reported_names, held, strict=True) if not is_held)
    levels = fit.data.level_names
    depths = (0,) * len(density.effect_names) if binding.random is None else binding.random.depths
    effects = {
        levels[d]: tuple(n for n, depth in zip(density.effect_names, depths, strict=True) if depth == d)
        for d in sorted(set(depths))
    }
    variance = np.sum(np.asarray(fit.data.weights) ** 2 * np.asarray(fit.monte_carlo_variance))
    return Candidate(
        name=name,
        fit=fit,
        fingerprint=response_digest(*responses),
        method=fit.method,
        approximation=approximation_of(fit),
        parameter_names=free,
        fixed_effects_design=lambda: fixed_effects_digest(binding),
        variance_parameters=effects,
        at_zero=tuple(fit.at_zero),
        units=parameter_units(fit),
        responses=responses,
        has_priors=bool(density.priors),
        mc_se=float(np.sqrt(variance)),
        exactness=lambda: is_exact(fit),
    )
