"""Small parts of every table: fields of records, medians, numbers as text, Markdown, where a file comes from."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

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


def times(number: float | None, against: float | None, digits: int = 2) -> str:
    """A ratio, or a dash."""
    return "–" if number is None or not against else f"{number / against:.{digits}f}"


def less(number: float | None, other: float | None) -> float | None:
    """A difference, None where a side is missing."""
    return None if number is None or other is None else number - other


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def outcome_of(records: list[Record]) -> str:
    """ "ok", or the failure of the runs of one program, in words."""
    bad = [record["status"] for record in records if record["status"] != "ok"]
    if bad:
        message = (records[0].get("stderr") or "").strip().splitlines()[-1:] if "failed" in bad else []
        reason = dig(records[0], "said", "error") or next(iter(message), None)
        return f"{bad[0]} ({len(bad)} of {len(records)})" + (f": {reason}" if isinstance(reason, str) else "")
    paths = (("fit", "converged"), ("converged",), ("second", "converged"))
    converged = [dig(record, "said", *path) for record in records for path in paths]
    return "not converged" if False in converged else "ok"


def origin(results: Record, name: str) -> str:
    """File, day, commit, machine, device, dtype and versions of a results file, in one paragraph."""
    about, runs = results["about"], results.get("runs", results.get("rows", []))
    machine, versions = about["machine"], dict(about.get("versions") or {})
    for run in runs:
        output = dig(run, "said") or {}
        versions |= output.get("versions") or {}
        if output.get("r"):
            versions["R"] = output["r"]
        if output.get("program"):
            versions[output["program"]] = output["version"]
    device = about.get("device") or next((d for run in runs if (d := dig(run, "said", "device"))), ["cpu"])
    dtype = about.get("dtype") or next((d for run in runs if (d := dig(run, "said", "dtype"))), "float64")
    commit = (about["commit"] or "none")[:12] + (" with uncommitted changes" if about["uncommitted"] else "")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    listed = listed and f"; {listed}"
    return (
        f"`results/{name}`, {about['date'][:10]}, commit {commit}; {machine['cpu']}, {machine['cores']} cores, load "
        f"{about['load_before'][0]:.1f} before; JAX device {', '.join(device)}; {dtype}{listed}."
    )
