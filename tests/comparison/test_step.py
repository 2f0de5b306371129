"""Stepwise searches among linear models: the ways of R's stepAIC, margins, p values, ties, failures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

import jaxnlme as jn
from jaxnlme.model_choice.step_linear import LinearSearch
from tests.comparison.conftest import frame

FIXED = ["age", "Sex", "age:Sex"]


@pytest.fixture(scope="module")
def start() -> jn.LinearFit:
    return jn.lme("distance ~ 1", "~ 1 | Subject", frame(), method="ML")


def simulated(seed: int, twin: float = 0.3) -> pd.DataFrame:
    """40 subjects with a random slope; x2 shifts the level, and x4 is x2 with noise of SD `twin`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 40))
    x[3] = x[1] + twin * rng.standard_normal(40)
    ids, t = np.repeat(np.arange(40), 6), np.tile(np.arange(6.0), 40)
    y = (10 + 1.2 * x[1] + rng.standard_normal(40))[ids] + (0.5 + 0.4 * rng.standard_normal(40))[ids] * t
    y += 0.7 * rng.standard_normal(240)
    return pd.DataFrame({"id": ids, "t": t, "y": y} | {f"x{k + 1}": x[k][ids] for k in range(4)})


def test_the_way_is_that_of_r(start: jn.LinearFit) -> None:
    """R 4.2.2, MASS 7.3-58: stepAIC(lme(distance ~ 1, random = ~1 | Subject, Orthodont, method = "ML"),
    scope = ~age * Sex), with the AIC of each change."""
    steps = jn.step(start, {"fixed": FIXED}, progress=False)
    of_r = {
        1: {"+ age": 451.39, "+ Sex": 514.96},
        2: {"+ Sex": 444.86, "- age": 521.49},
        3: {"+ age:Sex": 440.64, "- Sex": 451.39, "- age": 514.96},
        4: {"- age:Sex": 444.86},
    }
    for k, values in of_r.items():
        rows = steps.candidates[steps.candidates["step"] == k].set_index("change")["AIC"]
        assert {name: round(value, 2) for name, value in rows.items()} == values
    assert list(steps.path["change"]) == ["start", "+ age", "+ Sex", "+ age:Sex"]
    assert steps.path["delta"].iloc[1:].sum() == pytest.approx(steps.fit.aic - start.aic)
    assert steps.fit.log_likelihood == pytest.approx(-214.3195, abs=1e-4) and not steps.interrupted
    assert "+ age:Sex" in str(steps) and "<table" in steps._repr_html_()


def test_margins_are_kept(start: jn.LinearFit) -> None:
    full = start.update(". ~ age * Sex")
    backward = jn.step(full, {"fixed": FIXED}, direction="backward", criterion="BIC", progress=False)
    assert list(backward.candidates[backward.candidates["step"] == 1]["change"]) == ["- age:Sex"]
    forward = jn.step(start, {"fixed": FIXED}, direction="forward", progress=False)
    assert "+ age:Sex" not in list(forward.candidates[forward.candidates["step"] < 3]["change"])
    assert not any(name.startswith("-") for name in forward.candidates["change"])
    with pytest.raises(jn.OptionError, match="Sex is neither in the model nor in the scope"):
        jn.step(start, {"fixed": ["age", "age:Sex"]})
    # What the scope does not name stays.
    kept = jn.step(full, {"fixed": ["age:Sex"]}, direction="backward", criterion="p", remove=1e-6, progress=False)
    assert list(kept.fit.beta.index) == ["(Intercept)", "age", "Sex[T.Male]"]


def test_p_values_add_and_then_leave_out(start: jn.LinearFit) -> None:
    """age:Sex has p = 0.0126: it enters below 0.05, and does not stay below 0.01."""
    steps = jn.step(start, {"fixed": FIXED}, criterion="p", progress=False)
    assert list(steps.path["change"]) == ["start", "+ age", "+ Sex", "+ age:Sex", "- age:Sex"]
    assert steps.path["p"].iloc[3] == pytest.approx(chi2.sf(2 * (217.428243 - 214.319529), 1), rel=1e-4)
    assert list(jn.step(start, {"fixed": FIXED}, criterion="p", remove=0.05, progress=False).fit.beta.index)[-1] == (
        "age:Sex[T.Male]"
    )
    assert len(jn.step(start, {"fixed": FIXED}, criterion="p", enter=1e-3, progress=False).path) == 2


def test_restricted_fits() -> None:
    """Fixed effects by ML, the rest by REML; values of R's nlme 3.1-162 for each."""
    fit = jn.lme("distance ~ age", "~ 1 | Subject", frame())
    scope = {
        "fixed": FIXED,
        "random": ["~ 1 | Subject", "~ age | Subject"],
        "weights": {"one variance": None, "by sex": jn.variance.strata("Sex")},
    }
    steps = jn.step(fit, scope, progress=False)
    path = steps.path.set_index("change")
    assert list(path.index) == ["start", "weights: by sex", "+ Sex", "+ age:Sex"]
    assert list(path["likelihood"]) == ["REML", "REML", "ML", "ML"]
    np.testing.assert_allclose(path["log_likelihood"], [-223.5013, -214.9070, -208.6005, -204.6762], atol=2e-4)
    assert steps.fit.restricted and steps.fit.log_likelihood == pytest.approx(-207.6102, abs=1e-4)
    last = steps.candidates[steps.candidates["step"] == 4].set_index("change")
    slopes = last.loc["random: ~ age | Subject"]
    assert slopes["log_likelihood"] == pytest.approx(-205.7612, abs=1e-4) and slopes["likelihood"] == "REML"
    statistic = 2 * (207.6102 - 205.7612)
    assert slopes["distribution"] == "0.5 chi2(1) + 0.5 chi2(2)"
    assert slopes["p"] == pytest.approx(0.5 * (chi2.sf(statistic, 1) + chi2.sf(statistic, 2)), abs=1e-4)
    # The larger model is within two units only because it contains the last one.
    assert list(steps.ties["change"]) == ["random: ~ age | Subject"] and not steps.as_good


@pytest.mark.parametrize("seed", [1, 3])
def test_generating_structure_and_its_twin(seed: int) -> None:
    table = simulated(seed)
    fit = jn.lme("y ~ t", "~ 1 | id", table)
    scope = {"fixed": ["x1", "x2", "x3"], "random": ["~ 1 | id", "~ t | id"]}
    for criterion in ("BIC", "BICc", "p"):
        steps = jn.step(fit, scope, criterion=criterion, progress=False)
        assert list(steps.fit.beta.index) == ["(Intercept)", "t", "x2"]
        assert list(steps.fit.psi["id"].columns) == ["(Intercept)", "t"]
        assert not steps.as_good
    # Of two columns that nearly agree, the one that was not chosen is named where it is within two units.
    twins = simulated(seed, twin=0.02)
    steps = jn.step(jn.lme("y ~ t", "~ t | id", twins, method="ML"), {"fixed": ["x1", "x2", "x4"]}, criterion="BIC")
    ((chosen,), (other,)) = (
        [x for x in ("x2", "x4") if (x in steps.fit.beta.index) == there] for there in (True, False)
    )
    assert steps.as_good == [f"+ {other}, - {chosen}"]
    swapped = steps.fit.update(f". ~ . - {chosen} + {other}")
    assert steps.ties["delta"].iloc[0] == pytest.approx(swapped.bic - steps.fit.bic, abs=1e-6)
    assert steps.ties["evidence ratio"].iloc[0] == pytest.approx(np.exp((swapped.bic - steps.fit.bic) / 2), rel=1e-6)


def test_residual_structures_and_their_bounds() -> None:
    """rho of CAR1 is positive, so that independence is its bound; that of AR1 is not."""
    fit = jn.lme("distance ~ age * Sex", "~ 1 | Subject", frame(), method="ML")
    scope = {"correlation": {"none": None, "car1": jn.correlation.CAR1("age"), "ar1": jn.correlation.AR1()}}
    steps = jn.step(fit, scope, progress=False)
    first = steps.candidates[steps.candidates["step"] == 1].set_index("change")["distribution"]
    assert first["correlation: car1"].endswith("upper bound of p") and first["correlation: ar1"] == "chi2(1)"


def test_no_covariance_is_the_full_one() -> None:
    fit = jn.lme("distance ~ age", "~ age | Subject", frame())
    steps = jn.step(fit, {"covariance": ["full", "diagonal"]}, criterion="p", direction="backward", progress=False)
    assert steps.candidates["change"].iloc[0] == "covariance: diagonal" and len(steps.path) == 2
    without = fit.update(covariance="diagonal").log_likelihood
    assert steps.path["p"].iloc[1] == pytest.approx(chi2.sf(2 * (fit.log_likelihood - without), 1), rel=1e-6)


def test_screening_by_modes() -> None:
    fit = jn.lme("y ~ t", "~ t | id", simulated(3), method="ML")
    steps = jn.step(fit, {"fixed": ["x1", "x2", "x3"]}, criterion="BIC", screen=True, progress=False)
    every = jn.step(fit, {"fixed": ["x1", "x2", "x3"]}, criterion="BIC", progress=False)
    assert list(steps.path["change"]) == list(every.path["change"])
    screened = steps.candidates["decision"].str.startswith("screened out")
    assert screened.any() and (steps.candidates.loc[screened, "screen p"] >= 0.2).all()
    assert steps.candidates.loc[screened, "log_likelihood"].isna().all()
    assert any(sentence.startswith("Shrinkage: modes of") for sentence in steps.sentences)


def test_models_that_cannot_be_chosen(start: jn.LinearFit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without a fit, and one that did not converge, are in the table with the reason."""
    fit = jn.lme("distance ~ age", "~ 1 | Subject", frame().assign(all=1), method="ML")
    steps = jn.step(fit, {"random": ["~ 1 | Subject", "~ 1 | all"]}, progress=False)
    (row,) = steps.candidates.to_dict("records")
    assert row["decision"].startswith("not fitted: the grouping factor 'all' has one unit") and row["df"] == -1
    assert len(steps.path) == 1 and "has one unit" in " ".join(str(steps).split())
    refit = LinearSearch.refit

    def unconverged(self: Any, structure: Any, *more: Any) -> Any:
        out = refit(self, structure, *more)
        return out if out is None or "age" not in out.beta.index else dataclasses.replace(out, converged=False)

    monkeypatch.setattr(LinearSearch, "refit", unconverged)
    steps = jn.step(start, {"fixed": FIXED}, progress=False)
    assert list(steps.path["change"]) == ["start", "+ Sex"]
    first = steps.candidates[steps.candidates["change"] == "+ age"]["decision"]
    assert first.str.startswith("not converged").all()


def test_interrupted_and_limited(start: jn.LinearFit, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = jn.step(start, {"fixed": FIXED}, max_steps=1, progress=False)
    assert list(limited.path["change"]) == ["start", "+ age"] and "max_steps=1" in limited.sentences[0]
    refit, count = LinearSearch.refit, [0]

    def interrupted(self: Any, *arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return refit(self, *arguments)

    monkeypatch.setattr(LinearSearch, "refit", interrupted)
    steps = jn.step(start, {"fixed": FIXED}, progress=False)
    assert steps.interrupted and list(steps.path["change"]) == ["start", "+ age"]
    assert steps.sentences[0].startswith("Interrupted") and steps.fit.aic == pytest.approx(451.39, abs=0.01)
    assert list(steps.candidates["decision"])[2:] == ["not decided"]


def test_scopes_that_do_not_fit(start: jn.LinearFit) -> None:
    with pytest.raises(jn.OptionError, match="no part 'covariates'"):
        jn.step(start, {"covariates": ["age"]})
    with pytest.raises(jn.OptionError, match="dictionary"):
        jn.step(start, {})
    with pytest.raises(jn.OptionError, match="list of terms"):
        jn.step(start, {"fixed": 3})
    with pytest.raises(jn.OptionError, match="list of alternatives"):
        jn.step(start, {"weights": "age"})
    with pytest.raises(jn.DataError, match="'agee'"):
        jn.step(start, {"fixed": ["agee"]})
    table = frame().assign(w=[np.nan if k < 3 else 1.0 * k for k in range(108)])
    with pytest.raises(jn.DataError, match="w of the scope is missing in 3 rows"):
        jn.step(jn.lme("distance ~ age", "~ 1 | Subject", table), {"fixed": ["w"]})
    with pytest.raises(jn.OptionError, match=r"fit of jn\.fit"):
        jn.step(3, {"fixed": ["age"]})
    with pytest.raises(jn.OptionError, match="did not converge"):
        jn.step(dataclasses.replace(start, converged=False), {"fixed": ["age"]})
    with pytest.raises(jn.OptionError, match="enter"):
        jn.step(start, {"fixed": ["age"]}, enter=0.0)
