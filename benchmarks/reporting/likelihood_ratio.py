"""The section of likelihood_ratio.json."""

from __future__ import annotations

from reporting.cells import Record, origin, table


def section(results: Record, name: str) -> str:
    """Fractions rejected under the null hypothesis."""
    explanation = (
        "40 subjects with 6 rows each and a random intercept, tested for a random slope that they do not have: "
        "fractions of simulated tables rejected at 5% by the mixture of chi-squares that belongs to a variance of "
        "zero, and by the chi-square with as many degrees of freedom as the slope adds parameters."
    )
    header = ["slope", "tables", "mixture", "chi-square", "statistics of zero"]
    body = [
        [
            row["slope"],
            str(row["sets"]),
            f"{row['rejected by the mixture']:.3f}",
            f"{row['rejected by the chi-square']:.3f}",
            f"{row['statistics of zero']:.2f}",
        ]
        for row in results["rows"]
    ]
    return "\n\n".join(
        ["### Likelihood ratio tests of a variance", origin(results, name), explanation, table(header, body)]
    )
