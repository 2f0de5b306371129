"""Status of a fit, and of each of its groups."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import Status
from jaxnlme.results.display import StatusSentences

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FitStatus(StatusSentences):
    """Status of a fit.

    **Fields:** `sentences`, first that it converged or not; `code` and `evaluations` (groups,), a Status and the cost
    of the last mode search of each group; `labels` (groups,); `left_out`, pairs of the label of a group left out at the
    user's request and the reason; `variance`, `ess` (groups,), Monte Carlo variance and effective number of draws of
    each log-likelihood.
    """

    sentences: tuple[str, ...]
    labels: np.ndarray
    code: np.ndarray
    evaluations: np.ndarray
    left_out: tuple[tuple[Any, str], ...] = ()
    variance: np.ndarray | None = None
    ess: np.ndarray | None = None

    @property
    def groups(self) -> pd.DataFrame:
        """A row per group: status, sentence, evaluations of the mode search; where the likelihood is drawn, its Monte
        Carlo standard error and the effective number of draws."""
        import pandas as pd

        rows = [
            (label, Status(int(c)).name, Status(int(c)).sentence, int(e))
            for label, c, e in zip(self.labels, self.code, self.evaluations, strict=True)
        ]
        rows += [(label, Status.left_out.name, reason, 0) for label, reason in self.left_out]
        table = pd.DataFrame(rows, columns=["group", "status", "sentence", "evaluations"]).set_index("group")
        if self.variance is not None and self.ess is not None and np.isfinite(self.ess).any():
            nothing = np.full(len(self.left_out), np.nan)
            table["monte carlo se"] = np.concatenate([np.sqrt(self.variance), nothing])
            table["ess"] = np.concatenate([self.ess, nothing])
        return table
