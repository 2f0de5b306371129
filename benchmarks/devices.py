"""One evaluation and one fit on 1, 2 and 4 CPU devices, in 2 processes, and in chunks: time, memory, and the estimates.

    python benchmarks/devices.py [--groups 100000] [--repeats 3]

FOCEI on simulated one-compartment data (11 observations a subject). Every row is a process (or two) of its own, with
`jax_num_cpu_devices` as given: devices of one CPU share its cores, so the rows show the cost of distributing groups and
the memory of each device, not what more hardware would gain. "in shapes" are the bytes a device holds of the data, "at
work" what the compiled evaluation needs beside them (XLA's own account). Writes results/devices.json.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import Record, add_folder

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


def work(number: int, groups: int, repeats: int, index: int, address: str) -> dict[str, Any]:
    """Measurements of one process of row `number`."""
    _, devices, processes, options = ROWS[number]
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(address, num_processes=processes, process_id=index)
    import numpy as np
    from evaluation import jn, oral_data, oral_model
    from provenance import about_this_process

    model, data = oral_model(3, "diagonal"), oral_data(groups, psi="diagonal")
    if processes > 1:
        data = data.select(np.arange(groups) * processes // groups == index)
    if "chunk_groups" in options:
        options = {"chunk_groups": int(options["chunk_groups"] * groups)}
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
    from evaluation import Evaluations

    from jaxnlme.numerics.devices import mesh_of

    evaluations = Evaluations(model, data, mesh=mesh_of(options.get("devices")), chunk=options.get("chunk_groups"))
    wall, cpu = evaluations.cold(repeats)
    pieces = evaluations.held()
    memory = evaluations.lowered().compile().compiled.memory_analysis()
    shards: dict[str, int] = {}
    for leaf in jax.tree.leaves(pieces):
        for shard in leaf.addressable_shards:
            shards[str(shard.device)] = shards.get(str(shard.device), 0) + shard.data.nbytes
    return {
        "evaluation_wall": wall,
        "evaluation_cpu": cpu,
        "bytes_held": shards,
        "bytes_at_work": len(pieces) * (memory.temp_size_in_bytes + memory.output_size_in_bytes),
    }


def row(number: int, groups: int, repeats: int) -> dict[str, Any]:
    """Run the processes of one row; times are the slowest process's, CPU seconds those of all."""
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
        outputs = [json.loads(path.read_text()) for path in paths]
    first = outputs[0]
    return first | {
        "name": name,
        "devices": devices * processes,
        "processes": processes,
        "options": options,
        "evaluation_wall": max(output["evaluation_wall"] for output in outputs),
        "evaluation_cpu": sum(output["evaluation_cpu"] for output in outputs),
        "fit_wall": max(output["fit_wall"] for output in outputs),
        "fit_cpu": sum(output["fit_cpu"] for output in outputs),
        "agree": all(output["estimates"] == first["estimates"] for output in outputs),
    }


def main() -> None:
    """All rows, or one process of one row."""
    if sys.argv[1:2] == ["--work"]:
        number, groups, repeats, index, address, path = sys.argv[2:]
        outputs = work(int(number), int(groups), int(repeats), int(index), address)
        Path(path).write_text(json.dumps(outputs))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", choices=range(len(ROWS)), default=list(range(len(ROWS))))
    add_folder(parser)
    arguments = parser.parse_args()
    sizes = {"groups": arguments.groups, "repeats": arguments.repeats}
    results = Record(arguments.folder / "devices.json", {}, **sizes)
    for number in arguments.rows:
        output = row(number, arguments.groups, arguments.repeats)
        results.content["about"] = output.pop("about")
        results.add(output)
        print(
            f"{output['name']}: {output['evaluation_wall']:.2f} s an evaluation, {output['fit_wall']:.2f} s a fit",
            flush=True,
        )


if __name__ == "__main__":
    main()
