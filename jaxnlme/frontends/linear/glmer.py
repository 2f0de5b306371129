"""`jn.glmer`: generalised linear mixed models by formula."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from jaxnlme.arguments import check_choice, check_flag
from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.fitting.fit import fit
from jaxnlme.formulas.mixed import parse_mixed
from jaxnlme.linear.glmm.declaration import declare
from jaxnlme.linear.glmm.fit import GeneralisedLinearFit, with_notes
from jaxnlme.linear.glmm.model import LINKS, generalised_model
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.signatures import public

_FAMILY_NAMES = {"negative_binomial": "negative binomial", "nbinom2": "negative binomial", "Gamma": "gamma"}


@public("jn.glmer")
def glmer(
    formula: str,
    data: Any = None,
    *,
    family: str = "binomial",
    link: str | None = None,
    method: Any = "laplace",
    offset: str | None = None,
    covariance: Any = None,
    missing: str = "error",
    priors: Mapping[str, AbstractPrior] | None = None,
    fixed: Mapping[str, float] | None = None,
    **options: Any,
) -> GeneralisedLinearFit:
    """A generalised linear mixed model: g(E[y | b]) = X beta + Z b + offset, b ~ N(0, psi), by maximum likelihood.

    **Arguments:**

    - `formula`: in lme4's spelling, "y ~ x + (x | group)"; "cbind(successes, failures) ~ ..." for binomial counts;
      (x || g) for uncorrelated effects, (1 | a/b) for nested factors; offset(log(time)) is a term without coefficient.
    - `data`: a table with the columns of the formula, of pandas or polars, or a dictionary of columns.
    - `family`: "binomial" (cbind, or 0 and 1), "bernoulli" (0 and 1, truth values, or two categories, the second of
      which is success), "poisson", "negative binomial" (variance mu + mu^2 / size), "gamma" (variance mu^2 / shape), or
      "ordinal" (P(y <= j) = F(threshold_j - eta), ordered categories). `size`, `shape` and thresholds are estimated.
    - `link`: None for the first of: "logit", "probit", "cloglog", "cauchit", and "log" for binomial and bernoulli;
      "log", "identity", "sqrt" for poisson and negative binomial; "inverse", "log", "identity" for gamma; "logit",
      "probit", "cloglog", "cauchit" for ordinal.
    - `method`: "laplace", `jn.AGQ(15)` for adaptive quadrature, "saem", "imp", or any method of `jn.fit` that needs no
      Gaussian residuals.
    - `offset`: a column or expression that is added to the linear predictor, as offset() in the formula.
    - `covariance`: of the random effects of a unit: None for full within each term; "diagonal", a 0/1 pattern, blocks
      of names, or an object of `jn.covariances`; or a dictionary of these by grouping factor.
    - `missing`: "error" refuses rows without a covariate, "drop" leaves them out; rows without a response always are.
    - `priors`: prior densities by reported name, {"x": jn.priors.Normal(0, 2.5)}; `fixed`: values that are held.
    - `options`: those of `jn.fit`: `start`, `standard_errors`, `max_iterations`, `progress`, `throw`, ...

    **Returns:** a GeneralisedLinearFit, a Fit whose coefficients are called after their columns.
    **Raises:** OptionError, DataError, ModelError that name the option, row or term; ModelError where the fixed effects
    separate the data, so that no estimate exists.
    **Source:** Breslow and Clayton (1993), Journal of the American Statistical Association 88, 9-25; Bates, Maechler,
    Bolker and Walker (2015), Journal of Statistical Software 67(1).

    **Example:**

    ```python
    visits = pd.DataFrame({"g": np.repeat(range(8), 4), "x": np.tile([0.0, 1.0, 2.0, 3.0], 8)})
    visits["y"] = np.random.default_rng(1).poisson(np.exp(0.3 + 0.2 * visits["x"]))
    jn.glmer("y ~ x + (1 | g)", visits, family="poisson")
    ```
    """
    if data is None:
        raise OptionError("jn.glmer needs data=, a table with the columns of the formula.")
    family = _FAMILY_NAMES.get(family, family) if isinstance(family, str) else family
    check_choice("family", family, tuple(LINKS))
    link = LINKS[family][0] if link is None else link
    if link not in LINKS[family]:
        raise OptionError(
            f"link {shown(link)} does not go with family {family!r}; it takes {', '.join(LINKS[family])}."
        )
    check_choice("missing", missing, ("error", "drop"))
    if offset is not None and not isinstance(offset, str):
        raise OptionError(
            f"offset must be the name of a column, or an expression such as 'log(time)'; received {shown(offset)}. "
            "Make a column of the data of other values."
        )
    throw = check_flag("throw", options.pop("throw", False))
    known = [name for name in inspect.signature(fit).parameters if name not in ("model", "data", "method")]
    for name in options:
        if name not in known:
            further = ["family", "link", "method", "offset", "covariance", "missing", "priors", "fixed"]
            raise OptionError(f"jn.glmer has no option {name!r}; {near_matches(name, [*known, *further])}")
    parsed = parse_mixed(formula)
    if not parsed.random:
        raise OptionError(
            f"{formula!r} has no random effects: write a term such as (1 | group) in the formula; models without "
            "random effects are fitted by statsmodels or R's glm."
        )
    declaration = declare(parsed, data, family, offset, missing)
    model = generalised_model(declaration, link, covariance, priors, fixed)
    predictor = model.structure
    grouped = predictor.grouped_data(declaration.frame, declaration.response)
    found: Any = fit(model, grouped, method, **options)
    found = with_notes(found)
    return found.throw() if throw else found
