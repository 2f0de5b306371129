"""Crossed random effects: the likelihood and its gradient, invariance, and agreement with lme4 and with nested fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.errors import ModelError
from jaxnlme.estimators.linear import crossed_products as products_module
from jaxnlme.estimators.linear.algorithm import estimate
from jaxnlme.estimators.linear.cross_products import cross_products
from jaxnlme.estimators.linear.crossed_likelihood import CrossedLikelihood
from jaxnlme.estimators.linear.crossed_problem import crossed_problem, transformed_right
from jaxnlme.estimators.linear.crossed_products import crossed_products
from jaxnlme.estimators.linear.objective import ProfiledLikelihood
from jaxnlme.estimators.linear.outcome import outcome
from jaxnlme.estimators.linear.problem import LinearProblem, RandomDesign, linear_problem
from jaxnlme.estimators.linear.settings import LinearSettings
from jaxnlme.model.covariance.specification import covariance

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def rank_promotion():
    """The elimination by levels broadcasts arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def simulated(units: tuple[int, ...], kinds: tuple[tuple[int, str], ...], rows: int = 260, blocks: int = 1):
    """y, X and designs of crossed factors; within each of `blocks` with units of its own."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(rows), rng.normal(size=rows), rng.normal(size=rows)])
    y = X @ np.array([2.0, 0.5, -1.0]) + rng.normal(size=rows)
    block = rng.integers(blocks, size=rows)
    designs = []
    for k, (count, (size, kind)) in enumerate(zip(units, kinds, strict=True)):
        codes = np.unique(block * count + rng.integers(count, size=rows), return_inverse=True)[1]
        matrix = np.column_stack([np.ones(rows), rng.normal(1.0, 1.0, (rows, size - 1))])
        y = y + np.sum(matrix * rng.normal(size=(codes.max() + 1, size))[codes], axis=1)
        names = tuple(f"e{j}" for j in range(size))
        designs.append(RandomDesign(f"g{k}", names, matrix, codes, np.arange(codes.max() + 1), covariance(kind, names)))
    return y, X, designs


def direct(problem: LinearProblem, theta: np.ndarray, restricted: bool) -> float:
    """-2 log L by the covariance matrix of all rows."""
    W, first = transformed_right(problem), 0
    n, p = len(W), W.shape[1] - 1
    V = np.eye(n)
    for level in problem.levels:
        last = first + level.factor.n_parameters
        Z = level.matrix @ level.transform @ np.asarray(level.factor.factor(theta[first:last]))
        V += (Z @ Z.T) * (level.design.codes[:, None] == level.design.codes[None, :])
        first = last
    F = W.T @ np.linalg.solve(V, W)
    lower = np.linalg.cholesky(F)
    count = n - p if restricted else n
    extra = 2.0 * np.sum(np.log(np.diag(lower)[:-1])) if restricted else 0.0
    return np.linalg.slogdet(V)[1] + extra + count * (1.0 + np.log(2.0 * np.pi * lower[-1, -1] ** 2 / count))


CASES = {
    "intercepts, dense": ((30, 12), ((1, "full"), (1, "full")), 1),
    "intercepts, sparse": ((90, 60), ((1, "full"), (1, "full")), 1),
    "slopes in the first": ((60, 40), ((2, "full"), (1, "full")), 1),
    "slopes in the second": ((90, 20), ((1, "full"), (3, "full")), 1),
    "three factors": ((40, 12, 7), ((2, "full"), (2, "full"), (3, "full")), 1),
    "structures": ((40, 12, 9), ((2, "diagonal"), (3, "identity"), (2, "compound symmetry")), 1),
    "components": ((7, 4, 1), ((1, "full"), (2, "full"), (1, "full")), 9),
    "large components": ((50, 40), ((1, "full"), (1, "full")), 2),
}


@pytest.mark.parametrize("restricted", [False, True], ids=["ML", "REML"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case: str, restricted: bool):
    """The value is that of the covariance matrix of all rows, the gradient that of fourth-order differences."""
    units, kinds, blocks = CASES[case]
    y, X, designs = simulated(units, kinds, blocks=blocks)
    problem = crossed_problem(y, X, designs)
    products = crossed_products(problem)
    if "dense" in case or "sparse" in case:
        assert products.incidence.dense == ("dense" in case)
    assert products.where.whole == (blocks == 1)
    likelihood = CrossedLikelihood(products, len(y), restricted)
    theta = likelihood.start() + 0.3 * np.random.default_rng(1).normal(size=likelihood.n_parameters)
    value, gradient, _ = likelihood.profiled(theta)
    assert value == pytest.approx(direct(problem, theta, restricted), rel=1e-12)
    numeric, h = np.empty(len(theta)), 1e-3
    for k, e in enumerate(h * np.eye(len(theta))):
        at = [likelihood.profiled(theta + j * e)[0] for j in (-2, -1, 1, 2)]
        numeric[k] = (at[0] - 8.0 * at[1] + 8.0 * at[2] - at[3]) / (12.0 * h)
    np.testing.assert_allclose(gradient, numeric, atol=1e-6 * np.max(np.abs(numeric)), rtol=1e-6)


def test_gradient_at_singular_covariances():
    """A variance of zero has derivative zero in its entry of theta; a singular factor has the derivatives of others."""
    y, X, designs = simulated((40, 12), ((2, "full"), (2, "full")))
    likelihood = CrossedLikelihood(crossed_products(crossed_problem(y, X, designs)), len(y), True)
    theta = np.array([0.8, 0.3, 0.0, 0.0, 0.0, 0.7])
    value, gradient, _ = likelihood.profiled(theta)
    assert np.isfinite(value)
    assert np.abs(gradient[[2, 3]]).max() < 1e-10
    h = 1e-4
    for k in range(len(theta)):
        e = h * np.eye(len(theta))[k]
        numeric = (likelihood.profiled(theta + e)[0] - likelihood.profiled(theta - e)[0]) / (2.0 * h)
        assert gradient[k] == pytest.approx(numeric, abs=1e-4)


@pytest.mark.parametrize("restricted", [False, True], ids=["ML", "REML"])
def test_nested_factors_by_either_path(rank_promotion: None, restricted: bool):
    """A model with nested levels has the same fit by the elimination for crossed factors."""
    rng = np.random.default_rng(5)
    outer = np.sort(rng.integers(12, size=240))
    inner = np.unique(outer * 5 + rng.integers(5, size=240), return_inverse=True)[1]
    x = rng.normal(size=240)
    X, Z = np.column_stack([np.ones(240), x]), np.column_stack([np.ones(240), x])
    y = X @ [1.0, 2.0] + np.sum(Z * rng.normal(size=(12, 2))[outer], axis=1)
    y = y + rng.normal(0, 0.7, inner.max() + 1)[inner] + rng.normal(0, 0.5, 240)
    designs = [
        RandomDesign("outer", ("1", "x"), Z, outer, np.arange(12), covariance("full", ("1", "x"))),
        RandomDesign("inner", ("1",), Z[:, :1], inner, np.arange(inner.max() + 1), covariance("full", ("1",))),
    ]
    nested = linear_problem(y, X, designs)
    by_levels = ProfiledLikelihood(cross_products(nested), 240, restricted)
    problem = crossed_problem(y, X, designs)
    by_blocks = CrossedLikelihood(crossed_products(problem), 240, restricted)
    theta = np.array([1.2, -0.3, 0.8, 0.6])
    for a, b in zip(by_levels.profiled(theta), by_blocks.profiled(theta), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    first, second = estimate(by_levels), estimate(by_blocks)
    one, other = outcome(nested, by_levels, first), outcome(problem, by_blocks, second)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-11)
    np.testing.assert_allclose(one.beta, other.beta, rtol=1e-8)
    np.testing.assert_allclose(one.beta_covariance, other.beta_covariance, rtol=1e-6)
    for a, b in zip(one.psi, other.psi, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-7, atol=1e-8)
    for a, b in zip(one.effects, other.effects, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def lme4_case(name: str) -> tuple[str, pd.DataFrame, dict[str, Any]]:
    content = json.loads((DATA / f"{name}.json").read_text())
    return content["formula"], pd.DataFrame(content["table"]), content["fits"]


@pytest.mark.parametrize("method", ["ML", "REML"])
@pytest.mark.parametrize("name", ["crossed_slopes", "crossed_and_nested"])
def test_agrees_with_lme4(name: str, method: str):
    """Numbers of benchmarks/peers/crossed.R: lme4 1.1-31 with tight tolerances."""
    formula, table, fits = lme4_case(name)
    expected = fits[method]
    fit = jn.lme(formula, data=table, method=method).throw()
    assert fit.log_likelihood == pytest.approx(expected["logLik"], rel=1e-9)
    names = {"(Intercept)": "(Intercept)", "x": "x"} | {f"treatment{k}": f"treatment[T.{k}]" for k in ("high", "low")}
    for key, value in expected["fixef"].items():
        assert fit.beta[names[key]] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.beta_covariance)), expected["se"], rtol=1e-4)
    assert fit.sigma == pytest.approx(expected["sigma"], rel=1e-5)
    labels = {"c:a": "c"}
    for key, psi in expected["psi"].items():
        np.testing.assert_allclose(fit.psi[labels.get(key, key)], psi, rtol=2e-4)
        effects, found = expected["ranef"][key], fit.random_effects[labels.get(key, key)]
        units = [tuple(unit.split(":")[::-1]) if ":" in unit else unit for unit in effects["unit"]]
        values = np.array(effects["values"])
        np.testing.assert_allclose(found.loc[units], values, atol=1e-4 * np.abs(values).max())


def assert_fit_of_r(fit: Any, expected: dict[str, Any], rtol: float):
    assert fit.log_likelihood == pytest.approx(expected["logLik"], rel=1e-5)
    np.testing.assert_allclose(fit.beta, list(expected["fixef"].values()), rtol=1e-5, atol=1e-9)
    assert fit.sigma == pytest.approx(expected["sigma"], rel=1e-4)


@pytest.mark.parametrize("method", ["ML", "REML"])
def test_penicillin(reference: Path, method: str):
    expected = json.loads((reference / "r" / f"Penicillin_crossed_lmer{method}.json").read_text())
    fit = jn.lme(
        "diameter ~ 1 + (1 | plate) + (1 | sample)", data=_table(reference, "Penicillin"), method=method
    ).throw()
    assert_fit_of_r(fit, expected, 1e-4)
    for name, part in expected["random"].items():
        np.testing.assert_allclose(fit.psi[name], part["covariance"], rtol=1e-4)
        effects = expected["ranef"][name]
        found = fit.random_effects[name]["(Intercept)"].loc[effects["groups"]]
        np.testing.assert_allclose(found, effects["(Intercept)"], rtol=1e-4, atol=1e-5)


def test_assay(reference: Path):
    """Factors crossed within blocks: lme4 stopped short of the maximum here, nlme (pdBlocked) has it."""
    expected = json.loads((reference / "r" / "Assay_crossed_blocked_REML.json").read_text())
    table = _table(reference, "Assay").astype({"dilut": str})
    formula = "logDens ~ sample * dilut + (1 | Block) + (1 | Block:sample) + (1 | Block:dilut)"
    fit = jn.lme(formula, data=table).throw()
    assert_fit_of_r(fit, expected, 1e-4)
    psi = dict(
        zip(expected["random"]["Block"]["names"], np.diag(expected["random"]["Block"]["covariance"]), strict=True)
    )
    for label, name in (("Block", "(Intercept)"), ("Block:sample", "samplea"), ("Block:dilut", "dilut1")):
        assert fit.psi[label].iloc[0, 0] == pytest.approx(psi[name], rel=1e-4)
    effects = expected["ranef"]["Block"]
    for block, row in zip(effects["groups"], zip(*(effects[f"sample{k}"] for k in "abcdef"), strict=True), strict=True):
        found = [fit.random_effects["Block:sample"].loc[(int(block), k)].item() for k in "abcdef"]
        np.testing.assert_allclose(found, row, rtol=1e-4, atol=1e-6)


def _table(reference: Path, name: str) -> pd.DataFrame:
    path = reference.parent / "data" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return pd.read_csv(path)


def test_order_of_factors_and_of_rows():
    formula, table, _ = lme4_case("crossed_slopes")
    fit = jn.lme(formula, data=table)
    shuffled = table.sample(frac=1.0, random_state=3)
    for other in (jn.lme("y ~ x + (1 | b) + (x | a)", data=table), jn.lme(formula, data=shuffled)):
        assert other.log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-12)
        np.testing.assert_allclose(other.beta, fit.beta, rtol=1e-7)
        for label in ("a", "b"):
            np.testing.assert_allclose(other.psi[label], fit.psi[label], rtol=1e-5)
            theirs = other.random_effects[label].loc[fit.random_effects[label].index]
            np.testing.assert_allclose(theirs, fit.random_effects[label], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        jn.lme(formula, data=shuffled).fitted, pd.Series(fit.fitted, table.index)[shuffled.index], rtol=1e-6
    )


@pytest.mark.parametrize("unit", [1e6, 1e-6])
def test_units(unit: float):
    """In other units of y and of x the estimates are the same in these units."""
    formula, table, _ = lme4_case("crossed_slopes")
    fit = jn.lme(formula, data=table)
    of_y = jn.lme(formula, data=table.assign(y=unit * table["y"])).throw()
    of_x = jn.lme(formula, data=table.assign(x=unit * table["x"])).throw()
    rows = len(table) - 2
    assert of_y.log_likelihood == pytest.approx(fit.log_likelihood - rows * np.log(unit), rel=1e-10)
    np.testing.assert_allclose(of_y.beta, unit * fit.beta, rtol=1e-6)
    assert of_y.sigma == pytest.approx(unit * fit.sigma, rel=1e-6)
    np.testing.assert_allclose(of_y.psi["a"], unit**2 * fit.psi["a"], rtol=1e-5)
    np.testing.assert_allclose(of_y.random_effects["b"], unit * fit.random_effects["b"], rtol=1e-4, atol=1e-6 * unit)
    scale = np.array([1.0, 1.0 / unit])
    assert of_x.log_likelihood == pytest.approx(fit.log_likelihood - np.log(unit), rel=1e-10)
    np.testing.assert_allclose(of_x.beta, scale * fit.beta, rtol=1e-6)
    np.testing.assert_allclose(of_x.psi["a"], np.outer(scale, scale) * fit.psi["a"], rtol=1e-5)


def test_predictions_and_tables():
    formula, table, _ = lme4_case("crossed_and_nested")
    fit = jn.lme(formula, data=table)
    np.testing.assert_allclose(fit.predict(table), fit.fitted, rtol=1e-12)
    new = table.head(1).assign(a="a99", b="b99")
    assert fit.predict(new) == pytest.approx(fit.predict(new, level="population"))
    assert {"sd((Intercept)|a)", "sd((Intercept)|b)", "sd((Intercept)|c)", "sigma"} <= set(fit.estimates.index)
    assert (fit.estimates["se"] > 0).all()
    # Random effects average to zero over the units of an intercept's factor.
    for values in fit.random_effects.values():
        assert abs(values["(Intercept)"].sum()) < 1e-6 * values["(Intercept)"].abs().sum()


def test_variance_of_zero(rank_promotion: None):
    """A factor without an effect has the variance zero, and the fit is that of the others."""
    rng = np.random.default_rng(8)
    table = pd.DataFrame({"a": rng.integers(20, size=300), "b": rng.integers(15, size=300)})
    table["y"] = rng.normal(size=20)[table["a"]] + rng.normal(size=300)
    # Centred by unit of b, the data have less variance between units than the residuals would give.
    table["y"] -= table.groupby("b")["y"].transform("mean")
    fit = jn.lme("y ~ 1 + (1 | a) + (1 | b)", data=table).throw()
    assert fit.psi["b"].iloc[0, 0] == 0
    assert any("variance of (Intercept) | b is estimated as zero" in sentence for sentence in fit.at_zero)
    other = jn.lme("y ~ 1 + (1 | a)", data=table)
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-6)
    assert fit.psi["a"].iloc[0, 0] == pytest.approx(other.psi["a"].iloc[0, 0], rel=1e-5)


def test_too_large(monkeypatch: pytest.MonkeyPatch):
    """Factors whose dense matrices are too large are refused by name, size and memory."""
    monkeypatch.setattr(products_module, "LINEAR", LinearSettings(most_crossed_effects=14))
    formula, table, _ = lme4_case("crossed_slopes")
    with pytest.raises(ModelError, match=r"'a' \(43 units x 2\) are eliminated.*'b' \(17 units x 1\).*17 x 17.*limit"):
        jn.lme(formula, data=table)
