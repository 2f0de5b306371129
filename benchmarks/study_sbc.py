"""Simulation-based calibration of NUTS: ranks of true parameters among posterior draws are uniform.

    python benchmarks/study_sbc.py [--sets 100] [--groups 8] [--effects joint]

For each set the parameters are drawn from their priors (log k, the standard deviation of its random effect, the
residual standard deviation), data of `groups` groups with 6 rows are simulated by numpy, the posterior is sampled
(`jn.NUTS`, 4 chains of 250 draws, from the maximum by Laplace's approximation), and the rank of the truth among 99
draws, 4 k apart, is taken. If densities, Jacobians and sampler are right, ranks are uniform on 0, ..., 99 for every
parameter (Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv:1804.06788).

Written to results/sbc.json: ranks, chi-squared tests of ten bins and Kolmogorov-Smirnov tests of the ECDF,
divergences, and how many of the fits converged by their own criteria. It fails if a test rejects at 0.1%.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from scipy import stats

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402

import jaxnlme as jn  # noqa: E402

TIMES = np.array([0.25, 0.5, 1.0, 2.0, 3.0, 5.0])
NAMES = ("k", "sd(k)", "a")
RANKS, BINS, LEVEL = 100, 10, 1e-3


def decay(phi, x):
    """Exponential decline from 10."""
    return 10.0 * jnp.exp(-phi.k * x.time)


def model() -> jn.NLMEModel:
    """The model with the priors that `truth` draws from."""
    k = jn.Parameter("k", 0.6, "log", random=True, prior=jn.priors.Normal(-0.5, 0.4))
    priors = {"sd(k)": jn.priors.HalfNormal(0.5), "a": jn.priors.LogNormal(0.5, 0.4)}
    return jn.NLMEModel(decay, [k], error="constant", priors=priors)


def truth(random: np.random.Generator) -> dict[str, float]:
    """Parameters drawn from the priors, on the scales of the table of estimates."""
    return {
        "k": -0.5 + 0.4 * random.standard_normal(),
        "sd(k)": 0.5 * abs(random.standard_normal()),
        "a": 0.5 * np.exp(0.4 * random.standard_normal()),
    }


def simulated(values: dict[str, float], groups: int, random: np.random.Generator) -> jn.GroupedData:
    """Data at `values`."""
    rate = np.exp(values["k"] + values["sd(k)"] * random.standard_normal(groups))[:, None]
    y = 10.0 * np.exp(-rate * TIMES) + values["a"] * random.standard_normal((groups, len(TIMES)))
    frame = {"group": np.repeat(np.arange(groups), len(TIMES)), "time": np.tile(TIMES, groups), "y": y.ravel()}
    return jn.GroupedData.from_frame(frame, "group", "y", ["time"])


def main() -> None:
    """Run the sets, test the ranks, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--effects", choices=("joint", "collapsed"), default="joint")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after the set that exceeds these")
    options = parser.parse_args()
    began, declared = time.perf_counter(), model()
    ranks: list[list[int]] = []
    converged = divergent = 0
    for number in range(options.sets):
        random = np.random.default_rng([2718, number])
        values = truth(random)
        method = jn.NUTS(draws=250, warmup=250, seed=number, effects=options.effects)
        fit = jn.fit(declared, simulated(values, options.groups, random), ["laplace", method])
        record = fit.posterior
        assert record is not None
        reported = dict(zip(declared_names(fit), np.moveaxis(record.reported, -1, 0), strict=True))
        # 99 draws: every tenth of 1000, and one less.
        thinned = {name: reported[name].reshape(-1)[5::10][: RANKS - 1] for name in NAMES}
        ranks.append([int((thinned[name] < values[name]).sum()) for name in NAMES])
        converged += fit.converged
        divergent += int(record.stats["diverging"].sum())
        print(number, ranks[-1], fit.converged, f"{time.perf_counter() - began:.0f} s", flush=True)
        if time.perf_counter() - began > options.seconds:
            break
    table = np.array(ranks)
    tests = {}
    for k, name in enumerate(NAMES):
        counts = np.bincount(table[:, k] * BINS // RANKS, minlength=BINS)
        uniform = stats.kstest((table[:, k] + 0.5) / RANKS, "uniform")
        tests[name] = {
            "bins": counts.tolist(),
            "chi-squared p": float(stats.chisquare(counts).pvalue),
            "ecdf p": float(uniform.pvalue),
        }
    out = {
        "sets": len(table), "groups": options.groups, "rows": len(TIMES), "effects": options.effects, "tests": tests,
        "ranks": table.tolist(), "converged": int(converged), "divergent": divergent, "draws": 1000 * len(table),
        "seconds": time.perf_counter() - began, "about": about_this_process(),
    }  # fmt: skip
    (HERE / "results" / "sbc.json").write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(tests, indent=1), f"\n{converged} of {len(table)} converged, {divergent} divergent")
    if min(min(test["chi-squared p"], test["ecdf p"]) for test in tests.values()) < LEVEL:
        raise SystemExit("ranks are not uniform")


def declared_names(fit: jn.Fit) -> tuple[str, ...]:
    """Names of the reported values."""
    return fit.binding.density.reported_names


if __name__ == "__main__":
    main()
