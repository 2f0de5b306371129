"""SAEM against exact references: linear mixed models in closed form, theophylline by quadrature."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators import catalogue

SEEDS = (0, 1)


@functools.cache
def sleepstudy():
    frame = catalogue.table("sleepstudy")
    late = frame["Subject"] % 3 == 0
    frame = frame.assign(t=frame["Days"], late=late.astype(float))
    return jn.GroupedData.from_frame(frame, group="Subject", y="Reaction", x=["t"], v=["late"])


LINE = jn.NLMEModel(
    catalogue.line,
    [jn.Parameter("mu", 250.0, random=True, covariates=["late"]), jn.Parameter("slope", 10.0, random=True)],
    "full",
)


@functools.cache
def exact(name):
    fit = jn.fit(LINE, sleepstudy(), "focei") if name == "line" else jn.fit(catalogue.oral(), theoph(), jn.AGQ(7))
    assert fit.converged
    return fit


def theoph():
    return catalogue.theophylline_mg()


@functools.cache
def simulated(name, seed, **options):
    model, data = (LINE, sleepstudy()) if name == "line" else (catalogue.oral(), theoph())
    return jn.fit(model, data, jn.SAEM(seed=seed, **options))


def assert_maximum(fit, reference):
    """Within Monte Carlo error, and a fiftieth of a standard error for the remainder of a Newton step of a tenth."""
    assert fit.converged, fit.status.sentences
    se = np.sqrt(np.diag(reference.information.covariance))
    error = np.abs(fit.params.pack() - reference.params.pack())
    assert (error < 4.0 * fit.sampling.monte_carlo_se.to_numpy() + 0.02 * se).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["line", "theophylline"])
def test_the_estimates_and_louis_information(name, seed):
    fit, reference = simulated(name, seed), exact(name)
    assert_maximum(fit, reference)
    scale = 1.0 / np.sqrt(np.diag(reference.information.matrix))
    difference = (fit.information.matrix - reference.information.matrix) * np.outer(scale, scale)
    # A few thousand draws of a group estimate its part of the missing information to a few hundredths.
    assert np.abs(difference).max() < 0.12
    ratio = fit.estimates["se"] / reference.estimates["se"]
    assert (np.abs(ratio - 1.0) < 0.08).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_conditional_means_and_deviations(seed):
    """b given y is normal in a linear model: psi Z' V^-1 (y - X beta), psi - psi Z' V^-1 Z psi."""
    fit = simulated("line", seed)
    sampling, data = fit.sampling, sleepstudy()
    # The draws were made less than a tenth of a standard error from the estimates.
    beta, psi, s = fit.params.beta, np.asarray(fit.psi), np.exp(fit.params.error[0])
    frame = catalogue.table("sleepstudy")
    for k, label in enumerate(data.labels[:6]):
        rows = frame[frame["Subject"] == label]
        Z = np.column_stack([np.ones(len(rows)), rows["Days"]])
        gain = psi @ Z.T @ np.linalg.inv(Z @ psi @ Z.T + s**2 * np.eye(len(rows)))
        mean = gain @ (rows["Reaction"] - Z @ [beta[0] + beta[2] * (label % 3 == 0), beta[1]])
        sd = np.sqrt(np.diag(psi - gain @ Z @ psi))
        np.testing.assert_allclose(sampling.effects_mean.loc[label], mean, atol=0.25 * sd.max())
        assert (np.abs(sampling.effects_mean.loc[label] - mean) < 0.25 * sd).all()
        np.testing.assert_allclose(sampling.effects_sd.loc[label], sd, rtol=0.15)
        samples = sampling.samples[k]
        assert (np.abs(samples.mean(axis=0) - mean) < 0.5 * sd).all()
        # Modes are means here, at the estimates and exact.
        np.testing.assert_allclose(fit.random_effects.loc[label], mean, atol=1e-4 * sd.max())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["line", "theophylline"])
def test_the_log_likelihood(name, seed):
    """By importance sampling at SAEM's estimates, against the integral exact_value."""
    fit, reference = simulated(name, seed), exact(name)
    with x64():
        exact_value = float(
            jn.log_likelihood(fit.model, fit.params, fit.data, jn.FOCEI() if name == "line" else jn.AGQ(7))
        )
    assert fit.sampling.log_likelihood_se < 0.1
    assert abs(fit.log_likelihood - exact_value) < 4.5 * fit.sampling.log_likelihood_se + 1e-3
    assert exact_value <= reference.log_likelihood + 1e-6 and exact_value > reference.log_likelihood - 0.02


