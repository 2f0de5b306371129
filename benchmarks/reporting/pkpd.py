"""The section of pkpd.json."""

from __future__ import annotations

from reporting.cells import Record, origin, show, table


def section(results: Record, name: str) -> str:
    """Seconds of closed forms for dose records beside hand-written ones, and of more doses beside fewer."""
    explanation = (
        "One objective with its gradient by FOCEI with warm modes, `jn.pkpd.compartments` (this) against a function "
        "written by hand (other): two compartments, 12 samples a subject. Growth: 40 doses (this) against 10 (other), "
        "both by `compartments`. Cold theophylline: a whole process with its fit. CPU seconds, medians of interleaved "
        "repeats; a ratio is the median ratio of pairs. First call: CPU seconds with tracing and compiling; the other "
        "of growth finds them done. Bold is above the limit."
    )
    header = [
        "case",
        "subjects",
        "this, CPU s",
        "other, CPU s",
        "ratio or difference",
        "limit",
        "first call",
        "other's",
    ]
    body = []
    for row in results["rows"]:
        title = " ".join(str(row[key]) for key in ("case", "of") if key in row)
        limit = results["limits"][row["case"]]
        value = row.get("cpu_ratio", row.get("cpu_more"))
        text = f"{value:.2f}" if "cpu_ratio" in row else f"{value:+.2f} s"
        body.append(
            [
                title,
                show(row.get("subjects"), 0),
                show(row["cpu"], 3),
                show(row["cpu_reference"], 3),
                text if value <= limit else f"**{text}**",
                f"{limit:g}",
                show(row.get("first_cpu"), 1),
                show(row.get("first_cpu_reference"), 1),
            ]
        )
    return "\n\n".join(["### Dose records in closed form", origin(results, name), explanation, table(header, body)])
