"""Options of `jn.models` that go by parameter, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.arguments import check_names, real_number
from jaxnlme.errors import OptionError, near_matches, shown


def by_parameter(title: str, option: str, value: Any, names: Collection[str]) -> Mapping[str, Any]:
    """An option that is a dictionary by parameter. **Raises:** OptionError for others and for unknown names."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        first = next(iter(names))
        raise OptionError(
            f"{title}: {option} must be a dictionary, such as {{{first!r}: ...}}; received {shown(value)}."
        )
    _known(title, option, value, names)
    return value


def _known(title: str, option: str, chosen: Any, names: Collection[str]) -> None:
    """**Raises:** OptionError for names that are no parameters."""
    for name in chosen:
        if name not in names:
            raise OptionError(
                f"{title}: {option} names {name!r}, no parameter of this curve; {near_matches(name, names)}"
            )


def chosen_parameters(title: str, option: str, value: Any, names: Collection[str]) -> list[str]:
    """Names of parameters. **Raises:** OptionError for others."""
    listed = check_names(f"{title}: {option}", value, "parameters")
    _known(title, option, listed, names)
    return listed


def random_by_parameter(title: str, value: Any, names: tuple[str, ...], levels: Sequence[str]) -> Mapping[str, Any]:
    """By parameter, the option `random` of `jn.Parameter`.

    **Arguments:** `value`: True, names of parameters or of effects such as "Vm|Occasion", or options by parameter;
    `levels`: names of the grouping levels of the data, empty without data.
    **Raises:** OptionError for unknown parameters and levels.
    """
    if isinstance(value, (bool, np.bool_)):
        return dict.fromkeys(names, bool(value))
    if isinstance(value, Mapping):
        return by_parameter(title, "random", value, names)
    by_name: dict[str, list[str | None]] = {}
    for effect in check_names(f"{title}: random", value, "parameters"):
        name, bar, level = effect.partition("|")
        if not bar and name in levels and name not in names:
            raise OptionError(
                f"{title}: random names {name!r}, a grouping level; name effects, such as random=[{names[0]!r}, "
                f"'{names[0]}|{levels[-1]}'], or levels by parameter, random={{{names[0]!r}: {list(levels)}}}."
            )
        _known(title, "random", [name], names)
        if bar and levels and level not in levels:
            raise OptionError(
                f"{title}: random names {effect!r}, and the data have no grouping level {level!r}; "
                f"{near_matches(level, levels)}"
            )
        by_name.setdefault(name, []).append(level if bar else levels[0] if levels else None)
    return {name: _levels(title, name, of_parameter) for name, of_parameter in by_name.items()}


def _levels(title: str, name: str, levels: list[str | None]) -> Any:
    """The option `random` of the parameter `name` from its levels; None among these: the outermost one, whose name is
    not known."""
    if levels == [None]:
        return True
    if None in levels:
        raise OptionError(
            f"{title}: without data the name of the outermost level is not known; give the levels of {name} by name, "
            f"random={{{name!r}: ['Subject', {next(level for level in levels if level)!r}]}}."
        )
    return list(dict.fromkeys(levels))


def start_value(title: str, name: str, value: Any) -> float:
    """A starting value. **Raises:** OptionError for what is no finite number."""
    number = real_number(value)
    if number is None:
        raise OptionError(f"{title}: starts must be finite numbers; received {shown(value)} for {name!r}.")
    return number
