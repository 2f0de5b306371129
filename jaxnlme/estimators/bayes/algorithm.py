"""The course of a run of NUTS: warm-up in windows, then draws, block by block, until they are complete, a callback
stops it, or Ctrl-C does; the draws so far are kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from jaxnlme.estimators.bayes.run import FAST, SLOW, ChainRun, StepRecord
from jaxnlme.estimators.bayes.settings import RUN


@dataclasses.dataclass
class RunOutcome:
    """The end of a run: `interrupted` by Ctrl-C, `stopped` by a callback; `warmed_up`: the warm-up was complete."""

    interrupted: bool = False
    stopped: bool = False
    warmed_up: bool = False


def run_algorithm(
    run: ChainRun, show: Callable[..., None], notify: Callable[[int, StepRecord], bool], timings: dict[str, float]
) -> RunOutcome:
    """Run the chains to their end.

    **Arguments:** `show(text)`: progress; `notify(steps, record)`: called after each block with the number of steps so
    far, true stops; `timings`: gets the seconds of "warmup" and "draws".
    """
    from blackjax.adaptation.window_adaptation import build_schedule

    estimator, outcome = run.estimator, RunOutcome()
    schedule = [(SLOW if stage else FAST, bool(end)) for stage, end in build_schedule(estimator.warmup)]
    try:
        began = time.perf_counter()
        for first in range(0, estimator.warmup, RUN.block):
            show(f"warm-up {first} of {estimator.warmup}")
            part = schedule[first : first + RUN.block]
            if notify(first + len(part), run.warm_up(part)):
                outcome.stopped = True
                return outcome
        run.end_warm_up()
        outcome.warmed_up = True
        timings["warmup"] = time.perf_counter() - began
        began, divergent = time.perf_counter(), 0
        for first in range(0, estimator.draws, RUN.block):
            with_divergent = f", {divergent} divergent" if divergent else ""
            show(f"draw {first} of {estimator.draws} in {estimator.chains} chains{with_divergent}")
            n = min(RUN.block, estimator.draws - first)
            record = run.draw(n)
            timings["draws"] = time.perf_counter() - began
            divergent += int(np.sum(record.divergent))
            if notify(estimator.warmup + first + n, record):
                outcome.stopped = True
                break
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome
