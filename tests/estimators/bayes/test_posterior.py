"""Draws from posteriors: exact means on a grid, what follows from the draws, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import jaxnlme as jn
from jaxnlme.estimators.bayes import pipeline
from jaxnlme.estimators.bayes.method import flat_names
from tests.problems import binary, cheap, decay_data, decay_model

PRIORS = {"level": jn.priors.Normal(0.0, 1.5), "sd(level)": jn.priors.HalfNormal(1.0)}


def level(phi, x):
    return phi.level + 0.0 * x.time


def binary_data(groups: int = 8, rows: int = 6) -> jn.GroupedData:
    random = np.random.default_rng(5)
    label = np.repeat(np.arange(groups), rows)
    chance = expit(0.5 + 0.8 * random.standard_normal(groups))[label]
    y = (random.uniform(size=len(label)) < chance).astype(float)
    frame = {"group": label, "y": y, "time": np.tile(np.arange(rows, dtype=float), groups)}
    return jn.GroupedData.from_frame(frame, "group", "y", ["time"])


def binary_model(**options: Any) -> jn.NLMEModel:
    parameters = [jn.Parameter("level", 0.3, random=True)]
    return jn.NLMEModel(level, parameters, error=jn.GroupLogLikelihood(binary, sampler=draw), **options)


def draw(key, f, p, x, v):
    return jax.random.bernoulli(key, jax.nn.sigmoid(f)).astype(float)


@cheap
def log_joints(problem: Any, params: Any, z: Any) -> Any:
    return problem.map(lambda group, z: problem.density.log_joint(params, z, group), z)


@cheap
def reported_values(density: Any, params: Any) -> Any:
    return density.reported(params)


def grid_moments(data: jn.GroupedData) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations of (level, sd) by quadrature: 60 Gauss-Hermite nodes for the effect of a
    group, sums over a grid for the parameters."""
    ones = np.array([data.y[k][data.observed[k]].sum() for k in range(data.n_groups)])
    sizes = data.observed.sum(axis=1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    mu, sd = np.linspace(-4.0, 5.0, 241), np.linspace(1e-4, 5.0, 300)
    eta = mu[:, None, None] + sd[None, :, None] * nodes
    chance = expit(eta)[:, :, None, :]
    terms = chance ** ones[:, None] * (1.0 - chance) ** (sizes - ones)[:, None]
    likelihood = (terms @ (weights / weights.sum())).prod(axis=-1)
    prior = np.exp(-0.5 * (mu[:, None] / 1.5) ** 2 - 0.5 * sd[None, :] ** 2)
    mass = likelihood * prior / np.sum(likelihood * prior)
    means = np.array([np.sum(mass * mu[:, None]), np.sum(mass * sd[None, :])])
    squares = np.array([np.sum(mass * mu[:, None] ** 2), np.sum(mass * sd[None, :] ** 2)])
    return means, np.sqrt(squares - means**2)


@pytest.fixture(scope="module")
def posterior() -> jn.Fit:
    return jn.fit(binary_model(priors=PRIORS), binary_data(), ["laplace", jn.NUTS(draws=500, warmup=300, seed=4)])


# ---- exactness


def test_means_are_those_of_quadrature(posterior: jn.Fit) -> None:
    """Within four Monte Carlo errors; the starting fit (maximum of the posterior) is far outside."""
    assert posterior.converged, posterior.status
    means, sds = grid_moments(binary_data())
    table = posterior.estimates
    error = sds / np.sqrt(table["ess bulk"].to_numpy())
    assert (np.abs(table["estimate"].to_numpy() - means) < 4.0 * error).all()
    np.testing.assert_allclose(table["se"].to_numpy(), sds, rtol=0.15)
    start = jn.fit(binary_model(priors=PRIORS), binary_data(), "laplace")
    assert abs(start.values["sd(level)"] - means[1]) > 6.0 * error[1]


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_density_is_likelihood_times_prior_times_volume(covariance: str) -> None:
    """The log density at two points, computed from its parts: log joint densities, priors, and the determinant of the
    differenced Jacobian of the reported values."""
    model, data = decay_model(covariance), decay_data()
    binding = jn.bind(model, data)
    density, problem = binding.density, binding.problem
    estimator = jn.NUTS(flat_priors=True)
    target = pipeline._target(binding, estimator, binding.start, None)
    random = np.random.default_rng(0)
    n, p, q = target.scaling.size, len(binding.packed_names), density.n_effects

    def by_hand(x: np.ndarray) -> float:
        u = np.asarray(target.scaling.centre) + np.asarray(target.scaling.factor) @ x[:p]
        z = x[p:].reshape(data.n_groups, q)
        params = binding.start.unpack(jnp.asarray(u))
        joint = log_joints(problem, params, jnp.asarray(z)).sum()

        def reported(u: np.ndarray) -> np.ndarray:
            return np.asarray(reported_values(density, binding.start.unpack(jnp.asarray(u))))

        step = 1e-5
        columns = [(reported(u + step * e) - reported(u - step * e)) / (2.0 * step) for e in np.eye(p)]
        return float(joint) + float(np.linalg.slogdet(np.array(columns))[1])

    points = 0.3 * random.standard_normal((2, n))
    by_program = cheap(lambda target, x: target.log_density(x))
    difference = [float(by_program(target, jnp.asarray(x))) - by_hand(x) for x in points]
    assert abs(difference[0] - difference[1]) < 1e-6


def test_collapsed_draws_and_pathfinder_agree_with_quadrature() -> None:
    data, model = binary_data(), binary_model(priors=PRIORS)
    means, sds = grid_moments(data)
    method = jn.AGQ(15)
    fit = jn.fit(model, data, [method, jn.NUTS(draws=500, warmup=300, effects="collapsed", approximation=method)])
    assert fit.converged, fit.status
    error = sds / np.sqrt(fit.estimates["ess bulk"].to_numpy())
    assert (np.abs(fit.estimates["estimate"].to_numpy() - means) < 4.0 * error).all()
    assert np.isfinite(fit.random_effects.to_numpy()).all() and (fit.random_effects_se.to_numpy() > 0).all()
    quick = jn.fit(model, data, [method, jn.Pathfinder(approximation=method)])
    assert quick.posterior is not None and quick.posterior.pareto_k is not None
    assert quick.converged == (quick.posterior.pareto_k <= 0.7)
    assert (np.abs(quick.estimates["estimate"].to_numpy() - means) < 0.25 * sds).all()


# ---- what follows from the draws


def test_tables_and_draws(posterior: jn.Fit) -> None:
    record = posterior.posterior
    assert record is not None and record.z is not None
    assert record.draws.shape == (2000, 2) and list(record.draws.columns) == ["level", "sd(level)"]
    np.testing.assert_allclose(record.draws.mean().to_numpy(), posterior.estimates["estimate"].to_numpy())
    np.testing.assert_allclose(list(posterior.values.values()), posterior.estimates["estimate"].to_numpy())
    np.testing.assert_allclose(posterior.covariance.to_numpy(), np.cov(record.draws.to_numpy(), rowvar=False))
    b = record.draws["sd(level)"].to_numpy()[:, None] * record.z.reshape(2000, -1)
    np.testing.assert_allclose(posterior.random_effects["level"].to_numpy(), b.mean(axis=0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(posterior.random_effects_se["level"].to_numpy(), b.std(axis=0), rtol=1e-6)
    narrow, wide = posterior.confidence_intervals(0.5), posterior.confidence_intervals(0.9)
    assert (wide["lower"] < narrow["lower"]).all() and (wide["upper"] > narrow["upper"]).all()
    assert "NUTS" in str(posterior.summary()) and "R-hat" in str(record)


def test_simulations_draw_the_parameters(posterior: jn.Fit) -> None:
    """The number of successes varies more between replicates than at the posterior means, by the variance of the
    expected number over draws."""
    drawn = posterior.simulate(400, 1).sum(axis=1)
    record, n = posterior.posterior, posterior.data.n_obs
    assert record is not None
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mu, sd = record.draws.to_numpy().T
    expected = n * expit(mu[:, None] + sd[:, None] * nodes) @ (weights / weights.sum())
    assert drawn.var() > 0.6 * expected.var() + expected.mean() * (1.0 - expected.mean() / n)
    assert (posterior.simulate(3, 1) == posterior.simulate(400, 1)[:3]).all()
    again = posterior.simulate(50, 2, level="group")
    assert again.shape == (50, posterior.data.n_rows)
    table = posterior.predict(interval=0.9, uncertainty=["parameters", "effects"], draws=200)
    assert ((table["lower"] < table["prediction"]) & (table["prediction"] < table["upper"])).all()


def test_arviz_and_files(posterior: jn.Fit, tmp_path: Path) -> None:
    record = posterior.posterior
    assert record is not None
    tree = record.to_arviz()
    for name in ("posterior", "sample_stats", "log_likelihood", "observed_data"):
        assert name in {group.strip("/") for group in tree.groups()} if callable(tree.groups) else tree.groups
    values = tree["posterior"]["sd(level)"].to_numpy()
    np.testing.assert_array_equal(values.reshape(-1), record.draws["sd(level)"].to_numpy())
    assert tree["log_likelihood"]["y"].shape == (4, 500, posterior.data.n_groups)
    at_mean = posterior.group_log_likelihood.sum()
    assert 0.0 < at_mean - tree["log_likelihood"]["y"].to_numpy().sum(axis=2).mean() < 3.0
    loaded = jn.load(posterior.save(tmp_path / "fit.jaxnlme"), model=binary_model(priors=PRIORS))
    assert loaded.posterior is not None
    np.testing.assert_array_equal(loaded.posterior.packed, record.packed)
    assert str(loaded.status) == str(posterior.status) and loaded.estimates.equals(posterior.estimates)


def test_an_interrupted_run_keeps_its_draws(posterior: jn.Fit) -> None:
    """Ctrl-C during a callback after the first blocks of draws."""

    def interrupt(iteration: jn.Iteration) -> bool:
        if iteration.iteration >= 400:
            raise KeyboardInterrupt
        return False

    fit = jn.fit(
        posterior.model, posterior.data, jn.NUTS(draws=500, warmup=300, seed=4), start=posterior, callbacks=[interrupt]
    )
    assert fit.interrupted and not fit.converged
    assert fit.posterior is not None and fit.posterior.n_draws == 100
    assert "100 of 500 draws" in str(fit.status)
    with pytest.raises(jn.OptionError, match="no maximum"):
        jn.compare(fit, posterior)


# ---- what is refused, and what is said


def test_flat_priors_are_named() -> None:
    binding = jn.bind(decay_model(), decay_data())
    assert flat_names(binding) == list(binding.density.reported_names)
    assert flat_names(jn.bind(binary_model(priors=PRIORS), binary_data())) == []


def fit_with(method: Any, model: Any = None, data: Any = None, **options: Any) -> Any:
    return jn.fit(model or binary_model(priors=PRIORS), data or binary_data(), method, **options)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "needs priors": lambda: fit_with("nuts", binary_model()),
        "has no option 'draw'": lambda: jn.NUTS(draw=100),
        "target_acceptance": lambda: jn.NUTS(target_acceptance=1.0),
        "'joint' or 'collapsed'; received 'both'": lambda: jn.NUTS(effects="both"),
        "draws at every evaluation": lambda: jn.NUTS(effects="collapsed", approximation="is"),
        "neither zero nor one": lambda: fit_with(jn.NUTS(), data=binary_data().with_weights(np.full(8, 0.5))),
        "the posterior is improper": lambda: fit_with(jn.NUTS(flat_priors=True), binary_model(), binary_data(2)),
        "no max_iterations and tolerance": lambda: fit_with(jn.NUTS(), max_iterations=10),
        "in one program": lambda: fit_with(jn.NUTS(), chunk_groups=4),
        "keeps no checkpoint": lambda: fit_with(jn.NUTS(), checkpoint="run"),
        "goes with 'fo'": lambda: fit_with("nuts", restricted=True),
    }
    for words, call in cases.items():
        with pytest.raises(jn.OptionError, match=words):
            call()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(jn.OptionError, match=r"pip install 'jaxnlme\[bayes\]'"):
        fit_with(jn.NUTS())
