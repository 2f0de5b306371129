"""Parts shared by the peers in Python: the arguments, the table and the JSON line, as common.R for those in R.

    python PEER.py DATA.csv diagonal|full KA CL VOL [OPTION [SECOND.csv]]

The three numbers are the starting fixed effects on the natural scale. Seconds are of the fit only, without starting
Python, the imports and reading the table; with a second table, also of its fit, in a process that has done one. The
last line of the output is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np


class Table:
    """A CSV file with columns Subject, Time, Dose (mg), conc: `time`, `dose`, `conc` and `group` (0, 1, ...), each
    (rows,), and how many `groups`."""

    def __init__(self, path: str) -> None:
        subject, self.time, self.dose, self.conc = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
        self.group = np.unique(subject, return_inverse=True)[1]
        self.groups = int(self.group.max()) + 1


class Arguments:
    """The command line: `table`; `psi`; `starts` (log scale); `option`; the `second` table or None."""

    def __init__(self) -> None:
        path, self.psi, *starts = sys.argv[1:6]
        self.starts = np.log([float(start) for start in starts])
        self.option = sys.argv[6] if len(sys.argv) > 6 else "default"
        self.table = Table(path)
        self.second = Table(sys.argv[7]) if len(sys.argv) > 7 else None


def clocked(fit: Callable[[Any], dict[str, Any]], table: Any) -> dict[str, Any]:
    """The results of `fit` for a table, with its seconds (`fit`), its warnings (`warnings`), and `converged` False
    where a warning reports that."""
    cpu, wall = time.process_time(), time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        results = fit(table)
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    messages = sorted({str(w.message)[:300] for w in warned})
    convergence = {"converged": False} if any("did not converge" in message for message in messages) else {}
    return results | convergence | {"fit": spent, "warnings": messages}


def report(program: str, arguments: Arguments, fit: Callable[[Table], dict[str, Any]]) -> None:
    """Run `fit`, which returns estimates, on every table given, and print them with its seconds."""
    output = {"program": program, "version": version(program), "option": arguments.option}
    output |= {"groups": arguments.table.groups} | clocked(fit, arguments.table)
    if arguments.second is not None:
        output["second"] = clocked(fit, arguments.second)
    print(json.dumps(output))
