"""What every test shares: 64-bit floats, a compilation cache that outlives the run, the reference folder."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """64-bit floats on, rank promotion refused, compiled programs kept between runs (folder: JAXNLME_TEST_CACHE)."""
    jax.config.update("jax_enable_x64", True)
    # A silent (groups, obs) against (obs,) is a bug here. Strict dtypes stay off: the minimiser and the curvatures add
    # truth values to counts and to floats, and mean it.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    folder = os.environ.get("JAXNLME_TEST_CACHE")
    if not folder:
        folder = str(config.rootpath / ".pytest_cache" / "d" / "jax")
        if getattr(config, "cache", None) is not None:
            folder = str(config.cache.mkdir("jax"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Every compiled program maps memory, and Linux allows a process 65,530 mappings: one that runs six hundred tests passes
# that, and crashes in the compiler. Programs come back from the cache on disk where they are wanted again.
MOST_MAPPINGS = 30_000


@pytest.fixture(autouse=True)
def few_mappings():
    """Lets compiled programs go where the process holds too many."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with numbers made by other programs: JAXNLME_REFERENCE, by default ../shared/reference."""
    folder = Path(os.environ.get("JAXNLME_REFERENCE") or REPOSITORY.parent / "shared" / "reference")
    if not folder.is_dir():
        pytest.skip(f"the reference folder {folder} is missing; set JAXNLME_REFERENCE to where it lies")
    return folder
