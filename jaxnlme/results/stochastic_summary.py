"""Text of a stochastic fit: its run, its Monte Carlo errors, the agreement of its replicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.results.display import Table, number
from jaxnlme.results.settings import DISPLAY

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.stochastic import Sampling

# How the log-likelihood was computed.
INTEGRALS = {
    "is": "importance sampling around the conditional means",
    "gq": "Gauss-Hermite quadrature around the conditional means",
    "lin": "model linearised at the conditional means",
}
# Name of the kernel that draws independently; its acceptance is the fraction of effective draws.
EFFECTIVE_DRAWS = "effective draws"


def describe_run(sampling: Sampling) -> str:
    """Text: chains (or samples) per group, and the number of iterations of each phase."""
    independent = EFFECTIVE_DRAWS in sampling.kernels
    draws = f"{sampling.chains} {'samples kept' if independent else 'chains'} of each group"
    remaining = len(sampling.packed)
    counts = [("burn-in", sampling.burn_in)]
    counts += [(name, last - first + 1) for name, (first, last) in sampling.phases.items()]
    parts = []
    for name, count in counts:
        made = min(count, remaining)
        remaining -= made
        parts += [f"{made} {name}"] if made else []
    parts += [f"{remaining} after them"] if remaining else []
    return f"{draws}; iterations: {', '.join(parts) or 'none'}"


def describe_errors(sampling: Sampling, tolerance: float | None = None) -> str | None:
    """Text: the largest Monte Carlo error of an estimate as a fraction of its standard error, and the limit
    `tolerance`; None where Monte Carlo errors were not computed."""
    ratios = mc_error_ratios(sampling)
    if ratios is None or not np.isfinite(ratios.to_numpy()).any():
        return None
    limit = "" if tolerance is None else f"; limit {tolerance:g}"
    return f"{number(ratios.max(), 2)} of a standard error at most ({ratios.idxmax()}{limit})"


def mc_error_ratios(sampling: Sampling) -> pd.Series | None:
    """Monte Carlo standard error divided by standard error, by packed parameter; None where it was not computed."""
    errors = sampling.errors
    return None if errors is None else (errors["monte carlo se"] / errors["se"]).rename("mc error ratio")


def describe_replicates(sampling: Sampling) -> str | None:
    """Text: the replicates that reached the best maximum or converged, and their dispersion; None for a single one."""
    count = len(sampling.replicates)
    if count < 2:
        return None
    parts = [f"{count} in parallel, estimates of number {sampling.best}"]
    reached = sampling.reached
    if reached is not None:
        parts.append(f"{int(reached.sum())} reached the best maximum")
    parts.append(f"{sum(replicate.converged for replicate in sampling.replicates)} converged")
    if sampling.rhat is not None and np.isfinite(sampling.rhat.to_numpy()).all():
        parts.append(f"R-hat {sampling.rhat.max():.2f} at most")
    if sampling.spread_of_replicates is not None:
        ratio = sampling.spread_of_replicates / sampling.errors["se"]
        if np.isfinite(ratio.to_numpy()).any():
            parts.append(f"SD between them {number(ratio.max(), 2)} standard errors at most ({ratio.idxmax()})")
    return "; ".join(parts)


def tables(sampling: Sampling) -> list[Table]:
    """Tables of Monte Carlo errors by parameter, of kernels, and of the replicates where there are several."""
    out = []
    errors = sampling.errors
    if errors is not None:
        several = "rhat" in errors
        header = ("", "estimate", "se", "MC se", "MC se / se", "last step / se", "Geweke z")
        header += ("R-hat", "SD between") if several else ()
        rows = []
        for name, row in errors.iterrows():
            cells = (row["estimate"], row["se"], row["monte carlo se"])
            ratios = (row["monte carlo se"] / row["se"], row["last step"] / row["se"])
            texts = [number(v) for v in cells] + [number(v, 2) for v in ratios] + [f"{row['geweke z']:.1f}"]
            texts += [number(row["rhat"], 3), number(row["spread"], 2)] if several else []
            rows.append((str(name), *texts))
        out.append(Table("Monte Carlo errors, on the unconstrained scales", header, rows))
    if len(sampling.accept) and len(sampling.acceptance):
        rows = [(str(name), number(100.0 * fraction, 3)) for name, fraction in sampling.acceptance.items()]
        out.append(Table("Kernels", ("", "% accepted" if EFFECTIVE_DRAWS not in sampling.kernels else "%"), rows))
    return out + _replicates(sampling)


def _replicates(sampling: Sampling) -> list[Table]:
    """Tables of the values of the replicates, a column each; none for a single replicate."""
    runs = list(enumerate(sampling.replicates))
    out = []
    for first in range(0, len(runs) if len(runs) > 1 else 0, DISPLAY.replicate_columns):
        part = runs[first : first + DISPLAY.replicate_columns]
        header = ("", *(f"{k}{' (best)' if k == sampling.best else ''}" for k, _ in part))
        likelihoods = [replicate.log_likelihood for _, replicate in part]
        rows = [
            ("converged", *("yes" if replicate.converged else "no" for _, replicate in part)),
            ("log-likelihood", *("" if np.isnan(value) else f"{value:.3f}" for value in likelihoods)),
        ]
        rows += [(name, *(number(replicate.values[name]) for _, replicate in part)) for name in part[0][1].values]
        out.append(Table("Replicates, values on their natural scales", header, rows))
    return out
