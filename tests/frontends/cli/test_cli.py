"""The command line: files it writes, exit codes, and messages without our tracebacks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import jaxnlme as jn
from jaxnlme.data import datasets
from jaxnlme.frontends.cache import compilation_cache_folder, enable_compilation_cache
from jaxnlme.frontends.cli.commands import app

matplotlib.use("Agg")
REPORT = {"report.html", "summary.txt", "estimates.csv", "random_effects.csv", "fit.jaxnlme"}
PICTURES = {"individual_fits.png", "observed_predicted.png", "residuals.png"}
MODEL = """
import jax.numpy as jnp
import jaxnlme as jn

def growth(phi, x):
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.age) / phi.scale))

model = jn.NLMEModel(growth, [
    jn.Parameter("asym", 190.0, random=True), jn.Parameter("mid", 700.0), jn.Parameter("scale", 350.0),
])
"""
COLUMNS = "data = dict(group='Tree', y='circumference', x=['age'])\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL + COLUMNS)
    datasets.orange().to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fit(folder: Path, *arguments: str) -> Result:
    return call("fit", folder / "model.py", folder / "table.csv", "--out", folder / "out", *arguments)


def test_demo_as_its_own_process_writes_the_report(tmp_path):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    done = subprocess.run(
        [sys.executable, "-m", "jaxnlme", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "jaxnlme-demo"
    assert {file.name for file in out.iterdir()} == REPORT | PICTURES
    assert str(out) in done.stdout
    assert done.stdout.startswith((out / "summary.txt").read_text().splitlines()[0])
    # A demo that stays at its start (-222) fails here; estimators' tests hold the optimum against other programs.
    assert jn.load(out / "fit.jaxnlme").log_likelihood == pytest.approx(-179.7016, abs=1e-3)
    assert (out / "individual_fits.png").stat().st_size > 20_000


def test_fit_writes_the_report_and_exits_with_0(folder):
    result = fit(folder)
    assert result.exit_code == 0, result.output
    out = folder / "out"
    assert {file.name for file in out.iterdir()} == REPORT | PICTURES
    saved = jn.load(out / "fit.jaxnlme")
    assert saved.converged
    estimates = pd.read_csv(out / "estimates.csv", index_col=0)
    assert estimates.loc["asym", "estimate"] == pytest.approx(saved.values["asym"], rel=1e-12)
    assert list(pd.read_csv(out / "random_effects.csv").columns) == ["Tree", "asym"]
    # The saved model is its own: it predicts after its file is gone.
    (folder / "model.py").unlink()
    assert len(jn.load(out / "fit.jaxnlme", trust_code=True).predict(level="population")) == 35


def test_fit_that_does_not_converge_exits_with_1(folder):
    result = fit(folder, "--max-iterations", "0")
    assert result.exit_code == 1
    assert result.output.startswith("NOT CONVERGED")
    assert (folder / "out" / "summary.txt").read_text().startswith("NOT CONVERGED")


def test_a_fit_by_simulation_is_reported_with_its_trajectories(folder):
    result = fit(folder, "--method", "saem", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "decreasing steps" in result.output and "Monte Carlo error" in result.output
    files = {file.name for file in (folder / "out").iterdir()}
    assert files == REPORT | PICTURES | {"trajectories.png", "individual_parameters.png"}
    saved = jn.load(folder / "out" / "fit.jaxnlme", trust_code=True)
    assert saved.method == "SAEM" and saved.estimator.seed == 3
    # Laplace's method is exact: the model is linear in asym. Draws leave an error of some hundredths.
    assert saved.log_likelihood == pytest.approx(jn.fit(saved.model, saved.data, "laplace").log_likelihood, abs=0.2)
    fit(folder, "--method", "imp", "--max-iterations", "70")
    assert jn.load(folder / "out" / "fit.jaxnlme").estimator.max_iterations == 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "--seed goes with --method saem or imp; the method here is focei."),
        (["--method", "lme", "--replicates", "2"], "--replicates goes with --method saem or imp"),
        (["--method", "saem,focei", "--max-iterations", "9"], "are not the same"),
        (["--method", "seam"], "did you mean 'saem'?"),
    ],
)
def test_options_of_other_methods_are_refused(folder, arguments, message):
    result = fit(folder, *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_without_matplotlib_the_report_has_no_pictures_and_says_so(folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    (folder / "out").mkdir()
    (folder / "out" / "trajectories.png").write_bytes(b"of an earlier fit")
    result = fit(folder, "--max-iterations", "0")
    assert "pip install 'jaxnlme[plot]'" in result.output
    assert {file.name for file in (folder / "out").iterdir()} == REPORT


def test_columns_of_the_command_line_win_over_the_file(folder):
    (folder / "model.py").write_text(MODEL)
    assert "--group" in fit(folder).output
    result = fit(folder, "--group", "Tree", "--y", "circumference", "--x", "age", "--method", "agq", "--agq-nodes", "3")
    assert result.exit_code == 0, result.output
    assert "AGQ(3)" in result.output


def test_every_method_and_start_of_fit_is_there(folder):
    result = fit(folder, "--method", "relme", "--starts", "groups")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "RELME, restricted likelihood" in output and "Started from fits of 5 single groups" in output
    help_text = call("fit", "--help").output
    assert "lme" in help_text and "pooled|groups" in help_text


def test_load_of_the_model_file_reads_the_table(folder):
    loader = "def load(path):\n    return jn.GroupedData.from_csv(path, 'Tree', 'circumference', ['age'])\n"
    (folder / "model.py").write_text(MODEL + loader)
    assert fit(folder).exit_code == 0
    refused = fit(folder, "--y", "circumference")
    assert refused.exit_code == 2
    assert "--y would be ignored" in refused.output


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (MODEL + COLUMNS, ["--method", "focie"], "or 'focei'"),
        (MODEL + COLUMNS, ["--agq-nodes", "3"], "--agq-nodes goes with --method agq"),
        (MODEL + COLUMNS, ["--method", "agq", "--restricted"], "Laplace's method"),
        (MODEL + COLUMNS, ["--method", "lme", "--restricted"], "is 'relme'"),
        (MODEL + COLUMNS, ["--starts", "group"], "'pooled', 'groups' or 'multi'"),
        (MODEL + COLUMNS, ["--y", "girth"], "no column 'girth'"),
        (MODEL.replace("model =", "modell ="), [], "did you mean 'modell'"),
        ("model = 3\n", [], "must be a jn.NLMEModel"),
        (MODEL + COLUMNS.replace("y=", "why="), [], "unknown entry 'why'"),
        (MODEL + "data = 3\n", [], "data must be a dict"),
        (MODEL + COLUMNS.replace("age", "Age"), [], "did you mean 'age'"),
        (MODEL.replace("190.0", "jnp.nan") + COLUMNS, [], "parameter 'asym'"),
    ],
)
def test_refusals_are_a_message_and_exit_code_2(folder, model, arguments, message):
    (folder / "model.py").write_text(model)
    result = fit(folder, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("import jaxnlme\n1 / 0\n", "line 2"),
        (MODEL.replace("phi.mid", "mid") + COLUMNS, "line 6, in growth"),
        (MODEL + "def load(path):\n    return open(path + 'x')\n", "in load"),
        ("x = (\n", "line 1"),
    ],
)
def test_the_users_own_errors_show_their_traceback(folder, model, line):
    (folder / "model.py").write_text(model)
    result = fit(folder)
    assert result.exit_code == 2, result.output
    assert line in result.output
    assert "model_file.py" not in result.output
    assert "fitting" not in result.output


def test_missing_files_and_broken_tables_exit_with_2(folder):
    assert call("fit", folder / "nowhere.py", folder / "table.csv", "--out", folder / "out").exit_code == 2
    exchanged = call("fit", folder / "table.csv", folder / "model.py", "--out", folder / "out")
    assert exchanged.exit_code == 2 and "is a table, not a model file" in exchanged.output
    (folder / "table.csv").write_text("")
    result = fit(folder)
    assert result.exit_code == 2
    assert "cannot be read" in result.output


def test_doctor_prints_what_it_found():
    result = call("doctor")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert lines["jax"] == jax.__version__
    assert lines["precision"] == "float64 in fits"
    assert "converged in" in lines["fit"]
    assert {"device", "cache", "import"} <= set(lines)


def test_version_and_help_need_no_jax():
    code = "import sys; from jaxnlme.frontends.cli.commands import app; app(sys.argv[1:], standalone_mode=False); "
    code += "assert not {'jax', 'numpy', 'pandas'} & set(sys.modules), 'slow'"
    for arguments, part in [(["--version"], f"jaxnlme {jn.__version__}"), (["fit", "--help"], "--max-iterations")]:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0 and part in done.stdout, done.stderr
        assert "\x1b" not in done.stdout


def test_a_cache_folder_that_cannot_be_made_costs_a_warning(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setattr("jaxnlme.frontends.cache.compilation_cache_folder", lambda: folder / "file" / "cache")
    result = fit(folder, "--y", "girth")
    assert "cannot be made or written to" in result.output and "no column 'girth'" in result.output
    with pytest.warns(UserWarning, match="Programs are compiled again in every process"):
        assert jn.enable_compilation_cache() is None


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        assert str(compilation_cache_folder()) == before
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        assert enable_compilation_cache() == tmp_path / "xdg" / "jaxnlme" / "jax"
        assert jn.enable_compilation_cache(tmp_path / "own") == tmp_path / "own"
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
        (tmp_path / "file").write_text("")
        with pytest.raises(jn.OptionError, match="cannot be made"):
            enable_compilation_cache(tmp_path / "file" / "below")
    finally:
        enable_compilation_cache(before)
