"""Fits in a process of its own with several devices, or in one of several processes: started by test_devices.py.

python scale_fits.py devices OUT        fits on one and on several devices
python scale_fits.py PROCESS ADDRESS OUT  one of two processes, each with half of the groups
"""

from __future__ import annotations

import json
import os
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxnlme as jn

DEVICES = 4


def curve(phi, x, v):
    """A saturating curve."""
    return phi.top * (1.0 - jnp.exp(-phi.rate * x.t))


def model(**options):
    parameters = [
        jn.Parameter("top", 8.0, transform="log", random=True, covariates=["center(size)", "sex"]),
        jn.Parameter("rate", 0.5, transform="log", random=True, prior=jn.priors.Normal(-0.9, 0.5)),
    ]
    return jn.NLMEModel(curve, parameters, error=jn.error.constant(by="lab"), **options)


class Curve(eqx.Module):
    """The same with a shape in the free block."""

    shape: jax.Array

    def __call__(self, phi, x, v):
        return curve(phi, x, v) * (1.0 + self.shape[0] * jnp.exp(-x.t)) + self.shape[1]


def table(groups=23, rows=7, seed=3):
    """Columns of a long table: groups of two to `rows` rows; the second laboratory comes late in the table."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, rows + 1, groups)
    group = np.repeat(np.arange(groups), sizes)
    t = np.concatenate([np.arange(1.0, size + 1) for size in sizes])
    size = rng.normal(2.0, 1.0, groups)
    sex = np.where(np.arange(groups) % 3 == 0, "f", "m")
    b = rng.normal(size=(groups, 2)) * [0.3, 0.2]
    f = 10.0 * np.exp(0.1 * size + b[:, 0])[group] * (1.0 - np.exp(-0.4 * np.exp(b[:, 1])[group] * t))
    lab = np.where(np.arange(groups) < 14, "a", "b")[group]
    y = f + rng.normal(size=len(t)) * np.where(lab == "a", 0.3, 0.6)
    return {"id": group, "y": y, "t": t, "size": size[group], "sex": sex[group], "lab": lab}


def saem_fit(groups, **way):
    """A fit by SAEM, whose steps rest on Louis' information and whose standard errors on the linearised model."""
    parameters = [jn.Parameter("top", 8.0, transform="log", random=True, covariates=["center(size)", "sex"])]
    parameters += [jn.Parameter("rate", 0.5, transform="log", random=True)]
    method = jn.SAEM((15, 15, 15), chains=4, likelihood="gq", nodes=5, information="linearised", tolerance=0.3)
    return jn.fit(jn.NLMEModel(curve, parameters, error=jn.error.constant(by="lab")), data(groups), method, **way)


def data(which=None, bad=False, **options):
    columns = table(**options)
    if bad:
        columns["t"] = np.where(columns["id"] == 4, -1e6, columns["t"])
    if which is not None:
        keep = np.isin(columns["id"], which)
        columns = {name: values[keep] for name, values in columns.items()}
    return jn.GroupedData.from_frame(columns, group="id", y="y", x=["t", "lab"], v=["size", "sex"])


def summary(fit):
    """The results of a fit, as JSON takes them."""
    return {
        "converged": fit.converged,
        "status": list(fit.status.sentences),
        "log_likelihood": fit.log_likelihood,
        "bic": fit.bic,
        "estimates": fit.estimates["estimate"].to_dict(),
        "se": fit.estimates["se"].to_dict(),
        "robust": fit.estimates["robust se"].to_dict(),
        "labels": fit.data.labels.tolist(),
        "modes": fit.modes.tolist(),
        "iterations": len(fit.history),
    }


