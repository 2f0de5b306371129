"""Cost of one objective-and-gradient with nested levels and with correlated residuals, and without either.

    python benchmarks/levels_cost.py [--repeats 15] [--small] [--baseline PATH]

FOCEI with warm modes, compiled programs, medians of interleaved repeats in one process; the ratio of a row is the
median of the ratios of CPU seconds of its pairs.

- occasions: clearance varies between subjects and occasions; 8 occasions a subject against 4 (limit 2.5).
- correlation: AR(1) and CAR(1) residuals over unequal times against independent ones, in 100,000 rows (limit 1.5).
- baseline: one-compartment fits without levels and correlation, by this package against the checkout in PATH of another
  version, two processes that take turns; also tracing and compiling. More than one is slower than before.

Writes results/levels_cost.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if "--worker" not in sys.argv:  # workers have the package of their search path, imported before `evaluation` changes it
    sys.path.insert(0, str(HERE.parent))
jaxnlme = importlib.import_module("jaxnlme")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import simulate  # noqa: E402
from evaluation import STEP, Evaluations, jn, one_compartment, oral_data, oral_model  # noqa: E402
from provenance import about_this_process  # noqa: E402
from results import Record, add_folder  # noqa: E402

SUBJECTS, OCCASIONS, TIMES = 1000, (4, 8), np.array([0.5, 2.0, 5.0, 9.0, 15.0, 24.0])
LAYOUTS = ((10_000, 10), (1000, 100))  # groups, observations: 100,000 rows
SCALES = {"constant": 0.7, "proportional": 0.1}
GROUPS = (12, 1200, 12_000)
RHO, DOSE = 0.5, 320.0
LIMITS = {"occasions": 2.5, "correlation": 1.5}


def bolus(phi, x):
    """Concentration (mg/l) after a dose into one compartment."""
    return x.Dose / phi.vol * jnp.exp(-phi.cl / phi.vol * x.Time)


def occasions_case(subjects: int, occasions: int) -> tuple[Any, Any]:
    """A model with effects of subjects (cl, vol) and occasions (cl), and data of 6 samples an occasion."""
    rng = np.random.default_rng([1, subjects, occasions])
    shape = (subjects, occasions, TIMES.size)
    cl = 2.8 * np.exp(0.25 * rng.standard_normal((subjects, 1, 1)) + 0.15 * rng.standard_normal((*shape[:2], 1)))
    vol = 32.0 * np.exp(0.15 * rng.standard_normal((subjects, 1, 1)))
    y = DOSE / vol * np.exp(-cl / vol * TIMES) * (1.0 + 0.1 * rng.standard_normal(shape))
    subject, occasion, sample = np.indices(shape).reshape(3, -1)
    table = {"Subject": subject, "Occasion": occasion, "Time": TIMES[sample], "y": y.ravel()}
    table["Dose"] = np.full(y.size, DOSE)
    model = jn.NLMEModel(
        bolus,
        [jn.Parameter("cl", 2.8, "log", random=["Subject", "Occasion"]), jn.Parameter("vol", 32.0, "log", random=True)],
        error="proportional",
    )
    return model, jn.GroupedData.from_frame(table, ["Subject", "Occasion"], "y", ["Time", "Dose"])


def correlated_data(model: str, groups: int, rows: int, scale: str) -> Any:
    """Data of `groups` subjects with times of their own and AR(1) residuals; `model`: oral or bolus."""
    rng = np.random.default_rng([2, groups, rows])
    time_of = np.sort(rng.uniform(0.25, 24.0, (groups, rows)), axis=1)
    xb = np.log(list(simulate.TRUTH.values())) + simulate.SDS * rng.standard_normal((groups, 3))
    if model == "oral":
        f = simulate.concentration(xb, time_of, DOSE)
    else:
        _, cl, vol = np.exp(xb).T[:, :, None]
        f = DOSE / vol * np.exp(-cl / vol * time_of)
    noise = rng.standard_normal(f.shape)
    for k in range(1, rows):
        noise[:, k] = RHO * noise[:, k - 1] + np.sqrt(1.0 - RHO**2) * noise[:, k]
    y = f + SCALES[scale] * noise * (f if scale == "proportional" else 1.0)
    x = {"Time": time_of.ravel(), "Dose": np.full(y.size, DOSE)}
    return jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(groups), rows), x=x)


def correlated_model(model: str, error: Any) -> Any:
    """The oral model with three correlated effects, or the bolus with two independent ones."""
    names = list(simulate.TRUTH) if model == "oral" else ["cl", "vol"]
    parameters = [jn.Parameter(name, simulate.TRUTH[name], "log", random=True) for name in names]
    fn, psi = (one_compartment, "full") if model == "oral" else (bolus, "diagonal")
    return jn.NLMEModel(fn, parameters, covariance=psi, error=error)


class Timed:
    """Evaluations of one model and data set, one at a time: `objective()` gives wall and CPU seconds."""

    def __init__(self, model: Any, data: Any):
        self.evaluations, self.count = Evaluations(model, data), 0
        self.modes = self.evaluations.run(0.0, self.evaluations.modes())
        for _ in range(2):
            self.objective()

    def objective(self) -> tuple[float, float]:
        self.count += 1
        wall, cpu = time.perf_counter(), time.process_time()
        self.modes = jax.block_until_ready(self.evaluations.run(STEP * (self.count % 2), self.modes))
        return time.perf_counter() - wall, time.process_time() - cpu

    def compiling(self) -> tuple[float, float]:
        """Wall and CPU seconds of tracing and compiling the program again."""
        jax.clear_caches()
        wall, cpu = time.perf_counter(), time.process_time()
        self.evaluations.lowered().compile()
        return time.perf_counter() - wall, time.process_time() - cpu


def compared(pairs: list[tuple[Any, Any]]) -> dict[str, float]:
    """Medians of interleaved (wall, CPU) seconds of two, and the median of the ratios of the first to the second."""
    first, second = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    out = {}
    for k, clock in enumerate(("wall", "cpu")):
        out |= {clock: float(np.median(first[:, k])), f"{clock}_reference": float(np.median(second[:, k]))}
        out[f"{clock}_ratio"] = statistics.median((first[:, k] / second[:, k]).tolist())
    return out


def alternated(one: Timed, other: Timed, repeats: int) -> dict[str, float]:
    return compared([(one.objective(), other.objective()) for _ in range(repeats)])


def occasions(subjects: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Twice as many occasions a subject."""
    few, many = (Timed(*occasions_case(subjects, number)) for number in OCCASIONS)
    yield {"case": "occasions", "groups": subjects, "of": "8 against 4"} | alternated(many, few, repeats)


