"""The same numbers on one device, on several, in several processes and in chunks; what each device holds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.numerics.devices import mesh_of
from tests.estimators.core import scale_fits

SCRIPT = Path(scale_fits.__file__)
# Other orders of the same sums: rounding, which the fit's path to the maximum does not magnify much.
SAME = {"rel": 1e-9, "abs": 1e-9}


def run(*arguments, cache):
    """The script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen([sys.executable, SCRIPT, *map(str, arguments)], env=environment, stderr=subprocess.PIPE)


def answer(process, path):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return answer(run("devices", folder / "out.json", cache=jax.config.jax_compilation_cache_dir), folder / "out.json")


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # No shared cache here: two processes would write it at once.
    started = [run(k, address, folder / f"{k}.json", cache=folder / f"cache{k}") for k in (0, 1)]
    return [answer(process, folder / f"{k}.json") for k, process in enumerate(started)]


def assert_same(results, expected):
    assert results["converged"] and expected["converged"]
    assert results["iterations"] == expected["iterations"] > 5
    for name in ("log_likelihood", "bic", "estimates", "se", "robust"):
        assert results[name] == pytest.approx(expected[name], **SAME), name


@pytest.mark.parametrize("way", ["three", "mesh", "chunks", "both"])
def test_several_devices_and_chunks(devices, way):
    assert_same(devices[way], devices["one"])
    assert devices[way]["modes"] == [pytest.approx(mode, abs=1e-9) for mode in devices["one"]["modes"]]
    assert devices[way]["labels"] == devices["one"]["labels"]


def test_the_pooled_start_on_several_devices(devices):
    assert_same(devices["pooled on all"], devices["pooled"])


@pytest.mark.parametrize("way", ["free on two", "free in chunks"])
def test_a_free_block_and_weights(devices, way):
    """Weights inside the model are assessed by the minimiser only, which stops within its tolerance."""
    results, expected = devices[way], devices["free"]
    assert results["log_likelihood"] == pytest.approx(expected["log_likelihood"], rel=1e-9)
    assert results["free"] == pytest.approx(expected["free"], abs=1e-6)
    assert results["estimates"] == pytest.approx(expected["estimates"], abs=1e-6)


def test_the_pure_functions_of_a_problem_dealt_out_by_the_user(devices):
    value, apart, end, end_apart = devices["sharded"]["values"]
    assert apart == pytest.approx(value, **SAME) and end_apart == pytest.approx(end, **SAME)
    assert end > value + 1.0


def test_each_device_holds_its_share(devices):
    """Of several size buckets too: every device holds as much, and all together little more than one device without the
    others."""
    dealt_out, unsharded = devices["sharded"]["bytes"]
    assert len(dealt_out) == scale_fits.DEVICES and len(set(dealt_out.values())) == 1
    assert max(dealt_out.values()) < 0.3 * sum(unsharded.values())
    assert devices["sharded"]["rows"][0] == devices["sharded"]["rows"][1]
    assert devices["sharded"]["in order"]


def test_two_processes(devices, processes):
    """Levels, centres, strata and starts are those of all groups; the second process has no rows of laboratory a."""
    for results in processes:
        assert_same(results["fit"], devices["one"])
        assert_same(results["pooled"], devices["pooled"])
    labels = [label for results in processes for label in results["fit"]["labels"]]
    assert labels == devices["one"]["labels"]
    modes = [mode for results in processes for mode in results["fit"]["modes"]]
    np.testing.assert_allclose(modes, devices["one"]["modes"], atol=1e-9)


def test_saem_in_two_processes(devices, processes):
    """Statistics, missing information and the scores of the sandwich are those of all groups."""
    for results in processes:
        assert_same(results["saem"], devices["saem"])


def test_two_processes_stop_and_fail_together(processes):
    for results in processes:
        assert "Stopped by a callback" in results["stopped"]["status"][1]
        assert results["stopped"]["iterations"] == 4
        assert results["shared group"].startswith("DataError: group 13 is in process 0 and in process 1")
        assert "no more" in results["callback"]


def test_a_bad_group_of_one_process(devices, processes):
    """Both go on without it, or do not begin."""
    for results in processes:
        assert_same(results["left out"], devices["left out"])
        assert "Left out at your request: group 4." in results["left out"]["status"]
        assert "for group 4. Use other starting values, fix the model" in results["failed_start"][1]
    assert 4 not in processes[0]["left out"]["labels"] and len(processes[1]["left out"]["labels"]) == 9


def test_two_processes_resume_together(devices, processes):
    for k, results in enumerate(processes):
        assert_same(results["resumed"], devices["one"])
        (sentence,) = [s for s in results["resumed"]["status"] if s.startswith("Resumed")]
        assert sentence.endswith(f".{k}-of-2 after 6 iterations.")


def test_more_devices_than_groups(devices):
    assert devices["too many"] == "4 devices for 3 groups; name fewer devices."


def test_devices_that_cannot_be():
    model, data = scale_fits.model(), scale_fits.data()
    with pytest.raises(jn.OptionError, match="received 'gpu'"):
        jn.fit(model, data, devices="gpu")
    with pytest.raises(jn.OptionError, match="this process has"):
        jn.fit(model, data, devices=99)
    for wrong in (True, [], [1], 2.0):
        with pytest.raises(jn.OptionError, match="must be None"):
            jn.fit(model, data, devices=wrong)
    one = jax.devices()[0]
    with pytest.raises(jn.OptionError, match="twice"):
        jn.fit(model, data, devices=[one, one])
    with pytest.raises(jn.OptionError, match="one axis 'groups'"):
        jn.fit(model, data, devices=jax.make_mesh((1,), ("data",)))
    for wrong in (0, 2.5, True):
        with pytest.raises(jn.OptionError, match="chunk_groups must be a number of groups"):
            jn.fit(model, data, chunk_groups=wrong)
    assert mesh_of(None) is None and mesh_of(1).devices.size == 1
