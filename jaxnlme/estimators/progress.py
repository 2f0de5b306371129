"""Progress of a fit: one line that is rewritten, in terminals and notebooks."""

from __future__ import annotations

import sys

from jaxnlme.estimators.marginal import Marginal
from jaxnlme.estimators.session import Callback, Iteration

PATIENCE = 2.0


def progress_callback(progress: bool | None, estimator: Marginal) -> list[Callback]:
    """The callback behind `progress`: always with True, never with False; with None in a terminal or notebook, once
    iterations (not compiling) have taken two seconds. At most two lines a second, each over the one before."""
    if progress is False or (progress is None and not (sys.stderr.isatty() or "ipykernel" in sys.modules)):
        return []
    name, rewrite = estimator.method.name, sys.stderr.isatty() or "ipykernel" in sys.modules
    start = "\r" if rewrite else ""
    began: list[float] = []  # seconds at the first iteration, and at the last line

    def show(iteration: Iteration) -> bool:
        began[:] = began or [iteration.seconds, -1.0]
        if (progress or iteration.seconds - began[0] > PATIENCE) and iteration.seconds - began[1] > 0.5:
            began[1] = iteration.seconds
            print(
                f"{start}{name}: iteration {iteration.iteration}, log-likelihood {iteration.log_likelihood:.4f}, "
                f"expected gain {iteration.expected_gain:.1e}, {iteration.seconds:.0f} s",
                end="" if rewrite else "\n",
                file=sys.stderr,
                flush=True,
            )
        return False

    return [show]
