"""The section of grid.json."""

from __future__ import annotations

from reporting.cells import Record, origin, show, table

METHODS = {"focei": "FOCEI", "saem": "SAEM"}
TARGET = 0.88


def covered(row: Record) -> list[bool]:
    """Whether each interval of a fit covers."""
    return [entry["covered"] for entry in row["intervals"].values()]


def one_fit(row: Record | None) -> list[str]:
    """The cells of one fit."""
    if row is None:
        return ["–"] * 3
    hits = covered(row)
    return ["yes" if row["converged"] else "**no**", f"{sum(hits)} of {len(hits)}", show(row["seconds"]["cpu"], 0)]


def section(results: Record, name: str) -> str:
    """Convergence, coverage and seconds by file and method."""
    rows = {(row["file"], row["method"]): row for row in results["rows"]}
    files = list(dict.fromkeys(file for file, _ in rows))
    header = ["file", "observations", "doses"]
    header += [f"{method}: {cell}" for method in METHODS.values() for cell in ("converged", "covered", "CPU seconds")]
    body = []
    for file in files:
        fits = [rows.get((file, method)) for method in METHODS]
        first = next(row for row in fits if row is not None)
        cells = [file, f"{first['observations']:,}", f"{first['doses']:,}"]
        body.append(cells + [cell for row in fits for cell in one_fit(row)])
    totals = []
    for method, title in METHODS.items():
        of_method = [row for row in results["rows"] if row["method"] == method]
        hits = [hit for row in of_method for hit in covered(row)]
        if hits:
            share = sum(hits) / len(hits)
            met = "met" if share >= TARGET else "**missed**"
            converged = sum(row["converged"] for row in of_method)
            totals.append(
                f"{title}: {converged} of {len(of_method)} fits converged, {share:.1%} of {len(hits)} intervals cover "
                f"(target {TARGET:.0%}: {met})."
            )
    explanation = (
        "Twelve simulated files of 120 subjects (30 at each of four doses; bolus, infusion, oral; one and two "
        "compartments; linear and, `MM`, Michaelis-Menten elimination), read by `GroupedData.from_nonmem`. Covered: "
        "95% intervals of the medians and of the standard deviations of the log that contain the geometric mean and "
        "the standard deviation of the subjects' own parameters, as the file gives them. Starting values are off by a "
        "third to a half. CPU seconds, compiling included; other programs ran on the machines, of which one was 2.4 "
        "times faster than the others. " + " ".join(totals)
    )
    return "\n\n".join(["### Simulation grid of dose records", origin(results, name), explanation, table(header, body)])
