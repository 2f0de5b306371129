"""Fits from standard deviations and residual scales that are far off, each by its own factor: one maximum."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.marginal.evaluations import Evaluator
from jaxnlme.estimators.marginal.objective import MarginalObjective
from jaxnlme.estimators.marginal.search import QuasiNewton
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.starting_scales import adjust_starting_scales, em_step, scales_of
from jaxnlme.precision import x64
from tests.estimators.marginal.test_nonlinear_units_and_starts import PROBLEMS

# The minimiser ends where a further step gains less than 1e-8 log units, of which rounding is a part.
SAME = 1e-4
FACTORS = (1e-4, 1e-2, 1e2, 1e4)


@functools.cache
def lines(unit=1.0):
    """Twenty groups with a line each."""
    rng = np.random.default_rng(4)
    group, t = np.repeat(np.arange(20), 5), np.tile(np.arange(5.0), 20)
    b = rng.multivariate_normal([0.0, 0.0], [[4.0, 0.6], [0.6, 0.36]], 20)
    y = 10.0 + b[group, 0] + (2.0 + b[group, 1]) * t + rng.normal(size=100)
    return jn.GroupedData.from_arrays(y * unit, group, {"t": t})


def line(phi, x):
    return phi.base + phi.slope * x.t


def model(factors=(1.0, 1.0, 1.0), covariance="full", unit=1.0):
    sds = np.array([2.0, 0.6, 1.0]) * factors * unit
    parameters = [
        jn.Parameter("base", 9.0 * unit, random=True, sd=sds[0]),
        jn.Parameter("slope", 1.5 * unit, random=True, sd=sds[1]),
    ]
    return jn.NLMEModel(line, parameters, covariance, jn.error.constant(sds[2]))


@functools.cache
def maximum(method, covariance, unit=1.0):
    fit = jn.fit(model(covariance=covariance, unit=unit), lines(unit), method)
    assert fit.converged
    return fit.log_likelihood


CASES = [("focei", "full", 1.0), ("lme", "full", 1.0), ("laplace", "diagonal", 1.0), ("relme", "full", 1e-6)]
CASES += [("lme", "diagonal", 1e6), ("foce", "diagonal", 1e6)]


@pytest.mark.parametrize(("method", "covariance", "unit"), CASES)
def test_a_linear_model_has_one_maximum(method, covariance, unit):
    for factors in itertools.product(FACTORS, repeat=3):
        fit = jn.fit(model(factors, covariance, unit), lines(unit), method)
        assert fit.converged, (factors, str(fit.status))
        assert fit.log_likelihood == pytest.approx(maximum(method, covariance, unit), abs=SAME), factors


RESIDUALS = {"trees": 8.0, "indomethacin": 0.1, "theophylline": 0.7}


@pytest.mark.parametrize("problem", list(RESIDUALS))
@pytest.mark.parametrize("method", ["focei", "lme"])
def test_nonlinear_models_end_at_the_same_maximum(problem, method):
    def fit(factors):
        declared, columns = PROBLEMS[problem](1.0, 1.0, factors[:2])
        kind = jn.error.proportional if problem == "indomethacin" else jn.error.constant
        error = kind(RESIDUALS[problem] * factors[2])
        changed = jn.NLMEModel(declared.structure, declared.parameters, error=error)
        return jn.fit(changed, jn.GroupedData.from_frame(columns, "g", "y", ["t"]), method)

    expected = fit((1.0, 1.0, 1.0))
    assert expected.converged
    for factors in itertools.product((1e-4, 1e-2, 10.0), (1e-4, 10.0), (1e-4, 1e-2, 10.0)):
        other = fit(factors)
        assert other.converged, (factors, str(other.status))
        assert other.log_likelihood == pytest.approx(expected.log_likelihood, abs=SAME), factors


def session_at(factors, covariance="diagonal", data=None, error=None):
    declared = model(factors, covariance)
    if error is not None:
        declared = jn.NLMEModel(line, declared.parameters, covariance, error)
    binding = jn.bind(declared, lines() if data is None else data)
    evaluator = Evaluator(binding, jn.FOCEI(), binding.start, PlacedProblem(binding.problem))
    return Session(MarginalObjective(evaluator), QuasiNewton(), jn.MaximumLikelihood(jn.FOCEI()), ())


def test_a_step_is_that_of_em():
    """The new variances are the conditional expectations of the sums of squares over their numbers."""
    with x64():
        session = session_at((30.0, 0.05, 0.1))
        data, x = lines(), session.x
        z = np.column_stack([np.ones(5), np.arange(5.0)])
        psi, variance = np.diag(np.exp(2.0 * x[2:4])), float(np.exp(2.0 * x[4]))
        squares, rss = np.zeros(2), 0.0
        for y in np.asarray(data.y):
            v = z @ psi @ z.T + variance * np.eye(5)
            residual = y - z @ x[:2]
            b = psi @ z.T @ np.linalg.solve(v, residual)
            covariance = psi - psi @ z.T @ np.linalg.solve(v, z @ psi)
            squares += b**2 + np.diag(covariance)
            rss += np.sum((residual - z @ b) ** 2) + np.trace(z @ covariance @ z.T)
        expected = 0.5 * np.log(np.array([*(squares / 20 / np.diag(psi)), rss / 100 / variance]))
        steps = [em_step(session, indices, count) for indices, count in scales_of(session)]
    assert steps[0] == pytest.approx(expected[0]) and steps[2] == pytest.approx(expected[2])
    assert steps[1] >= expected[1] - 1e-9  # upwards, a scoring step may be longer


def test_scales_of_strata_have_their_own_steps():
    data = lines()
    frame = data.to_frame().assign(kind=np.where(np.arange(100) % 5 < 2, "u", "v"))
    strata = jn.GroupedData.from_frame(frame, "group", "y", ["t", "kind"])
    with x64():
        session = session_at((1.0, 1.0, 1.0), data=strata, error=jn.error.constant(1e-3, by="kind"))
        counts = [count for _, count in scales_of(session)]
        assert counts == [20.0, 20.0, 40.0, 60.0]
        adjust_starting_scales(session)
        assert np.exp(session.x[4:]) == pytest.approx(
            1.0, rel=0.5
        )  # within a step of a factor of e, and of 40 rows' error


def test_scales_near_their_size_stay():
    with x64():
        session = session_at((1.5, 0.7, 1.3))
        before, evaluations = session.x.copy(), session.evaluations
        adjust_starting_scales(session)
    assert np.array_equal(session.x, before) and session.evaluations == evaluations


def test_a_psi_that_becomes_singular_in_the_limit_is_no_maximum():
    """A matrix logarithm has no finite value for a singular psi: the fit does not count as converged, and says why."""
    # One effect for all ages: the second, of a line in age, follows the first.
    rng = np.random.default_rng(1)
    group, t = np.repeat(np.arange(12), 4), np.tile(np.arange(4.0), 12)
    b = rng.normal(size=12)[group]
    y = 3.0 + b + (0.5 + 0.4 * b) * t + 0.5 * rng.normal(size=48)
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    parameters = [jn.Parameter("base", 3.0, random=True, sd=0.5), jn.Parameter("slope", 0.5, random=True, sd=0.2)]
    fit = jn.fit(jn.NLMEModel(line, parameters, "log-matrix"), data, "focei")
    assert not fit.converged and "Psi becomes singular (the correlation of base and slope is" in str(fit.status)
    assert jn.fit(jn.NLMEModel(line, parameters, "full"), data, "focei").converged
