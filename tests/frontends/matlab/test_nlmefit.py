"""nlmefit: every argument of MATLAB's table, against the same model fitted by `jn.fit`."""

from __future__ import annotations

import types
import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.model.covariance.structures import Blocks, LogMatrix
from tests.frontends.matlab.matlab_calls import (
    COVARIATE,
    GROUP,
    GROUPS,
    SIZES,
    START,
    TIME,
    N,
    Y,
    by_cell,
    call,
    decay,
    decay_with_size,
    group_designs,
    native,
    observation_designs,
)  # fmt: skip

# Two fits of one likelihood end within the tolerance of 1e-8 log-likelihood units: their estimates agree to about its
# square root, in standard errors (0.07 to 0.2 here).
SAME = {"rel": 1e-4, "abs": 1e-5}
SAME_LOGL = 1e-7


def same(first, second) -> None:
    """Two calls of nlmefit found the same maximum."""
    assert first[2].logl == pytest.approx(second[2].logl, abs=SAME_LOGL)
    for k in (0, 1, 3):
        assert first[k] == pytest.approx(second[k], **SAME)


@pytest.fixture(scope="module")
def plain():
    """The default model: every parameter fixed and random, psi diagonal."""
    return call()


@pytest.fixture(scope="module")
def full():
    """A full psi, by the matrix logarithm."""
    return call(CovPattern=np.ones((2, 2)))


# ---- outputs


def test_shapes_and_fields(plain) -> None:
    beta, psi, stats, b = plain
    assert beta.shape == (2,) and psi.shape == (2, 2) and b.shape == (2, GROUPS)
    assert psi[0, 1] == psi[1, 0] == 0.0 and (np.diag(psi) > 0).all()
    assert stats.converged and stats.fit.converged and isinstance(stats.fit, jn.Fit)
    assert stats.covb.shape == stats.sepsi.shape == (2, 2) and stats.cov.shape == (5, 5)
    assert list(stats.cov.index) == ["beta[0]", "beta[1]", "psi[0, 0]", "psi[1, 1]", "a"]
    for name in ("pres", "ires", "pwres", "iwres", "cwres"):
        assert stats[name].shape == (N,) and stats[name].dtype == np.float64
    assert dict(stats)["logl"] is stats.logl
    with pytest.raises(AttributeError, match="did you mean 'rmse'"):
        _ = stats.rsme
    with pytest.raises(KeyError, match="did you mean 'errorparam'"):
        _ = stats["errorparams"]
    with pytest.raises(AttributeError, match="read-only record of results"):
        stats.bic = 0.0
    assert "logl" in repr(stats) and "<table" in stats._repr_html_()


def test_formulas_of_stats(plain) -> None:
    beta, psi, stats, b = plain
    k = 2 + 2 + 1
    assert stats.dfe == N - k
    assert stats.aic == pytest.approx(-2 * stats.logl + 2 * k)
    assert stats.bic == pytest.approx(-2 * stats.logl + k * np.log(GROUPS))
    assert stats.bic == pytest.approx(stats.fit.bic_groups)
    assert stats.mse == pytest.approx(stats.errorparam[0] ** 2)
    assert stats.rmse == pytest.approx(np.sqrt(np.sum(stats.ires**2) / stats.dfe))
    assert stats.pres == pytest.approx(Y - beta[0] * np.exp(-beta[1] * TIME), abs=1e-12)
    phi = beta[:, None] + b
    assert stats.ires == pytest.approx(Y - phi[0, GROUP] * np.exp(-phi[1, GROUP] * TIME), abs=1e-9)
    assert stats.iwres == pytest.approx(stats.ires / stats.errorparam[0], abs=1e-8)


