"""What is not comparable is refused with the reason; what is exact is compared across methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.comparison.comparable import candidate
from jaxnlme.data._responses import response_digest
from jaxnlme.results.criteria import Criteria
from tests.comparison.conftest import data, fitted, frame, model


def other(table: jn.GroupedData, **options: Any) -> jn.Fit:
    return jn.fit(model(), table, "focei", standard_errors=False, **options)


def changed(**columns: Any) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame().assign(**columns), "Subject", "distance", ["age"], ["Sex"])


FEW = frame()[frame()["Subject"] != "M01"]
REFUSED: list[tuple[Callable, str]] = [
    (lambda: other(changed(distance=np.log(frame()["distance"]))), "the log of those of the other.*Jacobian"),
    (
        lambda: other(changed(distance=frame()["distance"] + 1.0)),
        r"differ in 108 of 108 rows, first in .* \(26 and 27\)",
    ),
    (lambda: other(changed(distance=frame()["distance"].to_numpy()[::-1])), "same responses in another order of rows"),
    (
        lambda: other(jn.GroupedData.from_frame(FEW, "Subject", "distance", ["age"], ["Sex"])),
        "have 108 and 104 observations",
    ),
    (lambda: other(data().with_weights(np.linspace(1.0, 2.0, 27))), "the weights of their groups differ"),
    (lambda: fitted("int", restricted=True), "is restricted .* that of model 1 is not"),
    (lambda: other(data(), max_iterations=1), "model 2 did not converge.*allow_unconverged=True"),
    (lambda: fitted("proportional", "laplace"), r"in different ways \(FOCEI and Laplace\), and that of model 2 is not"),
    (lambda: 3, "argument 2 must be a fit.*received 3"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:20] for _, message in REFUSED])
def test_refused_with_the_reason(make: Callable, message: str) -> None:
    with pytest.raises(jn.OptionError, match=message.replace("\n", " ")):
        jn.compare(fitted("int"), make())


def test_restricted_fits_need_one_design() -> None:
    with pytest.raises(jn.OptionError, match="integrate out different fixed effects"):
        jn.compare(fitted("int", restricted=True), fitted("int sex", restricted=True))
    scaled = jn.fit(model(), changed(age=frame()["age"] / 10.0), "focei", restricted=True)
    assert scaled.log_likelihood != pytest.approx(fitted("int", restricted=True).log_likelihood, abs=1.0)
    with pytest.raises(jn.OptionError, match="different values of age, and a restricted log-likelihood depends"):
        jn.compare(fitted("int", restricted=True), scaled)
    # By maximum likelihood the scale does not matter.
    plain = jn.fit(model(), changed(age=frame()["age"] / 10.0), "focei")
    assert jn.compare(fitted("int"), plain).table["delta"].max() < 1e-6


def test_exact_likelihoods_are_compared_across_methods() -> None:
    """A linear model has the same likelihood by FOCEI, LME and Laplace; one with a proportional error does not."""
    assert candidate(fitted("int"), "a", 1).exact and not candidate(fitted("proportional"), "a", 1).exact
    compared = jn.compare(fitted("int"), fitted("full", "lme"))
    assert compared.table.iloc[1]["p"] == pytest.approx(jn.compare(fitted("int"), fitted("full")).table.iloc[1]["p"])
    restricted = jn.compare(fitted("int", restricted=True), fitted("int", "relme"))
    assert restricted.table["delta"].max() < 1e-6


def test_fits_that_did_not_converge_are_marked() -> None:
    unfinished = other(data(), max_iterations=1)
    compared = jn.compare(fitted("int"), unfinished, allow_unconverged=True)
    assert "NOT CONVERGED: model 2" in str(compared) and list(compared.table["converged"]) == [True, False]
    assert np.isnan(compared.table["p"]).all()


def test_priors_are_stated() -> None:
    compared = jn.compare(fitted("prior"), fitted("full"))
    assert "Fitted with priors: model 1" in str(compared) and np.isnan(compared.table["p"]).all()
    with pytest.raises(jn.OptionError, match="smaller model was fitted with priors"):
        jn.likelihood_ratio_test(fitted("prior"), fitted("full"))


def test_malformed_calls() -> None:
    a, b = fitted("int"), fitted("full")
    for make, message in (
        (lambda: jn.compare(a), "two or more fits; received 1"),
        (lambda: jn.compare([a, b]), r"jn\.compare\(\*fits\)"),
        (lambda: jn.compare(a, b, names=["x", "x"]), "2 different names"),
        (lambda: jn.compare(a, b, criterion="aic"), "criterion must be 'AIC'"),
        (lambda: jn.compare(a, b, level=0.9), "has no option 'level'"),
        (lambda: jn.likelihood_ratio_test(a, b, method="exact"), "method must be 'auto'"),
        (lambda: jn.likelihood_ratio_test(a, b, n=0), "n, the number of replicates"),
    ):
        with pytest.raises(jn.OptionError, match=message):
            make()


# ---- results of other kinds


@dataclasses.dataclass
class Linear:
    """The result of a function for linear models, as far as a comparison needs it."""

    log_likelihood: float
    parameter_names: tuple[str, ...]
    variance_parameters: dict[str, tuple[str, ...]]
    method: str = "lme"
    restricted: bool = False
    converged: bool = True
    status: str = "converged"
    fixed_effects_design: str = "X"
    exact_likelihood: bool = True
    fingerprint: str = response_digest(frame()["distance"].to_numpy())

    @property
    def criteria(self) -> Criteria:
        return Criteria(self.log_likelihood, len(self.parameter_names), 0, 0, 108, 27)


def linear(name: str, **changes: Any) -> Linear:
    fit = fitted(name)
    names = candidate(fit, name, 1).parameter_names
    effects = {"Subject": tuple(fit.binding.density.effect_names)}
    return dataclasses.replace(Linear(fit.log_likelihood, names, effects), **changes)


def test_results_of_other_kinds() -> None:
    compared = jn.compare(linear("int"), linear("full"), linear("sex"))
    ours = jn.compare(fitted("int"), fitted("full"), fitted("sex"))
    columns = ["log_likelihood", "df", "AIC", "AICc", "BIC", "delta", "weight"]
    np.testing.assert_allclose(compared.table[columns].astype(float), ours.table[columns].astype(float))
    assert list(compared.table["distribution"]) == list(ours.table["distribution"])
    assert compared.table["BICc"].isna().all() and "BICc is not known for model 1" in str(compared)
    beside_ours = jn.compare(linear("int"), fitted("full"))
    assert "whose parameters have other names" in str(beside_ours)
    assert str(jn.likelihood_ratio_test(linear("int"), linear("full")).distribution) == "0.5 chi2(1) + 0.5 chi2(2)"


def test_results_of_other_kinds_that_are_refused() -> None:
    a = linear("int")
    with pytest.raises(jn.OptionError, match=r"in different ways \(lme and gls\)"):
        jn.compare(a, linear("full", method="gls", exact_likelihood=False))
    with pytest.raises(jn.OptionError, match="their responses, or the weights or the order"):
        jn.compare(a, linear("full", fingerprint="other"))
    with pytest.raises(jn.OptionError, match="integrate out different fixed effects"):
        jn.compare(linear("int", restricted=True), linear("full", restricted=True, fixed_effects_design="Z"))
    with pytest.raises(jn.OptionError, match="cannot be simulated"):
        jn.likelihood_ratio_test(linear("none", variance_parameters={}), linear("full"))
    with pytest.raises(jn.OptionError, match="no table of estimates"):
        jn.compare(a, linear("full")).average()
