"""What the peers in Python share: the arguments, the table and the JSON line, as common.R for those in R.

    python PEER.py DATA.csv diagonal|full KA CL VOL [OPTION]

The three numbers are the starting fixed effects on the natural scale. Seconds are of the fit alone, without starting
Python, the imports and reading the table. The last line of the output is one JSON object.
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


class Arguments:
    """The command line: `table` with columns Subject, Time, Dose (mg), conc; `psi`; `starts` (log scale); `option`."""

    def __init__(self) -> None:
        path, self.psi, *starts = sys.argv[1:6]
        self.starts = np.log([float(start) for start in starts])
        self.option = sys.argv[6] if len(sys.argv) > 6 else "default"
        columns = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
        self.subject, self.time, self.dose, self.conc = columns
        self.group = np.unique(self.subject, return_inverse=True)[1]
        self.groups = int(self.group.max()) + 1


def report(program: str, arguments: Arguments, fit: Callable[[], dict[str, Any]]) -> None:
    """Run `fit`, which returns estimates, and print them with its seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = fit()
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    said = {"program": program, "version": version(program), "groups": arguments.groups, "option": arguments.option}
    print(json.dumps(said | {"fit": spent, "warnings": sorted({str(w.message)[:300] for w in warned})} | found))
