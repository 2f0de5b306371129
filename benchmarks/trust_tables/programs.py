"""The programs of the honesty and accuracy tables: which can express a fit, and what each maximises."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import commands

from trust_tables.hard_fit_kinds import FAR, FLIP, MODES
from trust_tables.problem import HardFit
from trust_tables.workers import Worker

HERE = Path(__file__).resolve().parent
OURS = "jaxnlme"


@dataclass(frozen=True)
class Program:
    """A row of the table: `name`; `worker` that runs it; `asked`, its name there; `nonlinear`, `linear`, `outcomes`:
    the function that it maximises on a Gaussian curve, a linear Gaussian model, and counts or categories ("exact",
    "laplace", "focei" or "alternation"), None where it cannot express them; `stochastic`; `nested`: it can have two
    levels; `kinds` of hard fits on which it is run, all where empty."""

    name: str
    worker: str
    asked: str
    nonlinear: str | None = None
    linear: str | None = None
    outcomes: str | None = None
    stochastic: bool = False
    nested: bool = False
    kinds: tuple[str, ...] = ()

    def kind(self, fit: HardFit) -> str | None:
        """The function that is maximised for a fit; None where the program is not run on it."""
        if fit.short and not self.stochastic:
            return None
        if fit.nested is not None and not self.nested:
            return None
        if self.asked == "glmm" and fit.psi == "diagonal" and len(fit.random) > 1:
            return None
        if self.kinds and fit.hardness not in self.kinds:
            return None
        if fit.family != "gaussian":
            ordinal = self.asked == "clmm" or self.worker == OURS
            return self.outcomes if (ordinal if fit.family == "ordinal" else self.asked != "clmm") else None
        if fit.shape.linear:
            return None if self.asked == "nextstat LMM" and len(fit.random) > 1 else self.linear
        return None if self.asked == "nextstat FOCEI" and fit.curve != "oral" else self.nonlinear


PROGRAMS = (
    Program("jaxnlme FOCEI", OURS, "FOCEI", "focei", "exact"),
    Program("jaxnlme Laplace", OURS, "Laplace", "laplace", None, "laplace"),
    Program("jaxnlme AGQ", OURS, "AGQ", "exact", None, "exact"),
    Program("jaxnlme LME", OURS, "LME", "alternation", "exact"),
    Program("jaxnlme SAEM", OURS, "SAEM", "exact", "exact", "exact", stochastic=True),
    Program("jaxnlme lme", OURS, "lme", None, "exact", nested=True),
    Program(
        "jaxnlme FOCEI, several starts",
        OURS,
        "FOCEI, several starts",
        "focei",
        kinds=(FAR, FLIP, MODES),
    ),
    Program("nlme", "R", "nlme", "alternation", "exact", nested=True),
    Program("lme4", "R", "lme4", "focei", "exact", "exact", nested=True),
    Program("ordinal clmm", "R", "clmm", None, None, "exact"),
    Program("pynlme LME", "peers", "pynlme LME", "alternation", "exact"),
    Program("pynlme LME, as MATLAB", "peers", "pynlme LME, as MATLAB", "alternation", "exact"),
    Program("pynlme FOCE", "peers", "pynlme FOCE", "focei", "exact"),
    Program("pynlme SAEM", "peers", "pynlme SAEM", "exact", "exact", stochastic=True),
    Program("nextstat FOCEI", "peers", "nextstat FOCEI", "focei"),
    Program("nextstat LMM", "peers", "nextstat LMM", None, "exact"),
    Program("glmm", "peers", "glmm", None, "exact", "exact", nested=True),
    Program("mixedlm", "peers", "mixedlm", None, "exact", "exact", nested=True),
    Program("statsmodels", "peers", "statsmodels", None, "exact", nested=True),
)
PACKAGES = {
    OURS: ("jaxnlme", "jax", "jaxlib", "equinox", "numpy"),
    "R": ("nlme", "lme4", "ordinal"),
    "peers": ("pynlme", "nextstat", "glmm", "mixedlm", "statsmodels"),
}
"""By worker: the packages whose versions are on file."""


def chosen(containing: list[str] | None) -> list[Program]:
    """The programs whose name contains one of these; all without."""
    return [p for p in PROGRAMS if not containing or any(part.lower() in p.name.lower() for part in containing)]


def workers() -> dict[str, Worker]:
    """The processes of the programs that are installed, by the name of the worker."""
    cache = commands.cache_environment(Path(tempfile.gettempdir()) / "jaxnlme-trust-cache")
    found = {OURS: Worker([sys.executable, str(HERE / "ours.py")], cache)}
    if commands.reason_missing("nlme") is None:
        found["R"] = Worker(["Rscript", str(HERE.parent / "peers" / "trust.R")])
    if commands.reason_missing("pynlme") is None:
        found["peers"] = Worker([commands.peers_python(), str(HERE.parent / "peers" / "trust_peer.py")])
    return found
