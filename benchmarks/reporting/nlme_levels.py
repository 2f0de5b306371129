"""The section of nlme_levels.json."""

from __future__ import annotations

from collections import Counter

from reporting.cells import Record, origin, table

# Residual of a fixed point that counts as found, and how far apart our two ends may lie, in standard errors: a step of
# the alternation leaves at most the larger part of the distance.
FIXED_POINT, SAME_END = 1e-5, 1e-4
# Residual of the reference's estimates up to which they are its fixed point, and the log-likelihood at them.
REFERENCE_RESIDUAL, LOG_LIKELIHOOD = 1e-3, 1e-5
# Distance from ours in standard errors that such a residual may leave.
DISTANCE = 1e-2
OUTCOMES = ("agree", "nlme short", "ours short")
INFINITE = float("inf")


def ours_holds(row: Record) -> bool:
    """True if ours is at a fixed point from both starts, and it is the same one."""
    residuals = [row["residual"], row["from_reference_residual"]]
    return (
        row["converged"]
        and row["from_reference_converged"]
        and all(residual is not None and residual <= FIXED_POINT for residual in residuals)
        and size(row["ends_apart"]) <= SAME_END
    )


def outcome(row: Record) -> str:
    """ "agree", "nlme short" or "ours short"."""
    if not ours_holds(row):
        return "ours short"
    if size(row["reference_residual"]) > REFERENCE_RESIDUAL:
        return "nlme short"
    if size(row["reference_apart"]) > DISTANCE:  # a variance that the likelihood rises from, held at zero
        return "nlme short" if row["log_likelihood"] > row["reference_log_likelihood"] else "ours short"
    return "agree" if size(row["at_its_effects"]) <= LOG_LIKELIHOOD else "ours short"


def size(value: float | None) -> float:
    return INFINITE if value is None else abs(value)


def reason(row: Record) -> str:
    """Why the reference is short, or that it is not trusted."""
    words = []
    if outcome(row) == "nlme short":
        if (row["program"], row["method"]) == ("nlme", "REML"):
            words.append("REML with Psi / sigma² by ML")
        elif size(row["reference_apart"]) > 1.0:
            words.append("another point, log L lower")
        else:
            words.append("stopped early")
    if row["not_trusted"]:
        words.append(f"not trusted: {row['not_trusted']}")
    if row["zero_sds"]:
        words.append(f"{', '.join(row['zero_sds'])} zero")
    return "; ".join(words)


def counts(rows: list[Record]) -> str:
    """The outcomes of the trusted fits, and of those that are not."""
    parts = []
    for label, trusted in (("", True), ("not trusted: ", False)):
        found = Counter(outcome(row) for row in rows if (not row["not_trusted"]) == trusted)
        if found:
            parts.append(label + ", ".join(f"{found[name]} {name}" for name in OUTCOMES))
    return "; ".join(parts)


def tables(rows: list[Record]) -> str:
    """One table a source."""
    header = [
        "fit", "program", "our residual", "ends apart", "log L at its values", "its residual", "its distance",
        "ours above", "outcome", "",
    ]  # fmt: skip
    parts = []
    for source, title in (("folder", "Reference folder"), ("correlated", "`correlated_nlme.json`")):
        chosen = [row for row in rows if row["source"] == source]
        body = [
            [
                row["name"].removesuffix("_alternation"),
                row["program"],
                power(max(size(row["residual"]), size(row["from_reference_residual"]))),
                power(size(row["ends_apart"])),
                f"{row['at_its_effects']:+.1e}",
                power(size(row["reference_residual"])),
                power(size(row["reference_apart"])),
                f"{row['log_likelihood'] - row['reference_log_likelihood']:+.1e}",
                outcome(row),
                reason(row),
            ]
            for row in chosen
        ]
        parts.append(f"{title}: {counts(chosen)}.\n\n{table(header, body)}")
    return "\n\n".join(parts)


def power(value: float) -> str:
    return "–" if value == INFINITE else f"{value:.0e}"


def section(results: Record, name: str) -> str:
    """LME and RELME beside fits with nested levels, variance functions and correlation."""
    explanation = (
        "Our fit from the reference's start and from its estimates. `our residual`: the most that a further "
        "alternation would move an entry, in standard errors, the larger of both ends. `ends apart`: the largest "
        "difference of the two ends in standard errors, over fixed effects, standard deviations, correlations and "
        "residual parameters. `log L at its values`: the log-likelihood of the model linearised at the reference's "
        "fixed and random effects, less what the reference reports. `its residual`, `its distance`: the residual of "
        "the reference's estimates, and their largest difference from ours, in standard errors. `ours above`: our "
        "log-likelihood less the reference's, each at its own linearisation; linear models (lme, gls) have only one. "
        f"agree: our residual is at most {FIXED_POINT:g} from both starts, the ends are at most {SAME_END:g} apart, "
        f"the residual of the reference is at most {REFERENCE_RESIDUAL:g}, its distance at most {DISTANCE:g}, and the "
        f"log-likelihood at its values its own within {LOG_LIKELIHOOD:g}. nlme short: ours holds, and the reference's "
        "residual or distance is larger. ours short: all else.\n\n"
        "`stopped early`: nlme ends where a step changes its parameters by 1e-5 of their size, or where a step of "
        "its least squares uses up its iterations. The wafer models start from standard deviations of 1% (reference "
        "folder) and 5% of the parameters: five voltages do not determine the frequency, and to which one a search "
        "leads depends on them. From the default, 30%, the model with a random frequency ends at 6.449 with a "
        "log-likelihood of 788.485; from nlme's estimates (662.746, two standard deviations at zero, from where the "
        "likelihood rises) at 766.441."
    )
    return "\n\n".join(["### Nested levels, variance functions and correlation: nlme", origin(results, name),
                        explanation, tables(results["rows"])])  # fmt: skip
