"""LME and RELME: exact where the model is linear, a fixed point where it is not."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import jaxnlme as jn
from jaxnlme.binding.user_scale import psi_of
from tests.estimators import catalogue
from tests.problems import COVARIANCES, ERRORS, decay, differences, linear, stencil

# A maximum found to 1e-8 standard errors is exact to rounding in the likelihood; estimates agree to that distance.
EXACT = 1e-8


@functools.cache
def lines() -> jn.GroupedData:
    """Thirty groups of 4 to 9 rows, three effects, weights of one."""
    rng = np.random.default_rng(8)
    sizes = rng.integers(4, 10, 30)
    group = np.repeat(np.arange(30), sizes)
    t, s = rng.uniform(0, 3, len(group)), rng.normal(size=len(group))
    effects = rng.multivariate_normal(np.zeros(3), COVARIANCES["full"][1], 30)[group]
    y = (1.2 + effects[:, 0]) + (0.4 + effects[:, 1]) * t + (effects[:, 2] - 0.2) * s + 0.5 * rng.normal(size=len(t))
    return jn.GroupedData.from_arrays(y, group, {"t": t, "s": s})


def line_model(covariance: object) -> jn.NLMEModel:
    parameters = [jn.Parameter(n, v, random=True, sd=0.5) for n, v in zip("abc", (0.9, 0.1, 0.3), strict=True)]
    return jn.NLMEModel(linear, parameters, covariance, "constant")


def dense(fit: jn.Fit, packed: np.ndarray, restricted: bool) -> float:
    """The (restricted) log-likelihood of the linear mixed model, beta profiled out where it is restricted."""
    data, params = fit.data, fit.params.unpack(packed)
    psi = psi_of(fit.binding.density, np.asarray(params.covariance))
    parts = []
    for i in range(data.n_groups):
        rows = data.observed[i]
        x = np.stack([np.ones(rows.sum()), data.x["t"][i][rows], data.x["s"][i][rows]], axis=-1)
        parts.append((data.y[i][rows], x, x @ psi @ x.T + np.exp(2 * params.error[0]) * np.eye(rows.sum())))
    beta, extra = np.asarray(params.beta), 0.0
    if restricted:
        information = sum(x.T @ np.linalg.solve(v, x) for _, x, v in parts)
        beta = np.linalg.solve(information, sum(x.T @ np.linalg.solve(v, y) for y, x, v in parts))
        extra = 1.5 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(information)[1]
    return extra + sum(multivariate_normal.logpdf(y, x @ beta, v) for y, x, v in parts)


@pytest.mark.parametrize("method", ["lme", "relme"])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_where_the_model_is_linear_it_is_exact(covariance: str, method: str) -> None:
    fit = jn.fit(line_model(COVARIANCES[covariance][0]), lines(), method)
    assert fit.converged, fit.status
    packed, restricted = np.asarray(fit.params.pack()), method == "relme"
    assert fit.log_likelihood == pytest.approx(dense(fit, packed, restricted), rel=1e-12)
    # The exact likelihood is flat there: a Newton step would move no parameter by 1e-7 standard errors.
    step = 1e-3
    slopes = differences(
        np.array([dense(fit, at, restricted) for at in stencil(packed, step)])[:, None], len(packed), step
    )[:, 0]
    if restricted:
        slopes[:3] = 0.0  # profiled out
    moves = np.linalg.solve(fit.information.matrix, slopes) / np.sqrt(np.diag(np.linalg.inv(fit.information.matrix)))
    assert np.max(np.abs(moves)) < 1e-7
    assert fit.restricted == restricted
    assert fit.criteria.n_used == fit.data.n_obs - 3 * restricted


def test_ml_is_focei_where_the_model_is_linear() -> None:
    lme, focei = (jn.fit(line_model("full"), lines(), method) for method in ("lme", "focei"))
    assert lme.log_likelihood == pytest.approx(focei.log_likelihood, abs=EXACT)
    np.testing.assert_allclose(lme.params.pack(), focei.params.pack(), rtol=1e-5, atol=1e-6)


# ---- nonlinear: the definition of the fixed point, without code of the estimator


@functools.cache
def decays() -> jn.GroupedData:
    """Forty groups of eight positive responses with a proportional error, two strata."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 8)
    t = np.tile(np.linspace(0.0, 3.0, 8), 40)
    effects = np.exp(rng.normal(size=(40, 3)) * [0.2, 0.15, 0.25])[group]
    f = 2.0 * effects[:, 0] + 3.0 * effects[:, 1] * np.exp(-effects[:, 2] * t)
    y = f * np.exp(0.08 * rng.normal(size=len(t)))
    return jn.GroupedData.from_arrays(y, group, {"t": t, "kind": np.tile([0.0, 1.0], 160)})