def test_standard_errors_are_those_of_the_fit(full) -> None:
    stats = full[2]
    table = stats.fit.estimates
    assert stats.sebeta == pytest.approx(table["se"][:2].to_numpy())
    assert stats.seerrorparam == pytest.approx(table["se"][-1:].to_numpy())
    sd = table["estimate"][["sd(phi0)", "sd(phi1)"]].to_numpy()
    # Delta method: d sd^2 = 2 sd d sd.
    assert np.diag(stats.sepsi) == pytest.approx(2 * sd * table["se"][["sd(phi0)", "sd(phi1)"]].to_numpy())
    # psi_01 = r sd0 sd1 by differences of the reported values.
    reported, values = stats.fit.covariance, dict(table["estimate"])
    names = ["sd(phi0)", "sd(phi1)", "corr(phi0, phi1)"]

    def covariance(v):
        return v[names[2]] * v[names[0]] * v[names[1]]

    slope = [(covariance(values | {n: values[n] + 1e-6}) - covariance(values)) / 1e-6 for n in names]
    expected = np.sqrt(slope @ reported.loc[names, names].to_numpy() @ slope)
    assert stats.sepsi[0, 1] == pytest.approx(expected, rel=1e-4)  # first-order differences
    assert stats.cov.loc["psi[0, 1]", "psi[0, 1]"] == pytest.approx(expected**2, rel=1e-3)


def biexponential(phi, t):
    """The model of MathWorks' indomethacin example."""
    return phi[0] * jnp.exp(-jnp.exp(phi[1]) * t[:, 0]) + phi[2] * jnp.exp(-jnp.exp(phi[3]) * t[:, 0])


def test_published_example() -> None:
    """Indomethacin with a full psi of three effects, default method: the documentation of MATLAB's Statistics and
    Machine Learning Toolbox (Mixed-Effects Models Using nlmefit and nlmefitsa) prints this output."""
    frame = jn.datasets.indomethacin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # psi is singular there; how the fit ends is not asked here
        beta, psi, stats, b = jn.nlmefit(
            frame["time"], frame["conc"], frame["Subject"], None, biexponential, [1, 2, 1, 1],
            REParamsSelect=[0, 1, 2], CovPattern=np.ones((3, 3)),
        )  # fmt: skip
    assert stats.dfe == 55
    # MATLAB stopped at a tolerance of 1e-4; it prints four decimals.
    assert stats.logl == pytest.approx(58.4728, abs=1e-3)
    assert stats.aic == pytest.approx(-94.9456, abs=2e-3)
    assert stats.bic == pytest.approx(-97.2363, abs=2e-3)
    assert stats.mse == pytest.approx(0.0061, abs=1e-4)
    assert stats.rmse == pytest.approx(0.0782, abs=1e-4)
    assert stats.errorparam == pytest.approx([0.0781], abs=1e-4)
    assert np.diag(psi) == pytest.approx([0.4769, 0.0321, 0.0236], rel=0.05)  # a flat direction of its singular psi


# ---- calling


def test_vectorizations_agree(plain) -> None:
    single = call(Vectorization="SingleGroup")
    same(plain, single)
    same(single, call(Vectorization="Full"))


def test_row_order_and_shapes_of_input_do_not_matter(plain) -> None:
    order = np.random.default_rng(0).permutation(N)
    frame = pd.DataFrame({"hours": TIME[order]}, index=np.arange(N)[::-1])
    beta, psi, stats, b = call(X=frame, y=Y[order][:, None], group=list(GROUP[order]), beta0=START[:, None])
    assert stats.logl == pytest.approx(plain[2].logl, abs=SAME_LOGL)
    assert b == pytest.approx(plain[3], **SAME)  # columns by group label, whatever comes first
    assert stats.ires == pytest.approx(plain[2].ires[order], **SAME)  # rows as they came


