"""Malformed calls and command lines: each ends in one sentence of the package, under ten lines, that names the
argument, what it takes and what to do; none of them waits for a compiler."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxnlme as jn
from jaxnlme.frontends.cli.commands import app
from jaxnlme.numerics.compiling import compile_clock

FRAME = jn.datasets.orange()
DATA = jn.GroupedData.from_frame(FRAME, "Tree", "circumference", ["age"])
RESPONSES = np.ones((1, *DATA.y.shape))
PARAMETERS = [jn.Parameter("asym", 190.0, random=True), jn.Parameter("mid", 700.0), jn.Parameter("scale", 350.0)]


def growth(p, x):
    return p.asym / (1.0 + jnp.exp((p.mid - x.age) / p.scale))


def density(y, f, p, x, v):
    return -0.5 * (y - f) ** 2


MODEL = jn.NLMEModel(growth, PARAMETERS)
PARAMS = MODEL.params(DATA)


def frame(**roles):
    return jn.GroupedData.from_frame(FRAME, **({"group": "Tree", "y": "circumference", "x": ["age"]} | roles))


def model(**declared):
    return jn.NLMEModel(growth, PARAMETERS, **declared)


def fit(method="focei", **options):
    return jn.fit(MODEL, DATA, method, **options)


def table(name="doses", columns=("age",), rows=FRAME):
    return DATA.with_table(name, rows, "Tree", columns)


# --- calls in Python: what is called, and parts of the sentence ---

TABLES: list[tuple[Callable, str]] = [
    (lambda: frame(x={"age": 1}), r"x is \{'age': 1\}; expected one column name or a list"),
    (lambda: frame(x=3), "x is 3; expected one column name or a list"),
    (lambda: frame(x=[3]), "the table has no column 3"),
    (lambda: frame(x=["agee"]), "no column 'agee'; did you mean 'age'"),
    (lambda: frame(y=["circumference", "age"]), "expected one column name: several responses go below each other"),
    (lambda: frame(group=["Tree", "age"]), "'age' is both the group and in x"),
    (lambda: frame(group=["Tree", "Tree"]), "group lists 'Tree' more than once"),
    (lambda: frame(group=None), "no column None"),
    (lambda: frame(need_response="no"), "need_response must be True or False"),
    (lambda: frame(by="Tree"), r"GroupedData\.from_frame has no option 'by'.* It takes frame, group, y"),
    (lambda: jn.GroupedData.from_frame(FRAME, y="circumference"), "needs group, which the call lacks"),
    (lambda: jn.GroupedData.from_frame("orange.csv", "Tree", "y"), "expected a pandas or polars data frame"),
    (lambda: jn.GroupedData.from_csv("orange.csv", "Tree", "y"), "there is no file orange.csv"),
    (lambda: jn.GroupedData.from_csv(3, "Tree", "y"), "path is 3; expected the path of a CSV file"),
    (lambda: jn.GroupedData.from_arrays([1.0, 2.0], 1), "group is 1; expected one label per row"),
    (lambda: jn.GroupedData.from_arrays([1.0, 2.0], [1]), "expected one value per row"),
    (lambda: table("a b"), r"a table must have a Python name, .* v\.name; received 'a b'"),
    (lambda: table("age"), "already have a column or table 'age'"),
    (lambda: table(columns=3), "columns is 3; expected one column name"),
    (lambda: table(rows=3), "expected a pandas or polars data frame or a dictionary"),
    (lambda: DATA.pad_to("a"), "obs, the rows of each group, must be a whole number"),
    (lambda: DATA.bucket_indices(2.5), "2.5 buckets were asked for"),
    (lambda: DATA.select("1"), "groups are chosen by position"),
    (lambda: DATA.with_weights({1: 2.0}), "weights are not numeric"),
]
DECLARATIONS: list[tuple[Callable, str]] = [
    (lambda: jn.Parameter("a"), r"jn\.Parameter needs start, which the call lacks\. It takes name, start"),
    (lambda: jn.Parameter("a", 1.0, "lg"), "'log'"),
    (lambda: jn.Parameter("a", 1.0, random="yes"), "random must be True or False"),
    (lambda: jn.Parameter("a", 1.0, "log", True, (), False, None, None, None, 3), "received 10 arguments by position"),
    (lambda: jn.Parameter("a", FRAME), r"the start must be one number .*; received an array of shape \(35, 3\)"),
    (lambda: jn.NLMEModel(growth), r"jn\.NLMEModel needs parameters"),
    (lambda: jn.NLMEModel("growth", PARAMETERS), "must be a function f"),
    (lambda: jn.NLMEModel(growth, ["asym"]), r"must be jn\.Parameter objects; received 'asym'"),
    (lambda: jn.NLMEModel(growth, {"asym": None}), "the start must be one number"),
    (lambda: model(errors="constant"), "has no option 'errors'; did you mean 'error'"),
    (lambda: model(error="additive"), "error 'additive' is not known"),
    (lambda: model(covariance="diag"), "covariance 'diag' is not known.* Did you mean 'diagonal'"),
    (lambda: model(covariance={"Tree": "ful"}), "covariance 'ful' is not known"),
    (lambda: model(priors={"asym": 3}), r"the prior of 'asym' must be an object of jn\.priors; received 3"),
    (lambda: model(psi="a"), "psi must be an array of numbers; received 'a'"),
    (lambda: model(individual=3), "individual must be a function"),
    (lambda: jn.error.constant(sd=0.2), r"jn\.error\.constant has no option 'sd'\. It takes a, fix, by"),
    (lambda: jn.error.constant(by=["a"]), "by must be the name of one column"),
    (lambda: jn.error.custom(3, {"a": 1.0}), "scale must be a function"),
    (lambda: jn.error.custom(lambda f, b: b, {"a": 1.0}), r"a function of f and a, .*; it takes \(f, b\)"),
    (lambda: jn.error.custom(lambda f, a: a, ["a"]), r"a dictionary .* or a list of jn\.ErrorParameter"),
    (lambda: jn.ErrorParameter("a", 1.0), r"jn\.ErrorParameter needs transform"),
    (lambda: jn.GroupLogLikelihood(density, {"a": 1.0}), r"a list of jn\.ErrorParameter objects"),
    (lambda: jn.GroupLogLikelihood(density, (), 3), "sampler must be a function"),
    (lambda: jn.priors.Normal("a", 1.0), r"jn\.priors\.Normal: mean must be a finite number; received 'a'"),
    (lambda: jn.priors.Normal(0.0, -1.0), "sd must be a positive number; received -1.0"),
    (lambda: jn.priors.Gamma(shape=2.0), r"jn\.Gamma needs rate"),
]
FITS: list[tuple[Callable, str]] = [
    (lambda: jn.fit(MODEL), r"jn\.fit needs data, which the call lacks"),
    (lambda: jn.fit(DATA, MODEL), r"model must be a jn\.NLMEModel; received GroupedData"),
    (lambda: jn.fit(MODEL, FRAME), r"data must be a jn\.GroupedData; received DataFrame\. See GroupedData\.from_frame"),
    (lambda: fit("foce-i"), "did you mean 'focei' or 'foce'"),
    (lambda: model(censoring="M6"), "censoring must be 'M1', 'M2', 'M3' or 'M4'; received 'M6'.$"),
    (lambda: fit(jn.FOCEI), "method .* is not known"),
    (lambda: fit(["focei", 3]), "method 3 is not known"),
    (lambda: jn.fit(MODEL, DATA, "focei", 200), "received 4 arguments by position and takes only model, data, method"),
    (lambda: fit(max_iter=200), "has no option 'max_iter'; did you mean 'max_iterations'"),
    (lambda: fit(seed=1), r"has no option 'seed'; methods that draw take it, as in jn\.SAEM\(seed=1\)"),
    (lambda: fit(verbose=True), "has no option 'verbose'; progress=True"),
    (lambda: fit(start={"asym": "a"}), "value of 'asym': expected a number; received 'a'"),
    (lambda: fit(start={"asym": None}), "value of 'asym': expected a number; received None"),
    (lambda: fit(start={"asim": 1.0}), "did you mean 'asym'"),
    (lambda: fit(start=FRAME), "start must be Params, a mapping of names to values, or a Fit"),
    (lambda: fit(checkpoint="/nowhere/at/all"), "the folder /nowhere/at does not exist"),
    (lambda: fit(checkpoint="/"), "checkpoint must be the path of a file; / is a folder"),
    (lambda: fit(devices=99), "this process has"),
    (lambda: fit("agq", restricted=True), "Laplace's method"),
    (lambda: fit(jn.SAEM(), max_iterations=10), "has max_iterations and tolerance of its own"),
    (lambda: jn.SAEM(n_chains=3), r"jn\.SAEM has no option 'n_chains'; did you mean 'chains'"),
    (lambda: jn.SAEM(100, 3), r"jn\.SAEM received 2 arguments by position and takes only iterations"),
    (lambda: jn.FOCEI(steps=3), r"jn\.FOCEI has no option 'steps'; did you mean 'mode_steps'"),
    (lambda: jn.FOCEI(3), r"takes none so: give the others by name, as in mode_steps="),
    (lambda: jn.AGQ(3, nodes=3), "received nodes twice"),
    (lambda: jn.MaximumLikelihood("focei"), r"such as jn\.FOCEI\(\); received 'focei'"),
    (lambda: jn.Moves(walks=3), r"jn\.Moves has no option 'walks'; did you mean 'walk'"),
    (lambda: jn.fit_groups(MODEL, DATA, "pooled"), "received 3 arguments by position and takes only model, data so"),
    (lambda: jn.fit_many(MODEL, DATA), "needs responses and method"),
    (lambda: jn.fit_many(MODEL, DATA, RESPONSES, jn.FOCEI()), r"jn\.SAEM\(\.\.\.\) or jn\.IMP\(\.\.\.\)"),
    (lambda: jn.log_likelihood(MODEL, {"asym": 1.0}, DATA), r"params must be a Params, from model\.params\(data\)"),
    (lambda: jn.log_likelihood(MODEL, PARAMS, DATA, jn.SAEM()), "method an? SAEM is not known"),
    (lambda: jn.log_likelihood(MODEL, PARAMS, DATA, "focei", "a"), "weights must be numbers, one a group"),
    (lambda: jn.log_likelihood(MODEL, PARAMS, FRAME), r"data must be a jn\.GroupedData"),
    (lambda: jn.evaluate_groups(MODEL, PARAMS, DATA), r"problem must be a jn\.Problem"),
    (lambda: jn.estimate(MODEL, {"asym": 1.0}, DATA), "params must be a Params"),
    (lambda: MODEL.params(DATA, [1.0]), "values must be a dictionary from names to numbers"),
    (lambda: MODEL.params(DATA, psi="a"), "psi must be a matrix of numbers"),
    (lambda: MODEL.values({"asym": 1.0}, DATA), "params must be a Params"),
    (lambda: jn.with_responses(DATA, []), r"problem must be a jn\.Problem"),
    (lambda: jn.load("/nowhere/fit.jaxnlme"), "there is no file /nowhere/fit.jaxnlme"),
    (lambda: jn.enable_compilation_cache(3), "path must be the path of a file"),
]

X = np.tile([0.5, 1.0, 2.0, 4.0], 4)[:, None]
GROUP = np.repeat(np.arange(4), 4)
Y = np.exp(-0.4 * X[:, 0]) + 0.01 * GROUP


def decay(phi, x):
    return phi[0] * jnp.exp(-phi[1] * x[:, 0])


def matlab(*pairs, function=jn.nlmefit, X=X, y=Y, group=GROUP, V=None, fun=decay, beta0=(1.0, 0.4), **options):
    return function(X, y, group, V, fun, beta0, *pairs, **options)


MATLAB: list[tuple[Callable, str]] = [
    (lambda: jn.nlmefit(X, Y, GROUP, decay, [1.0]), r"jn\.nlmefit needs beta0"),
    (lambda: matlab("ErrorModel"), "'ErrorModel' has no value"),
    (lambda: matlab("errormodel", "constant"), "did you mean 'ErrorModel'"),
    (lambda: matlab("ErrorModel", "additive"), "ErrorModel must be one of 'constant'"),
    (lambda: matlab(NIterations=3), "an argument of nlmefitsa"),
    (lambda: matlab(max_iterations=3), "'max_iterations' is not a name-value argument"),
    (lambda: matlab(group=np.ones(16)), "expected at least two groups: psi is the covariance between groups"),
    (lambda: matlab(group=np.ones(16), function=jn.nlmefitsa), "expected at least two groups"),
    (lambda: matlab(group=GROUP[:-1]), "group has 15 rows"),
    (lambda: matlab(V=3), r"V is 3; expected \(M, G\)"),
    (lambda: matlab(V=[[1], [2], [3], [4]]), r"modelfun must take \(phi, xfun, vfun\)"),
    (lambda: matlab(beta0={"a": 1.0}), "beta0"),
    (lambda: matlab(fun="decay"), "modelfun must be a function"),
    (lambda: matlab(REParamsSelect=[5]), "REParamsSelect"),
    (lambda: matlab(CovPattern="full"), "CovPattern must be an array"),
    (lambda: matlab(ParamTransform="log"), "ParamTransform"),
    (lambda: matlab(ApproximationType="FOCEI"), "'FOCE'"),
    (lambda: matlab(Options={"maxiter": 3}), "did you mean 'MaxIter'"),
    (lambda: matlab(Options={"Display": True}), r"Options\.Display must be one of 'off'"),
    (lambda: matlab(function=jn.nlmefitsa, Replicates=0), "Replicates must be a whole number"),
    (lambda: matlab(function=jn.nlmefitsa, ErrorParameters=[1.0, 2.0]), "ErrorParameters must hold 1"),
]
CALLS = [*TABLES, *DECLARATIONS, *FITS, *MATLAB]


def assert_one_sentence(text: str, part: str) -> None:
    assert re.search(part, " ".join(text.split())), text
    assert len(text.splitlines()) < 10 and len(text) < 700, text
    assert "\x1b" not in text and "Traceback" not in text


@pytest.mark.parametrize(("call", "part"), CALLS, ids=[part[:40] for _, part in CALLS])
def test_malformed_calls(call, part):
    timings: dict[str, float] = {}
    with compile_clock(timings), pytest.raises(jn.JaxnlmeError) as caught:
        call()
    assert_one_sentence(str(caught.value), part)
    assert str(caught.value).endswith((".", "?", ")"))
    assert "compile" not in timings, "the call was refused only after a program was compiled"


def test_arguments_of_the_wrong_kind_are_type_errors_too():
    for call in (lambda: fit(max_iter=5), lambda: jn.fit(MODEL), lambda: jn.Parameter("a")):
        with pytest.raises(TypeError):
            call()


def wrong_inside(phi, x):
    return growth(phi, x, 3)


def test_type_errors_of_the_users_own_code_surface_as_themselves():
    with pytest.raises(TypeError, match=r"growth\(\) takes 2 positional arguments"):
        jn.fit(jn.NLMEModel(wrong_inside, PARAMETERS), DATA)


@pytest.mark.parametrize(
    ("fun", "part"),
    [
        (lambda phi, x: phi.ka * x[:, 0], r"reads an attribute 'ka'.*phi\[0\].*xfun\[:, 0\]"),
        (lambda phi, x: None, "modelfun returned None; expected numbers"),
        (lambda phi, x: phi[0] if phi[0] > 0 else phi[1], "a Python `if`"),
        (lambda phi, x: phi[0] * np.exp(x[:, 0]), "not numpy or math"),
    ],
)
def test_model_functions_of_matlab(fun, part):
    with pytest.raises(jn.ModelError) as caught:
        matlab(fun=fun)
    assert_one_sentence(str(caught.value).replace("A Python", "a Python"), part)


# --- command lines ---

MODEL_FILE = """
import jax.numpy as jnp
import jaxnlme as jn

