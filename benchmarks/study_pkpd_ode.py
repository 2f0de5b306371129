"""Cost of models given by differential equations: objective and gradient of a fit by FOCEI in units of bare solves.

    python benchmarks/study_pkpd_ode.py [--groups 120]

A bare solve is one batched solution of the same equations by diffrax only, from dose to dose with the same solver and
tolerance, without derivatives. Simulated groups with Michaelis-Menten elimination, three doses and eight observations.
Writes results/pkpd_ode.json: CPU seconds of each, and of compiling; the limit aimed at, 2 (1 + q + p) with q random
effects and p parameters.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
jax.config.update("jax_enable_x64", True)

import jaxnlme as jn  # noqa: E402
from jaxnlme.binding.bind import bind  # noqa: E402
from jaxnlme.likelihood.approximations import FOCEI  # noqa: E402
from jaxnlme.likelihood.one_pass import one_pass  # noqa: E402
from tests.pkpd.test_ode_fits import TIMES, simulated  # noqa: E402

DOSE_TIMES = np.array([0.0, 12.0, 24.0, TIMES[-1]])


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(fn, *arguments, repeats: int = 50) -> tuple[float, float]:
    """CPU seconds of compiling `fn`, and of a call (the mean of `repeats`)."""
    jax.clear_caches()
    start = cpu_seconds()
    program = jax.jit(fn).lower(*arguments).compile()
    compiling = cpu_seconds() - start
    jax.block_until_ready(program(*arguments))
    start = cpu_seconds()
    for _ in range(repeats):
        jax.block_until_ready(program(*arguments))
    return compiling, (cpu_seconds() - start) / repeats


def bare_solve(vm, km, v, dose):
    """Concentrations of one group, by diffrax from dose to dose."""
    term = diffrax.ODETerm(lambda t, y, args: -args[0] * y / (args[1] * args[2] + y))
    controller = diffrax.PIDController(rtol=1e-8, atol=1e-8)

    def until_next(y, ends):
        y = y + dose
        at = jnp.clip(TIMES, ends[0], ends[1])
        save = diffrax.SaveAt(ts=jnp.append(at, ends[1]))
        solution = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), ends[0], ends[1], None, y, (vm, km, v), saveat=save, stepsize_controller=controller
        )
        return solution.ys[-1], jnp.where((ends[0] < TIMES) & (ends[1] >= TIMES), solution.ys[:-1], 0.0)

    ends = jnp.stack([DOSE_TIMES[:-1], DOSE_TIMES[1:]], axis=1)
    return jnp.sum(jax.lax.scan(until_next, jnp.zeros(()), ends)[1], axis=0) / v


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=120)
    groups = parser.parse_args().groups
    natural, random = {"VM": 10.0, "KM": 3.0, "V": 25.0}, {"VM": 0.25, "V": 0.2}
    function = jn.pkpd.michaelis_menten(1)
    doses = np.resize([60.0, 120.0, 240.0], groups)
    data = simulated(function, natural, random, doses, lambda rng, f: f * (1 + 0.1 * rng.normal(size=f.shape)), 1)
    parameters = [jn.Parameter(name, value, "log", random=name in random) for name, value in natural.items()]
    binding = bind(jn.NLMEModel(function, parameters, error="proportional"), data)
    params = binding.params(psi=np.diag([0.25**2, 0.2**2]))
    density, q = binding.density, binding.density.n_effects
    p = len(params.pack())

    def objective_and_gradient(params, modes):
        def one(group, z0):
            return one_pass(FOCEI(), density, params, group).value_and_score(z0)

        return binding.problem.map(one, modes)

    cold = jnp.zeros((groups, q))
    warm = jax.jit(objective_and_gradient)(params, cold)[0].mode
    values = [jnp.full(groups, value) for value in natural.values()]
    bare = measure(jax.vmap(bare_solve), *values, jnp.asarray(doses))
    fit = measure(objective_and_gradient, params, warm)
    result = {
        "groups": groups,
        "random_effects": q,
        "parameters": p,
        "bare_solve": {"compiling": bare[0], "call": bare[1]},
        "objective_and_gradient": {"compiling": fit[0], "call": fit[1]},
        "bare_solves": fit[1] / bare[1],
        "aimed_at": 2 * (1 + q + p),
        "versions": {"jax": jax.__version__, "diffrax": diffrax.__version__, "device": jax.devices()[0].device_kind},
    }
    path = Path(__file__).resolve().parent / "results" / "pkpd_ode.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
