"""nlmefitsa: estimates beside adaptive quadrature, replicates, seeds, designs, and calls of output functions."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import scipy.linalg

import jaxnlme as jn
from tests.frontends.matlab.matlab_calls import (
    COVARIATE,
    GROUP,
    GROUPS,
    SIZES,
    START,
    TIME,
    N,
    Recorder,
    Y,
    call,
    call_sa,
    decay_with_size,
    group_designs,
    observation_designs,
)  # fmt: skip

matplotlib.use("Agg")

COLUMNS = np.stack([START, 1.25 * START, [5.5, 1.3]], axis=1)
# A fit stops where its Monte Carlo standard errors are at most this fraction of its standard errors.
MC_ERROR_RATIO = 0.05
NO_FUNCTION = {"OutputFcn": None}
# Enough for what does not depend on the estimates.
SHORT = {"NIterations": [6, 4, 4], "LogLikMethod": "none", "Options": NO_FUNCTION | {"MaxIter": 14}}


def short(**options: Any) -> Any:
    """A call of a few iterations, whose convergence does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return call_sa(**(SHORT | options))


def near_the_maximum(stats: Any, nodes: int = 7) -> jn.Fit:
    """The maximum by quadrature, once every estimate is found to lie within five Monte Carlo standard errors of it, as
    large as the fit may at most have them, and the likelihood to be as reported."""
    fit = stats.fit
    best = jn.fit(fit.model, fit.data, jn.AGQ(nodes), start=fit.params)
    assert best.converged and best.information is not None
    se = np.sqrt(np.diag(best.information.covariance))
    off = (fit.params.pack() - best.params.pack())[best.information.active] / se
    assert off == pytest.approx(0.0, abs=5 * MC_ERROR_RATIO)
    # k parameters that are so far off lose this much at most.
    allowed = len(se) * (5 * MC_ERROR_RATIO) ** 2 / 2.0
    error = 0.0 if stats.logl_se is None else 5 * np.max(stats.logl_se)
    assert -allowed - error < fit.log_likelihood - best.log_likelihood < error + 1e-6
    return best


@pytest.fixture(scope="module")
def plain():
    """The default model with standard errors."""
    return call_sa(ComputeStdErrors=True)


@pytest.fixture(scope="module")
def three():
    """Three replicates from three columns."""
    return call_sa(beta0=COLUMNS, ComputeStdErrors=True)


# ---- outputs


def test_shapes_and_fields(plain) -> None:
    beta, psi, stats, b = plain
    assert beta.shape == (2,) and psi.shape == (2, 2) and b.shape == (2, GROUPS)
    assert psi[0, 1] == psi[1, 0] == 0.0 and (np.diag(psi) > 0).all()
    assert stats.converged and stats.fit.converged and stats.fit.method == "SAEM"
    assert stats.covb.shape == stats.sepsi.shape == (2, 2) and stats.cov.shape == (5, 5)
    for name in ("pres", "ires", "pwres", "iwres", "cwres"):
        assert stats[name].shape == (N,) and np.isfinite(stats[name]).all()
    assert 0.0 < stats.logl_se < 0.5 and stats.best == 0 and stats.spread is None and stats.rhat is None
    k = 2 + 2 + 1
    assert stats.dfe == N - k
    assert stats.aic == pytest.approx(-2 * stats.logl + 2 * k)
    assert stats.bic == pytest.approx(-2 * stats.logl + k * np.log(GROUPS))
    assert stats.mse == pytest.approx(stats.errorparam[0] ** 2)
    assert stats.rmse == pytest.approx(np.sqrt(np.sum(stats.ires**2) / stats.dfe))
    phi = beta[:, None] + b
    assert stats.ires == pytest.approx(Y - phi[0, GROUP] * np.exp(-phi[1, GROUP] * TIME), abs=1e-9)
    # nlmefit's fields, all of them, and what simulation adds.
    assert set(stats) == set(call()[2]) | {"logl_se", "best", "spread", "rhat"}
    assert "logl_se" in repr(stats)


