"""Our side of references.py: a process that fits the tables of one case, one after the other, and prints JSON.

    python benchmarks/references_worker.py '{"tables": [..], "function": "logis", "x": ["t"], "starts": {..}, ..}'

The functions are those of the tests' catalogue, which writes R's self-starting functions in JAX.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from worker import PHASES, phase, versions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def outcome(fit: Any) -> dict[str, Any]:
    """Results of a fit as plain numbers."""
    import numpy as np

    return {
        "log_likelihood": float(fit.log_likelihood),
        "converged": bool(fit.converged),
        "status": str(fit.status),
        "beta": fit.beta.to_numpy().tolist(),
        "psi": np.asarray(fit.psi).tolist(),
        "sigma": float(fit.values["a"]),
        "timings": {name: float(value) for name, value in fit.timings.items()},
    }


def main() -> None:
    request = json.loads(sys.argv[1])
    with phase("import"):
        import jax
        import jaxlib
        import pandas as pd

        import jaxnlme as jn
        from tests.estimators.catalogue import FUNCTIONS
    parameters = [
        jn.Parameter(name, start, random=name in request["random"]) for name, start in request["starts"].items()
    ]
    model = jn.NLMEModel(FUNCTIONS[request["function"]], parameters, covariance=request["psi"], error="constant")
    output: dict[str, Any] = {}
    for key, path in zip(("fit", "second"), request["tables"], strict=False):
        label = "" if key == "fit" else "second_"
        with phase(f"{label}data"):
            data = jn.GroupedData.from_frame(pd.read_csv(path), group="group", y="y", x=request["x"])
        with phase(f"{label}fit"):
            fit = jn.fit(model, data, request["method"])
        with phase(f"{label}summary"):
            str(fit.summary())
        output[key] = outcome(fit)
    output |= {"phases": PHASES, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    print(json.dumps(output | {"versions": versions(jax, jaxlib, pd, jn), "dtype": "float64"}))


if __name__ == "__main__":
    main()
