"""Progress of long work: one line that is rewritten, in terminals and notebooks."""

from __future__ import annotations

import sys
import time

from jaxnlme.estimators.core.callbacks import Iteration
from jaxnlme.estimators.core.settings import RUN_SETTINGS


class ProgressLine:
    """A line on standard error that is overwritten, at most twice a second.

    **Arguments:** `progress`: True shows the line always, False never, None in a terminal or notebook after two seconds
    of work.
    """

    def __init__(self, progress: bool | None):
        self.rewrite = sys.stderr.isatty() or "ipykernel" in sys.modules
        wanted = self.rewrite if progress is None else progress
        self.delay = (0.0 if progress else RUN_SETTINGS.progress_delay) if wanted else float("inf")
        self.last_shown: float | None = None

    def show(self, text: str, seconds: float, last: bool = False) -> None:
        """Show `text`, `seconds` after the work began, if the last line is old enough; the `last` one always."""
        recent = self.last_shown is not None and seconds - self.last_shown < RUN_SETTINGS.progress_interval
        if seconds < self.delay or (recent and not last):
            return
        self.last_shown = seconds
        start, end = ("\r", "") if self.rewrite else ("", "\n")
        print(start + text, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line, if one was shown."""
        if self.rewrite and self.last_shown is not None:
            print(file=sys.stderr, flush=True)


class Progress:
    """A callback that shows the iteration and log-likelihood of a fit; the delay counts from its first iteration, after
    compilation.

    **Arguments:** `progress` as in `fit`; `name` of the method.
    """

    def __init__(self, progress: bool | None, name: str):
        self.name = name
        self.began: float | None = None
        self._line = ProgressLine(progress)

    def __call__(self, iteration: Iteration) -> bool:
        """Show a line if one is due; never stops the fit."""
        self.began = iteration.seconds if self.began is None else self.began
        text = f"{self.name}: iteration {iteration.iteration}, log-likelihood {iteration.log_likelihood:.4f}, "
        text += f"expected gain {iteration.expected_gain:.0e}, {iteration.seconds:.0f} s"
        self._line.show(text, iteration.seconds - self.began)
        return False

    def close(self) -> None:
        """End the line, if one was shown."""
        self._line.close()


class CountLine:
    """A progress line with the number of jobs, of `total`, that have ended; `progress` and `name` as for `Progress`."""

    def __init__(self, progress: bool | None, name: str, total: int):
        self.name, self.total = name, total
        self.began = time.perf_counter()
        self._line = ProgressLine(progress)

    def show(self, done: int) -> None:
        """Show the number `done` if a line is due."""
        seconds = time.perf_counter() - self.began
        self._line.show(f"{self.name}: {done} of {self.total}, {seconds:.0f} s", seconds, done == self.total)

    def close(self) -> None:
        """End the line, if one was shown."""
        self._line.close()
