"""The same seed, the same numbers: groups in another order, in chunks, on one device or on four."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators.core.test_devices import answer
from tests.estimators.em import test_manners as small

METHOD = dict(iterations=(15, 15, 15), chains=4, likelihood="none", max_iterations=45, seed=7)


def told(way):
    """Estimates, standard errors and conditional means of a fit in one of several ways, as lists."""
    options = {"chunks": {"chunk_groups": 5}, "devices": {"devices": 4}, "both": {"chunk_groups": 3, "devices": 2}}
    data = small.data()
    if way == "order":
        given = small.columns()
        order = np.concatenate([np.flatnonzero(given["id"] == k) for k in [7, 2, 11, 0, 5, 1, 10, 3, 9, 4, 8, 6]])
        data = small.table({name: values[order] for name, values in given.items()})
    fit = jn.fit(small.MODEL, data, jn.SAEM(**METHOD), **options.get(way, {}))
    means = fit.sampling.effects_mean.sort_index().to_numpy()
    return [fit.params.pack().tolist(), fit.sampling.packed[40, 0].tolist(), means.tolist()]


@pytest.fixture(scope="module")
def plain():
    return told("plain")


def assert_same(found, expected):
    # Other orders of the same sums; a chain that a rounding error turns the other way would show as more.
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", ["order", "chunks"])
def test_order_and_chunks(plain, way):
    assert_same(told(way), plain)


def test_devices(plain, tmp_path):
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, Path(__file__), out], env=environment(), stderr=subprocess.PIPE
    )  # fmt: skip
    found = answer(process, out)
    for way in ("devices", "both"):
        assert_same(found[way], plain)


def environment():
    import os

    own = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    return own | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    Path(sys.argv[1]).write_text(json.dumps({way: told(way) for way in ("devices", "both")}))
