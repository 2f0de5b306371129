"""Progress of long work: one line that is rewritten, in terminals by tqdm, in notebooks by a display of their own.

A thread writes the line again while the work computes, so that it moves also while a single call of XLA compiles or
runs for minutes.
"""

from __future__ import annotations

import html
import math
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from jaxnlme.estimators.core.callbacks import Iteration
from jaxnlme.estimators.core.settings import RUN_SETTINGS


class ProgressLine:
    """A line on standard error that says what is being computed, and for how long already: rewritten about twice a
    second in a terminal or notebook; elsewhere, where it was asked for, a new line every second. A context: it ends the
    line.

    **Arguments:** `progress`: True shows the line always, False never, None in a terminal or notebook after two seconds
    of work; `name`: opens the line; `total`: number of jobs, if there are several; `timings`: a dictionary whose entry
    "trace" grows while JAX traces programs (`compile_clock`), from which the line knows that it compiles.
    """

    def __init__(
        self, progress: bool | None, name: str, total: int | None = None, timings: Mapping[str, float] | None = None
    ):
        self.name, self.total, self.timings = name, total, {} if timings is None else timings
        self.rewrite = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.wanted = self.rewrite if progress is None else progress
        self.delay = 0.0 if progress else RUN_SETTINGS.progress_delay
        self.began = time.perf_counter()
        self.done = 0
        self.trace: list[float] = []
        self._text = ""
        self._shown: float | None = None
        self._bar: Any = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.wanted:
            self._thread = threading.Thread(target=self._repeat, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def text(self) -> str:
        """The line, without the seconds."""
        if self._text:
            return f"{self.name}: {self._text}"
        if self.timings.get("trace", 0.0) > RUN_SETTINGS.noticed_tracing:
            about = f"about {RUN_SETTINGS.compile_seconds} s; the next fit starts at once"
            return f"{self.name}: compiling the model, {about}"
        return f"{self.name}: {'starting' if self.total is None else 'compiling and starting'}"

    def show(self, text: str, done: int = 0) -> None:
        """Say what is being computed from now on: `text`, after `done` jobs have ended."""
        self._text, self.done = text, done
        if self.wanted:
            self._write()

    def close(self) -> None:
        """End the line, if one was shown."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._shown is not None:
            self._write(last=True)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _repeat(self) -> None:
        while not self._end.wait(RUN_SETTINGS.progress_interval):
            self._write()

    def _write(self, last: bool = False) -> None:
        """Write the line, if one is due; the `last` one always."""
        interval = RUN_SETTINGS.progress_interval if self.rewrite else RUN_SETTINGS.interval_in_files
        with self._lock:
            seconds = time.perf_counter() - self.began
            recent = self._shown is not None and seconds - self._shown < 0.9 * interval
            if seconds < self.delay or (recent and not last):
                return
            self._shown = seconds
            if not self.rewrite:
                count = "" if self.total is None else f" {self.done} of {self.total}"
                print(f"{self.text}{count}, {seconds:.0f} s", file=sys.stderr, flush=True)
                return
            if self._bar is None:
                self._bar = _bar(self.total)
            if isinstance(self._bar, NotebookLine):
                self._bar.trace = self.trace
            if self.total is not None:
                self._bar.n = self.done
            self._bar.set_description_str(f"{self.text}, {seconds:.0f} s" if self.total is None else self.text)


class Progress(ProgressLine):
    """A ProgressLine that is a callback: it shows iteration and log-likelihood; arguments as of ProgressLine."""

    def __call__(self, iteration: Iteration) -> bool:
        """Show the `iteration`; never stops the fit."""
        if math.isfinite(iteration.log_likelihood):
            self.trace.append(iteration.log_likelihood)
        if iteration.procedure == "GRADIENT":
            self.show(f"step {iteration.iteration}, log-likelihood by the batch {iteration.log_likelihood:.1f}")
            return False
        text = f"iteration {iteration.iteration}, log-likelihood {iteration.log_likelihood:.4f}, "
        self.show(f"{text}expected gain {iteration.expected_gain:.0e}")
        return False


class NotebookLine:
    """The line in a notebook: text, a bar of the jobs that have ended, and the log-likelihood of the iterations so far
    as a curve. It leaves nothing behind: what came out is shown by the fit.

    **Arguments:** `total`: number of jobs, None for one. **Attributes:** `n`, jobs that have ended; `trace`, the
    log-likelihoods of the iterations.
    """

    def __init__(self, total: int | None):
        self.total, self.n = total, 0
        self.trace: list[float] = []
        self._handle: Any = None

    def set_description_str(self, text: str) -> None:
        """Show the `text`, in the place of the one before."""
        from IPython.display import HTML, display

        page = HTML(self._html(text))
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)

    def close(self) -> None:
        """Remove the line."""
        if self._handle is not None:
            from IPython.display import HTML

            self._handle.update(HTML(""))

    def _html(self, text: str) -> str:
        bar = ""
        if self.total is not None:
            bar = f" <progress value='{self.n}' max='{self.total}'></progress> {self.n} of {self.total}"
        return f"<div style='font-size:0.9em'>{html.escape(text)}{bar}<br>{trace_svg(self.trace)}</div>"


def trace_svg(values: Sequence[float]) -> str:
    """A curve of the log-likelihoods of the last iterations, as SVG; empty for fewer than two.

    The first ones are often far below the others: the curve begins where the values are within ten times the change of
    the last half.
    """
    values = list(values)[-RUN_SETTINGS.trace_iterations :]
    if len(values) < 2:
        return ""
    half = values[len(values) // 2 :]
    least = max(values) - 10.0 * max(max(half) - min(half), 1e-9)
    shown = [max(value, least) for value in values]
    low, high = min(shown), max(shown)
    width, height = 240, 48
    across, up = (width - 4) / (len(shown) - 1), (height - 4) / max(high - low, 1e-12)
    points = " ".join(f"{2 + k * across:.1f},{height - 2 - (v - low) * up:.1f}" for k, v in enumerate(shown))
    return (
        f"<svg width='{width}' height='{height}' role='img' aria-label='log-likelihood by iteration'>"
        f"<polyline points='{points}' fill='none' stroke='#0072b2' stroke-width='1.5'/></svg>"
    )


def _bar(total: int | None) -> Any:
    """A NotebookLine in a notebook, elsewhere a bar of tqdm, for `total` jobs, or only its text for None."""
    if "ipykernel" in sys.modules:
        return NotebookLine(total)
    from tqdm import tqdm as base

    # By itself tqdm writes nothing in terminals that do not say their size.
    size = shutil.get_terminal_size()
    target = {"file": sys.stderr, "ncols": size.columns - 1, "nrows": size.lines}
    # tqdm has a thread that looks after all bars; this line has its own.
    kind: Any = type("Bar", (base,), {"monitor_interval": 0})
    layout = {"bar_format": "{desc}"} if total is None else {}
    return kind(total=total, **target, **layout)
