"""What callbacks are told of a fit, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxnlme.binding.bind import Binding
from jaxnlme.model.params import Params
from jaxnlme.numerics.devices import Processes


@dataclasses.dataclass(frozen=True)
class Inner:
    """Where an inner minimiser stands: `procedure` "PNLS" (penalised nonlinear least squares: the search of the random
    effects), "LME" (the linearised mixed model's parameters), "PLM" (the rung's parameters) or "none"; `state` "init",
    "iter", "done" or "none"; `iteration` from 0, NaN where there is none."""

    procedure: str = "none"
    state: str = "none"
    iteration: float = float("nan")


NO_INNER = Inner()


@dataclasses.dataclass(frozen=True)
class Iteration:
    """What a callback is told: `iteration` (from 0), `evaluations` of the objective so far, `log_likelihood`,
    `expected_gain` of going on (log-likelihood units), `seconds` since the start, `params`, and `values` by name;
    `procedure`, "ALT" for the alternating estimators and "LAP" for the rungs; `state`, "init", "iter" or "done";
    `inner`, the inner minimiser, where the callback has `every_stage`."""

    iteration: int
    evaluations: int
    log_likelihood: float
    expected_gain: float
    seconds: float
    params: Params
    binding: Binding
    procedure: str = "LAP"
    state: str = "iter"
    inner: Inner = NO_INNER

    @property
    def values(self) -> dict[str, float]:
        """User-scale values by name."""
        return self.binding.values(self.params)


Callback = Callable[[Iteration], Any]


class Callbacks:
    """The callbacks of a fit. Those with a true attribute `every_stage` are told of every stage: "init" before the
    first iteration, "iter" after each one and at each step of the inner minimisers, "done" at the end. Others are told
    once an iteration, the start included."""

    def __init__(self, callbacks: Sequence[Callback], processes: Processes):
        self.processes = processes
        self._each = [callback for callback in callbacks if not getattr(callback, "every_stage", False)]
        self._every = [callback for callback in callbacks if getattr(callback, "every_stage", False)]
        # Whether inner stages are asked for anywhere: every process must descend where one does.
        self.every_stage = processes.any(bool(self._every))

    def notify(self, entry: Iteration) -> bool:
        """Tells whom it concerns; True where one of them stops the fit."""
        ordinary = entry.inner.procedure == "none" and entry.state != "done"
        told = [*(self._each if ordinary else []), *self._every]
        stopped = self.processes.together(lambda: [bool(callback(entry)) for callback in told])
        return self.processes.any(any(stopped))
