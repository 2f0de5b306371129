"""Updates of linear fits, beside fits from scratch and R's."""

from __future__ import annotations

import pandas as pd
import pytest

import jaxnlme as jn
from tests.comparison.conftest import frame


@pytest.fixture(scope="module")
def fit() -> jn.LinearFit:
    return jn.lme("distance ~ age * Sex", "~ age | Subject", frame())


def test_parts_of_a_call_are_replaced(fit: jn.LinearFit) -> None:
    changed = fit.update(". ~ . - Sex:age", method="ML")
    # R 4.2.2, nlme 3.1-162: update(fit, . ~ . - age:Sex, method = "ML").
    assert changed.log_likelihood == pytest.approx(-216.4175805, abs=1e-6)
    assert changed.call["formula"] == "distance ~ age + Sex" and changed.call["random"] == "~ age | Subject"
    level = fit.update(random="~ 1 | Subject")
    assert level.log_likelihood == pytest.approx(-216.8786, abs=1e-4) and level.restricted
    strata = level.update(weights=jn.variance.strata("Sex"))
    assert strata.log_likelihood == pytest.approx(-207.6102, abs=1e-4)
    back = strata.update(weights=None)
    assert back.residual is None and back.log_likelihood == pytest.approx(level.log_likelihood, abs=1e-8)
    diagonal = fit.update(covariance="diagonal")
    assert diagonal.psi["Subject"].iloc[0, 1] == 0 and fit.psi["Subject"].iloc[0, 1] != 0


def test_random_effects_in_the_formula() -> None:
    fit = jn.lme("distance ~ age + (1 | Subject)", data=frame(), method="ML")
    assert fit.update(". ~ . + Sex").log_likelihood == pytest.approx(-217.4282427, abs=1e-6)
    slopes = fit.update(random="~ age | Subject")
    assert slopes.log_likelihood == pytest.approx(-219.6058006, abs=1e-6)
    without = fit.update(random=None)
    assert without.log_likelihood == pytest.approx(-252.7884832, abs=1e-6) and not without.psi


def test_rows_are_those_of_the_new_model() -> None:
    """A column with missing values counts only where the model has it, as in R."""
    table = frame().assign(w=[None if k % 9 == 0 else float(k % 5) for k in range(108)])
    fit = jn.lme("distance ~ age + w", "~ 1 | Subject", table, missing="drop")
    assert fit.model.n_rows == 96 and fit.update(". ~ . - w").model.n_rows == 108
    assert fit.update(data=table.head(60)).model.n_rows < 60
    with pytest.raises(jn.DataError, match="missing"):
        fit.update(missing="error")


def test_unknown_arguments_are_refused(fit: jn.LinearFit) -> None:
    with pytest.raises(jn.OptionError, match="method"):
        fit.update(method="MCMC")
    with pytest.raises(jn.OptionError, match="weights"):
        fit.update(weights=3)
    assert isinstance(fit.call["data"], pd.DataFrame)


def test_sample_sizes_of_parameters() -> None:
    """Coefficients that shift a random effect count the units; others the rows (BICc)."""
    table = frame().assign(w=[float(k * k % 7) for k in range(108)])
    fit = jn.lme("distance ~ age * Sex + w", "~ 1 | Subject", table, method="ML")
    units = fit.parameter_units
    assert {units["(Intercept)"], units["Sex[T.Male]"], units["sd((Intercept))"]} == {27.0}
    assert {units[name] for name in ("age", "age:Sex[T.Male]", "w", "sigma")} == {108.0}
    with_slopes = fit.update(random="~ age | Subject").parameter_units
    assert with_slopes["age:Sex[T.Male]"] == 27.0 and with_slopes["w"] == 108.0
