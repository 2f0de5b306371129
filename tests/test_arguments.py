"""Malformed calls of public functions end in one sentence of the package, before anything is computed."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind

PARAMETERS = [jn.Parameter("asym", 190.0, random=True), jn.Parameter("mid", 700.0), jn.Parameter("scale", 350.0)]
NAN = float("nan")


def growth(p, x):
    return p.asym / (1.0 + jnp.exp((p.mid - x.age) / p.scale))


MODEL = jn.NLMEModel(growth, PARAMETERS)


@pytest.fixture(scope="module")
def data():
    return jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", ["age"])


@pytest.fixture(scope="module")
def fit(data):
    return jn.fit(MODEL, data)


OPTIONS_OF_FIT = {
    "max_iterations": ["ten", 2.5, True, -1, NAN, None, [3]],
    "tolerance": ["small", NAN, -1.0, 0.0, True, None, [1e-8], float("inf")],
    "standard_errors": ["no", 1, None],
    "restricted": ["no", 0],
    "throw": ["yes", None],
    "progress": ["no", 3],
    "callbacks": [[3], print, None, 3, {"f": print}],
    "on_bad_group": ["leave", ["stop"], None],
    "starts": ["pool", {"pooled": 1}, True],
    "chunk_groups": ["two", 2.5, 0, True],
    "checkpoint": [3, ["a"], ""],
    "devices": [1.5, "one", {}],
    "method": [3, None, {"focei": 1}],
    "start": [3, [1.0], "asym"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, bad in OPTIONS_OF_FIT.items() for value in bad])
def test_options_of_fit(data, name, value):
    with pytest.raises(jn.OptionError, match=name):
        jn.fit(MODEL, data, **{name: value})


def test_callbacks_are_a_list(data):
    with pytest.raises(jn.OptionError, match=r"must be a list of functions; received one function: write callbacks=\["):
        jn.fit(MODEL, data, callbacks=print)


def test_whole_numbers_of_numpy_are_accepted(data):
    numbers = {"max_iterations": np.int64(0), "tolerance": np.float64(1e-6)}
    assert jn.fit(MODEL, data, **numbers, standard_errors=np.False_).options["max_iterations"] == 0


OPTIONS_OF_METHODS = {
    (jn.FO, jn.FOCE, jn.FOCEI, jn.Laplace, jn.AGQ, jn.ImportanceSampling, jn.LME, jn.RELME): {
        "mode_steps": ["many", 2.5, 0, True, None],
        "mode_tolerance": ["small", NAN, -1.0, None, True],
    },
    (jn.LME,): {"reweightings": ["a", 1.5, 0]},
    (jn.Laplace, jn.AGQ, jn.ImportanceSampling): {"curvature": ["exct", 3, None, ["exact"]]},
    (jn.AGQ,): {"nodes": ["3", 2.5, True, 0]},
    (jn.ImportanceSampling,): {"draws": ["a", 1, 2.5], "df": ["a", -1.0, NAN], "seed": ["a", 1.5]},
    (jn.SAEM, jn.IMP): {
        "iterations": ["a", True, 2.5, [[1], [2, 3]], -1],
        "draws": ["a", 2.5, 1],
        "replicates": ["a", 0, True],
        "likelihood": ["iss", 3, None],
        "information": [["louis"], "lois"],
        "m_step": [None, "aut"],
        "nodes": ["a", 1.5],
        "seed": ["a", 1.5, True],
        "tolerance": ["a", 0.0, 2.0, NAN, True],
        "max_iterations": ["a", 0, 2.5],
    },
    (jn.SAEM,): {"annealing": ["a", 1.0, -0.1, NAN], "chains": ["4", 0], "burn_in": [-1, "a"], "moves": [3, "all"]},
}


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (method, name, value)
        for methods, options in OPTIONS_OF_METHODS.items()
        for method in methods
        for name, bad in options.items()
        for value in bad
    ],
)
def test_options_of_methods(method, name, value):
    with pytest.raises(jn.OptionError, match=name):
        method(**{name: value})


def test_options_of_maximum_likelihood():
    for options in ({"max_iterations": "a"}, {"max_iterations": -1}, {"tolerance": "a"}, {"tolerance": -1.0}):
        with pytest.raises(jn.OptionError, match=next(iter(options))):
            jn.MaximumLikelihood(jn.FOCEI(), **options)


def test_traced_numbers_of_methods_are_accepted():
    def steps(n):
        method = jn.FOCEI(mode_steps=n, mode_tolerance=1e-6 * n)
        return jn.MaximumLikelihood(method, n, 1e-8 * n).max_iterations + method.search.steps

    assert jax.jit(steps)(3) == 6
    assert jax.vmap(steps)(jnp.arange(1, 3)).tolist() == [2, 4]


METHODS_OF_FIT = {
    "update": {
        "max_iterations": ["a", 2.5],
        "tolerance": ["a", -1.0],
        "drop": [3, [3]],
        "random": [3, {"asym": True}],
        "covariates": [["age"], 3],
        "error": [{"a": 3}, ["constant"], 3],
        "standard_errors": ["no"],
        "callbacks": [print],
        "method": [3],
    },
    "bootstrap": {
        "n": ["a", 2.5, True, -1],
        "seed": ["a", 1.5],
        "kind": ["cas", 3, None],
        "by": [3, [3]],
        "max_iterations": ["a"],
        "width": ["a", 0],
        "progress": ["no"],
    },
    "jackknife": {"max_iterations": [2.5, "a"], "width": [0, "a"], "progress": [3]},
    "multistart": {
        "n": ["a", 2.5],
        "spread": ["a", NAN, 0.0, True],
        "around": [3, "stat"],
        "seed": [-1],
        "width": [True],
        "progress": ["no"],
    },
    "profile": {
        "names": [3, [3], {"asym": 1}],
        "level": ["a", 95, True, NAN],
        "points": ["a", 2.5, 0],
        "width": ["a"],
        "progress": ["no"],
    },
    "predict": {"level": ["grp", 3, ["group"], None]},
    "parameters": {"level": ["grp", 3]},
    "simulate": {"n": ["a", 2.5, True, 0], "key": ["a", 1.5, None]},
    "residuals": {"kinds": [3, [3], [], {"pres": 1}]},
    "save": {"path": [3, None, ""]},
    "confidence_intervals": {"level": ["a", 95, None]},
}


def test_options_of_the_methods_of_a_fit(fit):
    for method, options in METHODS_OF_FIT.items():
        for name, bad in options.items():
            for value in bad:
                with pytest.raises(jn.OptionError, match=name):
                    getattr(fit, method)(**{name: value})


def test_model_and_data_of_the_wrong_type(data):
    responses = np.ones((1, *data.y.shape))
    for call in (
        lambda: jn.fit(growth, data),
        lambda: jn.fit_groups(growth, data),
        lambda: jn.fit_many(growth, data, responses, jn.SAEM()),
    ):
        with pytest.raises(jn.ModelError, match=r"model must be a jn\.NLMEModel; received function"):
            call()
    with pytest.raises(jn.ModelError, match=r"data must be a jn\.GroupedData"):
        jn.fit_many(MODEL, 3, responses, jn.SAEM())


def test_options_of_other_functions(data):
    responses = np.ones((1, *data.y.shape))
    for call, part in [
        (lambda: jn.fit_groups(MODEL, data, max_steps="a"), "max_steps"),
        (lambda: jn.fit_groups(MODEL, data, starts="groups"), "starts"),
        (lambda: jn.fit_many(MODEL, data, "a", jn.SAEM()), "responses"),
        (lambda: jn.fit_many(MODEL, data, responses, jn.SAEM(), width=2.5), "width"),
        (lambda: jn.fit_many(MODEL, data, responses, jn.SAEM(), progress="no"), "progress"),
        (lambda: jn.load(3), "path"),
        (lambda: jn.load("a.fit", trust_code="yes"), "trust_code"),
    ]:
        with pytest.raises(jn.OptionError, match=part):
            call()


def test_functions_of_the_host_inside_jax_programs(data, fit):
    def with_start(function):
        return lambda a: function(MODEL, data, start={"asym": a})

    def enclosed(a):
        return jn.fit(jn.NLMEModel(lambda p, x: a * growth(p, x), PARAMETERS), data).log_likelihood

    new = {"Tree": ["x"], "age": [100.0]}
    calls = [
        lambda: jax.jit(with_start(jn.fit))(190.0),
        lambda: jax.grad(with_start(jn.fit))(190.0),
        lambda: jax.vmap(with_start(jn.fit))(jnp.ones(2)),
        lambda: jax.vmap(enclosed)(jnp.ones(2)),
        lambda: jax.jit(lambda a: a + jn.fit(MODEL, data).log_likelihood)(1.0),
        lambda: jax.jit(with_start(jn.fit_groups))(190.0),
        lambda: jax.jit(lambda y: jn.fit_many(MODEL, data, y, jn.SAEM()))(jnp.ones((1, *data.y.shape))),
        lambda: jax.vmap(lambda a: fit.update(start={"asym": a}))(jnp.ones(2)),
        lambda: jax.jit(lambda a: a + fit.bootstrap(2).se)(1.0),
        lambda: jax.jit(lambda a: a + fit.residuals())(1.0),
        lambda: jax.jit(lambda key: fit.simulate(key=key))(jax.random.key(0)),
        lambda: jax.vmap(lambda a: fit.predict(new | {"age": a[None]}, "population"))(jnp.ones(2)),
    ]
    for call in calls:
        with pytest.raises(jn.OptionError, match=r"runs on the host.*jn\.estimate.*jn\.log_likelihood"):
            call()


def test_data_of_traced_arrays(data):
    for call in (
        lambda: jax.jit(lambda y: jn.GroupedData.from_frame({"g": [1], "y": y}, "g", "y"))(jnp.ones(1)),
        lambda: jax.vmap(lambda y: data.with_response(y).y)(jnp.ones((2, data.n_rows))),
    ):
        with pytest.raises(jn.DataError, match=r"is traced by .*GroupedData runs on the host"):
            call()
    with pytest.raises(jn.DataError, match="y is not numeric"):
        data.with_response("a")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_models_that_shorten_their_numbers(data, dtype):
    short = jn.NLMEModel(lambda p, x: growth(p, x).astype(dtype), PARAMETERS)
    for function in (jn.fit, jn.fit_groups):
        with pytest.raises(jn.ModelError, match=r"returned float(32|16).*float64.*leave that out"):
            function(short, data)


@pytest.mark.parametrize("name", ["class", "lambda", "1a", "a b", "", "a-b", 3, None])
def test_parameter_names(name):
    with pytest.raises(jn.ModelError, match="parameter names must be Python names"):
        jn.Parameter(name, 1.0)


def test_declarations_of_the_wrong_type():
    for call, part in [
        (lambda: jn.NLMEModel(growth, PARAMETERS, error={"PK": 3}), "endpoint .PK.: error must be one residual model"),
        (lambda: jn.NLMEModel(growth, PARAMETERS, error=["constant"]), "error must be one residual model"),
        (lambda: jn.NLMEModel(growth, PARAMETERS, error=jn.error.constant), "Call it"),
        (lambda: jn.NLMEModel(growth, 3), "parameters must be a list"),
        (lambda: jn.NLMEModel(growth, "asym"), "parameters must be a list"),
        (lambda: jn.NLMEModel(growth, PARAMETERS, priors=[3]), "priors must be a dictionary"),
        (lambda: jn.NLMEModel(growth, PARAMETERS, fix_psi="no"), "fix_psi"),
        (lambda: jn.NLMEModel(growth, PARAMETERS + PARAMETERS[:1]), r"repeated: \['asym'\]"),
        (lambda: jn.Parameter("a", "one"), "'a': the start must be one number"),
        (lambda: jn.Parameter("a", [1.0, 2.0]), "'a': the start must be one number"),
        (lambda: jn.Parameter("a", 1.0, sd="one"), "sd must be positive, one number"),
        (lambda: jn.Parameter("a", 1.0, prior=3), r"prior must be an object of jn\.priors"),
        (lambda: jn.Parameter("a", 1.0, covariates=3), "covariates must be a list"),
        (lambda: jn.Parameter("a", 1.0, covariates=[3]), "a covariate must be a formula"),
        (lambda: jn.Parameter("a", 1.0, covariates={"wt": "one"}), "'wt': start must be one number"),
        (lambda: jn.Parameter("a", 1.0, fixed=True), "no option 'fixed'; did you mean 'fix'"),
        (lambda: jn.Covariate("wt", fixed=True), "no option 'fixed'; did you mean 'fix'"),
        (lambda: jn.ErrorParameter("a", 1.0, "log", fixed=True), "no option 'fixed'; did you mean 'fix'"),
        (lambda: jn.ErrorParameter("a", "one", "log"), "must start at one number"),
        (lambda: jn.ErrorParameter("a", 1.0, "log", fix="no"), "fix must be True or False"),
        (lambda: jn.error.constant(a=jn.ErrorParameter("a", 0.2, "log")), "must start at one number"),
    ]:
        with pytest.raises((jn.ModelError, jn.OptionError), match=part):
            call()


def test_covariances_of_the_wrong_type(data):
    for covariance in ({"asym": 1}, 3, None):
        with pytest.raises(jn.OptionError, match="covariance must be one of 'diagonal'"):
            jn.fit(jn.NLMEModel(growth, PARAMETERS, covariance=covariance), data)


def one_slope(phi, x):
    return phi[0] * x[:, 0]


@pytest.mark.parametrize("function", [jn.nlmefit, jn.nlmefitsa])
def test_pairs_of_matlab(function):
    call = (np.ones((4, 1)), np.ones(4), np.ones(4), None, one_slope, [1.0])
    for pairs, part in [
        (("REParamSelect", [0]), "did you mean 'REParamsSelect'"),
        (("REParamsSelect",), "'REParamsSelect' has no value"),
        (("ErrorModel", "constant", "REParamsSelect"), "'REParamsSelect' has no value"),
        ((3, 4), "received 3 where a name is expected"),
        (("ErrorModel", "constant", "ErrorModel", "constant"), "given twice"),
        (("ErrorModel", "constnt"), "did you mean 'constant'"),
    ]:
        with pytest.raises(jn.OptionError, match=part):
            function(*call, *pairs)
    with pytest.raises(jn.OptionError, match="given twice"):
        function(*call, "ErrorModel", "constant", ErrorModel="constant")


def visits(**changes):
    group = np.repeat(np.arange(4), 3)
    year = np.where(group % 2, 2022, 2021)
    columns = {"g": group, "t": np.tile([0.0, 1.0, 2.0], 4), "year": year, "text": year.astype(str), "half": year / 2}
    frame = pd.DataFrame(columns | {"y": 1.0 + 0.1 * group} | changes)
    return jn.GroupedData.from_frame(frame, "g", "y", "t", ["year", "text", "half"])


def with_covariate(formula):
    return jn.NLMEModel(lambda p, x: p.a + 0.0 * x.t, [jn.Parameter("a", 1.0, covariates=[formula])])


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("C(year)", "C(year)[T.2022]"),
        ("C(year, Treatment(2022))", "C(year, Treatment(2022))[T.2021]"),
        ("text", "text[T.2022]"),
        ("C(half)", "C(half)[T.1011.0]"),
    ],
)
def test_names_of_levels(formula, name):
    assert bind(with_covariate(formula), visits()).density.beta_names[1] == f"a ~ {name}"


def test_levels_that_the_fit_has_not_seen():
    for formula, changes, part in [
        ("C(year)", {"year": 2023}, "column 'year' has the level 2023, .*known levels: 2021, 2022"),
        ("text", {"text": "2023"}, "column 'text' has the level '2023', .*known levels: '2021', '2022'"),
        ("C(text)", {"text": "2023"}, "column 'text' has the level '2023', .*known levels: '2021', '2022'"),
    ]:
        model = with_covariate(formula)
        with pytest.raises(jn.ModelError, match=part):
            bind(model, visits(**changes), bind(model, visits()))
    model = with_covariate("log(half)")
    assert bind(model, visits(half=7.0), bind(model, visits())).data.n_groups == 4


@pytest.mark.parametrize("formula", ["factor(year)", "as.factor(year)", "t + factor(year)"])
def test_factor_of_r(formula):
    with pytest.raises(jn.ModelError, match=r"write C\(column\), or use a column of text"):
        bind(with_covariate(formula), visits())


def test_fits_while_jax_looks_for_nan(data, fit):
    """jax_debug_nans is off while a fit runs, and on again behind it."""
    with jax.debug_nans(True):
        with pytest.warns(UserWarning, match=r"jn\.fit switches jax_debug_nans and jax_debug_infs off while it runs"):
            debugged = jn.fit(MODEL, data)
        assert jax.config.jax_debug_nans
    assert debugged.log_likelihood == fit.log_likelihood


FORK = """
import os, sys, warnings
import jax.numpy as jnp
import jaxnlme as jn
from jaxnlme.arguments import check_not_forked
warnings.simplefilter("ignore")
if os.fork() == 0:  # nothing has been computed: JAX may start here
    check_not_forked("here")
    os._exit(0)
os.wait()
jnp.ones(1) + 1
if os.fork() == 0:
    for call in (lambda: jn.fit(None, None), lambda: jn.log_likelihood(None, None, None)):
        try:
            call()
        except jn.JaxnlmeError as error:
            print(error, flush=True)
    os._exit(0)
os.wait()
check_not_forked("the parent")
print("end")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_fork_of_a_process_in_which_jax_has_started():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    *refused, end = done.stdout.splitlines()
    assert done.returncode == 0 and end == "end", done.stderr
    assert len(refused) == 2
    for sentence, name in zip(refused, ("jn.fit", "log_likelihood"), strict=True):
        assert sentence.startswith(f"{name} cannot run here: this process was forked")
        assert 'get_context("spawn")' in sentence