def decay_model(error: object, random: str = "abc") -> jn.NLMEModel:
    parameters = [jn.Parameter(n, v, "log", random=n in random) for n, v in zip("abc", (1.6, 3.6, 0.8), strict=True)]
    return jn.NLMEModel(decay, parameters, "diagonal", error)


# Error models whose parameters these data identify.
IDENTIFIED = ["constant", "proportional", "combined variance", "combined by stratum", "exponential", "box-cox", "logit"]


@pytest.mark.parametrize("error", IDENTIFIED)
def test_every_error_model_ends_at_a_fixed_point_from_other_starts(error: str) -> None:
    fit = jn.fit(decay_model(ERRORS[error]), decays(), "lme")
    assert fit.converged, fit.status
    assert "no parameter by more than" in str(fit.status)
    again = jn.fit(decay_model(ERRORS[error]), decays(), "lme", start={"a": 2.6, "b": 2.2, "c": 1.6, "sd(c)": 0.6})
    assert again.converged, again.status
    se = np.sqrt(np.diag(np.linalg.inv(fit.information.matrix)))
    distance = np.abs(again.params.pack() - fit.params.pack())[fit.information.active] / se
    # Both residuals are below 1e-8 standard errors; the distance from the root depends on the rate of the alternation.
    assert np.max(distance) < 1e-5
    # Not FOCEI's answer, though near it: the two differ by far more than either's error.
    focei = jn.fit(decay_model(ERRORS[error]), decays(), "focei", start=fit)
    apart = np.abs(focei.params.pack() - fit.params.pack())[fit.information.active] / se
    assert 1e-5 < np.max(apart) < 1.0


def test_without_random_effects_it_is_generalised_least_squares() -> None:
    """b absent: iterated weighted least squares, here solved by the normal equations until nothing moves."""
    fit = jn.fit(decay_model("proportional", random=""), decays(), "lme")
    assert fit.converged, fit.status
    t, y = decays().x["t"].ravel(), decays().y.ravel()
    beta = np.log([1.6, 3.6, 0.8])
    for _ in range(200):
        a, b, c = np.exp(beta)
        f = a + b * np.exp(-c * t)
        jacobian = np.stack([a + 0 * t, b * np.exp(-c * t), -b * c * t * np.exp(-c * t)], axis=-1) / f[:, None]
        beta = beta + np.linalg.lstsq(jacobian, (y - f) / f, rcond=None)[0]
    assert fit.beta.to_numpy() == pytest.approx(beta, rel=1e-7)
    assert fit.values["error.b"] == pytest.approx(np.sqrt(np.mean(((y - f) / f) ** 2)), rel=1e-7)


