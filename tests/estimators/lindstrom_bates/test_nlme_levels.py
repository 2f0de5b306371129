"""LME and RELME beside R's nlme and lme: nested levels, variance functions, and correlated residuals.

Each case is held to four statements: ours is a fixed point from the reference's start and from its estimates; both are
the same; and the log-likelihood of the model linearised at the reference's fixed and random effects is the one that it
reports. Where the reference stopped away from a fixed point, its residual there is recorded. All fits, not only these:
benchmarks/study_nlme.py.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators.lindstrom_bates import correlated_models, level_models
from tests.estimators.lindstrom_bates.level_fits import (
    Case,
    distance,
    reference_values,
    reported_log_likelihood,
)

# Residual of a fixed point that counts as found, and how far apart two searches of it may end, in standard errors.
CONVERGED, SAME = 1e-5, 1e-4
LOG_LIKELIHOOD = 1e-5

# Reference fits at their fixed point, and the residual of their estimates in standard errors (an upper bound).
AT_FIXED_POINT = {
    "Oats_splitplot_nitro_REML": 1e-4,
    "Orthodont_intslope_sex_varIdent_ML": 1e-3,
    "Theoph_fol_lCl_corAR1_ML": 1e-4,
    "Machines_worker_machine_ML": 1e-4,
    "Glucose_subject_meal_ML": 1e-4,
    "BodyWeight_intslope_diet_varPower_ML": 1e-3,
    "BodyWeight_gls_corCAR1_varPower_ML": 1e-3,
    "PBG_fpl_cov_nested_A_ld50_ML": 1e-3,
    "PBG_fpl_cov_nested_A_ld50_swapped_ML": 1e-3,
    "DNase_logis_diag3_varPower_ML": 1e-3,
    "CO2_asympOff_AsymLrcCov_Asym_varPower_ML": 1e-3,
    "Wafer_nested_ML": 1e-4,
    "PBG_fpl_nested_corAR1_ML": 1e-4,
    "Wafer_nested_corAR1_REML_alternation": 1e-4,
    "sim_nested_oral_power_car1_REML_alternation": 1e-4,
    "BodyWeight_asymp_diet_diag_Asym_R0_corCAR1_ML_alternation": 1e-4,
    # steps of the search lead to residuals that are as good as independent
    "BodyWeight_asymp_diet_diag_Asym_R0_corCAR1_REML_alternation": 1e-4,
    "sim_logistic_arma11_gaps_diag_ML": 1e-4,
}


def case_of(reference: Path, name: str) -> Case:
    of_folder = name in level_models.targets()
    return (level_models if of_folder else correlated_models).case(reference, name)


@functools.cache
def fitted(reference: Path, name: str) -> jn.Fit:
    """Our fit from the start of a reference fit."""
    return case_of(reference, name).fit()


def assert_fixed_point(case: Case, fit: jn.Fit) -> None:
    assert fit.converged, str(fit.status)
    assert case.residual(fit.params, np.asarray(fit.modes)).residual < CONVERGED


def assert_one_fixed_point(reference: Path, name: str) -> tuple[Case, jn.Fit]:
    """Ours from the reference's start and from its estimates."""
    case, fit = case_of(reference, name), fitted(reference, name)
    again = case.fit(case.params())
    assert_fixed_point(case, fit)
    assert_fixed_point(case, again)
    assert distance(fit, again.values)[0] < SAME
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=LOG_LIKELIHOOD)
    return case, fit


@pytest.mark.parametrize("name", AT_FIXED_POINT)
def test_the_reference_is_at_our_fixed_point(reference: Path, name: str) -> None:
    case, fit = assert_one_fixed_point(reference, name)
    if case.effects:
        assert reported_log_likelihood(case) == pytest.approx(case.log_likelihood, abs=LOG_LIKELIHOOD)
    at_reference = case.residual(case.params())
    assert at_reference.residual < AT_FIXED_POINT[name]
    # a further alternation leaves at most the larger part of the distance
    assert distance(fit, reference_values(case))[0] < 10 * AT_FIXED_POINT[name]
    # the fixed point is no maximum: the value moves with the linearisation, by units of the distance
    assert at_reference.log_likelihood == pytest.approx(fit.log_likelihood, abs=10 * AT_FIXED_POINT[name])


# Fits of nlme that stopped short, and their residual in standard errors.
SHORT = {
    "Theoph_ssfol_diag_lKa_lCl_varConstPower_ML": 0.0018,
    "ChickWeight_logis_diag_Asym_xmid_varPower_ML": 0.0019,
}


@pytest.mark.parametrize("name", SHORT)
def test_where_nlme_stops_short_the_way_on_leads_here(reference: Path, name: str) -> None:
    case, fit = assert_one_fixed_point(reference, name)
    assert reported_log_likelihood(case) == pytest.approx(case.log_likelihood, abs=LOG_LIKELIHOOD)
    assert case.residual(case.params()).residual == pytest.approx(SHORT[name], rel=0.1)
    assert distance(fit, reference_values(case))[0] < 3 * SHORT[name]


def test_reml_of_nlme_has_another_psi(reference: Path) -> None:
    """PBG by nlme's REML, whose psi / sigma^2 is that of ML: the restricted log-likelihood at its values is the one
    that it reports, and it rises from there to ours."""
    case, fit = assert_one_fixed_point(reference, "PBG_fpl_cov_nested_A_ld50_REML")
    assert reported_log_likelihood(case) == pytest.approx(case.log_likelihood, abs=LOG_LIKELIHOOD)
    assert case.residual(case.params()).residual > 0.1
    assert fit.log_likelihood > case.log_likelihood + 0.04
    ml = case_of(reference, "PBG_fpl_cov_nested_A_ld50_ML").record
    for level, of_level in case.record["random"].items():
        ratio = np.array(of_level["covariance"]) / case.record["sigma"] ** 2
        assert ratio == pytest.approx(np.array(ml["random"][level]["covariance"]) / ml["sigma"] ** 2, rel=5e-3)


def test_variances_that_nlme_leaves_at_zero(reference: Path) -> None:
    """Wafer with a random frequency: nlme ends with two standard deviations at 5e-5 and 4e-6, on the scale of whose
    logarithms the likelihood has no slope. In the variances it has one, and leads 104 units up."""
    name = "Wafer_nlme_cosine_nested_ML"
    case, fit = assert_one_fixed_point(reference, name)
    assert reported_log_likelihood(case) == pytest.approx(case.log_likelihood, abs=LOG_LIKELIHOOD)
    assert case.residual(case.params()).residual < 1e-3
    assert fit.log_likelihood == pytest.approx(766.441166, abs=1e-4)
    assert fit.values["sd(w)"] == pytest.approx(0.014629, rel=1e-3)
    assert fit.values["sd(B|Site)"] == pytest.approx(0.0067264, rel=1e-3)
