"""`fixed(value)`: a value that is held, in place of a starting value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx

from jaxnlme.arguments import real_number
from jaxnlme.errors import OptionError


class Fixed(eqx.Module):
    """A value that is not estimated; `fixed` makes it."""

    value: float = eqx.field(static=True)

    def __repr__(self) -> str:
        return f"jn.fixed({self.value:g})"


def fixed(value: float) -> Fixed:
    """A value that is held fixed, where a starting value is expected: `jn.Parameter("ka", 1.5, random=True,
    sd=jn.fixed(0.3))`, `jn.error.combined(a=jn.fixed(0.1))`.

    **Arguments:** `value`: a finite number, on the scale of the starting value.
    **Returns:** a Fixed.
    **Raises:** OptionError for anything else.

    **Example:**

    ```python
    jn.Parameter("ka", 1.5, "log", random=True, sd=jn.fixed(0.5))
    ```
    """
    number = real_number(value)
    if number is None:
        raise OptionError(f"jn.fixed takes one finite number, the value to hold; received {value!r}.")
    return Fixed(number)


def number_of(value: Any) -> Any:
    """The number in a Fixed; other values unchanged."""
    return value.value if isinstance(value, Fixed) else value


def check_fixed(value: Any) -> dict[str, float]:
    """The option `fixed`, values by reported name, as a dictionary of floats.

    **Raises:** OptionError where it is no dictionary of finite numbers.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(
            "fixed must be a dictionary from reported names to the values to hold, as in {'sd(ka)': 0.3, "
            f"'corr(ka, cl)': 0, 'a': 0.2}}; received {value!r}."
        )
    out = {}
    for name, entry in value.items():
        number = real_number(number_of(entry))
        if not isinstance(name, str) or number is None:
            raise OptionError(f"fixed: the value of {name!r} must be one finite number; received {entry!r}.")
        out[name] = number
    return out
