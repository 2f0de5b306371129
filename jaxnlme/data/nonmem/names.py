"""The columns of a NONMEM-style table by their meaning, whatever their spelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxnlme.errors import DataError, near_matches, shown

# Names that are looked for, without regard to case, where the caller gives none.
STANDARD = {
    "id": ("ID",),
    "time": ("TIME",),
    "dv": ("DV",),
    "amt": ("AMT",),
    "evid": ("EVID",),
    "mdv": ("MDV",),
    "cmt": ("CMT",),
    "rate": ("RATE",),
    "dur": ("DUR",),
    "ss": ("SS",),
    "ii": ("II",),
    "addl": ("ADDL",),
    "date": ("DATE", "DAT1", "DAT2", "DAT3"),
    "censoring": ("CENS",),
    "limit": ("LIMIT",),
    "lloq": ("LLOQ",),
    "uloq": ("ULOQ",),
}
# Meanings that are used only where the caller names a column.
BY_REQUEST = ("endpoint", "reset", "weights")
# Meanings whose argument may be a number or a dictionary of numbers instead of a column.
NUMBERS = ("lloq", "uloq")
REQUIRED = ("id", "time")


def find_columns(given: dict[str, Any], names: Sequence[Any]) -> dict[str, Any]:
    """The column of each meaning: that which the caller names, else the one with a standard name; None without one.

    **Arguments:** `given`: by meaning a name, None, or False for "not used"; `names`: of the table's columns.
    **Raises:** DataError for a name that the table lacks, one that fits several columns or has two meanings, and a
    table without a column that is needed.
    """
    found: dict[str, Any] = {}
    for meaning in (*STANDARD, *BY_REQUEST):
        asked = given.get(meaning)
        if asked is False or (meaning in NUMBERS and asked is not None and not isinstance(asked, str)):
            found[meaning] = None
        elif asked is not None:
            found[meaning] = find_column(asked, names, meaning)
        else:
            found[meaning] = _standard(meaning, names, {n for n in given.values() if isinstance(n, str)})
    for meaning in REQUIRED:
        if found[meaning] is None:
            standard = STANDARD[meaning][0]
            claimed = next((other for other, name in found.items() if str(name).upper() == standard), None)
            if claimed is not None:
                raise DataError(
                    f"column {standard!r} is given as {claimed}, and the table has no other for the {_WORDS[meaning]}; "
                    f"name one, as in {meaning}='...'."
                )
            raise DataError(
                f"the table has no column {STANDARD[meaning][0]}; its columns are "
                f"{', '.join(map(str, names))}: name the one with the {_WORDS[meaning]}, as in {meaning}='...'."
            )
    twice: dict[Any, str] = {}
    for meaning, name in found.items():
        if name is None or meaning == "reset":
            continue
        if name in twice:
            raise DataError(
                f"column {name!r} is given as {twice[name]} and as {meaning}; expected one meaning per column: give "
                "another column, or copy it under another name."
            )
        twice[name] = meaning
    return found


def find_column(name: Any, names: Sequence[Any], meaning: str) -> Any:
    """The column called `name`, without regard to case where none has exactly this name.

    **Raises:** DataError if there is none, or several; `meaning` is for messages.
    """
    if not isinstance(name, str):
        raise DataError(f"{meaning} is {shown(name)}; expected the name of a column.")
    if name in names:
        return name
    similar = [other for other in names if str(other).casefold() == name.casefold()]
    if len(similar) > 1:
        raise DataError(
            f"{meaning}={name!r} fits the columns {', '.join(map(repr, similar))}, which differ in upper and lower "
            "case; give one of them exactly."
        )
    if not similar:
        raise DataError(f"{meaning}: the table has no column {name!r}; {near_matches(name, [str(n) for n in names])}")
    return similar[0]


_WORDS = {"id": "subjects", "time": "times"}


def _standard(meaning: str, names: Sequence[Any], taken: set[str]) -> Any:
    """The column with a standard name of `meaning` that the caller has not named for something else."""
    for standard in STANDARD.get(meaning, ()):
        free = [name for name in names if str(name).casefold() == standard.casefold() and name not in taken]
        if standard in free:
            return standard
        if len(free) > 1:
            raise DataError(
                f"the table has the columns {', '.join(map(repr, free))}, which differ in upper and lower case; give "
                f"the one that is meant, as in {meaning}={free[0]!r}."
            )
        if free:
            return free[0]
    return None
