"""nlmefit's refusals: one sentence each, naming the argument, what was expected and what was received."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.frontends.matlab.data import matlab_data
from jaxnlme.frontends.matlab.designs import designs
from jaxnlme.frontends.matlab.index_check import check_phi_indices
from jaxnlme.frontends.matlab.model_function import model_function
from jaxnlme.frontends.matlab.nlmefit import NLMEFIT_DEFAULTS
from jaxnlme.frontends.matlab.options import Statset, statset
from tests.frontends.matlab.matlab_calls import COVARIATE, GROUP, GROUPS, START, TIME, N, Y, call, decay_with_size

EYE = np.eye(2)
MISSING = np.where(np.arange(N) == 4, np.nan, TIME)


def three(phi, xfun, vfun):
    return phi[0] * xfun[:, 0]


def whole_group(phi, xfun):
    return np.ones(2) * phi[0]


def mixing(phi, xfun):
    return phi[0] * xfun[:, 0] / xfun[:, 0].sum() + phi[1]


OPTIONS = [
    ({"errormodel": "constant"}, "'errormodel' is not a name-value argument; did you mean 'ErrorModel'"),
    ({"Cov0": EYE}, "'Cov0' is an argument of nlmefitsa"),
    ({"ErrorModel": "additive"}, "ErrorModel must be one of 'constant', 'proportional', 'combined', 'exponential'"),
    ({"ApproximationType": "FOCEI"}, "ApproximationType must be one of .*; received 'FOCEI', did you mean 'FOCE'"),
    ({"Vectorization": "Fully"}, "Vectorization must be one of 'SinglePhi', 'SingleGroup', 'Full'"),
    ({"OptimFun": "fmincon"}, "OptimFun must be one of 'fminsearch', 'fminunc'"),
    ({"RefineBeta0": "yes"}, "RefineBeta0 must be one of 'on', 'off'"),
    ({"CovParameterization": "sqrtm"}, "CovParameterization must be one of 'logm', 'chol'"),
    ({"CovParameterization": "chol", "CovParametrization": "chol"}, "one argument in two spellings"),
    ({"FEConstDesign": EYE, "FEGroupDesign": EYE}, "FEConstDesign and FEGroupDesign were given; at most one"),
    ({"REParamsSelect": [0], "REObsDesign": EYE}, "REParamsSelect and REObsDesign were given; at most one"),
    ({"FEConstDesign": np.eye(2, 3)}, r"beta0 has length 2; expected 3, one start for each column of FEConstDesign"),
    ({"FEConstDesign": np.ones(3), "beta0": [1.0]}, r"FEConstDesign has shape \(3,\); expected \(3, F\)"),
    ({"FEGroupDesign": np.ones((2, 2, 9))}, r"FEGroupDesign has shape \(2, 2, 9\); expected \(2, F, 10\), a page for"),
    ({"FEObsDesign": np.ones((2, 2, GROUPS))}, rf"FEObsDesign has shape .*expected \(2, F, {N}\), a page for each obs"),
    ({"REConstDesign": np.eye(3)}, "beta0 has length 2, and REConstDesign says 3"),
    ({"FEConstDesign": EYE, "REConstDesign": np.eye(3)}, "the number of parameters, P, is not clear"),
    ({"REGroupDesign": np.full((2, 2, GROUPS), np.nan)}, "REGroupDesign has 40 entries that are not finite"),
    ({"FEConstDesign": [["a", "b"], ["c", "d"]]}, "FEConstDesign must hold numbers"),
    ({"REParamsSelect": [1, 2]}, "REParamsSelect names parameter 2 of 2; indices count from 0 here, so 1 is the last"),
    ({"REParamsSelect": [0, 0]}, "REParamsSelect must list parameters once each"),
    ({"REParamsSelect": [-1]}, "indices that count from 0"),
    ({"REParamsSelect": [0.5]}, "indices that count from 0"),
    ({"REParamsSelect": []}, "REParamsSelect leaves no random effect"),
    ({"CovPattern": np.eye(3)}, r"CovPattern has shape \(3, 3\); expected \(2, 2\), a pattern"),
    ({"CovPattern": "full"}, r"CovPattern must be an array; received 'full'. Expected \(2, 2\), a pattern"),
    ({"ParamTransform": 0}, "ParamTransform must be a vector with an entry for each parameter.*received 0"),
    ({"CovPattern": [[1, 1], [0, 1]]}, "CovPattern cannot be completed to a block diagonal: it is not symmetric"),
    ({"CovPattern": [[1, 0.5], [0.5, 1]]}, "CovPattern must hold zeros and ones"),
    ({"ParamTransform": [0, 4]}, "ParamTransform must hold 0 .identity., 1 .log., 2 .probit. or 3 .logit.*received 4"),
    (
        {"ParamTransform": ["log", "logarithm"]},
        "ParamTransform must be one of .*; received 'logarithm', did you mean 'log",
    ),
    ({"ParamTransform": [0]}, "beta0 has length 2, and ParamTransform says 1"),
    ({"beta0": [1.0, np.nan]}, "beta0 must be finite"),
    ({"beta0": EYE}, r"beta0 has shape \(2, 2\); expected \(F,\)"),
    ({"beta0": "ab"}, "beta0 must be a vector of numbers"),
    ({"Options": {"MaxIters": 3}}, "Options has no field 'MaxIters'; did you mean 'MaxIter'"),
    ({"Options": 3}, "Options must be a dictionary or a record"),
    ({"Options": {"TolX": 0}}, "Options.TolX must be a positive number; received 0"),
    ({"Options": {"MaxIter": 2.5}}, "Options.MaxIter must be a whole number"),
    ({"Options": {"Display": "all"}}, "Options.Display must be one of 'off', 'final', 'iter'"),
    ({"Options": {"FunValCheck": 1}}, "Options.FunValCheck must be one of 'on', 'off'"),
    ({"Options": {"DerivStep": -1.0}}, "Options.DerivStep must be a positive number"),
    ({"Options": {"OutputFcn": ["plot"]}}, "Options.OutputFcn must be a function .beta, status, state."),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_are_refused_by_name(options, message: str) -> None:
    with pytest.raises(jn.OptionError, match=message):
        call(**options)


DATA = [
    ({"group": np.append(GROUP, 3)}, f"group has {N + 1} rows and X has {N} rows: expected one row of X"),
    ({"y": Y[:-1]}, f"y has {N - 1} rows"),
    ({"y": np.ones((N, 2))}, r"y has shape .*; expected a vector"),
    ({"y": ["a"] * N}, "y is a list that does not hold one number per row"),
    ({"y": np.full(N, np.nan)}, "no observed value"),
    ({"X": MISSING}, r"x column 'x0' is missing \(NaN\) in row 5;"),
    ({"X": pd.DataFrame({"hours": MISSING})}, r"x column 'hours' is missing \(NaN\) in row 5;"),
    ({"X": np.array(["a"] * N)}, "X column 'x0' holds text"),
    ({"X": np.ones((N, 2, 2))}, r"X has shape .*; expected \(N, H\)"),
    ({"X": np.ones((N, 0))}, "X has no columns"),
    ({"group": np.where(GROUP == 3, np.nan, GROUP)}, "has no label in rows"),
    ({"V": np.ones((3, 2)), "modelfun": decay_with_size}, "V has 3 rows; expected 10, one for each group"),
    ({"V": [np.ones(2)] * 4, "modelfun": decay_with_size}, "V has 4 arrays; expected 10, one for each group"),
    ({"y": np.where(np.arange(N) == 7, 0.0, 1.0), "ErrorModel": "exponential"}, "positive responses; .* in row 8"),
    ({"V": {k: 1.0 for k in range(9)}, "modelfun": decay_with_size}, "group 9 has no entry"),
    ({"V": {k: 1.0 for k in range(11)}, "modelfun": decay_with_size}, "group 10 is not in group"),
    ({"V": ["a"] * 10, "modelfun": decay_with_size}, "V of group 0 does not hold numbers"),
    ({"V": np.where(np.arange(10) == 2, np.inf, 1.0), "modelfun": decay_with_size}, "V of group 2 is missing or inf"),
    ({"V": [np.ones(k + 1) for k in range(10)], "modelfun": decay_with_size}, "V has arrays of 10 different shapes"),
]


@pytest.mark.parametrize(("arguments", "message"), DATA)
def test_data_are_refused_with_rows_and_shapes(arguments, message: str) -> None:
    with pytest.raises(jn.DataError, match=message):
        call(**arguments)


MODELS = [
    ({"modelfun": 3}, r"modelfun must be a function of \(phi, xfun\); received int"),
    ({"modelfun": three}, r"must take \(phi, xfun\), because V is empty; three takes \(phi, xfun, vfun\)"),
    ({"V": COVARIATE, "modelfun": lambda phi, x: phi[0]}, r"must take \(phi, xfun, vfun\)"),
    ({"modelfun": whole_group}, r"returned shape \(2,\) for one observation \(Vectorization 'SinglePhi'"),
    ({"modelfun": whole_group, "Vectorization": "Full"}, r"returned shape \(2,\) for the 6 rows of a group"),
    ({"modelfun": lambda phi, x: phi[:, 0]}, r"phi is \(2,\) in each call here, so write phi\[0\].*xfun is \(1, 1\)"),
    ({"modelfun": mixing, "Vectorization": "SingleGroup"}, "modelfun mixes rows"),
]


@pytest.mark.parametrize(("arguments", "message"), MODELS)
def test_models_are_refused(arguments, message: str) -> None:
    with pytest.raises(jn.ModelError, match=message):
        call(**arguments)


PHI_INDICES = [
    (lambda phi, x: phi[0] * jnp.exp(-phi[2] * x[:, 0]), 2),
    (lambda phi, x: phi[0] * jnp.exp(-phi[3] * x[:, 0]) + phi[-1], 3),
    (lambda phi, x: phi[0] * jnp.exp(-phi[1] * x[:, 0]) + phi[-1], None),
    (lambda phi, x: jnp.sum(phi) + 0 * x[:, 0], None),
    (lambda phi, x: jnp.sum(phi[::3]) + 0 * x[:, 0], None),
    (lambda phi, x: phi.reshape(2, -1)[1, 0] + 0 * x[:, 0], None),
    (lambda phi, x: phi @ jnp.ones(2) + 0 * x[:, 0], None),
]


@pytest.mark.parametrize(("fn", "index"), PHI_INDICES)
@pytest.mark.parametrize("by", ["constant", "group", "observation"])
def test_an_index_beyond_phi_is_named(fn, index: int | None, by: str) -> None:
    """phi[2] of two parameters is refused; phi[-1], sums, strides, halves and a fixed length of phi are not."""
    arguments = {"FEObsDesign": np.repeat(np.eye(2)[:, :, None], N, 2)} if by == "observation" else {}
    vectorization = "SinglePhi" if by == "constant" else "SingleGroup"
    model = (lambda phi, x: fn(phi[0], x)) if by == "observation" else fn
    data = matlab_data(TIME, Y, GROUP, None)
    model_designs = designs(NLMEFIT_DEFAULTS | arguments, START, data)
    structure = model_function(model, vectorization, data.shapes)
    if index is None:
        return check_phi_indices(structure, model_designs, data)
    with pytest.raises(jn.ModelError, match=rf"modelfun reads phi\[{index}\], .* give 2 parameters"):
        check_phi_indices(structure, model_designs, data)


def test_a_short_beta0_is_refused() -> None:
    with pytest.raises(jn.ModelError, match=r"modelfun reads phi\[1\], .* give 1 parameters"):
        call(beta0=[4.0])
    with pytest.raises(jn.ModelError, match=r"modelfun reads phi\[1\]"):
        call(beta0=[4.0], V=COVARIATE, modelfun=decay_with_size)


def test_the_defaults_of_statset() -> None:
    assert statset(None) == Statset() == statset({"TolX": None, "OutputFcn": []})
    assert Statset().tolerance == pytest.approx(1e-8)
    # Within bounds: a fit can count as converged, and the tolerance is above rounding.
    assert Statset(TolFun=10.0, TolX=1.0).tolerance == 1e-6
    assert Statset(TolFun=1e-30).tolerance == 1e-13
