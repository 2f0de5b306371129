"""Likelihoods with censored responses, against integrals by brute force made elsewhere (reference/pkpd)."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

ERRORS = {
    "additive": ("constant", ("a",)),
    "proportional": ("proportional", ("b",)),
    "combined": ("combined variance", ("a", "b")),
    "lognormal": ("exponential", ("a",)),
}
METHODS = ("M1", "M2", "M3", "M4", "interval", "M3_with_uloq")


def oral(phi, x):
    """One compartment with first-order absorption, dose 100."""
    ke = phi.CL / phi.V
    return 100.0 * phi.KA / (phi.V * (phi.KA - ke)) * (jnp.exp(-ke * x.TIME) - jnp.exp(-phi.KA * x.TIME))


@functools.cache
def case_data(folder: Path, method: str) -> jn.GroupedData:
    """The reference's table, with the limits of one of its methods."""
    table = pd.read_csv(folder / "censored.csv")
    table = table[table.EVID == 0]
    if method == "interval":
        return jn.GroupedData.from_frame(table, "ID", "DV", "TIME", censoring="CENS", limit="LIMIT")
    return jn.GroupedData.from_frame(
        table, "ID", "DV", "TIME", censoring="CENS", lloq=0.55, uloq=2.2 if method == "M3_with_uloq" else None
    )


@functools.cache
def case_model(error: str, method: str) -> jn.NLMEModel:
    parameters = [
        jn.Parameter("CL", 4.0, "log", random=True), jn.Parameter("V", 40.0, "log", random=True),
        jn.Parameter("KA", 1.2, "log"),
    ]  # fmt: skip
    censoring = {"interval": "M3", "M3_with_uloq": "M3"}.get(method, method)
    return jn.NLMEModel(oral, parameters, "full", ERRORS[error][0], censoring=censoring)


def case_params(folder: Path, case: dict[str, Any]) -> tuple[jn.NLMEModel, Any, jn.GroupedData]:
    model, data = case_model(case["error"], case["method"]), case_data(folder, case["method"])
    given = case["parameters"]
    values = {name: given[name] for name in ("CL", "V", "KA")}
    values |= dict(zip(ERRORS[case["error"]][1], given["sigma"], strict=True))
    return model, model.params(data, values, psi=np.array(given["omega"])), data


@functools.cache
def cases(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "censoring.json").read_text())["cases"]


@pytest.fixture
def folder(reference: Path) -> Path:
    path = reference / "pkpd" / "likelihood"
    if not path.is_dir():
        pytest.skip(f"the folder {path} is missing")
    return path


def grid_log_likelihood(model: jn.NLMEModel, params: Any, data: jn.GroupedData, problem: Any) -> np.ndarray:
    """log p(y) of each group by a trapezoid rule over the prior of z, which finds every mode."""
    axis = np.arange(-7.2, 7.2001, 0.08)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))

    def of_group(group):
        joint = jax.lax.map(lambda z: problem.density.log_joint(params, z, group), points, batch_size=4096)
        return jax.scipy.special.logsumexp(joint) + 2.0 * np.log(0.08)

    return np.asarray(jax.jit(lambda problem: jax.lax.map(of_group, problem.buckets[0]))(problem))


@pytest.mark.parametrize(("error", "method"), list(itertools.product(ERRORS, METHODS)))
def test_laplace_of_the_reference(folder: Path, error: str, method: str):
    """Laplace at points 1 to 3, by subject, to 1e-4 in all."""
    for case in cases(folder):
        if (case["error"], case["method"]) == (error, method):
            got = np.asarray(jn.group_log_likelihoods(*case_params(folder, case), "laplace"))
            assert abs(got.sum() - case["laplace"]) < 1e-4
            np.testing.assert_allclose(got, case["laplace_by_subject"], atol=1e-5)


