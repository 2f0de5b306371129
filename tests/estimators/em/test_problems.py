"""Checks of the problems on which SAEM is tested: the published models, and three compartments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxnlme as jn
from jaxnlme.records import Record
from tests.estimators.em import saem_problems as published
from tests.estimators.em import saem_simulated as simulated


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("theo_nocov_combined", 15),
        ("theo_wtcl_vclblock_combined", 15),
        ("oxboys_linear", 7),
        ("yield_nocov", 15),
        ("rapi_poisson", 15),
        ("toenail_binary", 131),
        ("pd1_nocov", 31),
    ],
)
def test_the_published_models_are_those_of_the_reference(reference, name, nodes):
    """At saemix's estimates -2 log L is that of independent quadrature, to 0.003, for the reference has three
    decimals and fewer nodes (its last refinement moved pd1 by 0.01); saemix's own are off by ten times that."""
    case = published.case(reference, name)
    params = published.reference_params(case)
    value = -2.0 * float(jn.log_likelihood(case.model, params, case.data, jn.AGQ(nodes)))
    assert value == pytest.approx(case.reference["minus2LL_true"], abs=3e-3)


def _phi(values):
    return Record(tuple(values), tuple(values.values()), "parameter")


def _curve(values, times):
    columns = Record(("time",), (jnp.asarray(times),), "column")
    design = Record(("dose", "duration"), (simulated.DOSE, simulated.DURATION), "value")
    return simulated.infusion(_phi(values), columns, design)


@pytest.mark.parametrize("factors", [dict.fromkeys(simulated.FENTANYL, 1.0), simulated.FACTORS])
def test_three_compartments_solve_their_equations(factors):
    """The closed form agrees with the matrix exponential of the rate equations, and with the eigenvectors that the data
    are drawn from, to rounding: 1e-11 relative, since the smallest rate is a thousandth of the largest."""
    values = {name: value * factors[name] for name, value in simulated.FENTANYL.items()}
    times = simulated.SAMPLES
    volumes = np.array([values["V1"], values["V2"], values["V3"]])
    q2, q3 = values["Q2"], values["Q3"]
    flow = np.array([[-(values["CL"] + q2 + q3), q2, q3], [q2, -q2, 0.0], [q3, 0.0, -q3]]) / volumes
    fed = np.zeros((4, 4))
    fed[:3, :3], fed[0, 3] = flow, simulated.DOSE / simulated.DURATION
    start = np.array([0.0, 0.0, 0.0, 1.0])
    exact = []
    for t in times:
        amounts = (expm(fed * min(t, simulated.DURATION)) @ start)[:3]
        exact.append((expm(flow * max(t - simulated.DURATION, 0.0)) @ amounts)[0] / volumes[0])
    np.testing.assert_allclose(_curve(values, times), exact, rtol=1e-11)
    np.testing.assert_allclose(simulated.infusion_by_eigenvectors(values, times), exact, rtol=1e-11)


def test_three_compartments_have_finite_slopes():
    """The trigonometric formula is differentiated at every parameter, at the starts and where two rates nearly meet."""
    near = simulated.FENTANYL | {"Q3": 2.87, "V3": 28.1001}
    for values in (simulated.FENTANYL, near):
        slopes = jax.jacfwd(lambda values: _curve(values, simulated.SAMPLES))(values)
        assert all(np.isfinite(np.asarray(slope)).all() for slope in slopes.values())
