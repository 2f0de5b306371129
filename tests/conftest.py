"""Settings and fixtures of all tests: 64-bit floats, a compilation cache on disk, the folder of reference results."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax
import pytest

from tests.tiers import is_page, listed

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """64-bit floats on, rank promotion refused, compiled programs kept between runs (folder: JAXNLME_TEST_CACHE)."""
    jax.config.update("jax_enable_x64", True)
    # Implicit broadcasting of (obs,) to (groups, obs) is a mistake here. Strict dtypes are not used: the minimiser and
    # the curvatures add booleans to counts and floats on purpose.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    folder = os.environ.get("JAXNLME_TEST_CACHE")
    if not folder:
        folder = str(config.rootpath / ".pytest_cache" / "d" / "jax")
        if getattr(config, "cache", None) is not None:
            folder = str(config.cache.mkdir("jax"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests by their tier (`tests/tiers.py`), before `-m` chooses."""
    tiers = {name: mark for tier, mark in (("long", "slow"), ("study", "study")) for name in listed(tier)}
    unmatched = set(tiers)
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        unmatched.discard(name)
        if is_page(name):
            item.add_marker("pages")
        elif name in tiers:
            item.add_marker(tiers[name])
    if unmatched and config.args == [str(path) for path in config.getini("testpaths")]:
        raise pytest.UsageError(f"tests/tiers/ names tests that are not there: {sorted(unmatched)}")


# Every compiled program maps memory, and Linux allows a process 65,530 mappings: a process that runs six hundred tests
# would exceed that and crash in the compiler. Programs that are needed again are read from the cache on disk.
MOST_MAPPINGS = 30_000


@pytest.fixture(autouse=True)
def few_mappings():
    """Drop the compiled programs of the process when it has too many memory mappings."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with results of other programs: JAXNLME_REFERENCE, by default ../shared/reference."""
    folder = Path(os.environ.get("JAXNLME_REFERENCE") or REPOSITORY.parent / "shared" / "reference")
    if not folder.is_dir():
        pytest.skip(f"the reference folder {folder} is missing; set JAXNLME_REFERENCE to its path")
    return folder
