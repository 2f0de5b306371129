"""The table of the SAEM families, and the runs that exceed a limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MC_ERROR, NEAR, FAR, SE_RATIO, SHARE_NEAR, TIME_RATIO = 0.017, 0.05, 0.15, 0.2, 0.98, 3.0
EXACT, CORRELATION = 0.01, 0.999
COLUMNS = (
    "family",
    "runs",
    "maximum",
    "boundary",
    "converged",
    "MC error",
    "within 0.05",
    "farthest, converged",
    "se ratio",
    "correlations",
    "iterations",
    "no maximum, converged",
    "seconds",
    "ratio",
    "warm",
)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows on file, none where there is no file."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def has_maximum(row: dict[str, Any]) -> bool:
    """True where the target is finite with a positive definite information, and doubling the nodes does not change it
    by more than `EXACT`."""
    target = row.get("target", {})
    change = target.get("change")
    return target.get("outcome") in ("inside", "boundary") and change is not None and change <= EXACT


def inexact(row: dict[str, Any]) -> bool:
    """True where quadrature found a maximum, but not with enough nodes to be compared with."""
    return row.get("target", {}).get("outcome") in ("inside", "boundary") and not has_maximum(row)


def no_maximum(row: dict[str, Any]) -> bool:
    """True where quadrature found no finite maximum with a positive definite information."""
    return row.get("target", {}).get("outcome") == "none"


def failures(row: dict[str, Any]) -> list[str]:
    """The limits that a run exceeds."""
    if "error" in row:
        return ["exception"]
    if inexact(row):
        return []
    if not has_maximum(row):
        return ["converged without a maximum"] if row["converged"] else []
    out = []
    if not _size(row, "mc_error") <= MC_ERROR:
        out.append("Monte Carlo error")
    if not _size(row, "off") <= NEAR:
        out.append("estimates")
    if row["converged"] and not _size(row, "off") <= FAR:
        out.append("estimates, converged")
    if not se_within(row):
        out.append("standard errors")
    return out


def se_within(row: dict[str, Any]) -> bool:
    """True if every standard error is within 20% of the target's."""
    if row.get("without_se") or "se_least" not in row:
        return False
    return row["se_least"] >= 1.0 - SE_RATIO and row["se_most"] <= 1.0 + SE_RATIO


def _size(row: dict[str, Any], column: str) -> float:
    value = row.get(column)
    return float("nan") if value is None else abs(value)


def _median(rows: list[dict[str, Any]], column: str) -> float:
    return float(np.median([row[column] for row in rows])) if rows else float("nan")


def _largest(rows: list[dict[str, Any]], column: str) -> float:
    """The largest size; infinite where a run lacks the number."""
    sizes = np.array([_size(row, column) for row in rows])
    return float(np.where(np.isnan(sizes), np.inf, sizes).max(initial=0.0))


