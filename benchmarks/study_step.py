"""Stepwise searches on simulated data: how often jn.step finds the structure that made the data.

    python benchmarks/study_step.py linear|weak|covariate|ties [--sets N] [--again]
    python benchmarks/study_step.py --table

- linear: 40 subjects, 6 times; a random slope and one of three covariates between subjects are real. From
  "y ~ t", "~ 1 | id" by restricted likelihood, by BIC and by p values. weak: its effect is 0.8 and not 1.2 SDs of the
  levels, 3.6 standard errors on average, so that it is not in every set.
- covariate: one compartment, 40 subjects, 6 samples; log(Wt / 70) acts on cl. From no covariates, three on cl and
  two on vol, by p values and by BIC.
- ties: as linear, with a fourth covariate that is the real one and a little noise: which of the two is chosen is
  chance, and the other one has to be named if it is within two units.

results/step_KIND.json has a row for each set; a run goes on with the sets that are not on file (--again: anew).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import jax.numpy as jnp  # noqa: E402
from provenance import about_this_process  # noqa: E402

import jaxnlme as jn  # noqa: E402

RESULTS = HERE / "results"
Row = dict[str, Any]


def linear_frame(seed: int, twin: float | None = None, effect: float = 1.2) -> pd.DataFrame:
    """Data with a random slope, and an effect of x2 on the level; `twin`: SD of the noise of x4 around x2."""
    rng = np.random.default_rng(seed)
    n, times = 40, np.arange(6.0)
    x = rng.standard_normal((4, n))
    if twin is not None:
        x[3] = x[1] + twin * rng.standard_normal(n)
    level = 10.0 + effect * x[1] + rng.standard_normal(n)
    slope = 0.5 + 0.4 * rng.standard_normal(n)
    ids = np.repeat(np.arange(n), len(times))
    t = np.tile(times, n)
    y = level[ids] + slope[ids] * t + 0.7 * rng.standard_normal(len(t))
    return pd.DataFrame({"id": ids, "t": t, "y": y} | {f"x{k + 1}": x[k][ids] for k in range(4)})


def linear_set(seed: int, effect: float = 1.2) -> Row:
    """A set with three covariates."""
    fit = jn.lme("y ~ t", "~ 1 | id", linear_frame(seed, effect=effect))
    scope = {"fixed": ["x1", "x2", "x3"], "random": ["~ 1 | id", "~ t | id"]}
    out: Row = {}
    for criterion in ("BIC", "p"):
        steps = jn.step(fit, scope, criterion=criterion, progress=False)
        names = set(steps.fit.beta.index)
        slopes = "t" in next(iter(steps.fit.psi.values())).columns
        out[criterion] = {
            "found": names == {"(Intercept)", "t", "x2"} and slopes,
            "path": list(steps.path["change"]),
            "as_good": steps.as_good,
        }
    return out


def ties_set(seed: int) -> Row:
    """A set with a covariate and its twin: "right" if the twin is named where, and only where, it is within 2 units."""
    frame = linear_frame(seed, twin=0.3)
    fit = jn.lme("y ~ t", "~ t | id", frame, method="ML")
    steps = jn.step(fit, {"fixed": ["x1", "x2", "x3", "x4"]}, criterion="BIC", progress=False)
    chosen = [name for name in ("x1", "x2", "x3", "x4") if name in steps.fit.beta.index]
    # Every model with the same number of terms or fewer, and with one more, from scratch.
    within, truly = 2.0, []
    for k in range(16):
        terms = [f"x{j + 1}" for j in range(4) if k >> j & 1]
        if len(set(terms) ^ set(chosen)) > 2 or terms == chosen or set(chosen) < set(terms):
            continue
        other = jn.lme("y ~ " + " + ".join(["t", *terms]), "~ t | id", frame, method="ML")
        if other.bic - steps.fit.bic <= within:
            truly.append(terms)
    named = []
    for text in steps.as_good:
        terms = set(chosen)
        for change in text.split(", "):
            terms = terms | {change[2:]} if change[0] == "+" else terms - {change[2:]}
        named.append(sorted(terms))
    right = sorted(named) == sorted(truly)
    return {
        "BIC": {"found": right, "chosen": chosen, "named": named, "truly": truly, "path": list(steps.path["change"])}
    }


def one_compartment(phi: Any, x: Any) -> Any:
    """Concentration after an oral dose."""
    ke = phi.cl / phi.vol
    return x.dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.time) - jnp.exp(-phi.ka * x.time))


MODEL = jn.NLMEModel(
    one_compartment,
    [
        jn.Parameter("ka", 1.2, transform="log"),
        jn.Parameter("cl", 3.0, transform="log", random=True),
        jn.Parameter("vol", 30.0, transform="log", random=True),
    ],
    "diagonal",
    "proportional",
)


def covariate_data(seed: int) -> jn.GroupedData:
    """Concentrations with cl proportional to weight to the power 0.75; age and sex do nothing."""
    rng = np.random.default_rng(seed)
    n, times = 40, np.array([0.5, 1.5, 4.0, 8.0, 14.0, 24.0])
    weight, age = 70.0 * np.exp(0.25 * rng.standard_normal(n)), rng.uniform(20, 70, n)
    sex = np.where(rng.random(n) < 0.5, "F", "M")
    cl = 3.0 * (weight / 70.0) ** 0.75 * np.exp(0.25 * rng.standard_normal(n))
    vol = 30.0 * np.exp(0.2 * rng.standard_normal(n))
    ke, ka, dose = cl / vol, 1.2, 300.0
    mean = (dose * ka / (vol * (ka - ke)))[:, None] * (np.exp(-ke[:, None] * times) - np.exp(-ka * times))
    y = mean * (1.0 + 0.15 * rng.standard_normal(mean.shape))
    frame = pd.DataFrame({
        "id": np.repeat(np.arange(n), len(times)), "time": np.tile(times, n), "dose": dose, "y": y.ravel(),
        "wt": np.repeat(weight, len(times)), "age": np.repeat(age, len(times)), "sex": np.repeat(sex, len(times)),
    })  # fmt: skip
    return jn.GroupedData.from_frame(frame, "id", "y", ["time", "dose"], ["wt", "age", "sex"])


def covariate_set(seed: int) -> Row:
    """A set of concentrations."""
    fit = jn.fit(MODEL, covariate_data(seed), "focei", progress=False)
    terms = ["log(wt / 70)", "log(age / 45)", "sex"]
    scope = {"covariates": {"cl": terms, "vol": terms[:2]}}
    out: Row = {}
    for criterion in ("p", "BIC"):
        steps = jn.step(fit, scope, criterion=criterion, progress=False)
        names = [name for name in steps.fit.estimates.index if " ~ " in str(name)]
        out[criterion] = {
            "found": names == ["cl ~ log(wt / 70)"],
            "path": list(steps.path["change"]),
            "as_good": steps.as_good,
        }
    return out


def weak_set(seed: int) -> Row:
    """A set with three covariates, the real one of little effect."""
    return linear_set(seed, 0.8)


KINDS: dict[str, Callable[[int], Row]] = {
    "linear": linear_set,
    "weak": weak_set,
    "covariate": covariate_set,
    "ties": ties_set,
}


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", choices=[*KINDS])
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table or options.kind is None:
        print(table())
        return
    path = RESULTS / f"step_{options.kind}.json"
    for seed in range(options.sets):
        rows = read(path)
        if str(seed) in rows and not options.again:
            continue
        began = time.perf_counter()
        row = KINDS[options.kind](seed) | {"seconds": round(time.perf_counter() - began, 2)}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"about": about_this_process(), "rows": rows | {str(seed): row}}, indent=1) + "\n")
        part.replace(path)
        outcome = {name: value["found"] for name, value in row.items() if isinstance(value, dict)}
        print(options.kind, seed, outcome, row["seconds"], flush=True)
    print(table())


def read(path: Path) -> dict[str, Row]:
    """The rows on file by seed."""
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def table() -> str:
    """How often the structure was found, by kind and criterion."""
    lines = ["| data | by | found | of | median seconds a set |", "|---|---|---|---|---|"]
    for kind in KINDS:
        rows = read(RESULTS / f"step_{kind}.json")
        if not rows:
            continue
        seconds = np.median([row["seconds"] for row in rows.values()])
        for criterion in [name for name in next(iter(rows.values())) if name != "seconds"]:
            found = sum(row[criterion]["found"] for row in rows.values())
            lines.append(f"| {kind} | {criterion} | {found} | {len(rows)} | {seconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
