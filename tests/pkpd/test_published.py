"""Published fits of other programs: objectives at their parameters, and our estimates beside theirs."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from tests.pkpd import published_cases
from tests.pkpd.published_cases import CASES, OBJECTIVES_AT_POINT, POINT

LOG_2PI = float(np.log(2.0 * np.pi))
OBJECTIVE = 1e-3


@pytest.mark.parametrize("method", [*OBJECTIVES_AT_POINT])
def test_warfarin_by_every_method(method: str, reference: Path) -> None:
    """One table and one set of parameters by all methods: NONMEM 7.5 (FOCEI, Laplace), ferx (quadrature)."""
    approximation, published, printed = OBJECTIVES_AT_POINT[method]
    model, data = published_cases.warfarin()(reference)
    value = jn.log_likelihood(model, model.params(data, POINT), data, approximation)
    assert -2.0 * float(value) - data.n_obs * LOG_2PI == pytest.approx(published, abs=printed)


@pytest.mark.parametrize("name", [*CASES])
def test_published_fit(name: str, reference: Path) -> None:
    """The objective at the published parameters (with our estimates of those that are not on file), and our fit from
    starting values of our own."""
    case = CASES[name]
    model, data = case.build(reference)
    fit = jn.fit(model, data, case.method, progress=False).throw()
    assert fit.converged
    published = model.params(data, fit.values | case.values)
    at_published = case.objective_of(float(jn.log_likelihood(model, published, data, case.method)), data)
    assert at_published == pytest.approx(case.objective, abs=OBJECTIVE)
    assert case.objective_of(fit.log_likelihood, data) <= case.objective + OBJECTIVE
    for parameter, value in case.values.items():
        if parameter in case.se:
            tolerance = 0.1 * case.se[parameter]
        else:  # 5% of a variance are 2.5% of a standard deviation
            tolerance = abs(value) * (0.025 if parameter.startswith("sd(") or parameter in ("a", "b") else 0.01)
        assert fit.values[parameter] == pytest.approx(value, abs=tolerance), parameter


def test_mixture_of_two_subpopulations(reference: Path) -> None:
    """NONMEM's $MIX by FOCEI: each subject has the likelihood of one class or the other."""
    model, data = published_cases.mixture(reference)
    by_class = []
    for logarithms, psi in published_cases.MIXTURE:
        values = {name: float(np.exp(value)) for name, value in logarithms.items()}
        params = model.params(data, values | {"b": published_cases.MIXTURE_SD}, psi=np.array(psi))
        by_class.append(jn.group_log_likelihoods(model, params, data, "focei"))
    share = published_cases.MIXTURE_SHARE
    value = jnp.sum(jnp.logaddexp(by_class[0] + np.log(share), by_class[1] + np.log(1.0 - share)))
    objective = -2.0 * float(value) - data.n_obs * LOG_2PI
    assert objective == pytest.approx(published_cases.MIXTURE_OBJECTIVE, abs=OBJECTIVE)


def superposition(phi, x, v):
    """Seven doses a day apart, each by the formula of a single one."""
    since = x.TIME[:, None] - 24.0 * jnp.arange(7)[None, :]
    ke = phi.CL / phi.V
    after = jnp.maximum(since, 0.0)
    curve = phi.KA / (phi.V * (phi.KA - ke)) * (jnp.exp(-ke * after) - jnp.exp(-phi.KA * after))
    return jnp.sum(jnp.where(since >= 0.0, v.DOSE * curve, 0.0), axis=1)


def theophylline_parameters() -> list[jn.Parameter]:
    return published_cases.effects(KA=1.0, CL=4.0, V=20.0)


def test_repeated_doses_of_theophylline(reference: Path) -> None:
    """theo_md read as records, and as a table for a superposition written by hand: one likelihood, and its maximum."""
    path = reference / "pkpd" / "data" / "theo_md.csv"
    data = jn.GroupedData.from_nonmem(path, covariates=[])
    model = jn.NLMEModel(jn.pkpd.compartments(1, "first-order"), theophylline_parameters(), error="combined")
    fit = jn.fit(model, data, "focei", progress=False).throw()
    frame = pd.read_csv(path)
    frame["DOSE"] = frame.groupby("ID")["AMT"].transform("max")
    table = jn.GroupedData.from_frame(frame[frame.EVID == 0], "ID", "DV", x="TIME", v="DOSE")
    by_hand = jn.NLMEModel(superposition, theophylline_parameters(), error="combined")
    params = by_hand.params(table, fit.values)
    assert float(jn.log_likelihood(by_hand, params, table, "focei")) == pytest.approx(fit.log_likelihood, abs=1e-7)
    gradient = jax.grad(lambda p: jn.log_likelihood(by_hand, p, table, "focei"))(params).pack()
    np.testing.assert_allclose(gradient, 0.0, atol=1e-3)


def test_theophylline_far_from_the_maximum(reference: Path) -> None:
    """nlmixr2est's FOCEI objective at a point where residuals are thirty times their standard deviation."""
    case = {"KA": 1.0, "CL": 10.0, "V": 35.0, **published_cases.sds(KA=0.1, CL=0.1, V=0.1), "a": 0.1}
    data = jn.GroupedData.from_nonmem(reference / "pkpd" / "data" / "theo_sd.csv", covariates=[])
    model = jn.NLMEModel(jn.pkpd.compartments(1, "first-order"), theophylline_parameters(), error="constant")
    value = jn.log_likelihood(model, model.params(data, case), data, "focei")
    assert -2.0 * float(value) - data.n_obs * LOG_2PI == pytest.approx(4613.033, rel=1e-5)


def test_warfarin_with_its_effect(reference: Path) -> None:
    """Two endpoints with residual models of their own, effects on six of seven parameters."""
    model, data = published_cases.warfarin_with_effect(reference)
    fit = jn.fit(model, data, "focei", progress=False).throw()
    assert fit.converged
    # this package's own maximum, reached from starts that are off by a tenth to a factor of two
    assert published_cases.CASES["ferx_warfarin_focei"].objective_of(fit.log_likelihood, data) <= 1491.1416 + OBJECTIVE
