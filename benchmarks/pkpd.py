"""Cost of one objective-and-gradient of `jn.pkpd.compartments`, beside a hand-written sum over doses.

    python benchmarks/pkpd.py [--repeats 9] [--subjects 1000 100000] [--cases bolus oral growth theophylline]

FOCEI with warm modes, compiled programs, medians of interleaved repeats in one process; a ratio is the median of the
ratios of CPU seconds of its pairs; compiling apart.

- bolus, oral: two compartments, 10 doses and 12 samples a subject, against the same model as a hand-written sum of
  single doses over a table of samples by doses (limit 1.5).
- growth: 40 doses against 10 (limit 4, linear growth).
- theophylline: the whole process of a cold fit, `compartments(1, "first-order")` against the hand-written function
  (limit 0.5 seconds more).

Writes results/pkpd.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from evaluation import STEP, Evaluations, jn
from provenance import about_this_process
from results import Record, add_folder

from jaxnlme.data.events.records import EventRecords

INTERVAL, SAMPLES, DOSE = 12.0, 12, 100.0
TRUTH = {"ka": 1.1, "cl": 4.0, "v": 30.0, "q": 3.0, "v2": 50.0}
MANY, CHUNK = 50_000, 12_500  # subjects from which evaluations go chunk by chunk, with three repeats at most
LIMITS = {"bolus": 1.5, "oral": 1.5, "growth": 4.0, "theophylline": 0.5}


def by_hand(phi: Any, x: Any, v: Any) -> Any:
    """Two compartments: a sum of single doses, each a sum of exponentials."""
    k, k12, k21 = phi.cl / phi.v, phi.q / phi.v, phi.q / phi.v2
    total = k + k12 + k21
    root = jnp.sqrt(total**2 - 4 * k * k21)
    alpha, beta = (total + root) / 2, (total - root) / 2
    since = x.TIME[:, None] - v.events.time[None, :]
    arrived = v.events.mask[None, :] & (since >= 0)
    since = jnp.where(arrived, since, 0.0)
    if "ka" in phi.names:
        a = phi.ka * (k21 - alpha) / ((phi.ka - alpha) * (beta - alpha))
        b = phi.ka * (k21 - beta) / ((phi.ka - beta) * (alpha - beta))
        single = a * jnp.exp(-alpha * since) + b * jnp.exp(-beta * since) - (a + b) * jnp.exp(-phi.ka * since)
    else:
        a, b = (alpha - k21) / (alpha - beta), (k21 - beta) / (alpha - beta)
        single = a * jnp.exp(-alpha * since) + b * jnp.exp(-beta * since)
    return jnp.sum(jnp.where(arrived, v.events.amount[None, :] * single, 0.0), axis=1) / phi.v


def problem(subjects: int, doses: int, oral: bool, hand: bool) -> tuple[Any, Any]:
    """A model, and data simulated from it with random effects on all parameters and 10% noise."""
    rng = np.random.default_rng([subjects, doses, oral])
    names = [name for name in TRUTH if oral or name != "ka"]
    at = np.sort(rng.uniform(0.2, doses * INTERVAL + 24.0, (subjects, SAMPLES)), axis=1)
    given = np.arange(doses) * INTERVAL + rng.uniform(0.0, 0.5, (subjects, doses))
    label = np.arange(subjects)
    n = subjects * doses
    one, zero = np.ones(n), np.zeros(n)
    columns = {"TIME": given.ravel(), "EVID": one, "AMT": DOSE * one, "RATE": zero, "CMT": one, "SS": zero, "II": zero}
    before = (at[:, :, None] < given[:, None, :]).sum(axis=1).ravel()
    columns |= {"ADDL": zero, "rows_before": before, "row": -one}
    group = np.repeat(label, doses)
    records = EventRecords.of(columns, group, label.astype(object), "ID", np.arange(n), time="TIME")
    values = {name: TRUTH[name] * np.exp(0.25 * rng.standard_normal((subjects, 1, 1))) for name in names}
    y = _simulated(values, at[:, :, None] - given[:, None, :]) * (1 + 0.1 * rng.standard_normal(at.shape))
    data = jn.GroupedData.from_arrays(y.ravel(), np.repeat(label, SAMPLES), x={"TIME": at.ravel()})
    fn = by_hand if hand else jn.pkpd.compartments(2, "first-order" if oral else "bolus", "CL V Q V2")
    parameters = [jn.Parameter(name, TRUTH[name], "log", random=True) for name in names]
    return jn.NLMEModel(fn, parameters, error="proportional"), data.with_event_records(records)


def _simulated(phi: dict[str, Any], since: Any) -> Any:
    """Concentrations (subjects, obs) in numpy."""
    k, k12, k21 = phi["cl"] / phi["v"], phi["q"] / phi["v"], phi["q"] / phi["v2"]
    root = np.sqrt((k + k12 + k21) ** 2 - 4 * k * k21)
    alpha, beta = (k + k12 + k21 + root) / 2, (k + k12 + k21 - root) / 2
    a, b = (alpha - k21) / (alpha - beta), (k21 - beta) / (alpha - beta)
    t = np.maximum(since, 0.0)
    if "ka" in phi:
        ka = phi["ka"]
        a, b = a * ka / (ka - alpha), b * ka / (ka - beta)
        single = a * np.exp(-alpha * t) + b * np.exp(-beta * t) - (a + b) * np.exp(-ka * t)
    else:
        single = a * np.exp(-alpha * t) + b * np.exp(-beta * t)
    return (np.where(since >= 0, DOSE * single, 0.0) / phi["v"]).sum(axis=2)


class Timed:
    """Evaluations of one model and data set, one at a time: `objective()` gives wall and CPU seconds."""

    def __init__(self, *of: Any):
        started, used = time.perf_counter(), time.process_time()
        layout = {"chunk": CHUNK} if of[0] >= MANY else {}
        self.evaluations, self.count = Evaluations(*problem(*of), **layout), 0
        self.modes = self.evaluations.run(0.0, self.evaluations.modes())
        jax.block_until_ready(self.modes)
        self.first = (time.perf_counter() - started, time.process_time() - used)
        self.objective()

    def objective(self) -> tuple[float, float]:
        self.count += 1
        wall, cpu = time.perf_counter(), time.process_time()
        self.modes = jax.block_until_ready(self.evaluations.run(STEP * (self.count % 2), self.modes))
        return time.perf_counter() - wall, time.process_time() - cpu


def compared(one: Timed, other: Timed, repeats: int) -> dict[str, Any]:
    """Medians of interleaved seconds of two, the median ratio of the first to the second, and seconds of the first
    evaluation of each with tracing and compiling."""
    pairs = np.array([(one.objective(), other.objective()) for _ in range(repeats)])  # (repeats, 2, 2)
    out: dict[str, Any] = {"first_cpu": one.first[1], "first_cpu_reference": other.first[1]}
    for k, clock in enumerate(("wall", "cpu")):
        out |= {clock: float(np.median(pairs[:, 0, k])), f"{clock}_reference": float(np.median(pairs[:, 1, k]))}
        out[f"{clock}_ratio"] = statistics.median((pairs[:, 0, k] / pairs[:, 1, k]).tolist())
    return out


def speed(case: str, sizes: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    """The closed form against the hand-written sum."""
    for subjects in sizes:
        ours, theirs = (Timed(subjects, 10, case == "oral", hand) for hand in (False, True))
        count = repeats if subjects < MANY else min(repeats, 3)
        yield {"case": case, "subjects": subjects, "doses": 10, "repeats": count} | compared(ours, theirs, count)


def growth(sizes: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    """Four times as many doses."""
    for subjects in sizes:
        for oral in (False, True):
            many, few = (Timed(subjects, doses, oral, False) for doses in (40, 10))
            row = {"case": "growth", "of": "oral" if oral else "bolus", "subjects": subjects}
            yield row | compared(many, few, repeats)


FIT = """
import sys, jaxnlme as jn, jax.numpy as jnp, numpy as np
from jaxnlme.data.events.records import EventRecords
frame = jn.datasets.theophylline()
table = jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose"], ["Wt"])
n, dose = table.n_groups, table.x["Dose"][:, 0] * table.v["Wt"]
zero, one = np.zeros(n), np.ones(n)
columns = {"TIME": zero, "EVID": one, "AMT": dose, "RATE": zero, "CMT": one, "SS": zero, "II": zero, "ADDL": zero,
           "rows_before": zero, "row": -one}
