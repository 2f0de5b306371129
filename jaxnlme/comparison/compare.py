"""`compare`: fits of the same responses beside each other, by information criteria and likelihood ratios."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_flag, check_names
from jaxnlme.comparison.averaging import average, averaged_predictions
from jaxnlme.comparison.chi_square import ChiSquareMixture, chi_square, one_variance_mixture
from jaxnlme.comparison.comparable import Candidate, candidate
from jaxnlme.comparison.nesting import Nesting, nesting
from jaxnlme.comparison.refusals import check_comparable
from jaxnlme.comparison.settings import RATIO
from jaxnlme.errors import OptionError, some
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

CRITERIA = ("AIC", "AICc", "BIC", "BIC groups", "BICc")
# Follow a distribution whose p value is an upper bound, and one that does not quite hold.
BOUND, APPROXIMATE = ", upper bound of p", ", approximate"


@public("jn.compare")
def compare(
    *fits: Any,
    names: Sequence[str] | None = None,
    criterion: str = "AIC",
    allow_unconverged: bool = False,
) -> Comparison:
    """Compare fits of the same responses: information criteria, weights, likelihood ratios of successive models.

    With k parameters, N observations (for restricted fits less the fixed effects that are integrated out), m groups:

    - AIC = -2 log L + 2 k; AICc = AIC + 2 k (k + 1) / (N - k - 1).
    - BIC = -2 log L + k log N; BIC groups = -2 log L + k log m.
    - BICc = -2 log L + k_R log m + k_F log N: k_R counts the entries of psi and the typical values and coefficients of
      parameters with a random effect, k_F the others and the residual parameters (see `parameter_units`, also for
      nested levels).
    - delta: difference to the smallest value of `criterion`; weight = exp(-delta / 2) / sum of exp(-delta / 2).
    - chi2, df, p: the likelihood ratio of a model and the one in the row before, where one is nested in the other.
      `distribution` is that of chi2 under the smaller one: chi-square, or a mixture for one variance at zero. Of
      several variances at zero the p value is that of the chi-square distribution, which is an upper bound and marked
      so; `jn.likelihood_ratio_test` simulates the distribution.

    **Arguments:** `fits`: two or more results of `jn.fit` or of functions for linear models; `names`: of the models, by
    default "model 1", ...; `criterion`: "AIC", "AICc", "BIC", "BIC groups" or "BICc", for delta and weight;
    `allow_unconverged`: include fits that did not converge, which the table then says.
    **Returns:** a Comparison.
    **Raises:** OptionError for fits whose log-likelihoods are not comparable, with the reason: other responses or
    weights, restricted likelihoods of different fixed effects, other approximations (unless both are exact), fits that
    did not converge.
    **Source:** Burnham and Anderson (2002), Model Selection and Multimodel Inference, 2nd edition, Springer, sections
    2.4 and 2.9; Hurvich and Tsai (1989), Biometrika 76, 297-307; Delattre, Lavielle and Poursat (2014), Electronic
    Journal of Statistics 8, 456-475; Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 2.4.

    **Example:**

    ```python
    full = fit.update(covariance="full")
    jn.compare(fit, full, names=["diagonal", "full"])
    ```
    """
    check_choice("criterion", criterion, CRITERIA)
    check_flag("allow_unconverged", allow_unconverged)
    if len(fits) == 1 and isinstance(fits[0], (list, tuple)):
        raise OptionError("the fits are arguments of their own: jn.compare(*fits) for a list of them.")
    if len(fits) < 2:
        raise OptionError(f"compare takes two or more fits; received {len(fits)}.")
    labels = [f"model {k + 1}" for k in range(len(fits))] if names is None else check_names("names", names, "models")
    if len(labels) != len(fits) or len(set(labels)) != len(labels):
        raise OptionError(f"names must be {len(fits)} different names, one for each fit; received {labels}.")
    candidates = tuple(candidate(fit, label, k + 1) for k, (fit, label) in enumerate(zip(fits, labels, strict=True)))
    check_comparable(candidates, allow_unconverged)
    table, remarks = _table(candidates, criterion)
    return Comparison(candidates, table, criterion, tuple(_sentences(candidates) + remarks))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Printable):
    """Fits beside each other.

    **Fields:** `candidates`, what is compared of each fit; `table`, a data frame with a row for each model:
    `log_likelihood`, `df`, `AIC`, `AICc`, `BIC`, `BIC groups`, `BICc`, `delta`, `weight`, `converged`, and of the
    likelihood ratio with the row before `chi2`, `chi2 df`, `p`, `distribution` (empty where they are not nested);
    `criterion` of delta and weight; `sentences`.
    """

    candidates: tuple[Candidate, ...]
    table: pd.DataFrame
    criterion: str
    sentences: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return [each.name for each in self.candidates]

    @property
    def weights(self) -> pd.Series:
        """Akaike weights by model (weights of `criterion`)."""
        return self.table["weight"]

    @property
    def best(self) -> Any:
        """The fit with the smallest value of `criterion`."""
        return self.candidates[int(np.argmin(self.table["delta"].to_numpy()))].fit

    @public("comparison.average")
    def average(self, names: str | Sequence[str] | None = None, level: float = 0.95) -> pd.DataFrame:
        """Estimates averaged over the models by `weights` w_i, with unconditional standard errors
        sqrt(sum_i w_i (se_i^2 + (estimate_i - average)^2)), which include the uncertainty of the choice of a model.

        **Arguments:** `names`: of parameters, those of `fit.estimates` (typical values on their transformed scale); one
        that some models lack is averaged over the others, whose weights are scaled to add up to one. None: the
        parameters that all models estimate. `level` of the intervals, estimate -+ normal quantile times se.
        **Returns:** a data frame: `estimate`, `se`, `lower`, `upper`, the number of `models` with the parameter and the
        sum of their `weight`; NaN where a model has no standard error.
        **Raises:** OptionError for unknown names, and parameters on different scales in different models.
        **Source:** Burnham and Anderson (2002), equations 4.1 and 6.12.
        """
        return average(self.candidates, self.weights.to_numpy(), names, level)

    @public("comparison.predict")
    def predict(self, data: Any = None, level: str | int | None = None) -> pd.Series:
        """Predictions averaged over the models by `weights`.

        **Arguments:** `data`, `level`: as of `fit.predict`; None: with all random effects.
        **Returns:** a pandas Series "prediction", a value for each row of the table.
        **Raises:** OptionError where the models predict different rows; the exceptions of `fit.predict`.
        **Source:** Burnham and Anderson (2002), section 4.2.1.
        """
        return averaged_predictions(self.candidates, self.weights.to_numpy(), data, level)

    def _tables(self) -> list[Table]:
        failed = not self.table["converged"].all()
        header = ("", "log-lik", "df", *CRITERIA, "delta", "weight", *(["converged"] if failed else []))
        rows = []
        for name, row in self.table.iterrows():
            values = [number(row[criterion], 6) for criterion in CRITERIA]
            cells = [f"{row['log_likelihood']:.4f}", f"{row['df']:d}", *values, f"{row['delta']:.2f}"]
            outcome = ["yes" if row["converged"] else "NO"] if failed else []
            rows.append((str(name), *cells, f"{row['weight']:.3f}", *outcome))
        tables = [Table(f"delta and weight by {self.criterion}", header, rows)]
        ratios = [
            (
                f"{before} vs {name}",
                number(row["chi2"]),
                f"{row['chi2 df']:.0f}",
                p_cell(row["p"], row["distribution"]),
                row["distribution"],
            )
            for before, (name, row) in zip(self.names, list(self.table.iterrows())[1:], strict=False)
            if row["distribution"]
        ]
        if ratios:
            tables.append(Table("Likelihood ratios", ("", "chi2", "df", "p", "distribution"), ratios))
        return tables


def p_cell(p: float, distribution: str) -> str:
    """A p value as text, marked where its distribution makes it an upper bound."""
    return f"{'<' if distribution.endswith(BOUND) else ''}{number(p, 3)}"


def _table(candidates: Sequence[Candidate], criterion: str) -> tuple[pd.DataFrame, list[str]]:
    """The table of a Comparison, and sentences on its likelihood ratios."""
    import pandas as pd

    rows = [
        {
            "log_likelihood": each.log_likelihood,
            "df": each.criteria.n_parameters,
            "AIC": each.criteria.aic,
            "AICc": each.aicc,
            "BIC": each.criteria.bic,
            "BIC groups": each.criteria.bic_groups,
            "BICc": each.bicc,
        }
        for each in candidates
    ]
    table = pd.DataFrame(rows, index=pd.Index([each.name for each in candidates], name="model"))
    if not np.isfinite(table[criterion].to_numpy()).all():
        unknown = table.index[~np.isfinite(table[criterion])]
        why = "there are too few observations for its parameters" if criterion == "AICc" else "it is not known"
        raise OptionError(f"{criterion} of {some(list(unknown))} is not finite ({why}); choose another criterion.")
    delta = table[criterion] - table[criterion].min()
    relative = np.exp(-0.5 * delta)
    table["delta"], table["weight"] = delta, relative / relative.sum()
    table["converged"] = [each.converged for each in candidates]
    ratios, remarks = [(np.nan, np.nan, np.nan, "")], []
    for first, second in itertools.pairwise(candidates):
        ratio, remark = _ratio(first, second)
        ratios.append(ratio)
        remarks += [remark] if remark else []
    table[["chi2", "chi2 df", "p", "distribution"]] = pd.DataFrame(ratios, index=table.index)
    return table, remarks


def _ratio(first: Candidate, second: Candidate) -> tuple[tuple[float, float, float, str], str]:
    """Statistic, df, p and distribution of the likelihood ratio of two models, and a sentence on it."""
    nothing = (np.nan, np.nan, np.nan, "")
    if first.has_priors or second.has_priors or not (first.converged and second.converged):
        return nothing, ""
    fewer = first.criteria.n_parameters <= second.criteria.n_parameters
    smaller, larger = (first, second) if fewer else (second, first)
    nested = nesting(smaller, larger)
    if isinstance(nested, str):
        return nothing, f"No likelihood ratio of {first.name} and {second.name}: {nested}"
    difference = larger.log_likelihood - smaller.log_likelihood
    if difference < -max(RATIO.lower_by, 3.0 * float(np.hypot(smaller.mc_se, larger.mc_se))):
        return nothing, (
            f"{larger.name} contains {smaller.name} and has the lower log-likelihood: it is not at its maximum. Fit it "
            "again from the estimates of the smaller model, or with starts='multi'."
        )
    statistic = max(2.0 * difference, 0.0)
    distribution, text = closed_form(nested)
    is_bound = text.endswith(BOUND)
    return (statistic, float(nested.df), distribution.tail(statistic), text), (
        ""
        if not is_bound and not text.endswith(APPROXIMATE)
        else f"The p value of {first.name} and {second.name} is {'an upper bound' if is_bound else 'approximate'}: "
        "parameters are at their boundary; jn.likelihood_ratio_test simulates the distribution."
    )


def closed_form(nested: Nesting) -> tuple[ChiSquareMixture, str]:
    """The distribution of a likelihood ratio without simulation, and its name: the mixture for one variance, or the
    chi-square distribution, marked where it is a bound or an approximation."""
    closed = nested.mixture and not nested.interior
    distribution = one_variance_mixture(nested.df) if closed else chi_square(nested.df)
    is_bound = nested.bounded_by_chi_square and not nested.nuisance_at_zero
    return distribution, (
        str(distribution) if closed or nested.interior else f"{distribution}{BOUND if is_bound else APPROXIMATE}"
    )


def _sentences(candidates: Sequence[Candidate]) -> list[str]:
    """Sentences on what is compared: likelihood, sample sizes, convergence, priors, Monte Carlo errors."""
    first = candidates[0].criteria
    methods = [*dict.fromkeys(each.method for each in candidates)]
    kind = "Restricted log-likelihoods" if candidates[0].restricted else "Log-likelihoods"
    minus = f" = {first.n_obs:g} - {first.n_integrated}" if candidates[0].restricted else ""
    groups = [*dict.fromkeys(f"{each.criteria.n_groups:g}" for each in candidates)]
    n_groups = f"{groups[0]} groups" if len(groups) == 1 else f"{' and '.join(groups)} groups (they differ)"
    sentences = [f"{kind} by {some(methods)}; N = {first.n_used:g}{minus} observations in BIC and AICc, {n_groups}."]
    failed = [each.name for each in candidates if not each.converged]
    if failed:
        sentences.append(f"NOT CONVERGED: {some(failed)}; what is said of these is not of maxima.")
    with_priors = [each.name for each in candidates if each.has_priors]
    if with_priors:
        sentences.append(
            f"Fitted with priors: {some(with_priors)}. The log-likelihood (without the prior) is that at the maximum "
            "of the posterior, below its own maximum; criteria and weights are approximate, and there is no likelihood "
            "ratio."
        )
    noisy = [f"{number(each.mc_se, 2)} ({each.name})" for each in candidates if each.mc_se > 0]
    if noisy:
        sentences.append(
            f"Monte Carlo standard errors of the log-likelihoods: {some(noisy)}; differences of this size mean nothing."
        )
    unknown = [each.name for each in candidates if np.isnan(each.bicc)]
    if unknown:
        sentences.append(f"BICc is not known for {some(unknown)}: the fit does not say what varies between groups.")
    return sentences