def test_fixed_values_weights_and_priors_are_kept() -> None:
    model = decay_model(ERRORS["exponential"])
    held = jn.NLMEModel(
        decay,
        [jn.Parameter("a", 2.0, "log", fix=True, random=True), *model.parameters[1:]],
        "diagonal",
        ERRORS["exponential"],
    )
    fit = jn.fit(held, decays(), "relme")
    assert fit.converged and fit.values["a"] == pytest.approx(2.0, rel=1e-12)
    assert fit.criteria.n_integrated == 2
    twice = jn.fit(model, decays().with_weights(np.full(40, 2.0)), "lme")
    once = jn.fit(model, decays(), "lme")
    assert twice.log_likelihood == pytest.approx(2 * once.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(twice.params.pack(), once.params.pack(), rtol=1e-6, atol=1e-7)
    tight_prior = jn.NLMEModel(
        decay, model.parameters, "diagonal", ERRORS["exponential"], priors={"a": jn.priors.Normal(np.log(3.0), 1e-4)}
    )
    with_prior = jn.fit(tight_prior, decays(), "lme")
    assert with_prior.converged and with_prior.beta["a"] == pytest.approx(np.log(3.0), abs=1e-3)


def test_the_same_numbers_in_chunks_on_devices_and_from_a_checkpoint(tmp_path) -> None:
    model, path = decay_model(ERRORS["proportional"]), tmp_path / "fit"
    whole = jn.fit(model, decays(), "relme")
    chunked = jn.fit(model, decays(), "relme", chunk_groups=13)
    np.testing.assert_allclose(chunked.params.pack(), whole.params.pack(), rtol=1e-7, atol=1e-8)
    cut = jn.fit(model, decays(), "relme", checkpoint=path, max_iterations=4)
    assert not cut.converged and "iterations allowed" in str(cut.status)
    resumed = jn.fit(model, decays(), "relme", checkpoint=path)
    assert resumed.converged and "Resumed" in str(resumed.status)
    np.testing.assert_allclose(resumed.params.pack(), whole.params.pack(), rtol=1e-6, atol=1e-7)


def test_what_it_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(jn.ModelError, match="LME needs a Gaussian residual model"):
        jn.fit(decay_model(jn.GroupLogLikelihood(lambda y, f, p, x, v: -((y - f) ** 2))), decays(), "lme")
    with pytest.raises(jn.OptionError, match=r"'relm'.*relme"):
        jn.fit(decay_model("constant"), decays(), "relm")
    fit = jn.fit(decay_model(ERRORS["exponential"]), decays(), "lme")
    with pytest.raises(jn.OptionError, match="this one is by LME"):
        fit.bootstrap(10)


# ---- the stages at which output functions are called


class Recorder:
    every_stage = True

    def __init__(self, stop=None):
        self.calls, self.stop = [], stop

    def __call__(self, iteration: jn.Iteration) -> bool:
        self.calls.append(iteration)
        return self.stop is not None and self.stop(iteration)


@pytest.mark.parametrize("method, procedure, minimiser", [("lme", "ALT", "LME"), ("foce", "LAP", "PLM")])
def test_callbacks_follow_every_stage_in_order(method: str, procedure: str, minimiser: str) -> None:
    model, data = catalogue.from_r("Theoph_ssfol_diag_lKa_lCl", {"lKe": -2.4, "lKa": 0.45, "lCl": -3.2})
    recorder = Recorder()
    fit = jn.fit(model, data, method, callbacks=[recorder])
    plain = jn.fit(model, data, method)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-8)
    calls = recorder.calls
    assert {c.procedure for c in calls} == {procedure}
    assert [c.state for c in calls].count("init") >= 1 and calls[0].state == "init"
    assert calls[-1].state == "done" and [c.state for c in calls].count("done") == 1
    outer = [c for c in calls if c.inner.procedure == "none" and c.state != "done"]
    assert [c.iteration for c in outer] == list(range(len(fit.history)))
    assert [c.log_likelihood for c in outer] == [entry["log_likelihood"] for entry in fit.history]
    # The search of the random effects lies inside the outer minimiser's steps, each opened and closed.
    depth = []
    for c in calls:
        if c.inner.state == "init":
            depth.append(c.inner.procedure)
            assert c.inner.iteration == 0
        elif c.inner.state == "done":
            assert depth.pop() == c.inner.procedure
        elif c.inner.state == "iter":
            assert depth[-1] == c.inner.procedure and c.inner.iteration >= 1
        assert depth in ([], [minimiser], [minimiser, "PNLS"])
    assert not depth


