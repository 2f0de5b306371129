"""Output functions in MATLAB's form, stop = outfun(beta, status, state), as callbacks of `jn.fit`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.core.callbacks import Iteration
from jaxnlme.frontends.matlab.outputs import mean_square, parametrized
from jaxnlme.frontends.matlab.settings import MATLAB
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.model.params import Params


def status_of(entry: Iteration, parametrization: str) -> Struct:
    """The `status` passed to an output function: `procedure` "ALT", "LAP" or "SAEM", `iteration` from 0 (negative
    during burn-in), `inner` (`procedure`, `state`, `iteration`), `fval` (log-likelihood; NaN under SAEM), `Psi` (R, R),
    `theta` (its parameters, see `parametrized`), `mse`; under SAEM `replicate`, always the first, 0.

    **Arguments:** `entry`: the iteration as `jn.fit` reports it; `parametrization`: "logm" or "chol".
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

    Where nlmefit makes two fits in a row, the functions are called as for a single one: the second "init" is left out,
    the iteration count continues, and the calls with "done" are made by `close`, to be called however the fits end.

    **Arguments:** `functions`: output functions; `parametrization`: "logm" or "chol", of `status.theta`.
    """

    every_stage = True

    def __init__(self, functions: Sequence[Callable], parametrization: str):
        self.functions = tuple(functions)
        self.parametrization = parametrization
        self.last: Iteration | None = None
        self._offset = 0

    def __call__(self, entry: Iteration) -> bool:
        """Call the functions with `entry`; True if one of them stops the fit."""
        later_start = entry.state == "init" and self.last is not None
        if later_start and self.last is not None:
            self._offset = self.last.iteration
        entry = dataclasses.replace(entry, iteration=entry.iteration + self._offset)
        self.last = entry
        return False if later_start or entry.state == "done" else self._call_functions(entry, entry.state)

    def set_final_params(self, params: Params) -> None:
        """Set the parameters that `close` passes to the functions, if they differ from those of the last iteration."""
        if self.last is not None:
            self.last = dataclasses.replace(self.last, params=params)

    def close(self) -> bool:
        """Call the functions with "done" and the last parameters; True if one raises KeyboardInterrupt, which marks the
        fit as interrupted but does not discard it."""
        if self.last is None:
            return False
        interrupted = False
        for fn in self.functions:
            try:
                self._call_functions(self.last, "done", (fn,))
            except KeyboardInterrupt:
                interrupted = True
        return interrupted

    def _call_functions(self, entry: Iteration, state: str, functions: Sequence[Callable] | None = None) -> bool:
        beta = np.array(entry.params.beta, float)
        functions = self.functions if functions is None else functions
        # All functions are called, also after one that stops the fit: a plot then shows the last point, too.
        return any([_asks_to_stop(fn(beta.copy(), status_of(entry, self.parametrization), state)) for fn in functions])


def _asks_to_stop(returned: Any) -> bool:
    return False if returned is None else bool(np.all(returned))


class Display:
    """The callback for Options.Display = 'iter' of nlmefit: one line per iteration on standard output."""

    def __init__(self) -> None:
        self._header_printed = False

    def __call__(self, entry: Iteration) -> bool:
        """Print the line; False, it never stops the fit."""
        if not self._header_printed:
            print(f"{'iteration':>10} {'log-likelihood':>16} {'gain to come':>14} {'seconds':>9}")
            self._header_printed = True
        gain = f"{entry.expected_gain:.1e}" if np.isfinite(entry.expected_gain) else ""
        print(f"{entry.iteration:>10} {entry.log_likelihood:>16.6f} {gain:>14} {entry.seconds:>9.1f}")
        sys.stdout.flush()
        return False


class ValuesDisplay:
    """The callback for Options.Display = 'iter' of nlmefitsa: parameter values, one line per iteration, because the
    likelihood is not computed."""

    def __init__(self) -> None:
        self._header_printed = False

    def __call__(self, entry: Iteration) -> bool:
        """Print the line; False, it never stops the fit."""
        values = entry.values
        ellipsis = " ..." * (len(values) > MATLAB.values_shown)
        if not self._header_printed:
            names = "".join(f" {name:>14}" for name in [*values][: MATLAB.values_shown])
            print(f"{'iteration':>10} {'seconds':>9}{names}{ellipsis}")
            self._header_printed = True
        columns = "".join(f" {value:>14.6g}" for value in [*values.values()][: MATLAB.values_shown])
        print(f"{entry.iteration:>10} {entry.seconds:>9.1f}{columns}{ellipsis}")
        sys.stdout.flush()
        return False
