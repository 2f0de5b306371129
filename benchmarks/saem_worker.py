"""Our side of saem.py: a process that fits the tables of one case by SAEM, and prints JSON.

    python benchmarks/saem_worker.py '{"tables": [..], "work": "estimates", "fits": 5, "psi": "full", "starts": [..],
    ..}'

Every table but the last is fitted once, the last one `fits` times, from seeds 0, 1, ... `work`: "all" or "estimates"
(our defaults, with or without standard errors and log-likelihood), "schedule" (estimates only, with the iterations and
chains of the request), "maximum" (AGQ, for the estimates and standard errors that the others are compared with) or
"cost" (as "schedule", in two `lengths`).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from spans import Spans
from worker import NAMES, PHASES, estimates, one_compartment, phase, versions

MAXIMUM_NODES = 7  # a dimension, of the AGQ fit


def estimator(request: dict[str, Any], seed: int) -> Any:
    """The method of one fit."""
    import jaxnlme as jn

    if request["work"] == "maximum":
        return jn.AGQ(MAXIMUM_NODES)
    if request["work"] in ("all", "estimates"):
        return jn.SAEM(seed=seed, likelihood="is" if request["work"] == "all" else "none")
    return jn.SAEM(
        request["iterations"],
        burn_in=request["burn_in"],
        chains=request["chains"],
        seed=seed,
        likelihood="none",
        max_iterations=int(sum(request["iterations"])),  # no extension, however large the Monte Carlo error
    )


def fitted(model: Any, data: Any, request: dict[str, Any], seed: int, spans: Spans) -> dict[str, Any]:
    """One fit: its seconds, in total and by step, and its results."""
    import jaxnlme as jn

    began, cpu, wall = time.time(), time.process_time(), time.perf_counter()
    fit = jn.fit(model, data, estimator(request, seed), standard_errors=request["work"] in ("all", "maximum"))
    output: dict[str, Any] = {
        "seconds": {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall},
        "profile": spans.profile((began, time.time()), fit.timings),
        "seed": seed,
        "log_likelihood": number(fit.log_likelihood),
        "converged": bool(fit.converged),
        "status": str(fit.status),
        "timings": {k: float(v) for k, v in dict(fit.timings).items() if isinstance(v, (int, float))},
    }
    return output | estimates(fit) | run_of(fit) | ({"table": table_of(fit)} if request["work"] == "maximum" else {})


def run_of(fit: Any) -> dict[str, Any]:
    """Iterations of a SAEM run, all phases included, and the largest Monte Carlo error of an estimate in its standard
    errors; empty for other methods."""
    run = getattr(fit, "sampling", None)
    if run is None:
        return {}
    ratio = None if run.errors is None else number((run.errors["monte carlo se"] / run.errors["se"]).max())
    output = {"iterations": int(fit.iterations), "chains": int(run.chains), "monte_carlo_error": ratio}
    return output | {"log_likelihood_se": number(run.log_likelihood_se)}


def table_of(fit: Any) -> dict[str, dict[str, float]]:
    """Estimates and standard errors by name: log scale, standard deviations and correlations of psi, error SD."""
    rows = fit.estimates
    return {name: {"estimate": float(rows["estimate"][name]), "se": float(rows["se"][name])} for name in rows.index}


def number(value: Any) -> float | None:
    """A float for JSON; None for None and NaN."""
    return None if value is None or value != value else float(value)


def lengths(model: Any, data: Any, request: dict[str, Any], spans: Spans) -> list[dict[str, Any]]:
    """Runs of every length, in thirds; the first of each for its program only."""
    fits = []
    for total in request["lengths"]:
        thirds = (total - 2 * (total // 3), total // 3, total // 3)
        for seed in range(1 + request["fits"]):
            output = fitted(model, data, request | {"iterations": thirds}, seed, spans)
            fits += [output] if seed else []
    return fits


def main() -> None:
    request = json.loads(sys.argv[1])
    with phase("import"):
        import jax
        import jaxlib
        import numpy
        import pandas as pd

        import jaxnlme as jn
    spans = Spans()
    parameters = [
        jn.Parameter(name, start, transform="log", random=True)
        for name, start in zip(NAMES, request["starts"], strict=True)
    ]
    model = jn.NLMEModel(one_compartment, parameters=parameters, covariance=request["psi"], error="constant")
    *others, last = [
        jn.GroupedData.from_frame(pd.read_csv(path), group="Subject", y="conc", x=["Time", "Dose"])
        for path in request["tables"]
    ]
    for data in others:
        fitted(model, data, request, 0, spans)
    if request["work"] == "cost":
        fits = lengths(model, last, request, spans)
    else:
        fits = [fitted(model, last, request, seed, spans) for seed in range(request["fits"])]
    output = {"fits": fits, "phases": PHASES, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    devices = [str(device.device_kind) for device in jax.devices()]
    output |= {"versions": versions(jax, jaxlib, numpy, pd, jn), "device": devices, "dtype": "float64"}
    print(json.dumps(output))


if __name__ == "__main__":
    main()
