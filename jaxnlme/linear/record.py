"""The record of a fitted linear mixed model: fields, and the tables and predictions that follow from them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxnlme.data._responses import response_digest
from jaxnlme.errors import FitError, check_level
from jaxnlme.estimators.linear.interface import Likelihood
from jaxnlme.estimators.linear.outcome import LinearOutcome
from jaxnlme.estimators.linear.problem import LinearProblem
from jaxnlme.linear.declaration import LinearModel
from jaxnlme.linear.estimates import estimates_table, reported_covariance, reported_names, reported_values
from jaxnlme.linear.frames import LinearFrames
from jaxnlme.linear.inference.methods import LinearInference
from jaxnlme.linear.predictions import LinearPredictions
from jaxnlme.linear.residual_model import ResidualRows, depends_on_fitted
from jaxnlme.results.criteria import Criteria
from jaxnlme.results.derived_record import Derived
from jaxnlme.results.display import StatusSentences
from jaxnlme.signatures import documented_by, public


class Unchanged:
    """Stands for an argument that an update leaves as it is, where None is a value."""

    def __repr__(self) -> str:
        return "unchanged"


UNCHANGED: Any = Unchanged()


@dataclasses.dataclass(frozen=True, repr=False)
class LinearStatus(StatusSentences):
    """Status of a fit: `sentences`, first that it converged or not."""

    sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearFit(LinearInference, LinearFrames, LinearPredictions):
    """A fitted linear mixed model.

    **Fields:** `model`, formula and data; `problem`, their arrays; `likelihood`, as a function of theta; `outcome`, the
    estimates; `residual`, the rows of the residual covariance, None for independent residuals of one variance;
    `restricted`: by REML; `converged`, which `status` explains; `at_zero`: sentences on variances estimated as zero;
    `method`; `series` (rows,): numbers of the series of a model without random effects, None otherwise; `call`: the
    arguments, for `update`.

    **Example:**

    ```python
    growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
    print(growth.estimates)
    ```
    """

    model: LinearModel
    problem: LinearProblem
    likelihood: Likelihood
    outcome: LinearOutcome
    residual: ResidualRows | None
    restricted: bool
    converged: bool
    status: LinearStatus
    at_zero: tuple[str, ...]
    method: str
    series: np.ndarray | None
    call: dict[str, Any]

    # --- estimates ---

    @property
    def log_likelihood(self) -> float:
        """The log-likelihood; by REML the restricted one."""
        return self.outcome.log_likelihood

    @functools.cached_property
    def beta(self) -> pd.Series:
        """Fixed effects by name."""
        return pd.Series(self.outcome.beta, index=list(self.model.fixed.names), name="beta")

    @functools.cached_property
    def beta_covariance(self) -> pd.DataFrame:
        """Covariance matrix of the fixed effects, sigma^2 (X' V^-1 X)^-1 with sigma^2 V the covariance of y."""
        names = list(self.model.fixed.names)
        return pd.DataFrame(self.outcome.beta_covariance, index=names, columns=names)

    @functools.cached_property
    def sigma(self) -> float:
        """The residual standard deviation; with a variance function g the factor sigma in sigma g."""
        if self.residual is None:
            return self.outcome.sigma
        scale = self.residual.scale(self.residual.delta(self.outcome.estimation.theta))[1]
        return self.outcome.sigma / scale if scale > 0.0 else float("inf")

    @functools.cached_property
    def psi(self) -> dict[str, pd.DataFrame]:
        """Covariance matrices of the random effects by grouping factor, outermost first."""
        return {
            grouping.label: pd.DataFrame(psi, index=list(grouping.effects), columns=list(grouping.effects))
            for grouping, psi in zip(self.model.groupings, self.outcome.psi, strict=True)
        }

    @functools.cached_property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional means of the random effects (BLUPs) by grouping factor, a row for each unit."""
        out = {}
        for grouping, values in zip(self.model.groupings, self.outcome.effects, strict=True):
            labels, names = grouping.units.labels, list(grouping.group)
            several = len(names) > 1
            index = pd.MultiIndex.from_tuples(labels, names=names) if several else pd.Index(labels, name=names[0])
            out[grouping.label] = pd.DataFrame(values, index=index, columns=list(grouping.effects))
        return out

    @functools.cached_property
    def estimates(self) -> pd.DataFrame:
        """Estimates, standard errors, relative ones (%) and 95% intervals; see `intervals`."""
        return self.intervals()

    @public("fit.intervals")
    def intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Estimates of every parameter with Wald intervals at `level`.

        Fixed effects with their standard errors at the estimated covariances; standard deviations (intervals on the log
        scale), correlations (Fisher's z) and parameters of the residual covariance (their unconstrained scale) by the
        delta method from the observed information of all variance parameters.

        **Arguments:** `level`, a probability.
        **Returns:** a data frame, a row per parameter: estimate, se, lower, upper, rse%, kind.
        **Raises:** OptionError for a level outside (0, 1).

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.intervals()
        ```
        """
        check_level(level)
        return estimates_table(self, level)

    @functools.cached_property
    def covariance(self) -> pd.DataFrame:
        """Covariance matrix of all reported values; NaN where a value has no standard error."""
        return reported_covariance(self)

    @documented_by("linear.derive.derive")
    @public("fit.derive")
    def derive(self, fn: Any, *, level: float = 0.95, transform: Any = "identity") -> Derived:
        """Functions of the parameters with standard errors, as in `fit.derive(lambda p: p["age"] / p["sigma"])`;
        see `jaxnlme.linear.derive.derive`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.derive(lambda p: p["age"] / p["(Intercept)"])
        ```
        """
        from jaxnlme.linear.derive import derive

        return derive(self, fn, level=level, transform=transform)

    @functools.cached_property
    def values(self) -> dict[str, float]:
        """Estimates by name."""
        return dict(zip(reported_names(self), reported_values(self, self).tolist(), strict=True))

    # --- criteria ---

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all parameters."""
        return tuple(reported_names(self))

    @functools.cached_property
    def criteria(self) -> Criteria:
        """Log-likelihood, AIC, BIC and the counts behind them."""
        p = len(self.model.fixed.names)
        groupings = self.model.groupings
        groups = min((grouping.units.count for grouping in groupings), default=self.model.n_rows)
        residual = 0 if self.residual is None else self.residual.rows.n_residual
        count = p + sum(grouping.structure.n_unconstrained for grouping in groupings) + residual + 1
        return Criteria(self.log_likelihood, count, 0, 0, self.model.n_rows, groups, p if self.restricted else 0)

    @property
    def aic(self) -> float:
        """-2 log L + 2 k."""
        return self.criteria.aic

    @property
    def bic(self) -> float:
        """-2 log L + k log(rows), by REML log(rows - fixed effects), as nlme."""
        return self.criteria.bic

    @property
    def bic_groups(self) -> float:
        """-2 log L + k log(groups)."""
        return self.criteria.bic_groups

    # --- what a comparison asks for ---

    @property
    def exact_likelihood(self) -> bool:
        """True unless the variance is a function of the fitted values, whose estimates maximise no likelihood."""
        return not depends_on_fitted(None if self.residual is None else self.residual.error)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the responses in the order of the table."""
        return response_digest(self.model.y, None)

    @functools.cached_property
    def fixed_effects_design(self) -> str:
        """A digest of the design matrix of the fixed effects."""
        return hashlib.sha256(np.ascontiguousarray(self.model.fixed.matrix).tobytes()).hexdigest()

    @property
    def fixed_effect_names(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return tuple(self.model.fixed.names)

    @functools.cached_property
    def parameter_units(self) -> dict[str, float]:
        """By parameter its sample size in BICc; see `jaxnlme.linear.parameter_units`."""
        from jaxnlme.linear.parameter_units import parameter_units

        return parameter_units(self)

    @property
    def variance_parameters(self) -> dict[str, tuple[str, ...]]:
        """Names of the random effects by grouping factor."""
        return {grouping.label: grouping.effects for grouping in self.model.groupings}

    @property
    def fixed_columns(self) -> dict[str, np.ndarray]:
        """The column (rows,) of each fixed effect."""
        return dict(zip(self.model.fixed.names, self.model.fixed.matrix.T, strict=True))

    @property
    def level_designs(self) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
        """By grouping factor the unit of each row (rows,), counted by first appearance, and the effects' columns."""
        return {
            each.label: (each.units.codes, dict(zip(each.effects, each.matrix.T, strict=True)))
            for each in self.model.groupings
        }

    def qualified_names(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """The parameter names, those of random effects with their grouping factor, called as `labels` says."""
        return tuple(reported_names(self, labels))

    @property
    def boundary_parameters(self) -> tuple[str, ...]:
        """Names of the parameters of a correlation that are positive, such as rho of CAR1: independent residuals have
        them at their bound of zero."""
        correlation = None if self.residual is None else self.residual.error.correlation
        parameters = () if correlation is None else correlation.parameters
        return tuple(p.name for p in parameters if p.transform.domain[0] == 0)

    @public("fit.update")
    def update(
        self,
        formula: str | None = None,
        random: Any = UNCHANGED,
        data: Any = None,
        *,
        method: str | None = None,
        covariance: Any = UNCHANGED,
        weights: Any = UNCHANGED,
        correlation: Any = UNCHANGED,
        missing: str | None = None,
    ) -> LinearFit:
        """Change the model, the data or the method, and fit again; what is not given stays.

        **Arguments:** `formula`: with "." for what the formula has on that side, ". ~ . + x", ". ~ . - Sex:age", or a
        new one; `random`: as of `jn.lme`, in the place of all random effects, None for a model without; `data`: a
        table; `method`: "REML" or "ML"; `covariance`, `weights`, `correlation`: as of `jn.lme`, None for no other than
        the default; `missing`: "error" or "drop".
        **Returns:** a LinearFit.
        **Raises:** as `jn.lme`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.update(". ~ . - age:Sex")
        ```
        """
        from jaxnlme.linear.update import update

        return update(
            self, formula, random, data, method=method, covariance=covariance, weights=weights,
            correlation=correlation, missing=missing,
        )  # fmt: skip

    def throw(self) -> LinearFit:
        """This fit, if it converged. **Raises:** FitError with the status otherwise."""
        if not self.converged:
            raise FitError(str(self.status), self)
        return self

    def summary(self) -> Any:
        """The fit in a page: text when printed, HTML in a notebook."""
        from jaxnlme.linear.summary import LinearSummary

        return LinearSummary(self)

    def __repr__(self) -> str:
        outcome = "converged" if self.converged else "NOT CONVERGED"
        kind = "restricted log-likelihood" if self.restricted else "log-likelihood"
        return f"<LinearFit by {self.method}: {outcome}, {kind} {self.log_likelihood:.4f}, {self.model.n_rows} rows>"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()
