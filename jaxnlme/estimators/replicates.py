"""How the replicates of a stochastic fit compare, and the table of Monte Carlo errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.estimators.settling import Settled
from jaxnlme.results.sampling import reached

if TYPE_CHECKING:
    import pandas as pd

# A share of a standard error that is within the noise of a batch, whatever its draws say.
NEGLIGIBLE = 0.1
# Replicates with a larger R-hat are at different maxima: Brooks and Gelman (1998), Journal of Computational and
# Graphical Statistics 7, 434-455.
APART = 1.2


def errors_table(judged: Sequence[Settled], best: int, packed: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Monte Carlo errors by packed parameter of the replicates at `packed` (replicates, packed)."""
    import pandas as pd

    one = judged[best]
    table = pd.DataFrame(
        {
            "estimate": packed[best][one.active],
            "se": one.se,
            "monte carlo se": one.monte_carlo_se,
            "last step": one.step,
            "drift": one.drift,
        },
        index=pd.Index([names[k] for k in one.active], name="parameter"),
    )
    if len(judged) > 1:
        table["rhat"] = _scale(judged, one)
        table["spread"] = packed[:, one.active].std(axis=0, ddof=1)
    return table


def potential_scale(estimates: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Potential scale reduction (active,) of what batches of several runs take the maximum for (replicates, batches,
    active): one where runs differ by no more than their noise, or by a small part of the standard errors `se`
    (active,), which is as far as a last Newton step may be off.

    **Source:** Gelman and Rubin (1992), Statistical Science 7, 457-472."""
    n = estimates.shape[1]
    within = estimates.var(axis=1, ddof=1).mean(axis=0) + (NEGLIGIBLE * se) ** 2
    between = estimates.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(all="ignore"):
        return np.sqrt((n - 1) / n + between / within)


def _scale(judged: Sequence[Settled], best: Settled) -> np.ndarray:
    """`potential_scale` of the replicates that have an information; NaN where the best has none, or no other."""
    regular = [one.estimates for one in judged if one.regular]
    if not best.regular or len(regular) < 2:
        return np.full(len(best.active), np.nan)
    return potential_scale(np.stack(regular), best.se)


def disagreement(
    judged: Sequence[Settled], values: np.ndarray, errors: np.ndarray, best: int, names: Sequence[str]
) -> list[str]:
    """A sentence where the best of several replicates may not be the best there is: it reached its maximum alone, or,
    where no log-likelihood tells which is best, they ended apart.

    **Arguments:** log-likelihoods `values` (replicates,) with their Monte Carlo `errors`; `names` (active,)."""
    if len(judged) < 2:
        return []
    if np.isfinite(values).any():
        if reached(values, errors, best).sum() > 1:
            return []
        others = np.delete(values, best)
        others = others[np.isfinite(others)]
        ended = f"with log-likelihoods of {others.max():.2f} and less" if len(others) else "without a log-likelihood"
        return [
            f"Of {len(judged)} replicates one alone reached this maximum; the others ended {ended}. There may be "
            "better ones: start elsewhere, or run more."
        ]
    scale = _scale(judged, judged[best])
    if not (scale > APART).any():
        return []
    worst = int(np.nanargmax(scale))
    return [
        f"The {len(judged)} replicates ended apart (R-hat of {names[worst]} is {scale[worst]:.3g}, limit {APART:g}), "
        "and without log-likelihoods nothing tells which is best: choose another likelihood than 'none'."
    ]