@pytest.mark.parametrize("kind", ["numbers", "text", "categories"])
def test_groups_follow_grp2idx(plain, kind: str) -> None:
    """Numbers ascending, text by first appearance, categories in their order (unused ones left out)."""
    if kind == "numbers":
        group, place = 100.0 - GROUP, np.arange(GROUPS)[::-1]
    elif kind == "text":
        group, place = np.array([f"subject {9 - k}" for k in GROUP]), np.arange(GROUPS)
    else:
        place = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
        group = pd.Categorical([f"s{k}" for k in GROUP], categories=["unused", *(f"s{k}" for k in place)])
    beta, psi, stats, b = call(group=group)
    assert b == pytest.approx(plain[3][:, place], **SAME)
    assert stats.ires == pytest.approx(plain[2].ires, **SAME)


def test_missing_responses_keep_their_rows(plain) -> None:
    """A row without a response adds nothing: the fit is that of the table without it."""
    y = np.append(Y, np.nan)
    beta, psi, stats, b = call(X=np.append(TIME, 2.0), y=y, group=np.append(GROUP, 4))
    assert stats.logl == pytest.approx(plain[2].logl, abs=SAME_LOGL)
    assert stats.dfe == plain[2].dfe
    assert np.isnan(stats.cwres[-1]) and stats.cwres[:-1] == pytest.approx(plain[2].cwres, **SAME)


def test_V_as_matrix_list_dictionary_and_frame() -> None:
    matrix = np.column_stack([COVARIATE, 0.5 * COVARIATE])
    first = call(V=matrix, modelfun=decay_with_size)
    same(first, call(V=list(matrix), modelfun=decay_with_size))
    labelled = {label: row for label, row in reversed(list(enumerate(matrix)))}
    same(first, call(V=labelled, modelfun=decay_with_size))
    same(first, call(V=pd.DataFrame(matrix), modelfun=decay_with_size))
    frames = {label: pd.DataFrame({"w": row}) for label, row in enumerate(matrix)}
    same(first, call(V=frames, modelfun=decay_with_size))
    names = [f"s{9 - k}" for k in range(GROUPS)]
    frame = pd.DataFrame(matrix, index=names).sort_index()
    same(first, call(V=frame, group=np.array(names)[GROUP], modelfun=decay_with_size))


def test_V_of_different_shapes() -> None:
    """Each group's array reaches modelfun in its own shape: only the sum counts in this one."""
    ragged = [np.full((1 + k % 3, 1), w / (1 + k % 3)) for k, w in enumerate(COVARIATE)]
    same(call(V=COVARIATE, modelfun=decay_with_size), call(V=ragged, modelfun=decay_with_size))


# ---- designs


def test_select_is_the_design_of_unit_columns(plain) -> None:
    select = call(REParamsSelect=[1])
    assert select[1].shape == (1, 1) and select[3].shape == (1, GROUPS)
    same(select, call(REParamsSelect=[False, True]))
    same(select, call(REConstDesign=[[0], [1]]))
    same(plain, call(FEParamsSelect=[0, 1], REParamsSelect=[True, True]))
    # One parameter without a fixed effect: its typical value is zero on the transformed scale.
    less = call(FEParamsSelect=[1], REParamsSelect=[0, 1], ParamTransform=[1, 0], beta0=[0.8])
    assert less[0].shape == (1,) and less[1].shape == (2, 2)
    same(less, call(FEConstDesign=[[0], [1]], ParamTransform=["log", "identity"], beta0=[0.8]))


def test_group_designs() -> None:
    A, B = group_designs()
    beta, psi, stats, b = call(FEGroupDesign=A, REGroupDesign=B, beta0=[4.0, 0.8, 0.0])
    fit = native({"fixed_design": A.transpose(2, 0, 1), "random_design": B.transpose(2, 0, 1), "beta": [4.0, 0.8, 0.0]})
    assert stats.logl == pytest.approx(fit.log_likelihood, abs=SAME_LOGL)
    assert beta == pytest.approx(fit.beta.to_numpy(), **SAME)
    assert psi == pytest.approx(fit.psi.to_numpy(), **SAME)
    assert b == pytest.approx(fit.random_effects.to_numpy().T, **SAME)


