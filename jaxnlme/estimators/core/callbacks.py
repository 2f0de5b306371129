"""Callbacks of a fit: the record of an iteration that they receive, and the stages at which they are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxnlme.binding.bind import Binding
from jaxnlme.model.params import Params
from jaxnlme.numerics.devices import Processes


@dataclasses.dataclass(frozen=True)
class InnerStage:
    """State of an inner minimiser.

    **Fields:** `procedure`: "PNLS" (penalised nonlinear least squares: the search for the random effects), "LME" (the
    parameters of the linearised mixed model), "PLM" (the parameters of a likelihood approximation) or "none"; `state`:
    "init", "iter", "done" or "none"; `iteration`: from 0, NaN if there is none.
    """

    procedure: str = "none"
    state: str = "none"
    iteration: float = float("nan")


NO_INNER = InnerStage()


@dataclasses.dataclass(frozen=True)
class Iteration:
    """Record of one iteration, the argument of a callback.

    **Fields:** `iteration` (from 0); `evaluations` of the objective so far; `log_likelihood`; `expected_gain` of a
    further step (log-likelihood units); `seconds` since the start; `params`, also as `values` by name; `procedure`:
    "ALT" for the alternation of Lindstrom and Bates, "LAP" for the likelihood approximations, "GRADIENT" for steps of
    `jn.Gradient` (whose log-likelihood is an estimate by the batch, and gain unknown); `state`: "init", "iter"
    or "done"; `inner`: the inner minimiser, if the callback has `every_stage`.

    **Example:**

    ```python
    def watch(iteration):
        print(iteration.iteration, iteration.log_likelihood)


    jn.fit(model, data, "focei", callbacks=[watch])
    ```
    """

    iteration: int
    evaluations: int
    log_likelihood: float
    expected_gain: float
    seconds: float
    params: Params
    binding: Binding
    procedure: str = "LAP"
    state: str = "iter"
    inner: InnerStage = NO_INNER

    @property
    def values(self) -> dict[str, float]:
        """User-scale values by name."""
        return self.binding.values(self.params)


Callback = Callable[[Iteration], Any]


class Callbacks:
    """The callbacks of a fit.

    Callbacks with a true attribute `every_stage` are called at every stage: "init" before the first iteration, "iter"
    after each iteration and at each step of the inner minimisers, "done" at the end. Others are called once per
    iteration, and once at the start.

    **Arguments:** `callbacks`; `processes`, which all stop if a callback of one of them asks for it.
    """

    def __init__(self, callbacks: Sequence[Callback], processes: Processes):
        self.processes = processes
        self._per_iteration = [callback for callback in callbacks if not getattr(callback, "every_stage", False)]
        self._per_stage = [callback for callback in callbacks if getattr(callback, "every_stage", False)]
        # True if a callback of any process asks for inner stages: all processes must then compute the same steps.
        self.every_stage = processes.any(bool(self._per_stage))

    def notify(self, entry: Iteration) -> bool:
        """Call the callbacks that `entry` concerns; True if one of them, in any process, stops the fit."""
        is_iteration = entry.inner.procedure == "none" and entry.state != "done"
        callbacks = [*(self._per_iteration if is_iteration else []), *self._per_stage]
        stopped = self.processes.run_collectively(lambda: [bool(callback(entry)) for callback in callbacks])
        return self.processes.any(any(stopped))
