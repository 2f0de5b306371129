"""CPU seconds to trace and to compile the pure functions under a `jax.jit` of the user's own: theophylline, one
compartment, three random effects.

    python benchmarks/compile_cost.py [--repeats 3] [--methods focei laplace] [--quick]

Value with gradient and Hessian of `jn.log_likelihood`, and the Jacobian of `jn.estimate` in the weights of the groups;
as they stand and with `jn.compiler_options()`. Each in a process of its own, tracing and compiling both counted; the
median of the repeats. Writes results/compile_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from provenance import about_this_process
from results import Record, add_folder

# CPU seconds for FOCEI, as it stands and with jn.compiler_options(); the others may take three times as long.
LIMITS = {"gradient": (5.0, 1.5), "hessian": (10.0, 4.0), "estimate": (10.0, 5.0)}
METHODS = ("focei", "fo", "foce", "laplace", "agq3", "is")


def measure(what: str, method: str, fast: bool) -> dict[str, Any]:
    """One program, in this process."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    import jaxnlme as jn

    table = jn.datasets.theophylline()
    table["Dose"] = table["Dose"] * table["Wt"]
    data = jn.GroupedData.from_frame(table, group="Subject", y="conc", x=["Time", "Dose"])

    def one_compartment(phi, x):
        ke = phi.cl / phi.vol
        return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))

    starts = {"ka": 1.5, "cl": 2.8, "vol": 32.0}
    parameters = [jn.Parameter(name, value, transform="log", random=True) for name, value in starts.items()]
    model = jn.NLMEModel(one_compartment, parameters, covariance="diagonal", error="constant")
    params, problem = model.params(data), jn.bind(model, data).problem
    approximation = {"agq3": jn.AGQ(3), "is": jn.ImportanceSampling(100)}.get(method, method)

    def log_likelihood(params):
        return jn.log_likelihood(None, params, problem, approximation)

    def estimate(weights):
        return jn.estimate(None, params, problem, approximation, weights).params.beta

    fn, argument = {
        "gradient": (jax.value_and_grad(log_likelihood), params),
        "hessian": (jax.hessian(log_likelihood), params),
        "estimate": (jax.jacobian(estimate), jnp.ones(12)),
    }[what]
    jax.jit(lambda x: x + 1.0)(jnp.ones(3)).block_until_ready()  # the compiler is loaded
    began = time.process_time()
    lowered = jax.jit(fn, compiler_options=jn.compiler_options() if fast else {}).lower(argument)
    traced = time.process_time()
    program = lowered.compile()
    compiled = time.process_time()
    lines = len(lowered.as_text().splitlines())
    jax.block_until_ready(program(argument))
    began_run = time.process_time()
    for _ in range(5):
        jax.block_until_ready(program(argument))
    run = (time.process_time() - began_run) / 5
    return {"trace": traced - began, "compile": compiled - traced, "lines": lines, "run": run}


def in_process(what: str, method: str, fast: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", what, method, str(int(fast))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    add_folder(parser)
    options = parser.parse_args()
    if options.one:
        what, method, fast = options.one
        print(json.dumps(measure(what, method, fast == "1")))
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    results = Record(options.folder / "compile_cost.json", about_this_process(), limits=LIMITS, repeats=options.repeats)
    for method in options.methods:
        for what, limits in LIMITS.items():
            for fast in (False, True):
                runs = [in_process(what, method, fast) for _ in range(options.repeats)]
                row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                total, limit = row["trace"] + row["compile"], limits[fast] * (1.0 if method == "focei" else 3.0)
                results.add({"what": what, "method": method, "fast": fast, "limit": limit, "total": total} | row)
                print(
                    f"{method:8s} {what:9s} {'compiler_options' if fast else 'as it stands':17s} "
                    f"{total:6.2f} CPU s (trace {row['trace']:.2f}), limit {limit:g}; {row['lines']} lines; "
                    f"one run {1e3 * row['run']:.1f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
