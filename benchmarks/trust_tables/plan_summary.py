"""The arithmetic and the tables of trust_plan.csv."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reporting.cells import table as markdown

from trust_tables.plan_design import DESIGNS, STARTS, names, truth

Row = dict[str, Any]
LABELS = {"focei": "FOCEI", "laplace": "Laplace", "agq": "AGQ, moments", "saem": "SAEM", "saemix": "saemix 3.1"}
WITHIN = {"focei": 0.01, "laplace": 0.01, "agq": 0.01, "saem": 0.05}
BELOW_SAEMIX, REQUIRED = 0.05, 0.98
INTRODUCTION = (
    "Simulated data in the design of Plan, Maloney, Mentre, Karlsson and Bertrand (2012, AAPS Journal 14, 420-432), "
    "not the paper's own: 4 x 100 sets of saemix's simulation suite (saemixdevelopment/saemixextension, "
    "simulationSuite/cont), whose authors' estimates by saemix 3.1 stand beside ours. 100 subjects, an Emax or Hill "
    "curve, E0, Emax and ED50 log-normal over subjects, proportional error; rich: four doses a subject, sparse: two of "
    "them. True starts are the truth; wrong ones E0 10, Emax 60, ED50 1000, gamma 0.1, variances 1, no correlation, b "
    "doubled. The referee is the log-likelihood by quadrature in numpy "
    "(`trust_tables/plan_referee.py`), within about 1e-4 a subject, the same for every program. AGQ has nodes around "
    "posterior moments "
    '(`centre="moments"`; in the tables of honesty and accuracy they are around the mode), doubled from 6 to at most '
    "12 a dimension until the log-likelihood moves by less than 0.05; where it still moves, the fit counts as not "
    "converged. Seconds are CPU seconds of a fit, medians (of SAEM, means over sets fitted together)."
)


def read(path: Path) -> list[Row]:
    """The rows on file: numbers as floats (NaN where empty), `set` as an integer."""
    with path.open(newline="") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def _numbers(row: dict[str, str]) -> Row:
    text = ("design", "method", "start", "reason")
    return {k: v if k in text else int(v) if k == "set" else float(v or "nan") for k, v in row.items()}


def key(row: Row) -> tuple[str, str, str, int]:
    """What a row is about."""
    return row["design"], row["method"], row["start"], int(row["set"])


class RowsByMethod:
    """The rows by design, method and start."""

    def __init__(self, rows: Iterable[Row]):
        self._rows: dict[tuple[str, str, str], dict[int, Row]] = {}
        for row in rows:
            self._rows.setdefault(key(row)[:3], {})[row["set"]] = row

    def of(self, design: str, method: str, start: str) -> dict[int, Row]:
        """Rows by set."""
        return self._rows.get((design, method, start), {})


def relative_errors(rows: Iterable[Row], name: str, true: float) -> tuple[float, float]:
    """Relative root mean squared error and relative bias in percent; NaN without finite estimates."""
    errors = [row[name] / true - 1.0 for row in rows if math.isfinite(row[name])]
    if not errors:
        return math.nan, math.nan
    return 100.0 * math.sqrt(sum(e * e for e in errors) / len(errors)), 100.0 * sum(errors) / len(errors)


def differences(table: RowsByMethod, design: str, method: str) -> dict[int, float]:
    """The referee's value from wrong starts minus that from true starts, by set; NaN where one has no estimate."""
    wrong, true = (table.of(design, method, start) for start in ("wrong", "true"))
    return {k: wrong[k]["referee"] - true[k]["referee"] for k in sorted(wrong.keys() & true.keys())}


def below_saemix(table: RowsByMethod, design: str, method: str, start: str) -> dict[int, float]:
    """The referee's value minus that of saemix from the same start, by set, where it is lower by more than 0.05; sets
    where one of them has no estimates are left out."""
    ours, theirs = table.of(design, method, start), table.of(design, "saemix", start)
    gains = {k: ours[k]["referee"] - theirs[k]["referee"] for k in sorted(ours.keys() & theirs.keys())}
    return {k: gain for k, gain in gains.items() if gain < -BELOW_SAEMIX}


