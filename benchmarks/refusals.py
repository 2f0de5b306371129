"""Arguments of MATLAB's nlmefit handed to one of the two doors in Python, and what came of each call.

    python benchmarks/refusals.py jaxnlme|pynlme

Indomethacin by two exponentials, effects on A1, lrc1 and A2; the first call is plain, so that a refusal is that of the
argument. Prints one JSON object: for every call the log-likelihood, or the error.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TABLE = Path(__file__).resolve().parent.parent / "jaxnlme" / "data" / "tables" / "Indometh.csv"
STARTS = [2.8, 0.85, 0.46, -1.35]
VARYING = {"REParamsSelect": [True, True, True, False]}
BLOCKS = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def go_on(beta: Any, status: Any, state: Any) -> bool:
    """An output function that looks and lets the fit go on."""
    return False


def calls(rows: int) -> dict[str, dict[str, Any]]:
    """Name-value arguments by what is tried; designs by observation are identities, repeated."""
    every = np.repeat(np.eye(4)[:, :, None], rows, axis=2)
    return {
        "no further argument": VARYING,
        "FEObsDesign": VARYING | {"FEObsDesign": every},
        "REObsDesign": {"REObsDesign": every[:, :3]},
        "CovPattern of two blocks": VARYING | {"CovPattern": np.array(BLOCKS)},
        "Options.OutputFcn": VARYING | {"Options": {"OutputFcn": go_on}},
        "Options.FunValCheck": VARYING | {"Options": {"FunValCheck": "on"}},
        "OptimFun 'fminunc'": VARYING | {"OptimFun": "fminunc"},
    }


def door(name: str) -> tuple[Any, Any]:
    """The function and the array library that its models are written in."""
    if name == "jaxnlme":
        import jax.numpy as jnp

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from jaxnlme import nlmefit

        return nlmefit, jnp
    from pynlme import nlmefit

    return nlmefit, np


def main() -> None:
    nlmefit, xp = door(sys.argv[1])

    def curve(phi, x):
        time = x[:, 0]
        return phi[..., 0] * xp.exp(-xp.exp(phi[..., 1]) * time) + phi[..., 2] * xp.exp(-xp.exp(phi[..., 3]) * time)

    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    time, conc, subject = (np.array([float(row[name]) for row in rows]) for name in ("time", "conc", "Subject"))
    said = {}
    for name, options in calls(len(rows)).items():
        try:
            found = nlmefit(time[:, None], conc, subject, None, curve, np.array(STARTS), **options)
            said[name] = {"log_likelihood": float(found[2].logl)}
        except Exception as error:
            said[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    print(json.dumps({"calls": said}))


if __name__ == "__main__":
    main()
