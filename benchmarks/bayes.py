"""Effective draws per second of `jn.NUTS` and of the same models written by hand in NumPyro.

    python benchmarks/bayes.py [--draws 1000] [--case theophylline|binary]

Theophylline (12 subjects, 132 rows, three random effects, constant and proportional residual error) and sparse binary
data (200 groups of 3 rows, one random effect). Both programs have the same priors on the same scales, 4 chains side by
side in one program on the CPU, float64, as many draws after as many steps of warm-up. NumPyro's models are the two that
users write, the random effects non-centred and centred; jaxnlme begins at a fit ("focei", "laplace"), whose time counts
in its total. Effective draws are ArviZ's bulk ones, the smallest over the population parameters.

Written to results/bayes.json, a record for each case and program: CPU and wall seconds of the first run (compilation
included) and of a second one with everything compiled (for jaxnlme the whole fit again), effective draws per CPU second
of the second run, divergences, R-hat, and posterior means and standard deviations, which must agree for a comparison to
count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
jax.config.update("jax_enable_x64", True)

from provenance import about_this_process  # noqa: E402

import jaxnlme as jn  # noqa: E402

CHAINS = 4
PROGRAMS = {"jaxnlme": None, "numpyro, non-centred": False, "numpyro, centred": True}
Arrays = dict[str, Any]


def oral(phi, x, v):
    """One compartment, oral dose; `Dose` is in mg per kg."""
    ke = phi.cl / phi.vol
    return v.Wt * x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def logit(phi, x):
    """Logit of a positive response, linear in the covariate."""
    return phi.level + phi.slope * x.covariate


def bernoulli(y, f, p, x, v):
    """Zeros and ones with logit f."""
    return y * f - jnp.logaddexp(0.0, f)


def theophylline() -> tuple[jn.NLMEModel, jn.GroupedData, str]:
    """Model, data and the method before NUTS."""
    normal, half = jn.priors.Normal, jn.priors.HalfNormal
    parameters = [
        jn.Parameter("ka", 1.5, "log", random=True, prior=normal(0.4, 1.0)),
        jn.Parameter("cl", 2.8, "log", random=True, prior=normal(1.0, 1.0)),
        jn.Parameter("vol", 32.0, "log", random=True, prior=normal(3.5, 1.0)),
    ]
    priors = {name: half(1.0) for name in ("sd(ka)", "sd(cl)", "sd(vol)", "a", "b")}
    data = jn.GroupedData.from_frame(jn.datasets.theophylline(), "Subject", "conc", ["Time", "Dose"], ["Wt"])
    return jn.NLMEModel(oral, parameters, error="combined", priors=priors), data, "focei"


def binary() -> tuple[jn.NLMEModel, jn.GroupedData, str]:
    """Model, data and the method before NUTS."""
    random, groups, rows = np.random.default_rng(11), 200, 3
    label, covariate = np.repeat(np.arange(groups), rows), random.standard_normal(groups * rows)
    eta = -0.5 + 0.8 * covariate + 1.2 * random.standard_normal(groups)[label]
    y = (random.uniform(size=len(eta)) < 1.0 / (1.0 + np.exp(-eta))).astype(float)
    data = jn.GroupedData.from_frame({"group": label, "y": y, "covariate": covariate}, "group", "y", ["covariate"])
    normal = jn.priors.Normal
    parameters = [
        jn.Parameter("level", 0.0, random=True, prior=normal(0.0, 2.0)),
        jn.Parameter("slope", 0.0, prior=normal(0.0, 2.0)),
    ]
    priors = {"sd(level)": jn.priors.HalfNormal(1.0)}
    return jn.NLMEModel(logit, parameters, error=jn.GroupLogLikelihood(bernoulli), priors=priors), data, "laplace"


CASES = {"theophylline": theophylline, "binary": binary}


def numpyro_model(case: str, data: jn.GroupedData, centred: bool) -> Any:
    """The model in NumPyro, a function without arguments; its sites have the names of jaxnlme's table."""
    import numpyro
    import numpyro.distributions as dist

    groups = data.n_groups
    y = jnp.asarray(data.y)

    def effects(name: str, mean: Any, sd: Any) -> Any:
        with numpyro.plate(f"groups of {name}", groups):
            if centred:
                return numpyro.sample(f"value of {name}", dist.Normal(mean, sd))
            return mean + sd * numpyro.sample(f"z of {name}", dist.Normal(0.0, 1.0))

    def of_theophylline() -> None:
        means, scales = {"ka": 0.4, "cl": 1.0, "vol": 3.5}, {}
        for name, mean in means.items():
            means[name] = numpyro.sample(name, dist.Normal(mean, 1.0))
            scales[name] = numpyro.sample(f"sd({name})", dist.HalfNormal(1.0))
        a, b = (numpyro.sample(name, dist.HalfNormal(1.0)) for name in "ab")
        ka, cl, vol = (jnp.exp(effects(name, means[name], scales[name]))[:, None] for name in means)
        ke, t = cl / vol, jnp.asarray(data.x["Time"])
        dose = jnp.asarray(data.x["Dose"] * np.asarray(data.v["Wt"])[:, None])
        f = dose * ka / (vol * (ka - ke)) * (jnp.exp(-ke * t) - jnp.exp(-ka * t))
        numpyro.sample("y", dist.Normal(f, a + b * jnp.abs(f)), obs=y)

    def of_binary() -> None:
        level, slope = (numpyro.sample(name, dist.Normal(0.0, 2.0)) for name in ("level", "slope"))
        sd = numpyro.sample("sd(level)", dist.HalfNormal(1.0))
        eta = effects("level", level, sd)[:, None] + slope * jnp.asarray(data.x["covariate"])
        numpyro.sample("y", dist.BernoulliLogits(eta), obs=y)

    return of_theophylline if case == "theophylline" else of_binary


