"""The programs that are timed: how each is called, and whether it is there. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cases import HERE, Case

PEERS_PYTHON = "JAXNLME_PEERS_PYTHON"  # environment variable: the Python that has numpyro and pynlme


@dataclass(frozen=True)
class Peer:
    """A program beside ours: its script under peers/, the option that follows the starts, the package it needs, and
    the largest number of groups that it is asked to fit."""

    script: str
    option: str
    package: str
    largest: int = 10_000


PEERS = {
    "nlme": Peer("nlme.R", "default", "nlme"),
    "nlme-plain": Peer("nlme.R", "plain", "nlme", 1000),
    "nlmer": Peer("nlmer.R", "bobyqa", "lme4"),
    "nlmer-nelder-mead": Peer("nlmer.R", "Nelder_Mead", "lme4", 100),
    "pynlme-r": Peer("pynlme_peer.py", "r", "pynlme"),
    "pynlme-matlab": Peer("pynlme_peer.py", "matlab", "pynlme"),
    "pynlme-foce": Peer("pynlme_peer.py", "foce", "pynlme", 1000),
    "numpyro-svi": Peer("numpyro_peer.py", "svi", "numpyro"),
    "numpyro-nuts": Peer("numpyro_peer.py", "nuts", "numpyro", 100),
}


def cache_environment(cache: Path) -> dict[str, str]:
    """JAX's persistent compilation cache in `cache`, keeping every program whatever its size or compile time."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])),
    }


def fit_command(case: Case, method: str = "focei", second: bool = False) -> list[str]:
    """Our worker on a case; `second`: also on the case's second table, in the same process."""
    worker = [sys.executable, str(HERE / "worker.py"), "--data", str(case.table), "--method", method]
    worker += ["--psi", case.psi, "--effects", str(case.effects), "--starts", *map(str, case.starts)]
    return [*worker, "--second", str(case.second)] if second else worker


def floor_command() -> list[str]:
    """A process that imports what a fit imports and compiles one addition."""
    return [sys.executable, str(HERE / "worker.py"), "--floor"]


def peer_command(case: Case, name: str) -> list[str]:
    """A peer's script on a case."""
    peer = PEERS[name]
    program = "Rscript" if peer.script.endswith(".R") else peers_python()
    return [program, str(HERE / "peers" / peer.script), str(case.table), case.psi, *map(str, case.starts), peer.option]


def peers_python() -> str:
    """The Python of the peers: an environment variable's, else this one."""
    return os.environ.get(PEERS_PYTHON) or sys.executable


def missing(names: list[str]) -> dict[str, str]:
    """The peers that cannot run here, each with the reason."""
    reasons = {package: _reason(package) for package in {PEERS[name].package for name in names}}
    return {name: reason for name in names if (reason := reasons[PEERS[name].package])}


def _reason(package: str) -> str | None:
    if package in ("nlme", "lme4"):
        if shutil.which("Rscript") is None:
            return "Rscript is not on the path"
        ask = ["Rscript", "-e", f"quit(status = !all(sapply(c('{package}', 'jsonlite'), requireNamespace)))"]
        hint = "the R packages {0} and jsonlite are not installed"
    else:
        ask = [peers_python(), "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec('{package}') is None)"]
        hint = f"{{0}} is not installed for {peers_python()} (`pip install {{0}}`, or set {PEERS_PYTHON})"
    try:
        done = subprocess.run(ask, capture_output=True, check=False)
    except OSError:
        return f"{ask[0]} cannot be run"
    return None if done.returncode == 0 else hint.format(package)
