"""Outlying responses: 5 % of the responses of simulated studies times ten, by Gaussian and by Student-t residuals.

    python benchmarks/study_robust.py [--studies 25]

A drug given as a bolus to 40 subjects, 8 responses each, clearance and volume log-normal, a proportional residual error
of 10 %. Of each study the clean responses are fitted too. Writes results/study_robust.json: by model and parameter
the mean error in percent of the truth, the root mean square error, and how many 95 % Wald intervals hold the truth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
from provenance import about

import jaxnlme as jn

RESULTS = Path(__file__).resolve().parent / "results"
TRUTH = {"cl": 4.0, "vol": 30.0, "sd(cl)": 0.3, "sd(vol)": 0.2, "b": 0.1}
SUBJECTS, TIMES, DOSE, SHARE, FACTOR = 40, np.array([0.5, 1, 2, 4, 6, 8, 12, 16.0]), 300.0, 0.05, 10.0


def bolus(phi, x):
    return DOSE / phi.vol * jnp.exp(-phi.cl / phi.vol * x.time)


def study(seed: int) -> pd.DataFrame:
    """The table of one study: subject, time, the clean responses and those with outliers."""
    rng = np.random.default_rng(seed)
    cl, vol = (TRUTH[p] * np.exp(TRUTH[f"sd({p})"] * rng.normal(size=SUBJECTS)) for p in ("cl", "vol"))
    mean = DOSE / vol[:, None] * np.exp(-(cl / vol)[:, None] * TIMES)
    clean = mean * (1 + TRUTH["b"] * rng.normal(size=mean.shape))
    outlying = rng.random(mean.shape) < SHARE
    table = {"subject": np.repeat(np.arange(SUBJECTS), len(TIMES)), "time": np.tile(TIMES, SUBJECTS)}
    return pd.DataFrame(table | {"clean": clean.ravel(), "outliers": np.where(outlying, FACTOR * clean, clean).ravel()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=25)
    parser.add_argument("--only", default="", help="only cases whose name has this; earlier results of others stay")
    options = parser.parse_args()
    n = options.studies
    parameters = [jn.Parameter("cl", 3.0, "log", random=True), jn.Parameter("vol", 25.0, "log", random=True)]
    errors = {"gaussian": "proportional", "student t": jn.error.student_t("proportional", df=4.0)}
    errors["student t, df 4"] = jn.error.student_t("proportional")
    models = {name: jn.NLMEModel(bolus, parameters, error=error) for name, error in errors.items()}
    cases = [
        ("gaussian", "clean"),
        ("gaussian", "outliers"),
        ("student t, df 4", "outliers"),
        ("student t", "outliers"),
    ]
    cases = [case for case in cases if options.only in ", ".join(case)]
    found: dict[str, list[pd.DataFrame]] = {f"{model}, {y}": [] for model, y in cases}
    failed = dict.fromkeys(found, 0)
    for seed in range(n):
        table = study(seed)
        for model, y in cases:
            data = jn.GroupedData.from_frame(table, group="subject", y=y, x=["time"])
            fit = jn.fit(models[model], data, "laplace", progress=False)
            print(seed, model, y, fit.converged, flush=True)
            if fit.converged:
                found[f"{model}, {y}"].append(fit.estimates)
            else:
                failed[f"{model}, {y}"] += 1
    path = RESULTS / "study_robust.json"
    earlier = json.loads(path.read_text()) if options.only and path.exists() else {}
    failed = earlier.get("not_converged", {}) | failed
    out: dict[str, object] = earlier | {"studies": n, "not_converged": failed, "truth": TRUTH}
    for case, tables in found.items():
        rows = {}
        for name, truth in TRUTH.items():
            column = "value" if name in ("cl", "vol") else "estimate"
            lower, upper = ("value_lower", "value_upper") if column == "value" else ("lower", "upper")
            values = np.array([table.loc[name, column] for table in tables])
            inside = [table.loc[name, lower] <= truth <= table.loc[name, upper] for table in tables]
            error = 100.0 * (values / truth - 1.0)
            rows[name] = {"mean_error": error.mean(), "rmse": np.sqrt(np.mean(error**2)), "coverage": np.mean(inside)}
        if case == "student t, outliers":
            rows["df"] = {"median": float(np.median([table.loc["df", "estimate"] for table in tables]))}
        out[case] = {name: {key: round(float(v), 3) for key, v in row.items()} for name, row in rows.items()}
        print(case, json.dumps(out[case], indent=1))
    path.write_text(json.dumps(out | about(), indent=1) + "\n")


if __name__ == "__main__":
    main()