def test_estimates_are_those_of_quadrature(plain) -> None:
    best = near_the_maximum(plain[2])
    # Louis' information is that of the likelihood, drawn: ten groups, some thousand draws.
    assert plain[2].sebeta == pytest.approx(best.estimates["se"][:2].to_numpy(), rel=0.15)
    assert plain[2].seerrorparam == pytest.approx(best.estimates["se"][-1:].to_numpy(), rel=0.15)


def test_what_is_not_requested_is_none() -> None:
    stats = short()[2]
    for name in ("logl", "logl_se", "aic", "bic", "sebeta", "covb", "sepsi", "seerrorparam", "cov"):
        assert stats[name] is None
    assert np.isfinite(stats.rmse)


def test_an_unfinished_run_warns() -> None:
    """Three iterations from starting values far from the maximum."""
    options = {"NIterations": [1, 1, 1], "LogLikMethod": "none", "Options": NO_FUNCTION | {"MaxIter": 3}}
    with pytest.warns(RuntimeWarning, match="nlmefitsa: NOT CONVERGED"):
        stats = call_sa(beta0=[1.0, 3.0], **options)[2]
    assert not stats.converged


def test_ways_to_the_likelihood_agree() -> None:
    """The same run, whose likelihood is then computed in three ways; the model is mildly nonlinear."""
    run = {"NIterations": 100, "Options": NO_FUNCTION | {"TolX": 1e-3}}
    drawn, nodes, linear = (call_sa(**run, LogLikMethod=name)[2] for name in ("is", "gq", "lin"))
    assert nodes.logl_se is None and linear.logl_se is None
    assert drawn.logl == pytest.approx(nodes.logl, abs=4 * drawn.logl_se + 1e-3)
    assert linear.logl == pytest.approx(nodes.logl, abs=0.5) and linear.logl != nodes.logl
    assert (drawn.errorparam == nodes.errorparam).all()


# ---- seeds and starts


def test_the_same_seed_the_same_numbers() -> None:
    first, again, other = (
        short(Options=NO_FUNCTION | {"MaxIter": 14, "Streams": s}) for s in (5, jax.random.key(5), 6)
    )
    assert first[0] == pytest.approx(again[0], rel=1e-12)
    assert np.abs(first[0] - other[0]).max() > 1e-6
    assert short()[0] == pytest.approx(short(Options=NO_FUNCTION | {"MaxIter": 14, "Streams": 0})[0], rel=1e-12)


def test_starts_are_those_given() -> None:
    """Arguments of the output function before the first iteration."""
    calls = []
    cov0 = np.array([[0.5, 0.05], [0.05, 0.1]])
    options = {"MaxIter": 14, "OutputFcn": lambda beta, status, state: calls.append((beta, status, state))}
    short(Cov0=cov0, CovPattern=[1, 1], ErrorParameters=0.4, Options=options)
    beta, status, state = calls[0]
    assert state == "init" and beta == pytest.approx(START)
    assert status.Psi == pytest.approx(cov0) and status.mse == pytest.approx(0.16)
    assert status.theta == pytest.approx(scipy.linalg.logm(cov0 / 0.16)[np.triu_indices(2)])


# ---- replicates


def test_replicates_have_a_trailing_axis(three) -> None:
    beta, psi, stats, b = three
    assert beta.shape == (2, 3) and psi.shape == (2, 2, 3) and b.shape == (2, GROUPS, 3)
    assert stats.logl.shape == stats.aic.shape == stats.bic.shape == stats.rmse.shape == stats.mse.shape == (3,)
    assert stats.errorparam.shape == (1, 3) and stats.ires.shape == (N, 3)
    assert stats.sebeta.shape == (2, 3) and stats.covb.shape == (2, 2, 3)
    assert stats.dfe == N - 5 and isinstance(stats.converged, bool)
    phi = beta[:, None, :] + b
    assert stats.ires == pytest.approx(Y[:, None] - phi[0, GROUP] * np.exp(-phi[1, GROUP] * TIME[:, None]), abs=1e-9)
    best = stats.best
    assert best == np.argmax(stats.logl) and beta[:, best] == pytest.approx(stats.fit.params.beta)
    assert psi[..., best] == pytest.approx(stats.fit.psi.to_numpy())
    assert np.isfinite(stats.sebeta[:, best]).all()
    assert list(stats.spread.index) == list(stats.rhat.index) == list(stats.fit.binding.packed_names)


