"""Progress of a fit: one line that is rewritten, in terminals and notebooks."""

from __future__ import annotations

import sys

from jaxnlme.estimators.session import Iteration

PATIENCE = 2.0


class Progress:
    """A callback that shows where a fit stands, at most twice a second, each line over the one before.

    **Arguments:** `progress`: True shows always, False never, None in a terminal or notebook once iterations (not
    compiling) have taken two seconds; `name` of the method.
    """

    def __init__(self, progress: bool | None, name: str):
        self.rewrite = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.patience = float("inf") if progress is False or (progress is None and not self.rewrite) else PATIENCE
        self.patience = 0.0 if progress else self.patience
        self.name = name
        self.began: float | None = None
        self.shown: float | None = None

    def __call__(self, iteration: Iteration) -> bool:
        """Shows a line where one is due; never stops the fit."""
        self.began = iteration.seconds if self.began is None else self.began
        due = self.shown is None or iteration.seconds - self.shown > 0.5
        if due and iteration.seconds - self.began >= self.patience:
            self.shown = iteration.seconds
            line = f"{self.name}: iteration {iteration.iteration}, log-likelihood {iteration.log_likelihood:.4f}, "
            line += f"gain to come {iteration.expected_gain:.0e}, {iteration.seconds:.0f} s"
            start, end = ("\r", "") if self.rewrite else ("", "\n")
            print(start + line, end=end, file=sys.stderr, flush=True)
        return False

    def close(self) -> None:
        """Ends the line, where one was shown."""
        if self.rewrite and self.shown is not None:
            print(file=sys.stderr, flush=True)
