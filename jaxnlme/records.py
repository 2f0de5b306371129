"""A record of named values: how a model function reads parameters, predictors and group-level predictors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx

from jaxnlme.errors import near_matches

# Names that the classes below use themselves: an entry called like one of them could not be read as an attribute.
TAKEN = ("names", "values", "what", "keys", "text_columns")
TAKEN_IN_ROWS = (*TAKEN, "mask", "observed")


class Record(eqx.Module):
    """Named values readable as `record.name`, `record["name"]` and `record[0]`, in a fixed order.

    **Arguments:** `names`: the names, in order. `values`: one pytree per name (for phi scalars or (obs,) arrays, for x
    (obs,) arrays, for v scalars or nested records). `what`: the word for one entry in error messages.
    `text_columns`: names of text columns, which no model function can compute with.
    **Errors:** an unknown name raises AttributeError or KeyError with the near matches.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    values: tuple[Any, ...]
    what: str = eqx.field(static=True, default="entry")
    text_columns: tuple[str, ...] = eqx.field(static=True, default=(), kw_only=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("names", "values", "what", "text_columns"):
            raise AttributeError(name)
        try:
            return self.values[self.names.index(name)]
        except ValueError:
            raise AttributeError(self._unknown(name)) from None

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(self._unknown(key))
            return self.values[self.names.index(key)]
        return self.values[key]

    def _unknown(self, name: str) -> str:
        if name in self.text_columns:
            return (
                f"{name!r} is a text column: those serve covariate formulas and `by=` only; make a number of it (0 and "
                "1, say) for the model function."
            )
        return f"no {self.what} is called {name!r}; {near_matches(name, self.names)}"

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def keys(self) -> tuple[str, ...]:
        """The names, so that `dict(record)` and `**record` work."""
        return self.names


class Rows(Record):
    """The predictors of one group: a record of (obs,) columns with `mask` (obs,), true on real rows, and
    `observed` (obs,), true where the response was seen. Padded rows repeat the group's last row."""

    mask: Any = None
    observed: Any = None
