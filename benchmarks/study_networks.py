"""Networks inside: a covariate model learnt by a network, training in batches, many subjects, and a flow.

1. 1,000 simulated subjects (one compartment, clearance with a covariate effect that bends and interacts): the network
   against the power law and the true form, by the log-likelihood of 1,000 new subjects; batches against all groups.
2. 100,000 subjects of the same model: seconds a step and a pass.
3. Random effects with two modes: the flow against the Gaussian distribution, by their simulated distributions.

Run `python -m benchmarks.study_networks [large]`; results go to benchmarks/results/networks.json, part 2 with `large`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from scipy import stats

import jaxnlme as jn

RESULTS = Path(__file__).parent / "results" / "networks.json"
TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0])
BATCH, STEPS = 100, 1200


def true_effect(size, age, marker):
    """The effect on log clearance: a power of size, and an ageing that only a high marker brings."""
    return 0.75 * size - 0.8 * jax.nn.sigmoid(4.0 * marker) * (1.0 + jnp.tanh(2.0 * age))


def simulate(subjects: int, seed: int) -> jn.GroupedData:
    """One dose of 100 and six concentrations for each subject."""
    rng = np.random.default_rng(seed)
    size, age, marker = 0.25 * rng.normal(size=subjects), rng.uniform(-1, 1, subjects), rng.normal(size=subjects)
    with jax.enable_x64(True):
        effect = np.asarray(true_effect(size, age, marker))
    cl = 3.0 * np.exp(effect + 0.2 * rng.normal(size=subjects))
    vol = 20.0 * np.exp(0.15 * rng.normal(size=subjects))
    curve = 100.0 / vol[:, None] * np.exp(-(cl / vol)[:, None] * TIMES)
    y = curve * (1.0 + 0.1 * rng.normal(size=curve.shape))
    columns = {"size": size, "age": age, "marker": marker}
    table = {name: np.repeat(values, len(TIMES)) for name, values in columns.items()}
    group = np.repeat(np.arange(subjects), len(TIMES))
    frame = pd.DataFrame({"id": group, "time": np.tile(TIMES, subjects), "y": y.ravel(), **table})
    return jn.GroupedData.from_frame(frame, "id", "y", ["time"], v=list(columns))


def concentration(cl, vol, time):
    return 100.0 / vol * jnp.exp(-cl / vol * time)


class WithNetwork(eqx.Module):
    """Clearance with a factor that a network computes from the covariates."""

    network: eqx.nn.MLP

    def __call__(self, phi, x, v):
        effect = self.network(jnp.stack([4.0 * v.size, v.age, v.marker]))[0]
        return concentration(phi.cl * jnp.exp(effect), phi.vol, x.time)


def power_law(phi, x, v):
    return concentration(phi.cl * jnp.exp(phi.p * v.size + phi.q * v.age + phi.r * v.marker), phi.vol, x.time)


def true_form(phi, x, v):
    effect = phi.p * v.size + phi.q * jax.nn.sigmoid(4.0 * v.marker) * (1.0 + jnp.tanh(2.0 * v.age))
    return concentration(phi.cl * jnp.exp(effect), phi.vol, x.time)


RANDOM = [jn.Parameter("cl", 2.0, "log", random=True), jn.Parameter("vol", 15.0, "log", random=True)]


def plain(function, names: str) -> jn.NLMEModel:
    return jn.NLMEModel(function, [*RANDOM, *(jn.Parameter(name, 0.0) for name in names)], error="proportional")


def with_network(seed: int = 0) -> jn.NLMEModel:
    with jax.enable_x64(True):
        network = eqx.nn.MLP(3, 1, 8, 2, activation=jnp.tanh, use_final_bias=False, key=jax.random.key(seed))
    return jn.NLMEModel(WithNetwork(network), RANDOM, error="proportional")


def new_subjects(fit: jn.Fit, data: jn.GroupedData) -> np.ndarray:
    """The log-likelihoods (groups,) of other subjects at the estimates."""
    with jax.enable_x64(True):
        values = jax.jit(lambda params: jn.group_log_likelihoods(fit.model, params, data, "focei"))(fit.params)
    return np.asarray(values)


def timed(make):
    began = time.perf_counter()
    fit = make()
    return fit, time.perf_counter() - began


def difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The sum of a - b over subjects, with its standard error."""
    d = a - b
    return {"sum": float(d.sum()), "se": float(d.std(ddof=1) * np.sqrt(len(d)))}


