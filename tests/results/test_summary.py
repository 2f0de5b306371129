"""The summary: convergence first, every number of the fit, lines of fewer than 100 columns."""

from __future__ import annotations

import re

import numpy as np
import pytest

import jaxnlme as jn
from tests import problems
from tests.results.conftest import MODEL


def test_contents(fit: jn.Fit) -> None:
    text = str(fit.summary())
    lines = text.splitlines()
    assert lines[0].startswith("Converged:")
    assert max(map(len, lines)) < 100
    for piece in (
        "FOCEI",
        "one_compartment; y = f + (a + b |f|) e",
        "diagonal psi of ka, cl, vol",
        "12 groups (Subject), 129 observations in 132 rows",
        "y conc; x Time, Dose; v Wt",
        f"{fit.log_likelihood:.4f}",
        f"{fit.objective:.4f} (NONMEM's: -2 log L - N log 2 pi)",
        f"AIC {fit.aic:.2f}",
        f"BIC {fit.bic:.2f} (N = 129 observations)",
        f"BIC {fit.bic_groups:.2f} (N = 12 groups)",
        "9 estimated, 0 fixed",
        "observed information of all parameters",
        "sandwich",
        "shrinkage%",
    ):
        assert piece in text, piece
    row = next(line for line in lines if line.startswith("ka "))
    assert f"{fit.values['ka']:.3f}" in row
    assert f"{fit.estimates.se['ka']:.4f}" in row
    for name in fit.estimates.index:
        assert re.search(rf"^{re.escape(name)} ", text, re.MULTILINE), name
    assert repr(fit.summary()) == text


@pytest.mark.parametrize(
    ("covariance", "description"),
    [
        ("full", "full psi of a, b, c"),
        ("log-matrix", "log-matrix psi of a, b, c"),
        ("identity", "identity psi of a, b, c"),
        ([["c", "a"], ["b"]], "psi of blocks: a, c (full); b"),
        (np.diag([1, 1, 1]), "psi of blocks: a; b; c"),
    ],
)
def test_psi_is_described_as_it_was_declared(covariance: object, description: str) -> None:
    data = problems.linear_data()
    fit = jn.fit(problems.linear_model(covariance), data, "fo", max_iterations=0, standard_errors=False)
    assert re.search(rf"^random effects +{re.escape(description)}$", str(fit.summary()), re.MULTILINE)


def test_iterations_are_those_of_the_history(fit: jn.Fit) -> None:
    assert fit.iterations == fit.history[-1]["iteration"] > 0
    assert f"FOCEI, {fit.iterations} iterations" in str(fit.summary())
    failed_start = jn.fit(MODEL, fit.data, "focei", start={"cl": 1e-300, "vol": 1e-300})
    assert failed_start.iterations == 0


def test_effective_numbers_of_draws_are_shown() -> None:
    """Drawn from the exact posterior (linear model, Gaussian proposal) every draw counts; from a t fewer do, and one
    row a group of how many."""
    data = problems.linear_data()
    for df, low, high in ((0.0, 199.999, 200.001), (3.0, 50.0, 195.0)):
        approximation = jn.ImportanceSampling(200, df=df)
        fit = jn.fit(problems.linear_model(), data, approximation, max_iterations=0, standard_errors=False)
        assert ((low < fit.ess) & (fit.ess < high)).all()
        table = fit.status.groups
        np.testing.assert_array_equal(table["ess"], fit.ess)
        np.testing.assert_allclose(table["monte carlo se"], np.sqrt(fit.monte_carlo_variance))
        # Delta method with normalised weights: var(log mean w) = (1 / ess - 1 / n) n / (n - 1).
        np.testing.assert_allclose(table["monte carlo se"] ** 2, (1 / fit.ess - 1 / 200) * 200 / 199, atol=1e-12)
    least = fit.data.labels[np.nanargmin(np.where(data.weights > 0, fit.ess, np.nan))]
    assert re.search(rf"smallest effective\s+number of draws [\d.]+ \(group {least}\)", str(fit.summary()))
    plain = jn.fit(problems.linear_model(), data, "focei", max_iterations=0, standard_errors=False)
    assert np.isnan(plain.ess).all()
    assert "ess" not in plain.status.groups


def test_html(fit: jn.Fit) -> None:
    page = fit._repr_html_()
    assert page.count("<table") == page.count("</table>") == 5
    assert page.index("Converged") < page.index("<table")
    assert f"{fit.log_likelihood:.4f}" in page


def test_not_converged_comes_first(data: jn.GroupedData) -> None:
    fit = jn.fit(MODEL, data, "focei", max_iterations=1, standard_errors=False)
    assert not fit.converged
    text = str(fit.summary())
    assert text.startswith("NOT CONVERGED")
    assert text.index("max_iterations") < text.index("log-likelihood  ")
    assert "Standard errors were not computed." in text
    assert "NOT CONVERGED" in repr(fit)
    page = fit.summary()._repr_html_()
    assert page.index("NOT CONVERGED") < page.index("<table")
    with pytest.raises(jn.FitError, match="NOT CONVERGED"):
        fit.throw()


def test_a_fit_that_did_not_begin_shows_no_estimates(data: jn.GroupedData) -> None:
    fit = jn.fit(MODEL, data, "focei", start={"cl": 1e-300, "vol": 1e-300})
    text = str(fit.summary())
    assert text.startswith("NOT CONVERGED: the fit did not begin.")
    assert "not finite" in text
    for word in ("estimate ", "AIC", "log-likelihood  ", "nan"):
        assert word not in text
        assert word not in fit.summary()._repr_html_()
    for ask in (fit.predict, fit.simulate, fit.residuals, fit.parameters):
        with pytest.raises(jn.FitError, match="no estimates"):
            ask()


def test_scales_priors_and_fixed_parameters_are_named(data: jn.GroupedData) -> None:
    model = jn.NLMEModel(
        MODEL.structure,
        [
            jn.Parameter("ka", 1.5, "log", random=True, prior=jn.priors.Normal(0.4, 0.3)),
            jn.Parameter("cl", 2.8, "identity", random=True),
            jn.Parameter("vol", 32.0, "log", fix=True),
        ],
        "full",
    )
    fit = jn.fit(model, data, "focei", max_iterations=3)
    text = str(fit.summary())
    assert re.search(r"^vol \(log\) +3.466 +fixed$|^vol \(log\) +3.466 +fixed +32.00$", text, re.MULTILINE)
    assert re.search(r"^cl \(identity\)", text, re.MULTILINE)
    assert re.search(r"^corr\(ka, cl\)", text, re.MULTILINE)
    assert "Normal(mean=0.4000, sd=0.3000)" in text
    assert "log prior" in text
    assert "1 fixed" in text
    assert max(map(len, text.splitlines())) < 100
