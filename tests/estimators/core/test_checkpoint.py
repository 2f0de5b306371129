"""A fit that was killed resumes from its file; files of other fits are refused."""

from __future__ import annotations

import subprocess
import sys

import equinox as eqx
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme import files
from jaxnlme.estimators.core import checkpoint as module
from jaxnlme.estimators.core.model_digest import digest
from jaxnlme.files import Archive, read_archive, write_archive
from tests.estimators import catalogue
from tests.estimators.core import scale_fits

model, data = scale_fits.model, scale_fits.data


class Killed(Exception):
    pass


def dies_at(iteration):
    def callback(entry):
        if entry.iteration == iteration:
            raise Killed

    return callback


@pytest.fixture(scope="module")
def whole():
    fit = jn.fit(model(), data(), "focei")
    assert fit.converged
    return fit


def assert_same(resumed, expected):
    """The same numbers by the same iterations: what a fit did before it was killed is not repeated."""
    assert resumed.converged
    assert [entry["iteration"] for entry in resumed.history] == [entry["iteration"] for entry in expected.history]
    values = [entry["log_likelihood"] for entry in expected.history]
    np.testing.assert_allclose([entry["log_likelihood"] for entry in resumed.history], values, rtol=1e-9)
    np.testing.assert_allclose(resumed.params.pack(), expected.params.pack(), atol=1e-8)
    np.testing.assert_allclose(resumed.estimates["se"], expected.estimates["se"], rtol=1e-6)
    np.testing.assert_allclose(resumed.modes, expected.modes, atol=1e-8)


