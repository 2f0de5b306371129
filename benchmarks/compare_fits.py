"""Thirty fits by all methods, to compare two versions of the package number by number.

    python benchmarks/compare_fits.py save before.npz            # with one version on the path
    python benchmarks/compare_fits.py save after.npz             # with another
    python benchmarks/compare_fits.py compare before.npz after.npz [--bits]

`save` writes log-likelihood, convergence, estimates, standard errors, psi and random effects of every fit (or the table
of a refit). `compare` prints a line per fit. With `--bits` every number must be the same to the last bit; without it,
log-likelihoods to 1e-10 relative and estimates and standard errors to 1e-6 standard errors. The exit code is 1 where a
fit differs. The script uses only public names, so that it runs with either version.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnlme as jn

LOG_LIKELIHOOD_LIMIT = 1e-10  # relative
ESTIMATE_LIMIT = 1e-6  # standard errors


def one_compartment(phi, x, v):
    """Concentration after one oral dose."""
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def one_compartment_by_column(phi, t):
    """The same for a dose of 320 mg, in the manner of MATLAB."""
    ka, cl, vol = phi[0], phi[1], phi[2]
    return 320.0 * ka / (vol * ka - cl) * (jnp.exp(-cl / vol * t) - jnp.exp(-ka * t))


def logistic(phi, x):
    """Growth to an asymptote."""
    return phi.asym / (1.0 + jnp.exp((phi.mid - x.age) / phi.scale))


def line(phi, x):
    """A straight line."""
    return phi.a + phi.b * x.t


def log_rate(phi, x):
    """A linear predictor of counts."""
    return phi.a + phi.b * x.t


def poisson(y, f, p, x, v):
    """Counts with mean exp(f)."""
    return y * f - jnp.exp(f) - jax.scipy.special.gammaln(y + 1.0)


def theophylline(covariance: Any = "diagonal", error: Any = "constant", vol: bool = True) -> tuple[Any, Any]:
    """Model and data: log-normal ka, cl and vol; doses in mg."""
    frame = jn.datasets.theophylline()
    data = jn.GroupedData.from_frame(
        frame.assign(Dose=frame.Dose * frame.Wt), group="Subject", y="conc", x=["Time", "Dose"], v=["Wt"]
    )
    parameters = [
        jn.Parameter("ka", 1.5, transform="log", random=True),
        jn.Parameter("cl", 2.8, transform="log", random=True, covariates=["log(Wt/70)"] if not vol else []),
        jn.Parameter("vol", 32.0, transform="log", random=vol),
    ]
    return jn.NLMEModel(one_compartment, parameters, covariance, error), data


def orange() -> tuple[Any, Any]:
    """Growth of five trees."""
    data = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    parameters = [jn.Parameter("asym", 190.0, random=True), jn.Parameter("mid", 700.0), jn.Parameter("scale", 350.0)]
    return jn.NLMEModel(logistic, parameters), data


def counts() -> tuple[Any, Any]:
    """Simulated counts of 40 groups."""
    rng = np.random.default_rng(7)
    group, t = np.repeat(np.arange(40), 6), np.tile(np.linspace(-1.0, 1.0, 6), 40)
    y = rng.poisson(np.exp(1.0 + 0.5 * rng.normal(size=40)[group] + (0.4 + 0.2 * rng.normal(size=40))[group] * t))
    data = jn.GroupedData.from_arrays(y.astype(float), group, x={"t": t})
    parameters = [jn.Parameter("a", 0.5, random=True, sd=0.3), jn.Parameter("b", 0.1, random=True, sd=0.3)]
    return jn.NLMEModel(log_rate, parameters, error=jn.GroupLogLikelihood(poisson)), data


def lines(slope_sd: float = 0.0) -> tuple[Any, Any]:
    """Simulated lines of 20 groups; by default their slopes do not vary."""
    rng = np.random.default_rng(3)
    group, t = np.repeat(np.arange(20), 5), np.tile(np.linspace(0.0, 1.0, 5), 20)
    y = (
        1.0
        + rng.normal(size=20)[group]
        + (2.0 + slope_sd * rng.normal(size=20))[group] * t
        + 0.5 * rng.normal(size=100)
    )
    parameters = [jn.Parameter("a", 0.0, random=True), jn.Parameter("b", 1.0, random=True)]
    return jn.NLMEModel(line, parameters), jn.GroupedData.from_arrays(y, group, x={"t": t})


def numbers(fit: Any) -> dict[str, np.ndarray]:
    """The numbers by which a fit is compared."""
    return {
        "log_likelihood": np.asarray(fit.log_likelihood, float),
        "converged": np.asarray(fit.converged),
        "estimate": fit.estimates["estimate"].to_numpy(float),
        "se": fit.estimates["se"].to_numpy(float),
        "psi": np.asarray(fit.psi, float),
        "random_effects": np.asarray(fit.random_effects, float),
    }


def table(frame: Any) -> dict[str, np.ndarray]:
    """The numbers of a data frame, in its order of columns."""
    return {"table": frame.select_dtypes("number").to_numpy(float)}


def fitted(problem: tuple[Any, Any], method: Any, **options: Any) -> dict[str, np.ndarray]:
    """A fit without progress lines."""
    return numbers(jn.fit(*problem, method, progress=False, **options))


def focei() -> Any:
    """The fit that the refits start from."""
    return jn.fit(*theophylline(), "focei", progress=False)


def matlab(call: Callable[..., Any], **options: Any) -> dict[str, np.ndarray]:
    """nlmefit or nlmefitsa on theophylline."""
    frame = jn.datasets.theophylline()
    beta, psi, _, b = call(
        frame[["Time"]].to_numpy(),
        frame["conc"].to_numpy(),
        frame["Subject"].to_numpy(),
        None,
        one_compartment_by_column,
        np.array([0.4, 1.0, 3.4]),
        ParamTransform=[1, 1, 1],
        **options,
    )
    return {"estimate": np.asarray(beta, float), "psi": np.asarray(psi, float), "random_effects": np.asarray(b, float)}


def many() -> dict[str, np.ndarray]:
    """Two data sets of one design by SAEM."""
    model, data = theophylline()
    many = jn.fit_many(model, data, np.stack([data.y, data.y * 1.05]), jn.SAEM(seed=2), progress=False)
    return {f"{k}.{name}": value for k, fit in enumerate(many.fits) for name, value in numbers(fit).items()}


def gradient() -> dict[str, np.ndarray]:
    """The pure log-likelihood of Laplace with its gradient."""
    model, data = theophylline("full")
    with jax.enable_x64(True):
        params = model.params(data=data)
        value, slope = jax.value_and_grad(lambda p: jn.log_likelihood(model, params.unpack(p), data, "laplace"))(
            jnp.asarray(params.pack())
        )
        return {"log_likelihood": np.asarray(value), "slope": np.asarray(slope)}


FITS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "fo": lambda: fitted(theophylline(), "fo"),
    "foce": lambda: fitted(theophylline(), "foce"),
    "focei": lambda: fitted(theophylline(), "focei"),
    "focei, full, combined": lambda: fitted(theophylline("full", "combined"), "focei"),
    "focei, blocks": lambda: fitted(theophylline([["cl", "vol"], ["ka"]], "combined variance"), "focei"),
    "laplace": lambda: fitted(theophylline(), "laplace"),
    "laplace, counts": lambda: fitted(counts(), "laplace"),
    "agq": lambda: fitted(theophylline(vol=False), jn.AGQ(3)),
    "agq, counts": lambda: fitted(counts(), jn.AGQ(5)),
    "importance sampling": lambda: fitted(theophylline(vol=False), "is"),
    "lme": lambda: fitted(theophylline(), "lme"),
    "lme, orange": lambda: fitted(orange(), "lme"),
    "relme": lambda: fitted(theophylline(), "relme"),
    "relme, zero variance": lambda: fitted(lines(), "relme"),
    "restricted foce": lambda: fitted(orange(), "foce", restricted=True),
    "restricted laplace": lambda: fitted(theophylline(vol=False), "laplace", restricted=True),
    "zero variance": lambda: fitted(lines(), "focei"),
    "chunks": lambda: fitted(theophylline(), "focei", chunk_groups=5),
    "starts from groups": lambda: fitted(theophylline(), "focei", starts="groups"),
    "starts pooled": lambda: fitted(orange(), "focei", starts="pooled"),
    "saem": lambda: fitted(theophylline(), jn.SAEM(seed=1)),
    "saem, full": lambda: fitted(theophylline("full"), jn.SAEM(seed=1)),
    "saem, counts": lambda: fitted(counts(), jn.SAEM(seed=3)),
    "saem, replicates": lambda: fitted(orange(), jn.SAEM(seed=1, replicates=2)),
    "imp": lambda: fitted(theophylline(vol=False), [jn.SAEM(seed=1), jn.IMP(seed=1)]),
    "fit_many": many,
    "fit_groups": lambda: table(jn.fit_groups(*theophylline()).estimates),
    "bootstrap": lambda: table(focei().bootstrap(10, seed=1, progress=False).replicates),
    "jackknife": lambda: table(focei().jackknife(progress=False).deleted),
    "multistart": lambda: table(focei().multistart(5, seed=1, progress=False).starts),
    "profile": lambda: table(focei().profile("cl", progress=False).table),
    "update": lambda: numbers(focei().update(drop="vol")),
    "nlmefit": lambda: matlab(jn.nlmefit),
    "nlmefitsa": lambda: matlab(jn.nlmefitsa),
    "gradient": gradient,
}


def save(path: str, only: list[str] | None) -> None:
    """Run the fits and write their numbers."""
    arrays_by_name = {}
    for name in only or FITS:
        for key, value in FITS[name]().items():
            arrays_by_name[f"{name}|{key}"] = value
        print(name, flush=True)
    np.savez(path, **arrays_by_name)


def differs(before: dict[str, np.ndarray], after: dict[str, np.ndarray], bits: bool) -> list[str]:
    """Differences between two records of one fit, in words; empty if there are none."""
    if before.keys() != after.keys():
        return [f"kept {sorted(before)} before and {sorted(after)} after"]
    differences = []
    for name, value in before.items():
        if value.shape != after[name].shape:
            differences.append(f"{name}: shape {value.shape} before, {after[name].shape} after")
        elif bits or name == "converged":
            if not np.array_equal(value, after[name], equal_nan=value.dtype.kind == "f"):
                differences.append(f"{name}: not the same bits, {_largest(value, after[name]):.1e} apart")
        else:
            scale, limit = _scale(name, value, before)
            distance = _largest(value / scale, after[name] / scale)
            if not distance <= limit:
                differences.append(f"{name}: {distance:.1e} apart (limit {limit:.0e})")
    return differences


def _largest(value: np.ndarray, other: np.ndarray) -> float:
    distance = np.abs(value - other)[~(np.isnan(value) & np.isnan(other))]
    return float(distance.max()) if distance.size else 0.0


def _scale(name: str, value: np.ndarray, before: dict[str, np.ndarray]) -> tuple[np.ndarray | float, float]:
    """The scale by which a difference is divided, and the limit of the quotient."""
    if name.endswith("log_likelihood"):
        return max(1.0, float(np.abs(value))), LOG_LIKELIHOOD_LIMIT
    if name.endswith(("estimate", "se")):
        se = before.get(name.removesuffix("estimate").removesuffix("se") + "se", np.abs(value))
        return np.where((se > 0) & np.isfinite(se), se, np.maximum(np.abs(value), 1e-8)), ESTIMATE_LIMIT
    return np.maximum(np.nanmax(np.abs(value)), 1e-8), ESTIMATE_LIMIT


def compare(before_path: str, after_path: str, bits: bool) -> int:
    """Print a line per fit; the number of fits that differ."""
    records: list[dict[str, dict[str, np.ndarray]]] = [{}, {}]
    for record, path in zip(records, (before_path, after_path), strict=True):
        with np.load(path) as arrays:
            for key in arrays.files:
                name, quantity = key.split("|")
                record.setdefault(name, {})[quantity] = arrays[key]
    before, after = records
    failed = 0
    for name in before | after:
        differences = (
            differs(before[name], after[name], bits) if name in before and name in after else ["in one file only"]
        )
        failed += bool(differences)
        print(f"{name}: {'; '.join(differences) or 'same'}")
    print(f"{len(before | after) - failed} of {len(before | after)} fits are the same")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("save", help="run the fits")
    saving.add_argument("path")
    saving.add_argument("--only", nargs="+", choices=list(FITS), metavar="FIT")
    comparing = commands.add_parser("compare", help="compare two files")
    comparing.add_argument("before")
    comparing.add_argument("after")
    comparing.add_argument("--bits", action="store_true")
    options = parser.parse_args()
    if options.command == "save":
        save(options.path, options.only)
    else:
        sys.exit(bool(compare(options.before, options.after, options.bits)))


if __name__ == "__main__":
    main()
