"""Records and tables as JSON and plain arrays, and back, without running any code that a file names.

Plain JSON values stand for themselves. What JSON lacks is a dictionary with one key that starts with "$": "$tuple",
"$float" (nan and infinities), "$dict" (keys that are no strings), "$array" (the name of an array), "$cells" (an array
of objects, cell by cell), "$table", "$column", "$index" (pandas), "$plain" (dates, times and the like, see
`plain_values`; "$time" in earlier files), "$record" (a class of `RECORDS`, by name, with its fields) and "$stored" (the
number of an object that only `trust_code=True` brings back).
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.data._limits import Limits
from jaxnlme.data._nested import NestedLevel
from jaxnlme.data.events.facts import EventFacts
from jaxnlme.data.events.records import EventRecords
from jaxnlme.data.nonmem.reader import NonmemReader
from jaxnlme.estimators.bayes.method import NUTS, Pathfinder
from jaxnlme.estimators.em.imp import IMP
from jaxnlme.estimators.em.saem import SAEM, StochasticMethod
from jaxnlme.estimators.gradient.method import Gradient
from jaxnlme.estimators.lindstrom_bates.method import LindstromBates
from jaxnlme.estimators.marginal.method import REML, MaximumLikelihood
from jaxnlme.fitting.plain_values import decode_index, decode_plain, encode_index, encode_plain
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.integrals import GaussHermite, Gaussian, ImportanceIntegral
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.results.criteria import Criteria
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.inference import Information
from jaxnlme.results.stochastic import Replicate
from jaxnlme.results.training import TrainingRecord
from jaxnlme.sampling.metropolis import Moves

if TYPE_CHECKING:
    import pandas as pd

# Classes that a file may name; each holds numbers, names and other records, and is made without calling its __init__.
RECORDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Criteria, EventFacts, EventRecords, FitStatus, GaussHermite, Gaussian, Gradient, IMP,
        ImportanceIntegral, Information, LikelihoodApproximation, Limits, LindstromBates, Linearised, MaximumLikelihood,
        ModeSearch, Moves, NUTS, NestedLevel, NonmemReader, Pathfinder, REML, Replicate, SAEM, StochasticMethod,
        TrainingRecord,
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NotLoaded:
    """Stands for an object of the user's own that a file holds as code, which was not loaded; `description` of it."""

    description: str

    def __repr__(self) -> str:
        return f"<not loaded: {self.description}; jn.load(path, trust_code=True) loads it>"


