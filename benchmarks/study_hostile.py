"""Fits that are made difficult: units, starts, data and psi at their extremes, and whether what a fit says of itself
holds.

    python benchmarks/study_hostile.py [--number 2000] [--seconds S] [--only oral saem]
    python benchmarks/study_hostile.py --table [--failures]
    python benchmarks/study_hostile.py --show 17

Cases are those of hostile_cases.py: a model, a difficulty, a method and a seed, each fitted from two starts, at the
truth and from a hostile one. Writes results/hostile.csv, a row a fit; rows on file are not computed again. Prints
a table by method:

- `fits`, `converged`, `refused` (an exception of the package, which is an answer);
- `other value`: converged, and `jn.log_likelihood` at the reported parameters differs by more than 0.01 (of SAEM, by
  more than four Monte Carlo errors beside);
- `not stationary`: converged, and a Newton step by differences of `jn.log_likelihood` is predicted to gain, or gains,
  more than 0.001 (of SAEM 0.05, its Monte Carlo error), or the information has a negative eigenvalue; or a fit by LME
  or RELME from the estimates moves by more than 0.001 standard errors;
- `zero, higher inside`: converged with a variance of zero, and the likelihood is higher by more than 0.001 with another
  one;
- `start decides`: not converged, though the other start converged at the same value (within 0.01); `start, any`: at
  any value;
- `foreign`: an exception that is not the package's;
- `inferior`: converged and stationary, but lower by more than 0.01 (of SAEM 0.1) than the other start's point.

In the place of `jn.log_likelihood`, LME and RELME have the likelihood of the linear mixed model at their estimates and
modes, written anew for this study; SAEM has quadrature with five nodes.
"""

from __future__ import annotations

import csv
import math
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
jax.config.update("jax_enable_x64", True)

import hostile_cases  # noqa: E402
import hostile_checks  # noqa: E402
import resumable  # noqa: E402
from hostile_cases import METHODS, Case, Made  # noqa: E402
from hostile_models import CURVES  # noqa: E402

import jaxnlme as jn  # noqa: E402

FILE = "hostile.csv"
COLUMNS = (
    "case",
    "model",
    "method",
    "difficulty",
    "start",
    "converged",
    "log_likelihood",
    "recomputed",
    "monte_carlo_se",
    "gain",
    "gained",
    "eigenvalue",
    "moved",
    "zeros",
    "ray",
    "other_start",
    "seconds",
    "exception",
    "message",
)
COUNTS = (
    "fits",
    "converged",
    "refused",
    "other value",
    "not stationary",
    "zero, higher inside",
    "start decides",
    "start, any",
    "foreign",
    "inferior",
)
VALUE, GAIN, MOVED, EIGENVALUE = 0.01, 1e-3, 1e-3, -1e-4
SAEM_GAIN, SAEM_VALUE = 0.05, 0.1
REPLICATES = 20
CHARACTERS = 160
"""Of a message on file."""


def fit(made: Made, method: str, start: Any) -> jn.Fit:
    """The fit of a case from values by name, or from Params."""
    chosen, restricted = METHODS[method]
    return jn.fit(made.model, made.data, chosen, restricted=restricted, start=start, progress=False)


def run_case(case: Case) -> list[dict[str, Any]]:
    """Rows of the fits of a case, one a start."""
    made = hostile_cases.make(case)
    rows = [_run(case, made, start) for start in made.starts]
    for row, other in zip(rows, reversed(rows), strict=True):
        row["other_start"] = other.get("log_likelihood", math.nan)
    return rows


