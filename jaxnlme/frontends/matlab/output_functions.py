"""Output functions in MATLAB's form, stop = outfun(beta, status, state), as callbacks of a fit."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.core.callbacks import Iteration
from jaxnlme.frontends.matlab.outputs import mean_square, parametrized
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.model.params import Params


def status_of(entry: Iteration, parametrization: str) -> Struct:
    """The `status` of an output function: `procedure` "ALT", "LAP" or "SAEM", `iteration` from 0 (burn-in before it,
    negative), `inner` (`procedure`, `state`, `iteration`), `fval` (log-likelihood; NaN under SAEM), `Psi` (R, R),
    `theta` (its parameters, see `parametrized`), `mse`; under SAEM `replicate`, the one that is told of, the first.
    """
    psi = psi_of(entry.binding.density, np.asarray(entry.params.covariance))
    mse = mean_square(entry.binding, entry.params)
    inner = {name: getattr(entry.inner, name) for name in ("procedure", "state", "iteration")}
    return Struct(
        "status",
        {
            "procedure": entry.procedure,
            "iteration": entry.iteration,
            "inner": Struct("status.inner", inner),
            "fval": entry.log_likelihood,
            "Psi": psi,
            "theta": parametrized(psi, mse, parametrization),
            "mse": mse,
        }
        | ({"replicate": 0} if entry.procedure == "SAEM" else {}),
    )


class OutputFunctions:
    """Output functions as one callback of `jn.fit`: each is called at every stage with beta (F,), status and state
    ("init", "iter", "done"), and one that returns a true value stops the fit.

    Where a door makes several fits in a row, the stages are those of one: a later "init" is left out, iterations count
    on, and "done" is told by `close`, which the door calls however the fits end.
    """

    every_stage = True

    def __init__(self, functions: Sequence[Callable], parametrization: str):
        self.functions = tuple(functions)
        self.parametrization = parametrization
        self.last: Iteration | None = None
        self._offset = 0

    def __call__(self, entry: Iteration) -> bool:
        """Tells the functions; True where one of them stops the fit."""
        again = entry.state == "init" and self.last is not None
        if again and self.last is not None:
            self._offset = self.last.iteration
        entry = dataclasses.replace(entry, iteration=entry.iteration + self._offset)
        self.last = entry
        return False if again or entry.state == "done" else self._tell(entry, entry.state)

    def ends_at(self, params: Params) -> None:
        """Says where the fit ended, if that is not where it was told of last."""
        if self.last is not None:
            self.last = dataclasses.replace(self.last, params=params)

    def close(self) -> bool:
        """Tells "done", at the last point; True where a function answers with KeyboardInterrupt, which ends a fit but
        does not lose it."""
        if self.last is None:
            return False
        interrupted = False
        for fn in self.functions:
            try:
                self._tell(self.last, "done", (fn,))
            except KeyboardInterrupt:
                interrupted = True
        return interrupted

    def _tell(self, entry: Iteration, state: str, functions: Sequence[Callable] | None = None) -> bool:
        beta = np.array(entry.params.beta, float)
        functions = self.functions if functions is None else functions
        # All of them are called: one that stops the fit must not keep a plot from its last point.
        return any([_stops(fn(beta.copy(), status_of(entry, self.parametrization), state)) for fn in functions])


def _stops(answer: Any) -> bool:
    return False if answer is None else bool(np.all(answer))


class Display:
    """The callback behind Options.Display = 'iter': a line an iteration on standard output."""

    def __init__(self) -> None:
        self._headed = False

    def __call__(self, entry: Iteration) -> bool:
        """Prints the line; never stops the fit."""
        if not self._headed:
            print(f"{'iteration':>10} {'log-likelihood':>16} {'gain to come':>14} {'seconds':>9}")
            self._headed = True
        gain = f"{entry.expected_gain:.1e}" if np.isfinite(entry.expected_gain) else ""
        print(f"{entry.iteration:>10} {entry.log_likelihood:>16.6f} {gain:>14} {entry.seconds:>9.1f}")
        sys.stdout.flush()
        return False


class ValuesDisplay:
    """The callback behind Options.Display = 'iter' where the likelihood is not known: a line of values an iteration."""

    MOST = 8

    def __init__(self) -> None:
        self._headed = False

    def __call__(self, entry: Iteration) -> bool:
        """Prints the line; never stops the fit."""
        values = entry.values
        rest = " ..." * (len(values) > self.MOST)
        if not self._headed:
            print(f"{'iteration':>10} {'seconds':>9}" + "".join(f" {n:>14}" for n in [*values][: self.MOST]) + rest)
            self._headed = True
        shown = "".join(f" {value:>14.6g}" for value in [*values.values()][: self.MOST])
        print(f"{entry.iteration:>10} {entry.seconds:>9.1f}{shown}{rest}")
        sys.stdout.flush()
        return False