def test_pages_and_rows_of_V_follow_grp2idx() -> None:
    """Rows in any order: what belongs to groups is in the order of their numbers, not of appearance."""
    A = np.zeros((2, 3, GROUPS))
    A[0, 0] = A[1, 1] = 1.0
    A[1, 2] = COVARIATE
    options = {"FEGroupDesign": A, "beta0": [4.0, 0.8, 0.0], "V": COVARIATE, "modelfun": decay_with_size}
    order = np.argsort(-GROUP, kind="stable")
    same(call(**options), call(**options, X=TIME[order], y=Y[order], group=GROUP[order]))


def test_a_group_without_responses_has_effects_of_zero(plain) -> None:
    y = np.append(Y, [np.nan, np.nan])
    beta, psi, stats, b = call(X=np.append(TIME, [1.0, 2.0]), y=y, group=np.append(GROUP, [-1, -1]))
    assert stats.logl == pytest.approx(plain[2].logl, abs=SAME_LOGL)
    assert b.shape == (2, GROUPS + 1) and (b[:, 0] == 0.0).all()  # label -1 comes first
    assert b[:, 1:] == pytest.approx(plain[3], **SAME)


def test_observation_designs() -> None:
    """Designs that vary by observation, in scrambled rows: pages follow the rows of X."""
    A, B = observation_designs()
    order = np.random.default_rng(1).permutation(N)
    options = {"FEObsDesign": A[:, :, order], "REObsDesign": B[:, :, order], "beta0": [4.0, 0.8, 0.0]}
    moved = {"X": TIME[order], "y": Y[order], "group": GROUP[order]}
    beta, psi, stats, b = call(**options, **moved)
    fit = native({"fixed_design": by_cell(A), "random_design": by_cell(B), "beta": [4.0, 0.8, 0.0]})
    assert stats.logl == pytest.approx(fit.log_likelihood, abs=SAME_LOGL)
    assert beta == pytest.approx(fit.beta.to_numpy(), **SAME)
    assert psi == pytest.approx(fit.psi.to_numpy(), **SAME)
    rows = call(**options, **moved, Vectorization="SingleGroup")
    same((beta, psi, stats, b), rows)


def test_a_wide_random_design_starts_well(plain) -> None:
    """The unit of a column of B does not matter: psi scales by its square."""
    beta, psi, stats, b = call(REConstDesign=np.diag([1.0, 1000.0]))
    assert stats.logl == pytest.approx(plain[2].logl, abs=SAME_LOGL)
    assert psi * np.array([[1.0, 1e3], [1e3, 1e6]]) == pytest.approx(plain[1], **SAME)


# ---- psi


def test_logm_and_chol_find_the_same_maximum(full) -> None:
    assert isinstance(full[2].fit.binding.density.covariance, LogMatrix)
    for name in ("CovParameterization", "CovParametrization"):
        same(full, call(CovPattern=[1, 1], **{name: "chol"}))
    assert full[1][0, 1] != 0.0


def test_patterns_are_completed_to_blocks() -> None:
    """A chain 0-2-3 joins three effects; labels say the same."""
    from jaxnlme.frontends.matlab.data import matlab_data
    from jaxnlme.frontends.matlab.designs import designs
    from jaxnlme.frontends.matlab.nlmefit import NLMEFIT_DEFAULTS

    data = matlab_data(TIME, Y, GROUP, None)
    chain = np.eye(4)
    chain[0, 2] = chain[2, 0] = chain[2, 3] = chain[3, 2] = 1
    for pattern in (chain, chain - np.eye(4), ["a", "b", "a", "a"], np.array([[1, 7, 1, 1]])):
        made = designs(dict(NLMEFIT_DEFAULTS) | {"CovPattern": pattern}, np.ones(4), data)
        family = made.covariance("logm")
        assert isinstance(family, Blocks)
        assert [effects for effects, _ in family.parts] == [(0, 2, 3), (1,)]


