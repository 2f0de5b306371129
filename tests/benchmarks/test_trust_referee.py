"""The referee of benchmarks/trust.py against closed forms, and the outcomes that it gives to answers."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def trust() -> Iterator[SimpleNamespace]:
    """The modules of the referee, imported as the scripts of that folder import them."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from trust_tables import exact_likelihood, hard_fit_kinds, hard_fits, judging, maxima, programs, tables

        yield SimpleNamespace(
            exact=exact_likelihood,
            kinds=hard_fit_kinds,
            fits=hard_fits,
            judging=judging,
            maxima=maxima,
            programs=programs,
            tables=tables,
        )
    finally:
        sys.path.remove(str(BENCHMARKS))


def line(trust: SimpleNamespace, key: str = "line") -> Any:
    return trust.kinds.made(trust.tables.DESIGNS[key], key, "far start", 7)


def normal(y: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """log N(y; mean, cov)."""
    residual = y - mean
    return -0.5 * (
        residual @ np.linalg.solve(cov, residual) + np.linalg.slogdet(cov)[1] + len(y) * math.log(2.0 * math.pi)
    )


def test_referee_of_a_linear_model_is_the_multivariate_normal(trust: SimpleNamespace) -> None:
    fit = line(trust)
    psi, sigma, beta = np.array([[3.0, 0.4], [0.4, 0.5]]), 1.3, np.array([9.0, 2.5])
    total = 0.0
    for g in range(25):
        rows = fit.columns["g"] == g
        design = np.column_stack([np.ones(rows.sum()), fit.columns["t"][rows]])
        total += normal(fit.columns["y"][rows], design @ beta, design @ psi @ design.T + sigma**2 * np.eye(rows.sum()))
    estimates = {"beta": beta.tolist(), "psi": psi.tolist(), "sigma": sigma}
    referee = trust.exact.HardFitLikelihood(fit)
    assert referee.log_likelihood(estimates) == pytest.approx(total, abs=1e-9)
    # A linear model's quadrature, Laplace approximations and Lindstrom-Bates linearisation are exact, too.
    assert referee.quadrature(estimates) == pytest.approx(total, abs=1e-8)
    assert referee.laplace(estimates, exact=True) == pytest.approx(total, abs=1e-5)
    assert referee.laplace(estimates, exact=False) == pytest.approx(total, abs=1e-8)
    assert trust.maxima.alternation(trust.exact.HardFitLikelihood(fit), estimates)[0] == pytest.approx(total, abs=1e-8)


def test_quadrature_and_grid_of_zeros_and_ones_agree(trust: SimpleNamespace) -> None:
    fit = line(trust, "bernoulli")
    estimates = {"beta": [0.4, -0.2], "psi": [[4.0]], "sigma": None}
    z, step = np.linspace(-9.0, 9.0, 4001, retstep=True)
    total = 0.0
    for g in range(30):
        rows = fit.columns["g"] == g
        eta = 0.4 - 0.2 * fit.columns["t"][rows] + 2.0 * z[:, None]
        log_p = np.sum(-np.logaddexp(0.0, np.where(fit.columns["y"][rows] > 0.5, -eta, eta)), axis=1)
        total += math.log(step * np.sum(np.exp(log_p - 0.5 * z**2)) / math.sqrt(2.0 * math.pi))
    assert trust.exact.HardFitLikelihood(fit).log_likelihood(estimates) == pytest.approx(total, abs=2e-3)
    many = dataclasses.replace(fit, several_modes=True)
    assert trust.exact.HardFitLikelihood(many).log_likelihood(estimates) == pytest.approx(total, abs=1e-6)


def test_categories_have_probabilities_that_sum_to_one(trust: SimpleNamespace) -> None:
    fit = line(trust, "ordinal")
    total = 0.0
    for category in range(4):
        columns = {name: values[:1] for name, values in fit.columns.items()} | {"y": np.array([float(category)])}
        one = trust.exact.HardFitLikelihood(dataclasses.replace(fit, columns=columns))
        total += math.exp(one.log_likelihood({"beta": [0.0, 0.4, -1.0, 0.5, 2.0], "psi": [[0.0]], "sigma": None}))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_maximum_is_that_of_least_squares_with_a_variance_of_zero(trust: SimpleNamespace) -> None:
    """Six groups with equal means: the maximum is that without random effects, on the boundary."""
    fit = line(trust, "intercepts")
    y = np.tile(np.random.default_rng(1).standard_normal(5), 25)
    fit = dataclasses.replace(fit, columns=fit.columns | {"y": y})
    design = np.column_stack([np.ones(125), fit.columns["t"]])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    expected = normal(residual, np.zeros(125), np.mean(residual**2) * np.eye(125))
    found, value = trust.maxima.maximum(trust.exact.HardFitLikelihood(fit), "exact", [fit.start])
    assert value == pytest.approx(expected, abs=1e-4)
    assert found["psi"][0][0] < 1e-3
    own, gain = trust.maxima.alternation(trust.exact.HardFitLikelihood(fit), found)
    assert own == pytest.approx(value, abs=1e-8) and gain < 1e-3
    start = trust.maxima.alternation(trust.exact.HardFitLikelihood(fit), fit.start)
    assert start[0] + start[1] == pytest.approx(expected, abs=1e-3)


def test_outcomes(trust: SimpleNamespace) -> None:
    fit, judging = line(trust), trust.judging
    converged: dict[str, Any] = {"beta": [0.0, 0.0], "converged": True, "messages": []}
    assert judging.outcome(fit, converged, True) == judging.RIGHT
    assert judging.outcome(fit, converged, False) == judging.WRONG
    assert judging.outcome(fit, converged | {"converged": False}, True) == judging.UNSURE
    assert judging.outcome(fit, converged | {"converged": False}, False) == judging.HONEST
    assert judging.outcome(fit, {"error": "step halving factor reduced below minimum"}, False) == judging.HONEST
    assert judging.outcome(fit, {"error": "LinAlgError: Singular matrix", "trace": ""}, False) == judging.CRASH
    inside = 'File "/x/site-packages/package/fit.py", line 3'
    assert judging.outcome(fit, {"error": "ValueError: y has NaN", "trace": inside}, False) == judging.HONEST
    assert judging.outcome(fit, {"error": "ValueError: bad", "trace": 'File "/x/scipy/a.py"'}, False) == judging.CRASH
    raised = {"error": "FloatingPointError: modelfun returned non-finite values", "trace": inside}
    assert judging.outcome(fit, raised, False) == judging.HONEST
    numpy_raised = {"error": "FloatingPointError: overflow", "trace": 'File "/x/numpy/a.py"'}
    assert judging.outcome(fit, numpy_raised, False) == judging.CRASH
    assert judging.outcome(fit, {"crash": "no answer within 120 seconds"}, False) == judging.CRASH
    none = dataclasses.replace(fit, expects="none", words=trust.kinds.NO_MAXIMUM)
    ours = "Converged: the information matrix is positive definite."
    assert judging.outcome(none, converged | {"messages": [ours]}, True) == judging.WRONG
    assert judging.outcome(none, converged | {"messages": ["Singular direction: cl, vol"]}, True) == judging.RIGHT
    assert judging.outcome(none, converged | {"messages": ["Singular direction: cl, vol"]}, False) == judging.RIGHT
    assert judging.outcome(none, {"error": "two parameters are not identified"}, False) == judging.RIGHT
    assert judging.outcome(none, converged | {"converged": False}, True) == judging.HONEST


def test_the_list_has_58_fits_and_no_name_twice(trust: SimpleNamespace) -> None:
    computed = [make for make in trust.fits._MADE if is_optimum(trust, make)]
    made = [make() for make in trust.fits._MADE if make not in computed]
    names = [fit.name for fit in made] + [f"{make.args[0]}: start at the optimum" for make in computed]
    assert len(names) == len(set(names)) == 58
    assert {fit.hardness for fit in made} | {trust.kinds.OPTIMUM} == set(trust.kinds.KINDS)
    for fit in made:
        assert fit.to_json()["beta"] == fit.beta
        missing = not all(np.all(np.isfinite(v)) for v in fit.columns.values() if v.dtype.kind == "f")
        assert missing == (fit.hardness == trust.kinds.NAN)


def is_optimum(trust: SimpleNamespace, make: Any) -> bool:
    """A fit whose start has to be computed."""
    return getattr(make, "func", None) is trust.kinds.at_optimum


def test_programs_are_not_asked_for_what_they_cannot_express(trust: SimpleNamespace) -> None:
    kind = {p.name: p.kind for p in trust.programs.PROGRAMS}
    ordinal, linear = line(trust, "ordinal"), line(trust)
    assert kind["ordinal clmm"](ordinal) == "exact" and kind["lme4"](ordinal) is None
    assert kind["jaxnlme AGQ"](ordinal) == "exact" and kind["nextstat LMM"](linear) is None
    curve = trust.kinds.made(trust.tables.DESIGNS["oral"], "oral", "far start", 1)
    assert kind["nextstat FOCEI"](curve) == "focei" and kind["nlme"](curve) == "alternation"
    assert kind["nlme"](dataclasses.replace(curve, short=(1, 1, 1))) is None


def test_answers_are_judged_by_the_highest_of_all(trust: SimpleNamespace) -> None:
    """Of two programs one is at the maximum and one off it; a third one's answer has no estimates."""
    fit, programs = line(trust), {p.name: p for p in trust.programs.PROGRAMS}
    best, value = trust.maxima.maximum(trust.exact.HardFitLikelihood(fit), "exact", [fit.truth])
    far = best | {"beta": [best["beta"][0] + 3.0, best["beta"][1]]}
    answers = {
        programs["nlme"]: best | {"converged": True},
        programs["lme4"]: far | {"converged": True},
        programs["glmm"]: {"error": "ValueError: no", "trace": 'File "/x/glmm/a.py"'},
    }
    rows, tops = trust.judging.judged(fit, answers)
    assert tops["exact"] == pytest.approx(value, abs=1e-3)
    assert [rows[p.name]["outcome"] for p in answers] == [
        trust.judging.RIGHT, trust.judging.WRONG, trust.judging.HONEST,
    ]  # fmt: skip
    assert rows["lme4"]["below"] > 1.0
    again, _ = trust.judging.judged(fit, answers, {"exact": value + 1.0})
    assert again["nlme"]["below"] == pytest.approx(1.0, abs=1e-2)
    assert trust.judging.local_gain(fit, answers[programs["nlme"]], programs["nlme"]) < 1e-2


def test_values_do_not_depend_on_the_calls_before(trust: SimpleNamespace) -> None:
    """Groups have two modes: a search that begins at the modes of other estimates finds the lower ones."""
    fit = trust.kinds.circadian(601, "from the right hour", (9.0, 2.0, 13.0))
    near, far = (dict(fit.truth) | {"beta": [10.0, 3.0, hour]} for hour in (14.0, 2.0))
    single = trust.exact.HardFitLikelihood(fit).log_likelihood(far, "focei")
    after = trust.exact.HardFitLikelihood(fit)
    after.log_likelihood(near, "focei")
    assert after.log_likelihood(far, "focei", warm=True) < single - 1.0
    after.log_likelihood(near, "focei")
    assert after.log_likelihood(far, "focei") == single
