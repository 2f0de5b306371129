"""The section of first_fit.json: from a cold process to a summary."""

from __future__ import annotations

from reporting.cells import Record, dig, less, middle, origin, outcome_of, show, table

NAMES = {
    "fo": "FO",
    "foce": "FOCE",
    "focei": "FOCEI",
    "laplace": "Laplace",
    "agq3": "AGQ(3)",
    "is": "importance sampling",
    "saem": "SAEM",
    "indomethacin": "nlmefitsa, indomethacin as in MathWorks' example",
}
TARGETS = {"empty": 4.0, "warm": 1.0}  # seconds over the import floor
# Seconds of a whole process, where the import floor takes FLOOR.
SAEM_TARGETS = {"empty": 4.0, "warm": 2.5}
INDOMETHACIN_TARGET, FLOOR = 8.0, 0.8
# What a process does, in order: (label, path of wall seconds in its JSON line)
STEPS = [
    ("import", ("phases", "import", "wall")),
    ("device", ("phases", "device", "wall")),
    ("data: CSV to GroupedData", ("phases", "data", "wall")),
    ("check: dry run of the model", ("fit", "profile", "check")),
    ("tracing", ("fit", "profile", "trace")),
    ("lowering", ("fit", "profile", "lower")),
    ("compiling, or reading the cache", ("fit", "profile", "compile")),
    ("running: modes, optimiser, standard errors", ("fit", "profile", "run")),
    ("summary", ("phases", "summary", "wall")),
]


def excess(runs: list[Record], floor: list[Record], clock: str) -> float | None:
    """Seconds of a process over the import floor of the same rounds."""
    return less(middle(runs, clock), middle(floor, clock))


def section(results: Record, name: str) -> str:
    """Headings, tables and sentences."""
    rows = results["rows"]

    def of(program: str, cache: str | None = None) -> list[Record]:
        return [r for r in rows if r["program"] == program and r.get("cache") == cache]

    floor = of("floor")
    methods = [m for m in NAMES if of(m, "empty")]
    # "rung" is the key of results before version 0.2.0.
    lines = {(r.get("approximation", r.get("rung")), r["psi"]): r["lines"] for r in results.get("programs", [])}
    parts = ["### Time to the first fit", origin(results, name), whole(methods, of, floor, lines)]
    if "focei" in methods:
        reached = [
            f"{cache} cache {show(excess(of('focei', cache), floor, 'wall'))} s wall and "
            f"{show(excess(of('focei', cache), floor, 'cpu'))} s CPU (target {target:g} s)"
            for cache, target in TARGETS.items()
        ]
        parts.append(f"FOCEI over the import floor: {', '.join(reached)}.")
        parts += ["Where the wall seconds of the FOCEI process go:", profile(of), second_fits(of)]
    if "saem" in methods:
        slower = (middle(floor, "wall") or FLOOR) / FLOOR
        reached = [
            f"{cache} cache {show(middle(of('saem', cache), 'wall'))} s (target {target:g} s)"
            for cache, target in SAEM_TARGETS.items()
        ]
        if "indomethacin" in methods:
            indomethacin = show(middle(of("indomethacin", "empty"), "wall"))
            reached.append(f"indomethacin, empty cache {indomethacin} s (target {INDOMETHACIN_TARGET:g} s)")
        parts.append(
            f"SAEM, whole processes: {', '.join(reached)}. The targets are for an import floor of {FLOOR:g} s; here it "
            f"takes {slower:.2f} times as long."
        )
    parts += [f"{peer} is left out: {reason}." for peer, reason in results.get("missing", {}).items()]
    return "\n\n".join(parts)


def whole(methods: list[str], of, floor: list[Record], lines: dict[tuple[str, str], int]) -> str:
    """Every likelihood approximation as a process, beside the floor and nlme."""
    header = ["process", "wall s, empty cache", "over the floor", "wall s, warm", "over the floor", "CPU s, empty"]
    header += ["CPU s, warm", "log L", "evaluations", "HLO lines, diagonal", "full", "outcome"]
    body = []
    for method in methods:
        empty, warm = of(method, "empty"), of(method, "warm")
        cells = [NAMES[method]]
        for runs in (empty, warm):
            cells += [show(middle(runs, "wall")), show(excess(runs, floor, "wall"))]
        cells += [show(middle(empty, "cpu")), show(middle(warm, "cpu"))]
        cells += [show(middle(empty, "said", "fit", "log_likelihood"), 3)]
        cells += [show(middle(empty, "said", "fit", "timings", "evaluations"), 0)]
        cells += [show(lines.get((method, psi)), 0) for psi in ("diagonal", "full")]
        body.append([*cells, outcome_of(empty + warm)])
    body.append(_other("import floor: the same libraries, one jitted addition", floor))
    if of("nlme"):
        body.append(_other("`Rscript`: nlme, ML, analytic gradient", of("nlme")))
    return table(header, body)


def _other(label: str, runs: list[Record]) -> list[str]:
    """The row of a process without a cache of ours."""
    cells = [label, show(middle(runs, "wall")), "–", "–", "–", show(middle(runs, "cpu")), "–"]
    return [*cells, show(middle(runs, "said", "log_likelihood"), 3), "–", "–", "–", outcome_of(runs)]


def profile(of) -> str:
    """Wall seconds by step, with an empty and with a warm cache; the rest is the interpreter's start and end."""
    columns = [of("focei", cache) for cache in ("empty", "warm")]
    body, accounted = [], [0.0, 0.0]
    for label, path in STEPS:
        step_seconds = [middle(runs, "said", *path) for runs in columns]
        accounted = [a + (b or 0.0) for a, b in zip(accounted, step_seconds, strict=True)]
        body.append([label, *(show(x, 3) for x in step_seconds)])
    walls = [middle(runs, "wall") for runs in columns]
    body.append(["interpreter, start and end", *(show(less(w, k), 3) for w, k in zip(walls, accounted, strict=True))])
    body.append(["whole process", *(show(w, 3) for w in walls)])
    programs = [show(middle(runs, "said", "fit", "profile", "programs"), 0) for runs in columns]
    return table(["step, wall s", "empty cache", "warm cache"], [*body, ["programs compiled or read", *programs]])


def second_fits(of) -> str:
    """The second fit of a process, and nlme's."""
    header = ["second fit in a process, theophylline", "CPU s", "wall s"]
    body = []
    for method, label in NAMES.items():
        runs = of(method, "two fits")
        if not runs:
            continue
        sums = [
            sum(
                filter(
                    None,
                    (middle(runs, "said", "phases", f"second_{step}", clock) for step in ("data", "fit", "summary")),
                )
            )
            for clock in ("cpu", "wall")
        ]
        body.append([f"{label}: data, fit, standard errors, summary", *(show(s, 3) for s in sums)])
    for key, label in (("fit", "nlme, first fit, its own clock"), ("again", "nlme, second fit, its own clock")):
        runs = [r for r in of("nlme twice") if dig(r, "said", key)]
        if runs:
            body.append([label, *(show(middle(runs, "said", key, clock), 3) for clock in ("cpu", "wall"))])
    return table(header, body)