def test_a_singular_psi_is_continued_by_chol() -> None:
    """Both effects driven by one: 'logm' cannot represent a singular psi, and the fit ends where 'chol' does."""
    rng = np.random.default_rng(3)
    u = rng.normal(size=GROUPS)
    y = (5.0 + 0.8 * u[GROUP]) * np.exp(-TIME) + 0.15 * rng.normal(size=N)
    logm, chol = (call(y=y, CovPattern=[0, 0], CovParameterization=p) for p in ("logm", "chol"))
    assert np.linalg.eigvalsh(chol[1])[0] == pytest.approx(0.0, abs=1e-12)
    assert logm[2].logl == pytest.approx(chol[2].logl, abs=SAME_LOGL)
    assert logm[1] == pytest.approx(chol[1], rel=1e-3, abs=1e-5)  # psi is flat in its correlation there
    assert "was continued from there by 'chol'" in str(logm[2].fit.status)
    assert "was continued" not in str(chol[2].fit.status)


def test_a_fit_that_cannot_be_continued_by_chol_is_returned() -> None:
    """From this start one rate diverges and the model is flat there: no fit can start from it."""
    d = jn.datasets.indomethacin()

    def biexponential(phi, t):
        return phi[0] * jnp.exp(-phi[1] * t[:, 0]) + phi[2] * jnp.exp(-phi[3] * t[:, 0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        beta, _, stats, _ = jn.nlmefit(
            d.time, d.conc, d.Subject, None, biexponential, [1, 2, 1, 1], REParamsSelect=[0, 1, 2],
            ParamTransform=[0, 1, 0, 1], CovPattern=np.ones((3, 3)), ErrorModel="proportional",
        )  # fmt: skip
    assert beta.shape == (4,) and not stats.converged
    assert "a fit by 'chol' could not start" in str(stats.fit.status)


def test_a_variance_of_zero_in_another_block_does_not_concern_logm() -> None:
    """CovPattern [0, 0, 1]: two effects by matrix logarithm with a regular psi, a third of variance zero by itself."""
    rng = np.random.default_rng(5)
    b = rng.normal(size=(2, GROUPS)) * [[0.8], [0.3]]
    y = (5.0 + b[0][GROUP]) * np.exp(-TIME) + 1.0 + b[1][GROUP] + 0.05 * np.asarray(TIME)
    y = y + 0.15 * rng.permutation(np.tile([-1.0, 1.0], N))[:N]

    def tilted(phi, x):
        return phi[0] * jnp.exp(-x[:, 0]) + phi[1] + phi[2] * x[:, 0]

    result = jn.nlmefit(TIME, y, GROUP, None, tilted, [5.0, 1.0, 0.05], CovPattern=[0, 0, 1])
    assert result[1][2, 2] == 0.0 and np.linalg.eigvalsh(result[1][:2, :2])[0] > 0.01
    assert result[2].converged and "was continued" not in str(result[2].fit.status)


# ---- likelihoods, error models, transforms


@pytest.mark.parametrize(("name", "method"), [("LME", "lme"), ("RELME", "relme"), ("FO", "fo"), ("FOCE", "foce")])
def test_approximations_are_those_of_fit(name: str, method: str) -> None:
    beta, psi, stats, b = call(ApproximationType=name)
    assert stats.converged
    fit = stats.fit
    again = jn.fit(fit.model, fit.data, method, start=fit)
    assert again.converged
    assert stats.logl == pytest.approx(again.log_likelihood, abs=1e-6)
    assert fit.method == again.method


def test_lme_is_the_default() -> None:
    beta, psi, stats, b = jn.nlmefit(TIME, Y, GROUP, [], decay, START)
    assert stats.fit.method == call(ApproximationType="LME")[2].fit.method


@pytest.mark.parametrize("error", ["constant", "proportional", "combined", "exponential"])
def test_error_models(error: str) -> None:
    y = np.abs(Y) + 0.01  # the exponential model needs positive responses
    beta, psi, stats, b = call(y=y, ErrorModel=error)
    assert stats.converged
    assert stats.fit.model.error.name == error
    assert stats.errorparam.shape == ((2,) if error == "combined" else (1,))
    assert stats.mse == stats.errorparam[0] ** 2
    phi = beta[:, None] + b
    f = phi[0, GROUP] * np.exp(-phi[1, GROUP] * TIME)
    residual = np.log(y) - np.log(f) if error == "exponential" else y - f
    assert stats.ires == pytest.approx(residual, abs=1e-9)
    a, c = (stats.errorparam[0], stats.errorparam[-1])
    scale = {"proportional": a * f, "combined": a + c * f}.get(error, a * np.ones(N))
    assert stats.iwres == pytest.approx(residual / scale, abs=1e-6)
    # 'FOCE' takes a scale that depends on the prediction at the conditional modes.
    assert stats.fit.method == ("FOCEI" if error in ("proportional", "combined") else "FOCE")


def hand_written(phi, xfun):
    """`decay` with log and logit written out."""
    return jnp.exp(phi[..., 0]) * jnp.exp(-1.0 / (1.0 + jnp.exp(-phi[..., 1])) * xfun[:, 0])


@pytest.mark.parametrize("codes", [[1, 3], ["log", "logit"]])
def test_transforms_are_those_written_by_hand(codes) -> None:
    start = np.array([np.log(4.0), 1.0])
    coded = call(ParamTransform=codes, beta0=start)
    same(coded, call(modelfun=hand_written, beta0=start))
    probit = call(ParamTransform=[1, 2], beta0=start)
    assert [h.name for h in (p.transform for p in probit[2].fit.model.parameters)] == ["log", "probit"]


# ---- Options


def test_options_reach_the_fit(plain, capsys) -> None:
    record = types.SimpleNamespace(TolX=1e-3, TolFun=1e-2, MaxIter=77, Display="final", DerivStep=[1e-6, 1e-6])
    stats = call(Options=record, RefineBeta0="off", OptimFun="fminunc")[2]
    assert stats.fit.options["max_iterations"] == 77
    assert stats.fit.options["tolerance"] == 1e-6  # 1e-4 TolFun and TolX^2 are both this, the loosest
    assert stats.fit.options["starts"] is None
    assert "Converged" in capsys.readouterr().out
    assert stats.logl == pytest.approx(plain[2].logl, abs=1e-6)
    assert plain[2].fit.options["tolerance"] == pytest.approx(1e-8) and plain[2].fit.options["max_iterations"] == 200
    assert plain[2].fit.options["starts"] == "pooled"
    call(Options={"Display": "iter", "TolX": None, "OutputFcn": []})
    out = capsys.readouterr().out
    assert "log-likelihood" in out.splitlines()[0] and len(out.splitlines()) > 3


def test_a_fit_that_ran_out_of_iterations_warns() -> None:
    with pytest.warns(RuntimeWarning, match="NOT CONVERGED"):
        stats = call(Options={"MaxIter": 1})[2]
    assert not stats.converged and stats.covb is None and stats.sepsi is None


def test_fun_val_check() -> None:
    """The third group's rows have a predictor at which the model overflows."""
    x = TIME.copy()
    third = np.flatnonzero(GROUP == 2)
    x[third[:2]] = -1e4
    with pytest.raises(jn.ModelError, match=f"not finite in rows {third[0] + 1} and {third[1] + 1} of X"):
        call(X=x)
    beta, psi, stats, b = call(X=x, Options={"FunValCheck": "off"})
    assert stats.converged and "Left out at your request: group 2" in str(stats.fit.status)
    assert np.isnan(b[:, 2]).all() and np.isfinite(np.delete(b, 2, axis=1)).all()
    assert np.isnan(stats.ires[third]).all() and stats.dfe == N - SIZES[2] - 5