@pytest.mark.parametrize("method", ["lme", "foce"])
@pytest.mark.parametrize("stage", ["PNLS", "outer"])
def test_a_stop_is_honoured_at_any_stage(method: str, stage: str) -> None:
    model, data = catalogue.from_r("Theoph_ssfol_diag_lKa_lCl", {"lKe": -2.4, "lKa": 0.45, "lCl": -3.2})

    def stop(c: jn.Iteration) -> bool:
        inner = c.inner.procedure == "PNLS" and c.inner.state == "iter" and c.iteration == 2
        return inner if stage == "PNLS" else (c.inner.procedure == "none" and c.log_likelihood > -190.0)

    recorder = Recorder(stop)
    fit = jn.fit(model, data, method, callbacks=[recorder])
    assert fit.stopped and not fit.converged
    assert "Stopped by a callback" in str(fit.status)
    assert np.isfinite(fit.log_likelihood) and np.isfinite(fit.params.pack()).all()
    after = [k for k, c in enumerate(recorder.calls) if stop(c)]
    # After the stop there is one more call, for the end of the fit.
    assert [c.state for c in recorder.calls[after[0] + 1 :]] == ["done"]


# ---- fits without standard errors, and methods of the Fit


@pytest.mark.parametrize("error, sd", [("proportional", None), ("constant", 1e-2), ("constant", 1e-4)])
def test_no_variance_is_lost_where_standard_errors_are_left_out(error: str, sd: float | None) -> None:
    """Variances with little curvature at a distant start are tested again at zero, with or without an information
    matrix."""
    model = decay_model(ERRORS[error])
    start = None if sd is None else {f"sd({n})": sd for n in "abc"}
    whole = jn.fit(model, decays(), "lme", start=start)
    bare = jn.fit(model, decays(), "lme", start=start, standard_errors=False)
    assert whole.converged and bare.converged, bare.status
    assert not whole.at_zero and not bare.at_zero
    assert bare.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-6)


def test_new_groups_get_their_effects_as_the_fit_does() -> None:
    """The fit's own rows under other labels: the same penalised least squares, weights at their own predictions."""
    fit = jn.fit(decay_model(ERRORS["proportional"]), decays(), "lme")
    data = decays()
    relabelled = jn.GroupedData.from_arrays(
        data.y.ravel(), np.repeat(np.arange(100, 140), 8), {"t": data.x["t"].ravel()}
    )
    assert np.asarray(fit.predict(relabelled)) == pytest.approx(np.asarray(fit.predict()), rel=1e-6)


def test_the_limits_of_a_fit_are_kept_and_reported() -> None:
    fit = jn.fit(decay_model(ERRORS["constant"]), decays(), "lme", max_iterations=5)
    assert fit.history[-1]["iteration"] <= 5 and "The 5 iterations allowed" in str(fit.status)
    loose = jn.fit(decay_model(ERRORS["constant"]), decays(), "lme", tolerance=1e-5)
    tight = jn.fit(decay_model(ERRORS["constant"]), decays(), "lme", tolerance=1e-10)
    assert loose.converged and tight.converged
    assert len(loose.history) < len(tight.history)


