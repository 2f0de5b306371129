"""Provenance of a benchmark: machine, day, commit and versions. Standard library only."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def git(*arguments: str) -> str | None:
    """Output of a git command, or None outside a repository or before its first commit."""
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def about() -> dict[str, Any]:
    """The machine, the commit and the day."""
    model = next((x.split(":", 1)[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), None)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted": bool(git("status", "--porcelain", "--", "../jaxnlme")),
        "machine": {"cpu": model, "cores": len(os.sched_getaffinity(0)), "system": platform.system()},
        "load_before": os.getloadavg(),
    }


def about_this_process() -> dict[str, Any]:
    """`about`, with the versions, the device and the dtype of a process that has imported JAX."""
    import jax
    import jax.numpy as jnp

    return about() | {
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in LIBRARIES},
        "device": sorted({f"{device.platform}: {device.device_kind}" for device in jax.devices()}),
        "dtype": str(jnp.zeros(()).dtype),
    }


LIBRARIES = ("jaxnlme", "jax", "jaxlib", "equinox", "numpy")


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
