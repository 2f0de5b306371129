"""The restricted likelihood: exact for linear models, an integral over beta for others, with an exact gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.estimators.marginal.evaluations import Evaluator
from jaxnlme.estimators.marginal.method import REML
from jaxnlme.estimators.marginal.reml import RestrictedObjective
from jaxnlme.estimators.marginal.search import QuasiNewton
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.model.residual_error.base import ErrorParameter
from tests import problems
from tests.estimators import catalogue

LINEAR = [jn.FO(), jn.FOCE(), jn.FOCEI(), jn.Laplace()]


def session_of(model, data, approximation, changes=None):
    """A session at the starts of the model, psi and error parameters changed by name."""
    binding = bind(model, data)
    evaluator = Evaluator(binding, approximation, binding.params(changes or {}), PlacedProblem(binding.problem))
    return Session(RestrictedObjective(evaluator), QuasiNewton(), REML(approximation), ())


# ---- linear models


def reml(data, designs, random, theta):
    """The restricted log-likelihood of a linear mixed model with independent effects, weights as counts; theta: log
    standard deviations (random,), then the log residual one. Harville (1974), without his log|X'X| / 2."""
    sd, sigma = jnp.exp(theta[:-1]), jnp.exp(theta[-1])
    total, information, right = 0.0, 0.0, 0.0
    for i, weight in enumerate(data.weights):
        rows = data.observed[i]
        y, x, z = data.y[i][rows], designs[i][rows], random[i][rows]
        v = (z * (sd**2)[None, :]) @ z.T + sigma**2 * jnp.eye(len(y))
        inverse = jnp.linalg.inv(v)
        total -= 0.5 * weight * (y @ inverse @ y + jnp.linalg.slogdet(v)[1] + len(y) * jnp.log(2 * jnp.pi))
        information += weight * x.T @ inverse @ x
        right += weight * x.T @ inverse @ y
    beta = jnp.linalg.solve(information, right)
    p = len(beta)
    value = total + 0.5 * right @ beta + 0.5 * p * jnp.log(2 * jnp.pi) - 0.5 * jnp.linalg.slogdet(information)[1]
    return value, (beta, information)


def lines(slope_fixed=False):
    """Nine groups of 3 to 6 rows on a line of its own each, weights of 1 and 2: a model, data, X and Z."""
    group, t, rng = problems.ragged((4, 5, 3, 6, 4, 5, 3, 6, 4), 7)
    y = 1.0 + 0.8 * rng.normal(size=9)[group] + (0.5 + 0.4 * rng.normal(size=9)[group]) * t
    y += 0.5 * rng.normal(size=len(group))
    data = jn.GroupedData.from_arrays(y, group, {"t": t}, weights=np.array([1.0, 2.0, 1.0] * 3))
    slope = jn.Parameter("slope", 0.5, random=True, fix=slope_fixed)
    model = jn.NLMEModel(catalogue.line, [jn.Parameter("mu", 1.0, random=True), slope])
    design = np.stack([np.ones_like(data.y), data.x["t"]], axis=-1)
    return model, data, design


@problems.cheap
def closed_form(theta):
    """Of `lines`: the value, beta^, H, the slope in theta and minus the second derivatives there."""
    _, data, design = lines()

    def slope(theta):
        (value, more), slope = jax.value_and_grad(reml, argnums=3, has_aux=True)(data, design, design, theta)
        return slope, (value, more, slope)

    curvature, (value, (beta, information), gradient) = jax.jacfwd(slope, has_aux=True)(theta)
    return value, beta, information, gradient, -curvature


