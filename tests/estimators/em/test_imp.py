"""IMP: estimates against exact maxima, and their reported errors. What it has in common with SAEM is tested there."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.results.stochastic import Sampling
from tests.problems import binary, log_rate, one_compartment

# Limit for the largest of a few correlated estimates, in Monte Carlo standard errors estimated from twenty batches.
MAX_ERRORS = 4.5


def packed(fit: jn.Fit) -> np.ndarray:
    return np.concatenate([fit.params.beta, fit.params.covariance, fit.params.error])


def sampling_of(fit: jn.Fit) -> Sampling:
    assert fit.sampling is not None
    return fit.sampling


def errors(fit: jn.Fit) -> np.ndarray:
    """Standard errors of the packed parameters."""
    assert fit.information is not None and fit.information.covariance is not None
    return np.sqrt(np.diag(fit.information.covariance))


def assert_at(fit: jn.Fit, exact: np.ndarray) -> None:
    """Within its Monte Carlo error of the exact maximum, and within a twentieth of a standard error."""
    assert fit.converged, fit.status.sentences
    table = sampling_of(fit).errors
    distance = np.abs(packed(fit) - exact)
    assert (distance < MAX_ERRORS * table["monte carlo se"]).all(), table
    assert (distance < 0.05 * table["se"]).all(), table


@functools.cache
def answers() -> pd.DataFrame:
    """Thirty groups of six zeros and ones, their logit linear in time with an intercept of its own for each."""
    rng = np.random.default_rng(4)
    group, t = np.repeat(np.arange(30), 6), np.tile(np.arange(6.0), 30)
    chance = 1.0 / (1.0 + np.exp(-(0.5 + 1.5 * rng.standard_normal(30)[group] - 0.4 * t)))
    return pd.DataFrame({"group": group, "t": t, "y": rng.uniform(size=len(group)) < chance}).astype(float)


def binary_fit(method, table: pd.DataFrame | None = None, **options) -> jn.Fit:
    parameters = [jn.Parameter("a", 0.0, random=True), jn.Parameter("b", 0.0)]
    model = jn.NLMEModel(log_rate, parameters, error=jn.GroupLogLikelihood(binary))
    data = jn.GroupedData.from_frame(answers() if table is None else table, "group", "y", ["t"])
    return jn.fit(model, data, method, **options)


@functools.cache
def distant_start_fit() -> jn.Fit:
    return binary_fit(jn.IMP())


def test_theophylline(reference: Path) -> None:
    """The exact maximum by quadrature to all digits; constant error, closed forms for every parameter."""
    exact = json.loads((reference / "saemix" / "theo_true_mle.json").read_text())["theo_nocov_constant"]
    table = pd.read_csv(reference / "saemix" / "data" / "theo.csv").rename(columns={"Time": "TIME", "Dose": "AMT"})
    data = jn.GroupedData.from_frame(table, "Id", "Concentration", ["TIME"], ["AMT"])
    starts = (("ka", 1.0), ("v", 20.0), ("cl", 0.5))
    parameters = [jn.Parameter(name, start, "log", random=True) for name, start in starts]
    fit = jn.fit(jn.NLMEModel(one_compartment, parameters), data, "imp")
    logs = np.log([exact["ka"], exact["V"], exact["CL"]])
    assert_at(fit, np.concatenate([logs, 0.5 * np.log(exact["omega"]), exact["residual_and_beta"]]))
    assert abs(2 * fit.log_likelihood + exact["minus2LL"]) < 8 * sampling_of(fit).log_likelihood_se
    # Three effects given eleven responses: about three quarters of the draws are effective.
    assert 0.6 < sampling_of(fit).acceptance["effective draws"] < 0.95
    assert sampling_of(fit).samples.shape[::2] == (12, 3)
    samples = sampling_of(fit).samples.mean(axis=1)
    # Equally weighted samples of the same distributions as the conditional means: five standard errors of 36.
    bound = 5.0 / np.sqrt(sampling_of(fit).samples.shape[1])
    assert (np.abs(samples - sampling_of(fit).effects_mean) < bound * sampling_of(fit).effects_sd).all(axis=None)


def test_an_outcome_without_closed_forms() -> None:
    best = binary_fit(jn.AGQ(31))
    fit = distant_start_fit()
    assert_at(fit, packed(best))
    assert abs(fit.log_likelihood - best.log_likelihood) < 4 * sampling_of(fit).log_likelihood_se
    # Louis' information from 30,000 draws a group: a hundredth of an error.
    assert errors(fit) == pytest.approx(errors(best), rel=0.03)
    near = binary_fit(jn.IMP(seed=1), start=best)
    assert_at(near, packed(best))
    # From the maximum: 15 iterations, and one round of draws at fixed parameters.
    assert max(last for _, last in sampling_of(near).phases.values()) == 14
    assert len(sampling_of(near).packed) < 150


def test_the_order_of_groups_changes_nothing() -> None:
    table = answers()
    order = np.random.default_rng(1).permutation(30)
    permuted = pd.concat([table[table["group"] == k] for k in order])
    reordered = binary_fit(jn.IMP(), permuted)
    # Sums in another order: rounding.
    assert packed(reordered) == pytest.approx(packed(distant_start_fit()), rel=1e-9)
    assert packed(binary_fit(jn.IMP(seed=1))) != pytest.approx(packed(distant_start_fit()), rel=1e-6)


def test_a_stopped_run_goes_on_from_its_file(tmp_path: Path) -> None:
    """The state of the sampler is in the file: the result is the same as without a stop."""
    path = tmp_path / "fit"
    stopped = binary_fit(jn.IMP(), callbacks=[lambda entry: entry.iteration >= 100], checkpoint=path)
    assert stopped.stopped and not stopped.converged
    resumed = binary_fit(jn.IMP(), checkpoint=path)
    assert packed(resumed) == pytest.approx(packed(distant_start_fit()), rel=1e-12)


def test_groups_with_few_effective_draws_are_named() -> None:
    sampler_state = SimpleNamespace(effective_fraction=np.array([[0.8], [0.02], [0.5]]))
    (sentence,) = jn.IMP().sampling_problems(sampler_state, np.array(["one", "two", "three"]))
    assert "group two (smallest number: 6.0)" in sentence and "more draws" in sentence
    assert jn.IMP(draws=600).sampling_problems(sampler_state, np.arange(3)) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"draws": 10}, "draws"),
        ({"likelihood_draws": 1}, "likelihood_draws"),
        ({"iterations": (1, 2, 3)}, "iterations"),
        ({"m_step": "newton"}, "m_step"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, word: str) -> None:
    with pytest.raises(jn.OptionError, match=word):
        jn.IMP(**options)


def test_one_number_of_iterations_is_split() -> None:
    assert jn.IMP(80).iterations == (50, 30) and jn.IMP(1).iterations == (1, 0)
