"""Write the tables of benchmarks/README.md from a results file of run.py (the newest, or the one named).

    python benchmarks/report.py [results/FILE.json]

Medians over repeats. Everything in the README between the two marker lines is replaced; the prose around it is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
MARKERS = ("<!-- tables: written by report.py -->", "<!-- end of tables -->")
NAMES = {
    "jaxnlme": "jaxnlme FOCEI, empty cache",
    "jaxnlme-warm-cache": "jaxnlme FOCEI, warm cache",
    "import-floor": "import floor (jax, equinox, optimistix, pandas, one addition)",
    "nlme": "R nlme, ML, analytic gradient",
    "nlme-plain": "R nlme, ML, plain function",
    "nlmer": "lme4 nlmer, Laplace, bobyqa",
    "nlmer-nelder-mead": "lme4 nlmer, Laplace, Nelder-Mead (its default)",
}
TWO_FITS = "jaxnlme-two-fits"  # a process of two fits, for its second one
PEERS = ("nlme", "nlme-plain", "nlmer", "nlmer-nelder-mead")
PHASES = ("interpreter", "import", "device", "read", "fit", "second_read", "second_fit")
TIMINGS = ("bind", "check", "trace", "compile", "optimise", "information")
Record = dict[str, Any]


def dig(record: Any, *path: str) -> Any:
    """`record[path[0]][path[1]]...`, or None where a step is missing."""
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def middle(records: Iterable[Record], *path: str) -> float | None:
    """The median of a number over the records that have it."""
    numbers = [x for record in records if isinstance(x := dig(record, *path), (int, float))]
    return median(numbers) if numbers else None


def show(number: float | None, digits: int = 2) -> str:
    """A number for a table, or a dash."""
    return "–" if number is None else f"{number:,.{digits}f}"


def times(number: float | None, against: float | None) -> str:
    """A ratio, or a dash."""
    return "–" if number is None or not against else f"{number / against:.2f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def verdict(records: list[Record]) -> str:
    """ "ok", or what went wrong in the runs of one program on one case."""
    bad = [record["status"] for record in records if record["status"] != "ok"]
    if bad:
        reason = dig(records[0], "said", "error")
        return f"{bad[0]} ({len(bad)} of {len(records)})" + (f": {reason}" if isinstance(reason, str) else "")
    converged = [dig(record, "said", "fit", "converged") for record in records]
    converged += [dig(record, "said", "converged") for record in records]
    return "not converged" if False in converged else "ok"


def fit_cpu(program: str, groups: dict[str, list[Record]]) -> float | None:
    """CPU seconds of a fit alone: a peer's own clock; ours the second fit of a process, all compiled."""
    if program in PEERS:
        return middle(groups[program], "said", "fit", "cpu")
    fits = groups.get(TWO_FITS, []) if program == "jaxnlme" else []
    return middle(fits, "said", "phases", "second_fit", "cpu")


def own_log_likelihood(program: str, records: list[Record]) -> float | None:
    """The log-likelihood that the program itself reports."""
    return middle(records, "said", *(() if program in PEERS else ("fit",)), "log_likelihood")


def comparison(groups: dict[str, list[Record]]) -> str:
    """Programs of one case, side by side."""
    peers = {p: middle(groups[p], "cpu") for p in PEERS if p in groups and verdict(groups[p]) == "ok"}
    header = ["program", "CPU s", "wall s", "CPU s, fit alone", "peak MB", "its log L", "referee log L", "outcome"]
    header += [f"CPU / {peer}" for peer in peers]
    rows = []
    for program, records in groups.items():
        if program == TWO_FITS:
            continue
        cpu = middle(records, "cpu")
        row = [NAMES[program], show(cpu), show(middle(records, "wall")), show(fit_cpu(program, groups))]
        row += [show(middle(records, "peak_rss_mb"), 0), show(own_log_likelihood(program, records), 3)]
        row += [show(middle(records, "referee"), 3), verdict(records)]
        rows.append(row + [times(cpu, peer) for peer in peers.values()])
    return table(header, rows)


