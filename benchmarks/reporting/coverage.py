"""The section of coverage.json."""

from __future__ import annotations

from reporting.cells import Record, origin, show, table

METHODS = {"louis": "SAEM, Louis", "linearised": "SAEM, linearised", "focei": "FOCEI"}


def one_model(row: Record) -> str:
    """Coverage by parameter of one model; values outside the band are bold."""
    low, high = row["band"]
    header = ["parameter", *(f"{name}: coverage" for name in METHODS.values()), "below", "above"]
    header += [f"SE / SD, {name}" for name in METHODS.values()]
    header += ["bias / SD", "SAEM - FOCEI, in SE"]
    body = []
    for name in row["truth"]:
        cells = [name]
        for method in METHODS:
            coverage = row["methods"][method]["coverage"][name]
            cells.append(show(coverage, 3) if low <= coverage <= high else f"**{show(coverage, 3)}**")
        louis = row["methods"]["louis"]
        cells += [show(louis[side][name], 3) for side in ("missed_low", "missed_high")]
        cells += [show(row["methods"][method]["calibration"][name], 3) for method in METHODS]
        cells += [f"{louis['bias'][name]:+.2f}", f"{row['from_focei'][name]:+.3f}"]
        body.append(cells)
    converged, seconds = row["converged"], row["seconds"]
    explanation = (
        f"{row['psi'].capitalize()} Psi: {row['sets']} sets of {row['groups']} groups; {converged['saem']} by SAEM and "
        f"{converged['focei']} by FOCEI converged; a median of {row['iterations']:.0f} iterations; the largest Monte "
        f"Carlo error of an estimate is {row['monte_carlo_share']:.3f} standard errors. The band: {low:.3f} to "
        f"{high:.3f}. All SAEM fits together, compiling included: {seconds['cpu']:.0f} CPU s, {seconds['wall']:.0f} "
        "wall s."
    )
    explanation += "".join(f" Set {k}: {' '.join(words)}" for k, words in row["not_converged"].items())
    return f"{explanation}\n\n{table(header, body)}"


def section(results: Record, name: str) -> str:
    """Fraction of intervals that cover the truth."""
    explanation = (
        "Fractions of 95% intervals that cover the truth, in one-compartment oral data, every set simulated anew. In "
        "the band every parameter of a model stays with a chance of 95% where each interval covers 95% (binomial, "
        "Bonferroni); bold is outside. `below` and `above`: Louis' intervals that lie below and above the truth. SE / "
        "SD: the mean standard error over the standard deviation of the estimates."
    )
    return "\n\n".join(
        ["### Coverage of intervals", origin(results, name), explanation, *map(one_model, results["rows"])]
    )
