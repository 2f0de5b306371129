"""Saving and loading: a fit of a model that lives in a script, read by a process that does not know the script."""

from __future__ import annotations

import datetime
import decimal
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import uuid
import warnings
import zipfile
import zoneinfo
from pathlib import Path
from typing import Any

import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme import files
from jaxnlme.files import Archive, read_archive, write_archive
from jaxnlme.fitting import storage
from jaxnlme.fitting.encoding import Decoder, Encoder

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

fit = jn.load(sys.argv[1], trust_code=True)
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

    here = jn.load(path, trust_code=True)
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


# ---- without the model, with the model, with the code


@pytest.fixture(scope="module")
def saved(fit: jn.Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the theophylline fit."""
    return fit.save(tmp_path_factory.mktemp("saved") / "theophylline.fit")


def test_tables_are_read_without_the_model(fit: jn.Fit, saved: Path) -> None:
    stored = jn.load(saved)
    assert not isinstance(stored, jn.Fit)
    for name in ("estimates", "covariance", "psi", "random_effects", "random_effects_se"):
        pd.testing.assert_frame_equal(getattr(stored, name), getattr(fit, name))
    pd.testing.assert_series_equal(stored.shrinkage, fit.shrinkage)
    pd.testing.assert_series_equal(stored.beta, fit.beta)
    pd.testing.assert_frame_equal(stored.status.groups, fit.status.groups)
    assert stored.status.sentences == fit.status.sentences and stored.converged is fit.converged
    assert (stored.log_likelihood, stored.aic, stored.bic) == (fit.log_likelihood, fit.aic, fit.bic)
    assert (stored.options, stored.versions, stored.history) == (fit.options, fit.versions, fit.history)
    assert (stored.values, stored.criteria, stored.iterations) == (fit.values, fit.criteria, fit.iterations)
    assert str(stored.summary()) == str(fit.summary()) and repr(stored) == repr(fit)
    assert stored.data.fingerprint() == fit.fingerprint == stored.fingerprint


def test_what_needs_the_model_says_how_to_get_it(saved: Path) -> None:
    stored = jn.load(saved)
    for name in ("predict", "simulate", "update", "plot", "params", "binding"):
        with pytest.raises(jn.OptionError, match=rf"fit\.{name} needs the model.*model=model.*trust_code=True"):
            getattr(stored, name)
    with pytest.raises(AttributeError, match="no attribute 'predictions'"):
        stored.predictions  # noqa: B018
    assert not hasattr(stored, "predictions")


def test_a_model_serves_predictions_and_updates(fit: jn.Fit, saved: Path) -> None:
    again = jn.load(saved, model=fit.model)
    assert isinstance(again, jn.Fit)
    pd.testing.assert_frame_equal(again.estimates, fit.estimates)
    pd.testing.assert_series_equal(again.predict(), fit.predict())
    np.testing.assert_array_equal(again.simulate(2, key=3), fit.simulate(2, key=3))
    pd.testing.assert_frame_equal(again.residuals(), fit.residuals())
    assert str(again.summary()) == str(fit.summary()) and again.estimator.name == fit.estimator.name
    updated, expected = (one.update(max_iterations=1, standard_errors=False) for one in (again, fit))
    assert updated.log_likelihood == expected.log_likelihood


def test_the_stored_model_is_the_same(fit: jn.Fit, saved: Path) -> None:
    again = jn.load(saved, trust_code=True)
    np.testing.assert_array_equal(again.params.pack(), fit.params.pack())
    pd.testing.assert_series_equal(again.predict(), fit.predict())


def test_another_model_is_refused(fit: jn.Fit, saved: Path) -> None:
    parameters = [jn.Parameter(p.name, p.start, p.transform, random=p.name == "cl") for p in fit.model.parameters]
    with pytest.raises(jn.OptionError, match="another model: its parameters are"):
        jn.load(saved, model=jn.NLMEModel(fit.model.structure, parameters))
    with pytest.raises(jn.OptionError, match=r"must be a jn\.NLMEModel"):
        jn.load(saved, model=fit.model.structure)
    with pytest.raises(jn.OptionError, match="not both"):
        jn.load(saved, model=fit.model, trust_code=True)
    with pytest.raises(jn.OptionError, match="True or False"):
        jn.load(saved, trust_code="yes")


def test_another_statistical_model_is_refused(fit: jn.Fit, saved: Path) -> None:
    """The numbers of the file would be shown under another meaning: a logarithm as a rate, a variance as an SD."""
    ka, *others = fit.model.parameters
    identity = jn.Parameter(ka.name, ka.start, random=ka.random)
    fixed = jn.Parameter(ka.name, ka.start, ka.transform, random=ka.random, fix=True)
    cases = [
        ([identity, *others], "combined", f"the transform of {ka.name} is log in the file and identity in model="),
        ([fixed, *others], "combined", f"the list of fixed parameters is empty in the file and {ka.name} in model="),
        ([ka, *others], "combined variance", "the residual error is .* in the file and .* in model="),
    ]
    for parameters, error, message in cases:
        with pytest.raises(jn.OptionError, match=message):
            jn.load(saved, model=jn.NLMEModel(fit.model.structure, parameters, error=error))


def test_a_prior_with_other_numbers_is_refused(tmp_path: Path) -> None:
    def lines(sd: float) -> jn.NLMEModel:
        return jn.NLMEModel(
            line, [jn.Parameter("a", 1.0, random=True, prior=jn.priors.Normal(1.0, sd)), jn.Parameter("b", 0.4)]
        )

    data = simulated()[1]
    path = jn.fit(lines(2.0), data, "fo", standard_errors=False).save(tmp_path / "prior.fit")
    assert jn.load(path, model=lines(2.0)).values
    with pytest.raises(jn.OptionError, match=r"the list of priors is .* in the file and .* in model="):
        jn.load(path, model=lines(3.0))


def other_curve(phi, x, v):
    """The volume doubled."""
    ke = phi.cl / (2.0 * phi.vol)
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def test_other_code_of_the_same_parameters_is_pointed_out(fit: jn.Fit, saved: Path) -> None:
    other = jn.NLMEModel(other_curve, fit.model.parameters, error="combined")
    with pytest.warns(UserWarning, match="are not those that were fitted"):
        jn.load(saved, model=other)


def simulated() -> tuple[jn.NLMEModel, jn.GroupedData]:
    """Lines whose group labels are texts, with a text covariate and a further table."""
    rng = np.random.default_rng(5)
    group = np.repeat([f"group {k}" for k in range(8)], 4)
    kind = np.repeat(["a", "b"], 16)
    frame = pd.DataFrame({"group": group, "t": np.tile(np.arange(4.0), 8), "kind": kind})
    frame["y"] = 1.0 + rng.normal(size=8).repeat(4) + 0.5 * frame.t + 0.2 * rng.normal(size=32)
    frame.loc[3, "y"] = np.nan
    frame.index = pd.MultiIndex.from_arrays([np.arange(32), kind], names=["row", "kind"])
    doses = pd.DataFrame({"group": ["group 1", "group 1", "group 5"], "amount": [1.0, 2.0, 3.0]})
    data = jn.GroupedData.from_frame(frame, "group", "y", ["t"], ["kind"]).with_table("doses", doses, "group", "amount")
    parameters = [jn.Parameter("a", 1.0, random=True, covariates=["kind"]), jn.Parameter("b", 0.4)]
    return jn.NLMEModel(line, parameters), data


def line(phi, x):
    """A straight line."""
    return phi.a + phi.b * x.t


@pytest.mark.parametrize(
    "method",
    ["fo", jn.AGQ(3), "relme", jn.SAEM(10, max_iterations=10, likelihood="lin"), "missing", "left out"],
    ids=str,
)
def test_every_method_and_kind_of_data_comes_back(method: object, tmp_path: Path) -> None:
    model, data = simulated()
    options: dict = {}
    if method in ("missing", "left out"):  # a start that is not finite for one group
        y = data.y.copy()
        y[2, 1] = 1e300
        data = data.with_response(np.where(data.observed, y, np.nan))
        options = {"on_bad_group": "leave out" if method == "left out" else "stop"}
        method = "focei"
    fit = jn.fit(model, data, method, progress=False, **options)
    path = fit.save(tmp_path / "fit")
    stored = jn.load(path)
    pd.testing.assert_frame_equal(stored.estimates, fit.estimates)
    pd.testing.assert_frame_equal(stored.random_effects, fit.random_effects)
    pd.testing.assert_frame_equal(stored.status.groups, fit.status.groups)
    assert stored.status.left_out == fit.status.left_out
    np.testing.assert_equal(stored.options, fit.options)
    trusted = jn.load(path, trust_code=True)
    assert trusted.fingerprint == trusted.data.fingerprint() == fit.fingerprint
    if np.isfinite(fit.log_likelihood):
        pd.testing.assert_series_equal(trusted.predict(), fit.predict())
        assert trusted.predict().index.equals(fit.predict().index)
    if fit.status.left_out:  # levels and centres of the groups that are gone
        return
    again = jn.load(path, model=model)
    np.testing.assert_array_equal(again.params.pack(), fit.params.pack())
    if fit.sampling is not None:
        assert again.sampling is not None
        np.testing.assert_array_equal(again.sampling.draws, fit.sampling.draws)
        assert str(again.sampling) == str(fit.sampling)


def test_unknown_sections_survive(fit: jn.Fit, saved: Path, tmp_path: Path) -> None:
    """A file of a later version of the same format: its further sections, tables, arrays and members are kept."""
    archive = read_archive(saved, "fit", storage.FORMAT, "test")
    document = archive.document | {"levels": {"Occasion": {"$array": "levels/occasion"}}}
    entry = {"level": "Occasion", "axis": "groups", "endpoint": "pca", "content": {"$array": "tables/occasions"}}
    document["tables"] = document["tables"] | {"occasions": entry}
    arrays = archive.arrays | {"levels/occasion": np.arange(3), "tables/occasions": np.ones(2)}
    later = tmp_path / "later.fit"
    write_archive(later, "fit", storage.FORMAT, "test", Archive(document, arrays, archive.members | {"note": b"kept"}))
    for loaded in (jn.load(later, model=fit.model), jn.load(later, trust_code=True), jn.load(later)):
        pd.testing.assert_frame_equal(loaded.estimates, fit.estimates)
        written = read_archive(loaded.save(tmp_path / "again.fit"), "fit", storage.FORMAT, "test")
        assert written.document["levels"] == document["levels"]
        assert written.document["tables"]["occasions"] == entry
        np.testing.assert_array_equal(written.arrays["levels/occasion"], np.arange(3))
        np.testing.assert_array_equal(written.arrays["tables/occasions"], np.ones(2))
        assert written.members["note"] == b"kept"


# ---- files that are not what they should be


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("part", ["fit.json", "arrays.npz", "model.cloudpickle", "an array of objects"])
def test_a_pickle_does_nothing_in_any_part(part: str, fit: jn.Fit, saved: Path, tmp_path: Path) -> None:
    """With a digest made anew, as somebody with bad intent would."""
    mark, path = tmp_path / "exploded", tmp_path / "bomb.fit"
    bomb = pickle.dumps(Bomb(mark))
    with zipfile.ZipFile(saved) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    if part == "an array of objects":
        out = io.BytesIO()
        with np.load(io.BytesIO(parts["arrays.npz"])) as arrays:
            name = arrays.files[0]
            np.savez(out, **dict(arrays) | {name: np.array([Bomb(mark)], object)}, allow_pickle=True)
        parts["arrays.npz"] = out.getvalue()
    else:
        parts[part] = bomb
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.comment = files.COMMENT + b"0" * files.DIGITS
        for name, content in parts.items():
            file.writestr(name, content)
    content = out.getvalue()[: -files.DIGITS]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    for options in ({}, {"model": fit.model}):
        if part == "model.cloudpickle":
            pd.testing.assert_frame_equal(jn.load(path, **options).estimates, fit.estimates)
        else:
            with pytest.raises(jn.OptionError):
                jn.load(path, **options)
        assert not mark.exists()
    if part == "model.cloudpickle":
        with pytest.raises(jn.OptionError, match="code of another kind"):
            jn.load(path, trust_code=True)
        assert mark.exists(), "the bomb is one"


def test_damage_is_one_sentence(saved: Path, tmp_path: Path) -> None:
    """200 files with a bit flipped, at random and in every zip header, or cut short."""
    content, rng = saved.read_bytes(), np.random.default_rng(1)
    headers = [match.start() + k for mark in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06") for match in
               re.finditer(re.escape(mark), content) for k in (0, 4, 9, 14, 20, 27)]  # fmt: skip
    places = [
        *rng.choice(headers, 60),
        *range(-files.DIGITS - 20, -files.DIGITS + 20),
        *rng.integers(0, len(content), 60),
    ]
    damaged = []
    for place in places:
        flipped = bytearray(content)
        flipped[place % len(content)] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    damaged += [content[:n] for n in (0, 1, 10, *rng.integers(20, len(content), 37).tolist())]
    assert len(damaged) == 200
    path = tmp_path / "damaged.fit"
    for bytes_ in damaged:
        path.write_bytes(bytes_)
        with pytest.raises(jn.OptionError) as caught:
            jn.load(path)
        text = str(caught.value)
        assert str(path) in text and "\n" not in text and len(text) < 400


def test_a_missing_module_is_named(fit: jn.Fit, saved: Path, tmp_path: Path) -> None:
    archive, path = read_archive(saved, "fit", storage.FORMAT, "test"), tmp_path / "missing.fit"
    members = {storage.CODE: b"cno_such_module\nthing\n."}
    write_archive(path, "fit", storage.FORMAT, "test", Archive(archive.document, archive.arrays, members))
    with pytest.raises(jn.OptionError, match="needs the module 'no_such_module'"):
        jn.load(path, trust_code=True)
    pd.testing.assert_frame_equal(jn.load(path).estimates, fit.estimates)
    write_archive(path, "fit", storage.FORMAT, "test", Archive(archive.document, archive.arrays))
    with pytest.raises(jn.OptionError, match="holds no code"):
        jn.load(path, trust_code=True)


def test_a_file_is_replaced_only_by_a_complete_one(
    fit: jn.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.fit"
    path.write_text("earlier")

    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        fit.save(path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(saved: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.fit"
    text.write_text("no fit")
    with pytest.raises(jn.OptionError, match="not a file that holds a jaxnlme fit"):
        jn.load(text)
    earlier = tmp_path / "earlier.fit"
    with gzip.open(earlier, "wb") as file:
        pickle.dump({"jaxnlme fit": 2}, file)
    with pytest.raises(jn.OptionError, match=r"of version 0\.1 is a pickle"):
        jn.load(earlier)
    archive = read_archive(saved, "fit", storage.FORMAT, "test")
    for version, word in ((storage.FORMAT + 1, "a later format"), (storage.FORMAT - 1, "an earlier format")):
        path = tmp_path / "other.fit"
        write_archive(path, "fit", version, "9.9", archive)
        with pytest.raises(jn.OptionError, match=rf"was written by jaxnlme 9\.9 in {word}"):
            jn.load(path)
    write_archive(path, "checkpoint", storage.FORMAT, "9.9", archive)
    with pytest.raises(jn.OptionError, match="holds a jaxnlme checkpoint, and no fit"):
        jn.load(path)
    for section in ("model", "estimation", "tables", "data", "summary", "sampling"):
        without = {name: content for name, content in archive.document.items() if name != section}
        write_archive(path, "fit", storage.FORMAT, "9.9", Archive(without, archive.arrays, archive.members))
        with pytest.raises(jn.OptionError, match="not a jaxnlme fit that this version can read"):
            jn.load(path)
    with pytest.raises(FileNotFoundError):
        jn.load(tmp_path / "missing.fit")
    with pytest.raises(jn.OptionError, match="is a folder"):
        jn.load(tmp_path)


# ---- classes, and objects that cannot be stored


NETWORKS = """
import equinox as eqx
import jax
import jax.numpy as jnp

class Curve(eqx.Module):
    asymptote: float = eqx.field(static=True, default=190.0)

    def __call__(self, phi, x):
        return self.asymptote / (1.0 + jnp.exp((phi.mid - x.age) / 350.0)) + self.correction(x.age / 1000.0)

class Network(Curve):
    bend: jax.Array
    net: eqx.nn.MLP

    def __init__(self, key):
        self.asymptote = 180.0
        self.bend = jnp.ones(2)
        self.net = eqx.nn.MLP("scalar", "scalar", 2, 1, key=key)

    def correction(self, t):
        assert isinstance(self, Network) and super().__call__ is not None
        return self.bend[0] * t + jnp.vectorize(self.net)(t)
"""

FITS_NETWORKS = """
import sys
import equinox as eqx
import jax
import jaxnlme as jn
from networks import Network
{code}
data = jn.GroupedData.from_frame(jn.datasets.orange(), "Tree", "circumference", "age")
for k, structure in enumerate((Network(jax.random.key(1)), eqx.filter_jit(Network(jax.random.key(1))))):
    model = jn.NLMEModel(structure, [jn.Parameter("mid", 700.0, random=True)])
    fit = jn.fit(model, data, "foce", standard_errors=False, max_iterations=1)
    fit.save(sys.argv[1] + str(k))
    print(fit.predict().iloc[3])
"""

ASKS_NETWORKS = """
import sys
import jaxnlme as jn

for k in range(2):
    print(jn.load(sys.argv[1] + str(k), trust_code=True).predict().iloc[3])
"""


@pytest.mark.parametrize("home", ["a module", "the script"])
def test_equinox_modules_travel_with_the_fit(home: str, tmp_path: Path) -> None:
    """Fields of arrays, of networks, and static ones, inherited too; the process that reads has no such module."""
    writes, reads = tmp_path / "home", tmp_path / "away"
    for folder in (writes, reads):
        folder.mkdir()
    if home == "a module":
        (writes / "networks.py").write_text(NETWORKS)
        code = FITS_NETWORKS.format(code="")
    else:
        code = FITS_NETWORKS.replace("from networks import Network", "").format(code=NETWORKS)
    there = run(code, tmp_path / "orange.fit", writes)
    assert run(ASKS_NETWORKS, tmp_path / "orange.fit", reads) == there


class Scaled:
    """A model whose class holds a constant."""

    factor = 1.0

    def __call__(self, phi, x):
        return self.factor * line(phi, x)


LOCK = threading.Lock()


def locked(phi, x):
    with LOCK:
        return line(phi, x)


class Refuses:
    """Cannot be pickled."""

    def __call__(self, phi, x):
        return line(phi, x)

    def __reduce__(self):
        raise RuntimeError("of no use elsewhere")


def quick(structure: Any, data: jn.GroupedData | None = None) -> jn.Fit:
    """A fit of a line that is cut off at once."""
    model, lines = simulated()
    model = jn.NLMEModel(structure, model.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jn.fit(model, data or lines, "fo", standard_errors=False, max_iterations=1)


def test_loading_leaves_the_classes_of_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = quick(Scaled())
    path, expected = fit.save(tmp_path / "fit"), fit.predict()
    monkeypatch.setattr(Scaled, "factor", 2.0)
    loaded = jn.load(path, trust_code=True)
    assert Scaled.factor == 2.0
    pd.testing.assert_series_equal(loaded.predict(), expected)


@pytest.mark.parametrize(
    ("structure", "named"),
    [
        (locked, r"the global variable 'LOCK' of 'locked' \(a _thread\.lock\)"),
        (Refuses(), r"an object of the type tests.*Refuses cannot be stored \(of no use elsewhere\)"),
        (jax.checkpoint(line), "cannot be stored"),
    ],
    ids=["lock", "reduce", "checkpoint"],
)
def test_a_model_that_cannot_be_stored_leaves_the_numbers(structure: Any, named: str, tmp_path: Path) -> None:
    fit = quick(structure)
    with pytest.warns(UserWarning, match=rf"{named}.*jn\.load\(path, model=model\)") as caught:
        path = fit.save(tmp_path / "fit")
    assert len(caught) == 1 and caught[0].filename == __file__
    pd.testing.assert_frame_equal(jn.load(path).estimates, fit.estimates)
    pd.testing.assert_series_equal(jn.load(path, model=fit.model).predict(), fit.predict())
    with pytest.raises(jn.OptionError, match="holds no code"):
        jn.load(path, trust_code=True)


@pytest.mark.parametrize("error", [ImportError("no name"), SyntaxError("bad"), Exception("some\nlines")], ids=repr)
def test_code_that_fails_is_one_sentence(error: Exception, saved: Path, tmp_path: Path) -> None:
    class Fails:
        def __reduce__(self):
            return fail, (error,)

    archive, path = read_archive(saved, "fit", storage.FORMAT, "test"), tmp_path / "fails.fit"
    members = {storage.CODE: cloudpickle.dumps(Fails())}
    write_archive(path, "fit", storage.FORMAT, "test", Archive(archive.document, archive.arrays, members))
    with pytest.raises(jn.OptionError, match=r"holds code that this Python .* cannot bring back") as caught:
        jn.load(path, trust_code=True)
    assert "\n" not in str(caught.value)


def fail(error: Exception) -> None:
    raise error


# ---- labels


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
PLAIN = [
    datetime.date(2020, 1, 2), datetime.datetime(2020, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1, 2, 3), b"a\xff", decimal.Decimal("1.10"),
    uuid.UUID(int=5), np.datetime64("2020-01-01", "D"), np.timedelta64(3, "h"), pd.Timestamp("2020-01-01 00:00:00.5"),
    pd.Timestamp("2020-10-25 01:30:00.000000001", tz="UTC").tz_convert("Europe/Berlin"), pd.Timedelta("1h 3ns"),
    pd.Timestamp("2020-01-01 00:00+05:00"), pd.Period("2020Q1", "Q-NOV"),
    pd.date_range("2020", periods=3, tz="Europe/Berlin", name="when"), pd.date_range("2020", periods=3),
    pd.timedelta_range("1h", periods=3), pd.period_range("2020", periods=3, freq="M"),
    pd.MultiIndex.from_arrays([pd.date_range("2020", periods=2, tz="UTC"), [1, 2]], names=["a", None]),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_dates_and_their_like_come_back(value: Any) -> None:
    encoder = Encoder()
    node = json.loads(json.dumps(encoder.encode(value, "value")))
    again = Decoder(encoder.arrays).decode(node)
    assert not encoder.objects and type(again) is type(value)
    if isinstance(value, pd.Index):
        assert again.equals(value) and again.names == value.names and again.dtype == value.dtype
    else:
        assert again == value and repr(again) == repr(value)


def relabelled(label: Any, index: Any) -> jn.GroupedData:
    """The data of `simulated` with other labels and another row index."""
    lines = simulated()[1]
    frame = lines.to_frame()[["t", "kind", "y"]].assign(group=[label(k // 4) for k in range(32)])
    frame.index = index
    return jn.GroupedData.from_frame(frame, "group", "y", ["t"], ["kind"])


def test_times_label_groups_and_rows(tmp_path: Path) -> None:
    index = pd.date_range("2020", periods=32, tz="Europe/Berlin", freq="D")
    fit = quick(line, relabelled(lambda k: pd.Timestamp(2020, 1, 1 + k, tz="Europe/Berlin"), index))
    path = fit.save(tmp_path / "fit")
    pd.testing.assert_frame_equal(jn.load(path).random_effects, fit.random_effects)
    for loaded in (jn.load(path, model=fit.model), jn.load(path, trust_code=True)):
        assert loaded.fingerprint == fit.fingerprint and loaded.data.labels[0] == fit.data.labels[0]
        pd.testing.assert_series_equal(loaded.predict(), fit.predict())
        assert loaded.residuals().index.equals(fit.residuals().index)


def test_labels_that_need_code_are_named(tmp_path: Path) -> None:
    """Of the row index no more is lost than its labels."""
    intervals = pd.IntervalIndex.from_breaks(range(33))
    path = quick(line, relabelled(lambda k: pd.Interval(k, k + 1), range(32))).save(tmp_path / "fit")
    for options in ({}, {"model": jn.load(path, trust_code=True).model}):
        with pytest.raises(jn.OptionError, match=r"labels are of the type pandas\.\S*Interval, .* trust_code=True"):
            jn.load(path, **options)
    fit = quick(line, relabelled(str, intervals))
    path = fit.save(tmp_path / "fit")
    again = jn.load(path, model=fit.model).predict()
    np.testing.assert_array_equal(again, fit.predict())
    assert "not loaded" in str(again.index[0])
    assert jn.load(path, trust_code=True).predict().index.equals(fit.predict().index)


# ---- other models and versions, other places


def test_functions_of_other_versions_are_not_compared(fit: jn.Fit, saved: Path, tmp_path: Path) -> None:
    archive, path = read_archive(saved, "fit", storage.FORMAT, "test"), tmp_path / "other.fit"
    for name, version, words in (
        ("python", "3.2.1", r"of Python 3\.2 and"),
        ("jaxnlme", "9.9", r"of jaxnlme 9\.9 and"),
    ):
        estimation = archive.document["estimation"]
        estimation = estimation | {"versions": estimation["versions"] | {name: version}}
        write_archive(
            path, "fit", storage.FORMAT, "test", Archive(archive.document | {"estimation": estimation}, archive.arrays)
        )
        with pytest.warns(UserWarning, match=rf"could not be compared .* because the file is {words}"):
            jn.load(path, model=fit.model)


class Weights(eqx.Module):
    weights: dict[str, jax.Array]

    def __call__(self, phi, x):
        return phi.a + phi.b * x.t + sum(w.sum() * x.t**2 for w in self.weights.values())


def test_other_free_parameters_are_another_model(tmp_path: Path) -> None:
    fit = quick(Weights({"first": jnp.zeros(2)}))
    path = fit.save(tmp_path / "fit")
    assert jn.load(path, model=fit.model).fingerprint == fit.fingerprint
    for others in ({"second": jnp.zeros(2)}, {"first": jnp.zeros(3)}, {"first": jnp.zeros(2), "more": jnp.zeros(1)}):
        model = jn.NLMEModel(Weights(others), fit.model.parameters)
        with pytest.raises(jn.OptionError, match=r"another model: the list of free parameters is .* in the file"):
            jn.load(path, model=model)


@pytest.mark.parametrize("place", ["", "missing/a.fit", "a\0b", "n" * 300, "file/a.fit"])
def test_paths_that_no_file_can_have(place: str, fit: jn.Fit, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = f"{tmp_path}/{place}"
    for each in (fit, jn.load(saved)):
        with pytest.raises(jn.OptionError) as caught:
            each.save(path)
        assert repr(path)[1:-1].rstrip("/") in str(caught.value) and ".part" not in str(caught.value)
    with pytest.raises(jn.OptionError, match="must be the path of a file"):
        jn.load(saved).save(3)  # pyright: ignore[reportArgumentType]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_written_to(fit: jn.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *args: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files.os, "open", denied)
    with pytest.raises(jn.OptionError, match=r"a\.fit cannot be written \(Permission denied\); give another path"):
        fit.save(tmp_path / "a.fit")


def test_members_twice_and_foreign_text(saved: Path, tmp_path: Path) -> None:
    twice, foreign, out = tmp_path / "twice.fit", tmp_path / "foreign.txt", io.BytesIO(saved.read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("arrays.npz", b"")
    content = out.getvalue()[: -files.DIGITS]
    twice.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    with pytest.raises(jn.OptionError, match=r"is damaged: it holds 'arrays\.npz' more than once"):
        jn.load(twice)
    foreign.write_text("a text about fit.json and the like\n" * 20)
    with pytest.raises(jn.OptionError, match="not a file that holds a jaxnlme fit"):
        jn.load(foreign)


def test_an_earlier_file_keeps_its_place_and_permissions(saved: Path, tmp_path: Path) -> None:
    stored, path, link = jn.load(saved), tmp_path / "a.fit", tmp_path / "link.fit"
    path.write_text("earlier")
    path.chmod(0o600)
    link.symlink_to(path.name)
    stored.save(link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    pd.testing.assert_frame_equal(jn.load(path).estimates, stored.estimates)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.fit", "link.fit"]


def test_threads_save_at_once(fit: jn.Fit, tmp_path: Path) -> None:
    """Models of a module that is pickled by value (this one), to a path of their own and to one that they share."""
    model, errors = quick(line), []
    long, registered = "n" * 245, cloudpickle.list_registry_pickle_by_value()

    def work(number: int) -> None:
        try:
            for _ in range(3):
                model.save(tmp_path / f"{number}.fit")
                model.save(tmp_path / long)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and cloudpickle.list_registry_pickle_by_value() == registered
    assert len(list(tmp_path.iterdir())) == 5
    pd.testing.assert_series_equal(jn.load(tmp_path / long, trust_code=True).predict(), model.predict())