def bytes_by_device(tree):
    """Bytes of live arrays on each device."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in getattr(leaf, "addressable_shards", ()):
            held[str(shard.device)] = held.get(str(shard.device), 0) + shard.data.nbytes
    return held


def on_devices():
    """Fits of the same data in every way, by name."""
    mesh = jax.make_mesh((4,), ("groups",))
    ways = {"one": {}, "three": {"devices": 3}, "mesh": {"devices": mesh}, "chunks": {"chunk_groups": 5}}
    ways |= {"both": {"chunk_groups": 5, "devices": jax.devices()[:2]}, "pooled": {"starts": "pooled"}}
    ways |= {"left out": {"on_bad_group": "leave out"}, "pooled on all": {"starts": "pooled", "devices": "all"}}
    results = {
        name: summary(jn.fit(model(), data(bad=name == "left out"), "focei", **way)) for name, way in ways.items()
    }
    with jax.enable_x64(True):
        free = jn.NLMEModel(Curve(jnp.array([0.1, 0.0])), model().parameters)
    results["saem"] = summary(saem_fit(None))
    weighted = data().with_weights(np.arange(23) % 4)
    for name, way in {"free": {}, "free on two": {"devices": 2}, "free in chunks": {"chunk_groups": 9}}.items():
        fit = jn.fit(free, weighted, "focei", tolerance=1e-12, **way)
        results[name] = summary(fit) | {"free": fit.networks.structure.shape.tolist()}
    return results


def too_many():
    try:
        jn.fit(model(), data(np.arange(3)), "focei", devices="all")
    except jn.OptionError as error:
        return str(error)


def sharded_problem():
    """The pure functions where a user deals out the Problem himself; and what each device holds of a placed one."""
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxnlme.binding.placement import PlacedProblem

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("groups",))
    sharding = NamedSharding(mesh, PartitionSpec("groups"))
    with jax.enable_x64(True):
        binding = jn.bind(model(), data(groups=24))
        problem = jax.tree.map(jnp.asarray, binding.problem)
        buckets = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding) if leaf.ndim else leaf, problem.buckets)
        sharded = type(problem)(problem.density, buckets, problem.order, jax.device_put(problem.weights, sharding))
        values = [float(jax.jit(_likelihood)(p, binding.start)) for p in (problem, sharded)]
        ends = [jn.estimate(None, binding.start, p, "focei", max_iterations=30) for p in (problem, sharded)]
        values += [float(end.log_likelihood) for end in ends]
        bound = jn.bind(model(), data(groups=40), buckets=3)
        placed = PlacedProblem(bound.problem, mesh)
        sums, groups = placed.run(_rows_seen, ())
        unsharded = PlacedProblem(bound.problem)
        results = {
            "values": values,
            "rows": [float(np.asarray(sums)), bound.data.n_obs],
            "in order": placed.collect(groups).tolist() == bound.data.observed.sum(axis=1).tolist(),
            "bytes": [bytes_by_device(placed._held), bytes_by_device(unsharded._held)],
        }
    return results


def _likelihood(problem, params):
    return jn.log_likelihood(None, params, problem, "focei")


def _rows_seen(problem, shared, per_group):
    row_counts = problem.map(lambda group: jnp.sum(group.x.observed))
    return jnp.sum(problem.weights * row_counts), row_counts


def rest_of_name(address):
    """A checkpoint beside the answers, the same name in both processes."""
    return os.path.join(os.path.dirname(sys.argv[-1]), f"fit-{address.rpartition(':')[2]}")


def one_of_two(index, address):
    """Fits of one process's groups, and errors that both must raise."""
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    groups = np.arange(14) if index == 0 else np.arange(14, 23)
    results = {"fit": summary(jn.fit(model(), data(groups), "focei", devices="all"))}
    results["pooled"] = summary(jn.fit(model(), data(groups), "focei", devices="all", starts="pooled", chunk_groups=3))
    results["left out"] = summary(
        jn.fit(model(), data(groups, bad=True), "focei", devices="all", on_bad_group="leave out")
    )
    results["saem"] = summary(saem_fit(groups, devices="all", chunk_groups=5))
    begun = jn.fit(model(), data(groups, bad=True), "focei", devices="all")
    results["failed_start"] = list(begun.status.sentences)
    stops = {"asked": False}

    def stop(iteration):
        stops["asked"] = index == 1 and iteration.iteration >= 3
        return stops["asked"]

    results["stopped"] = summary(jn.fit(model(), data(groups), "focei", devices="all", callbacks=[stop]))

    def error_of(which, **options):
        try:
            jn.fit(model(), data(which), "focei", devices="all", **options)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    results["shared group"] = error_of(np.arange(14) if index == 0 else np.arange(13, 23))

    def breaks(iteration):
        if index == 1 and iteration.iteration == 6:
            raise ValueError("no more")

    path = rest_of_name(address)
    results["callback"] = error_of(groups, callbacks=[breaks], checkpoint=path)
    results["resumed"] = summary(jn.fit(model(), data(groups), "focei", devices="all", checkpoint=path))
    return results


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first == "devices":
        jax.config.update("jax_num_cpu_devices", DEVICES)
        answer = on_devices() | {"sharded": sharded_problem(), "too many": too_many()}
    else:
        jax.config.update("jax_num_cpu_devices", 2)
        answer = one_of_two(int(first), rest[0])
    with open(rest[-1], "w") as file:
        json.dump(answer, file)
