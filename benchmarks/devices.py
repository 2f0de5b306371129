"""One evaluation and one fit on 1, 2 and 4 CPU devices, in 2 processes, and in chunks: time, memory, and the estimates.

    python benchmarks/devices.py [--groups 100000] [--repeats 5]

FOCEI on simulated one-compartment data (11 observations a subject). Every row is a process (or two) of its own, with
`jax_num_cpu_devices` as given: devices of one CPU share its cores, so the rows show what dealing groups out costs and
what each device holds, not what more hardware would gain. "in shapes" are the bytes a device holds of the data, "at
work" what the compiled evaluation needs beside them (XLA's own account). Writes results/devices.json and prints a table
with the largest difference of estimates and standard errors from the first row.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# name, devices of each process, processes, options of fit
ROWS: list[tuple[str, int, int, dict[str, Any]]] = [
    ("default device", 1, 1, {}),
    ("1 device", 1, 1, {"devices": "all"}),
    ("2 devices", 2, 1, {"devices": "all"}),
    ("4 devices", 4, 1, {"devices": "all"}),
    ("2 processes", 1, 2, {"devices": "all"}),
    ("2 processes of 2 devices", 2, 2, {"devices": "all"}),
    ("chunks of a tenth", 1, 1, {"chunk_groups": 0.1}),
]


def concentration(phi, x, v):
    """One compartment, first-order absorption."""
    import jax.numpy as jnp

    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def work(number: int, groups: int, repeats: int, index: int, address: str) -> dict[str, Any]:
    """What one process of row `number` measures."""
    _, devices, processes, options = ROWS[number]
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(address, num_processes=processes, process_id=index)
    import numpy as np
    import simulate
    from provenance import about_this_process

    import jaxnlme as jn

    table = simulate.simulate(groups, "diagonal")
    own = (table[:, 0] > index * groups // processes) & (table[:, 0] <= (index + 1) * groups // processes)
    table = table[own]
    data = jn.GroupedData.from_arrays(table[:, 3], table[:, 0], x={"Time": table[:, 1], "Dose": table[:, 2]})
    parameters = [jn.Parameter(name, at, transform="log", random=True) for name, at in simulate.TRUTH.items()]
    model = jn.NLMEModel(concentration, parameters)
    if "chunk_groups" in options:
        options = {"chunk_groups": int(options["chunk_groups"] * groups)}
    with jax.enable_x64(True):
        measured = evaluation(model, data, options, repeats)
    jn.fit(model, data, "focei", **options)
    wall, cpu = time.perf_counter(), time.process_time()
    fit = jn.fit(model, data, "focei", **options)
    measured |= {"fit_wall": time.perf_counter() - wall, "fit_cpu": time.process_time() - cpu}
    return measured | {
        "converged": fit.converged,
        "log_likelihood": fit.log_likelihood,
        "estimates": np.asarray(fit.params.pack()).tolist(),
        "se": fit.estimates["se"].tolist(),
        "iterations": len(fit.history),
        "about": about_this_process() | {"dtype": "float64"},
    }


def evaluation(model: Any, data: Any, options: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds of an objective and gradient from cold modes, and bytes of each device of this process."""
    import jax
    import numpy as np

    from jaxnlme.estimators.objective import flatten, share
    from jaxnlme.likelihood.named import rung
    from jaxnlme.model.placed import Placed, _program
    from jaxnlme.model.together import bind_together
    from jaxnlme.numerics.compiling import compiled
    from jaxnlme.numerics.devices import Processes, mesh_of

    mesh = mesh_of(options.get("devices"))
    binding = bind_together(model, data, Processes(mesh))
    placed = Placed(binding.problem, mesh, options.get("chunk_groups"))
    point = (rung("focei"), binding.start, np.asarray(flatten(binding.start)))
    modes = placed.spread(np.zeros((data.n_groups, binding.density.n_effects)))
    wall, cpu = [], []
    for _ in range(repeats + 1):
        started, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(placed.run(share, point, modes))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    held = placed._load(0) if placed.chunked else placed._held
    program = compiled(_program(share, mesh), placed.n_rows)
    lowered = program.lower(placed.density, *held, point, placed.put(modes[0]))
    memory = lowered.compile().compiled.memory_analysis()
    shards: dict[str, int] = {}
    for leaf in jax.tree.leaves(held):
        for shard in leaf.addressable_shards:
            shards[str(shard.device)] = shards.get(str(shard.device), 0) + shard.data.nbytes
    return {
        "evaluation_wall": statistics.median(wall[1:]),
        "evaluation_cpu": statistics.median(cpu[1:]),
        "bytes_held": shards,
        "bytes_at_work": memory.temp_size_in_bytes + memory.output_size_in_bytes,
    }


def row(number: int, groups: int, repeats: int) -> dict[str, Any]:
    """Runs the processes of one row; times are the slowest process's, CPU seconds those of all."""
    name, devices, processes, options = ROWS[number]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.json" for k in range(processes)]
        fixed = [str(number), str(groups), str(repeats)]
        started = [
            subprocess.Popen([sys.executable, __file__, "--work", *fixed, str(k), address, str(path)])
            for k, path in enumerate(paths)
        ]
        if any(process.wait() for process in started):
            raise SystemExit(f"row {name!r} failed")
        found = [json.loads(path.read_text()) for path in paths]
    first = found[0]
    return first | {
        "name": name,
        "devices": devices * processes,
        "processes": processes,
        "options": options,
        "evaluation_wall": max(one["evaluation_wall"] for one in found),
        "evaluation_cpu": sum(one["evaluation_cpu"] for one in found),
        "fit_wall": max(one["fit_wall"] for one in found),
        "fit_cpu": sum(one["fit_cpu"] for one in found),
        "agree": all(one["estimates"] == first["estimates"] for one in found),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = "| | evaluation s | CPU s | fit s | CPU s | MB a device, in shapes | at work | difference |"
    lines = [head, "| :-- |" + " --: |" * 7]
    for one in rows:
        difference = max(
            abs(a - b)
            for name in ("estimates", "se")
            for a, b in zip(one[name], rows[0][name], strict=True)
            if a == a  # NaN where nothing was estimated
        )
        times = [one[name] for name in ("evaluation_wall", "evaluation_cpu", "fit_wall", "fit_cpu")]
        cells = [f"{seconds:.2f}" for seconds in times]
        cells += [f"{max(one['bytes_held'].values()) / 1e6:.2f}", f"{one['bytes_at_work'] / 1e6:.1f}"]
        lines.append(f"| {one['name']} | {' | '.join(cells)} | {difference:.1e} |")
    return "\n".join(lines)


def main() -> None:
    """All rows, or one process of one row."""
    if sys.argv[1:2] == ["--work"]:
        number, groups, repeats, index, address, path = sys.argv[2:]
        found = work(int(number), int(groups), int(repeats), int(index), address)
        Path(path).write_text(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = [row(number, arguments.groups, arguments.repeats) for number in range(len(ROWS))]
    about = rows[0]["about"]
    for one in rows:
        del one["about"]
    out = {"about": about, "groups": arguments.groups, "repeats": arguments.repeats, "rows": rows}
    (HERE / "results" / "devices.json").write_text(json.dumps(out, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
