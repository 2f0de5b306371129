"""Fits of many data sets in batches: the numbers of single fits, and no set that affects another."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.errors import ModelError, OptionError

TIMES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 7.0])
METHOD = jn.SAEM((40, 40, 40), likelihood="none", seed=3)


def fall(phi, x):
    """An exponential decay."""
    return phi.a0 * jnp.exp(-phi.k * x.t)


MODEL = jn.NLMEModel(
    fall,
    [jn.Parameter("a0", 10.0, transform="log", random=True), jn.Parameter("k", 0.5, transform="log", random=True)],
    error="constant",
)


def simulated_data(sets: int, groups: int = 20) -> tuple[jn.GroupedData, np.ndarray]:
    """A design with groups of four and of six rows, one response missing; and responses (sets, groups, obs)."""
    rng = np.random.default_rng(8)
    rows = np.where(np.arange(groups) < 5, 4, 6)
    group = np.repeat(np.arange(groups), rows)
    t = np.concatenate([TIMES[:n] for n in rows])
    y = np.where(np.arange(len(t)) == 3, np.nan, 1.0)
    data = jn.GroupedData.from_arrays(y, group, {"t": t})
    b = 0.3 * rng.standard_normal((sets, groups, 2))
    f = 12.0 * np.exp(b[..., :1] - 0.4 * np.exp(b[..., 1:]) * data.x["t"])
    return data, f + 0.5 * rng.standard_normal(f.shape)


@pytest.fixture(scope="module")
def several():
    """Five sets, the fourth with a response that is NaN; batches of two, one place of the last of them unused."""
    data, responses = simulated_data(5)
    responses[3, 7, 2] = np.nan
    return data, responses, jn.fit_many(MODEL, data, responses, METHOD, width=2, progress=False)


@pytest.mark.parametrize("k", [0, 2, 4])
def test_each_set_is_the_fit_of_a_table_by_itself(several, k):
    """To 1e-8 in everything: different programs round differently, by 1e-15 an iteration, which contracting chains do
    not amplify; and the same number of iterations, so that every decision in between was the same."""
    data, responses, many = several
    single = jn.fit(MODEL, dataclasses.replace(data, y=responses[k]), METHOD.with_seed(3 + k), progress=False)
    fit = many.fits[k]
    assert fit.converged == single.converged and fit.timings["iterations"] == single.timings["iterations"]
    assert fit.status.sentences == single.status.sentences
    np.testing.assert_allclose(many.estimates.loc[k], single.params.pack(), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(many.table(k)["se"], single.estimates["se"], rtol=1e-8)
    np.testing.assert_allclose(many.monte_carlo_se.loc[k], single.sampling.monte_carlo_se, rtol=1e-6)
    np.testing.assert_allclose(fit.sampling.draws, single.sampling.draws, atol=1e-7)


def test_a_set_with_a_missing_response_is_marked_and_affects_no_other(several):
    data, responses, many = several
    assert many.converged.tolist() == [True, True, True, False, True]
    assert "7" in str(many.fits[3].status) and not np.isfinite(many.standard_errors().loc[3]).any()
    rest = jn.fit_many(MODEL, data, responses[:3], METHOD, width=2, progress=False)
    # The same program, the same places in the batch: nothing may differ.
    np.testing.assert_array_equal(rest.estimates, many.estimates[:3])


def test_a_set_without_a_maximum_affects_no_other(several):
    """With responses that are all zero, the residual scale and the curve go to zero together, without limit."""
    data, responses, several = several
    responses = responses[:3].copy()
    responses[1] = 0.0
    many = jn.fit_many(MODEL, data, responses, METHOD, width=2, progress=False)
    assert many.converged.tolist() == [True, False, True]
    np.testing.assert_allclose(many.estimates.loc[[0, 2]], several.estimates.loc[[0, 2]], rtol=1e-8)


def test_the_width_changes_nothing_but_rounding(several):
    data, responses, many = several
    unbatched = jn.fit_many(MODEL, data, responses[:2], METHOD, width=1, progress=False)
    np.testing.assert_allclose(unbatched.estimates, many.estimates[:2], rtol=1e-8)


def test_both_informations_are_available(several):
    """The linearised one is that of a fit with this option; for a decay with small residuals the two agree to a tenth,
    the Monte Carlo error of Louis' included."""
    data, responses, many = several
    method = jn.SAEM((40, 40, 40), likelihood="none", seed=3, information="linearised")
    single = jn.fit(MODEL, dataclasses.replace(data, y=responses[0]), method, progress=False)
    np.testing.assert_allclose(many.table(0, "linearised")["se"], single.estimates["se"], rtol=1e-7)
    louis, linearised = (many.standard_errors(kind).loc[0] for kind in ("louis", "linearised"))
    np.testing.assert_allclose(louis, linearised, rtol=0.15)
    with pytest.raises(OptionError, match="information must be one of 'louis', 'linearised'"):
        many.standard_errors("observed")


def test_ctrl_c_ends_the_fits_at_their_current_parameters(monkeypatch):
    from jaxnlme.estimators.em import lockstep

    data, responses = simulated_data(3)
    steps = []

    def interrupted(self, *arguments, step=lockstep.BatchScheduler._run_iterations):
        steps.append(1)
        if len(steps) > 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(lockstep.BatchScheduler, "_run_iterations", interrupted)
    many = jn.fit_many(MODEL, data, responses, METHOD, width=2, progress=False)
    assert all(fit.interrupted and not fit.converged for fit in many.fits)


def test_an_error_of_the_model_reaches_the_caller():
    def wrong(phi, x):
        return phi.a0 * jnp.ones(3)

    data, responses = simulated_data(3)
    model = jn.NLMEModel(wrong, [jn.Parameter("a0", 1.0, random=True)])
    with pytest.raises(ModelError):
        jn.fit_many(model, data, responses, METHOD, progress=False)


def test_invalid_arguments_are_refused():
    data, responses = simulated_data(2)
    with pytest.raises(OptionError, match=r"\(sets, 20, 6\); received \(20, 6\)"):
        jn.fit_many(MODEL, data, responses[0], METHOD)
    with pytest.raises(OptionError, match=r"jn.SAEM\(...\) or jn.IMP\(...\); received 'focei'"):
        jn.fit_many(MODEL, data, responses, "focei")  # pyright: ignore[reportArgumentType]
    with pytest.raises(OptionError, match="whole number as seed"):
        jn.fit_many(MODEL, data, responses, jn.SAEM(seed=np.array([0, 1], np.uint32)))
    with pytest.raises(OptionError, match="width"):
        jn.fit_many(MODEL, data, responses, METHOD, width=0)
    assert jn.fit_many(MODEL, data, responses[:0], METHOD, progress=False).fits == ()
