"""Variances estimated as zero: exactly zero, by the score at the boundary, at the maximum of the reduced model."""

from __future__ import annotations

import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators import catalogue


def ssfol(effects, covariance):
    start = {"lKe": -2.4327, "lKa": 0.4515, "lCl": -3.2145}
    parameters = [jn.Parameter(name, value, random=name in effects) for name, value in start.items()]
    return jn.NLMEModel(catalogue.ssfol, parameters, covariance), catalogue.data("Theoph")


def test_one_way_layout_without_variance_between_batches(reference):
    """Box and Tiao's generated yields: the maximum is that of one normal sample."""
    data = catalogue.data("Dyestuff2")
    fit = jn.fit(jn.NLMEModel(catalogue.level, [jn.Parameter("mu", 5.0, random=True)]), data, "focei")
    assert fit.converged, fit.status
    assert fit.values["sd(mu)"] == 0.0
    [sentence] = fit.at_zero
    assert "random effect of mu is estimated as zero" in sentence and "can be dropped" in sentence
    assert sentence in fit.status.sentences
    y = data.y[data.observed]
    assert fit.values["mu"] == pytest.approx(y.mean(), abs=1e-8)
    assert fit.values["a"] == pytest.approx(y.std(), rel=1e-8)
    lmer = catalogue.record(reference, "Dyestuff2_oneway_lmerML")
    assert fit.log_likelihood == pytest.approx(lmer["logLik"], abs=1e-7)
    assert np.isnan(fit.estimates.se["sd(mu)"])
    assert fit.estimates.se["mu"] == pytest.approx(y.std() / np.sqrt(len(y)), rel=1e-4)
    assert (fit.random_effects["mu"] == 0.0).all()


@pytest.fixture(scope="module")
def diagonal():
    return jn.fit(*ssfol(("lKe", "lKa", "lCl"), "diagonal"), "focei")


def test_one_variance_of_three_is_zero(diagonal):
    reduced = jn.fit(*ssfol(("lKa", "lCl"), "diagonal"), "focei")
    assert diagonal.converged, diagonal.status
    assert diagonal.values["sd(lKe)"] == 0.0
    assert diagonal.values["sd(lKa)"] > 0.5
    [sentence] = diagonal.at_zero
    assert "lKe" in sentence and "lKa" not in sentence
    assert diagonal.log_likelihood == pytest.approx(reduced.log_likelihood, abs=1e-7)
    for name in ("lKe", "lKa", "lCl"):
        assert diagonal.beta[name] == pytest.approx(reduced.beta[name], abs=1e-5)
        assert diagonal.estimates.se[name] == pytest.approx(reduced.estimates.se[name], rel=1e-4)
    # An effect whose variance is estimated as zero still counts.
    assert diagonal.criteria.n_parameters == reduced.criteria.n_parameters + 1


def test_the_score_at_the_boundary_is_right(diagonal):
    """A small variance of that effect lowers the likelihood, as the sentence states."""
    maximum = catalogue.likelihood(diagonal, diagonal.params)
    assert maximum == pytest.approx(diagonal.log_likelihood, abs=1e-9)
    values = {name: diagonal.values[name] for name in ("lKe", "lKa", "lCl", "a")}
    for variance in (1e-6, 1e-5, 1e-4):
        psi = np.diag([variance, *np.diag(diagonal.psi)[1:]])
        params = diagonal.model.params(diagonal.data, values, psi=psi)
        assert catalogue.likelihood(diagonal, params) < maximum


@pytest.mark.parametrize("start", [None, {"lKe": -1.74, "lKa": -0.2416, "lCl": -2.5214}], ids=["near", "far"])
def test_a_full_psi_is_singular_where_the_diagonal_one_was_zero(diagonal, start):
    """With covariances lKe does vary, as a function of the others: psi has rank two, at a much better likelihood.

    From the distant start the search passes sd(lKe) = 0, where the likelihood rises only along a covariance."""
    fit = jn.fit(*ssfol(("lKe", "lKa", "lCl"), "full"), "focei", start=start)
    assert fit.converged, fit.status
    assert fit.log_likelihood == pytest.approx(-173.2440786, abs=1e-5)
    assert fit.log_likelihood > diagonal.log_likelihood + 3
    values, vectors = np.linalg.eigh(fit.psi.to_numpy())
    assert abs(values[0]) < 1e-10 * values[-1]
    [sentence] = fit.at_zero
    assert "Psi is singular" in sentence and "linear function of the effects before it" in sentence
    # No change of psi along any w w', however small, raises the likelihood.
    rng = np.random.default_rng(1)
    sd = np.sqrt(np.diag(fit.psi))
    fixed = {name: fit.values[name] for name in ("lKe", "lKa", "lCl", "a")}
    for w in 0.003 * sd * rng.normal(size=(12, 3)):
        params = fit.model.params(fit.data, fixed, psi=fit.psi.to_numpy() + np.outer(w, w))
        assert catalogue.likelihood(fit, params) < fit.log_likelihood + 1e-6


