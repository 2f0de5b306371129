"""Lines of StableHLO of the objective-and-gradient program, by likelihood approximation and structure of
Psi: compilation time grows with it.

    python benchmarks/program_lines.py [--approximations focei laplace]

The model is the one-compartment model with three random effects. Nothing is compiled. Prints one JSON object; the
number does not depend on the size of the data.
"""

from __future__ import annotations

import argparse
import json
import time

from cases import STRUCTURES
from evaluation import Evaluations, oral_data, oral_model
from worker import method_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--approximations", nargs="+", default=["focei", "fo", "foce", "laplace", "agq3", "is"])
    rows = []
    data = oral_data(12)
    for method in parser.parse_args().approximations:
        for psi in STRUCTURES:
            evaluations = Evaluations(oral_model(3, psi), data, method_of(method))
            began = time.perf_counter()
            lines = evaluations.lowered().as_text().count("\n")
            rows.append({"approximation": method, "psi": psi, "lines": lines, "trace_s": time.perf_counter() - began})
    print(json.dumps({"programs": rows}))


if __name__ == "__main__":
    main()