def x64():
    import jax

    return jax.enable_x64(True)


def test_gradient_steps_lead_to_the_same_maximum():
    for name in ("line", "theophylline"):
        fit = simulated(name, 0, m_step="gradient")
        assert "Newton steps" in fit.sampling.m_step and "closed form" not in fit.sampling.m_step
        assert_maximum(fit, exact(name))


def test_a_weight_of_two_is_the_group_twice():
    frame = catalogue.table("sleepstudy").assign(t=lambda d: d["Days"], late=lambda d: 1.0 * (d["Subject"] % 3 == 0))
    labels = frame["Subject"].unique()
    again = frame[frame["Subject"].isin(labels[:5])].assign(Subject=lambda d: d["Subject"] + 1000)
    twice = jn.GroupedData.from_frame(
        concatenate(frame, again), group="Subject", y="Reaction", x=["t"], v=["late"]
    )  # fmt: skip
    weighted = sleepstudy().with_weights(np.where(np.isin(sleepstudy().labels, labels[:5]), 2.0, 1.0))
    fits = [jn.fit(LINE, data, jn.SAEM(likelihood="none")) for data in (twice, weighted)]
    reference = jn.fit(LINE, weighted, "focei")
    for fit in fits:
        assert_maximum(fit, reference)


def concatenate(*parts):
    import pandas as pd

    return pd.concat(parts, ignore_index=True)


def test_results_of_a_fit_and_their_file(tmp_path):
    """Tables, predictions, residuals, a summary; and the same from a saved file."""
    fit = simulated("theophylline", 0)
    text = str(fit.summary())
    assert "SAEM" in text and "Monte Carlo SE" in text
    sampling, groups = fit.sampling, fit.data.n_groups
    assert sampling.effects_mean.shape == sampling.effects_sd.shape == (groups, 3)
    assert list(sampling.parameters_mean.columns) == ["ka", "cl", "v"] and (sampling.parameters_mean > 0).all(axis=None)
    assert sampling.samples.shape[0] == groups and sampling.samples.shape[2] == 3
    assert (
        set(sampling.acceptance.index) >= {"population", "walk", "mode"}
        and sampling.acceptance.between(0.01, 0.99).all()
    )
    assert list(sampling.monte_carlo_se.index) == [fit.binding.packed_names[k] for k in fit.information.active]
    assert sampling.rhat is None and len(sampling.replicates) == 1
    assert np.isfinite(fit.predict()).all() and np.isfinite(fit.residuals().to_numpy(dtype=float)).any()
    path = tmp_path / "fit"
    fit.save(path)
    back = jn.load(path, model=fit.model)
    assert str(back.summary()) == text
    np.testing.assert_array_equal(back.sampling.samples, sampling.samples)
    np.testing.assert_array_equal(back.sampling.trajectory, sampling.trajectory)
    np.testing.assert_array_equal(back.predict(), fit.predict())


def test_sequences_of_methods_and_several_starts():
    """A start from another fit skips annealing; replicates from given and dispersed starts agree."""
    first = exact("line")
    warm = jn.fit(LINE, sleepstudy(), jn.SAEM(likelihood="none"), start=first)
    assert_maximum(warm, first)
    assert "annealing" not in warm.sampling.phases
    onward = jn.fit(LINE, sleepstudy(), [jn.SAEM((30, 30, 30), likelihood="none", tolerance=0.5), "focei"])
    assert onward.method == "FOCEI" and onward.log_likelihood == pytest.approx(first.log_likelihood, abs=1e-5)
    starts = [{"mu": 200.0}, {"mu": 300.0, "slope": 0.0}]
    fit = jn.fit(LINE, sleepstudy(), jn.SAEM(replicates=3, likelihood="gq", nodes=5), start=starts)
    assert_maximum(fit, first)
    assert len(fit.sampling.replicates) == 3
    assert (fit.sampling.spread_of_replicates < 0.02 * fit.sampling.errors["se"]).all()
    with pytest.raises(jn.OptionError, match="start has 2 entries for 1 replicate"):
        jn.fit(LINE, sleepstudy(), jn.SAEM(), start=starts)
    again = fit.update()
    np.testing.assert_allclose(again.params.pack(), fit.params.pack(), atol=0.05 * np.nanmax(fit.estimates["se"]))