class Encoder:
    """Turns values into JSON; collects `arrays` by name, and `objects` that are stored as code."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.objects: list[Any] = []

    def encode(self, value: Any, place: str) -> Any:
        """`value` as JSON; arrays inside are called `place`, "place/field", ..."""
        if value is None or (isinstance(value, (bool, str, int)) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": str(float(value))}
        plain = encode_plain(value)
        if plain is not None:
            return plain
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            return self._array(np.asarray(value), value, place)
        if isinstance(value, (tuple, list)):
            entries = [self.encode(entry, f"{place}/{k}") for k, entry in enumerate(value)]
            return {"$tuple": entries} if isinstance(value, tuple) else entries
        if isinstance(value, Mapping):
            return self._mapping(value, place)
        if RECORDS.get(type(value).__name__) is type(value):
            names = [field.name for field in dataclasses.fields(RECORDS[type(value).__name__])]
            fields = {name: self.encode(getattr(value, name), f"{place}/{name}") for name in names}
            return {"$record": type(value).__name__, "fields": fields}
        return self._pandas(value, place)

    def store(self, value: Any, description: str) -> Any:
        """`value` as an object that only `trust_code=True` brings back."""
        self.objects.append(value)
        return {"$stored": len(self.objects) - 1, "description": description}

    def _array(self, array: np.ndarray, value: Any, place: str) -> Any:
        if array.dtype.hasobject:
            cells = [self.encode(cell, f"{place}/{k}") for k, cell in enumerate(array.reshape(-1).tolist())]
            return {"$cells": cells, "shape": list(array.shape)}
        if isinstance(value, np.generic) and array.dtype.kind in "biufU":
            return self.encode(value.item(), place)
        self.arrays[place] = array
        return {"$array": place}

    def _mapping(self, value: Mapping[Any, Any], place: str) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: self.encode(entry, f"{place}/{key}") for key, entry in value.items()}
        pairs = [
            [self.encode(key, f"{place}/{k}/key"), self.encode(entry, f"{place}/{k}")]
            for k, (key, entry) in enumerate(value.items())
        ]
        return {"$dict": pairs}

    def _pandas(self, value: Any, place: str) -> Any:
        import pandas as pd

        if isinstance(value, pd.DataFrame):
            columns = [self.encode(value.iloc[:, k].to_numpy(), f"{place}/{k}") for k in range(value.shape[1])]
            index, header = self.encode(value.index, f"{place}/index"), self.encode(value.columns, f"{place}/columns")
            return {"$table": columns, "index": index, "columns": header}
        if isinstance(value, pd.Series):
            index, name = self.encode(value.index, f"{place}/index"), self.encode(value.name, f"{place}/name")
            return {"$column": self.encode(value.to_numpy(), f"{place}/values"), "index": index, "name": name}
        if isinstance(value, pd.RangeIndex):
            return {"$index": "range", "values": [value.start, value.stop, value.step], "name": value.name}
        if isinstance(value, pd.MultiIndex):
            rows = [self.encode(level, f"{place}/{k}") for k, level in enumerate(_levels(value))]
            return {"$index": "multi", "values": rows, "names": self.encode(list(value.names), f"{place}/names")}
        if type(value) in (pd.Index, pd.DatetimeIndex) and getattr(value, "tz", None) is None:
            values = self.encode(value.to_numpy(), f"{place}/values")
            return {"$index": "plain", "values": values, "name": self.encode(value.name, f"{place}/name")}
        if isinstance(value, pd.Index):
            name = self.encode(value.name, f"{place}/name")
            whole = encode_index(value)
            if whole is not None:
                return whole | {"name": name}
            cells = self.encode(value.to_numpy(dtype=object), f"{place}/cells")
            return self.store(value, _kind(value)) | {"instead": {"$index": "plain", "values": cells, "name": name}}
        return self.store(value, _kind(value))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _levels(index: Any) -> list[Any]:
    return [index.get_level_values(k) for k in range(index.nlevels)]


class Decoder:
    """Turns JSON back into values.

    **Arguments:** `arrays` by name; `objects`, what was stored as code (None where it was not loaded).
    Raises ValueError, TypeError or LookupError where the JSON is not what an Encoder writes.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], objects: list[Any] | None = None):
        self.arrays, self.objects = arrays, objects
        self._kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
            "$tuple": lambda node: tuple(self.decode(entry) for entry in node["$tuple"]),
            "$float": lambda node: float(node["$float"]),
            "$dict": lambda node: {self.decode(key): self.decode(entry) for key, entry in node["$dict"]},
            "$array": lambda node: np.asarray(self.arrays[node["$array"]]),
            "$cells": self._cells,
            "$table": self._table,
            "$column": self._column,
            "$index": self._index,
            "$plain": decode_plain,
            "$time": self._time,
            "$record": self._record,
            "$stored": self._stored,
        }

    def decode(self, node: Any) -> Any:
        """The value that an Encoder made `node` of."""
        if isinstance(node, list):
            return [self.decode(entry) for entry in node]
        if not isinstance(node, dict):
            return node
        marks = [key for key in node if key.startswith("$")]
        if not marks:
            return {key: self.decode(entry) for key, entry in node.items()}
        return self._kinds[marks[0]](node)

    def _cells(self, node: dict[str, Any]) -> np.ndarray:
        cells = [self.decode(cell) for cell in node["$cells"]]
        out = np.empty(len(cells), object)
        for k, cell in enumerate(cells):  # assigned one by one: numpy would take tuples apart
            out[k] = cell
        return out.reshape(node["shape"])

    def _table(self, node: dict[str, Any]) -> pd.DataFrame:
        import pandas as pd

        columns = {k: self.decode(column) for k, column in enumerate(node["$table"])}
        table = pd.DataFrame(columns, index=self.decode(node["index"]))
        table.columns = self.decode(node["columns"])
        return table

    def _column(self, node: dict[str, Any]) -> pd.Series:
        import pandas as pd

        return pd.Series(self.decode(node["$column"]), index=self.decode(node["index"]), name=self.decode(node["name"]))

    def _index(self, node: dict[str, Any]) -> pd.Index:
        import pandas as pd

        if node["$index"] == "range":
            return pd.RangeIndex(*node["values"], name=node["name"])
        if node["$index"] == "multi":
            levels = [self.decode(level) for level in node["values"]]
            return pd.MultiIndex.from_arrays(levels, names=self.decode(node["names"]))
        if node["$index"] != "plain":
            return decode_index(node, self.decode(node["name"]))
        return pd.Index(self.decode(node["values"]), name=self.decode(node["name"]))

    def _time(self, node: dict[str, Any]) -> Any:
        import pandas as pd

        return pd.Timestamp(node["$time"])

    def _record(self, node: dict[str, Any]) -> Any:
        kind, fields = RECORDS[node["$record"]], node["fields"]
        out = object.__new__(kind)
        for field in dataclasses.fields(kind):
            if field.name not in fields and field.default is not dataclasses.MISSING:
                object.__setattr__(out, field.name, field.default)  # of a file made before there was the field
                continue
            if field.name not in fields:
                raise ValueError(f"{kind.__name__} lacks {field.name}")
            object.__setattr__(out, field.name, self.decode(fields[field.name]))
        return out

    def _stored(self, node: dict[str, Any]) -> Any:
        if self.objects is not None:
            return self.objects[node["$stored"]]
        return self.decode(node["instead"]) if "instead" in node else NotLoaded(str(node["description"]))
