"""Progress of long work: one line that is rewritten, in terminals and notebooks."""

from __future__ import annotations

import sys
import time

from jaxnlme.estimators.core.callbacks import Iteration

PATIENCE, APART = 2.0, 0.5


class ProgressLine:
    """A line on standard error, at most twice a second, each over the one before.

    **Arguments:** `progress`: True shows always, False never, None in a terminal or notebook once the work has taken
    two seconds.
    """

    def __init__(self, progress: bool | None):
        self.rewrite = sys.stderr.isatty() or "ipykernel" in sys.modules
        wanted = self.rewrite if progress is None else progress
        self.patience = (0.0 if progress else PATIENCE) if wanted else float("inf")
        self.shown: float | None = None

    def show(self, text: str, seconds: float, last: bool = False) -> None:
        """Shows `text` where a line is due, `seconds` after the work began; the `last` one always."""
        if seconds < self.patience or (self.shown is not None and seconds - self.shown < APART and not last):
            return
        self.shown = seconds
        start, end = ("\r", "") if self.rewrite else ("", "\n")
        print(start + text, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line, where one was shown."""
        if self.rewrite and self.shown is not None:
            print(file=sys.stderr, flush=True)


class Progress:
    """A callback that shows where a fit stands; patience counts from its first iteration, after compiling.

    **Arguments:** `progress` as `fit` takes it; `name` of the method.
    """

    def __init__(self, progress: bool | None, name: str):
        self.name = name
        self.began: float | None = None
        self._line = ProgressLine(progress)

    def __call__(self, iteration: Iteration) -> bool:
        """Shows a line where one is due; never stops the fit."""
        self.began = iteration.seconds if self.began is None else self.began
        text = f"{self.name}: iteration {iteration.iteration}, log-likelihood {iteration.log_likelihood:.4f}, "
        text += f"gain to come {iteration.expected_gain:.0e}, {iteration.seconds:.0f} s"
        self._line.show(text, iteration.seconds - self.began)
        return False

    def close(self) -> None:
        """Ends the line, where one was shown."""
        self._line.close()


class CountLine:
    """Shows how many of `total` jobs have ended."""

    def __init__(self, progress: bool | None, name: str, total: int):
        self.name, self.total = name, total
        self.began = time.perf_counter()
        self._line = ProgressLine(progress)

    def show(self, done: int) -> None:
        """Shows a line where one is due."""
        seconds = time.perf_counter() - self.began
        self._line.show(f"{self.name}: {done} of {self.total}, {seconds:.0f} s", seconds, done == self.total)

    def close(self) -> None:
        """Ends the line, where one was shown."""
        self._line.close()
