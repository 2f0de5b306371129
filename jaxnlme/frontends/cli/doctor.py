"""`jaxnlme doctor`: devices, versions and precision of this installation, and the time of a small fit."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "jaxnlme", "jax", "jaxlib", "equinox", "numpy", "pandas", "formulaic", "matplotlib",
)  # fmt: skip


def examine(cache: Path | None) -> Iterator[str]:
    """Lines of the report, one at a time; `cache` is the folder of the compilation cache, None if it is off."""
    import jax

    yield f"python      {platform.python_version()}, {sys.executable}"
    for name in _PACKAGES:
        yield f"{name:<11} {_version(name)}"
    yield f"backend     {jax.default_backend()}"
    for device in jax.devices():
        yield f"device      {device.device_kind} ({device.platform}:{device.id})"
    yield f"precision   {_precision()}"
    yield "cache       " + ("off" if cache is None else f"{cache} ({_size(cache)})")
    yield f"import      {_import_seconds():.2f} s"
    yield _timed_fit()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _precision() -> str:
    import jax.numpy as jnp

    from jaxnlme.precision import x64

    with x64():
        dtype = jnp.asarray(1.0).dtype
    return f"{dtype} in fits" + ("" if str(dtype) == "float64" else ": 64-bit floats are NOT available here")


def _size(folder: Path) -> str:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def _import_seconds() -> float:
    """Seconds of the imports of a fit in a process of its own."""
    code = "import time; t = time.perf_counter(); import jaxnlme; jaxnlme.fit; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _timed_fit() -> str:
    from jaxnlme.fitting.fit import fit
    from jaxnlme.frontends.cli.demo import theophylline

    start_time = time.perf_counter()
    result = fit(*theophylline(), "focei", progress=False)
    total = time.perf_counter() - start_time
    trace, compiling = (result.timings.get(name, 0.0) for name in ("trace", "compile"))
    running = max(total - trace - compiling, 0.0)
    outcome = "converged" if result.converged else "NOT CONVERGED"
    return (
        f"fit         theophylline, FOCEI: {outcome} in {total:.2f} s (tracing {trace:.2f}, compiling or reading the "
        f"cache {compiling:.2f}, running {running:.2f})"
    )
