"""The tables of a linear mixed model: `diagnostics`, and `tidy`, `glance` and `augment` as in R's broom.mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.diagnostics.tidy import (
    RESIDUAL,
    RESIDUAL_SD,
    check_tidy,
    tidy_frame,
    values_of_units,
    with_columns,
)
from jaxnlme.formulas.design import response
from jaxnlme.formulas.frames import as_table, complete_rows
from jaxnlme.formulas.mixed import MixedFormula, used_columns
from jaxnlme.linear.estimates import variance_terms
from jaxnlme.numerics.linalg import semidefinite_cholesky
from jaxnlme.signatures import documented_by, public

if TYPE_CHECKING:
    from jaxnlme.diagnostics.npde.record import Npde
    from jaxnlme.linear.record import LinearFit


class LinearFrames:
    """The tables of a fitted linear mixed model: a base of LinearFit."""

    @public("fit.diagnostics")
    def diagnostics(self) -> pd.DataFrame:
        """One table by row, ready to plot.

        **Returns:** a data frame in the order of the rows of the fit: columns of the grouping factors; `DV`, the
        response; `PRED`, X beta, and `IPRED`, with the random effects of all grouping factors; `PRES` and `IRES`, DV
        less these; `IWRES`, IRES over the residual standard deviation of its row; with a residual correlation
        `NORMALIZED`, IWRES made independent by its factor; the other columns of the formula. A column of the data that
        has one of these names is called NAME_data.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.diagnostics().head()
        ```
        """
        fit: Any = self
        columns = {"PRED": fit.predict(level="population"), "IPRED": fit.predict()}
        columns |= {"PRES": fit.model.y - columns["PRED"], "IRES": fit.residuals()}
        columns["IWRES"] = fit.residuals("pearson")
        if fit.residual is not None and fit.residual.error.correlation is not None:
            columns["NORMALIZED"] = fit.residuals("normalized")
        return table_with(fit.model.frame, fit.model.formula, {"DV": fit.model.y, **columns})

    @documented_by("linear.npde.npde_of_linear_fit")
    @public("fit.npde")
    def npde(self, replicates: int = 1000, seed: int = 0, decorrelation: str = "cholesky", ties: str = "below") -> Npde:
        """npd and npde of the rows, with tests; see `jaxnlme.linear.npde.npde_of_linear_fit`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        print(growth.npde(200))
        ```
        """
        from jaxnlme.linear.npde import npde_of_linear_fit

        return npde_of_linear_fit(self, replicates, seed, decorrelation, ties)  # pyright: ignore[reportArgumentType]

    @public("fit.tidy")
    def tidy(
        self,
        conf_int: bool = False,
        conf_level: float = 0.95,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
    ) -> pd.DataFrame:
        """A row per term of the model, as R's broom.mixed.

        **Arguments:** `conf_int`: adds the limits `conf_low`, `conf_high`; `conf_level` of these; `effects`: which
        rows: "fixed", fixed effects; "ran_pars", standard deviations ("sd__(Intercept)"), correlations ("cor__a.b") and
        residual parameters, of the group "Residual"; "ran_vals", the random effects of each unit.
        **Returns:** a data frame with `effect`, `group` (grouping factor), `term`, `estimate`, `std_error`, and for
        fixed effects `statistic`, `df` and `p_value` of t tests (`fit.coefficients()`); with "ran_vals" also `level`,
        the label of the unit. Standard errors of "ran_vals", given the parameters, are there with one grouping factor
        and independent residuals of one variance, and NaN otherwise.
        **Raises:** OptionError for other options; as `coefficients`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.tidy(conf_int=True)
        ```
        """
        fit: Any = self
        chosen = check_tidy(conf_int, conf_level, effects)
        rows: list[dict[str, Any]] = []
        if "fixed" in chosen:
            for term, row in fit.coefficients(level=conf_level).iterrows():
                entry = {"effect": "fixed", "group": None, "term": term, "estimate": row["estimate"]}
                entry |= {"std_error": row["se"], "statistic": row["t"], "df": row["df"], "p_value": row["p"]}
                rows.append(entry | {"conf_low": row["lower"], "conf_high": row["upper"]})
        if "ran_pars" in chosen:
            table = fit.intervals(conf_level).iloc[len(fit.model.fixed.names) :]
            for (group, term), (_, row) in zip(_terms(fit), table.iterrows(), strict=True):
                entry = {"effect": "ran_pars", "group": group, "term": term, "estimate": row["estimate"]}
                rows.append(entry | {"std_error": row["se"], "conf_low": row["lower"], "conf_high": row["upper"]})
        if "ran_vals" in chosen:
            rows += values_of_units(fit.random_effects, _effect_errors(fit), conf_level)
        return tidy_frame(rows, conf_int)

    @public("fit.glance")
    def glance(self) -> pd.DataFrame:
        """One row on the whole fit.

        **Returns:** a data frame: `n_obs`, `n_groups` (of the factor with fewest units), `n_parameters`, `sigma`,
        `log_lik` (restricted by REML), `deviance` (-2 log L), `aic`, `bic`, `bic_groups`, `converged`, `method`,
        `restricted`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.glance()
        ```
        """
        fit: Any = self
        counts = fit.criteria
        row = {"n_obs": counts.n_obs, "n_groups": counts.n_groups, "n_parameters": counts.n_parameters}
        row |= {"sigma": fit.sigma, "log_lik": fit.log_likelihood, "deviance": -2.0 * fit.log_likelihood}
        row |= {"aic": fit.aic, "bic": fit.bic, "bic_groups": fit.bic_groups, "converged": fit.converged}
        return pd.DataFrame([row | {"method": fit.method, "restricted": fit.restricted}])

    @public("fit.augment")
    def augment(self, data: Any = None) -> Any:
        """A table with predictions and residuals beside its columns.

        **Arguments:** `data`: None for the rows of the fit, or a table with the columns of the formula; the response
        may be absent.
        **Returns:** the table, a polars frame where it is one and a pandas frame otherwise, rows in their order, with
        `.fitted`, the prediction with the random effects of all grouping factors, `.resid`, response less `.fitted`
        (NaN without a response), and `.fixed`, the prediction without random effects.
        **Raises:** as `fit.predict`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.augment().head()
        ```
        """
        fit: Any = self
        fitted, fixed = fit.predict(data), fit.predict(data, level="population")
        y = fit.model.y if data is None else response_of(fit.model.formula, data, len(fitted))
        return with_columns(fit.model.frame if data is None else data, fitted, y, fixed)


def covariate_columns(fit: LinearFit) -> pd.DataFrame:
    """The columns of the formula beside those of the response and the grouping factors, a row per row of the fit."""
    return as_table(fit.model.frame, _other_columns(fit.model.formula))


def _other_columns(formula: MixedFormula) -> list[str]:
    groups = {name for term in formula.random for name in term.group}
    return [name for name in used_columns(formula) if name not in groups and name not in used_columns(formula.response)]


def table_with(frame: Any, formula: MixedFormula, columns: dict[str, Any]) -> pd.DataFrame:
    """Columns of the grouping factors, `columns` (rows,), then the other columns of the formula; those of the table
    that have the name of one of `columns` are renamed NAME_data."""
    groups = list(dict.fromkeys(name for term in formula.random for name in term.group))
    others = _other_columns(formula)
    table = as_table(frame, [*groups, *others])
    names = {name: f"{name}_data" for name in table if name in columns}
    values = pd.DataFrame({name: np.asarray(column) for name, column in columns.items()}, index=table.index)
    return pd.concat([table[groups].rename(columns=names), values, table[others].rename(columns=names)], axis=1)


def response_of(formula: MixedFormula, data: Any, count: int) -> np.ndarray:
    """The response (rows,) of a table, NaN in rows without one, and where the table lacks its columns."""
    names = used_columns(formula.response)
    available = set(data.columns if hasattr(data, "columns") else data)
    out = np.full(count, np.nan)
    if set(names) <= available:
        table = as_table(data, names)
        observed = complete_rows(table, names)
        if observed.any():
            out[observed] = response(formula.response, table[observed])[0]
    return out


def _terms(fit: LinearFit) -> list[tuple[str, str]]:
    """Group and term of each variance parameter, in the order of the table of estimates."""
    names = variance_terms(fit)
    last = len(names) - 1
    plain = fit.residual is None
    out = []
    for k, (group, term) in enumerate(names):
        residual = RESIDUAL_SD if plain and k == last else term
        out.append((RESIDUAL, residual) if group is None else (group, term))
    return out


def _effect_errors(fit: LinearFit) -> Any:
    """Conditional standard errors of the random effects given the parameters, a table like those of
    `random_effects`; None where there are several grouping factors or a residual covariance.

    With psi = L L' and sigma^2 the residual variance: the diagonal of L (L' Z'Z L / sigma^2 + I)^-1 L'.
    """
    if len(fit.model.groupings) != 1 or fit.residual is not None:
        return None
    grouping, root = fit.model.groupings[0], semidefinite_cholesky(fit.outcome.psi[0])
    scaled = grouping.matrix @ root / fit.outcome.sigma
    q = root.shape[0]
    products = np.zeros((grouping.units.count, q, q))
    np.add.at(products, grouping.units.codes, scaled[:, :, None] * scaled[:, None, :])
    covariance = root @ np.linalg.inv(products + np.eye(q)) @ root.T
    table = fit.random_effects[grouping.label]
    errors = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0))
    return {grouping.label: pd.DataFrame(errors, index=table.index, columns=table.columns)}
