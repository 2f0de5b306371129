"""The section of levels_cost.json."""

from __future__ import annotations

from reporting.cells import Record, origin, table

KEYS = ("groups", "rows", "model", "scale", "correlation", "of")


def section(results: Record, name: str) -> str:
    """Costs of levels and correlation, and of models without either against an earlier version."""
    explanation = (
        "One objective and gradient of FOCEI with warm modes, compiled; medians of interleaved repeats in one process. "
        "Occasions: 8 a subject against 4. Correlation: AR(1) and CAR(1) against independent residuals, in 100,000 "
        "rows. Baseline: models without levels and correlation against the version before these came, two processes "
        "that take turns; also tracing and compiling. Bold is above the limit."
    )
    limits = results["limits"]
    body = []
    for row in results["rows"]:
        limit = limits.get(row["case"])
        ratio = f"{row['cpu_ratio']:.2f}"
        body.append([
            row["case"],
            ", ".join(str(row[key]) for key in KEYS if key in row),
            f"{1e3 * row['cpu']:.2f}",
            f"{1e3 * row['cpu_reference']:.2f}",
            f"**{ratio}**" if limit is not None and row["cpu_ratio"] > limit else ratio,
            f"{row['wall_ratio']:.2f}",
            "" if limit is None else f"{limit:g}",
        ])  # fmt: skip
    header = ["case", "of", "CPU ms", "against, CPU ms", "ratio", "wall ratio", "limit"]
    return "\n\n".join(["### Cost of levels and correlation", origin(results, name), explanation, table(header, body)])