@pytest.mark.parametrize("approximation", LINEAR, ids=lambda approximation: approximation.name)
def test_exact_for_linear_models(approximation):
    """Value, estimates, maximum and information of the closed form; weights count groups."""
    model, data, _ = lines()
    fit = jn.fit(model, data, approximation, restricted=True)
    assert fit.converged, fit.status
    theta = fit.params.pack()[2:]
    value, beta, information, slope, curvature = closed_form(theta)
    assert fit.log_likelihood == pytest.approx(float(value), abs=1e-8)
    # beta^ is found to 1e-6 standard errors, or better after the last Newton step.
    np.testing.assert_allclose(fit.params.beta, beta, atol=2e-6 * float(np.sqrt(np.linalg.inv(information)[1, 1])))
    # The information is that of the point before the last Newton step, up to 1e-3 standard errors away.
    np.testing.assert_allclose(fit.information.matrix[:2, :2], information, rtol=1e-3)

    assert float(slope @ np.linalg.solve(curvature, slope)) < 1e-7
    # The Schur complement of beta in the joint information is the restricted likelihood's own; steps of 0.03 standard
    # errors leave their square, of the part that log|H| adds.
    schur = np.linalg.inv(fit.information.covariance[2:, 2:])
    np.testing.assert_allclose(schur, curvature, rtol=1e-4, atol=1e-5 * np.max(curvature))


def test_fixed_effects_that_are_fixed_stay():
    model, data, design = lines(slope_fixed=True)
    fit = jn.fit(model, data, "focei", restricted=True)
    assert fit.converged, fit.status
    assert fit.criteria.n_integrated == 1
    assert fit.values["slope"] == 0.5
    shifted = dataclasses.replace(data, y=data.y - 0.5 * data.x["t"])
    value, (beta, _) = reml(shifted, design[..., :1], design, jnp.asarray(fit.params.pack()[2:]))
    assert fit.log_likelihood == pytest.approx(float(value), abs=1e-8)
    assert fit.values["mu"] == pytest.approx(float(beta[0]), abs=1e-6)


def test_only_beta_free():
    """Nothing but beta to estimate: the integral is added, the estimates and standard errors are the unrestricted
    ones."""
    _, data, _ = lines()
    parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    error = dataclasses.replace(jn.error.constant(), parameters=(ErrorParameter("a", 0.5, "log", fix=True),))
    model = jn.NLMEModel(catalogue.line, parameters, error=error, psi=np.eye(2), fix_psi=True)
    plain = jn.fit(model, data, "focei")
    fit = jn.fit(model, data, "focei", restricted=True)
    assert fit.converged, fit.status
    np.testing.assert_allclose(fit.params.beta, plain.params.beta, atol=1e-6)
    np.testing.assert_allclose(fit.information.matrix, plain.information.matrix, rtol=1e-6)
    term = np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(plain.information.matrix)[1]
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood + term, abs=1e-6)


R = {
    "Orthodont_intslope": ("Orthodont", "distance", "age", "Subject"),
    "sleepstudy_intslope": ("sleepstudy", "Reaction", "Days", "Subject"),
    "Oxboys_intslope": ("Oxboys", "height", "age", "Subject"),
    "Rail_oneway": ("Rail", "travel", None, "Rail"),
}


@pytest.mark.parametrize("name", R)
def test_lme_of_nlme(reference, name):
    """R's nlme, method "REML": its log-likelihood carries no log|X'X| either."""
    import pandas as pd

    table, y, t, group = R[name]
    frame = pd.read_csv(reference.parent / "data" / f"{table}.csv").assign(one=1.0)
    nlme = catalogue.record(reference, f"{name}_REML")
    start = float(frame[y].mean())
    if t is None:
        model = jn.NLMEModel(catalogue.level, [jn.Parameter("mu", start, random=True)])
    else:
        parameters = [jn.Parameter("mu", start, random=True), jn.Parameter("slope", 1.0, random=True)]
        model = jn.NLMEModel(catalogue.line, parameters, "full")
        frame = frame.rename(columns={t: "t"})
    data = jn.GroupedData.from_frame(frame, group=group, y=y, x=["one"] if t is None else ["t"])
    fit = jn.fit(model, data, "focei", restricted=True)
    assert fit.converged, fit.status
    assert fit.restricted and fit.options["restricted"]
    # nlme stops where its own gain is small; both lie at the same maximum to eight digits.
    assert fit.log_likelihood == pytest.approx(nlme["logLik"], abs=1e-6)
    assert (fit.aic, fit.bic) == (pytest.approx(nlme["AIC"], abs=1e-5), pytest.approx(nlme["BIC"], abs=1e-5))
    np.testing.assert_allclose(fit.beta, list(nlme["fixef"].values()), rtol=1e-5)
    # For these balanced designs what theta's uncertainty adds to the variance of beta is nil.
    np.testing.assert_allclose(fit.estimates["se"].iloc[: len(fit.beta)], list(nlme["se"].values()), rtol=1e-3)
    [random] = nlme["random"].values()
    np.testing.assert_allclose(np.sqrt(np.diag(fit.psi)), list(random["sd"].values()), rtol=1e-3)
    assert fit.values["a"] == pytest.approx(nlme["sigma"], rel=1e-4)


