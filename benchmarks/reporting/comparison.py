"""The section of fits.json: programs side by side on the same tables."""

from __future__ import annotations

from commands import TWO_FITS

from reporting import targets
from reporting.cells import Record, middle, origin, outcome_of, show, table, times

NAMES = {
    "jaxnlme": "jaxnlme FOCEI, empty cache",
    "jaxnlme-warm-cache": "jaxnlme FOCEI, warm cache",
    "jaxnlme-lme": "jaxnlme LME, empty cache",
    "jaxnlme-lme-warm-cache": "jaxnlme LME, warm cache",
    "jaxnlme-foce": "jaxnlme FOCE, empty cache",
    "jaxnlme-foce-warm-cache": "jaxnlme FOCE, warm cache",
    "import-floor": "import floor",
    "nlme": "R nlme, ML, analytic gradient",
    "nlme-plain": "R nlme, ML, plain function",
    "nlmer": "lme4 nlmer, Laplace, bobyqa",
    "nlmer-nelder-mead": "lme4 nlmer, Laplace, Nelder-Mead (its default)",
    "pynlme-r": "pynlme LME, as R's nlme",
    "pynlme-matlab": "pynlme LME, as MATLAB's nlmefit",
    "pynlme-foce": "pynlme FOCE",
    "numpyro-svi": "numpyro, mean-field SVI (posterior medians)",
    "numpyro-nuts": "numpyro, NUTS (posterior medians)",
}
AGAINST = ("nlme", "nlmer", "pynlme-r")  # ratios of CPU seconds to these


def fit_seconds(program: str, groups: dict[str, list[Record]], clock: str) -> float | None:
    """Seconds of a fit without its process: the second fit of a process, in which ours has everything compiled; else,
    for a peer, its own clock of its first fit."""
    twice = groups.get(program + TWO_FITS, [])
    if program.startswith("jaxnlme"):
        return middle(twice, "said", "phases", "second_fit", clock)
    return middle(twice, "said", "second", "fit", clock) or middle(groups[program], "said", "fit", clock)


def comparison(groups: dict[str, list[Record]]) -> str:
    """Programs of one case, side by side."""
    peers = {p: middle(groups[p], "cpu") for p in AGAINST if p in groups and outcome_of(groups[p]) == "ok"}
    header = ["program", "CPU s", "wall s", "fit only: CPU s", "wall s", "peak MB", "its log L", "referee log L"]
    header += ["outcome", *(f"CPU / {peer}" for peer in peers)]
    rows = []
    for program, records in groups.items():
        if program.endswith(TWO_FITS):
            continue
        cpu = middle(records, "cpu")
        row = [NAMES[program], show(cpu), show(middle(records, "wall"))]
        row += [show(fit_seconds(program, groups, clock)) for clock in ("cpu", "wall")]
        row.append(show(middle(records, "peak_rss_mb"), 0))
        path = ("fit",) if program.startswith("jaxnlme") else ()
        row += [show(middle(records, "said", *path, "log_likelihood"), 3), show(middle(records, "referee"), 3)]
        rows.append([*row, outcome_of(records), *(times(cpu, peer) for peer in peers.values())])
    return table(header, rows)


def lindstrom_bates(results: Record, name: str) -> str:
    """The section of the peers that linearise, with the targets beside them."""
    return section(results, name, "### The linearised mixed model beside nlme and pynlme", with_targets=True)


def section(results: Record, name: str, title: str = "### Beside other programs", with_targets: bool = False) -> str:
    """One table a case."""
    cases: dict[tuple, dict[str, list[Record]]] = {}
    for record in results["runs"]:
        key = (record["case"], record["groups"], record["psi"])
        cases.setdefault(key, {}).setdefault(record["program"], []).append(record)
    about = results["about"]
    limits = f"Medians of up to {about['repeats']} repeats; {about['peer_limit']:g} s at most for a fit of a peer."
    parts = [title, origin(results, name), limits]
    parts += [f"{NAMES[peer]} is left out: {reason}." for peer, reason in results.get("missing", {}).items()]
    if with_targets:
        parts += ["#### Targets", targets.EXPLANATION, targets.compared(cases)]
    for (case, count, psi), groups in cases.items():
        parts += [f"#### {case.capitalize()}, {count:,} groups, {psi} Psi", comparison(groups)]
    return "\n\n".join(parts)