def cells(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """The row of the table of some runs."""
    done = [row for row in rows if "error" not in row]
    usable, others = [r for r in done if has_maximum(r)], [r for r in done if no_maximum(r)]
    new, warm = [r for r in done if r["new_shape"]], [r for r in done if not r["new_shape"]]
    saem, method = _median(new, "seconds"), _median(new, "seconds_of_method")
    near = sum(_size(row, "off") <= NEAR for row in usable)
    correlations = [row["target"]["correlation"] for row in usable if row["target"]["correlation"] is not None]
    least = min((row["se_least"] for row in usable if "se_least" in row), default=float("nan"))
    most = max((row["se_most"] for row in usable if "se_most" in row), default=float("nan"))
    return [
        name,
        str(len(rows)),
        f"{len(usable)} ({len(usable) / max(len(done), 1):.0%})",
        str(sum(row["target"]["outcome"] == "boundary" for row in usable)),
        f"{sum(row['converged'] for row in usable)}",
        f"{_largest(usable, 'mc_error'):.2g}",
        f"{near} ({near / max(len(usable), 1):.1%})",
        f"{_largest([row for row in usable if row['converged']], 'off'):.2g}",
        f"{least:.3f} to {most:.3f}",
        f"{min(correlations):.2f} to {max(correlations):.4f}" if correlations else "",
        f"{_median(usable, 'iterations'):,.0f}",
        f"{sum(row['converged'] for row in others)} of {len(others)}",
        f"{saem:.1f}, {method:.1f}",
        f"{saem / method:.1f}",
        f"{_median(warm, 'seconds'):.2f}, {_median(warm, 'seconds_of_method'):.2f}" if warm else "",
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """A row a family and one of all, and the limits with whether they are kept, as Markdown."""
    if not rows:
        return
    print("| " + " | ".join(COLUMNS) + " |\n| :-- |" + " --: |" * (len(COLUMNS) - 1))
    for name in dict.fromkeys(row["family"] for row in rows):
        print("| " + " | ".join(cells(name, [row for row in rows if row["family"] == name])) + " |")
    print("| " + " | ".join(cells("all", rows)) + " |")
    usual = [row for row in rows if "error" in row or (row["target"]["correlation"] or 0.0) <= CORRELATION]
    print("| " + " | ".join(cells(f"correlations to {CORRELATION}", usual)) + " |\n")
    print("| limit | found | |\n| :-- | --: | :-- |")
    for limit, found, kept in limits(rows):
        print(f"| {limit} | {found} | {'met' if kept else 'missed'} |")


def limits(rows: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """Each limit in words, what was found, and whether it is kept."""
    done = [row for row in rows if "error" not in row]
    usable = [row for row in done if has_maximum(row)]
    n = len(usable)
    count = {kind: sum(kind in failures(row) for row in rows) for kind in KINDS}
    near = n - count["estimates"]
    new = [row for row in done if row["new_shape"]]
    ratio = _median(new, "seconds") / _median(new, "seconds_of_method")
    return [
        ("more than 200 runs with a maximum", str(n), n > 200),
        _none(f"Monte Carlo error above {MC_ERROR} standard errors", count["Monte Carlo error"], n),
        (
            f"every estimate within {NEAR} standard errors: {SHARE_NEAR:.0%} of runs",
            f"{near} of {n} ({near / max(n, 1):.1%})",
            near >= SHARE_NEAR * n,
        ),
        _none(f"farther than {FAR} and converged", count["estimates, converged"], n),
        _none(f"a standard error not within {SE_RATIO:.0%}", count["standard errors"], n),
        _none("converged where there is no maximum", count["converged without a maximum"], sum(map(no_maximum, done))),
        _none("exceptions", count["exception"], len(rows)),
        (f"first fits at most {TIME_RATIO:g} times as long", f"{ratio:.1f}", ratio <= TIME_RATIO),
    ]


KINDS = (
    "exception",
    "Monte Carlo error",
    "estimates",
    "estimates, converged",
    "standard errors",
    "converged without a maximum",
)


def _none(words: str, count: int, of: int) -> tuple[str, str, bool]:
    return f"{words}: none", f"{count} of {of}", count == 0


def print_failures(rows: list[dict[str, Any]]) -> None:
    """The runs that exceed a limit, then those without a maximum with both reasons, then those with one that SAEM does
    not call converged."""
    print("\nRuns that exceed a limit:\n")
    for row in rows:
        found = failures(row)
        if found:
            print(f"- {_words(row)}: {'; '.join(found)}. {_numbers(row)} {_said(row)}")
    print("\nRuns without a maximum, or with one that quadrature does not reach:\n")
    for row in rows:
        if "error" not in row and not has_maximum(row):
            print(f"- {_words(row)}. Quadrature: {' '.join(row['target']['sentences'][1:3])} {_said(row)}")
    print("\nRuns with a maximum that SAEM does not call converged:\n")
    for row in rows:
        if "error" not in row and has_maximum(row) and not row["converged"]:
            print(f"- {_words(row)}. {_numbers(row)} {_said(row)}")


def _words(row: dict[str, Any]) -> str:
    target = row.get("target", {})
    return f"run {row['run']}, {row['family']}, {row['groups']} groups, design {row['design']}, {target.get('outcome')}"


def _numbers(row: dict[str, Any]) -> str:
    keys = ("error", "off", "off_of", "mc_error", "mc_error_of", "se_least", "se_least_of", "se_most", "se_most_of")
    found = [
        f"{key} {row[key]:.3g}" if isinstance(row[key], float) else f"{key} {row[key]}" for key in keys if key in row
    ]
    correlation = row.get("target", {}).get("correlation")
    return ", ".join(found) + ("." if correlation is None else f", correlation {correlation:.4f}.")


def _said(row: dict[str, Any]) -> str:
    """What SAEM says of itself."""
    sentences = row.get("sentences", [])
    if row.get("converged"):
        return " ".join(["SAEM: converged.", *row["at_zero"]])
    return f"SAEM: {' '.join(sentences[1:3])}"
