"""Size and power of the tests of npd and npde at known parameters.

    python benchmarks/study_npde.py [--sets 200] [--power-sets 100] [--subjects 200] [--replicates 1000] [--fitted]

A dose of 100 into two compartments (biexponential decline), log-normal clearance and volume (SD 0.3 each), constant and
proportional residual error, 3 to 5 samples of each subject among eight times. Every data set is simulated from the
truth and placed among `replicates` data sets simulated from a model at fixed parameters (no refits), by the program of
`fit.simulate`. For the truth each of the 200 sets has simulations of its own; for the other models 100 sets share them.
The models:

- the truth: each unadjusted test of npde (Cholesky, inverse) should reject in 5% of the sets, those of npd, whose
  observations are correlated, more;
- "half omega": the variances of the random effects are half of the truth, so that those of the data are doubled; and
  "half SD": their standard deviations are half;
- "one compartment": one exponential, its clearance and volume fitted to the logarithm of the typical curve at the
  sampling times, variances as in the truth;
- "one compartment, fitted" (with `--fitted`): all its parameters estimated by FOCEI from one large simulated data set,
  so that variances absorb part of what is wrong (a description, no criterion); also the share of sets in which a test
  by thirds of time rejects.

Written to results/npde.json after each model, and printed; models that the file has are not run again (`--again`). It
fails if a test of npde of the truth rejects in less than 2% or more than 9% of the sets, if no test of npd rejects more
often than 9%, or if the global test at 5% rejects "half omega", "half SD" or "one compartment" in less than 80%.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.optimize import least_squares

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402
from results import add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.diagnostics.npde.compute import Options, compute  # noqa: E402
from jaxnlme.diagnostics.npde.distribution import distribution_tests  # noqa: E402
from jaxnlme.results.evaluate import to_rows  # noqa: E402
from jaxnlme.results.simulate import simulate_replicates  # noqa: E402

SEED, DOSE = 1717, 100.0
TIMES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0])
CL, VOL, SHARE, FAST = 3.0, 20.0, 0.6, 1.2  # the fast exponential has a share of 60% at time 0 and a rate of 1.2 per h
SD, ADDITIVE, PROPORTIONAL = 0.3, 0.05, 0.15
LEAST, MOST, POWER = 0.02, 0.09, 0.80
FITTED = "one compartment, fitted"
TESTS = ("Wilcoxon signed rank", "t", "Fisher variance", "Shapiro-Wilk")


def two_compartments(phi, x):
    """Biexponential decline; the area under the curve is DOSE / cl."""
    slow = (1.0 - SHARE) / (phi.vol / phi.cl - SHARE / FAST)
    return DOSE / phi.vol * (SHARE * jnp.exp(-FAST * x.Time) + (1.0 - SHARE) * jnp.exp(-slow * x.Time))


def one_compartment(phi, x):
    """One exponential."""
    return DOSE / phi.vol * jnp.exp(-phi.cl / phi.vol * x.Time)


def model(structure, cl=CL, vol=VOL, sd=SD) -> jn.NLMEModel:
    parameters = [jn.Parameter(name, value, "log", random=True, sd=sd) for name, value in (("cl", cl), ("vol", vol))]
    return jn.NLMEModel(structure, parameters, error=jn.error.combined(ADDITIVE, PROPORTIONAL))


def design(subjects: int) -> jn.GroupedData:
    """3, 4 and 5 samples of every third subject, at times drawn without replacement."""
    rng = np.random.default_rng(SEED)
    times = [np.sort(rng.choice(TIMES, 3 + k % 3, replace=False)) for k in range(subjects)]
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), [len(t) for t in times]), "Time": np.concatenate(times)})
    return jn.GroupedData.from_frame(frame.assign(y=1.0), "ID", "y", "Time")


PROGRAM = jax.jit(simulate_replicates)


class Simulator:
    """Data sets of a model at fixed parameters: `draw(key, n)`, (n, rows); with `like`, another simulator of the same
    structure, its compiled program."""

    def __init__(self, declared: jn.NLMEModel, data: jn.GroupedData, params=None, like: Simulator | None = None):
        if like is not None:
            params = jn.bind(declared, data).start
        self.binding = jn.bind(declared, data) if like is None else like.binding
        self.params = jax.tree.map(jnp.asarray, self.binding.start if params is None else params)

    def draw(self, key: jax.Array, n: int) -> np.ndarray:
        pieces = [np.asarray(p) for p in PROGRAM(self.binding.problem, self.params, key, jnp.arange(n))]
        return np.stack([to_rows(self.binding, [piece[k] for piece in pieces]) for k in range(n)])


def typical_curve_fit() -> tuple[float, float]:
    """Clearance and volume of one compartment nearest to the logarithm of the typical curve."""
    slow = (1.0 - SHARE) / (VOL / CL - SHARE / FAST)
    curve = np.log(DOSE / VOL * (SHARE * np.exp(-FAST * TIMES) + (1.0 - SHARE) * np.exp(-slow * TIMES)))
    found = least_squares(lambda p: np.log(DOSE) - p[1] - np.exp(p[0] - p[1]) * TIMES - curve, np.log([CL, VOL]))
    return float(np.exp(found.x[0])), float(np.exp(found.x[1]))


def rejected(
    y: np.ndarray, draws: np.ndarray, data: jn.GroupedData, method: str, third: np.ndarray | None
) -> dict[str, bool]:
    """Which tests reject at 5%, by kind and test, of one data set; `third` (rows,): class of time, or None."""
    columns = compute(data.with_response(y), draws, None, Options(decorrelation=method)).columns
    out = {}
    kinds = {"npde": f"npde {method}"} | ({"npd": "npd"} if method == "cholesky" else {})
    for kind, name in kinds.items():
        tests = distribution_tests(columns[kind])
        out |= {f"{name}: {test}": tests[test][1] < 0.05 for test in TESTS}
        out[f"{name}: global"] = tests["global"][2] < 0.05
        if third is not None:
            parts = [distribution_tests(columns[kind][third == k])["global"][2] for k in range(3)]
            out[f"{name}: by thirds of time"] = 3.0 * min(parts) < 0.05
    return out


def rates_of(name: str, number: int, simulator: Simulator, every: np.ndarray, data: jn.GroupedData, options) -> dict:
    """The share of the data sets `every` in which each test rejects the model `simulator`."""
    base, rows, draws = jax.random.fold_in(jax.random.key(SEED + 1), number), [], np.empty(0)
    third = np.digitize(data.rows_to_column(data.x["Time"]), [0.75, 6.0]) if name == FITTED else None
    for k, y in enumerate(every):
        if k == 0 or name == "truth":
            draws = simulator.draw(jax.random.fold_in(jax.random.fold_in(base, 2), k), options.replicates)
        found = rejected(y, draws, data, "cholesky", third)
        rows.append(found | rejected(y, draws, data, "inverse", third))
    return pd.DataFrame(rows).mean().to_dict()


def fitted_model() -> jn.Fit:
    """One compartment fitted to a large data set of the truth."""
    large = design(1500)
    responses = Simulator(model(two_compartments), large).draw(jax.random.key(SEED), 1)[0]
    return jn.fit(model(one_compartment, *typical_curve_fit()), large.with_response(responses), "focei")


def failures_of(rates: dict[str, dict[str, float]]) -> list[str]:
    """Sentences on criteria that do not hold."""
    failures = []
    for method in ("cholesky", "inverse"):
        for test in TESTS:
            rate = rates["truth"][f"npde {method}: {test}"]
            if not LEAST <= rate <= MOST:
                failures.append(f"{test} of npde ({method}) rejects the truth in {100 * rate:.1f}% of the sets")
        for name in ("half omega", "half SD", "one compartment"):
            power = rates[name][f"npde {method}: global"]
            if not power >= POWER:
                failures.append(f"the global test of npde ({method}) rejects {name} in {100 * power:.1f}% of the sets")
    most = max(rates["truth"][f"npd: {test}"] for test in TESTS)
    if not most > MOST:
        failures.append(f"no test of npd rejects the truth in more than {100 * most:.1f}% of the sets")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--power-sets", type=int, default=100)
    parser.add_argument("--fitted", action="store_true", help="also the wrong model with all its parameters estimated")
    parser.add_argument("--models", nargs="*", help="only these models, as in --models truth 'half SD'")
    parser.add_argument("--again", action="store_true", help="run all models, also those in the results file")
    add_folder(parser)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    path = options.folder / "npde.json"
    data = design(options.subjects)
    settings = {
        "sets": options.sets,
        "subjects": options.subjects,
        "rows": data.n_rows,
        "replicates": options.replicates,
    }
    content = json.loads(path.read_text()) if path.exists() and not options.again else {}
    settings["power_sets"] = options.power_sets
    if {name: content.get(name) for name in settings} != settings:
        content = {"about": about_this_process() | {"dtype": "float64"}, **settings, "seconds": {}, "rejected": {}}
    truth = Simulator(model(two_compartments), data)
    models = {
        "truth": lambda: truth,
        "half omega": lambda: Simulator(model(two_compartments, sd=SD / 2.0**0.5), data, like=truth),
        "half SD": lambda: Simulator(model(two_compartments, sd=SD / 2.0), data, like=truth),
        "one compartment": lambda: Simulator(model(one_compartment, *typical_curve_fit()), data),
        FITTED: lambda: Simulator(model(one_compartment), data, fitted.params),
    }
    content["one compartment"] = typical_curve_fit()
    for number, (name, simulator) in enumerate(models.items()):
        chosen = name in options.models if options.models else name != FITTED or options.fitted
        if name in content["rejected"] or not chosen:
            continue
        began = time.perf_counter()
        if name == FITTED:
            fitted = fitted_model()
            content[FITTED] = dict(fitted.values) | {"converged": fitted.converged}
        # Sets of the truth and of the other models are different ones.
        sets, key = (options.sets, 0) if name == "truth" else (options.power_sets, 1)
        every = truth.draw(jax.random.fold_in(jax.random.key(SEED + 2), key), max(options.replicates, sets))[:sets]
        content["rejected"][name] = rates_of(name, number, simulator(), every, data, options)
        content["seconds"][name] = time.perf_counter() - began
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(f"{name}: {content['seconds'][name]:.0f} s", flush=True)
    print(pd.DataFrame(content["rejected"]).to_string(float_format="{:.3f}".format))
    if not {"truth", "half omega", "half SD", "one compartment"} <= content["rejected"].keys():
        return 0
    content["failures"] = failures_of(content["rejected"])
    path.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(content["failures"]) or "all criteria hold")
    return len(content["failures"])


if __name__ == "__main__":
    sys.exit(main())
