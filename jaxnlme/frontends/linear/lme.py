"""`jn.lme` and `jn.gls`: linear models with random effects and correlated residuals, by formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnlme.arguments import check_choice
from jaxnlme.errors import OptionError
from jaxnlme.formulas.mixed import parse_lme
from jaxnlme.linear.fit import fit_linear
from jaxnlme.linear.record import LinearFit
from jaxnlme.linear.residual_model import residual_error
from jaxnlme.signatures import public


@public("jn.lme")
def lme(
    formula: str,
    random: str | Mapping[str, str] | None = None,
    data: Any = None,
    *,
    method: str = "REML",
    covariance: Any = None,
    weights: Any = None,
    correlation: Any = None,
    missing: str = "error",
) -> LinearFit:
    """A linear mixed model, y = X beta + Z b + e, by restricted maximum likelihood.

    **Arguments:**

    - `formula`: "distance ~ age * Sex" with `random`, or with the random effects in it as lme4 writes them,
      "Reaction ~ Days + (Days | Subject)"; (x || g) for uncorrelated ones, (1 | a/b) for nested and (1 | a) + (1 | b)
      for crossed factors.
    - `random`: "~ age | Subject", "~ 1 | Block/Variety", or a formula for each level, outermost first,
      {"Block": "~ 1", "Variety": "~ 1"}.
    - `data`: a table with the columns of the formula, of pandas or polars, or a dictionary of columns.
    - `method`: "REML", or "ML", which models with different fixed effects are compared by.
    - `covariance`: of the random effects of a unit: None for full within each term; "diagonal", "identity",
      "compound symmetry", a 0/1 pattern, blocks of names, or an object of `jn.covariances`; or a dictionary of these by
      grouping factor.
    - `weights`: a variance function, jn.variance.power(), jn.variance.strata("Sex"), products of these; or the name of
      a column that the variance is proportional to. One of the fitted values is computed at those of the estimates, as
      in nlme.
    - `correlation`: of the residuals within a unit of the innermost level, jn.correlation.CAR1("Time"); `within=` of it
      divides the unit into series.
    - `missing`: "error" refuses rows without a covariate, "drop" leaves them out; rows without a response always are.

    **Returns:** a LinearFit; read `fit.converged` and `fit.status` first.
    **Raises:** OptionError, DataError, ModelError that name the option, row or term.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, chapter 2; Bates, Maechler, Bolker and
    Walker (2015), Journal of Statistical Software 67(1).

    **Example:**

    ```python
    growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
    print(growth.summary())
    ```
    """
    if data is None:
        table = random is not None and not isinstance(random, (str, Mapping))
        also = "; the second argument is random=, so write jn.lme(formula, data=table)" if table else ""
        raise OptionError(f"jn.lme needs data=, a table with the columns of the formula{also}.")
    check_choice("method", method, ("REML", "ML"))
    check_choice("missing", missing, ("error", "drop"))
    parsed = parse_lme(formula, random)
    if not parsed.random:
        raise OptionError(
            f"{formula!r} has no random effects: write random='~ 1 | group', or a term such as (1 | group) in the "
            "formula; for a model without random effects use jn.gls."
        )
    call = {
        "formula": formula,
        "random": random,
        "method": method,
        "covariance": covariance,
        "weights": weights,
        "correlation": correlation,
        "missing": missing,
        "data": data,
    }
    return fit_linear(parsed, data, method == "REML", covariance, missing, residual_error(weights, correlation), call)


@public("jn.gls")
def gls(
    formula: str,
    data: Any = None,
    *,
    method: str = "REML",
    weights: Any = None,
    correlation: Any = None,
    missing: str = "error",
) -> LinearFit:
    """A linear model by generalised least squares, without random effects.

    **Arguments:** `formula`: "weight ~ Time * Diet"; `correlation`: of the residuals, over the whole table unless its
    `within=` names the column of the series, as in jn.correlation.CAR1("Time", within="Rat"); `data`, `method`,
    `weights` and `missing` as for `jn.lme`.
    **Returns:** a LinearFit.
    **Raises:** as `jn.lme`.

    **Example:**

    ```python
    jn.gls("distance ~ age", jn.datasets.orthodont(), correlation=jn.correlation.CompoundSymmetry(within="Subject"))
    ```
    """
    if data is None:
        raise OptionError("jn.gls needs data=, a table with the columns of the formula.")
    check_choice("method", method, ("REML", "ML"))
    check_choice("missing", missing, ("error", "drop"))
    parsed = parse_lme(formula, None)
    if parsed.random:
        raise OptionError(f"{formula!r} has random effects; jn.gls takes none: use jn.lme.")
    call = {
        "formula": formula, "method": method, "weights": weights, "correlation": correlation, "missing": missing,
        "data": data,
    }  # fmt: skip
    return fit_linear(parsed, data, method == "REML", None, missing, residual_error(weights, correlation), call)
