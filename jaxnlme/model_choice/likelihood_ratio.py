"""Likelihood ratio tests of nested models, also where variances are at their boundary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.arguments import check_choice, check_progress
from jaxnlme.comparison.chi_square import ChiSquareMixture, bootstrap_p, chi_square, one_variance_mixture
from jaxnlme.comparison.comparable import Candidate, candidate
from jaxnlme.comparison.nesting import Nesting, nesting
from jaxnlme.comparison.refusals import check_comparable
from jaxnlme.comparison.settings import RATIO
from jaxnlme.errors import OptionError, check_whole_number, some
from jaxnlme.model_choice.bootstrap_ratio import ratio_replicates
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.signatures import public

METHODS = ("auto", "chi-square", "mixture", "bootstrap")


@public("jn.likelihood_ratio_test")
def likelihood_ratio_test(
    smaller: Any,
    larger: Any,
    *,
    method: str = "auto",
    n: int = RATIO.replicates,
    key: Any = 0,
    progress: bool | None = None,
) -> LikelihoodRatioTest:
    """Test of a model against a larger one: twice the difference of the log-likelihoods.

    That the smaller model is a special case of the larger one is verified: model functions and the columns of the data,
    fixed effects by name, members of the covariance structure, densities of the residual model.

    **Arguments:**

    - `smaller`, `larger`: converged fits of the same responses by the same method; restricted ones of the same fixed
      effects.
    - `method`: the distribution of the statistic under the smaller model. "chi-square": for parameters inside their
      range. "mixture": 0.5 chi2(r) + 0.5 chi2(r + 1), for one added variance and r other parameters, such as its
      covariances with the effects of the smaller model. "bootstrap": both models are fitted to responses drawn from the
      smaller fit. "auto": the first of these that holds, so that several variances, residual parameters at a bound of
      their range, and a smaller model whose own psi is singular lead to the bootstrap.
    - `n`, `key`, `progress`: the number of replicates of a bootstrap, the seed of their responses (those of
      `smaller.simulate(n, key)`), and a line while it runs.

    **Returns:** a LikelihoodRatioTest.
    **Raises:** OptionError for fits that are not comparable or not nested, with the reason; for fits with priors, and
    for method="mixture" where it does not hold; ModelError where responses cannot be drawn.
    **Source:** Self and Liang (1987), Journal of the American Statistical Association 82, 605-610; Stram and Lee
    (1994), Biometrics 50, 1171-1177; Davison and Hinkley (1997), Bootstrap Methods and their Application, section 4.2.

    **Example:**

    ```python
    jn.likelihood_ratio_test(fit.update(drop="vol"), fit)
    ```
    """
    check_choice("method", method, METHODS)
    n = check_whole_number("n", n, 1, "the number of replicates")
    progress = check_progress(progress)
    small, large = candidate(smaller, "the smaller model", 1), candidate(larger, "the larger model", 2)
    check_comparable([small, large], allow_unconverged=False)
    for each in (small, large):
        if each.has_priors:
            raise OptionError(
                f"{each.name} was fitted with priors: its estimates maximise the posterior, not the likelihood, and "
                "the ratio of likelihoods has no known distribution. Fit it without priors."
            )
    nested = nesting(small, large)
    if isinstance(nested, str):
        raise OptionError(f"the smaller model is not nested in the larger one: {nested}")
    return _test(small, large, nested, method, n, key, progress)


def _test(
    small: Candidate, large: Candidate, nested: Nesting, method: str, n: int, key: Any, progress: bool | None
) -> LikelihoodRatioTest:
    """The test of two nested candidates."""
    difference = large.log_likelihood - small.log_likelihood
    kind = ", restricted" if small.restricted else ""
    sentences = [f"{small.method}{kind}: test of {some(list(nested.added))}."]
    if difference < -max(RATIO.lower_by, 3.0 * np.hypot(small.mc_se, large.mc_se)):
        raise OptionError(
            f"the larger model has the lower log-likelihood ({large.log_likelihood:.4f}, the smaller one "
            f"{small.log_likelihood:.4f}), so its fit is not at its maximum: fit it again from the estimates of the "
            "smaller one, or with starts='multi'."
        )
    statistic = max(2.0 * difference, 0.0)
    if method == "auto":
        method = "chi-square" if nested.interior else "mixture" if nested.mixture else "bootstrap"
        if method == "bootstrap":
            sentences.append(f"{_why_bootstrap(nested)}, so the distribution is that of {n} simulated data sets.")
    if method == "mixture" and not nested.mixture:
        raise OptionError(
            f"method='mixture' is for one added variance: here {_why_no_mixture(nested)}. Use method="
            f"'{'chi-square' if nested.interior else 'bootstrap'}'."
        )
    if method == "chi-square" and not nested.interior:
        bound = ": its p value is too large" if nested.bounded_by_chi_square and not nested.nuisance_at_zero else ""
        sentences.append(f"The chi-square distribution does not hold with parameters at their boundary{bound}.")
    mc = float(np.hypot(small.mc_se, large.mc_se))
    if mc > 0:
        sentences.append(f"The statistic has a Monte Carlo standard error of {number(2.0 * mc, 2)}.")
    if method != "bootstrap":
        distribution = (chi_square if method == "chi-square" else one_variance_mixture)(nested.df)
        p = distribution.tail(statistic)
        return LikelihoodRatioTest(statistic, nested.df, p, method, distribution, nested, tuple(sentences))
    replicates = ratio_replicates(small, large, nested, n, key, progress)
    good = replicates.statistics[~np.isnan(replicates.statistics)]
    if not len(good):
        raise OptionError(f"no replicate of the bootstrap converged. {' '.join(replicates.sentences)}")
    p, error = bootstrap_p(statistic, good)
    sentences += replicates.sentences
    return LikelihoodRatioTest(
        statistic, nested.df, p, method, None, nested, tuple(sentences), replicates.statistics, error
    )


def _why_bootstrap(nested: Nesting) -> str:
    """The reason why no closed form holds."""
    if nested.at_bound:
        return f"{some(list(nested.at_bound))} is at a bound of its range in the smaller model"
    if nested.nuisance_at_zero:
        return "The smaller model has a variance of zero, or linearly dependent random effects, itself"
    return f"Several variances are zero in the smaller model ({some(list(nested.new_effects))})"


def _why_no_mixture(nested: Nesting) -> str:
    """The reason why the mixture for one variance does not hold."""
    if nested.interior:
        return "no variance is added"
    reason = _why_bootstrap(nested)
    return reason[0].lower() + reason[1:] if not nested.at_bound else reason


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LikelihoodRatioTest(Printable):
    """A likelihood ratio test.

    **Fields:** `statistic`, 2 (log L of the larger model - log L of the smaller one), zero where that is negative by
    rounding; `df`, the difference of the numbers of parameters; `p`; `method`: "chi-square", "mixture" or "bootstrap";
    `distribution` under the smaller model, None for a bootstrap; `nesting`: what is tested, and what is at a boundary;
    `sentences`; `replicates` (n,): statistics of a bootstrap, NaN where a fit failed, None for others; `p_se`, the
    Monte Carlo standard error of the p value of a bootstrap, zero for others.
    """

    statistic: float
    df: int
    p: float
    method: str
    distribution: ChiSquareMixture | None
    nesting: Nesting
    sentences: tuple[str, ...]
    replicates: np.ndarray | None = None
    p_se: float = 0.0

    def _tables(self) -> list[Table]:
        by = str(self.distribution)
        if self.replicates is not None:
            by = f"bootstrap of {int(np.sum(~np.isnan(self.replicates)))}"
        p = number(self.p, 3) + (f" (+- {number(self.p_se, 2)})" if self.replicates is not None else "")
        header = ("", "chi-square", "df", "p", "distribution")
        return [Table("Likelihood ratio test", header, [("larger model", number(self.statistic), str(self.df), p, by)])]