@pytest.mark.parametrize(("error", "method"), list(itertools.product(ERRORS, METHODS)))
def test_exact_likelihood_of_the_reference(folder: Path, error: str, method: str):
    """The density integrated over the prior, which has no approximation, to 1e-6 in all; quadrature as well where the
    reference's rule around the mode finds all of the integral."""
    for case in cases(folder):
        if (case["error"], case["method"]) == (error, method):
            model, params, data = case_params(folder, case)
            problem = jax.tree.map(jnp.asarray, jn.bind(model, data).problem)
            got = grid_log_likelihood(model, jax.tree.map(jnp.asarray, params), data, problem)
            assert abs(got.sum() - case["exact"]) < 1e-6, case["point"]
            if case["two_rule_difference"] < 1e-7:
                quadrature = np.asarray(jn.group_log_likelihoods(model, params, data, jn.AGQ(31)))
                assert abs(quadrature.sum() - case["exact"]) < 1e-6, case["point"]


def test_importance_sampling_of_the_reference(folder: Path):
    case = next(c for c in cases(folder) if (c["error"], c["method"]) == ("additive", "M3"))
    got = np.asarray(jn.group_log_likelihoods(*case_params(folder, case), jn.ImportanceSampling(2000)))
    assert abs(got.sum() - case["exact"]) < 0.3  # 40 groups with Monte Carlo errors of some 0.02
    assert np.abs(got - case["exact_by_subject"]).max() < 0.1


@pytest.mark.parametrize("approximation", ["focei", "foce", "laplace"])
@pytest.mark.parametrize(("error", "method"), [("combined", "M4"), ("proportional", "M2"), ("additive", "interval")])
def test_gradients(folder: Path, error: str, method: str, approximation: str):
    """The gradient in all parameters against central differences of the log-likelihood."""
    case = next(c for c in cases(folder) if (c["error"], c["method"], c["point"]) == (error, method, 3))
    model, params, data = case_params(folder, case)
    value = jax.jit(lambda x: jn.log_likelihood(model, params.unpack(x), data, approximation))
    x = jnp.asarray(params.pack())
    gradient = np.asarray(jax.jit(jax.grad(value))(x))
    for k in range(len(x)):
        step = jnp.zeros_like(x).at[k].set(1e-4)
        difference = (float(value(x + step)) - float(value(x - step))) / 2e-4
        assert gradient[k] == pytest.approx(difference, abs=1e-5 * np.abs(gradient).max())


def test_focei_curvature_of_a_censored_row(folder: Path):
    """H = I + sum over rows of the Gauss-Newton curvature, or of -d2 log p / df2 f_z f_z' in censored rows."""
    case = next(c for c in cases(folder) if (c["error"], c["method"]) == ("proportional", "M3"))
    model, params, data = case_params(folder, case)
    binding = jn.bind(model, data)
    density, position = binding.density, int(np.argmax(data.limits.censored.sum(axis=1)))
    group = jax.tree.map(lambda leaf: jnp.asarray(leaf[position]), binding.problem.buckets[0])
    params = jax.tree.map(jnp.asarray, params)
    z = jnp.array([0.4, -0.3])
    from jaxnlme.likelihood.curvature import gauss_newton

    got = np.asarray(gauss_newton(density, params, z, group, None))
    f = np.asarray(density.predict(params, z, group))
    slopes = np.asarray(jax.jacfwd(lambda z: density.predict(params, z, group))(z))
    b = case["parameters"]["sigma"][0]
    expected = np.eye(2)
    for row in range(len(f)):
        if data.limits.censored[position, row]:

            def term(value):
                return jax.scipy.special.log_ndtr((0.55 - value) / (b * value))

            weight = -float(jax.grad(jax.grad(term))(f[row]))
        else:
            weight = 1.0 / (b * f[row]) ** 2 + 2.0 / f[row] ** 2
        expected += weight * np.outer(slopes[row], slopes[row])
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_without_censored_rows_the_model_is_gaussian(folder: Path):
    """All methods fit it, and the likelihood is that of the model without censoring."""
    table = pd.read_csv(folder / "censored.csv")
    table = table[(table.EVID == 0) & (table.CENS == 0)]
    data = jn.GroupedData.from_frame(table, "ID", "DV", "TIME", lloq=0.1)
    model = case_model("additive", "M3")
    plain = jn.NLMEModel(oral, list(model.parameters), "full", "constant")
    values = [float(jn.log_likelihood(m, m.params(data), data, "fo")) for m in (model, plain)]
    assert values[0] == values[1]