def test_a_variance_at_zero():
    """Dyestuff2: the restricted maximum is one normal sample, its variance with divisor n - 1."""
    data = catalogue.data("Dyestuff2")
    model = jn.NLMEModel(catalogue.level, [jn.Parameter("mu", 5.0, random=True)])
    fit = jn.fit(model, data, "focei", restricted=True)
    assert fit.converged, fit.status
    assert fit.values["sd(mu)"] == 0.0
    assert "random effect of mu is estimated as zero" in fit.at_zero[0]
    y = data.y[data.observed]
    assert fit.values["a"] == pytest.approx(y.std(ddof=1), rel=1e-6)
    assert fit.estimates.se["mu"] == pytest.approx(y.std(ddof=1) / np.sqrt(len(y)), rel=1e-6)
    n, s = len(y), y.std(ddof=1)
    exact = -0.5 * (n - 1) * (np.log(2 * np.pi * s**2) + 1) - 0.5 * np.log(n)
    assert fit.log_likelihood == pytest.approx(exact, abs=1e-8)
    again = jn.fit(model, data, "focei", restricted=True, start=fit)
    assert again.converged and again.log_likelihood == pytest.approx(exact, abs=1e-8)


# ---- nonlinear models


def rates(groups):
    """`decay_rate` of groups of five rows: one log-normal rate."""
    rng = np.random.default_rng(11)
    t = np.tile([0.2, 0.6, 1.2, 2.0, 3.0], groups)
    group = np.repeat(np.arange(groups), 5)
    y = 3.0 * np.exp(-np.exp(0.6 * rng.normal(size=groups))[group] * t) + 0.3 * rng.normal(size=len(t))
    model = jn.NLMEModel(problems.decay_rate, [jn.Parameter("c", 1.0, "log", random=True, sd=0.6)])
    return model, jn.GroupedData.from_arrays(y, group, {"t": t})


def laplace_error(approximation, groups):
    """Difference of l_R at the starting theta from the integral over beta of exp l(beta, theta) by quadrature."""
    session = session_of(*rates(groups), approximation, {"a": 0.3})
    return float(session.best.sums.log_likelihood) - quadrature(session, approximation)


def quadrature(session, approximation):
    """log of the integral over the first beta of exp l(beta, theta) at the session's theta."""
    best = session.best
    se = float(np.linalg.inv(best.beta_integral.information)[0, 0] ** 0.5)
    nodes = np.linspace(-9.0, 9.0, 181)
    batch = np.tile(best.x, (len(nodes), 1))
    batch[:, 0] += se * nodes
    values = np.asarray(
        problems.totals(session.binding.problem, approximation, session.objective.evaluator.template, batch)
    )
    # The trapezoidal rule is exact to rounding for a smooth function that has vanished at both ends.
    top = values.max()
    return top + np.log(np.sum(np.exp(values - top)) * se * (nodes[1] - nodes[0]))


