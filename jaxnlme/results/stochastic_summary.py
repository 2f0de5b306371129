"""A stochastic fit in words: how it ran, how surely its estimates are known, whether its replicates agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.results.display import Table, number

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.stochastic import Sampling

INTEGRALS = {
    "is": "importance sampling around the conditional means",
    "gq": "Gauss-Hermite quadrature around the conditional means",
    "lin": "model linearised at the conditional means",
}
# The kernel that draws independently, whose share is that of effective draws.
EFFECTIVE = "effective draws"
# Replicates that a table has room for.
COLUMNS = 6


def run_in_words(sampling: Sampling) -> str:
    """Chains (or samples) of each group, and the iterations of each phase that were made."""
    independent = EFFECTIVE in sampling.kernels
    many = f"{sampling.chains} {'samples kept' if independent else 'chains'} of each group"
    left = len(sampling.packed)
    counts = [("burn-in", sampling.burn_in)]
    counts += [(name, last - first + 1) for name, (first, last) in sampling.phases.items()]
    parts = []
    for name, count in counts:
        made = min(count, left)
        left -= made
        parts += [f"{made} {name}"] if made else []
    parts += [f"{left} after them"] if left else []
    return f"{many}; iterations: {', '.join(parts) or 'none'}"


def errors_in_words(sampling: Sampling, tolerance: float | None = None) -> str | None:
    """The largest Monte Carlo error of an estimate as a share of its standard error, and the limit; None where the run
    did not come to that."""
    shares = monte_carlo_shares(sampling)
    if shares is None or not np.isfinite(shares.to_numpy()).any():
        return None
    limit = "" if tolerance is None else f"; limit {tolerance:g}"
    return f"{number(shares.max(), 2)} of a standard error at most ({shares.idxmax()}{limit})"


def monte_carlo_shares(sampling: Sampling) -> pd.Series | None:
    """Monte Carlo errors of the estimates in their standard errors, by packed parameter."""
    errors = sampling.errors
    return None if errors is None else (errors["monte carlo se"] / errors["se"]).rename("share")


def replicates_in_words(sampling: Sampling) -> str | None:
    """How many replicates reached the best maximum, and how far apart they ended; None for a single one."""
    count = len(sampling.replicates)
    if count < 2:
        return None
    parts = [f"{count} side by side, the estimates are number {sampling.best}'s"]
    reached = sampling.reached
    if reached is not None:
        parts.append(f"{int(reached.sum())} reached the best maximum")
    parts.append(f"{sum(one.converged for one in sampling.replicates)} converged")
    if sampling.rhat is not None and np.isfinite(sampling.rhat.to_numpy()).all():
        parts.append(f"R-hat {sampling.rhat.max():.2f} at most")
    if sampling.spread_of_replicates is not None:
        apart = sampling.spread_of_replicates / sampling.errors["se"]
        if np.isfinite(apart.to_numpy()).any():
            parts.append(f"SD between them {number(apart.max(), 2)} standard errors at most ({apart.idxmax()})")
    return "; ".join(parts)


def tables(sampling: Sampling) -> list[Table]:
    """Monte Carlo errors by parameter, kernels, and the replicates where there are several."""
    out = []
    errors = sampling.errors
    if errors is not None:
        several = "rhat" in errors
        header = ("", "estimate", "se", "MC se", "MC se / se", "last step / se", "drift")
        header += ("R-hat", "SD between") if several else ()
        rows = []
        for name, row in errors.iterrows():
            cells = (row["estimate"], row["se"], row["monte carlo se"])
            shares = (row["monte carlo se"] / row["se"], row["last step"] / row["se"])
            own = [number(v) for v in cells] + [number(v, 2) for v in shares] + [f"{row['drift']:.1f}"]
            own += [number(row["rhat"], 3), number(row["spread"], 2)] if several else []
            rows.append((str(name), *own))
        out.append(Table("Monte Carlo errors, on the unconstrained scales", header, rows))
    if len(sampling.accept) and len(sampling.acceptance):
        rows = [(str(name), number(100.0 * share, 3)) for name, share in sampling.acceptance.items()]
        out.append(Table("Kernels", ("", "% accepted" if EFFECTIVE not in sampling.kernels else "%"), rows))
    return out + _replicates(sampling)


def _replicates(sampling: Sampling) -> list[Table]:
    """The replicates' values side by side, a column each."""
    runs = list(enumerate(sampling.replicates))
    out = []
    for first in range(0, len(runs) if len(runs) > 1 else 0, COLUMNS):
        part = runs[first : first + COLUMNS]
        header = ("", *(f"{k}{' (best)' if k == sampling.best else ''}" for k, _ in part))
        likelihoods = [one.log_likelihood for _, one in part]
        rows = [
            ("converged", *("yes" if one.converged else "no" for _, one in part)),
            ("log-likelihood", *("" if np.isnan(value) else f"{value:.3f}" for value in likelihoods)),
        ]
        rows += [(name, *(number(one.values[name]) for _, one in part)) for name in part[0][1].values]
        out.append(Table("Replicates, values on their natural scales", header, rows))
    return out
