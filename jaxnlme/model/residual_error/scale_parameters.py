"""Parameters of the named residual models, from starting values and values to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxnlme.arguments import real_number
from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.model.fixed import Fixed, check_fixed, number_of
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.settings import MODEL

# What a named residual model holds fixed: a value (if it has one parameter), or values by name.
Fix = float | Mapping[str, float] | None


def scale_parameters(
    positive: Mapping[str, float | Fixed | None],
    exponent: float | Fixed | None = None,
    fix_exponent: bool = False,
    fix: Fix = None,
):
    """ErrorParameter objects of the positive parameters and of the exponent "c", if there is one.

    **Raises:** OptionError for values in `fix` that are none of these parameters.
    """
    starts = dict(positive) | ({} if exponent is None else {"c": exponent})
    held = {name: start.value for name, start in starts.items() if isinstance(start, Fixed)}
    for name, value in _fix_by_name(fix, list(starts)).items():
        if starts[name] is not None and (name != "c" or isinstance(starts[name], Fixed)):
            raise OptionError(f"{name} has a value and one in fix=; give it in one of them.")
        held[name] = value
    defaults = {name: MODEL.error_start for name in positive} | {"b": MODEL.proportional_error_start}
    entries = []
    for name, start in positive.items():
        if name in held:
            entries.append(_held(name, held[name]))
        else:
            value = defaults[name] if start is None else start
            entries.append(ErrorParameter(name, value, "log", automatic=start is None))
    if exponent is not None:
        entries.append(ErrorParameter("c", held.get("c", exponent), "identity", fix_exponent or "c" in held))
    return tuple(entries)


def custom_parameters(parameters: Any, fix: Fix) -> tuple[ErrorParameter, ...]:
    """ErrorParameter objects of a scale function of the user.

    **Raises:** OptionError for `parameters` of another type, and for `fix` beside a list of them.
    """
    if isinstance(parameters, Mapping):
        only_fixed = {name: None for name in (fix if isinstance(fix, Mapping) else ()) if name not in parameters}
        return scale_parameters({**parameters, **only_fixed}, fix=fix)
    if isinstance(parameters, (list, tuple)) and all(isinstance(entry, ErrorParameter) for entry in parameters):
        if fix is not None:
            raise OptionError("fix= goes with a dictionary of parameters; a jn.ErrorParameter has fix=True.")
        return tuple(parameters)
    raise OptionError(
        "parameters must be a dictionary from the names of the scale's parameters to starting values, such as "
        f"{{'a': 0.1}}, or a list of jn.ErrorParameter objects; received {shown(parameters)}."
    )


def _held(name: str, value: float) -> ErrorParameter:
    """A positive parameter that is held at `value`, or at zero."""
    if value < 0:
        raise OptionError(f"error parameter {name!r} cannot be held at {value:g}, which is negative.")
    return held_parameter(ErrorParameter(name, MODEL.error_start, "log"), value)


def held_parameter(parameter: ErrorParameter, value: float) -> ErrorParameter:
    """The parameter of a residual model fixed at `value`. A value of zero at the end of its range is allowed."""
    scale = "identity" if value == 0 == parameter.transform.domain[0] else parameter.transform
    return ErrorParameter(parameter.name, value, scale, fix=True)


def _fix_by_name(fix: Fix, names: Sequence[str]) -> dict[str, float]:
    """The option `fix` as a dictionary.  **Raises:** OptionError for anything else, and for names not among
    `names`."""
    if fix is None:
        return {}
    if not isinstance(fix, Mapping):
        number = real_number(number_of(fix))
        if number is None or len(names) != 1:
            raise OptionError(
                f"fix must be {'the value to hold' if len(names) == 1 else 'a dictionary of values to hold'}, as in "
                f"fix={'0.2' if len(names) == 1 else f'{{{names[0]!r}: 0.2}}'}; received {fix!r}."
            )
        return {names[0]: number}
    for name in fix:
        if name not in names:
            raise OptionError(f"fix={dict(fix)!r}: {name!r} is no parameter of this model; {near_matches(name, names)}")
    return check_fixed(fix)
