"""The methods of a Fit that look at how well it describes the data: residuals, npde, predictive checks, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import documented_by, public

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.diagnostics.effects.conditional import ConditionalDistribution
    from jaxnlme.diagnostics.effects.record import EffectDiagnostics
    from jaxnlme.diagnostics.npde.record import Npde
    from jaxnlme.diagnostics.vpc.npc import Npc
    from jaxnlme.diagnostics.vpc.record import Vpc


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DiagnosticMethods(FitRecord):
    """A record of an estimation with the methods that diagnose it: a base of Fit."""

    @documented_by("diagnostics.residuals.residuals")
    def residuals(self, kinds: str | Sequence[str] = ("pres", "ires", "pwres", "iwres", "cwres")) -> pd.DataFrame:
        """Residuals by row; see `jaxnlme.diagnostics.residuals.residuals`.

        **Example:**

        ```python
        fit.residuals(["iwres", "cwres"]).describe()
        ```
        """
        from jaxnlme.diagnostics.residuals import residuals

        return residuals(self, kinds)

    @public("fit.npde")
    def npde(
        self,
        replicates: int = 1000,
        seed: int = 0,
        decorrelation: str = "cholesky",
        censoring: str = "cdf",
        ties: str = "below",
    ) -> Npde:
        """Normalised prediction discrepancies (npd) and prediction distribution errors (npde), with tests.

        Each observation is placed among `replicates` responses simulated at the estimates; under the model the normal
        quantiles of these places are standard normal, and after decorrelation independent within a group (but for
        dependence beyond correlation). Endpoints of a group are decorrelated together and tested one by one.

        **Arguments:** `replicates`, data sets simulated by `fit.simulate(replicates, seed)`; `seed`, also of draws
        by "cdf" and "random"; `decorrelation`: "cholesky", "inverse" or "none"; `censoring`: "cdf", "omit", "ipred",
        "ppred" or "loq"; `ties`: "below", or "random" (needed for discrete responses). See `jn.npde`.
        **Returns:** an Npde, with `table` (a row for each observation), `tests` and `moments`.
        **Raises:** OptionError for other options, and for discrete responses with ties="below"; ModelError where the
        outcome cannot be drawn; FitError where the fit has no estimates; DataError for simulations that are not finite.
        **Source:** Brendel, Comets, Laffont, Laveille and Mentre (2006), Pharmaceutical Research 23, 2036-2049; Comets,
        Brendel and Mentre (2008), Computer Methods and Programs in Biomedicine 90, 154-166.

        **Example:**

        ```python
        npde = fit.npde(replicates=200, seed=1)
        print(npde.tests)
        ```
        """
        from jaxnlme.diagnostics.npde.of_fit import npde_of_fit

        return npde_of_fit(self, replicates, seed, decorrelation, censoring, ties)

    @public("fit.vpc")
    def vpc(self, replicates: int = 1000, **options: Any) -> Vpc:
        """Visual predictive check: percentiles of the observations by bin, and intervals of those of data sets
        simulated from the fit; shares of categories, or Kaplan-Meier curves, for other outcomes.

        **Arguments:**

        - `replicates`: simulated data sets; `seed`: of the random numbers (0), those of `fit.simulate`.
        - `x`: the horizontal variable, a column of the data or values (rows,); None: the time of dose records, or the
          first column of x. `bins`, `n_bins`, `centre`: see `jn.vpc`.
        - `stratify`: see `jn.vpc`; several endpoints are strata without being named. `endpoint`: one of them.
        - `percentiles` (5, 50, 95), `level` (0.95) of the intervals.
        - `prediction_corrected`, `lower`, `log`, `variance_corrected`: see `jn.vpc`; with the predictions of
          `fit.predict(level="population")`.
        - `simulated_limits`: True censors simulated responses at the limits of the data, as observed ones are.
        - `kind`: "continuous", "categorical" or "survival"; None: continuous for Gaussian residual models; for other
          outcomes categorical where responses are whole numbers with at most 12 values. `categories`: see `jn.vpc`.
        - for "survival": `event`, a column of 1 (an event) and 0 (the end of follow-up) beside responses that are times
          (where None, those without right-censoring are events); `follow_up`, the time at which simulated times are
          censored (a number or a column; where None that of each censored subject, and for others the longest time);
          or `x`, the time of rows whose response is 1 for an event and 0 otherwise. `repeated`, `covariate`, `times`:
          see `jn.vpc_survival`.

        **Returns:** a Vpc with the tables `observed`, `simulated`, `bins`, `below_limit`; `vpc.plot()` draws it.
        **Raises:** OptionError and DataError naming the option or column, what was expected, and the remedy; ModelError
        where the outcome cannot be drawn; FitError where the fit has no estimates.

        **Example:**

        ```python
        vpc = fit.vpc(replicates=200, seed=1)
        print(vpc.observed.head())
        ```
        """
        from jaxnlme.diagnostics.vpc.of_fit import vpc_of_fit

        return vpc_of_fit(self, replicates, **options)

    @public("fit.npc")
    def npc(self, replicates: int = 1000, **options: Any) -> Npc:
        """Numerical predictive check: the share of the observations outside their prediction intervals, beside the
        share expected and those of simulated data sets.

        **Arguments:** `replicates`; `intervals` in percent; `endpoint`, `stratify`, `level`, `seed`: see `vpc`.
        **Returns:** an Npc, with the data frame `table`; see `jn.npc`.
        **Raises:** as `vpc`.

        **Example:**

        ```python
        print(fit.npc(replicates=200, seed=1).table)
        ```
        """
        from jaxnlme.diagnostics.vpc.of_fit import npc_of_fit

        return npc_of_fit(self, replicates, **options)

    @documented_by("diagnostics.frame.diagnostics")
    @public("fit.diagnostics")
    def diagnostics(self, rows: str = "observed") -> pd.DataFrame:
        """One table by row, ready to plot: labels, x, DV, PRED, IPRED, residuals, covariates; see
        `jaxnlme.diagnostics.frame.diagnostics`.

        **Example:**

        ```python
        fit.diagnostics().head()
        ```
        """
        from jaxnlme.diagnostics.frame import diagnostics

        return diagnostics(self, rows)

    @documented_by("diagnostics.effects.record.effect_diagnostics")
    @public("fit.effect_diagnostics")
    def effect_diagnostics(self, of: str = "modes", **options: Any) -> EffectDiagnostics:
        """Random effects and residuals: tables with covariates, tests, shrinkage, outliers; see
        `jaxnlme.diagnostics.effects.record.effect_diagnostics`.

        **Example:**

        ```python
        print(fit.effect_diagnostics())
        ```
        """
        from jaxnlme.diagnostics.effects.record import effect_diagnostics

        return effect_diagnostics(self, of, **options)

    @documented_by("diagnostics.effects.conditional.conditional_distribution")
    @public("fit.conditional_distribution")
    def conditional_distribution(
        self, draws: int | None = None, method: str | None = None, seed: int | None = None
    ) -> ConditionalDistribution:
        """Means, standard deviations and draws of the random effects given the data; see
        `jaxnlme.diagnostics.effects.conditional.conditional_distribution`.

        **Example:**

        ```python
        print(fit.conditional_distribution())
        ```
        """
        from jaxnlme.diagnostics.effects.conditional import conditional_distribution

        return conditional_distribution(self, draws, method, seed)

    @documented_by("diagnostics.tidy.tidy")
    @public("fit.tidy")
    def tidy(
        self,
        conf_int: bool = False,
        conf_level: float = 0.95,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
    ) -> pd.DataFrame:
        """A row per term of the model, as R's broom.mixed; see `jaxnlme.diagnostics.tidy.tidy`.

        **Example:**

        ```python
        fit.tidy(conf_int=True)
        ```
        """
        from jaxnlme.diagnostics.tidy import tidy

        return tidy(self, conf_int, conf_level, effects)

    @documented_by("diagnostics.tidy.glance")
    @public("fit.glance")
    def glance(self) -> pd.DataFrame:
        """One row on the whole fit: counts, log-likelihood, criteria, convergence; see
        `jaxnlme.diagnostics.tidy.glance`.

        **Example:**

        ```python
        fit.glance()
        ```
        """
        from jaxnlme.diagnostics.tidy import glance

        return glance(self)

    @documented_by("diagnostics.tidy.augment")
    @public("fit.augment")
    def augment(self, data: Any = None) -> Any:
        """The data, or a table, with `.fitted`, `.resid` and `.fixed` beside its columns; see
        `jaxnlme.diagnostics.tidy.augment`.

        **Example:**

        ```python
        fit.augment().head()
        ```
        """
        from jaxnlme.diagnostics.tidy import augment

        return augment(self, data)
