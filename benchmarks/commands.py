"""The programs that are timed: their command lines, and whether they are installed. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cases import HERE, Case

TWO_FITS = "-two-fits"  # ends the name of a program that fits the case's other table first, in the same process
PEERS_PYTHON = "JAXNLME_PEERS_PYTHON"  # environment variable: the Python that has numpyro and pynlme


@dataclass(frozen=True)
class OurMethod:
    """A method of ours that is timed, and the largest number of groups of a case where it is."""

    method: str
    largest: int = 10_000


OURS = {"jaxnlme": OurMethod("focei"), "jaxnlme-lme": OurMethod("lme"), "jaxnlme-foce": OurMethod("foce", 1000)}


@dataclass(frozen=True)
class Peer:
    """A program beside ours: its script under peers/, the option that follows the starts, the package it needs, the
    largest number of groups of a case that it fits, and whether it also runs two fits in one process: that matters
    where a fit takes milliseconds, to which the first call of every function contributes."""

    script: str
    option: str
    package: str
    largest: int = 10_000
    twice: bool = False


PEERS = {
    "nlme": Peer("nlme.R", "default", "nlme"),
    "nlme-plain": Peer("nlme.R", "plain", "nlme", 1000),
    "nlmer": Peer("nlmer.R", "bobyqa", "lme4"),
    "nlmer-nelder-mead": Peer("nlmer.R", "Nelder_Mead", "lme4", 100),
    "pynlme-r": Peer("pynlme_peer.py", "r", "pynlme", twice=True),
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
    """Our worker on a case; `second`: as the second fit of a process that fits the case's other table first."""
    worker = [sys.executable, str(HERE / "worker.py"), "--method", method, "--psi", case.psi]
    worker += ["--effects", str(case.effects), "--starts", *map(str, case.starts)]
    tables = ["--data", str(case.other), "--second", str(case.table)] if second else ["--data", str(case.table)]
    return worker + tables


def indomethacin_command() -> list[str]:
    """Our worker on MathWorks' example of nlmefitsa."""
    return [sys.executable, str(HERE / "worker.py"), "--indomethacin"]


def floor_command() -> list[str]:
    """A process that imports what a fit imports and compiles one addition."""
    return [sys.executable, str(HERE / "worker.py"), "--floor"]


def peer_command(case: Case, name: str, second: bool = False) -> list[str]:
    """A peer's script on a case; `second`: as `fit_command` (those in Python only)."""
    peer = PEERS[name]
    first, *then = (case.other, case.table) if second else (case.table,)
    options = [case.psi, *map(str, case.starts), peer.option]
    return [*script(peer.script), str(first), *options, *map(str, then)]


def script(name: str) -> list[str]:
    """A script under peers/, called by its interpreter."""
    return ["Rscript" if name.endswith(".R") else peers_python(), str(HERE / "peers" / name)]


def peers_python() -> str:
    """The Python of the peers: an environment variable's, else this one."""
    return os.environ.get(PEERS_PYTHON) or sys.executable


def missing(names: list[str]) -> dict[str, str]:
    """The peers that cannot run here, each with the reason."""
    reasons = {package: reason_missing(package) for package in {PEERS[name].package for name in names}}
    return {name: reason for name in names if (reason := reasons[PEERS[name].package])}


def reason_missing(package: str) -> str | None:
    """The reason why a peer's package cannot be used here; None where it can."""
    if package in ("nlme", "lme4"):
        if shutil.which("Rscript") is None:
            return "Rscript is not on the path"
        check = ["Rscript", "-e", f"quit(status = !all(sapply(c('{package}', 'jsonlite'), requireNamespace)))"]
        hint = "the R packages {0} and jsonlite are not installed"
    else:
        check = [peers_python(), "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec('{package}') is None)"]
        hint = f"{{0}} is not installed for {peers_python()} (`pip install {{0}}`, or set {PEERS_PYTHON})"
    try:
        done = subprocess.run(check, capture_output=True, check=False)
    except OSError:
        return f"{check[0]} cannot be run"
    return None if done.returncode == 0 else hint.format(package)