records = EventRecords.of(columns, np.arange(n), table.labels, "Subject", np.arange(n), time="Time")
data = table.with_event_records(records)
def by_hand(phi, x, v):
    ke = phi.cl / phi.v
    single = jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time)
    return x.Dose * v.Wt * phi.ka / (phi.v * (phi.ka - ke)) * single
fn = by_hand if sys.argv[1] == "hand" else jn.pkpd.compartments(1, "first-order")
start = {"ka": 1.5, "cl": 2.8, "v": 32.0}
model = jn.NLMEModel(fn, [jn.Parameter(name, value, "log", random=True) for name, value in start.items()])
fit = jn.fit(model, data, "focei", progress=False)
print(fit.log_likelihood, fit.converged)
"""


def theophylline(repeats: int) -> Iterator[dict[str, Any]]:
    """Whole processes, in turn: wall and CPU seconds, and the log-likelihoods reached."""
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "hand": []}
    reached = {}
    for _ in range(repeats):
        for who, measured in seconds.items():
            wall, before = time.perf_counter(), _children()
            done = subprocess.run([sys.executable, "-c", FIT, who], capture_output=True, text=True, check=True)
            measured.append((time.perf_counter() - wall, _children() - before))
            reached[who] = float(done.stdout.split()[0])
    row: dict[str, Any] = {"case": "theophylline", "log_likelihood": reached}
    for k, clock in enumerate(("wall", "cpu")):
        ours, hand = (np.array(seconds[who])[:, k] for who in ("ours", "hand"))
        row |= {clock: float(np.median(ours)), f"{clock}_reference": float(np.median(hand))}
        row[f"{clock}_more"] = float(np.median(ours - hand))
    yield row


def _children() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def as_line(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    name = " ".join(str(row[k]) for k in ("case", "of", "subjects") if k in row)
    compared_ = f"{row['cpu_ratio']:.2f} times" if "cpu_ratio" in row else f"{row['cpu_more']:+.2f} s"
    return (
        f"{name:28s} CPU {row['cpu']:9.3f} s against {row['cpu_reference']:9.3f}: {compared_}, limit "
        f"{LIMITS[row['case']]}; wall {row['wall']:.3f} against {row['wall_reference']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", type=int, default=[1000, 100_000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=[*LIMITS], default=[*LIMITS])
    add_folder(parser)
    options = parser.parse_args()
    results = Record(options.folder / "pkpd.json", about_this_process(), limits=LIMITS, repeats=options.repeats)
    for case in options.cases:
        if case == "theophylline":
            rows = theophylline(min(options.repeats, 5))
        elif case == "growth":
            rows = growth(options.subjects[:1], options.repeats)
        else:
            rows = speed(case, options.subjects, options.repeats)
        for row in rows:
            results.add(row)
            print(as_line(row), flush=True)


if __name__ == "__main__":
    main()
