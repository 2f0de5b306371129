"""Fits with values held fixed: against Gaussian likelihoods maximised by scipy, free fits, and models without an
effect."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats

import jaxnlme as jn
from tests.estimators import catalogue

GROUPS, ROWS = 20, 5
SEARCH = {"method": "BFGS", "options": {"gtol": 1e-7}}


def quadratic(phi, x):
    """A parabola: linear in its parameters."""
    return phi.mu + phi.slope * x.t + phi.bend * x.t**2


@functools.cache
def frame() -> pd.DataFrame:
    """Twenty parabolas, five rows each, with correlated coefficients."""
    rng = np.random.default_rng(5)
    t = np.tile(np.linspace(-1.0, 1.5, ROWS), (GROUPS, 1))
    psi = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.4]])
    c = np.array([2.0, 0.7, -0.5]) + rng.multivariate_normal(np.zeros(3), psi, GROUPS)
    y = c[:, :1] + c[:, 1:2] * t + c[:, 2:] * t**2 + 0.3 * rng.normal(size=t.shape)
    return pd.DataFrame({"g": np.repeat(np.arange(GROUPS), ROWS), "t": t.ravel(), "y": y.ravel()})


@functools.cache
def data() -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame(), "g", "y", ["t"])


def model(names: str, covariance="full", fixed=None, sd=None, error="constant") -> jn.NLMEModel:
    """`names`: the parameters with random effects; `sd`: of them, by name."""
    random = names.split()
    parameters = [
        jn.Parameter(n, start, random=n in random, sd=(sd or {}).get(n))
        for n, start in {"mu": 1.0, "slope": 0.5, "bend": -0.3}.items()
    ]
    return jn.NLMEModel(quadratic, parameters, covariance, error, fixed=fixed)


def moments() -> tuple[np.ndarray, np.ndarray]:
    """The responses (groups, obs), and the design (obs, 3) that all groups share."""
    t = frame()["t"].to_numpy()[:ROWS]
    return frame()["y"].to_numpy().reshape(GROUPS, ROWS), np.stack([np.ones(ROWS), t, t**2], axis=1)


def gaussian(values: dict[str, float], names: list[str], restricted: bool = False) -> float:
    """The log-likelihood of the linear mixed model at SDs and correlations `values`, over beta maximised (or, where
    restricted, integrated); entries of beta in `values` are held."""
    y, design = moments()
    columns = [["mu", "slope", "bend"].index(n) for n in names]
    sd = np.array([values[f"sd({n})"] for n in names])
    r = np.eye(len(names))
    for j in range(len(names)):
        for k in range(j):
            r[j, k] = r[k, j] = values.get(f"corr({names[k]}, {names[j]})", 0.0)
    if len(names) and (np.linalg.eigvalsh(r)[0] <= 1e-10 or not np.isfinite(sd).all()):
        return -np.inf
    z = design[:, columns]
    v = z @ (r * np.outer(sd, sd)) @ z.T + values["a"] ** 2 * np.eye(ROWS)
    held = [k for k, n in enumerate(("mu", "slope", "bend")) if n in values]
    free = [k for k in range(3) if k not in held]
    beta = np.zeros(3)
    beta[held] = [values[("mu", "slope", "bend")[k]] for k in held]
    inverse, x = np.linalg.inv(v), design[:, free]
    information = GROUPS * x.T @ inverse @ x
    beta[free] = np.linalg.solve(information, x.T @ inverse @ np.sum(y - design @ beta, axis=0))
    out = float(np.sum(scipy.stats.multivariate_normal.logpdf(y - design @ beta, np.zeros(ROWS), v)))
    if restricted:
        out += 0.5 * len(free) * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(information)[1]
    return out


def by_scipy(names: list[str], held: dict[str, float], pairs: list[str], shared: bool = False, restricted=False):
    """The maximum over everything that is not held; `pairs`: correlations that are not zero; `shared`: one SD and one
    correlation for all effects."""
    sds = [f"sd({n})" for n in names]
    parameters = [p for p in ([sds[0], *pairs[:1], "a"] if shared else [*sds, *pairs, "a"]) if p not in held]

    def values(x: np.ndarray) -> dict[str, float]:
        free = {p: np.tanh(v) if p.startswith("corr") else np.exp(v) for p, v in zip(parameters, x, strict=True)}
        out = free | held
        if shared:
            out |= {s: out[sds[0]] for s in sds} | {p: out[pairs[0]] for p in pairs}
        return out

    start = np.array([0.0 if p.startswith("corr") else -0.5 for p in parameters])
    with np.errstate(all="ignore"):
        objective = lambda x: min(-gaussian(values(x), names, restricted), 1e10)  # noqa: E731
        rough = scipy.optimize.minimize(objective, start, method="Nelder-Mead", options={"maxiter": 2000})
        found = scipy.optimize.minimize(objective, rough.x, **SEARCH)
    return values(found.x), -found.fun


CASES = {
    "diagonal, sd": ("mu slope", "diagonal", {"sd(slope)": 0.3}, []),
    "full, correlation": ("mu slope", "full", {"corr(mu, slope)": -0.5}, ["corr(mu, slope)"]),
    "full, sd and error": ("mu slope", "full", {"sd(slope)": 0.4, "a": 0.4}, ["corr(mu, slope)"]),
    "full of three": (
        "mu slope bend",
        "full",
        {"corr(mu, bend)": 0.3, "sd(slope)": 0.5},
        ["corr(mu, slope)", "corr(mu, bend)", "corr(slope, bend)"],
    ),
    "blocks": (
        "mu slope bend",
        [["mu", "bend"], ["slope"]],
        {"corr(mu, bend)": 0.3, "sd(slope)": 0.5, "mu": 1.8},
        ["corr(mu, bend)"],
    ),
    "compound, correlation": (
        "mu slope bend",
        "compound symmetry",
        {"corr(mu, slope)": 0.2},
        ["corr(mu, slope)", "corr(mu, bend)", "corr(slope, bend)"],
    ),
    "compound, sd": (
        "mu slope bend",
        "compound symmetry",
        {"sd(mu)": 0.6},
        ["corr(mu, slope)", "corr(mu, bend)", "corr(slope, bend)"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_closed_form_likelihood_of_a_linear_model(name: str) -> None:
    names, covariance, fixed, pairs = CASES[name]
    values, best = by_scipy(names.split(), dict(fixed), pairs, covariance == "compound symmetry")
    fit = jn.fit(model(names, covariance, fixed), data(), "focei").throw()
    assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
    # scipy's gradient is differenced: its estimates are good to about 1e-4 standard errors
    for key, value in values.items():
        assert fit.values[key] == pytest.approx(value, abs=2e-4), key
    table = fit.estimates
    for key in fixed:
        assert fit.values[key] == pytest.approx(fixed[key], rel=1e-12)
        assert table.loc[key, "fixed"]
        assert np.isnan(table.loc[key, "se"])
    # under compound symmetry three SDs, or three correlations, are one parameter
    n_free = int((~table["fixed"]).sum()) - (2 if covariance == "compound symmetry" else 0)
    assert fit.criteria.n_parameters == n_free
    assert "fixed" in str(fit.summary())
    assert "held fixed" in str(fit.summary())


FIXED = {"sd(slope)": 0.4, "corr(mu, slope)": 0.2}


@functools.cache
def exact(restricted: bool = False) -> tuple[dict[str, float], float]:
    return by_scipy(["mu", "slope"], dict(FIXED), [], restricted=restricted)


METHODS = {"fo": "fo", "foce": "foce", "laplace": "laplace", "lme": "lme", "agq": jn.AGQ(3)}


@pytest.mark.parametrize("method", METHODS)
def test_every_approximation_of_a_linear_model(method: str) -> None:
    values, best = exact()
    fit = jn.fit(model("mu slope", fixed=FIXED), data(), METHODS[method]).throw()
    assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
    for key, value in values.items():
        assert fit.values[key] == pytest.approx(value, abs=2e-4), key


@pytest.mark.parametrize("method", ["relme", "focei"])
def test_restricted_likelihoods_of_a_linear_model(method: str) -> None:
    values, best = exact(True)
    fit = jn.fit(model("mu slope", fixed=FIXED), data(), method, restricted=True).throw()
    assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
    for key, value in values.items():
        assert fit.values[key] == pytest.approx(value, abs=2e-4), key


def loss(fit: jn.Fit) -> float:
    """Log-likelihood units that the SDs and correlations of `fit` lie below the maximum."""
    return exact()[1] - gaussian(
        {k: v for k, v in fit.values.items() if k not in ("mu", "slope", "bend")}, ["mu", "slope"]
    )


def test_importance_sampling_of_a_linear_model() -> None:
    fit = jn.fit(model("mu slope", fixed=FIXED), data(), jn.ImportanceSampling(256)).throw()
    error = np.sqrt(np.sum(fit.monte_carlo_variance))
    assert fit.log_likelihood == pytest.approx(exact()[1], abs=4.0 * error)
    assert loss(fit) < 0.01
    assert {name: fit.values[name] for name in FIXED} == pytest.approx(FIXED, rel=1e-12)


@pytest.mark.parametrize("method", ["saem", "imp"])
def test_stochastic_fits_of_a_linear_model(method: str) -> None:
    values, _ = exact()
    fit = jn.fit(model("mu slope", fixed=FIXED), data(), method).throw()
    assert loss(fit) < 0.01
    for key, value in values.items():
        # a twentieth of a standard error, as the Monte Carlo error of a converged fit
        se = fit.estimates.loc[key, "se"]
        assert fit.values[key] == pytest.approx(value, abs=1e-9 if np.isnan(se) else 0.05 * se), key


def assert_same(fit: jn.Fit, free: jn.Fit, tolerance: float) -> None:
    """The estimates of `free` within `tolerance` standard errors."""
    for name, row in free.estimates.iterrows():
        value = fit.estimates.loc[name, "estimate"]
        assert value == pytest.approx(row["estimate"], abs=tolerance * row["se"], rel=1e-9), name


@pytest.mark.parametrize("method", ["focei", "laplace", "lme", "restricted", "saem"])
@pytest.mark.parametrize("name", ["sd(cl)", "corr(ka, cl)", "a"])
def test_held_at_the_estimate_nothing_else_moves(name: str, method: str) -> None:
    effects = [["ka", "cl"], ["v"]]
    options = {"restricted": True} if method == "restricted" else {}
    method = "focei" if method == "restricted" else method
    free = jn.fit(catalogue.oral(covariance=effects), catalogue.theophylline_mg(), method, **options)
    fixed = {name: free.values[name]}
    held = jn.fit(catalogue.oral(covariance=effects, fixed=fixed), catalogue.theophylline_mg(), method, **options)
    assert held.converged == free.converged
    # both ends are within 1e-6 units of the maximum; SAEM's within its Monte Carlo error
    assert held.log_likelihood == pytest.approx(free.log_likelihood, abs=0.05 if method == "saem" else 2e-6)
    assert_same(held, free, 0.08 if method == "saem" else 2e-3)
    assert held.criteria.n_parameters == free.criteria.n_parameters - 1


def test_derivatives_in_the_free_entries() -> None:
    binding = jn.bind(model("mu slope bend", fixed={"corr(mu, bend)": 0.3, "sd(slope)": 0.5}), data())
    rng = np.random.default_rng(6)
    packed = binding.start.pack() + np.where(binding.fixed, 0.0, 0.2 * rng.normal(size=len(binding.fixed)))

    @jax.jit
    @jax.value_and_grad
    def likelihood(x):
        return jn.log_likelihood(None, binding.start.unpack(x), binding.problem, "fo")

    slopes = likelihood(packed)[1]
    for k in np.flatnonzero(~binding.fixed):
        step = 1e-5 * np.eye(len(packed))[k]
        difference = (likelihood(packed + step)[0] - likelihood(packed - step)[0]) / 2e-5
        assert slopes[k] == pytest.approx(float(difference), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("method", ["focei", "lme", "saem"])
def test_a_variance_held_at_zero_is_a_model_without_the_effect(method: str) -> None:
    without = jn.fit(model("mu slope"), data(), method)
    held = jn.fit(model("mu slope bend", sd={"bend": 0}), data(), method)
    assert held.values == without.values
    assert held.log_likelihood == without.log_likelihood
    assert held.criteria == without.criteria
    assert "sd(bend) = 0 (no random effect)" in str(held.summary())


@functools.cache
def flat_slopes() -> jn.GroupedData:
    """Fifteen lines with the same slope, whose variance is estimated as zero beside that of their levels."""
    rng = np.random.default_rng(2)
    t, group = np.tile(np.arange(4.0), 15), np.repeat(np.arange(15), 4)
    y = 1.0 + rng.normal(size=15)[group] + 0.5 * t + rng.normal(size=60)
    return jn.GroupedData.from_frame(pd.DataFrame({"g": group, "t": t, "y": y}), "g", "y", ["t"])


@pytest.mark.parametrize(
    ("covariance", "fixed"),
    [("diagonal", {"sd(mu)": 0.8}), ("diagonal", {"a": 1.3}), ("full", {"corr(mu, slope)": 0.3})],
    ids=str,
)
def test_another_variance_vanishes(covariance: str, fixed: dict[str, float]) -> None:
    def fit(random: bool, fixed: dict[str, float]) -> jn.Fit:
        parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=random)]
        return jn.fit(jn.NLMEModel(catalogue.line, parameters, covariance, fixed=fixed), flat_slopes(), "focei").throw()

    held = fit(True, fixed)
    assert held.values["sd(slope)"] == 0.0
    without = fit(False, {name: value for name, value in fixed.items() if "slope" not in name})
    assert held.log_likelihood == pytest.approx(without.log_likelihood, abs=1e-6)


@pytest.mark.parametrize("fixed", [{"sd(mu)": 0.8}, {"sd(slope)": 0.1}], ids=str)
def test_a_correlation_goes_to_minus_one_beside_a_held_sd(fixed: dict[str, float]) -> None:
    parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    fit = jn.fit(jn.NLMEModel(catalogue.line, parameters, "full", fixed=fixed), flat_slopes(), "focei").throw()
    assert fit.values["corr(mu, slope)"] == pytest.approx(-1.0, abs=1e-6)
    near = {**fixed, "corr(mu, slope)": -1.0 + 1e-6}
    limit = jn.fit(jn.NLMEModel(catalogue.line, parameters, "full", fixed=near), flat_slopes(), "focei").throw()
    assert fit.log_likelihood == pytest.approx(limit.log_likelihood, abs=1e-4)
    assert fit.log_likelihood > limit.log_likelihood - 1e-7


@pytest.mark.parametrize("held", [{"sd(slope)": 0.4}, {"corr(mu, slope)": 0.2}, {"mu": 1.9}, {"a": 0.3}], ids=str)
def test_starts_from_other_fits(held: dict[str, float]) -> None:
    free = jn.fit(model("mu slope"), data(), "focei")
    fit = jn.fit(model("mu slope", fixed=held), data(), "focei", start=free).throw()
    afresh = jn.fit(model("mu slope", fixed=held), data(), "focei")
    assert fit.log_likelihood == pytest.approx(afresh.log_likelihood, abs=1e-6)
    ((name, value),) = held.items()
    assert fit.values[name] == pytest.approx(value, rel=1e-12)
    back = jn.fit(model("mu slope"), data(), "focei", start=fit)
    assert back.log_likelihood == pytest.approx(free.log_likelihood, abs=1e-6)
