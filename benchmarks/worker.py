"""The jaxnlme process that is timed: imports jaxnlme, fits one table and prints its phases as JSON.

    python benchmarks/worker.py --data other.csv --second table.csv --psi diagonal --starts 1.5 2.8 32 --method agq3
    python benchmarks/worker.py --floor      # imports the libraries and compiles one addition: lower bound of any fit

`--second` is another table of the same shape, fitted afterwards in the same process: its program is compiled already.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spans import Spans

STARTED = {"cpu": time.process_time(), "wall": 0.0}  # the interpreter itself, before the first import of ours
NAMES = ("ka", "cl", "vol")
PHASES: dict[str, dict[str, float]] = {"interpreter": STARTED}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Record CPU and wall seconds of a block in PHASES[name]."""
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        yield
    finally:
        PHASES[name] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def versions(*modules: Any) -> dict[str, str]:
    """Version of Python and of the modules given."""
    return {"python": platform.python_version()} | {m.__name__: getattr(m, "__version__", "unknown") for m in modules}


def floor() -> dict[str, Any]:
    """Import what every fit imports and compile one addition."""
    with phase("import"):
        import equinox
        import jax
        import jaxlib
        import numpy
        import pandas
    with phase("run"):
        jax.block_until_ready(jax.jit(lambda a: a + 1.0)(1.0))
    return {
        "versions": versions(jax, jaxlib, numpy, equinox, pandas),
        "device": [str(d.device_kind) for d in jax.devices()],
        "platform": jax.default_backend(),
    }


def one_compartment(phi: Any, x: Any, v: Any) -> Any:
    """Concentration after one oral dose: first-order absorption and elimination."""
    import jax.numpy as jnp

    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def estimates(fit: Any) -> dict[str, Any]:
    """beta (log scale), psi and sigma of a fit for the referee, from the values on the natural scale."""
    import numpy as np

    psi = np.asarray(fit.psi)
    return {
        "beta": [float(np.log(fit.values[name])) for name in NAMES],
        "psi": np.pad(psi, (0, len(NAMES) - len(psi))).tolist(),  # parameters without an effect vary by nothing
        "sigma": fit.values["a"],
    }


def outcome(fit: Any) -> dict[str, Any]:
    """Results of a fit as plain numbers."""
    output: dict[str, Any] = {
        "log_likelihood": float(fit.log_likelihood),
        "converged": bool(fit.converged),
        "status": str(getattr(fit, "status", "")),
        "timings": {k: float(v) for k, v in dict(fit.timings).items() if isinstance(v, (int, float))},
    }
    return output | estimates(fit)


def method_of(name: str) -> Any:
    """A likelihood approximation by its name; "agq3" is AGQ(3)."""
    import jaxnlme as jn

    return jn.AGQ(int(name[3:])) if name.startswith("agq") and name != "agq" else name


def fit_one(path: str, model: Any, arguments: argparse.Namespace, spans: Spans, label: str) -> dict[str, Any]:
    """One fit from a CSV file to the summary: its results and profile."""
    import pandas as pd

    import jaxnlme as jn

    with phase(f"{label}data"):
        frame = pd.read_csv(path)
        data = jn.GroupedData.from_frame(frame, group="Subject", y="conc", x=["Time", "Dose"])
    began = time.time()
    with phase(f"{label}fit"):
        fit = jn.fit(model, data, method_of(arguments.method))
    ended = time.time()
    with phase(f"{label}summary"):
        str(fit.summary())  # the first thing a user prints; with standard errors
    return outcome(fit) | {"profile": spans.profile((began, ended), fit.timings)}


def fit_tables(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit the table and, if given, the second one."""
    with phase("import"):
        import jax
        import jaxlib
        import numpy
        import pandas as pd

        import jaxnlme as jn

    with phase("device"):
        devices = [str(d.device_kind) for d in jax.devices()]
    spans = Spans()
    parameters = [
        jn.Parameter(name, start, transform="log", random=k < arguments.effects)
        for k, (name, start) in enumerate(zip(NAMES, arguments.starts, strict=True))
    ]
    model = jn.NLMEModel(one_compartment, parameters=parameters, covariance=arguments.psi, error="constant")
    output: dict[str, Any] = {"fit": fit_one(arguments.data, model, arguments, spans, "")}
    if arguments.second:
        output["second"] = fit_one(arguments.second, model, arguments, spans, "second_")
    return output | {
        "versions": versions(jax, jaxlib, numpy, pd, jn),
        "device": devices,
        "platform": jax.default_backend(),
        "dtype": "float64",  # the precision of `jn.fit`
        "cache": spans.cached,
    }


def indomethacin() -> dict[str, Any]:
    """The call of nlmefitsa in MathWorks' documentation: two exponentials, four random effects, starts of one."""
    with phase("import"):
        import jax.numpy as jnp

        import jaxnlme as jn

    def biexponential(phi: Any, t: Any) -> Any:
        return phi[0] * jnp.exp(-phi[1] * t[:, 0]) + phi[2] * jnp.exp(-phi[3] * t[:, 0])

    table = jn.datasets.indomethacin()
    with phase("fit"):
        _, _, stats, _ = jn.nlmefitsa(
            table["time"], table["conc"], table["Subject"], [], biexponential, [1, 1, 1, 1],
            ParamTransform=[0, 1, 0, 1], Options={"OutputFcn": []},
        )  # fmt: skip
    timings = {k: float(v) for k, v in dict(stats.fit.timings).items() if isinstance(v, (int, float))}
    fit = stats.fit
    return {"fit": {"log_likelihood": float(fit.log_likelihood), "converged": fit.converged, "timings": timings}}


def main() -> None:
    """Do what the arguments ask and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--indomethacin", action="store_true", help="MathWorks' example of nlmefitsa")
    parser.add_argument("--data")
    parser.add_argument("--second")
    parser.add_argument("--psi", choices=("diagonal", "full"), default="diagonal")
    parser.add_argument("--starts", type=float, nargs=3, default=(1.5, 2.8, 32.0), metavar=("KA", "CL", "VOL"))
    parser.add_argument("--effects", type=int, choices=(1, 2, 3), default=3, help="ka, cl, vol in this order vary")
    parser.add_argument("--method", default="focei", help="a method by its name; agq3 for AGQ with three nodes")
    arguments = parser.parse_args()
    output = floor() if arguments.floor else indomethacin() if arguments.indomethacin else fit_tables(arguments)
    output["phases"] = PHASES
    output["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(output))


if __name__ == "__main__":
    main()
