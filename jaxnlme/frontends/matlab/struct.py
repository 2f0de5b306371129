"""A record like a MATLAB struct: `stats`, returned by nlmefit and nlmefitsa, and `status` of output functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxnlme.errors import near_matches
from jaxnlme.frontends.matlab.settings import MATLAB
from jaxnlme.results.display import Table, html_table, number, text_pairs


class Struct(Mapping):
    """Named fields in a fixed order, readable as `record.name` and `record["name"]`; `dict(record)` copies it.

    **Arguments:** `title`: the name of the record in messages; `fields`: name to value.
    **Raises:** AttributeError or KeyError with the near matches for an unknown name; AttributeError where one is set.
    """

    def __init__(self, title: str, fields: Mapping[str, Any]):
        self.__dict__["_title"] = title
        self.__dict__["_fields"] = dict(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(self._unknown(name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self._title} is a read-only record of results; change a copy, dict({self._title}).")

    def __getitem__(self, name: str) -> Any:
        if name not in self._fields:
            raise KeyError(self._unknown(name))
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields]

    def _unknown(self, name: str) -> str:
        return f"{self._title} has no field {name!r}; {near_matches(name, self._fields)}"

    def _pairs(self) -> list[tuple[str, str]]:
        return [(name, _on_one_line(value)) for name, value in self._fields.items()]

    def __repr__(self) -> str:
        return "\n".join([f"{self._title}:", *("  " + line for line in text_pairs(self._pairs()))])

    def _repr_html_(self) -> str:
        return html_table(Table(self._title, (), self._pairs()))


def _on_one_line(value: Any) -> str:
    """A field on one line: numbers with five digits, small arrays in full, the shape of others."""
    if isinstance(value, (bool, np.bool_, int, str)) or value is None:
        return str(value)
    if isinstance(value, (float, np.floating)):
        return number(float(value), MATLAB.digits_shown) or "nan"
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size <= MATLAB.entries_shown:
        return f"[{', '.join(number(entry, MATLAB.digits_shown) or 'nan' for entry in value)}]"
    if hasattr(value, "shape"):
        return f"{type(value).__name__} {value.shape}"
    if isinstance(value, Struct):
        return ", ".join(f"{name} {text}" for name, text in value._pairs())
    return repr(value)