@pytest.mark.parametrize("approximation", [jn.FOCEI(), jn.Laplace()], ids=lambda approximation: approximation.name)
def test_integral_over_beta(approximation):
    """Laplace's error is of order 1 / groups: small at ten (5e-6 here), a tenth of that at a hundred."""
    few, many = laplace_error(approximation, 10), laplace_error(approximation, 100)
    assert 1e-6 < abs(few) < 1e-4
    assert 5.0 < few / many < 20.0


def test_integral_over_beta_of_a_line():
    """The same quadrature of a likelihood that is Gaussian in beta: no error."""
    model, data, _ = lines(slope_fixed=True)
    session = session_of(model, data, jn.FOCEI())
    assert quadrature(session, jn.FOCEI()) == pytest.approx(float(session.best.sums.log_likelihood), abs=1e-9)


def total_slope(session, step=0.02):
    """Differences of sixth order of the restricted likelihood's value in theta at the session's point."""
    at = np.setdiff1d(np.flatnonzero(session.free), session.objective.beta)
    weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    out = []
    for k in at:
        slope = 0.0
        for n, weight in weights.items():
            for sign in (1, -1):
                x = session.x.copy()
                x[k] += sign * n * step
                slope += sign * weight * session.evaluate(x, session.best.modes).value / step
        out.append(slope)
    return at, np.array(out)


@pytest.mark.parametrize("name", problems.ERRORS)
def test_gradient_of_every_error_model(name):
    """Far from a maximum and with few, small groups, where log|H| is most curved."""
    model = problems.decay_model(error=problems.ERRORS[name])
    session = session_of(model, problems.decay_data(), jn.FOCEI())
    assert np.isfinite(session.best.value), session.objective.failures(session.best)
    at, slope = total_slope(session)
    gradient = session.best.sums.gradient
    assert (gradient[session.objective.beta] == 0.0).all()
    # Differences of fourth order at 0.02 standard errors leave 1e-6 here, where these are as large as one.
    np.testing.assert_allclose(gradient[at], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "approximation", [jn.FO(), jn.FOCE(), jn.Laplace()], ids=lambda approximation: approximation.name
)
def test_gradient_of_other_approximations(approximation):
    session = session_of(problems.decay_model(), problems.decay_data(), approximation)
    at, slope = total_slope(session)
    np.testing.assert_allclose(session.best.sums.gradient[at], slope, rtol=1e-5, atol=1e-5)


def test_nonlinear_fits_start_anywhere(reference):
    """Theophylline: the same maximum from the model's start, from an unrestricted fit and by a list of methods; its
    Psi is larger than the unrestricted one, as nlme's restricted fit is."""
    start = catalogue.record(reference, "Theoph_ssfol_diag_lKa_lCl_nlmerLaplace")["start"]
    model, data = catalogue.from_r("Theoph_ssfol_diag_lKa_lCl", start)
    plain = jn.fit(model, data, "focei")
    fits = [
        jn.fit(model, data, "focei", restricted=True),
        jn.fit(model, data, "focei", restricted=True, start=plain),
        jn.fit(model, data, ["fo", "focei"], restricted=True),
    ]
    for fit in fits:
        assert fit.converged and fit.restricted, fit.status
        assert fit.log_likelihood == pytest.approx(fits[0].log_likelihood, abs=1e-7)
        np.testing.assert_allclose(list(fit.values.values()), list(fits[0].values.values()), rtol=1e-4)
    assert any("iterations of the unrestricted likelihood" in sentence for sentence in fits[0].status.sentences)
    nlme = catalogue.record(reference, "Theoph_ssfol_diag_lKa_lCl_REML")
    for name, sd in next(iter(nlme["random"].values()))["sd"].items():
        assert fits[0].values[f"sd({name})"] > plain.values[f"sd({name})"]
        assert fits[0].values[f"sd({name})"] == pytest.approx(sd, rel=0.1)  # the approximations differ


# ---- refusals, callbacks, updates


