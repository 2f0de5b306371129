"""Our side of saem.py: a process that fits the tables of one case by SAEM, and prints JSON.

    python benchmarks/saem_worker.py '{"tables": [..], "work": "alone", "fits": 5, "psi": "full", "starts": [..], ..}'

Every table but the last is fitted once, the last one `fits` times, from seeds 0, 1, ... `work`: "all" or "alone" (our
defaults, with or without standard errors and log-likelihood), "schedule" (alone, with the iterations and chains asked
for), "maximum" (AGQ, for the estimates and standard errors that the others are laid beside) or "cost" (as "schedule",
in two `lengths`).
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


def estimator(asked: dict[str, Any], seed: int) -> Any:
    """The method of one fit."""
    import jaxnlme as jn

    if asked["work"] == "maximum":
        return jn.AGQ(MAXIMUM_NODES)
    if asked["work"] in ("all", "alone"):
        return jn.SAEM(seed=seed, likelihood="is" if asked["work"] == "all" else "none")
    return jn.SAEM(
        asked["iterations"],
        burn_in=asked["burn_in"],
        chains=asked["chains"],
        seed=seed,
        likelihood="none",
        max_iterations=int(sum(asked["iterations"])),  # no extension, however large the Monte Carlo error
    )


def fitted(model: Any, data: Any, asked: dict[str, Any], seed: int, spans: Spans) -> dict[str, Any]:
    """One fit: its seconds, where they went, and what it reached."""
    import jaxnlme as jn

    began, cpu, wall = time.time(), time.process_time(), time.perf_counter()
    fit = jn.fit(model, data, estimator(asked, seed), standard_errors=asked["work"] in ("all", "maximum"))
    said: dict[str, Any] = {
        "seconds": {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall},
        "profile": spans.profile((began, time.time()), fit.timings),
        "seed": seed,
        "log_likelihood": number(fit.log_likelihood),
        "converged": bool(fit.converged),
        "status": str(fit.status),
        "timings": {k: float(v) for k, v in dict(fit.timings).items() if isinstance(v, (int, float))},
    }
    return said | estimates(fit) | run_of(fit) | ({"table": table_of(fit)} if asked["work"] == "maximum" else {})


def run_of(fit: Any) -> dict[str, Any]:
    """What SAEM says of its run: iterations, all phases included, and the largest Monte Carlo error of an estimate in
    its standard errors; nothing for other methods."""
    run = getattr(fit, "sampling", None)
    if run is None:
        return {}
    share = None if run.errors is None else number((run.errors["monte carlo se"] / run.errors["se"]).max())
    said = {"iterations": int(fit.iterations), "chains": int(run.chains), "monte_carlo_error": share}
    return said | {"log_likelihood_se": number(run.log_likelihood_se)}


def table_of(fit: Any) -> dict[str, dict[str, float]]:
    """Estimates and standard errors by name: log scale, standard deviations and correlations of psi, error SD."""
    rows = fit.estimates
    return {name: {"estimate": float(rows["estimate"][name]), "se": float(rows["se"][name])} for name in rows.index}


def number(value: Any) -> float | None:
    """A float for JSON; None for what is not known."""
    return None if value is None or value != value else float(value)


def lengths(model: Any, data: Any, asked: dict[str, Any], spans: Spans) -> list[dict[str, Any]]:
    """Runs of every length, in thirds; the first of each for its program only."""
    found = []
    for total in asked["lengths"]:
        thirds = (total - 2 * (total // 3), total // 3, total // 3)
        for seed in range(1 + asked["fits"]):
            said = fitted(model, data, asked | {"iterations": thirds}, seed, spans)
            found += [said] if seed else []
    return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    with phase("import"):
        import jax
        import jaxlib
        import numpy
        import pandas as pd

        import jaxnlme as jn
    spans = Spans()
    parameters = [
        jn.Parameter(name, start, transform="log", random=True)
        for name, start in zip(NAMES, asked["starts"], strict=True)
    ]
    model = jn.NLMEModel(one_compartment, parameters=parameters, covariance=asked["psi"], error="constant")
    *others, last = [
        jn.GroupedData.from_frame(pd.read_csv(path), group="Subject", y="conc", x=["Time", "Dose"])
        for path in asked["tables"]
    ]
    for data in others:
        fitted(model, data, asked, 0, spans)
    if asked["work"] == "cost":
        fits = lengths(model, last, asked, spans)
    else:
        fits = [fitted(model, last, asked, seed, spans) for seed in range(asked["fits"])]
    said = {"fits": fits, "phases": PHASES, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    devices = [str(device.device_kind) for device in jax.devices()]
    said |= {"versions": versions(jax, jaxlib, numpy, pd, jn), "device": devices, "dtype": "float64"}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
