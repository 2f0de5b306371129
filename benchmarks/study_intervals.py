"""Coverage of intervals of predictions, fit.predict(interval=0.95), in simulated data.

    python benchmarks/study_intervals.py [--sets 100] [--subjects 30]

A bolus of 100 into one compartment, log-normal clearance and volume (SD 0.3 each), residual error proportional (15%)
with a small constant part (0.05), five samples of each subject. Every data set is simulated from the truth and fitted
by FOCEI; counted is the share of rows, over all data sets, in whose interval lies

- "group, response": a new response of the same subject, from parameters, effects and residual;
- "group, curve": the prediction at the subject's true random effects, from parameters and effects;
- "group, curve, effects only": the same, parameters at their estimates;
- "population, response": a response of a new subject, from all three;
- "population, typical curve": the prediction at the true parameters without random effects, from parameters.

Written to results/intervals.json after every data set, and printed. Rows of a data set share its estimates, so that the
Monte Carlo standard error is that of the means of data sets. It fails if a coverage is further from 95% than 3 of these
and 2 percentage points (the last one: 4, for the intervals of 30 subjects are Wald's); "effects only" is not checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402

import jaxnlme as jn  # noqa: E402

SEED, DOSE, TIMES = 1718, 100.0, np.array([0.5, 2.0, 5.0, 9.0, 14.0])
CL, VOL, SD, ADDITIVE, PROPORTIONAL = 3.0, 20.0, 0.3, 0.05, 0.15
LEVEL, DRAWS = 0.95, 500
SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "group, response": ("group", ("parameters", "effects", "residual")),
    "group, curve": ("group", ("parameters", "effects")),
    "group, curve, effects only": ("group", ("effects",)),
    "population, response": ("population", ("parameters", "effects", "residual")),
    "population, typical curve": ("population", ("parameters",)),
}
ALLOWED = {"population, typical curve": 0.04}


def bolus(phi, x):
    return DOSE / phi.vol * jnp.exp(-phi.cl / phi.vol * x.time)


def curves(rng: np.random.Generator, subjects: int, spread: float) -> np.ndarray:
    """Predictions (subjects, times) of new subjects whose effects have the standard deviation `spread`."""
    cl, vol = (value * np.exp(spread * rng.standard_normal((subjects, 1))) for value in (CL, VOL))
    return DOSE / vol * np.exp(-cl / vol * TIMES)


def responses(rng: np.random.Generator, f: np.ndarray) -> np.ndarray:
    """Responses at the predictions `f`."""
    return f + np.sqrt(ADDITIVE**2 + (PROPORTIONAL * f) ** 2) * rng.standard_normal(f.shape)


def coverage(number: int, subjects: int) -> dict[str, Any]:
    """The share of rows covered in one data set, by kind of interval, with `converged`."""
    rng = np.random.default_rng([SEED, number])
    f = curves(rng, subjects, SD)
    table = pd.DataFrame({
        "id": np.repeat(np.arange(1, subjects + 1), len(TIMES)), "time": np.tile(TIMES, subjects),
        "y": responses(rng, f).ravel(),
    })  # fmt: skip
    data = jn.GroupedData.from_frame(table, "id", "y", x=["time"])
    parameters = [jn.Parameter(name, start, "log", random=True) for name, start in (("cl", 2.0), ("vol", 30.0))]
    fit = jn.fit(jn.NLMEModel(bolus, parameters, error="combined variance"), data, "focei")
    out: dict[str, Any] = {"set": number, "converged": bool(fit.converged)}
    if not fit.converged or fit.information is None or fit.information.singular:
        return out | dict.fromkeys(SOURCES, None)
    truth = {
        "group, response": responses(rng, f),
        "group, curve": f,
        "group, curve, effects only": f,
        "population, response": responses(rng, curves(rng, subjects, SD)),
        "population, typical curve": curves(rng, subjects, 0.0),
    }
    for name, (level, sources) in SOURCES.items():
        limits = fit.predict(level=level, interval=LEVEL, uncertainty=sources, draws=DRAWS, seed=number)
        values = truth[name].ravel()
        out[name] = float(np.mean((values >= limits.lower) & (values <= limits.upper)))
    return out


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage and its standard error by kind of interval."""
    good = [row for row in rows if row[next(iter(SOURCES))] is not None]
    out: dict[str, Any] = {"sets": len(rows), "not converged or without standard errors": len(rows) - len(good)}
    for name in SOURCES:
        values = np.array([row[name] for row in good])
        se = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        out[name] = {"coverage": float(values.mean()) if len(values) else float("nan"), "se": se}
    return out


def main() -> int:
    """Run the study; 1 where a coverage is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--subjects", type=int, default=30)
    options = parser.parse_args()
    path, rows = HERE / "results" / "intervals.json", []
    for number in range(options.sets):
        rows.append(coverage(number, options.subjects))
        found = summary(rows)
        content = {"about": about_this_process(), "level": LEVEL, "draws": DRAWS, "subjects": options.subjects}
        path.write_text(json.dumps(content | {"summary": found, "rows": rows}, indent=1) + "\n")
        print(number, {name: round(found[name]["coverage"], 4) for name in SOURCES}, flush=True)
    wrong = [
        name
        for name in SOURCES
        if name != "group, curve, effects only"
        and not abs(found[name]["coverage"] - LEVEL) <= 3.0 * found[name]["se"] + ALLOWED.get(name, 0.02)
    ]
    print("as it should be" if not wrong else f"NOT as it should be: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