def summary(draws: dict[str, np.ndarray], seconds: dict[str, float], divergent: int) -> Arrays:
    """The record of a run; `draws` by name (chains, draws)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    ess = {name: float(arviz.ess(values, method="bulk")) for name, values in draws.items()}
    return seconds | {
        "least bulk ess": min(ess.values()),
        "least ess per CPU second": min(ess.values()) / seconds["CPU, second run"],
        "ess": ess,
        "largest rhat": max(float(arviz.rhat(values)) for values in draws.values()),
        "divergent": divergent,
        "mean": {name: float(values.mean()) for name, values in draws.items()},
        "sd": {name: float(values.std()) for name, values in draws.items()},
    }


def ours(case: str, draws: int) -> Arrays:
    """The record of jaxnlme."""
    model, data, first = CASES[case]()
    seconds: dict[str, float] = {}
    for name, seed in (("first run", 1), ("second run", 2)):
        with clock(seconds, name):
            fit = jn.fit(model, data, [first, jn.NUTS(draws=draws, warmup=draws, chains=CHAINS, seed=seed)])
    record = fit.posterior
    assert record is not None
    values = dict(zip(fit.binding.density.reported_names, np.moveaxis(record.reported, -1, 0), strict=True))
    return summary(values, seconds, int(record.stats["diverging"].sum())) | {"converged": fit.converged}


@contextlib.contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU and wall seconds of the context to `seconds`."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    seconds[f"CPU, {name}"], seconds[f"wall, {name}"] = time.process_time() - cpu, time.perf_counter() - wall


def theirs(case: str, draws: int, centred: bool) -> Arrays:
    """The record of NumPyro."""
    from numpyro import infer

    model, data, _ = CASES[case]()
    names = jn.bind(model, data).density.reported_names
    kernel = infer.NUTS(numpyro_model(case, data, centred), init_strategy=infer.init_to_median())
    sampler = infer.MCMC(
        kernel, num_warmup=draws, num_samples=draws, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
    )
    seconds: dict[str, float] = {}
    for name, seed in (("first run", 1), ("second run", 2)):
        with clock(seconds, name):
            sampler.run(jax.random.key(seed), extra_fields=("diverging",))
            jax.block_until_ready(sampler.get_samples())
    values = {name: np.asarray(sampler.get_samples(group_by_chain=True)[name]) for name in names}
    return summary(values, seconds, int(np.sum(sampler.get_extra_fields()["diverging"])))


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    parser.add_argument("--program", choices=[*PROGRAMS], action="append")
    options = parser.parse_args()
    path = HERE / "results" / "bayes.json"
    out = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    for case in options.case or sorted(CASES):
        for name in options.program or PROGRAMS:
            centred = PROGRAMS[name]
            run = ours(case, options.draws) if centred is None else theirs(case, options.draws, centred)
            print(case, name, {key: value for key, value in run.items() if not isinstance(value, dict)}, flush=True)
            out["cases"].setdefault(case, {})[name] = run | {"draws": options.draws}
            out |= {"chains": CHAINS, "about": about_this_process()}
            path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
