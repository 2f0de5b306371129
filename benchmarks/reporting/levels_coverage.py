"""The section of levels_coverage.json."""

from __future__ import annotations

import numpy as np

from reporting.cells import Record, origin, table

# Of 100 sets: 0.001 in each tail of the binomial distribution at 95%.
BAND = (0.86, 1.0)


def section(results: Record, name: str) -> str:
    """Coverage by parameter and method, and pooled."""
    methods = sorted({row["method"] for row in results["rows"]})
    explanation = (
        "Fractions of 95% intervals that cover the truth: 100 subjects with 4 occasions each, effects of subjects on "
        "clearance and volume, of occasions on clearance, AR(1) residuals with a proportional scale; every set "
        f"simulated anew. Bold is outside {BAND[0]:.2f} to {BAND[1]:.2f}. SE / SD: the mean standard error over the "
        "standard deviation of the estimates."
    )
    header, body = ["parameter"], [[name.replace("|", "\\|")] for name in [*results["truth"], "pooled"]]
    lines = []
    for method in methods:
        rows = [row for row in results["rows"] if row["method"] == method]
        header += [f"{method.upper()}: coverage", "bias / SD", "SE / SD"]
        hits = []
        for cells, (parameter, truth) in zip(body, results["truth"].items(), strict=False):
            estimates = np.array([row["estimates"][parameter] for row in rows])
            hit = np.array([row["lower"][parameter] <= truth <= row["upper"][parameter] for row in rows])
            hits.append(hit)
            spread = estimates.std(ddof=1)
            share = f"{hit.mean():.2f}"
            cells += [
                share if BAND[0] <= hit.mean() <= BAND[1] else f"**{share}**",
                f"{(estimates.mean() - truth) / spread:+.2f}",
                f"{np.nanmean([row['se'][parameter] for row in rows]) / spread:.2f}",
            ]
        body[-1] += [f"{np.mean(hits):.3f}", "", ""]
        seconds = np.median([row["seconds"]["cpu"] for row in rows])
        converged = sum(row["converged"] for row in rows)
        lines.append(f"{method.upper()}: {converged} of {len(rows)} converged, a median of {seconds:.1f} CPU s a fit.")
    return "\n\n".join(
        ["### Coverage with nested levels", origin(results, name), explanation, " ".join(lines), table(header, body)]
    )
