"""Name-value arguments and the Options record of nlmefit and nlmefitsa: MATLAB's spelling, all else refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.frontends.matlab.settings import MATLAB
from jaxnlme.precision import x64
from jaxnlme.results.simulate import as_key


def name_values(
    arguments: Mapping[str, Any], defaults: Mapping[str, Any], refused: Mapping[str, str]
) -> dict[str, Any]:
    """The name-value `arguments`, completed by `defaults`.

    **Arguments:** `arguments`: as the user gave them; `defaults`: of all names that are accepted; `refused`: names that
    MATLAB has and this function does not accept, to a sentence with the reason.
    **Raises:** OptionError for an unknown name, with the near matches; case matters.
    """
    out = dict(defaults)
    for name, value in arguments.items():
        if name in refused:
            raise OptionError(refused[name])
        if name not in defaults:
            raise OptionError(f"{name!r} is not a name-value argument; {near_matches(name, defaults)}")
        out[name] = defaults[name] if _empty(value) and not name.endswith("ParamsSelect") else value
    return out


def with_pairs(pairs: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Name-value arguments from MATLAB's `pairs` (name, value, name, value, ...) and from `keywords`.

    **Raises:** OptionError where a name is not text, has no value, or is given twice.
    """
    out: dict[str, Any] = {}
    for position in range(0, len(pairs), 2):
        name = pairs[position]
        if not isinstance(name, str):
            raise OptionError(
                f"after beta0 come pairs of a name and a value; received {shown(name)} where a name is expected."
            )
        if position + 1 == len(pairs):
            raise OptionError(f"the name-value argument {name!r} has no value.")
        if name in out or name in keywords:
            raise OptionError(f"the name-value argument {name!r} is given twice.")
        out[name] = pairs[position + 1]
    return out | dict(keywords)


def _empty(value: Any) -> bool:
    """True for None and MATLAB's [], which mean the default."""
    return value is None or (isinstance(value, (list, tuple)) and len(value) == 0)


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """`value` as one of `options`, whatever its case.  **Raises:** OptionError naming the options."""
    for option in options:
        if isinstance(value, str) and value.lower() == option.lower():
            return option
    raise OptionError(
        f"{name} must be one of {', '.join(map(repr, options))}; received {shown(value)}"
        + (f", {near_matches(value, options)}" if isinstance(value, str) else ".")
    )


@dataclasses.dataclass(frozen=True)
class Statset:
    """The checked Options of nlmefit: `TolX`, `TolFun`, `MaxIter`, `Display` ("off", "final", "iter"), `FunValCheck`
    (bool), `OutputFcn` (a tuple of functions), `DerivStep` (checked and without effect: derivatives are exact)."""

    TolX: float = 1e-4
    TolFun: float = 1e-4
    MaxIter: int = 200
    Display: str = "off"
    FunValCheck: bool = True
    OutputFcn: tuple[Callable, ...] = ()
    DerivStep: Any = float(np.finfo(float).eps) ** (1 / 3)

    @property
    def tolerance(self) -> float:
        """The `tolerance` of `jn.fit`: min(1e-4 TolFun, TolX^2), within 1e-13 and 1e-6. A step of TolX standard errors
        gains about TolX^2 / 2 log-likelihood units; both defaults give 1e-8, the default of `jn.fit`."""
        requested = min(MATLAB.tolerance_per_tolfun * self.TolFun, self.TolX**2)
        return float(np.clip(requested, MATLAB.smallest_tolerance, MATLAB.largest_tolerance))


@dataclasses.dataclass(frozen=True)
class StatsetSA:
    """The checked Options of nlmefitsa: as `Statset`, except that `OutputFcn` is None where it was not given, which
    means the live plot; `MaxIter` (None: the default of `jn.SAEM`) bounds the iterations, extensions included;
    `Streams` is a seed or a JAX key; there is no TolFun."""

    TolX: float = 1e-4
    MaxIter: int | None = None
    Display: str = "off"
    FunValCheck: bool = True
    OutputFcn: tuple[Callable, ...] | None = None
    DerivStep: Any = float(np.finfo(float).eps) ** (1 / 3)
    Streams: Any = 0

    @property
    def tolerance(self) -> float:
        """The `tolerance` of `jn.SAEM`: 500 TolX, within 0.01 and 0.2."""
        return float(np.clip(MATLAB.mc_ratio_per_tolx * self.TolX, MATLAB.smallest_mc_ratio, MATLAB.largest_mc_ratio))