def judged(table: RowsByMethod, design: str, method: str) -> dict[str, Any]:
    """What is judged of one method on one design: counts, and the numbers of the sets that fall short.

    **Returns:** `sets`, with fits from both starts; `within`, the number whose difference is within the limit; `apart`,
    the differences of the others where both fits converged; `one_not_converged`: where one did not; `true_sets`,
    `converged`: fits from true starts and how many converged; `reasons` of the others by set; `below`, by start;
    `without_estimates`: the number of fits, from either start, that have none.
    """
    change, limit = differences(table, design, method), WITHIN[method]
    wrong, true = (table.of(design, method, start) for start in ("wrong", "true"))
    outside = {k: d for k, d in change.items() if not abs(d) <= limit}
    both = {k for k in change if wrong[k]["converged"] == 1 and true[k]["converged"] == 1}
    return {
        "sets": len(change),
        "within": len(change) - len(outside),
        "both": len(both),
        "apart": {k: d for k, d in outside.items() if k in both},
        "one_not_converged": {k: d for k, d in outside.items() if k not in both},
        "true_sets": len(true),
        "converged": sum(row["converged"] == 1 for row in true.values()),
        "reasons": {k: row["reason"] for k, row in sorted(true.items()) if row["converged"] != 1},
        "below": {start: below_saemix(table, design, method, start) for start in STARTS},
        "without_estimates": sum(math.isnan(row["referee"]) for row in (*wrong.values(), *true.values())),
    }


def _errors_table(table: RowsByMethod, design: str) -> str:
    columns, true = names(design), truth(design)
    header = ["method, starts", "sets", "converged", "s / fit", *columns]
    body = []
    for method, label in LABELS.items():
        for start in STARTS:
            rows = list(table.of(design, method, start).values())
            if not rows:
                continue
            good = [row for row in rows if row["converged"] == 1]
            cells = [f"{label}, {start}", str(len(rows)), "-", "-"]
            if method != "saemix":
                cells[2:] = [str(len(good)), f"{statistics.median(row['seconds'] for row in rows):.2g}"]
            body.append(cells + _error_cells(rows, columns, true))
            if good and len(good) < len(rows) and method != "saemix":
                body.append(
                    [f"{label}, {start}, converged only", str(len(good)), "", "", *_error_cells(good, columns, true)]
                )
    return markdown(header, body)


def _error_cells(rows: list[Row], columns: list[str], true: dict[str, float]) -> list[str]:
    pairs = [relative_errors(rows, name, true[name]) for name in columns]
    return [f"{_short(rmse)} / {_short(bias, '+')}" for rmse, bias in pairs]


def _short(number: float, sign: str = "") -> str:
    """A percentage, large ones by their power of ten."""
    return f"{number:{sign}.0f}" if not abs(number) >= 1e4 else f"{number:{sign}.0e}"


def _numbered(values: dict[int, float]) -> str:
    return ", ".join(f"{k} ({d:+.2f})" for k, d in values.items()) or "-"


def _judged_table(table: RowsByMethod) -> tuple[str, list[str]]:
    header = [
        "design, method", "sets", "wrong = true", "both converged", "of these apart", "one not converged, apart",
        "without estimates", "converged from true", "below saemix, true / wrong",
    ]  # fmt: skip
    body, reasons = [], []
    for design in DESIGNS:
        for method in WITHIN:
            result = judged(table, design, method)
            if not result["true_sets"]:
                continue
            n, m = result["sets"], result["true_sets"]
            ok = result["within"] >= REQUIRED * n
            below = (
                " / ".join(str(len(result["below"][start])) for start in STARTS) if method in ("agq", "saem") else ""
            )
            body.append([
                f"{design}, {LABELS[method]}", str(n), f"{result['within']}" if ok else f"**{result['within']}**",
                str(result["both"]), str(len(result["apart"])), str(len(result["one_not_converged"])),
                str(result["without_estimates"]), f"{result['converged']} of {m}", below,
            ])  # fmt: skip
            lines = [("apart though both converged", result["apart"])]
            if method in ("agq", "saem"):
                lines += [(f"below saemix from {start} starts", result["below"][start]) for start in STARTS]
            lines = [f"{what}: set {_numbered(values)}" for what, values in lines if values]
            lines += [f"not converged from true starts: {_reasons(result['reasons'])}"] if result["reasons"] else []
            reasons += [f"- {design}, {LABELS[method]}: {'; '.join(lines)}."] if lines else []
    return markdown(header, body), reasons


