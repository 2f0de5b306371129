"""Name-value arguments and the Options record of the MATLAB doors: MATLAB's spelling, all else refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxnlme.errors import OptionError, near_matches
from jaxnlme.precision import x64
from jaxnlme.results.simulate import as_key

# What `jn.fit` takes as its tolerance where a step is expected to gain less, in log-likelihood units: TolFun is about
# what is left to gain, of which a quasi-Newton step sees the last part early, so a share of it; never so loose that
# fits could not be told converged.
SHARE_OF_TOLFUN, LOOSEST, TIGHTEST = 1e-4, 1e-6, 1e-13
# What `jn.SAEM` takes as its tolerance, the Monte Carlo error as a share of the standard error: so many TolX, which
# makes 0.05 of the 1e-4 of MATLAB's scripts, within bounds: a tenth of an error costs a hundred times the iterations.
SHARES_OF_TOLX, LEAST_SHARE, LARGEST_SHARE = 500.0, 0.01, 0.2


def name_values(given: Mapping[str, Any], known: Mapping[str, Any], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """The arguments `given` with the defaults of `known`.

    **Arguments:** `elsewhere`: names that MATLAB has, and this door not, to a sentence that says why.
    **Errors:** OptionError for an unknown name, with the near matches; spelling counts.
    """
    out = dict(known)
    for name, value in given.items():
        if name in elsewhere:
            raise OptionError(elsewhere[name])
        if name not in known:
            raise OptionError(f"{name!r} is not a name-value argument; {near_matches(name, known)}")
        out[name] = known[name] if _empty(value) and not name.endswith("ParamsSelect") else value
    return out


def _empty(value: Any) -> bool:
    """MATLAB's [] stands for the default."""
    return value is None or (isinstance(value, (list, tuple)) and len(value) == 0)


def choice(name: str, value: Any, words: Sequence[str]) -> str:
    """One of `words`, in any case. **Errors:** OptionError naming them."""
    for word in words:
        if isinstance(value, str) and value.lower() == word.lower():
            return word
    raise OptionError(
        f"{name} must be one of {', '.join(map(repr, words))}; received {value!r}"
        + (f", {near_matches(value, words)}" if isinstance(value, str) else ".")
    )


@dataclasses.dataclass(frozen=True)
class Statset:
    """The Options of a door, checked: `TolX`, `TolFun`, `MaxIter`, `Display` ("off", "final", "iter"), `FunValCheck`
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
        wanted = min(SHARE_OF_TOLFUN * self.TolFun, self.TolX**2)
        return float(np.clip(wanted, TIGHTEST, LOOSEST))


@dataclasses.dataclass(frozen=True)
class StatsetSA:
    """The Options of nlmefitsa, checked: as `Statset`, but that `OutputFcn` is None where nothing was said of it, which
    stands for the live plot; `MaxIter` (None: the default of `jn.SAEM`) bounds the iterations, extensions included;
    `Streams` is a seed or a JAX key."""

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
        return float(np.clip(SHARES_OF_TOLX * self.TolX, LEAST_SHARE, LARGEST_SHARE))


Options = TypeVar("Options", Statset, StatsetSA)


def statset(given: Any, kind: type[Options] = Statset, elsewhere: Mapping[str, str] | None = None) -> Options:
    """The checked Options from a dictionary or a record with the field names of statset.

    **Arguments:** `kind`: the fields of the door; `elsewhere`: fields that MATLAB has, and this door not, to a sentence
    that says why.
    **Errors:** OptionError naming the field, what was expected and what was received.
    """
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    if isinstance(given, Mapping):
        fields = dict(given)
    elif hasattr(given, "__dict__") and not callable(given):
        fields = dict(vars(given))
    elif hasattr(given, "_asdict"):
        fields = given._asdict()
    else:
        raise OptionError(f"Options must be a dictionary or a record of fields; received {type(given).__name__}.")
    known = [field.name for field in dataclasses.fields(kind)]
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if elsewhere and name in elsewhere and not _empty(value):
            raise OptionError(elsewhere[name])
        if name not in known and not (elsewhere and name in elsewhere):
            raise OptionError(f"Options has no field {name!r}; {near_matches(str(name), known)}")
        if name == "OutputFcn" and _empty(value):
            out[name] = ()  # said, and empty: silence, also where the default is a plot
        elif not _empty(value):
            out[name] = _READERS[name](f"Options.{name}", value)
    return kind(**out)


def positive(name: str, value: Any) -> float:
    """A positive number."""
    found = _number(value)
    if not found > 0:
        raise OptionError(f"{name} must be a positive number; received {value!r}.")
    return found


def count(name: str, value: Any, least: int = 0) -> int:
    """A whole number, at least `least`."""
    found = _number(value)
    if not (found >= least and found.is_integer()):
        raise OptionError(f"{name} must be a whole number, at least {least}; received {value!r}.")
    return int(found)


def _number(value: Any) -> float:
    """A finite number as a float; NaN for anything else."""
    array = np.asarray(value)
    fine = array.dtype.kind in "iuf" and array.ndim == 0 and np.isfinite(array)
    return float(array) if fine else float("nan")


def _steps(name: str, value: Any) -> Any:
    steps = np.asarray(value)
    if steps.dtype.kind not in "iuf" or steps.ndim > 1 or not (steps > 0).all():
        raise OptionError(f"{name} must be a positive number, or one for each parameter; received {value!r}.")
    return value


def _stream(name: str, value: Any) -> Any:
    try:
        with x64():
            as_key(value)
    except OptionError:
        raise OptionError(f"{name} must be a whole number, the seed, or one JAX key; received {value!r}.") from None
    return value


def on_off(name: str, value: Any) -> bool:
    """'on' or 'off', or a truth value, as a truth value."""
    return bool(value) if isinstance(value, (bool, np.bool_)) else choice(name, value, ("on", "off")) == "on"


def _functions(name: str, value: Any) -> tuple[Callable, ...]:
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    for entry in listed:
        if not callable(entry):
            raise OptionError(
                f"{name} must be a function (beta, status, state) -> stop, or a list of them; received {entry!r}."
            )
    return tuple(listed)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "TolX": positive,
    "TolFun": positive,
    "MaxIter": count,
    "Display": lambda name, value: choice(name, value, ("off", "final", "iter")),
    "FunValCheck": on_off,
    "OutputFcn": _functions,
    "DerivStep": _steps,
    "Streams": _stream,
}
