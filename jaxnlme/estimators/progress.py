"""Progress of a fit: one line that is rewritten, in terminals and notebooks."""

from __future__ import annotations

import sys

from jaxnlme.estimators.marginal import Marginal
from jaxnlme.estimators.session import Callback, Iteration

PATIENCE = 2.0


def progress_callback(progress: bool | None, estimator: Marginal) -> list[Callback]:
    """The callback behind `progress`: always with True, never with False; with None in a terminal or notebook, once a
    fit has taken two seconds."""
    if progress is False or (progress is None and not (sys.stderr.isatty() or "ipykernel" in sys.modules)):
        return []
    name = estimator.method.name

    def show(iteration: Iteration) -> bool:
        if progress or iteration.seconds > PATIENCE:
            print(
                f"\r{name}: iteration {iteration.iteration}, log-likelihood {iteration.log_likelihood:.4f}, expected "
                f"gain {iteration.expected_gain:.1e}, {iteration.seconds:.0f} s",
                end="" if sys.stderr.isatty() else "\n",
                file=sys.stderr,
                flush=True,
            )
        return False

    return [show]