@pytest.mark.parametrize("iteration", [0, 7])
def test_a_fit_that_was_killed_goes_on(tmp_path, whole, iteration):
    path = tmp_path / "fit.npz"
    with pytest.raises(Killed):
        jn.fit(model(), data(), "focei", checkpoint=path, callbacks=[dies_at(iteration)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.npz"]
    iterations = []
    resumed = jn.fit(
        model(), data(), "focei", checkpoint=path, callbacks=[lambda entry: iterations.append(entry.iteration)]
    )
    assert iterations[0] == iteration + 1
    assert_same(resumed, whole)
    assert resumed.timings["evaluations"] <= whole.timings["evaluations"] + 1
    assert any(s == f"Resumed from {path} after {iteration} iterations." for s in resumed.status.sentences)


def test_a_fit_that_ended_is_checked_again(tmp_path, whole):
    path = tmp_path / "fit.npz"
    first = jn.fit(model(), data(), "focei", checkpoint=str(path))
    assert_same(first, whole)
    iterations = []
    again = jn.fit(
        model(), data(), "focei", checkpoint=path, callbacks=[lambda entry: iterations.append(entry.iteration)]
    )
    assert again.converged and iterations == []
    assert again.timings["evaluations"] < first.timings["evaluations"] + 60
    np.testing.assert_allclose(again.params.pack(), first.params.pack(), atol=1e-8)
    assert any("where it had ended" in sentence for sentence in again.status.sentences)


def test_more_iterations_than_before_and_other_ways_to_compute(tmp_path, whole):
    path = tmp_path / "fit.npz"
    short = jn.fit(model(), data(), "focei", checkpoint=path, max_iterations=5)
    assert not short.converged and "raise max_iterations" in short.status.sentences[1]
    assert_same(jn.fit(model(), data(), "focei", checkpoint=path, chunk_groups=9), whole)


def test_a_process_that_vanishes(tmp_path, whole):
    """No chance to clean up: the file of the last second is whole."""
    script = (
        "import os, jaxnlme as jn\n"
        "from jaxnlme.estimators.core import checkpoint\n"
        "from tests.estimators.core.scale_fits import model, data\n"
        "from jaxnlme.estimators.core.settings import RunSettings\n"
        "checkpoint.RUN_SETTINGS = RunSettings(checkpoint_interval=1e-9, writing_fraction=1e9)\n"
        "def vanish(found):\n"
        "    if found.iteration == 9:\n"
        "        os._exit(3)\n"
        f"jn.fit(model(), data(), 'focei', checkpoint={str(tmp_path / 'fit.npz')!r}, callbacks=[vanish])\n"
    )
    root = str(scale_fits.__file__).rsplit("/tests/", 1)[0]
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, timeout=300, check=False)
    assert ended.returncode == 3
    resumed = jn.fit(model(), data(), "focei", checkpoint=tmp_path / "fit.npz")
    assert_same(resumed, whole)
    assert any("after 8 iterations" in sentence for sentence in resumed.status.sentences)


def test_chains_keep_a_file_each(tmp_path):
    with pytest.raises(Killed):
        jn.fit(model(), data(), ["fo", "focei"], checkpoint=tmp_path / "chain", callbacks=[dies_in_focei()])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["chain.1", "chain.2"]
    iterations = []
    resumed = jn.fit(
        model(),
        data(),
        ["fo", "focei"],
        checkpoint=tmp_path / "chain",
        callbacks=[lambda e: iterations.append(e.iteration)],
    )
    assert resumed.converged and resumed.method == "FOCEI" and iterations[0] == 4


def dies_in_focei():
    rounds = {"begun": 0}

    def callback(entry):
        rounds["begun"] += entry.iteration == 0
        if rounds["begun"] == 2 and entry.iteration == 3:
            raise Killed

    return callback


def test_groups_left_out_stay_out(tmp_path):
    columns = scale_fits.table()
    columns["t"] = np.where((columns["id"] == 4) & (columns["t"] == 1), np.inf, columns["t"])
    columns["t"] = np.where(np.isinf(columns["t"]), -1e6, columns["t"])
    table = jn.GroupedData.from_frame(columns, group="id", y="y", x=["t", "lab"], v=["size", "sex"])
    path = tmp_path / "fit"
    with pytest.raises(Killed):
        jn.fit(model(), table, "focei", checkpoint=path, callbacks=[dies_at(3)], on_bad_group="leave out")
    with pytest.raises(jn.OptionError, match="was continued without some groups"):
        jn.fit(model(), table, "focei", checkpoint=path)
    resumed = jn.fit(model(), table, "focei", checkpoint=path, on_bad_group="leave out")
    assert resumed.converged and resumed.data.n_groups == 22
    assert "Left out at your request: group 4." in resumed.status.sentences


def test_files_of_other_fits_are_refused(tmp_path, whole):
    path = tmp_path / "fit.npz"
    jn.fit(model(), data(), "focei", checkpoint=path, max_iterations=2)
    with pytest.raises(jn.OptionError, match=r"of a fit of other data .*another path"):
        jn.fit(model(), data(seed=4), "focei", checkpoint=path)
    with pytest.raises(jn.OptionError, match=r"another method \(FOCEI; this is FOCE\)"):
        jn.fit(model(), data(), "foce", checkpoint=path)
    with pytest.raises(jn.OptionError, match=r"of a fit of another model"):
        jn.fit(model(covariance="full"), data(), "focei", checkpoint=path)
    with pytest.raises(jn.OptionError, match="not a file that holds a jaxnlme checkpoint"):
        (tmp_path / "text").write_text("not this")
        jn.fit(model(), data(), "focei", checkpoint=tmp_path / "text")
    with pytest.raises(jn.OptionError, match="does not exist"):
        jn.fit(model(), data(), "focei", checkpoint=tmp_path / "nowhere" / "fit")
    with pytest.raises(jn.OptionError, match="path of a file"):
        jn.fit(model(), data(), "focei", checkpoint=3)


def test_values_fixed_elsewhere_are_refused(tmp_path):
    """Both those of the model and those given by `start`."""
    path = tmp_path / "fit.npz"

    def held(value):
        parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", value, fix=True)]
        return jn.NLMEModel(catalogue.line, parameters)

    t = np.tile(np.arange(5.0), 8)
    group = np.repeat(np.arange(8), 5)
    y = 1.0 + np.sin(group) + 0.5 * t + 0.3 * np.cos(7.0 * np.arange(40))
    table = jn.GroupedData.from_arrays(y, group, {"t": t})
    jn.fit(held(0.0), table, "focei", checkpoint=path)
    assert jn.fit(held(0.0), table, "focei", checkpoint=path).converged
    with pytest.raises(jn.OptionError, match=r"fixed values differ from this one's \(slope\)"):
        jn.fit(held(0.3), table, "focei", checkpoint=path)
    with pytest.raises(jn.OptionError, match="fixed values differ"):
        jn.fit(held(0.0), table, "focei", checkpoint=path, start={"slope": 0.3})


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    jn.fit(model(), data(), "focei", checkpoint=path, max_iterations=2)
    before = path.read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        jn.fit(model(), data(), "focei", checkpoint=path, max_iterations=4)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.npz"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of the checkpoint of a fit that was killed."""
    path = tmp_path_factory.mktemp("saved") / "fit.npz"
    with pytest.raises(Killed):
        jn.fit(model(), data(), "focei", checkpoint=path, callbacks=[dies_at(7)])
    return path.read_bytes()


def refused(path, content, match):
    """A fit with this file ends at once with one sentence, and leaves the file as it is."""
    path.write_bytes(content)
    with pytest.raises(jn.OptionError, match=match) as error:
        jn.fit(model(), data(), "focei", checkpoint=path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_damaged_files_are_refused(tmp_path, saved):
    """Single bits anywhere in the file, and files cut anywhere, the empty one among them."""
    path = tmp_path / "fit.npz"
    for place in np.linspace(0, len(saved) - 1, 12).astype(int):
        content = bytearray(saved)
        content[place] ^= 1 << (place % 8)
        refused(path, bytes(content), "damaged")
    for length in np.linspace(0, len(saved) - 1, 8).astype(int):
        refused(path, saved[:length], "damaged")


def test_files_of_other_kinds_and_versions_are_refused(tmp_path, saved):
    path, out = tmp_path / "fit.npz", tmp_path / "out.npz"
    path.write_bytes(saved)
    archive = read_archive(path, "checkpoint", module.FORMAT, "test")
    for version, word in ((module.FORMAT + 1, "a later format"), (module.FORMAT - 1, "an earlier format")):
        write_archive(out, "checkpoint", version, "9.9", archive)
        refused(path, out.read_bytes(), rf"was written by jaxnlme 9\.9 in {word}")
    write_archive(out, "fit", module.FORMAT, "9.9", archive)
    refused(path, out.read_bytes(), "holds a jaxnlme fit, and no checkpoint")
    np.savez(out, about=np.array('{"jaxnlme checkpoint": 1}'))
    refused(path, out.read_bytes(), "not a file that holds a jaxnlme checkpoint")
    for section in (module.IDENTITY, module.RUN):
        document = {name: content for name, content in archive.document.items() if name != section}
        write_archive(out, "checkpoint", module.FORMAT, "9.9", Archive(document, archive.arrays))
        refused(path, out.read_bytes(), "not a jaxnlme checkpoint that this version can read")
    for name in (module.REST, "run/x", "run/modes", "run/bfgs.inverse"):
        arrays = {key: array for key, array in archive.arrays.items() if key != name}
        write_archive(out, "checkpoint", module.FORMAT, "9.9", Archive(archive.document, arrays))
        refused(path, out.read_bytes(), "not a jaxnlme checkpoint that this version can read")


def test_unknown_sections_survive(tmp_path, saved, whole):
    """Sections that a later version adds to the format are in the file that this version writes after resuming."""
    path = tmp_path / "fit.npz"
    path.write_bytes(saved)
    archive = read_archive(path, "checkpoint", module.FORMAT, "test")
    added = np.arange(3.0)
    extended = Archive(
        archive.document | {"later": {"colour": "red"}}, archive.arrays | {"later/added": added}, {"note": b"kept"}
    )
    write_archive(path, "checkpoint", module.FORMAT, "9.9", extended)
    assert_same(jn.fit(model(), data(), "focei", checkpoint=path), whole)
    written = read_archive(path, "checkpoint", module.FORMAT, "test")
    assert written.document["later"] == {"colour": "red"} and written.members == {"note": b"kept"}
    np.testing.assert_array_equal(written.arrays["later/added"], added)
    assert written.document[module.RUN]["finished"] and not archive.document[module.RUN]["finished"]


FACTOR = 2.0


def test_the_digest_of_a_model_follows_its_code(monkeypatch):
    """The constants of a function and of the functions that it calls count; its name and place do not."""

    def helper(x):
        return FACTOR * x

    def make(power):
        return lambda phi, x: helper(phi.a) * x.t**power

    def same(power):
        return lambda phi, x: helper(phi.a) * x.t**power

    assert digest(make(2)) == digest(same(2)) != digest(make(3))
    first = digest(make(2))
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert digest(make(2)) != first


def test_the_digest_leaves_out_variables_called_like_an_attribute(monkeypatch):
    """Functions inside a function and the bodies of classes read variables, too."""

    def reads_attribute(phi, x):
        return phi.FACTOR * x.t

    def reads_within(phi, x):
        class Constants:
            factor = FACTOR

        return (lambda t: Constants.factor * t)(x.t)

    first, within = digest(reads_attribute), digest(reads_within)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert digest(reads_attribute) == first
    assert digest(reads_within) != within


def test_the_digest_of_an_object_follows_all_it_holds():
    """Entries with an underscore, fields called `start`, and the constants and methods of the user's classes."""

    class Scaled:
        def __init__(self, factor):
            self._factor = factor

        def __call__(self, phi, x):
            return self._factor * phi.a

    class Module(eqx.Module):
        start: float

        def __call__(self, phi, x):
            return phi.a + self.start

    def constants(k, power):
        class Constants:
            rate = k

            @property
            def squared(self):
                return self.rate**power

            def __call__(self, phi, x):
                return self.squared * phi.a

        return Constants

    def reads(kind):
        return lambda phi, x: kind.rate * phi.a

    assert digest(Scaled(1.0)) == digest(Scaled(1.0)) != digest(Scaled(2.0))
    assert digest(Module(1.0)) == digest(Module(1.0)) != digest(Module(2.0))
    assert digest(constants(1.0, 2)()) == digest(constants(1.0, 2)())
    assert len({digest(constants(*args)()) for args in ((1.0, 2), (2.0, 2), (1.0, 3))}) == 3
    assert digest(reads(constants(1.0, 2))) != digest(reads(constants(2.0, 2)))
    assert digest(jn.Parameter("a", 1.0)) == digest(jn.Parameter("a", 2.0)) != digest(jn.Parameter("b", 1.0))
