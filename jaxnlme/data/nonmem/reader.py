"""NonmemReader: how a NONMEM-style table is read, kept with the data so that new tables are read in the same way."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxnlme.data.nonmem.reading import Reading
from jaxnlme.data.nonmem.table import raw_table
from jaxnlme.errors import OptionError, shown

if TYPE_CHECKING:
    from jaxnlme.data.grouped import GroupedData


@dataclasses.dataclass(frozen=True, eq=False)
class NonmemReader:
    """The arguments of `GroupedData.from_nonmem`, which explains them.

    **Fields:** `columns`: by meaning ("id", "time", ...) a name, None, or False; the others as there.
    """

    columns: Mapping[str, Any]
    covariates: tuple[str, ...] | None = None
    carry: str = "nocb"
    date_order: str | None = None
    compartments: Mapping[str, int] | None = None
    missing_ss: tuple[Any, ...] = ()
    repeated_ids: str = "refuse"
    dose_rows: bool | None = None
    skip: Any = None
    na_values: Any = ()
    read_csv: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.carry not in ("nocb", "locf"):
            raise OptionError(
                f"carry is {shown(self.carry)}; expected 'nocb' (a value holds on the interval before its record, as "
                "in NONMEM) or 'locf' (on the interval after it)."
            )
        if self.repeated_ids not in ("refuse", "new", "same"):
            raise OptionError(
                f"repeated_ids is {shown(self.repeated_ids)}; expected 'refuse', 'new' (a later block of rows of a "
                "subject is another one, as in NONMEM) or 'same' (it is the same subject)."
            )
        if not all(isinstance(code, numbers.Real) for code in self.missing_ss):
            raise OptionError(f"missing_ss is {shown(self.missing_ss)}; expected numbers, as in missing_ss=99.")
        given = self.compartments
        known = given is None or (isinstance(given, Mapping) and all(_is_compartment(n) for n in given.values()))
        if not known:
            raise OptionError(
                f"compartments is {shown(given)}; expected the number of each name, as in {{'depot': 1, 'central': 2}}."
            )
        if self.dose_rows not in (None, True, False):
            raise OptionError(f"dose_rows is {shown(self.dose_rows)}; expected True, False, or None to choose.")

    def read(
        self, make: type[GroupedData], source: Any, need_response: bool = True, like: GroupedData | None = None
    ) -> GroupedData:
        """The data of a table.

        **Arguments:** `make`: the class of the data; `source`: a path, file, frame, or dictionary of arrays;
        `need_response`: refuse a table without observed responses; `like`: data with whose roles of columns it is read,
        those of a fit for a table to predict.
        **Raises:** DataError naming rows or columns, what was expected, and the cure.
        """
        id_name = self.columns.get("id") or "ID"
        table = raw_table(source, self.skip, self.na_values, str(id_name), self.read_csv)
        return Reading(self, table, make, need_response, like).data()


def _is_compartment(number: Any) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool) and int(number) >= 1