def covariate_study() -> dict:
    data, test = simulate(1000, 1), simulate(1000, 2)
    schedule = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
    common = {"held_out": 0.1, "regularisation": 1.0, "steps": STEPS, "patience": 40}
    fits, out = {}, {}
    for name, make in {
        "true form": lambda: jn.fit(plain(true_form, "pq"), data, "focei"),
        "power law": lambda: jn.fit(plain(power_law, "pqr"), data, "focei"),
        "network, batches of 100": lambda: jn.fit(
            with_network(), data, jn.Gradient(schedule, batch_groups=BATCH, **common)
        ),
        "network, all groups": lambda: jn.fit(
            with_network(),
            data,
            jn.Gradient(optax.adam(optax.cosine_decay_schedule(1e-2, 400)), **common | {"steps": 400}),
        ),
    }.items():
        fit, seconds = timed(make)
        values = fits[name] = new_subjects(fit, test)
        out[name] = {
            "converged": fit.converged, "seconds": seconds, "log_likelihood": fit.log_likelihood,
            "log_likelihood_new_subjects": float(values.sum()), "sd_cl": fit.values["sd(cl)"], "b": fit.values["b"],
        }  # fmt: skip
        if fit.training is not None:
            out[name] |= {"steps": len(fit.training.objective), "kept": fit.training.best_step}
            out[name]["training_seconds"] = float(fit.training.seconds[-1] - fit.training.seconds[24])
            out[name]["seconds_a_step"] = out[name]["training_seconds"] / (len(fit.training.objective) - 25)
        print(name, out[name], flush=True)
    reference = fits["true form"]
    out["differences to the true form"] = {k: difference(v, reference) for k, v in fits.items() if k != "true form"}
    out["batches against all groups"] = difference(fits["network, batches of 100"], fits["network, all groups"])
    return out


def penalties() -> dict:
    """Penalties of three sizes, trained on all 1,000 subjects without a polish, against the true form."""
    data, test = simulate(1000, 1), simulate(1000, 2)
    reference = new_subjects(jn.fit(plain(true_form, "pq"), data, "focei", standard_errors=False), test)
    optimiser, out = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS)), {}
    for size in (10.0, 30.0, 100.0):
        method = jn.Gradient(optimiser, batch_groups=BATCH, steps=STEPS, regularisation=size, polish="none")
        fit = jn.fit(with_network(), data, method, standard_errors=False)
        out[f"{size:g}"] = difference(new_subjects(fit, test), reference) | {"log_likelihood": fit.log_likelihood}
    return out


def many_subjects() -> dict:
    data = simulate(100_000, 3)
    steps = 300
    method = jn.Gradient(steps=steps, batch_groups=500, polish="none", regularisation=1.0)
    fit, seconds = timed(lambda: jn.fit(with_network(), data, method, standard_errors=False))
    table = fit.training.table
    a_step = float((table.seconds.iloc[-1] - table.seconds.iloc[24]) / (steps - 25))
    loss = [float(table.loss.iloc[:25].mean()), float(table.loss.iloc[-25:].mean())]
    return {
        "subjects": 100_000, "batch_groups": 500, "steps": steps, "seconds": seconds, "seconds_a_step": a_step,
        "seconds_a_pass": 200 * a_step, "passes_in_an_hour": (3600 - seconds) / (200 * a_step), "loss": loss,
    }  # fmt: skip


def bimodal_study() -> dict:
    rng = np.random.default_rng(4)
    subjects, t = 300, np.linspace(0.0, 1.0, 5)

    def truth(n):
        return np.where(rng.random(n) < 0.5, -1.0, 1.0) + 0.3 * rng.normal(size=n)

    level = 5.0 + truth(subjects)
    y = level[:, None] + 2.0 * t + 0.4 * rng.normal(size=(subjects, 5))
    group = np.repeat(np.arange(subjects), 5)
    data = jn.GroupedData.from_arrays(y.ravel(), group, {"t": np.tile(t, subjects)})
    parameters = [jn.Parameter("level", 4.0, random=True), jn.Parameter("slope", 1.0)]

    def model(effects=None):
        return jn.NLMEModel(lambda phi, x: phi.level + phi.slope * x.t, parameters, effects=effects)

    fits, out = {}, {}
    method = jn.Gradient(optax.adam(optax.cosine_decay_schedule(5e-2, 500)), approximation=jn.AGQ(9), steps=500)
    for name, make in {
        "Gaussian": lambda: jn.fit(model(), data, "focei"),
        "flow": lambda: jn.fit(model(jn.Flow()), data, method),
    }.items():
        fits[name], seconds = timed(make)
        fit = fits[name]
        out[name] = {"converged": fit.converged, "seconds": seconds, "log_likelihood": fit.log_likelihood}
        out[name] |= {key: float(value) for key, value in fit.values.items()}
    sample = truth(200_000)
    z = np.random.default_rng(9).normal(size=(200_000, 1))
    for name, fit in fits.items():
        b = fit.binding.density.effects_at(fit.params, z)[:, 0] + fit.values["level"] - 5.0
        out[name]["ks_distance_of_effects"] = float(stats.ks_2samp(b, sample).statistic)
        out[name]["share_within_0.4_of_the_centre"] = float(np.mean(np.abs(b) < 0.4))
        with jax.enable_x64(True):
            value = jax.jit(lambda p, fit=fit: jn.log_likelihood(fit.model, p, data, jn.ImportanceSampling(2000)))(
                fit.params
            )
        out[name]["log_likelihood_importance_sampling"] = float(value)
    out["truth"] = {"share_within_0.4_of_the_centre": float(np.mean(np.abs(sample) < 0.4))}
    print(out, flush=True)
    return out


def main() -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    parts = {"covariates": covariate_study, "bimodal": bimodal_study, "large": many_subjects, "penalties": penalties}
    for name in sys.argv[1:] or ["covariates", "bimodal"]:
        results[name] = parts[name]()
        RESULTS.write_text(json.dumps(results | {"versions": versions()}, indent=1))


def versions() -> dict[str, str]:
    return {
        "jaxnlme": jn.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "device": str(jax.devices()[0]),
    }


if __name__ == "__main__":
    main()
