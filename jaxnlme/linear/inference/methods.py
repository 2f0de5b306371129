"""Methods of a fitted linear mixed model on its fixed effects and residuals."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from jaxnlme.errors import check_level
from jaxnlme.signatures import documented_by, public

if TYPE_CHECKING:
    from jaxnlme.linear.inference.anova import Anova
    from jaxnlme.linear.inference.contrasts import Contrast
    from jaxnlme.linear.inference.degrees_of_freedom import DegreesOfFreedom
    from jaxnlme.linear.inference.means import Means


class LinearInference:
    """Tests of fixed effects, contrasts, marginal means, and correlations of residuals: a base of LinearFit."""

    @functools.cached_property
    def _df_methods(self) -> dict[str, DegreesOfFreedom]:
        """Methods of degrees of freedom by name, each computed once."""
        return {}

    @documented_by("report.write.report")
    @public("fit.report")
    def report(self, path: str | Path, compare: Any = (), **options: Any) -> Path:
        """Writes the fit as one HTML page; needs jinja2 and great-tables; see `jaxnlme.report.write.report`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.report("growth.html")
        ```
        """
        from jaxnlme.linear.report import page_of_linear
        from jaxnlme.report.write import report

        return report(self, path, compare, page=page_of_linear, **options)

    @public("fit.coefficients")
    def coefficients(self, df: str | None = None, level: float = 0.95) -> pd.DataFrame:
        """t tests of the fixed effects.

        **Arguments:**

        - `df`: the denominator degrees of freedom. "satterthwaite" as lmerTest, "kenward-roger" as pbkrtest, with the
          covariance of the fixed effects adjusted for small samples (after REML), "containment" as nlme (nested
          grouping factors), "residual" (rows less fixed effects) or "normal" (infinity). None: "satterthwaite", and
          "residual" for models without random effects.
        - `level` of the intervals, a probability.

        **Returns:** a data frame, a row per fixed effect: estimate, se, df, t, p, lower, upper.
        **Raises:** OptionError for an unknown method or one that is not defined for the fit, FitError where the
        information matrix of the variance parameters is not positive definite.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.coefficients()
        ```
        """
        from jaxnlme.linear.inference.wald import coefficients

        fit: Any = self
        check_level(level)
        return coefficients(fit, df, level)

    @public("fit.anova")
    def anova(self, type: str = "sequential", df: str | None = None, weighted: bool | None = None) -> Anova:
        """F tests of the terms of the formula.

        **Arguments:**

        - `type`: "sequential" (type I): each term after those before it; "marginal": the coefficients of the term are
          zero, as nlme's; "III": effects averaged with equal weights over the categories of terms that contain it, as
          SAS and lmerTest.
        - `df`: as for `coefficients`.
        - `weighted`, of sequential tests: the terms are orthogonal in rows weighted by the inverse covariance of y, as
          in nlme, or, False, in the rows as they are, as in lmerTest and SAS. None: unweighted with Satterthwaite's
          and Kenward and Roger's degrees of freedom, otherwise weighted.

        **Returns:** an Anova, whose `table` has num_df, den_df, F and p by term.
        **Raises:** as `coefficients`; OptionError where type III is not unique.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.anova("marginal")
        ```
        """
        from jaxnlme.linear.inference.anova import anova

        fit: Any = self
        return anova(fit, type, df, weighted)

    @public("fit.contrast")
    def contrast(self, L: Any, df: str | None = None, level: float = 0.95, rhs: Any = None) -> Contrast:
        """Linear combinations of the fixed effects: estimates, t tests, intervals, and the joint F test.

        **Arguments:** `L`: expressions ("age:Sex[T.Male] - 2*age", "a = b", or a list or dictionary by label of these),
        coefficients by name ({"age": 1}), or a matrix with a column per fixed effect; `df`: as for `coefficients`;
        `level` of the intervals; `rhs`: the values under the hypothesis, zero by default.
        **Returns:** a Contrast with `table`, `joint` and `L`.
        **Raises:** OptionError for unknown coefficients and expressions that are not linear; as `coefficients`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.contrast([0, 0, 1, 8])
        ```
        """
        from jaxnlme.linear.inference.contrasts import contrast

        fit: Any = self
        return contrast(fit, L, df, level, rhs)

    @public("fit.means")
    def means(
        self,
        of: Any,
        by: Any = None,
        at: Any = None,
        pairwise: bool = False,
        df: str | None = None,
        level: float = 0.95,
        adjust: str = "tukey",
    ) -> Means:
        """Estimated marginal means, as R's emmeans: predictions of the fixed effects at all combinations of categories,
        averaged with equal weights over the columns that are not named, numeric columns at their means.

        **Arguments:** `of`, `by`: names of columns; `at`: values by column, {"age": 10}, or {"age": [8, 14]} for a
        column that is named in `of` or `by`, or to average over; `pairwise`: differences of all pairs within `by`,
        whose p values and intervals `adjust` makes simultaneous: "tukey", "bonferroni", "holm" or "none"; `df`: as for
        `coefficients`; `level` of the intervals.
        **Returns:** a Means with `table` and `differences`; NaN for means that the data do not determine.
        **Raises:** OptionError for unknown columns and values; as `coefficients`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.means("Sex")
        ```
        """
        from jaxnlme.linear.inference.means import means

        fit: Any = self
        return means(fit, of, by, at, pairwise, df, level, adjust)

    @public("fit.acf")
    def acf(
        self,
        max_lag: int | None = None,
        level: float = 0.95,
        kind: str = "pearson",
        order: str | None = None,
        group: Any = None,
    ) -> pd.DataFrame:
        """Empirical autocorrelations of the residuals within the innermost units, as nlme's ACF.

        **Arguments:** `max_lag`: None for 10 log10 of the longest series; `level` of the bounds; `kind` of the
        residuals, see `residuals`; `order`: a column to sort the rows of a unit by, None for the order of the table;
        `group`: columns that label the series, None for the innermost grouping factor.
        **Returns:** a data frame by lag: acf, n (pairs), and bound: beyond plus or minus it an autocorrelation differs
        from zero at `level`.
        **Raises:** OptionError, DataError for options and columns that cannot be used.
        **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.3.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.acf()
        ```
        """
        from jaxnlme.linear.inference.residual_correlation import autocorrelation

        fit: Any = self
        return autocorrelation(fit, max_lag, level, kind, order, group)

    @public("fit.variogram")
    def variogram(
        self,
        position: Any = None,
        kind: str = "pearson",
        max_distance: float | None = None,
        bins: int = 20,
        collapse: str = "quantiles",
        robust: bool = False,
        metric: str = "euclidean",
        group: Any = None,
    ) -> pd.DataFrame:
        """Empirical semivariogram of the residuals within the innermost units, as nlme's Variogram.

        **Arguments:** `position`: one or several columns that distances are computed from, None for the number of the
        row within its unit; `kind` of the residuals; `max_distance`: pairs farther apart are left out; `bins`: classes
        of distances, if these are more; `collapse`: classes of equal counts ("quantiles"), of equal widths ("fixed"),
        or "none" for a row per pair; `robust`: Cressie and Hawkins' estimator; `metric`: "euclidean", "manhattan" or
        "maximum"; `group`: as for `acf`.
        **Returns:** a data frame: distance (the median of its class), variogram, n (pairs). Pairs at the least distance
        count in the first class, where nlme leaves them out.
        **Raises:** OptionError, DataError for options and columns that cannot be used.
        **Source:** Pinheiro and Bates (2000), section 5.3.2; Cressie and Hawkins (1980), Mathematical Geology 12.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.variogram("age")
        ```
        """
        from jaxnlme.linear.inference.residual_correlation import variogram

        fit: Any = self
        return variogram(fit, position, kind, max_distance, bins, collapse, robust, metric, group)
