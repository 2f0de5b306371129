"""What one objective-and-gradient costs, in units of one evaluation of the model over all data.

    python benchmarks/units.py [--groups 1000 10000 100000] [--repeats 30]

FOCEI on simulated one-compartment data (11 observations a subject) with warm modes: the searches start where the last
ones ended, at parameters a small step away, as in the middle of a fit. Writes results/units.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
jax.config.update("jax_enable_x64", True)

import simulate  # noqa: E402
from provenance import about_this_process  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.estimators.objective import evaluate, flatten  # noqa: E402
from jaxnlme.likelihood.named import rung  # noqa: E402
from jaxnlme.model.binding import bind  # noqa: E402
from jaxnlme.numerics.compiling import compiled  # noqa: E402

EFFECTS = {"2 effects, diagonal": (("ka", "cl"), "diagonal"), "3 effects, full": (("ka", "cl", "vol"), "full")}
STEP = 1e-3  # of every entry of the packed vector, between one evaluation and the next


def concentration(phi, x, v):
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def problem(groups: int, random: tuple[str, ...], psi: str) -> Any:
    """The binding of the model with `random` effects to simulated data."""
    table = simulate.simulate(groups, "full")
    data = jn.GroupedData.from_arrays(table[:, 3], table[:, 0], x={"Time": table[:, 1], "Dose": table[:, 2]})
    parameters = [
        jn.Parameter(name, start, transform="log", random=name in random) for name, start in simulate.TRUTH.items()
    ]
    return bind(jn.NLMEModel(concentration, parameters, covariance=psi), data)


def seconds(fn: Any, repeats: int) -> tuple[float, float]:
    """Median wall and CPU seconds of fn(k), after one call that compiles."""
    jax.block_until_ready(fn(0))
    wall, cpu = [], []
    for k in range(1, repeats + 1):
        started, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(fn(k))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return statistics.median(wall), statistics.median(cpu)


def measure(groups: int, random: tuple[str, ...], psi: str, repeats: int, method: str) -> dict[str, float]:
    """Seconds of the model alone, of the objective with its gradient, and their ratio."""
    binding = problem(groups, random, psi)
    template = binding.params(psi=0.1 * np.eye(len(random)))
    on_device = jax.tree.map(jnp.asarray, binding.problem)
    z = jnp.zeros((groups, len(random)))

    def predict(problem, params, z, shift):
        return jax.vmap(lambda group, z: problem.density.predict(params, z + shift, group))(problem.buckets[0], z)

    run_model = compiled(predict, on_device.n_rows)
    run = compiled(evaluate, on_device.n_rows)
    unit = seconds(lambda k: run_model(on_device, template, z, np.float64(1e-9 * k)), repeats)
    x = np.asarray(flatten(template))
    chosen = rung(method)
    modes = run(on_device, chosen, template, x, z).modes
    start = {"modes": modes}

    def step(k):
        result = run(on_device, chosen, template, x * (1 + STEP * (k % 2)), start["modes"])
        start["modes"] = result.modes
        return result

    objective = seconds(step, repeats)
    again = seconds(lambda k: run(on_device, chosen, template, x, modes), repeats)
    return {
        "unit_wall": unit[0],
        "unit_cpu": unit[1],
        "objective_wall": objective[0],
        "objective_cpu": objective[1],
        "same_point_wall": again[0],
        "same_point_cpu": again[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--effects", nargs="+", default=list(EFFECTS), choices=list(EFFECTS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--method", default="focei")
    options = parser.parse_args()
    rows = []
    for name in options.effects:
        for groups in options.groups:
            found = measure(groups, *EFFECTS[name], options.repeats, options.method)
            rows.append({"effects": name, "groups": groups, "method": options.method} | found)
            print(
                f"{name:20s} {groups:7d} groups: f {1e3 * found['unit_wall']:8.3f} ms, objective and gradient "
                f"{1e3 * found['objective_wall']:8.2f} ms = {found['objective_wall'] / found['unit_wall']:.1f} units "
                f"(CPU {found['objective_cpu'] / found['unit_cpu']:.1f}; at the same point "
                f"{found['same_point_wall'] / found['unit_wall']:.1f}), {1e6 * found['objective_wall'] / groups:.2f} us a group"
            )
    target = HERE / "results" / "units.json"
    target.write_text(json.dumps({"about": about_this_process(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