def _reasons(reasons: dict[int, str]) -> str:
    """Kinds of reasons with the numbers of their sets."""
    kinds: dict[str, list[int]] = {}
    for number, text in reasons.items():
        kinds.setdefault(kind_of_reason(text), []).append(number)
    return "; ".join(f"{kind}: set {', '.join(map(str, numbers))}" for kind, numbers in kinds.items())


def kind_of_reason(text: str) -> str:
    """The sentence of a status as a kind: without the numbers of groups and values."""
    for part, kind in {
        "carry no information": "a direction without information",
        "with": "AGQ's log-likelihood still moves with twice as many nodes",
        "is flat along": "the Laplace approximation has no upper bound at the mode of a subject",
        "goes back and forth": "the objective jumps between modes of a subject",
        "was not found": "a conditional mode was not found",
        "not positive definite": "the curvature at a mode is not positive definite",
        "Monte Carlo error": "the Monte Carlo error is above the tolerance",
        "standard error of": "standard errors still change",
        "Not at the maximum": "not at the maximum by the score",
        "iterations": "the iterations were used up",
    }.items():
        if text.startswith(part) if part == "with" else part in text:
            return kind
    return text[:60]


def section(rows: list[Row]) -> list[str]:
    """The section of the benchmark page, in paragraphs."""
    table = RowsByMethod(rows)
    summary, reasons = _judged_table(table)
    out = [INTRODUCTION, ""]
    out += [
        "`sets`: how many of the 100 were fitted from both starts. `wrong = true`: fits "
        "whose log-likelihoods from the two starts, by the referee, differ by at most 0.05 (SAEM) "
        "or 0.01; bold: fewer than 98%. `of these apart`: those that differ although both fits say they converged. "
        "`without estimates`: fits, from either start, whose estimates or whose likelihood by the referee are not "
        "finite. Rows are of several days and versions; that named above is of the last ones.", "",
        summary, "", *reasons, "",
    ]  # fmt: skip
    for design in DESIGNS:
        out += [f"{design}: relative RMSE / bias in percent.", "", _errors_table(table, design), ""]
    return out


def small(rows: list[Row]) -> list[str]:
    """The table of the README: over all designs, a row a method."""
    table = RowsByMethod(rows)
    body = []
    for method in WITHIN:
        all_of = [judged(table, design, method) for design in DESIGNS]
        n, m = sum(r["sets"] for r in all_of), sum(r["true_sets"] for r in all_of)
        if not m:
            continue
        below = sum(len(r["below"][start]) for r in all_of for start in STARTS)
        fits = [row["seconds"] for d in DESIGNS for s in STARTS for row in table.of(d, method, s).values()]
        body.append([
            LABELS[method], str(n), str(sum(r["within"] for r in all_of)), str(sum(len(r["apart"]) for r in all_of)),
            str(sum(r["without_estimates"] for r in all_of)), f"{sum(r['converged'] for r in all_of)} of {m}",
            str(below) if method in ("agq", "saem") else "", f"{statistics.median(fits):.2g}",
        ])  # fmt: skip
    header = ["method", "sets", "wrong start = true start", "apart, both converged", "without estimates",
              "converged from true starts", "below saemix", "CPU s / fit"]  # fmt: skip
    return [markdown(header, body)]
