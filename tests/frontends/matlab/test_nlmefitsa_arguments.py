"""nlmefitsa's arguments: refusals and their messages, and the jn.SAEM that they make."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.em import settings as em_settings
from jaxnlme.frontends.matlab import live_plot
from jaxnlme.frontends.matlab.call import checked_call
from jaxnlme.frontends.matlab.nlmefitsa import NLMEFITSA_DEFAULTS
from jaxnlme.frontends.matlab.options import StatsetSA, name_values, statset
from jaxnlme.frontends.matlab.saem_options import replicate_starts, saem, start_columns
from tests.frontends.matlab.matlab_calls import GROUP, START, TIME, N, Y, call, call_sa, decay

EYE = np.eye(2)
COLUMNS = np.stack([START, 1.2 * START, 0.8 * START], axis=1)

REFUSED = [
    ({"NBurnin": 3}, "'NBurnin' is not a name-value argument; did you mean 'NBurnIn'"),
    ({"ApproximationType": "FOCE"}, "'ApproximationType' is an argument of nlmefit"),
    ({"CovParameterization": "chol"}, "'CovParameterization' is an argument of nlmefit"),
    ({"RefineBeta0": "on"}, "'RefineBeta0' is an argument of nlmefit"),
    ({"NBurnIn": -1}, "NBurnIn must be a whole number, at least 0; received -1"),
    ({"NChains": 0}, "NChains must be a whole number, at least 1; received 0"),
    ({"NIterations": [150, 150]}, "NIterations must be a number, or one for each of the three phases"),
    ({"NIterations": [150, 150, 0.5]}, "NIterations must be a whole number"),
    ({"NIterations": 0}, "NIterations must leave at least one iteration"),
    ({"NMCMCIterations": [2, 2]}, "NMCMCIterations must be a number for all, or one for each of full multivariate"),
    ({"NMCMCIterations": [2, -2, 2]}, "NMCMCIterations must be a whole number, at least 0; received -2"),
    ({"NMCMCIterations": [0, 0, 0, 0]}, "NMCMCIterations must leave at least one update"),
    ({"Replicates": 0}, "Replicates must be a whole number, at least 1"),
    ({"Replicates": 2, "beta0": COLUMNS}, "Replicates is 2, and beta0 has 3 columns"),
    ({"LogLikMethod": "laplace"}, "LogLikMethod must be one of 'is', 'gq', 'lin', 'none'"),
    ({"ComputeStdErrors": "yes"}, "ComputeStdErrors must be one of 'on', 'off'"),
    ({"ErrorParameters": [0.1, 0.2]}, "ErrorParameters must hold 1 for ErrorModel 'constant', a; received"),
    (
        {"ErrorParameters": 0.1, "ErrorModel": "combined"},
        "must hold 2 for ErrorModel 'combined', a and b",
    ),
    ({"ErrorParameters": -0.1}, "ErrorParameters must be a positive number; received -0.1"),
    ({"ErrorModel": "additive"}, "ErrorModel must be one of"),
    ({"OptimFun": "fmincon"}, "OptimFun must be one of 'fminsearch', 'fminunc'"),
    ({"Cov0": np.eye(3)}, r"Cov0 has shape \(3, 3\); expected \(2, 2\), a start for psi"),
    ({"Cov0": [["a", "b"], ["c", "d"]]}, "Cov0 must hold finite numbers"),
    ({"Cov0": [[1.0, 0.0], [0.0, -1.0]]}, "Cov0 must be symmetric with positive variances"),
    ({"Cov0": [[1.0, 0.5], [0.0, 1.0]], "CovPattern": [1, 1]}, "Cov0 must be symmetric"),
    ({"Cov0": [[1.0, 1.0], [1.0, 1.0]], "CovPattern": [1, 1]}, "Cov0 must be positive definite"),
    ({"Cov0": [[1.0, 0.5], [0.5, 1.0]]}, r"Cov0 has 0.5 in entry \(0, 1\), where psi is zero by CovPattern"),
    ({"beta0": np.ones((2, 2, 2))}, r"beta0 has shape \(2, 2, 2\); expected \(F,\), or \(F, REPS\)"),
    ({"beta0": [[1.0, np.nan], [1.0, 1.0]]}, "beta0 must be finite"),
    ({"beta0": "ab"}, "beta0 must hold numbers"),
    ({"beta0": np.ones((3, 2)), "ParamTransform": [0, 0]}, "beta0 has length 3, and ParamTransform says 2"),
    ({"Options": {"TolFun": 1e-4}}, "Options.TolFun is a field of nlmefit"),
    ({"Options": {"TolX": 0.0}}, "Options.TolX must be a positive number"),
    ({"Options": {"MaxIter": 200}}, "Options.MaxIter is 200, fewer than the 400 iterations of NIterations"),
    ({"Options": {"Stream": 1}}, "Options has no field 'Stream'; did you mean 'Streams'"),
    ({"Options": {"Streams": 0.5}}, "Options.Streams must be a whole number, the seed, or one JAX key"),
    ({"Options": {"OutputFcn": "plot"}}, "Options.OutputFcn must be a function"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_arguments_are_refused_by_name(options, message: str) -> None:
    with pytest.raises(jn.OptionError, match=message):
        call_sa(**options)


def test_nlmefit_has_no_streams() -> None:
    with pytest.raises(jn.OptionError, match=r"Options.Streams is a field of nlmefitsa"):
        call(Options={"Streams": 3})


def test_refusals_shared_with_nlmefit() -> None:
    with pytest.raises(jn.DataError, match="y has"):
        call_sa(y=Y[:-1])
    with pytest.raises(jn.DataError, match="positive responses"):
        call_sa(y=np.where(np.arange(N) == 7, 0.0, 1.0), ErrorModel="exponential")
    with pytest.raises(jn.ModelError, match="modelfun must be a function"):
        call_sa(modelfun=3)


# ---- the SAEM that arguments make


def estimator(replicates: int = 1, **options) -> jn.SAEM:
    """The estimator that the arguments make."""
    arguments = name_values(options, NLMEFITSA_DEFAULTS, {})
    return saem(arguments, statset(arguments["Options"], StatsetSA), replicates)


def test_the_defaults_are_matlab_s() -> None:
    method = estimator()
    assert method.iterations == (150, 150, 100) and method.burn_in == 5 and method.chains is None
    assert method.moves == jn.Moves(population=2, walk=0, coordinates=2, blocks=2)
    assert method.moves.mode > 0  # our own kernel beside MATLAB's three
    assert method.likelihood == "is" and method.seed == 0 and method.replicates == 1
    assert float(method.tolerance) == pytest.approx(float(jn.SAEM().tolerance))
    assert int(method.max_iterations) == int(jn.SAEM().max_iterations)


def test_numbers_reach_the_estimator() -> None:
    key = jax.random.key(3)
    method = estimator(
        replicates=4, NBurnIn=0, NChains=7, NIterations=np.array([[10, 20, 30]]), NMCMCIterations=[1, 0, 3, 0],
        LogLikMethod="GQ", Options={"Streams": key, "TolX": 2e-4, "MaxIter": 60},
    )  # fmt: skip
    assert method.iterations == (10, 20, 30) and method.burn_in == 0 and method.chains == 7 and method.replicates == 4
    assert method.moves == jn.Moves(population=1, walk=0, coordinates=0, blocks=3, mode=0)
    assert method.likelihood == "gq" and method.seed == jn.SAEM(seed=key).seed
    assert float(method.tolerance) == pytest.approx(0.1) and int(method.max_iterations) == 60
    assert estimator(NIterations=80).iterations == estimator(NIterations=[80]).iterations
    assert estimator(NMCMCIterations=3).moves == estimator(NMCMCIterations=[3, 3, 3]).moves
    assert int(estimator(NIterations=[3000, 3000, 100]).max_iterations) >= 6100


def test_tolx_is_a_fraction_of_the_standard_error() -> None:
    """500 TolX, within bounds; [] is the default."""
    assert [statset({"TolX": x}, StatsetSA).tolerance for x in (1e-9, 1e-4, 1.0, None)] == pytest.approx(
        [0.01, 0.05, 0.2, 0.05]
    )


def columns_of(beta0, **options) -> tuple[np.ndarray, int]:
    return start_columns(beta0, name_values(options, NLMEFITSA_DEFAULTS, {}))


def test_columns_of_beta0_are_replicates() -> None:
    for beta0 in (START, START.tolist(), START[:, None], START[None, :]):
        starts, replicates = columns_of(beta0)
        assert starts.shape == (2, 1) and replicates == 1
    assert columns_of(START, Replicates=3)[1] == 3
    starts, replicates = columns_of(COLUMNS)
    assert (starts == COLUMNS).all() and replicates == 3 == columns_of(COLUMNS, Replicates=3)[1]
    # A row is one start, unless there is one fixed effect.
    for designs_given in ({"FEParamsSelect": [1]}, {"FEParamsSelect": [False, True]}, {"FEConstDesign": [[0], [1]]}):
        assert columns_of([[1.0, 2.0, 3.0]], **designs_given)[0].shape == (1, 3)
    assert columns_of([[1.0, 2.0, 3.0]], ParamTransform=[0, 0, 0])[0].shape == (3, 1)


# ---- starts


def made(**options):
    """The checked call of arguments, and its columns."""
    arguments = name_values({k: v for k, v in options.items() if k != "beta0"}, NLMEFITSA_DEFAULTS, {})
    starts, _ = start_columns(options.get("beta0", START), arguments)
    settings = statset(None, StatsetSA)
    return checked_call(
        arguments, TIME, Y, GROUP, None, decay, starts[:, 0], settings, em_settings.START.sd_factor
    ), starts


def test_psi_starts_at_cov0_or_follows_from_beta0() -> None:
    call, _ = made(beta0=[4.0, -0.5], ParamTransform=[0, 1])
    assert call.designs.psi == pytest.approx(np.diag([2.4, 1.0]) ** 2)
    expected = np.array([[0.5, 0.1], [0.1, 0.2]])
    call, _ = made(Cov0=expected, CovPattern=[1, 1])
    binding = jn.bind(call.model(call.designs.covariance("chol")), call.data.data)
    lower = np.asarray(binding.density.covariance.factor(np.asarray(binding.start.covariance)))
    assert lower @ lower.T == pytest.approx(expected)
    assert made(Cov0=0.3, REParamsSelect=[1])[0].designs.psi == pytest.approx(np.array([[0.3]]))


def test_effects_that_a_chain_joins_may_vary_together() -> None:
    """CovPattern 0-1, 1-2 is completed to a full block, so Cov0 may have an entry for 0-2."""
    chain = [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    start = 0.2 * np.eye(3) + 0.1
    arguments = name_values({"CovPattern": chain, "Cov0": start}, NLMEFITSA_DEFAULTS, {})
    data, three = statset(None, StatsetSA), np.array([4.0, 0.8, 0.1])

    def shifted(phi, x):
        return decay(phi, x) + phi[2]

    assert checked_call(arguments, TIME, Y, GROUP, None, shifted, three, data).designs.psi == pytest.approx(start)


@pytest.mark.parametrize(
    ("error", "starts", "names"),
    [("constant", 0.3, "a"), ("proportional", [0.3], "b"), ("combined", [0.1, 0.3], "ab"), ("exponential", 0.3, "a")],
)
def test_error_parameters_are_starts(error: str, starts, names: str) -> None:
    arguments = name_values({"ErrorModel": error, "ErrorParameters": starts}, NLMEFITSA_DEFAULTS, {})
    made = checked_call(arguments, TIME, np.abs(Y), GROUP, None, decay, START, statset(None, StatsetSA)).error
    assert "".join(entry.name for entry in made.parameters) == names and made.name == error
    assert [float(entry.start) for entry in made.parameters] == pytest.approx(np.ravel(starts))
    assert not any(entry.automatic for entry in made.parameters)


def test_each_column_has_the_start_of_a_single_fit() -> None:
    call, starts = made(beta0=COLUMNS)
    family = call.designs.covariance("chol")
    params = replicate_starts(call, family, starts)
    assert params is not None and len(params) == 3
    for column, start in zip(COLUMNS.T, params, strict=True):
        residual = Y - column[0] * np.exp(-column[1] * TIME)
        assert start.beta == pytest.approx(column)
        sd = np.diag(np.asarray(family.factor(np.asarray(start.covariance))))
        assert sd == pytest.approx(0.6 * column)
        assert np.exp(start.error) == pytest.approx(np.sqrt(np.mean(residual**2)))
    call_with_starts, starts = made(beta0=COLUMNS, ErrorParameters=0.3, Cov0=0.25 * EYE)
    for start in replicate_starts(call_with_starts, family, starts) or ():
        assert np.exp(start.error) == pytest.approx(0.3)
        assert np.diag(np.asarray(family.factor(np.asarray(start.covariance)))) == pytest.approx(0.5)
    assert replicate_starts(call, family, COLUMNS[:, :1]) is None


# ---- the plot that is on by default


def test_the_plot_is_on_where_it_is_seen(monkeypatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    for mode, shown in (("window", True), ("notebook", True), ("file", False)):
        monkeypatch.setattr(live_plot, "_display", lambda mode=mode: mode)
        assert live_plot.default_output_functions() == ((jn.nlmefitoutputfcn,) if shown else ())

    def missing():
        raise live_plot.MissingPlotLibrary("none")

    monkeypatch.setattr(live_plot, "_display", missing)
    assert live_plot.default_output_functions() == ()


def test_output_functions_not_given_differ_from_none() -> None:
    assert statset(None, StatsetSA).OutputFcn is None and statset({"TolX": 1e-4}, StatsetSA).OutputFcn is None
    assert statset({"OutputFcn": None}, StatsetSA).OutputFcn == () == statset({"OutputFcn": []}, StatsetSA).OutputFcn
    assert statset({"OutputFcn": print}, StatsetSA).OutputFcn == (print,)