def test_five_trees_do_not_carry_a_full_psi():
    """Growth of five trees: the maximum has a singular psi, whatever the start."""
    start = {"Asym": 192.0, "xmid": 728.0, "scal": 356.0}
    model, data = catalogue.from_r("Orange_logis_full3", start)
    fits = [jn.fit(model, data, "focei", start=start | other) for other in ({}, {"scal": 534.0}, {"Asym": 128.0})]
    for fit in fits:
        assert fit.converged, fit.status
        assert fit.log_likelihood == pytest.approx(-129.960285, abs=1e-5)
        assert fit.at_zero and np.linalg.eigvalsh(fit.psi / 1000.0)[0] < 1e-8


def test_one_zero_variance_of_two_in_a_full_psi():
    """Residuals orthogonal to the line give every group the same slope: no variance of slopes, no covariance."""
    rng = np.random.default_rng(2)
    group, t = np.repeat(np.arange(8), 5), np.tile(np.arange(5.0) - 2.0, 8)
    residual = np.outer(rng.choice([-0.3, 0.2], 8), [1.0, -2.0, 0.0, 2.0, -1.0]).ravel()
    y = 4.0 + rng.normal(size=8)[group] + 0.5 * t + residual
    data = jn.GroupedData.from_arrays(y, group, {"t": t})

    def model(covariance, slope):
        return jn.NLMEModel(
            catalogue.line, [jn.Parameter("mu", 3.0, random=True), jn.Parameter("slope", 1.0, random=slope)], covariance
        )

    fit, reduced = jn.fit(model("full", True), data, "focei"), jn.fit(model("diagonal", False), data, "focei")
    assert fit.converged and reduced.converged, fit.status
    assert fit.log_likelihood == pytest.approx(reduced.log_likelihood, abs=1e-7)
    assert fit.at_zero
    assert fit.psi.loc["slope", "slope"] < 1e-8
    assert fit.values["sd(mu)"] == pytest.approx(reduced.values["sd(mu)"], rel=1e-4)
    assert fit.estimates.se["slope"] == pytest.approx(reduced.estimates.se["slope"], rel=1e-3)


def test_a_start_on_the_boundary_is_left():
    """A start with sd = 0: the score there points to the interior, and the fit follows it."""
    start = {"Asym": 192.0, "xmid": 728.0, "scal": 356.0}
    model, data = catalogue.from_r("Orange_logis_Asym", start)
    params = model.params(data, {"sd(Asym)": 1e-12})
    fit = jn.fit(model, data, "focei", start=params)
    assert fit.converged, fit.status
    assert fit.log_likelihood == pytest.approx(-131.571885, abs=1e-5)


def test_modes_follow_when_psi_is_factored_afresh():
    """A null pivot with entries below it is the same psi in another factor: its effects are the same b, and a search
    from their old coordinates would begin at other effects."""
    from jaxnlme.binding.bind import bind
    from jaxnlme.binding.placement import PlacedProblem
    from jaxnlme.binding.user_scale import psi_of
    from jaxnlme.estimators.marginal.evaluations import Evaluator
    from jaxnlme.estimators.marginal.method import MaximumLikelihood
    from jaxnlme.estimators.marginal.objective import MarginalObjective
    from jaxnlme.estimators.marginal.search import QuasiNewton
    from jaxnlme.estimators.marginal.session import Session

    model, data = catalogue.oral(covariance="full"), catalogue.theophylline_mg()
    binding = bind(model, data)
    theta = np.array([-20.0, -1.5, -2.0, 0.2, 0.1, 0.05])  # log diagonal, then rows of the triangle
    params = jn.Params(binding.start.beta, theta, binding.start.error, None)
    evaluator = Evaluator(binding, jn.FOCEI(), params, PlacedProblem(binding.problem))
    session = Session(MarginalObjective(evaluator), QuasiNewton(), MaximumLikelihood(jn.FOCEI()), [])
    x = session.x.copy()
    gone = np.where(theta == -20.0, -np.inf, theta)  # exp(-20) is zero for every purpose
    x[3:9] = binding.density.covariance.from_matrix(psi_of(binding.density, gone))
    assert x[3] == -np.inf and not np.allclose(x[4:9], session.x[4:9])
    assert session.evaluate_candidate(x).value == pytest.approx(session.best.value, abs=1e-6)
    transformed = (
        session.placed.collect(evaluator.modes_at(x, session.best))
        @ np.asarray(binding.density.covariance.factor(x[3:9])).T
    )
    original = session.placed.collect(session.best.modes) @ np.asarray(binding.density.covariance.factor(theta)).T
    assert transformed == pytest.approx(original, abs=1e-6)
