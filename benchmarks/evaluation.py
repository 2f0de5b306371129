"""One objective-and-gradient at a time: the only script here that uses internals of jaxnlme.

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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
jax.config.update("jax_enable_x64", True)

import simulate  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.binding.bind import Binding, bind  # noqa: E402
from jaxnlme.binding.placement import PlacedProblem, _program  # noqa: E402
from jaxnlme.estimators.core.objective import flatten, partial_sums  # noqa: E402
from jaxnlme.likelihood.approximations import approximation  # noqa: E402
from jaxnlme.numerics.compiling import compiler_options  # noqa: E402
from jaxnlme.numerics.settings import COMPUTATION  # noqa: E402

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


def model_only(problem: Any, params: Any, z: Any) -> tuple[Any, list[Any]]:
    """Predictions of every group at `z` in the form that `PlacedProblem.run` needs: no sums, one pytree per bucket."""
    return jnp.zeros(()), problem.map(lambda group, z: problem.density.predict(params, z, group), z)


class Evaluations:
    """A model bound to data and laid out as `jn.fit` does it (padded, and dealt out to the cores of a CPU), and its two
    programs: the model only, and the objective with its gradient."""

    def __init__(self, model: jn.NLMEModel, data: jn.GroupedData, method: Any = "focei", **layout: Any):
        self.binding: Binding = bind(model, data)
        self.effects = self.binding.density.n_effects
        self.placed = PlacedProblem(self.binding.problem, **layout)
        self.params = self.binding.params(psi=0.1 * np.eye(self.binding.density.covariance.size))
        self.method = approximation(method)
        self.x = np.asarray(flatten(self.params))

    def modes(self) -> list[Any]:
        """Starting modes without earlier ones: zero for every group."""
        return self.placed.scatter(np.zeros((self.placed.n_groups, self.effects)))

    def run(self, shift: float, modes: list[Any]) -> list[Any]:
        """One objective-and-gradient, from `modes`; the modes found."""
        _, groups = self.placed.run(partial_sums, (self.method, self.params, self.x * (1 + shift)), modes)
        return [piece.modes for piece in groups]

    def model_only(self, repeats: int) -> Seconds:
        """Seconds of one evaluation of the model over all data."""
        z = self.modes()
        return seconds(lambda k: self.placed.run(model_only, self.params, z)[1], repeats)

    def objective(self, repeats: int, step: float = STEP) -> Seconds:
        """Seconds of one objective-and-gradient with warm modes; `step` 0 stays at the same point."""
        modes = self.run(0.0, self.modes())

        def one_evaluation(k):
            nonlocal modes
            modes = self.run(step * (k % 2), modes)
            return modes

        return seconds(one_evaluation, repeats)

    def cold(self, repeats: int) -> Seconds:
        """Seconds of one objective-and-gradient whose searches begin at z = 0."""
        modes = self.modes()
        return seconds(lambda k: self.run(0.0, modes), repeats)

    def held(self) -> list[Any]:
        """The data on the devices: all chunks, or the first one."""
        return [self.placed._load(0)] if self.placed.chunked else self.placed._held

    def lowered(self) -> Any:
        """The lowered program of the objective and its gradient, for one chunk."""
        small = self.placed.n_rows < COMPUTATION.rows_if_run_fifty_times
        options = compiler_options(0 if small else None, jax.default_backend())
        program = eqx.filter_jit(_program(partial_sums, self.placed.mesh, inner_sums=False), compiler_options=options)
        modes = self.placed.to_devices(self.modes()[0])
        return program.lower(self.placed.density, *self.held()[0], (self.method, self.params, self.x), modes)


def timed_fit(model: jn.NLMEModel, first: jn.GroupedData, second: jn.GroupedData, method: Any = "focei") -> dict:
    """Seconds of the second of two fits in this process, of other data of the same shape; and the first's wall, with
    what tracing and compiling took of it."""
    began = time.perf_counter()
    compiling = jn.fit(model, first, method, progress=False).timings
    first_wall = time.perf_counter() - began
    wall, cpu = time.perf_counter(), time.process_time()
    fit = jn.fit(model, second, method, progress=False)
    return {
        "fit_wall": time.perf_counter() - wall,
        "fit_cpu": time.process_time() - cpu,
        "first_fit_wall": first_wall,
        "first_fit_compiling": compiling.get("trace", 0.0) + compiling.get("compile", 0.0),
        "evaluations": fit.timings.get("evaluations"),
        "log_likelihood": float(fit.log_likelihood),
        "converged": bool(fit.converged),
    }