def phases(cases: dict[tuple, dict[str, list[Record]]]) -> str:
    """Where our seconds go: phases of the process (CPU, wall) and the fit's own timings, per case."""
    columns, sources = [], []
    labels = {"jaxnlme": "", "jaxnlme-warm-cache": ", warm", TWO_FITS: ", warm, two fits"}
    for (name, count, psi), groups in cases.items():
        for program, label in labels.items():
            if program in groups:
                columns.append(f"{name} {count} {psi}{label}")
                sources.append(groups[program])

    def line(label: str, *path: str, digits: int = 2) -> list[str]:
        return [label, *(show(middle(records, "said", *path), digits) for records in sources)]

    rows = [line(f"{p.replace('_', ' ')}, CPU s", "phases", p, "cpu") for p in PHASES]
    rows += [line(f"{p.replace('_', ' ')}, wall s", "phases", p, "wall") for p in ("import", "fit", "second_fit")]
    for which in ("fit", "second"):
        rows += [line(f"{which}: {t}, s", which, "timings", t, digits=3) for t in TIMINGS]
        rows.append(line(f"{which}: evaluations", which, "timings", "evaluations", digits=0))
    rows.append(line("lines of HLO", "second", "timings", "hlo_lines", digits=0))
    return table(["phase", *columns], rows)


def first(runs: list[Record], test: Callable[[Record], bool], *path: str) -> Any:
    """A field of the first record that passes `test`, or None."""
    return next((x for record in runs if test(record) and (x := dig(record, *path)) is not None), None)


def provenance(results: dict[str, Any], file: Path) -> str:
    """Machine, commit, day, versions, device and dtype, in a short list."""
    about, runs = results["about"], results["runs"]
    versions = first(runs, lambda r: r["program"] in ("jaxnlme", "import-floor"), "said", "versions") or {}
    versions = dict(versions)
    versions["R"] = first(runs, lambda r: r["program"] in PEERS, "said", "r")
    versions["nlme"] = first(runs, lambda r: r["program"] == "nlme", "said", "version")
    versions["lme4"] = first(runs, lambda r: r["program"].startswith("nlmer"), "said", "version")
    device = first(runs, lambda r: True, "said", "device") or []
    machine = about["machine"]
    commit = (about["commit"] or "none") + (" with uncommitted changes" if about["uncommitted"] else "")
    return "\n".join(
        [
            f"- file `{file.relative_to(HERE) if file.is_relative_to(HERE) else file.name}`, {about['date']}",
            f"- commit {commit}; medians of up to {about['repeats']} repeats; limit {about['peer_limit']:g} s per peer",
            f"- {machine['cpu']}, {machine['cores']} cores, {machine['system']}; JAX device: {', '.join(device)}",
            f"- dtype {first(runs, lambda r: True, 'said', 'dtype') or 'float64'}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        ]
    )


def tables(results: dict[str, Any], file: Path) -> str:
    """All tables, as Markdown."""
    cases: dict[tuple, dict[str, list[Record]]] = {}
    for record in results["runs"]:
        key = (record["case"], record["groups"], record["psi"])
        cases.setdefault(key, {}).setdefault(record["program"], []).append(record)
    parts = [provenance(results, file)]
    for (name, count, psi), groups in cases.items():
        parts += [f"### {name.capitalize()}, {count:,} groups, {psi} Psi", comparison(groups)]
    return "\n\n".join([*parts, "### Where our seconds go", phases(cases)])


def main() -> None:
    """Replace the tables of the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?")
    file = parser.parse_args().results
    if file is None:
        files = sorted((HERE / "results").glob("*.json"), key=lambda f: json.loads(f.read_text())["about"]["date"])
        if not files:
            parser.error("no results yet: python benchmarks/run.py")
        file = files[-1]
    text = README.read_text()
    before, _, rest = text.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    middle_part = tables(json.loads(file.read_text()), file.resolve())
    README.write_text(f"{before}{MARKERS[0]}\n\n{middle_part}\n\n{MARKERS[1]}{after}")
    print(f"wrote {README} from {file}")


if __name__ == "__main__":
    main()
