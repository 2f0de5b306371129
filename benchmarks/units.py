"""Cost of one objective-and-gradient, in units of one evaluation of the model over all data.

    python benchmarks/units.py [--groups 1000 10000 100000] [--repeats 20]

FOCEI on simulated one-compartment data (11 observations a subject) with warm modes: the searches start where the last
ones ended, at parameters a small step away, as in the middle of a fit. Model and objective are laid out alike, on all
cores. Below some 10,000 groups the time of the model is mostly the overhead of a call, so that the ratio is too
favourable. Writes results/units.json and prints a table.
"""

from __future__ import annotations

import argparse
from typing import Any

from evaluation import Evaluations, oral_data, oral_model
from provenance import about_this_process
from results import Record, add_folder

EFFECTS = {"2 effects, diagonal": (2, "diagonal"), "3 effects, full": (3, "full")}


def measure(groups: int, effects: int, psi: str, repeats: int, method: str) -> dict[str, float]:
    """Seconds of the model, of the objective with its gradient, and of the latter at the same point again."""
    evaluations = Evaluations(oral_model(effects, psi), oral_data(groups, effects), method)
    measured = {
        "unit": evaluations.model_only(max(repeats, 300_000 // groups)),  # as long, however small
        "objective": evaluations.objective(repeats),
        "same_point": evaluations.objective(repeats, step=0.0),
    }
    return {
        f"{name}_{clock}": value
        for name, pair in measured.items()
        for clock, value in zip(("wall", "cpu"), pair, strict=True)
    }


def as_line(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    units = row["objective_wall"] / row["unit_wall"]
    return (
        f"{row['effects']:20s} {row['groups']:7d} groups: f {1e3 * row['unit_wall']:8.3f} ms, objective and gradient "
        f"{1e3 * row['objective_wall']:8.2f} ms = {units:.1f} units (CPU {row['objective_cpu'] / row['unit_cpu']:.1f}; "
        f"at the same point {row['same_point_wall'] / row['unit_wall']:.1f}), "
        f"{1e6 * row['objective_wall'] / row['groups']:.2f} us a group"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--effects", nargs="+", default=list(EFFECTS), choices=list(EFFECTS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--method", default="focei")
    add_folder(parser)
    options = parser.parse_args()
    results = Record(options.folder / "units.json", about_this_process(), repeats=options.repeats)
    for name in options.effects:
        for groups in options.groups:
            measured = measure(groups, *EFFECTS[name], options.repeats, options.method)
            results.add({"effects": name, "groups": groups, "method": options.method} | measured)
            print(as_line(results.rows[-1]), flush=True)


if __name__ == "__main__":
    main()
