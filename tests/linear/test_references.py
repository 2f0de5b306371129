"""`jn.lme` and `jn.gls` against fits of R's lme, gls and lmer in the reference folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.linear.invariance import INVARIANCE, differences, moved
from tests.linear.reference_calls import (
    CALLS,
    LMER,
    call_of,
    fit_of,
    in_r_spelling,
    logistic_model,
    method_of,
    program_of,
    records,
    table_of,
)
from tests.linear.reference_comparison import compared, dense_log_likelihood, nonlinear_compared, outcome_of

# One of each kind: levels, structures, functions of R, REML and ML.
REPRESENTATIVE = (
    "Rail_oneway_REML",
    "Dyestuff2_oneway_lmerML",
    "ergoStool_block_ML",
    "Orthodont_intslope_REML",
    "Orthodont_diag_sex_ML",
    "Oats_splitplot_nitro_lmerREML",
    "Pastes_batch_cask_REML",
    "Machines_machine_full_REML",
    "Glucose_subject_meal_ML",
    "Orthodont_gls_corCompSymm_REML",
    "BodyWeight_gls_corCAR1_varPower_ML",
    "Orthodont_intslope_sex_varIdent_REML",
)
# R's estimates of these have a lower likelihood than ours, and differ by more than the limits.
# (lmer warns that the second has not converged.)
R_SHORT = ("Orthodont_intslope_lmerREML", "Assay_crossed_blocked_lmerREML", "Spruce_plot_tree_REML")
# What R reports errors for, by its optim where that ends; ours is at least as high. From nlme 3.1-162 with
# lmeControl(opt = "optim").
FAILED = {
    "sleepstudy_intslope_corAR1_ML": (-866.2526, "singular"),
    "IGF_intslope_full_ML": (-290.9329, "singular"),
    "Wafer_lme_quad_cos_full_nested_ML": (767.9524, "singular"),
}
BOTH = ("ML", "REML")
LMER_METHODS = dict.fromkeys([*LMER, "Assay_crossed_blocked", "Penicillin_crossed"], ("REML",)) | {
    "Dyestuff2_oneway": BOTH,
    "Dyestuff_oneway": BOTH,
    "Orthodont_intslope_sex": ("ML",),
    "Pastes_batch_cask": BOTH,
    "Penicillin_crossed": BOTH,
    "sleepstudy_intslope": BOTH,
    "sleepstudy_intslope_diag": BOTH,
}
WITHOUT_LME = ("Penicillin_crossed",)
FAILED_MODELS = (
    "IGF_intslope_full",
    "IGF_intslope_full_ctl",
    "Wafer_lme_quad_cos_full_nested",
    "Wafer_lme_quad_cos_full_nested_ctl",
    "sleepstudy_intslope_corAR1",
    "sleepstudy_intslope_corAR1_ctl",
)
FINISHED = (
    *(f"{model}_{method}" for model in CALLS if model not in (*WITHOUT_LME, *FAILED_MODELS) for method in BOTH),
    *(f"{model}_lmer{method}" for model, methods in LMER_METHODS.items() for method in methods),
)


def check(reference: Path, name: str) -> dict[str, Any]:
    """The comparison of our fit with a reference fit, which it must agree with."""
    record = records(reference)[name]
    fit = fit_of(reference, record)
    assert fit.converged, str(fit.status)
    row = compared(fit, record) | {"converged": fit.converged}
    expected = "R short" if name in R_SHORT else "agree"
    assert outcome_of(row) == expected, row
    assert not row["counts"], row["counts"]
    assert row["standard_errors"] < (1e-3 if name in R_SHORT else 1e-4), row["standard_errors"]
    # Also where parameters agree, R's point is no better than ours in a likelihood that is not ours. That of a variance
    # function of the fitted values is a fixed point, which need not have the highest value.
    variance = record.get("variance_function")
    if not variance or "fitted" not in variance["formula"]:
        assert row["at_theirs"] <= row["at_ours"] + 1e-9 * abs(row["at_ours"]), row
    return row


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_fits_of_r(reference: Path, name: str):
    check(reference, name)


@pytest.mark.parametrize("name", FINISHED)
def test_every_fit_of_r(reference: Path, name: str):
    check(reference, name)


def test_every_fit_of_the_folder_has_a_call(reference: Path):
    linear = {name: record for name, record in records(reference).items() if program_of(record) != "gnls"}
    assert all(call_of(record) is not None for record in linear.values())
    assert sorted(FINISHED) == sorted(name for name, record in linear.items() if record["status"] != "failed")


@pytest.mark.parametrize("name", FAILED)
def test_fits_that_r_does_not_finish(reference: Path, name: str):
    fit = fit_of(reference, records(reference)[name])
    least, word = FAILED[name]
    assert fit.converged
    assert fit.log_likelihood > least
    assert word in str(fit.status)
    table = fit.estimates[fit.estimates.kind == "correlation"]
    at_bound = table.estimate.abs() > 1.0 - 1e-8
    assert table.se[at_bound].isna().all()
    assert np.isfinite(table.se[~at_bound]).all()


def test_sigma_with_a_variance_function_of_the_fitted_values(reference: Path):
    record = records(reference)["BodyWeight_gls_corCAR1_varPower_REML"]
    fit = fit_of(reference, record)
    sigma, power = record["sigma"], record["variance_function"]["parameters"]["power"]
    assert fit.sigma == pytest.approx(sigma, rel=1e-4)
    assert fit.estimates.estimate["sigma"] == pytest.approx(sigma, rel=1e-4)
    fitted = np.asarray(record["fitted"]["level0"])
    pearson = (fit.model.y - fitted) / (sigma * fitted**power)
    np.testing.assert_allclose(fit.residuals("pearson"), pearson, rtol=0, atol=1e-3)


def test_a_nonlinear_model_without_random_effects(reference: Path):
    record = records(reference)["Orange_logis_pooled_gnls"]
    data = jn.GroupedData.from_frame(table_of(reference, "Orange"), "Tree", "circumference", ["age"])
    fit = jn.fit(logistic_model(), data, "lme")
    row = nonlinear_compared(fit, record) | {"converged": bool(fit.converged)}
    assert outcome_of(row) == "agree", row
    assert not row["counts"]
    assert row["standard_errors"] < 1e-5


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_units_of_a_variance_function(reference: Path, scale: float):
    table, options = table_of(reference, "BodyWeight"), {"random": "~ Time | Rat", "method": "ML"}
    fits = []
    for weights, column in ((jn.variance.exponential("Time"), "Time"), (jn.variance.exponential(), "weight")):
        fit = jn.lme("weight ~ Time * Diet", data=table, weights=weights, **options)
        changed = table.assign(**{column: table[column] * scale})
        other = jn.lme("weight ~ Time * Diet", data=changed, weights=weights, **options)
        rows = len(table) if column == "weight" else 0
        assert other.log_likelihood + rows * np.log(scale) == pytest.approx(fit.log_likelihood, abs=1e-6)
        rate = fit.residual.names[0]
        assert other.estimates.estimate[rate] * scale == pytest.approx(fit.estimates.estimate[rate], rel=1e-4)
        fits += [fit, other]
    assert all(fit.converged for fit in fits)


def test_many_random_effects(reference: Path):
    """Units with more than five effects, by a dense likelihood: those of the levels of two factors, and two levels."""
    record = records(reference)["Assay_crossed_blocked_REML"]
    row = check(reference, "Assay_crossed_blocked_REML")
    assert record["df"] == 34
    assert row["log_likelihood"] == pytest.approx(row["at_ours"], abs=1e-8)
    rng = np.random.default_rng(3)
    k, units, rows = 6, 24, 12
    unit = np.repeat(np.arange(units), rows)
    X = rng.normal(size=(units * rows, k))
    b = rng.normal(size=(units, k))
    names = [f"x{j}" for j in range(k)]
    table = pd.DataFrame(X, columns=names).assign(outer=unit // 4, inner=unit)
    table["y"] = (X * (1.0 + b[unit])).sum(1) + rng.normal(size=len(X))
    terms = f"~ {' + '.join(names)} - 1"
    fit = jn.lme(f"y {terms}", {"outer": terms, "inner": terms}, table, covariance="diagonal")
    assert fit.converged
    plain = {"variance_function": None, "correlation": None}
    dense = dense_log_likelihood(fit, plain, list(fit.outcome.psi), fit.sigma, fit.fitted)
    assert fit.log_likelihood == pytest.approx(dense, abs=1e-8)


@pytest.mark.parametrize("name", INVARIANCE)
def test_units_zeros_and_the_order_of_rows(reference: Path, name: str):
    result = differences(reference, name)
    assert moved(result, "log-likelihood") < 1e-6, result
    assert moved(result, "predictions") < 1e-4, result
    assert all(value == 1.0 for label, value in result.items() if label.startswith("converged")), result


def test_predictions_by_level(reference: Path):
    record = records(reference)["Glucose_subject_meal_REML"]
    fit = fit_of(reference, record)
    sd = record["sigma"]
    for level, label in enumerate(("level0", "level1", "level2")):
        np.testing.assert_allclose(fit.predict(level=level), record["fitted"][label], rtol=0, atol=1e-4 * sd)


def test_names_of_columns_in_the_spelling_of_r():
    assert in_r_spelling("Sex[T.Female]:I(age - 11)") == "SexFemale:I(age-11)"
    assert in_r_spelling("Machine[A]") == "MachineA"
    assert in_r_spelling("I(voltage ** 2)") == "I(voltage^2)"


def test_methods_of_records():
    assert [method_of({"method": method}) for method in ("lmerREML", "ML", "lmerML")] == ["REML", "ML", "ML"]
