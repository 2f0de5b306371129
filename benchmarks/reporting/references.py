"""The section of references.json: published tables by the Lindstrom-Bates methods, and what each door takes."""

from __future__ import annotations

from processes import reached

from reporting.cells import Record, dig, middle, origin, show, table, times, verdict

# (program, method): its name
NAMES = {
    ("jaxnlme", "lme"): "jaxnlme LME",
    ("nlme", "lme"): "R nlme, ML",
    ("pynlme", "lme"): "pynlme LME, as R's nlme",
    ("pynlme-matlab", "lme"): "pynlme LME, as MATLAB's nlmefit",
    ("jaxnlme", "relme"): "jaxnlme RELME",
    ("nlme", "relme"): "R nlme, REML",
    ("pynlme", "relme"): "pynlme RELME, as MATLAB's nlmefit",
}
SAID = (
    "Whole processes (ours with an empty cache and with a warm one), and the second fit of a process that fits other "
    "responses first. ML stands beside ML and REML beside REML; log L is what each program reports for its linearised "
    "model. Ratios are CPU seconds of the second fit over those of ours."
)
DOORS = "Arguments of MATLAB's nlmefit, on indomethacin: the log-likelihood where the call works, else what was said."


def section(results: Record, name: str) -> str:
    """One table a case, and the table of refusals."""
    cases: dict[str, dict[tuple, list[Record]]] = {}
    for row in results["rows"]:
        key = (row["program"], row["method"], row["kind"])
        cases.setdefault(row["case"], {}).setdefault(key, []).append(row)
    parts = ["### Reference cases by LME and RELME", origin(results, name), SAID]
    parts += [f"{peer} is left out: {reason}." for peer, reason in results.get("missing", {}).items()]
    for case, runs in cases.items():
        parts += [f"#### {case[0].upper()}{case[1:]}", compared(runs)]
    if results.get("refusals"):
        parts += ["#### What the doors take", DOORS, refusals(results["refusals"])]
    return "\n\n".join(parts)


def compared(runs: dict[tuple, list[Record]]) -> str:
    """Programs of one case."""
    header = ["program", "process: CPU s", "wall s", "warm cache: CPU s", "wall s", "second fit: CPU s", "wall s"]
    rows = []
    for (program, method), label in NAMES.items():
        once = runs.get((program, method, "empty" if program == "jaxnlme" else "once"), [])
        twice = runs.get((program, method, "two fits"), [])
        if not once:
            continue
        warm = runs.get((program, method, "warm"), [])
        second = second_fit(program, twice, "cpu")
        ours = second_fit("jaxnlme", runs.get(("jaxnlme", method, "two fits"), []), "cpu")
        cells = [label, *(show(middle(kind, clock)) for kind in (once, warm) for clock in ("cpu", "wall"))]
        cells += [show(second, 3), show(second_fit(program, twice, "wall"), 3), times(second, ours, 1)]
        told = [reached(record["said"] or {}) for record in once]
        rows.append([*cells, show(middle(told, "log_likelihood"), 4), verdict(once)])
    return table([*header, "over ours", "log L", "outcome"], rows)


def second_fit(program: str, runs: list[Record], clock: str) -> float | None:
    """Seconds of the second fit of a process, None where it did not end in estimates."""
    fine = [run for run in runs if dig(run, "said", "second", "log_likelihood") is not None]
    path = ("phases", "second_fit") if program == "jaxnlme" else ("second", "fit")
    return middle(fine, "said", *path, clock)


def refusals(found: dict[str, Record], function: str = "nlmefit") -> str:
    """A row a call, a column a door."""
    doors = [door for door, said in found.items() if said]
    names = list(dict.fromkeys(name for door in doors for name in found[door]["calls"]))
    body = [[name, *(told(found[door]["calls"].get(name, {})) for door in doors)] for name in names]
    return table(["call", *(f"`{door}.{function}`" for door in doors)], body)


def told(call: Record) -> str:
    """A log-likelihood, or the error in one cell."""
    said = call.get("error")
    return show(call.get("log_likelihood"), 4) if said is None else said.replace("|", "/").replace("\n", " ")
