"""Cost of one objective-and-gradient of a model that calls a solver of differential equations, in bare solves.

    python benchmarks/ode.py [--repeats 7] [--subjects 100] [--solvers odeint diffrax]

Two compartments by a bolus, written with `jax.experimental.ode.odeint` or `diffrax.diffeqsolve` (Tsit5, its default
adjoint), at rtol = atol = 1e-8; 8 samples a subject; k, k12, k21 and the dose's concentration c0 are parameters, the
first and the last with random effects (p = 4, q = 2). FOCEI, compiled programs, medians of interleaved repeats in one
process; tracing and compiling apart.

- bare: the same function of the same subjects and times at the same tolerance, by `jax.vmap` as JAX compiles it, no
  derivatives.
- evaluation: one objective with its gradient; searches of modes begin where the last ones ended, at parameters 0.1%
  away, as in the middle of a fit. "final" is the part after the search: mode given, value and gradient.

The limit is 2 (1 + q + p) bare solves. Wall and CPU seconds: JAX computes a bare solve of this size on one core, and
spreads the objective over two, at a cost in CPU seconds. Writes results/ode.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from evaluation import STEP, Evaluations, jn, partial_sums
from jax.experimental.ode import odeint
from provenance import about_this_process
from results import Record, add_folder

from jaxnlme.likelihood.mode import ModeSearch

TOLERANCE = 1e-8
TIMES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 12.0, 20.0])
TRUTH = {"k": 0.4, "k12": 0.3, "k21": 0.2, "c0": 10.0}
RANDOM = ("k", "c0")
LIMIT = 2 * (1 + len(RANDOM) + len(TRUTH))


def rhs(t: Any, y: Any, parameters: Any) -> Any:
    k, k12, k21 = parameters
    return jnp.stack([-(k + k12) * y[0] + k21 * y[1], k12 * y[0] - k21 * y[1]])


def by_odeint(phi: Any, x: Any) -> Any:
    times = jnp.concatenate([jnp.zeros(1), x.t])
    start, parameters = jnp.stack([phi.c0, 0.0 * phi.c0]), (phi.k, phi.k12, phi.k21)
    y = odeint(lambda y, t, *p: rhs(t, y, p), start, times, *parameters, rtol=TOLERANCE, atol=TOLERANCE)
    return y[1:, 0]


def by_diffrax(phi: Any, x: Any) -> Any:
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rhs),
        diffrax.Tsit5(),
        0.0,
        x.t[-1],
        0.1,
        jnp.stack([phi.c0, 0.0 * phi.c0]),
        args=(phi.k, phi.k12, phi.k21),
        saveat=diffrax.SaveAt(ts=x.t),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
    )
    assert solution.ys is not None
    return solution.ys[:, 0]


def closed(phi: Any, x: Any) -> Any:
    total = phi.k + phi.k12 + phi.k21
    root = jnp.sqrt(total**2 - 4.0 * phi.k * phi.k21)
    fast, slow = (total + root) / 2.0, (total - root) / 2.0
    up, down = (fast - phi.k21) / (fast - slow), (phi.k21 - slow) / (fast - slow)
    return phi.c0 * (up * jnp.exp(-fast * x.t) + down * jnp.exp(-slow * x.t))


SOLVERS: dict[str, Callable[[Any, Any], Any]] = {"odeint": by_odeint, "diffrax": by_diffrax}


class Columns(dict):
    """Values by name, read as the records of a model function."""

    __getattr__ = dict.__getitem__


def drawn(subjects: int) -> tuple[dict[str, np.ndarray], jn.GroupedData]:
    """Individual parameters (subjects,), and data with 10% noise."""
    rng = np.random.default_rng(subjects)
    phi = {name: value * np.exp(0.25 * (name in RANDOM) * rng.normal(size=subjects)) for name, value in TRUTH.items()}
    columns = {name: jnp.asarray(value)[:, None] for name, value in phi.items()}
    f = np.asarray(closed(Columns(columns), Columns(t=jnp.asarray(TIMES)[None])))
    y = f * (1 + 0.1 * rng.normal(size=f.shape))
    label = np.repeat(np.arange(subjects), len(TIMES))
    return phi, jn.GroupedData.from_arrays(y.ravel(), label, x={"t": np.tile(TIMES, subjects)})


def timed(fn: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    """Wall and CPU seconds of a call, and what it returns."""
    started, used = time.perf_counter(), time.process_time()
    out = jax.block_until_ready(fn())
    return np.array([time.perf_counter() - started, time.process_time() - used]), out


def measured(solver: str, subjects: int, repeats: int) -> dict[str, Any]:
    """One row of the results."""
    f, (phi, data) = SOLVERS[solver], drawn(subjects)
    solve = jax.jit(jax.vmap(lambda phi, t: f(Columns(phi), Columns(t=t))))
    inputs, times = jax.tree.map(jnp.asarray, phi), jnp.tile(jnp.asarray(TIMES), (subjects, 1))
    row: dict[str, Any] = {"solver": solver, "subjects": subjects, "tolerance": TOLERANCE, "limit": LIMIT}
    row["compile_bare"] = timed(lambda: solve(inputs, times))[0][1]
    parameters = [jn.Parameter(name, value, "log", random=name in RANDOM) for name, value in TRUTH.items()]
    evaluations = Evaluations(jn.NLMEModel(f, parameters, error="proportional"), data)
    started = time.process_time()
    modes = jax.block_until_ready(evaluations.run(0.0, evaluations.modes()))
    row["compile"] = time.process_time() - started
    modes = evaluations.run(0.0, modes)
    no_search = dataclasses.replace(evaluations.method, search=ModeSearch(steps=0))
    seconds: dict[str, list[np.ndarray]] = {"bare": [], "evaluation": [], "final": []}
    for k in range(1, repeats + 1):
        of_bare, _ = timed(lambda: [solve(inputs, times) for _ in range(5)])
        of_evaluation, found = timed(lambda k=k, z=modes: evaluations.run(STEP * (k % 2), z))
        point = (no_search, evaluations.params, evaluations.x * (1 + STEP * (k % 2)))
        of_final, _ = timed(lambda p=point, z=found: evaluations.placed.run(partial_sums, p, z)[1])
        for name, value in {"bare": of_bare / 5, "evaluation": of_evaluation, "final": of_final}.items():
            seconds[name].append(value)
        modes = found
    for n, clock in enumerate(("wall", "cpu")):
        of_clock = {name: [float(value[n]) for value in values] for name, values in seconds.items()}
        row[clock] = {name: statistics.median(values) for name, values in of_clock.items()}
        for name in ("evaluation", "final"):
            ratios = [a / b for a, b in zip(of_clock[name], of_clock["bare"], strict=True)]
            row[clock][f"{name}, in bare solves"] = statistics.median(ratios)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", type=int, default=[100])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--solvers", nargs="+", choices=[*SOLVERS], default=[*SOLVERS])
    add_folder(parser)
    options = parser.parse_args()
    results = Record(options.folder / "ode.json", about_this_process(), repeats=options.repeats)
    for solver in options.solvers:
        for subjects in options.subjects:
            row = measured(solver, subjects, options.repeats)
            results.add(row)
            ratios = [f"{row[clock]['evaluation, in bare solves']:.1f} {clock}" for clock in ("wall", "cpu")]
            print(
                f"{solver:8s} {subjects} subjects: bare {row['wall']['bare']:.4f} s, objective and gradient "
                f"{row['wall']['evaluation']:.4f}: {', '.join(ratios)} bare solves, limit {LIMIT}; compiling "
                f"{row['compile']:.1f} s CPU",
                flush=True,
            )


if __name__ == "__main__":
    main()