Options = TypeVar("Options", Statset, StatsetSA)


def statset(record: Any, kind: type[Options] = Statset, refused: Mapping[str, str] | None = None) -> Options:
    """Check Options given as a dictionary or a record with the field names of statset.

    **Arguments:** `record`: Options as given; `kind`: Statset for nlmefit, StatsetSA for nlmefitsa; `refused`: fields
    that MATLAB has and this function does not accept, to a sentence with the reason.
    **Returns:** a `kind`.
    **Raises:** OptionError naming the field, what was expected and what was received.
    """
    if record is None:
        return kind()
    if isinstance(record, kind):
        return record
    if isinstance(record, Mapping):
        fields = dict(record)
    elif hasattr(record, "__dict__") and not callable(record):
        fields = dict(vars(record))
    elif hasattr(record, "_asdict"):
        fields = record._asdict()
    else:
        raise OptionError(f"Options must be a dictionary or a record of fields; received {type(record).__name__}.")
    names = [field.name for field in dataclasses.fields(kind)]
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if refused and name in refused and not _empty(value):
            raise OptionError(refused[name])
        if name not in names and not (refused and name in refused):
            raise OptionError(f"Options has no field {name!r}; {near_matches(str(name), names)}")
        if name == "OutputFcn" and _empty(value):
            out[name] = ()  # given and empty: no function, also where the default is a plot
        elif not _empty(value):
            out[name] = _READERS[name](f"Options.{name}", value)
    return kind(**out)


def positive(name: str, value: Any) -> float:
    """`value` as a positive float.  **Raises:** OptionError naming the argument."""
    number = _number(value)
    if not number > 0:
        raise OptionError(f"{name} must be a positive number; received {shown(value)}.")
    return number


def count(name: str, value: Any, least: int = 0) -> int:
    """`value` as a whole number, at least `least`.  **Raises:** OptionError naming the argument."""
    number = _number(value)
    if not (number >= least and number.is_integer()):
        raise OptionError(f"{name} must be a whole number, at least {least}; received {shown(value)}.")
    return int(number)


def _number(value: Any) -> float:
    """A finite number as a float; NaN for anything else."""
    array = np.asarray(value)
    is_number = array.dtype.kind in "iuf" and array.ndim == 0 and np.isfinite(array)
    return float(array) if is_number else float("nan")


def _derivative_steps(name: str, value: Any) -> Any:
    steps = np.asarray(value)
    if steps.dtype.kind not in "iuf" or steps.ndim > 1 or not (steps > 0).all():
        raise OptionError(f"{name} must be a positive number, or one for each parameter; received {shown(value)}.")
    return value


def _seed(name: str, value: Any) -> Any:
    try:
        with x64():
            as_key(value)
    except OptionError:
        raise OptionError(
            f"{name} must be a whole number, the seed, or one JAX key; received {shown(value)}."
        ) from None
    return value


def on_off(name: str, value: Any) -> bool:
    """'on', 'off' or a truth value as a truth value.  **Raises:** OptionError naming the argument."""
    return bool(value) if isinstance(value, (bool, np.bool_)) else choice(name, value, ("on", "off")) == "on"


def _functions(name: str, value: Any) -> tuple[Callable, ...]:
    functions = list(value) if isinstance(value, (list, tuple)) else [value]
    for entry in functions:
        if not callable(entry):
            raise OptionError(
                f"{name} must be a function (beta, status, state) -> stop, or a list of them; received {shown(entry)}."
            )
    return tuple(functions)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "TolX": positive,
    "TolFun": positive,
    "MaxIter": count,
    "Display": lambda name, value: choice(name, value, ("off", "final", "iter")),
    "FunValCheck": on_off,
    "OutputFcn": _functions,
    "DerivStep": _derivative_steps,
    "Streams": _seed,
}
