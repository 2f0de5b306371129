"""Nested models and the distributions of their likelihood ratio."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

import jaxnlme as jn
from jaxnlme.comparison.chi_square import ChiSquareMixture, bootstrap_p, chi_square, one_variance_mixture
from jaxnlme.comparison.comparable import candidate
from jaxnlme.comparison.nesting import Nesting, nesting
from tests.comparison.conftest import data, fitted, frame, line, model, null_data


def nested(smaller: str, larger: str) -> Nesting | str:
    return nesting(candidate(fitted(smaller), "small", 1), candidate(fitted(larger), "large", 2))


# smaller, larger: added, at a bound, distribution
NESTED = [
    ("int", "int sex", ["mu ~ Sex[T.Male]"], "interior"),
    ("int", "full", ["sd(slope)", "corr(mu, slope)"], "mixture"),
    ("int", "log-matrix", ["sd(slope)", "corr(mu, slope)"], "mixture"),
    ("int", "sex", ["mu ~ Sex[T.Male]", "sd(slope)", "corr(mu, slope)"], "mixture"),
    ("none", "int", ["sd(mu)"], "mixture"),
    ("none", "diag", ["sd(mu)", "sd(slope)"], "bootstrap"),
    ("none", "identity", ["sd(mu)", "sd(slope)"], "mixture"),
    ("diag", "full", ["corr(mu, slope)"], "interior"),
    ("identity", "diag", ["the structure of psi"], "interior"),
    ("held", "diag", ["sd(slope)"], "interior"),
    ("int", "hetero", ["sd(mu[Male])"], "interior"),
    ("int", "varident", ["a[Male]"], "interior"),
    ("int", "power", ["c"], "interior"),
    ("int", "combined", ["b"], "bootstrap"),
    ("proportional", "combined", ["a"], "bootstrap"),
    ("int", "ar1", ["rho"], "interior"),
    ("int", "car1", ["rho"], "bootstrap"),
]


@pytest.mark.parametrize(("smaller", "larger", "added", "kind"), NESTED, ids=[f"{a} in {b}" for a, b, _, _ in NESTED])
def test_nested_models(smaller: str, larger: str, added: list[str], kind: str) -> None:
    found = nested(smaller, larger)
    assert isinstance(found, Nesting), found
    assert sorted(found.added) == sorted(added)
    assert ("interior" if found.interior else "mixture" if found.mixture else "bootstrap") == kind
    assert found.df == fitted(larger).criteria.n_parameters - fitted(smaller).criteria.n_parameters
    backwards = nested(larger, smaller)
    assert isinstance(backwards, str) and "a nested model has fewer" in backwards


NOT_NESTED = [
    ("int sex", "full", "lacks mu ~ Sex"),
    ("proportional", "full", "residual model of the larger model .* is that of the smaller one"),
    ("int", "identity", "a nested model has fewer"),
    ("hetero", "full", r"no random effect of mu\[Female\] and mu\[Male\]"),
    ("identity", "full", None),
]


@pytest.mark.parametrize(("smaller", "larger", "reason"), NOT_NESTED)
def test_models_that_are_not_nested(smaller: str, larger: str, reason: str | None) -> None:
    found = nested(smaller, larger)
    if reason is None:
        assert isinstance(found, Nesting)
        return
    assert isinstance(found, str)
    with pytest.raises(jn.OptionError, match=f"not nested in the larger one: .*{reason}"):
        jn.likelihood_ratio_test(fitted(smaller), fitted(larger))


def test_other_functions_are_not_compared_by_name() -> None:
    def curve(phi, x):
        return phi.mu + phi.slope * x.age + 0.0

    parameters = [jn.Parameter("mu", 17.0, random=True), jn.Parameter("slope", 0.6, random=True)]
    fit = jn.fit(jn.NLMEModel(curve, parameters), data(), "focei", standard_errors=False)
    with pytest.raises(jn.OptionError, match="model functions, parameters or transforms differ"):
        jn.likelihood_ratio_test(fitted("int"), fit)
    fixed = [jn.Parameter("mu", 17.0, random=True), jn.Parameter("slope", 0.6, fix=True)]
    held = jn.fit(jn.NLMEModel(line, fixed), data(), "focei", standard_errors=False)
    test = jn.likelihood_ratio_test(held, fitted("int"))
    assert test.nesting.added == ("slope",) and test.method == "chi-square"


# ---- distributions


def test_mixtures_by_their_definition() -> None:
    x = 3.1
    assert chi_square(2).tail(x) == pytest.approx(chi2.sf(x, 2))
    assert one_variance_mixture(1).tail(x) == pytest.approx(0.5 * chi2.sf(x, 1))
    assert one_variance_mixture(1).tail(0.0) == 1.0
    assert one_variance_mixture(3).tail(x) == pytest.approx(0.5 * chi2.sf(x, 2) + 0.5 * chi2.sf(x, 3))
    # Critical values of 0.5 chi2(0) + 0.5 chi2(1) and 0.5 chi2(1) + 0.5 chi2(2) at 5%: Stram and Lee (1994).
    assert one_variance_mixture(1).quantile(0.95) == pytest.approx(2.706, abs=1e-3)
    assert one_variance_mixture(2).quantile(0.95) == pytest.approx(5.138, abs=1e-3)
    assert one_variance_mixture(1).quantile(0.4) == 0.0
    assert str(ChiSquareMixture(((0.5, 0), (0.5, 1)))) == "0.5 chi2(0) + 0.5 chi2(1)"


def test_p_value_of_replicates() -> None:
    p, error = bootstrap_p(2.0, np.array([0.0, 1.0, 2.0, 5.0]))
    assert p == 3.0 / 5.0 and error == pytest.approx(np.sqrt(0.6 * 0.4 / 4))


def test_one_variance() -> None:
    test = jn.likelihood_ratio_test(fitted("int"), fitted("full"))
    assert test.method == "mixture" and test.df == 2
    assert test.statistic == pytest.approx(4.177940831, abs=2e-6)  # nlme's anova
    assert test.p == pytest.approx(0.5 * chi2.sf(4.177940831, 1) + 0.5 * chi2.sf(4.177940831, 2), rel=1e-5)
    naive = jn.likelihood_ratio_test(fitted("int"), fitted("full"), method="chi-square")
    assert naive.p == pytest.approx(0.1238145477, rel=1e-5) and "p value is too large" in " ".join(naive.sentences)
    with pytest.raises(jn.OptionError, match=r"no variance is added. Use method='chi-square'"):
        jn.likelihood_ratio_test(fitted("diag"), fitted("full"), method="mixture")
    with pytest.raises(jn.OptionError, match=r"several variances are zero.*Use method='bootstrap'"):
        jn.likelihood_ratio_test(fitted("none"), fitted("full"), method="mixture")


def test_a_smaller_model_at_its_boundary() -> None:
    """With a variance of zero in the smaller model no closed form holds for further parameters of psi."""
    table = null_data(12, 3)
    covariates = [jn.Parameter("mu", 20.0, random=True), jn.Parameter("slope", 0.7, random=True)]
    diag = jn.fit(jn.NLMEModel(line, covariates), table, "focei")
    assert diag.values["sd(slope)"] == 0.0
    full = jn.fit(jn.NLMEModel(line, covariates, "full"), table, "focei")
    found = nesting(candidate(diag, "small", 1), candidate(full, "large", 2))
    assert isinstance(found, Nesting) and found.nuisance_at_zero and not found.interior and not found.mixture


def test_bootstrap_of_one_variance_is_the_mixture() -> None:
    """Replicates of the smaller model are zero in about half of the cases, and exceed the statistic about as often as
    the mixture says; the same key gives the same numbers."""
    options = {"method": "bootstrap", "n": 80, "key": 3}
    test = jn.likelihood_ratio_test(fitted("int"), fitted("diag"), **options)
    assert test.replicates is not None and test.replicates.shape == (80,) and not np.isnan(test.replicates).any()
    assert 0.35 < np.mean(test.replicates < 1e-6) < 0.75  # 0.5 for many groups, a little more for 27
    expected = one_variance_mixture(1).tail(test.statistic)
    assert abs(test.p - expected) < 4.0 * np.sqrt(expected * (1.0 - expected) / 80) + 1.0 / 80
    again = jn.likelihood_ratio_test(fitted("int"), fitted("diag"), **options)
    np.testing.assert_array_equal(test.replicates, again.replicates)
    assert "bootstrap of 80" in str(test) and "+-" in str(test)


def test_replicates_are_fits_of_simulated_responses() -> None:
    """With rows in any order and a missing response; `jn.fit` of each simulated table finds the same statistic."""
    table = frame().sample(frac=1.0, random_state=1)
    table.loc[3, "distance"] = np.nan
    shuffled = jn.GroupedData.from_frame(table, "Subject", "distance", ["age"], ["Sex"])
    models = [model(), model("full", ("mu", "slope"))]
    fits = [jn.fit(each, shuffled, "focei") for each in models]
    test = jn.likelihood_ratio_test(*fits, method="bootstrap", n=3, key=7)
    assert test.replicates is not None
    for y, statistic in zip(fits[0].simulate(3, 7), test.replicates, strict=True):
        small, large = (jn.fit(each, shuffled.with_response(y), "focei").log_likelihood for each in models)
        assert statistic == pytest.approx(2.0 * (large - small), abs=1e-5)


def test_several_variances_lead_to_a_bootstrap() -> None:
    test = jn.likelihood_ratio_test(fitted("none"), fitted("diag"), n=20)
    assert test.method == "bootstrap" and test.p == pytest.approx(1.0 / 21.0)
    assert "Several variances are zero in the smaller model (mu and slope)" in str(test)


def test_bootstrap_of_fits_by_other_methods() -> None:
    """Refits one after the other draw the same responses: the statistics of a linear model are those of the batch."""
    batch = jn.likelihood_ratio_test(fitted("int"), fitted("full"), method="bootstrap", n=4)
    by_lme = jn.likelihood_ratio_test(fitted("int", "lme"), fitted("full", "lme"), method="bootstrap", n=4)
    np.testing.assert_allclose(by_lme.replicates, batch.replicates, atol=2e-3)


def test_p_values_of_null_data_are_uniform() -> None:
    """Thirty data sets without a random slope: the statistics follow 0.5 chi2(0) + 0.5 chi2(1), not chi2(1)."""
    p, zeros = [], 0
    small, large = model(), model("diagonal", ("mu", "slope"))
    for k in range(30):
        table = null_data(40, 100 + k)
        fits = [jn.fit(each, table, "focei", standard_errors=False) for each in (small, large)]
        test = jn.likelihood_ratio_test(*fits)
        assert test.method == "mixture"
        zeros += test.statistic < 1e-6
        p.append(test.p)
    # Binomial(30, 0.5): outside of 7 to 23 with probability 0.003.
    assert 7 <= zeros <= 23
    # P(p <= a) = a for a < 0.5, so the number below 0.3 is binomial(30, 0.3): beyond 17 with probability 0.001.
    assert 2 <= np.sum(np.array(p) < 0.3) <= 17