def test_groups_of_weight_zero_do_not_count() -> None:
    data, weights = decays(), np.ones(40)
    weights[:4] = 0.0
    y = data.y.copy()
    y[:4] *= 1e3
    frame = {"t": data.x["t"].ravel()}
    odd = jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(40), 8), frame, weights=weights)
    fit = jn.fit(decay_model(ERRORS["exponential"]), odd, "relme")
    rest = jn.fit(decay_model(ERRORS["exponential"]), data.select(weights > 0), "relme")
    assert fit.converged, fit.status
    assert fit.log_likelihood == pytest.approx(rest.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(fit.params.pack(), rest.params.pack(), rtol=1e-6, atol=1e-7)


def test_beta_that_cannot_be_integrated_out_is_named() -> None:
    with pytest.raises(jn.OptionError, match="RELME integrates the fixed effects out under a flat prior, and a has"):
        parameters = decay_model("constant").parameters
        jn.fit(jn.NLMEModel(decay, parameters, priors={"a": jn.priors.Normal(0.5, 0.1)}), decays(), "relme")
    with pytest.raises(jn.OptionError, match="reweightings must be a whole number >= 1"):
        jn.LME(reweightings=0)
    with pytest.raises(jn.OptionError, match="LME is not a likelihood approximation"):
        jn.log_likelihood(decay_model("constant"), decay_model("constant").params(decays()), decays(), "lme")


def test_callbacks_receive_parameters_and_likelihood_of_one_point() -> None:
    model, data = catalogue.from_r("Theoph_ssfol_diag_lKa_lCl", {"lKe": -2.4, "lKa": 0.45, "lCl": -3.2})
    recorder = Recorder()
    jn.fit(model, data, "focei", callbacks=[recorder])
    steps = [c for c in recorder.calls if c.inner.procedure == "PLM" and c.inner.state == "iter"]
    for entry in steps[-6:]:  # far from the maximum, a search from other modes may end at other ones
        exact = float(jn.log_likelihood(model, entry.params, data, "focei"))
        assert entry.log_likelihood == pytest.approx(exact, rel=1e-7)


# ---- the unrestricted phase at the start of a restricted fit


class Breaks:
    """A callback that breaks off after some iterations, as Ctrl-C or a killed process would."""

    def __init__(self, after: int, error: type[BaseException]):
        self.after, self.error = after, error

    def __call__(self, iteration: jn.Iteration) -> None:
        if iteration.iteration == self.after:
            raise self.error


def test_an_interrupt_on_the_way_leaves_the_restricted_likelihood() -> None:
    model = decay_model(ERRORS["proportional"])
    cut = jn.fit(model, decays(), "relme", callbacks=[Breaks(3, KeyboardInterrupt)])
    assert cut.interrupted and not cut.converged
    # The same point, entered as a start and not moved.
    unmoved = jn.fit(model, decays(), "relme", start=cut.params, max_iterations=0)
    assert cut.log_likelihood == pytest.approx(unmoved.log_likelihood, abs=1e-6)


def test_a_process_killed_on_the_way_goes_on_from_its_checkpoint(tmp_path) -> None:
    model, path = decay_model(ERRORS["proportional"]), tmp_path / "fit"
    whole = jn.fit(model, decays(), "relme")
    with pytest.raises(RuntimeError):
        jn.fit(model, decays(), "relme", checkpoint=path, callbacks=[Breaks(3, RuntimeError)])
    resumed = jn.fit(model, decays(), "relme", checkpoint=path)
    assert resumed.converged and "Resumed" in str(resumed.status)
    np.testing.assert_allclose(resumed.params.pack(), whole.params.pack(), rtol=1e-6, atol=1e-7)


# ---- a residual parameter whose limit the first steps lead across


@pytest.mark.parametrize(("method", "power", "held"), [("lme", 0.31871, 18), ("focei", 0.30906, 30)])
def test_a_power_does_not_end_beside_zero(method, power, held, tmp_path) -> None:
    """Theophylline from a power of 0.1: predictions are zero at the dose, so that a power below zero has no likelihood,
    and steps from the start lead there. The estimate is far from it, also where the process is killed in iteration
    `held`, while the power is held at its start."""
    parameters = [
        jn.Parameter(name, start, random=name != "lKe")
        for name, start in {"lKe": -2.433, "lKa": 0.4515, "lCl": -3.2145}.items()
    ]
    error = jn.error.gaussian(jn.variance.constant_power(const=1.0, power=0.1))
    model, data, path = jn.NLMEModel(catalogue.ssfol, parameters, error=error), catalogue.data("Theoph"), tmp_path / "f"
    fit = jn.fit(model, data, method)
    assert fit.converged, str(fit.status)
    assert fit.values["power"] == pytest.approx(power, abs=1e-4)
    with pytest.raises(RuntimeError):
        jn.fit(model, data, method, checkpoint=path, callbacks=[Breaks(held, RuntimeError)])
    resumed = jn.fit(model, data, method, checkpoint=path)
    assert resumed.converged, str(resumed.status)
    assert resumed.values["power"] == pytest.approx(power, abs=1e-4)
