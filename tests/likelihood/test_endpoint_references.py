"""Several endpoints, a time to an event beside a concentration, and occasions: exact log-likelihoods of other programs
(reference/pkpd/likelihood, whose README states how far they are to be trusted)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

DOSE = 100.0
EXACT, LAPLACE = 1e-6, 1e-4


def concentration(phi: Any, t: Any) -> Any:
    ke = phi.CL / phi.V
    return DOSE * phi.KA / (phi.V * (phi.KA - ke)) * (jnp.exp(-ke * t) - jnp.exp(-phi.KA * t))


def cases(reference: Path, name: str, method: str, point: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """The case of a `method` at a `point`, and its table."""
    folder = reference / "pkpd" / "likelihood"
    stored = json.loads((folder / f"{name}.json").read_text())
    case = next(c for c in stored["cases"] if c["method"] == method and c["point"] == point)
    return case, pd.read_csv(folder / stored["data"])


def parameters(case: dict[str, Any], names: list[str], random: dict[str, Any]) -> list[jn.Parameter]:
    given = case["parameters"]
    return [jn.Parameter(n, given[n], transform="log", random=random.get(n, False)) for n in names]


def pkpd(phi: Any, x: Any, v: Any) -> Any:
    c = concentration(phi, x.TIME)
    return {1: c, 2: phi.E0 - phi.EMAX * c / (phi.EC50 + c)}


@pytest.mark.parametrize("point", [1, 2, 3])
@pytest.mark.parametrize("method", ["independent_limit_as_observed", "correlated_limit_as_observed"])
def test_two_endpoints(reference: Path, method: str, point: int) -> None:
    case, frame = cases(reference, "two_endpoints", method, point)
    data = jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", endpoint="DVID")
    correlated = method.startswith("correlated")
    correlation = jn.correlation.Endpoints("TIME") if correlated else None
    names = ["CL", "V", "KA", "E0", "EMAX", "EC50"]
    model = jn.NLMEModel(
        pkpd,
        parameters(case, names, {"CL": True, "EC50": True}),
        error=jn.error.endpoints({1: "proportional", 2: "constant"}, correlation),
    )
    given = case["parameters"]
    values = {"sd(CL)": given["omega_CL"] ** 0.5, "sd(EC50)": given["omega_EC50"] ** 0.5}
    values |= {"b[1]": given["prop_pk"], "a[2]": given["add_pd"]} | ({"corr(1, 2)": given["rho"]} if correlated else {})
    params = model.params(data, values)
    by_subject = np.asarray(jn.group_log_likelihoods(model, params, data, jn.AGQ(61)))
    np.testing.assert_allclose(by_subject, case["exact_by_subject"], atol=EXACT)
    assert float(jn.log_likelihood(model, params, data, "laplace")) == pytest.approx(case["laplace"], abs=LAPLACE)


@pytest.mark.parametrize("point", [1, 2, 3])
def test_two_endpoints_one_with_a_limit(reference: Path, point: int) -> None:
    """M3 for concentrations below 0.35 (CENS 1, DV the limit), none for effects."""
    case, frame = cases(reference, "two_endpoints", "independent_M3", point)
    data = jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", endpoint="DVID", censoring="CENS")
    given = case["parameters"]
    model = jn.NLMEModel(
        pkpd,
        parameters(case, ["CL", "V", "KA", "E0", "EMAX", "EC50"], {"CL": True, "EC50": True}),
        error={"1": "proportional", "2": "constant"},
        censoring="M3",
    )
    values = {"sd(CL)": given["omega_CL"] ** 0.5, "sd(EC50)": given["omega_EC50"] ** 0.5}
    params = model.params(data, values | {"b[1]": given["prop_pk"], "a[2]": given["add_pd"]})
    by_subject = np.asarray(jn.group_log_likelihoods(model, params, data, jn.AGQ(31)))
    assert by_subject.sum() == pytest.approx(case["exact"], abs=3.0 * EXACT)
    laplace = np.asarray(jn.group_log_likelihoods(model, params, data, "laplace"))
    assert laplace.sum() == pytest.approx(case["laplace"], abs=1e-6)
    np.testing.assert_allclose(laplace, case["laplace_by_subject"], atol=1e-6)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def weibull(phi: Any, x: Any, v: Any) -> Any:
    t = jnp.maximum(x.TIME, 1e-3)
    log_ratio = phi.beta * jnp.log(phi.CL / phi.typical)
    log_hazard = jnp.log(phi.shape / phi.scale) + (phi.shape - 1.0) * jnp.log(t / phi.scale) + log_ratio
    return {1: concentration(phi, x.TIME), 2: (log_hazard, (t / phi.scale) ** phi.shape * jnp.exp(log_ratio))}


def of_concentration(phi: Any, x: Any, v: Any) -> Any:
    half = 0.5 * x.TIME[:, None]
    inside = jnp.exp(phi.beta * concentration(phi, half * (NODES[None, :] + 1.0)))
    c = concentration(phi, x.TIME)
    return {1: c, 2: (jnp.log(phi.H0) + phi.beta * c, phi.H0 * jnp.sum(half * WEIGHTS[None, :] * inside, axis=1))}


def event(y: Any, f: Any, p: Any, x: Any, v: Any) -> Any:
    """Log-density of an event (y = 1) or its absence until a time, from the log hazard there and its integral."""
    return y * f[0] - f[1]


@pytest.mark.parametrize("point", [1, 2, 3])
@pytest.mark.parametrize("method", ["weibull_shared_effect", "hazard_of_concentration"])
def test_event_time_beside_a_concentration(reference: Path, method: str, point: int) -> None:
    case, frame = cases(reference, "events", method, point)
    data = jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", endpoint="DVID")
    given = case["parameters"]
    own = ["scale", "shape"] if "shape" in given else ["H0"]
    declared = parameters(case, ["CL", "V", "KA", *own], {"CL": True, "V": True})
    declared.append(jn.Parameter("beta", given["beta"]))
    if "shape" in given:
        declared.append(jn.Parameter("typical", given["CL"], fix=True))
    structure = weibull if "shape" in given else of_concentration
    error = {1: "proportional", 2: jn.GroupLogLikelihood(event)}
    model = jn.NLMEModel(structure, declared, covariance="full", error=error)
    params = model.params(data, {"b[1]": given["prop"]}, psi=np.array(given["omega"]))
    # The wide omega of point 2 leaves a second, far mode in some subjects, which needs many nodes.
    quadrature = jn.AGQ(181 if point == 2 else 41, curvature="exact")
    by_subject = np.asarray(jn.group_log_likelihoods(model, params, data, quadrature))
    np.testing.assert_allclose(by_subject, case["exact_by_subject"], atol=EXACT)
    assert float(jn.log_likelihood(model, params, data, "laplace")) == pytest.approx(case["laplace"], abs=LAPLACE)
    with pytest.raises(jn.ModelError, match=r"FOCEI needs a Gaussian residual model .*endpoint .2. has none"):
        jn.log_likelihood(model, params, data, "focei")


def of_occasion(phi: Any, x: Any, v: Any) -> Any:
    """Concentration after the dose of each occasion, whose record clears what was there (EVID 4)."""
    return concentration(phi, x.TAD)


@pytest.mark.parametrize("point", [1, 2, 3])
def test_occasions(reference: Path, point: int) -> None:
    case, frame = cases(reference, "occasions", "exact_nested_and_laplace_4d", point)
    dose_times = frame.TIME.where(frame.EVID > 0)
    frame["TAD"] = frame.TIME - dose_times.groupby([frame.ID, frame.OCC]).transform("max")
    data = jn.GroupedData.from_frame(frame, ["ID", "OCC"], "DV", x="TAD")
    given = case["parameters"]
    model = jn.NLMEModel(
        of_occasion,
        parameters(case, ["CL", "V", "KA"], {"CL": ["ID", "OCC"], "V": ["ID"]}),
        covariance={"ID": "full", "OCC": "diagonal"},
        error="proportional",
    )
    omega = np.array(given["omega"])
    sd = np.sqrt(np.diag(omega))
    values = {"sd(CL)": sd[0], "sd(V)": sd[1], "corr(CL, V)": omega[0, 1] / (sd[0] * sd[1])}
    params = model.params(data, values | {"sd(CL|OCC)": given["gamma_CL"] ** 0.5, "b": given["prop"]})
    # Nested quadrature allows 50,000 points, 36 nodes for each of three effects: 4e-6 short in the subjects of point 2,
    # whose wide omega leaves a second, far mode.
    by_subject = np.asarray(jn.group_log_likelihoods(model, params, data, jn.AGQ(36 if point == 2 else 31)))
    np.testing.assert_allclose(by_subject, case["exact_by_subject"], atol=5 * EXACT if point == 2 else EXACT)
    assert float(jn.log_likelihood(model, params, data, "laplace")) == pytest.approx(case["laplace"], abs=LAPLACE)