def test_replicates_agree(three) -> None:
    beta, psi, stats, b = three
    assert stats.converged
    near_the_maximum(stats)
    # Each is within 0.05 standard errors of the maximum, give or take five such errors of two.
    assert np.ptp(beta, axis=1) / stats.sebeta[:, stats.best] == pytest.approx(0.0, abs=10 * MC_ERROR_RATIO)
    assert np.unique(beta[0]).size == 3  # and they differ
    assert (stats.rhat < 1.2).all()


def test_one_column_and_many_replicates() -> None:
    beta, psi, stats, b = short(Replicates=2)
    assert beta.shape == (2, 2) and stats.fit.estimator.replicates == 2 and stats.logl is None
    assert stats.sebeta is None and stats.spread.shape == (5,)
    assert (beta[:, 0] != beta[:, 1]).all()


def test_a_single_effect_in_a_row_of_starts() -> None:
    """beta0 (1, REPS) with one fixed effect."""
    beta = short(beta0=[[0.8, 1.1]], FEConstDesign=[[0.0], [1.0]], ParamTransform=[1, 0])[0]
    assert beta.shape == (1, 2)


# ---- output functions


def test_burn_in_has_negative_iterations() -> None:
    recorder = Recorder()
    beta, psi, stats, b = short(NBurnIn=3, Options={"MaxIter": 14, "OutputFcn": recorder})
    states = [state for _, _, state in recorder.calls]
    assert states[0] == "init" and states[-1] == "done" and set(states[1:-1]) == {"iter"}
    steps = [(beta, status) for beta, status, state in recorder.calls if state == "iter"]
    assert [status.iteration for _, status in steps] == [*range(-3, len(steps) - 3)] and len(steps) >= 17
    for beta_then, status in steps[:3]:  # nothing is updated during burn-in
        assert beta_then == pytest.approx(START) and status.Psi == pytest.approx(recorder.calls[0][1].Psi)
    assert np.abs(steps[3][0] - START).max() > 1e-6
    for _, status, _ in recorder.calls:
        assert status.procedure == "SAEM" and status.replicate == 0 and np.isnan(status.fval)
        assert status.inner.procedure == "none" and status.Psi.shape == (2, 2) and status.theta.shape == (3,)
    assert recorder.calls[-1][0] == pytest.approx(beta) and recorder.calls[-1][1]["Psi"] == pytest.approx(psi)
    assert recorder.calls[-1][1].mse == pytest.approx(stats.mse)


def test_a_function_stops_the_fit() -> None:
    recorder, other = Recorder(stop_at=5), Recorder()
    beta, psi, stats, b = call_sa(Options={"OutputFcn": [recorder, other]})
    assert stats.fit.stopped and not stats.converged
    assert recorder.calls[-1][1].iteration == 5 and other.calls[-1][2] == "done"
    assert beta.shape == (2,) and np.isfinite(stats.rmse)


def test_errors_of_a_function_surface() -> None:
    recorder = Recorder()

    def broken(beta, status, state):
        if status.iteration == 1 and state == "iter":
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        short(Options={"MaxIter": 14, "OutputFcn": [recorder, broken]})
    assert recorder.calls[-1][2] == "done"


def test_the_default_plot_is_drawn_where_it_is_seen(monkeypatch) -> None:
    """Four panels: the likelihood is not computed."""
    recorder = Recorder()
    monkeypatch.setattr("jaxnlme.frontends.matlab.nlmefitsa.default_output_functions", lambda: (recorder,))
    short(Options={"MaxIter": 14})
    assert len(recorder.calls) > 14
    recorder.calls.clear()
    short(Options={"MaxIter": 14, "OutputFcn": []})
    assert not recorder.calls


