"""Saving and loading: a fit of a model that lives in a script, read by a process that does not know the script."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnlme as jn

REPOSITORY = Path(__file__).resolve().parents[2]

FITS = """
import sys
import jax.numpy as jnp
import jaxnlme as jn

ASYMPTOTE = 190.0

def growth(phi, x):
    return ASYMPTOTE / (1.0 + jnp.exp((phi.mid - x.age) / phi.scale))

model = jn.NLMEModel(growth, [jn.Parameter("mid", 700.0, random=True), jn.Parameter("scale", 350.0)])
data = jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", "age")
fit = jn.fit(model, data, "foce", standard_errors=False)
fit.save(sys.argv[1])
"""

ASKS = """
import json, sys
import jaxnlme as jn

fit = jn.load(sys.argv[1])
new = jn.datasets.orange().drop(columns="circumference").assign(age=lambda t: t.age + 50.0)
print(json.dumps({"log_likelihood": fit.log_likelihood, "summary": str(fit.summary()), "fitted": list(fit.predict()),
                  "new": list(fit.predict(new)), "mid": list(fit.parameters().mid), "scale": fit.values["scale"],
                  "simulated": fit.simulate(2, key=3).tolist()}))
"""


def run(code: str, path: Path, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if jax.config.jax_compilation_cache_dir:
        environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(path)],
        capture_output=True, text=True, env=environment, cwd=folder, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_process_reads_and_uses_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "orange.fit"
    run(FITS, path, tmp_path)
    answer = json.loads(run(ASKS, path, tmp_path))

    here = jn.load(path)
    assert answer["log_likelihood"] == here.log_likelihood
    assert answer["summary"] == str(here.summary())
    table = jn.datasets.orange()
    mid = dict(zip(here.data.labels.tolist(), answer["mid"], strict=True))
    for name, shift in (("fitted", 0.0), ("new", 50.0)):
        age = table.age + shift
        expected = 190.0 / (1.0 + np.exp((table.Tree.map(mid) - age) / answer["scale"]))
        np.testing.assert_allclose(answer[name], expected, rtol=1e-12)
    np.testing.assert_allclose(here.simulate(2, key=3), answer["simulated"], rtol=1e-12)


MODULE = """
import jax.numpy as jnp
import shapes

ASYMPTOTE = 190.0

def growth(phi, x):
    return ASYMPTOTE * shapes.logistic((x.age - phi.mid) / phi.scale)

def spread(f, s):
    return shapes.above(s) + 0.0 * f
"""

SHAPES = """
import jax.numpy as jnp

def logistic(t):
    return 1.0 / (1.0 + jnp.exp(-t))

def above(s):
    return 0.1 + s
"""

IMPORTS = """
import sys
import jaxnlme as jn
from growing import growth, spread

error = jn.error.custom(spread, {"s": 10.0})
model = jn.NLMEModel(growth, [jn.Parameter("mid", 700.0, random=True), jn.Parameter("scale", 350.0)], error=error)
data = jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", "age")
jn.fit(model, data, "foce", standard_errors=False).save(sys.argv[1])
import cloudpickle
assert not cloudpickle.list_registry_pickle_by_value()
"""


def test_functions_of_a_module_travel_with_the_fit(tmp_path: Path) -> None:
    """The process that reads has neither the module of the functions nor the one that these call."""
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, away):
        folder.mkdir()
    (home / "growing.py").write_text(MODULE)
    (home / "shapes.py").write_text(SHAPES)
    path = tmp_path / "orange.fit"
    run(IMPORTS, path, home)
    answer = json.loads(run(ASKS, path, away))
    table = jn.datasets.orange()
    mid = dict(zip(dict.fromkeys(table.Tree), answer["mid"], strict=True))
    expected = 190.0 / (1.0 + np.exp((table.Tree.map(mid) - table.age) / answer["scale"]))
    np.testing.assert_allclose(answer["fitted"], expected, rtol=1e-12)


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.fit"
    with gzip.open(path, "wb") as file:
        file.write(b"cno_such_module\nthing\n.")
    with pytest.raises(jn.OptionError, match="needs the module 'no_such_module'"):
        jn.load(path)


def test_a_file_is_replaced_only_by_a_complete_one(fit: jn.Fit, tmp_path: Path) -> None:
    path = tmp_path / "a.fit"
    path.write_text("earlier")
    broken = dataclasses.replace(fit, options={"lock": threading.Lock()})
    with pytest.raises(TypeError, match="lock"):
        broken.save(path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.fit"
    text.write_text("no fit")
    with pytest.raises(jn.OptionError, match="not a file"):
        jn.load(text)
    other = tmp_path / "other.fit"
    with gzip.open(other, "wb") as file:
        import pickle

        pickle.dump({"a": 1}, file)
    with pytest.raises(jn.OptionError, match="format"):
        jn.load(other)
    with pytest.raises(FileNotFoundError):
        jn.load(tmp_path / "missing.fit")