def correlation(layouts: Any, repeats: int) -> Iterator[dict[str, Any]]:
    """Correlated residuals against independent ones."""
    for model in ("oral", "bolus"):
        for groups, rows in layouts:
            for scale in SCALES:
                data = correlated_data(model, groups, rows, scale)
                plain = Timed(correlated_model(model, scale), data)
                for name, term in (("AR1", jn.correlation.AR1()), ("CAR1", jn.correlation.CAR1("Time"))):
                    timed = Timed(correlated_model(model, jn.error.gaussian(scale, term)), data)
                    row = {"case": "correlation", "model": model, "groups": groups, "rows": rows, "scale": scale}
                    yield row | {"of": name} | alternated(timed, plain, repeats)


class Worker:
    """A process with the package of the folder `package`, which times on request."""

    def __init__(self, package: Path, groups: int):
        command = [sys.executable, str(HERE / "levels_cost.py"), "--worker", str(groups)]
        environment = os.environ | {"PYTHONPATH": str(package)}
        self.process = subprocess.Popen(
            command, env=environment, cwd=package, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.package = self._answer()
        if Path(self.package) != package.resolve():
            raise SystemExit(f"the process for {package} has the package of {self.package}")

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the comparison ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self.process.communicate()


def work(groups: int) -> None:
    """The other side of Worker: reads `objective` or `compiling`, a line each, and prints seconds."""
    print(json.dumps(str(Path(jaxnlme.__file__).resolve().parents[1])), flush=True)
    timed = Timed(oral_model(3, "full"), oral_data(groups))
    for line in sys.stdin:
        print(json.dumps(getattr(timed, line.strip())()), flush=True)


def baseline(package: Path, sizes: Any, repeats: int) -> Iterator[dict[str, Any]]:
    """Fits without levels and correlation, beside another version of the package."""
    for groups in sizes:
        new, old = (Worker(folder, groups) for folder in (HERE.parent, package))
        for what, count in (("objective", repeats), ("compiling", max(3, repeats // 3))):
            times = count * (max(4, min(100, 24_000 // groups)) if what == "objective" else 1)
            pairs = [(new.ask(what), old.ask(what)) for _ in range(times)]
            yield {"case": "baseline", "groups": groups, "of": what} | compared(pairs)
        new.end()
        old.end()


def as_line(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    name = " ".join(str(row[k]) for k in ("case", "model", "groups", "rows", "scale", "of") if k in row)
    limit = LIMITS.get(row["case"])
    return (
        f"{name:48s} {1e3 * row['cpu']:9.2f} ms against {1e3 * row['cpu_reference']:9.2f}: "
        f"{row['cpu_ratio']:.2f} (wall {row['wall_ratio']:.2f})" + (f", limit {limit}" if limit else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few groups, for a check")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--baseline", type=Path, help="checkout of another version to compare with")
    parser.add_argument("--cases", nargs="+", choices=["occasions", "correlation", "baseline"])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    add_folder(parser)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker)
        return
    cases = options.cases or ["occasions", "correlation", *(["baseline"] if options.baseline else [])]
    if "baseline" in cases and options.baseline is None:
        parser.error("--cases baseline needs --baseline PATH")
    repeats, small = options.repeats, options.small
    runs = {
        "occasions": lambda: occasions(50 if small else SUBJECTS, repeats),
        "correlation": lambda: correlation(((50, 10),) if small else LAYOUTS, repeats),
        "baseline": lambda: baseline(options.baseline.resolve(), GROUPS[:1] if small else GROUPS, repeats),
    }
    commit = None if options.baseline is None else _commit_of(options.baseline)
    results = Record(
        options.folder / "levels_cost.json", about_this_process(), limits=LIMITS, repeats=repeats, baseline=commit
    )
    for case in cases:
        for row in runs[case]():
            results.add(row)
            print(as_line(row), flush=True)


def _commit_of(folder: Path) -> str | None:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main()