def test_the_plot_has_no_panel_for_the_likelihood(tmp_path) -> None:
    plot = jn.nlmefitoutputfcn.to_file(tmp_path / "run.png")
    beta, psi, stats, b = short(Options={"MaxIter": 14, "OutputFcn": plot})
    assert (tmp_path / "run.png").exists()
    assert [axis.get_title() for axis in plot.axes] == ["beta[0]", "beta[1]", "Psi[0, 0]", "Psi[1, 1]"]
    drawn = plot.axes[0].lines[-1]
    assert drawn.get_xdata()[0] == -5 and drawn.get_ydata()[-1] == beta[0]


def test_the_display_lists_values(capsys) -> None:
    short(Options={"MaxIter": 14, "OutputFcn": None, "Display": "iter"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["iteration", "seconds", "beta0", "beta1"]
    assert lines[-1].startswith(("NOT CONVERGED", "Converged", "SAEM")) or len(lines) > 20


# ---- the model: what nlmefit takes, nlmefitsa takes


def test_designs_that_matlab_s_nlmefitsa_refuses() -> None:
    """By observation and with a random slope."""
    A, B = observation_designs()
    beta, psi, stats, b = call_sa(FEObsDesign=A, REObsDesign=B, beta0=[4.0, 0.8, 0.0])
    assert beta.shape == (3,) and stats.converged
    near_the_maximum(stats)


def test_group_designs_and_V() -> None:
    A, B = group_designs()
    result = call_sa(FEGroupDesign=A, REGroupDesign=B, beta0=[4.0, 0.8, 0.0], V=COVARIATE, modelfun=decay_with_size)
    assert result[2].converged
    near_the_maximum(result[2])


def test_one_random_effect_and_one_that_is_shared() -> None:
    select = call_sa(REParamsSelect=[0])
    assert select[1].shape == (1, 1) and select[3].shape == (1, GROUPS)
    near_the_maximum(select[2])
    u = np.random.default_rng(7).normal(size=GROUPS)[GROUP]
    y = (5.0 + 0.8 * u) * np.exp(-(1.0 + 0.16 * u) * TIME) + 0.1 * np.cos(1e4 * TIME)
    shared = call_sa(y=y, REConstDesign=[[1.0], [0.2]])
    assert shared[2].converged and shared[1].shape == (1, 1)
    near_the_maximum(shared[2])


def test_a_full_psi() -> None:
    beta, psi, stats, b = call_sa(CovPattern=np.ones((2, 2)), ComputeStdErrors=True)
    assert psi[0, 1] != 0.0 and np.isfinite(stats.sepsi).all()
    near_the_maximum(stats)


@pytest.mark.parametrize(
    ("error", "codes"), [("proportional", [1, 1]), ("combined", [0, 0]), ("exponential", [1, 1]), ("constant", [1, 3])]
)
def test_error_models_and_transforms(error: str, codes) -> None:
    rng = np.random.default_rng(5)
    f = (5.0 * np.exp(0.2 * rng.normal(size=GROUPS)))[GROUP] * np.exp(-0.5 * TIME)
    e = rng.normal(size=N)
    y = {"constant": f + 0.15 * e, "proportional": f * (1 + 0.1 * e), "combined": f + (0.1 + 0.05 * f) * e}.get(
        error, f * np.exp(0.1 * e)
    )
    start = [np.log(4.0) if codes[0] else 4.0, {0: 0.6, 1: np.log(0.6), 3: 0.3}[codes[1]]]
    beta, psi, stats, b = call_sa(y=y, ErrorModel=error, ParamTransform=codes, beta0=start, REParamsSelect=[0])
    assert stats.errorparam.shape == ((2,) if error == "combined" else (1,))
    assert stats.fit.model.error.name == error
    near_the_maximum(stats)


def test_vectorization_changes_nothing() -> None:
    """One stream of random numbers, one set of operations in another order."""
    by_row, by_group = short()[0], short(Vectorization="SingleGroup")[0]
    assert by_row == pytest.approx(by_group, rel=1e-8)


def test_a_group_without_responses_has_effects_of_zero() -> None:
    y, group = np.append(Y, [np.nan, np.nan]), np.append(GROUP, [-1, -1])
    beta, psi, stats, b = short(X=np.append(TIME, [1.0, 2.0]), y=y, group=group)
    assert b.shape == (2, GROUPS + 1) and b[:, 0] == pytest.approx(0.0, abs=1e-8)  # label -1 comes first
    assert np.isnan(stats.ires[-2:]).all() and stats.dfe == N - 5


def test_fun_val_check() -> None:
    x = TIME.copy()
    third = np.flatnonzero(GROUP == 2)
    x[third[:2]] = -1e4
    with pytest.raises(jn.ModelError, match=f"not finite in rows {third[0] + 1} and {third[1] + 1} of X"):
        call_sa(X=x)
    beta, psi, stats, b = short(X=x, Options=NO_FUNCTION | {"MaxIter": 14, "FunValCheck": "off"})
    assert "Left out at your request: group 2" in str(stats.fit.status)
    assert np.isnan(b[:, 2]).all() and np.isfinite(np.delete(b, 2, axis=1)).all()
    assert stats.dfe == N - SIZES[2] - 5


def test_a_model_that_mixes_rows_is_refused() -> None:
    def mixing(phi, xfun):
        return phi[0] * xfun[:, 0] / xfun[:, 0].sum() + phi[1]

    for beta0 in (START, COLUMNS):
        with pytest.raises(jn.ModelError, match="modelfun mixes rows"):
            call_sa(modelfun=mixing, Vectorization="SingleGroup", beta0=beta0)


# ---- beside others


def biexponential(phi, t):
    """The model of MathWorks' indomethacin example, rates on the log scale by ParamTransform."""
    return phi[0] * jnp.exp(-phi[1] * t[:, 0]) + phi[2] * jnp.exp(-phi[3] * t[:, 0])


def test_a_script_of_matlab_s() -> None:
    """The call of MathWorks' page on nlmefitsa: a row of starts and transforms. The rates have no random effect here:
    maximum likelihood puts their variances at zero."""
    d = jn.datasets.indomethacin()
    beta, psi, stats, b = jn.nlmefitsa(
        d["time"], d["conc"], d["Subject"], [], biexponential, [1, 1, 1, 1],
        ParamTransform=[0, 1, 0, 1], REParamsSelect=[0, 2], Options={"OutputFcn": [], "TolX": 1e-4},
    )  # fmt: skip
    assert beta.shape == (4,) and psi.shape == (2, 2) and b.shape == (2, 6) and stats.dfe == 66 - 7
    assert stats.converged
    near_the_maximum(stats)


def theophylline(phi, x):
    """saemix's first example: phi = (ka, V, CL), x = (Dose, Time)."""
    ka, volume, cl = phi
    k = cl / volume
    return x[:, 0] * ka / (volume * (ka - k)) * (jnp.exp(-k * x[:, 1]) - jnp.exp(-ka * x[:, 1]))


def test_theophylline_beside_quadrature(reference) -> None:
    """theo_true_mle.json: the maximum by quadrature of the table and model of saemix's first example."""
    import json

    import pandas as pd

    d = pd.read_csv(reference / "saemix" / "data" / "theo.csv")
    truth = json.loads((reference / "saemix" / "theo_true_mle.json").read_text())["theo_nocov_constant"]
    beta, psi, stats, b = jn.nlmefitsa(
        d[["Dose", "Time"]], d["Concentration"], d["Id"], None, theophylline, np.log([1.0, 20.0, 0.5]),
        ParamTransform=[1, 1, 1], Cov0=np.eye(3), Options=NO_FUNCTION, ComputeStdErrors=True,
    )  # fmt: skip
    assert stats.converged
    expected = np.log([truth["ka"], truth["V"], truth["CL"]])
    assert np.abs(beta - expected) / stats.sebeta == pytest.approx(0.0, abs=5 * MC_ERROR_RATIO)
    assert np.abs(np.diag(psi) - truth["omega"]) / np.diag(stats.sepsi) == pytest.approx(0.0, abs=5 * MC_ERROR_RATIO)
    allowed = 7 * (5 * MC_ERROR_RATIO) ** 2 / 2 + 5 * stats.logl_se
    assert stats.logl == pytest.approx(-truth["minus2LL"] / 2, abs=allowed)