def growth(phi, x):
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.age) / phi.scale))

model = jn.NLMEModel(growth, [
    jn.Parameter("asym", 190.0, random=True), jn.Parameter("mid", 700.0), jn.Parameter("scale", 350.0),
])
data = dict(group="Tree", y="circumference", x=["age"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines")
    (path / "model.py").write_text(MODEL_FILE)
    (path / "no_model.py").write_text("modell = 3\n")
    (path / "wrong_error.py").write_text(MODEL_FILE.replace("350.0),\n]", "350.0),\n], error='additive'"))
    (path / "wrong_data.py").write_text(MODEL_FILE.replace('x=["age"]', "x=dict(age=1)"))
    (path / "tuple.py").write_text(MODEL_FILE + "data = ('Tree', 'circumference')\n")
    FRAME.to_csv(path / "table.csv", index=False)
    FRAME.assign(age="old").to_csv(path / "text.csv", index=False)
    (path / "empty.csv").write_text("")
    return path


LINES: list[tuple[str, str]] = [
    ("fti", "No such command 'fti'"),
    ("fit", "Missing argument 'MODEL.py'"),
    ("fit model.py", "Missing argument 'DATA.csv'"),
    ("fit model.py table.csv", "Missing option '--out'"),
    ("fit nowhere.py table.csv --out out", "'nowhere.py' does not exist"),
    ("fit model.py nowhere.csv --out out", "'nowhere.csv' does not exist"),
    ("fit model.py empty.csv --out out", "cannot be read as a table with commas"),
    ("fit model.py text.csv --out out", "'age' is a text column, .* code it as numbers"),
    ("fit model.py table.csv --out table.csv", "--out: the folder table.csv cannot be made or written to"),
    ("fit model.py table.csv --out table.csv/below", "--out: the folder table.csv/below cannot be made"),
    ("fit model.py table.csv --out out --methods focei", "No such option: --methods"),
    ("fit model.py table.csv --out out --method focie", "did you mean"),
    ("fit model.py table.csv --out out --method focei --seed 1", "--seed goes with --method saem or imp"),
    ("fit model.py table.csv --out out --method saem --seed a", "--seed.* valid int"),
    ("fit model.py table.csv --out out --max-iterations -1", "--max-iterations"),
    ("fit model.py table.csv --out out --max-iterations ten", "--max-iterations.* valid int"),
    ("fit model.py table.csv --out out --agq-nodes 3", "--agq-nodes goes with --method agq"),
    ("fit model.py table.csv --out out --starts pool", "starts must be"),
    ("fit model.py table.csv --out out --method agq --restricted", "Laplace's method"),
    ("fit model.py table.csv --out out --y girth", "no column 'girth'"),
    ("fit model.py table.csv --out out --x Age", "did you mean 'age'"),
    ("fit model.py table.csv --out out --group", "Option '--group' requires an argument"),
    ("fit no_model.py table.csv --out out", "defines no name `model`, .* did you mean 'modell'"),
    ("fit wrong_error.py table.csv --out out", "error 'additive' is not known"),
    ("fit wrong_data.py table.csv --out out", "expected one column name or a list"),
    ("fit tuple.py table.csv --out out", "data must be a dict like"),
    ("demo --out table.csv", "--out: the folder table.csv cannot be made"),
    ("doctor now", "Got unexpected extra argument"),
]


@pytest.mark.parametrize(("line", "part"), LINES, ids=[line for line, _ in LINES])
def test_malformed_command_lines(folder, monkeypatch, line, part):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("jaxnlme.frontends.cli.commands._cache", lambda off: None)
    timings: dict[str, float] = {}
    with compile_clock(timings):
        result = CliRunner().invoke(
            app, [*line.split(), *(["--no-cache"] if "--out" in line and line[-7:] != "--group" else [])]
        )
    assert result.exit_code == 2, result.output
    assert_one_sentence(result.output, part)
    assert "compile" not in timings, "the line was refused only after a program was compiled"
