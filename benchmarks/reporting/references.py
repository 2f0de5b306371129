"""The section of references.json: published tables by the Lindstrom-Bates methods, and accepted arguments."""

from __future__ import annotations

from processes import reached

from reporting.cells import Record, dig, middle, origin, outcome_of, show, table, times

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
EXPLANATION = (
    "Whole processes (ours with an empty cache and with a warm one), and the second fit of a process that fits other "
    "responses first. ML is compared with ML and REML with REML; log L is what each program reports for its linearised "
    "model. Ratios are CPU seconds of the second fit over those of ours."
)
REFUSALS = (
    "Arguments of MATLAB's nlmefit, on indomethacin: the log-likelihood where the call works, else the error message."
)


def section(results: Record, name: str) -> str:
    """One table a case, and the table of refusals."""
    cases: dict[str, dict[tuple, list[Record]]] = {}
    for row in results["rows"]:
        key = (row["program"], row["method"], row["kind"])
        cases.setdefault(row["case"], {}).setdefault(key, []).append(row)
    parts = ["### Reference cases by LME and RELME", origin(results, name), EXPLANATION]
    parts += [f"{peer} is left out: {reason}." for peer, reason in results.get("missing", {}).items()]
    for case, runs in cases.items():
        parts += [f"#### {case[0].upper()}{case[1:]}", compared(runs)]
    if results.get("refusals"):
        parts += ["#### Accepted arguments", REFUSALS, refusals(results["refusals"])]
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
        results = [reached(record["said"] or {}) for record in once]
        rows.append([*cells, show(middle(results, "log_likelihood"), 4), outcome_of(once)])
    return table([*header, "over ours", "log L", "outcome"], rows)


def second_fit(program: str, runs: list[Record], clock: str) -> float | None:
    """Seconds of the second fit of a process, None where it did not end in estimates."""
    finished = [run for run in runs if dig(run, "said", "second", "log_likelihood") is not None]
    path = ("phases", "second_fit") if program == "jaxnlme" else ("second", "fit")
    return middle(finished, "said", *path, clock)


def refusals(outcomes: dict[str, Record], function: str = "nlmefit") -> str:
    """One row per call, one column per package."""
    packages = [package for package, output in outcomes.items() if output]
    names = list(dict.fromkeys(name for package in packages for name in outcomes[package]["calls"]))
    body = [[name, *(call_result(outcomes[package]["calls"].get(name, {})) for package in packages)] for name in names]
    return table(["call", *(f"`{package}.{function}`" for package in packages)], body)


def call_result(call: Record) -> str:
    """A log-likelihood, or the error in one cell."""
    error = call.get("error")
    return show(call.get("log_likelihood"), 4) if error is None else error.replace("|", "/").replace("\n", " ")
