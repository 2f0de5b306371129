"""Arguments of MATLAB's nlmefit or nlmefitsa passed to one of the two packages in Python, and the outcome of each call.

    python benchmarks/refusals.py jaxnlme|pynlme [nlmefit|nlmefitsa]

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
STARTS = np.array([2.8, 0.85, 0.46, -1.35])
VARYING = {"REParamsSelect": [True, True, True, False]}
BLOCKS = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
SHARED = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])  # one effect moves A1 and A2


def never_stop(beta: Any, status: Any, state: Any) -> bool:
    """An output function that never stops the fit."""
    return False


def of_nlmefit(rows: int, groups: int) -> dict[str, dict[str, Any]]:
    """Name-value arguments by what they test; designs by observation are identities, repeated."""
    every = np.repeat(np.eye(4)[:, :, None], rows, axis=2)
    return {
        "no further argument": VARYING,
        "FEObsDesign": VARYING | {"FEObsDesign": every},
        "REObsDesign": {"REObsDesign": every[:, :3]},
        "CovPattern of two blocks": VARYING | {"CovPattern": BLOCKS},
        "Options.OutputFcn": VARYING | {"Options": {"OutputFcn": never_stop}},
        "Options.FunValCheck": VARYING | {"Options": {"FunValCheck": "on"}},
        "OptimFun 'fminunc'": VARYING | {"OptimFun": "fminunc"},
    }


def of_nlmefitsa(rows: int, groups: int) -> dict[str, dict[str, Any]]:
    """As `of_nlmefit`, with the likelihood by importance sampling where nothing else is tested; the design by group
    makes effects with 0.9 to 1.1 times the SD. `beta0` replaces the positional argument."""
    every = np.repeat(np.eye(4)[:, :, None], rows, axis=2)
    by_group = np.eye(4)[:, :3, None] * np.linspace(0.9, 1.1, groups)
    sampled = {"LogLikMethod": "is"}
    plain = VARYING | sampled
    return {
        "no further argument": plain,
        "LogLikMethod 'lin'": VARYING | {"LogLikMethod": "lin"},
        "LogLikMethod 'gq'": VARYING | {"LogLikMethod": "gq"},
        "Replicates": plain | {"Replicates": 2},
        "beta0 of two columns": plain | {"beta0": np.stack([STARTS, 1.1 * STARTS], axis=1)},
        "Cov0": plain | {"Cov0": 0.1 * np.eye(3)},
        "ErrorParameters": plain | {"ErrorModel": "combined", "ErrorParameters": [0.1, 0.1]},
        "ComputeStdErrors": plain | {"ComputeStdErrors": True},
        "NChains": plain | {"NChains": 20},
        "NMCMCIterations": plain | {"NMCMCIterations": [3, 3, 3]},
        "FEObsDesign": plain | {"FEObsDesign": every},
        "REObsDesign": sampled | {"REObsDesign": every[:, :3]},
        "REGroupDesign that varies": sampled | {"REGroupDesign": by_group},
        "an effect on two parameters": sampled | {"REConstDesign": SHARED},
        "CovPattern of two blocks": plain | {"CovPattern": BLOCKS},
        "Options.OutputFcn": plain | {"Options": {"OutputFcn": never_stop}},
        "Options.Streams": plain | {"Options": {"Streams": 1}},
        "Options.FunValCheck": plain | {"Options": {"FunValCheck": "on"}},
        "Options.DerivStep": plain | {"Options": {"DerivStep": 1e-4}},
    }


CALLS = {"nlmefit": of_nlmefit, "nlmefitsa": of_nlmefitsa}


def function_of(package: str, function: str) -> tuple[Any, Any, dict[str, Any]]:
    """The function, the array library that its models are written in, and the arguments that make it
    reproducible."""
    if package == "jaxnlme":
        import jax.numpy as jnp

        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        import jaxnlme

        return getattr(jaxnlme, function), jnp, {}
    import pynlme

    return getattr(pynlme, function), np, {"random_state": 0}


def main() -> None:
    package, function, *_ = [*sys.argv[1:], "nlmefit"]
    call, xp, reproducible = function_of(package, function)

    def curve(phi, x):
        time = x[:, 0]
        return phi[..., 0] * xp.exp(-xp.exp(phi[..., 1]) * time) + phi[..., 2] * xp.exp(-xp.exp(phi[..., 3]) * time)

    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    time, conc, subject = (np.array([float(row[name]) for row in rows]) for name in ("time", "conc", "Subject"))
    outcomes = {}
    for name, options in CALLS[function](len(rows), len(set(subject))).items():
        arguments = reproducible | options
        try:
            result = call(time[:, None], conc, subject, None, curve, arguments.pop("beta0", STARTS), **arguments)
            outcomes[name] = {"log_likelihood": float(np.max(result[2].logl))}
        except Exception as error:
            outcomes[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    print(json.dumps({"calls": outcomes}))


if __name__ == "__main__":
    main()