def _run(case: Case, made: Made, start: str) -> dict[str, Any]:
    """A row of one fit and its checks. An exception makes a row, too: the study continues."""
    row: dict[str, Any] = {
        "case": case.number,
        "model": case.model,
        "method": case.method,
        "difficulty": case.difficulty,
    }
    row["start"], began = start, time.perf_counter()
    try:
        done = fit(made, case.method, made.starts[start])
        row["seconds"] = time.perf_counter() - began
        row |= {"converged": int(done.converged), "log_likelihood": done.log_likelihood}
        row["message"] = "" if done.converged else " ".join(done.status.sentences[1:2])[:CHARACTERS]
        if done.sampling is not None:
            row["monte_carlo_se"] = done.sampling.log_likelihood_se
        if done.converged:
            row |= checks(case, made, done)
    except Exception as error:
        kind = type(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        row.setdefault("seconds", time.perf_counter() - began)
        row["exception"] = f"{kind.__module__}.{kind.__qualname__}"
        row["message"] = f"{error} ({Path(where.filename).name}, {where.name})".replace("\n", " ")[:CHARACTERS]
    return row


def checks(case: Case, made: Made, done: jn.Fit) -> dict[str, Any]:
    """The columns of a converged fit that do not rest on what it says of itself."""
    row: dict[str, Any] = {"zeros": len(hostile_checks.zeros(done))}
    method, restricted = METHODS[case.method]
    if case.method in ("lme", "relme"):
        again = fit(made, case.method, done.params)
        row["moved"] = hostile_checks.distance(done, again) if again.converged else math.inf
        found = hostile_checks.linearised(done, CURVES[case.model], case.method == "relme")
    else:
        found = hostile_checks.surface(done, jn.AGQ(5) if case.method == "saem" else method, restricted)
    row |= hostile_checks.stationarity(done, found)
    if row["zeros"]:
        row["ray"] = hostile_checks.highest_on_rays(done, found, row["recomputed"], made.spreads)
    return row


def failures(row: dict[str, str], other: dict[str, str] | None) -> list[str]:
    """The columns of the table in which a row counts, beside `fits`; `other`: the other start's row."""
    saem, out = row["method"] == "saem", []
    if row["exception"]:
        return ["refused" if row["exception"].startswith("jaxnlme.") else "foreign"]
    if not int(row["converged"]):
        if other is not None and other["converged"] == "1":
            out.append("start, any")
            if abs(number(row, "log_likelihood") - number(other, "log_likelihood")) <= VALUE:
                out.append("start decides")
        return out
    out.append("converged")
    slack = VALUE + (4.0 * number(row, "monte_carlo_se") if saem else 0.0)
    if not abs(number(row, "log_likelihood") - number(row, "recomputed")) <= slack:
        out.append("other value")
    limit = SAEM_GAIN if saem else GAIN
    moved = row["moved"] and not number(row, "moved") <= MOVED
    by_differences = row["gain"] and not (
        number(row, "gain") <= limit and number(row, "gained") <= limit and number(row, "eigenvalue") >= EIGENVALUE
    )
    if moved or by_differences:
        out.append("not stationary")
    if row["ray"] and number(row, "ray") > GAIN:
        out.append("zero, higher inside")
    higher = number(row, "other_start") - number(row, "log_likelihood")
    if "not stationary" not in out and higher > (SAEM_VALUE if saem else VALUE):
        out.append("inferior")
    return out


def number(row: dict[str, str], column: str) -> float:
    """The number in a column, NaN where there is none."""
    return float(row[column] or "nan")


def read(path: Path) -> list[dict[str, str]]:
    """The rows on file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def with_failures(rows: list[dict[str, str]]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Each row with the columns in which it counts."""
    by_start = {(row["case"], row["start"]): row for row in rows}
    others = {"truth": "hostile", "hostile": "truth"}
    for row in rows:
        yield row, failures(row, by_start.get((row["case"], others[row["start"]])))


def print_table(rows: list[dict[str, str]]) -> None:
    """Counts by method, as Markdown."""
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(COUNTS, 0) for name in [*METHODS, "all"]}
    for row, found in with_failures(rows):
        for name in (row["method"], "all"):
            for column in ["fits", *found]:
                counts[name][column] += 1
    print("| method | " + " | ".join(COUNTS) + " |\n| :-- |" + " --: |" * len(COUNTS))
    for name, counted in counts.items():
        if counted["fits"]:
            share = {"start decides": f" ({100.0 * counted['start decides'] / counted['fits']:.1f}%)"}
            print(f"| {name} | " + " | ".join(f"{counted[c]:,}{share.get(c, '')}" for c in COUNTS) + " |")


def print_failures(rows: list[dict[str, str]]) -> None:
    """The rows behind the table's failures, a line each."""
    for row, found in with_failures(rows):
        kinds = [kind for kind in found if kind not in ("converged", "start, any")]
        if kinds:
            shown = {key: value for key, value in row.items() if value}
            print(f"{'; '.join(kinds)}: {shown}")


def show(number: int) -> None:
    """One case's starts, and what its fits say."""
    case = next(case for case in hostile_cases.cases(REPLICATES) if case.number == number)
    made = hostile_cases.make(case)
    print(case)
    print(made.data.y)
    for name, start in made.starts.items():
        print(f"\n{name}: {start}")
        done = fit(made, case.method, start)
        print(done.status, done.log_likelihood, done.values, done.at_zero, sep="\n")
        if done.converged:
            print(checks(case, made, done))


def study(path: Path, only: list[str] | None, number: int, seconds: float) -> None:
    """Fits until there are `number` on file, or `seconds` are over; the rows of a case are written together."""
    rows, began = read(path), time.monotonic()
    finished = {int(row["case"]) for row in rows}
    count = len(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if not rows:
            writer.writeheader()
        for case in hostile_cases.cases(REPLICATES):
            if count >= number or time.monotonic() - began > seconds:
                break
            name = f"{case.model} {case.method} {case.difficulty}"
            if case.number in finished or (only and not any(part in name for part in only)):
                continue
            made = run_case(case)
            for row in made:
                writer.writerow({key: _short(value) for key, value in row.items()})
            file.flush()
            count += len(made)
            spent = " + ".join(f"{row['seconds']:.2f}" for row in made)
            print(f"{count} {case.number} {name}: {spent} s, {time.monotonic() - began:.0f} s in all", flush=True)


def _short(value: Any) -> Any:
    """Numbers with the digits that count."""
    return f"{value:.9g}" if isinstance(value, float) else value


if __name__ == "__main__":
    resumable.run(__doc__, FILE, 2000, study, show, read, print_table, print_failures)