def test_refusals():
    data = problems.linear_data()
    model = problems.linear_model()
    for approximation in ("agq", "is", jn.AGQ(1)):
        with pytest.raises(jn.OptionError, match="Laplace's method"):
            jn.fit(model, data, approximation, restricted=True)
    with pytest.raises(jn.OptionError, match="restricted form of 'lme' is 'relme'"):
        jn.fit(model, data, "lme", restricted=True)
    with pytest.raises(jn.OptionError, match="must be True or False; received 1"):
        jn.fit(model, data, "focei", restricted=1)  # pyright: ignore[reportArgumentType]
    all_fixed = [jn.Parameter(name, 1.0, random=True, fix=True) for name in "abc"]
    with pytest.raises(jn.OptionError, match="this model has none"):
        jn.fit(jn.NLMEModel(problems.linear, all_fixed), data, "focei", restricted=True)
    with_prior = [
        jn.Parameter(name, 1.0, random=True, prior=jn.priors.Normal(1.0, 1.0) if name == "b" else None)
        for name in "abc"
    ]
    with pytest.raises(jn.OptionError, match="flat prior, and b has a prior"):
        jn.fit(jn.NLMEModel(problems.linear, with_prior), data, "focei", restricted=True)


def test_priors_of_other_parameters_are_added():
    model, data, _ = lines()
    with_prior = jn.NLMEModel(catalogue.line, model.parameters, priors={"sd(slope)": jn.priors.Gamma(2.0, 1.0)})
    plain, penalised = (session_of(m, data, jn.FOCEI()) for m in (model, with_prior))
    prior = float(penalised.binding.density.log_prior(penalised.objective.evaluator.template))
    assert penalised.best.value == pytest.approx(plain.best.value - prior, abs=1e-9)
    assert float(penalised.best.sums.log_likelihood) == pytest.approx(float(plain.best.sums.log_likelihood), abs=1e-9)


def test_effects_that_the_data_do_not_identify():
    """Two levels, one of them superfluous: no restricted likelihood, and a sentence that names both."""
    _, data, _ = lines()
    parameters = [jn.Parameter(name, 1.0, random=name == "a") for name in "abc"]
    rows = data.observed
    columns = {"t": data.x["t"][rows], "s": np.ones(int(rows.sum()))}
    twice = jn.GroupedData.from_arrays(data.y[rows], np.repeat(data.labels, rows.sum(1)), columns)
    fit = jn.fit(jn.NLMEModel(problems.linear, parameters), twice, "focei", restricted=True)
    assert not fit.converged
    [sentence] = [s for s in fit.status.sentences if "information on every fixed effect" in s]
    assert " a" in sentence and " c" in sentence and " b" not in sentence.split("along")[1].split("(")[0]


def test_refits_refuse():
    model, data, _ = lines()
    fit = jn.fit(model, data, "focei", restricted=True)
    for refit in (fit.bootstrap, fit.jackknife, fit.multistart, fit.profile):
        with pytest.raises(jn.OptionError, match="this one is by restricted FO"):
            refit()


def test_callbacks_and_checkpoints(tmp_path):
    """Callbacks see restricted values that rise; a fit stopped early reports it; a checkpoint resumes a fit of the same
    method only."""
    model, data, _ = lines()
    values = []
    whole = jn.fit(model, data, "focei", restricted=True, callbacks=[lambda entry: values.append(entry.log_likelihood)])
    assert values == sorted(values) and values[-1] == pytest.approx(whole.log_likelihood, abs=1e-7)
    path = tmp_path / "fit.npz"
    stopped = jn.fit(model, data, "focei", restricted=True, callbacks=[lambda entry: True], checkpoint=path)
    assert stopped.stopped and stopped.restricted and not stopped.converged
    # Its point is the unrestricted maximum, where both likelihoods have been computed.
    assert stopped.log_likelihood == pytest.approx(values[0], abs=1e-9)
    again = jn.fit(model, data, "focei", restricted=True, checkpoint=path)
    assert again.converged and again.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-8)
    with pytest.raises(jn.OptionError, match=r"another method \(FOCEI, restricted; this is FOCEI\)"):
        jn.fit(model, data, "focei", checkpoint=path)
    nothing = jn.fit(model, data, "focei", restricted=True, max_iterations=0)
    assert not nothing.converged and np.isfinite(nothing.log_likelihood)


