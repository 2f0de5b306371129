"""Records of named values, from which a model function reads parameters, predictors and group-level predictors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx

from jaxnlme.errors import ModelError, UnknownNameError, near_matches, some

# Attributes of the classes below: an entry of the same name could not be read as `record.name`.
RESERVED_NAMES = ("names", "values", "entry_kind", "keys", "text_columns")
RESERVED_IN_ROWS = (*RESERVED_NAMES, "mask", "observed", "units", "endpoints", "facts")


class Record(eqx.Module):
    """Named values in a fixed order, read as `record.name`, `record["name"]` or `record[0]`.

    **Arguments:** `names`: the names, in order. `values`: one pytree per name (phi: scalars or (obs,) arrays; x: (obs,)
    arrays; v: scalars or nested records). `entry_kind`: the noun for an entry in error messages ("parameter").
    `text_columns`: names of text columns of the data, which a model function cannot read.
    **Raises:** UnknownNameError (an AttributeError and a KeyError) for an unknown name, with names of similar spelling.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    values: tuple[Any, ...]
    entry_kind: str = eqx.field(static=True, default="entry")
    text_columns: tuple[str, ...] = eqx.field(static=True, default=(), kw_only=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("names", "values", "entry_kind", "text_columns"):
            raise AttributeError(name)
        try:
            return self.values[self.names.index(name)]
        except ValueError:
            raise UnknownNameError(self._unknown(name), name) from None

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise UnknownNameError(self._unknown(key), key)
            return self.values[self.names.index(key)]
        if isinstance(key, (tuple, list)):
            example = self.names[0] if self.names else "name"
            raise ModelError(
                f"a record of named values ({self.entry_kind}: {some(self.names)}) is not a matrix and has no entry "
                f"[{', '.join(':' if isinstance(k, slice) else str(k) for k in key)}]: write .{example}, [{example!r}] "
                "or [0] for one of them; jnp.stack(list(record), axis=-1) makes an array of them."
            )
        return self.values[key]

    def _unknown(self, name: str) -> str:
        if name in self.text_columns:
            return (
                f"{name!r} is a text column, or one of True and False, which only covariate formulas and `by=` can "
                "use; code it as numbers (for example 0 and 1) for the model function."
            )
        if name == "on" and self.entry_kind == "parameter":
            return "phi.on(...) is there for data with nested levels: GroupedData.from_frame(..., group=[...])."
        return f"no {self.entry_kind} is called {name!r}; {near_matches(name, self.names)}"

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def keys(self) -> tuple[str, ...]:
        """The names, so that `dict(record)` and `**record` work."""
        return self.names


class Rows(Record):
    """Predictors of one group, a record of (obs,) columns, with `mask` (obs,), true on real rows, and `observed`
    (obs,), true where the response was observed. Padded rows repeat the group's last row; columns that
    rise or fall from row to row in every group, such as times, go on by small steps.

    With nested levels `units` is a Record of the unit (obs,) of each row, a whole number from 0 on, by level:
    `x.units.Occasion`. In a model with a residual model for each endpoint `endpoints` (obs,) is the number of the
    endpoint of each row, from 0 on in the order of the model."""

    mask: Any = None
    observed: Any = None
    units: Any = None
    endpoints: Any = None


class Events(Rows):
    """Doses and resets of one group, a record of (k,) columns with `mask` (k,): `v.events` of a structural model.

    **Fields:** as of Rows, and `facts`: what is known of all events of the data (EventFacts of `jaxnlme.data.events`).
    """

    facts: Any = eqx.field(static=True, default=None)
