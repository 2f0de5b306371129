"""One objective-and-gradient at a time: the only script here that reaches behind the public doors of jaxnlme.

The problems are simulated in memory and bound as `jn.fit` binds them; the compiled program is the one that a fit runs.
Searches of modes start where the last ones ended, at parameters a small step away, as in the middle of a fit.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
jax.config.update("jax_enable_x64", True)

import simulate  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.estimators.objective import evaluate, flatten  # noqa: E402
from jaxnlme.likelihood.named import rung  # noqa: E402
from jaxnlme.model.binding import Binding, bind  # noqa: E402
from jaxnlme.numerics.compiling import compiled  # noqa: E402

STEP = 1e-3  # of every entry of the packed vector, between one evaluation and the next
Seconds = tuple[float, float]  # wall, CPU


def one_compartment(phi, x):
    """First-order absorption and elimination."""
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def oral_model(effects: int = 3, psi: str = "full") -> jn.NLMEModel:
    """ka, cl, vol on the log scale; the first `effects` of them vary between subjects."""
    parameters = [
        jn.Parameter(name, start, transform="log", random=k < effects)
        for k, (name, start) in enumerate(simulate.TRUTH.items())
    ]
    return jn.NLMEModel(one_compartment, parameters, covariance=psi)


def oral_data(groups: int, effects: int = 3, psi: str = "full", rows: int = 11, seed: int = simulate.SEED) -> Any:
    """Simulated subjects with `rows` observations each."""
    times = simulate.TIMES if rows == simulate.TIMES.size else np.geomspace(0.25, 24.0, rows)
    table = simulate.simulate(groups, psi, seed, effects, times)
    return jn.GroupedData.from_arrays(table[:, 3], table[:, 0], x={"Time": table[:, 1], "Dose": table[:, 2]})


def seconds(fn: Callable[[int], Any], repeats: int) -> Seconds:
    """Median wall and CPU seconds of fn(k), after one call that compiles."""
    jax.block_until_ready(fn(0))
    wall, cpu = [], []
    for k in range(1, repeats + 1):
        started, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(fn(k))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return statistics.median(wall), statistics.median(cpu)


class Evaluations:
    """A model bound to data, and its two programs: the model alone, and the objective with its gradient."""

    def __init__(self, model: jn.NLMEModel, data: jn.GroupedData, method: Any = "focei"):
        self.binding: Binding = bind(model, data)
        effects = self.binding.density.n_effects
        self.params = self.binding.params(psi=0.1 * np.eye(effects))
        self.problem = jax.tree.map(jnp.asarray, self.binding.problem)
        self.method = rung(method)
        self.modes = jnp.zeros((data.n_groups, effects))
        self.x = np.asarray(flatten(self.params))
        self.run = compiled(evaluate, self.problem.n_rows)

    def lines(self) -> int:
        """Lines of StableHLO of the objective and its gradient."""
        lowered = self.run.lower(self.problem, self.method, self.params, self.x, self.modes)
        return lowered.as_text().count("\n")

    def model_alone(self, repeats: int) -> Seconds:
        """Seconds of one evaluation of the model over all data."""

        def predict(problem, params, z, shift):
            return jax.vmap(lambda group, z: problem.density.predict(params, z + shift, group))(problem.buckets[0], z)

        program, z = compiled(predict, self.problem.n_rows), jnp.zeros_like(self.modes)
        return seconds(lambda k: program(self.problem, self.params, z, np.float64(1e-9 * k)), repeats)

    def objective(self, repeats: int, step: float = STEP) -> Seconds:
        """Seconds of one objective-and-gradient with warm modes; `step` 0 stays at the same point."""
        modes = self.run(self.problem, self.method, self.params, self.x, self.modes).modes

        def one(k):
            nonlocal modes
            result = self.run(self.problem, self.method, self.params, self.x * (1 + step * (k % 2)), modes)
            modes = result.modes
            return result

        return seconds(one, repeats)


def timed_fit(model: jn.NLMEModel, first: jn.GroupedData, second: jn.GroupedData, method: Any = "focei") -> dict:
    """Seconds of the second of two fits in this process, of other data of the same shape; and the first's wall."""
    began = time.perf_counter()
    jn.fit(model, first, method, progress=False)
    first_wall = time.perf_counter() - began
    wall, cpu = time.perf_counter(), time.process_time()
    fit = jn.fit(model, second, method, progress=False)
    return {
        "fit_wall": time.perf_counter() - wall,
        "fit_cpu": time.process_time() - cpu,
        "first_fit_wall": first_wall,
        "evaluations": fit.timings.get("evaluations"),
        "log_likelihood": float(fit.log_likelihood),
        "converged": bool(fit.converged),
    }
