"""The section of linear.json: linear mixed models beside R's nlme and lme4 and the packages for Python."""

from __future__ import annotations

from statistics import median

from linear_targets import AR1_RATIO, EQUAL, FIRST_CALL, TARGETS

from reporting.cells import Record, dig, middle, origin, show, table, times

OURS = "jaxnlme"
EXPLANATION = (
    "Simulated tables; a call begins at the data frame and ends with standard errors, by REML. A process makes several "
    "calls, each with other responses: the first, and the median of those after it. One core and one thread for all, "
    "two for ours besides. Ratios are CPU seconds of a call after the first (of the first where it is the only one) "
    f"over those of ours; they count where log L is that of the best within {EQUAL:g} of its size. log L of the first "
    "table, less the best of all programs."
)


def section(results: Record, name: str) -> str:
    """One table a problem, first calls of fresh processes, and the cost of AR(1)."""
    parts = ["### Linear mixed models", origin(results, name), EXPLANATION]
    for run in results.get("earlier", []):
        commit = (run["commit"] or "none")[:12]
        parts.append(f"Some rows are of another run: commit {commit}, load {run['load_before'][0]:.1f} before.")
    parts += [f"{peer} is left out: {reason}." for peer, reason in results.get("missing", {}).items()]
    for problem, target in TARGETS.items():
        rows = [row for row in results["rows"] if row["problem"] == problem and row["kind"] == "calls"]
        if rows:
            parts += [f"#### {target.label}", compared(rows, target.seconds, target.megabytes)]
    return "\n\n".join([*parts, *first_calls(results["rows"]), *correlated(results["rows"])])


def later(row: Record, clock: str) -> float | None:
    """Seconds of a call after the first; of the first where it is the only one."""
    calls = dig(row, "said", "calls") or []
    return median([call[clock] for call in calls[1:] or calls]) if calls else None


def compared(rows: list[Record], seconds: float | None, megabytes: float | None) -> str:
    """The programs on one problem, and whether targets are met."""
    header = ["program", "first call, CPU s", "calls after it, CPU s", "wall s", "over ours", "log L less the best"]
    found = [row for row in rows if dig(row, "said", "calls")]
    best = max((row["said"]["calls"][0]["log_likelihood"] for row in found), default=0.0)
    ours = next((later(row, "cpu") for row in found if row["program"] == OURS), None)
    body = []
    for row in sorted(rows, key=lambda row: (row["program"].split(",")[0] != OURS, later(row, "cpu") or 1e9)):
        calls = dig(row, "said", "calls") or []
        first = calls[0] if calls else {}
        gap = first["log_likelihood"] - best if calls else None
        only = " (first)" if len(calls) == 1 else ""
        cells = [
            row["program"],
            show(first.get("cpu"), 3),
            show(later(row, "cpu"), 3) + only,
            show(later(row, "wall"), 3),
        ]
        cells += [times(later(row, "cpu"), ours, 1), "–" if gap is None else f"{gap:.1e}"]
        body.append([*cells, show(row["peak_rss_mb"], 0), outcome(row, gap, best)])
    text = table([*header, "peak MB", "outcome"], body)
    if seconds is None or ours is None:
        return text
    memory = next(row["peak_rss_mb"] for row in found if row["program"] == OURS)
    sentence = f"Target: {seconds:g} CPU s, {'met' if ours <= seconds else 'missed'}"
    if megabytes is not None:
        sentence += f"; {megabytes:,.0f} MB, {'met' if memory <= megabytes else 'missed'}"
    return f"{text}\n\n{sentence}."


def outcome(row: Record, gap: float | None, best: float) -> str:
    """The outcome of a program in words."""
    if row["status"] == "timeout":
        return "stopped at the time limit"
    if gap is None:
        return sentence(dig(row, "said", "error") or (row.get("stderr") or "failed").strip().splitlines()[-1])
    error = dig(row, "said", "error")
    if error:
        return sentence(f"call {len(row['said']['calls']) + 1}: {error}")
    converged = all(call["converged"] for call in row["said"]["calls"])
    short = "" if gap >= -EQUAL * abs(best) else "lower log L; "
    return short + ("ok" if converged else "says not converged")


def sentence(text: str) -> str:
    """The beginning of an error message as a cell of a table."""
    return " ".join(text.split())[:90].replace("|", "\\|")


def first_calls(rows: list[Record]) -> list[str]:
    """First calls of fresh processes with an empty compilation cache over the import floor."""
    floor = middle([row for row in rows if row["problem"] == "floor"], "cpu")
    body = []
    for problem, target in TARGETS.items():
        records = [row for row in rows if row["problem"] == problem and row["kind"] == "process"]
        spent = [dig(r, "said", "import") + r["said"]["calls"][0]["cpu"] for r in records if dig(r, "said", "calls")]
        if spent and floor is not None:
            above = median(spent) - floor
            label = target.label.replace("|", "\\|")
            body.append([label, show(median(spent)), show(above), "met" if above <= FIRST_CALL else "missed"])
    if not body:
        return []
    text = f"Median CPU seconds of the import and the first call; the import floor is {show(floor)}."
    header = ["problem", "import and first call, CPU s", "above the floor", f"target {FIRST_CALL:g}"]
    return ["#### First call of a fresh process, empty compilation cache", text, table(header, body)]


def correlated(rows: list[Record]) -> list[str]:
    """CPU seconds with AR(1) over those without."""
    body = []
    for program in dict.fromkeys(row["program"] for row in rows):
        pair = [
            next((later(row, "cpu") for row in rows if (row["problem"], row["program"]) == (problem, program)
                  and row["kind"] == "calls"), None) for problem in ("AR(1)", "without AR(1)")
        ]  # fmt: skip
        if all(pair):
            body.append([program, *(show(value, 3) for value in pair), times(*pair, 1)])
    header = ["program", "with AR(1), CPU s", "without", f"ratio (target {AR1_RATIO:g})"]
    return ["#### The cost of AR(1), 100,000 rows", table(header, body)] if body else []