def test_every_stage_calls_back():
    model, data, _ = lines()

    class Recorder:
        every_stage = True

        def __init__(self):
            self.stages = []

        def __call__(self, entry):
            self.stages.append((entry.inner.procedure, entry.inner.state))

    recorder = Recorder()
    jn.fit(model, data, "focei", restricted=True, callbacks=[recorder])
    for stage in (("PNLS", "init"), ("PNLS", "iter"), ("PNLS", "done"), ("PLM", "iter"), ("PLM", "done")):
        assert stage in recorder.stages


def test_updates_stay_restricted_unless_asked_otherwise():
    model, data, _ = lines()
    fit = jn.fit(model, data, "focei", restricted=True)
    without = fit.update(drop="slope")
    assert without.converged and without.restricted and without.criteria.n_integrated == 2
    again = fit.update(method="laplace", max_iterations=50)
    assert again.restricted and again.method == "Laplace"
    # Linear: one likelihood.
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-8)
    plain = fit.update(restricted=False)
    assert not plain.restricted
    assert plain.log_likelihood == pytest.approx(jn.fit(model, data, "focei").log_likelihood, abs=1e-7)
    assert plain.update(restricted=True).log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)
    assert jn.fit(model, data, fit.estimator).restricted
    with pytest.raises(jn.OptionError, match="name a method that is not, such as 'lme'"):
        jn.fit(model, data, "relme").update(restricted=False)


def test_an_update_of_relme_stays_restricted():
    """The name 'lme' is that of the unrestricted form; other methods inherit the restriction, and one that has no
    restricted form is refused with the option to give."""
    model, data, _ = lines()
    fit = jn.fit(model, data, "relme")
    again = fit.update(method="focei")
    assert again.restricted and again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)  # linear
    assert not fit.update(method="focei", restricted=False).restricted
    assert not fit.update(method="lme").restricted and fit.update(method=jn.RELME()).restricted
    for method in ("lme", "agq"):
        with pytest.raises(jn.OptionError, match=r"an update keeps .*restricted=False .*method='relme'"):
            again.update(method=method)
    with pytest.raises(jn.OptionError, match=r"^restricted=True goes with"):
        again.update(method="lme", restricted=True)
    assert again.update(method="relme").restricted and not again.update(method="lme", restricted=False).restricted


@pytest.mark.parametrize("method", ["focei", "relme"])
def test_robust_errors_rest_on_centred_scores(method):
    """At a restricted maximum the groups' scores of theta sum to minus the slope of the integral's term; the sandwich
    uses their spread. A weight counts as so many copies of its group (rounding of the maximum: 1e-5)."""
    model, data, _ = lines()
    twice = dataclasses.replace(data, weights=1.0 + np.arange(data.n_groups) % 2)
    fit = jn.fit(model, twice, method, restricted=True)
    scores = fit.information.scores
    np.testing.assert_allclose(scores.sum(axis=0), 0.0, atol=1e-9 * np.abs(scores).sum())
    assert np.isfinite(fit.estimates["robust se"]).all()
    plain = fit.update(method="lme" if method == "relme" else "focei", restricted=False)
    # Unrestricted scores sum to zero at their own maximum, without being centred.
    np.testing.assert_allclose(plain.information.scores.sum(axis=0), 0.0, atol=1e-3)
    ratio = fit.estimates["robust se"] / plain.estimates["robust se"]
    assert ratio.between(0.9, 1.25).all()  # one likelihood up to two of the degrees of freedom
