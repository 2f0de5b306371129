"""Reproducibility by seed: the same numbers with groups in another order, in chunks, on one device or on four."""

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
from tests.estimators.em.test_messages_and_callbacks import MODEL, columns, data, table

METHOD = dict(iterations=(15, 15, 15), chains=4, likelihood="none", max_iterations=45, seed=7)


def numbers(way):
    """Estimates, parameters after an iteration and conditional means of a fit computed in some `way`, as lists."""
    options = {"chunks": {"chunk_groups": 5}, "devices": {"devices": 4}, "both": {"chunk_groups": 3, "devices": 2}}
    table_in_order = data()
    if way == "order":
        values = columns()
        order = np.concatenate([np.flatnonzero(values["id"] == k) for k in [7, 2, 11, 0, 5, 1, 10, 3, 9, 4, 8, 6]])
        table_in_order = table({name: column[order] for name, column in values.items()})
    fit = jn.fit(MODEL, table_in_order, jn.SAEM(**METHOD), **options.get(way, {}))
    means = fit.sampling.effects_mean.sort_index().to_numpy()
    return [fit.params.pack().tolist(), fit.sampling.packed[40, 0].tolist(), means.tolist()]


@pytest.fixture(scope="module")
def plain():
    return numbers("plain")


def assert_same(actual, expected):
    # The sums are taken in another order; a proposal accepted or rejected by a rounding error would differ by more.
    for actual_values, expected_values in zip(actual, expected, strict=True):
        np.testing.assert_allclose(actual_values, expected_values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", ["order", "chunks"])
def test_order_and_chunks(plain, way):
    assert_same(numbers(way), plain)


def test_devices(plain, tmp_path):
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, Path(__file__), out], env=environment(), stderr=subprocess.PIPE
    )  # fmt: skip
    by_way = answer(process, out)
    for way in ("devices", "both"):
        assert_same(by_way[way], plain)


def environment():
    import os

    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    return variables | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    Path(sys.argv[1]).write_text(json.dumps({way: numbers(way) for way in ("devices", "both")}))
