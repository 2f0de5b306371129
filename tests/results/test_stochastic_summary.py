"""The text of a stochastic fit: on its summary page, and as `fit.sampling`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.results.stochastic import reached_best
from tests.simulated_fits import MODEL, data, several, unfinished


def test_the_summary_describes_the_run():
    fit = several()
    text = str(fit.summary())
    flat = " ".join(text.split())
    after = len(fit.sampling.packed) - 5 - 200
    for piece in (
        "8 chains of each group; iterations: 5 burn-in, 100 annealing, 50 full steps, 50 decreasing steps, "
        f"{after} after them",
        "maximised closed form for a, c, psi",
        f"{fit.log_likelihood:.4f} (Gauss-Hermite quadrature around the conditional means)",
        "2 in parallel",
        "2 reached the best maximum; 2 converged; R-hat",
        "limit 0.05",
        "observed information of all parameters (beta, psi, error), by Louis' method from the draws",
    ):
        assert piece in flat, piece
    ratio = (fit.sampling.errors["monte carlo se"] / fit.sampling.errors["se"]).max()
    assert f"{ratio:.2g} of a standard error at most" in flat
    assert max(map(len, text.splitlines())) < 100
    assert "Monte Carlo error" in fit._repr_html_()


def test_a_likelihood_that_was_not_computed_is_not_nan_on_the_page():
    fit = unfinished()
    text = str(fit.summary())
    assert "not computed (likelihood='none'), nor are criteria" in text
    assert "nan" not in text and "AIC" not in text and "5 estimated, 0 fixed" in text
    assert repr(fit).startswith("<Fit by SAEM: NOT CONVERGED, log-likelihood not computed, 12 groups")


def test_a_run_that_is_stopped_early_has_a_page():
    fit = jn.fit(MODEL, data(), jn.SAEM(chains=8, likelihood="none"), callbacks=[lambda entry: entry.iteration == -3])
    assert fit.iterations == 0 and several().iterations == len(several().sampling.packed) - 5
    assert "iterations: 3 burn-in" in str(fit.sampling)
    stopped = dataclasses.replace(fit, sampling=dataclasses.replace(fit.sampling, likelihood="is"))
    assert "not computed (the run ended before)" in str(stopped.summary())


def test_linearised_standard_errors_are_named():
    fit = several()
    other = dataclasses.replace(fit, estimator=jn.SAEM(information="linearised"))
    assert "model linearised at the conditional modes" in " ".join(str(other.summary()).split())


def test_sampling_prints_as_a_page():
    sampling = several().sampling
    text = str(sampling)
    assert text.startswith("Simulation with 8 chains of each group")
    assert repr(sampling) == text and max(map(len, text.splitlines())) < 100
    for piece in ("log sd(c)", "R-hat", "% accepted", "population", "(best)", "last step / se"):
        assert piece in text, piece
    assert sampling._repr_html_().count("<table") == 3
    assert "(best)" not in str(dataclasses.replace(sampling, replicates=sampling.replicates[:1]))


def test_many_replicates_fit_the_width_of_a_line():
    sampling = several().sampling
    many = dataclasses.replace(sampling, replicates=sampling.replicates * 7)
    assert max(map(len, str(many).splitlines())) < 100
    assert str(many).count("Replicates, values") == 3


@pytest.mark.parametrize(
    ("values", "errors", "near"),
    [
        ([-10.0, -10.4, -10.6], [0.0, 0.0, 0.0], [True, True, False]),
        ([-10.0, -10.6, np.nan], [0.1, 0.1, np.nan], [True, True, False]),  # the same up to 0.5 + 3 (0.1 + 0.1)
    ],
)
def test_which_replicates_reached_the_best_maximum(values, errors, near):
    np.testing.assert_array_equal(reached_best(np.array(values), np.array(errors), 0), near)
