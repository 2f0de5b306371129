"""Records in the older codes of rxode2: EVID 101 is a bolus into compartment 1, 10101 starts or ends an infusion."""

from __future__ import annotations

import numpy as np

from jaxnlme.data.nonmem.table import RawTable
from jaxnlme.errors import DataError

# The last two digits, and the steady state that they stand for.
_STEADY = {1: 0, 10: 1, 20: 2}


def decode(table: RawTable, c: dict[str, np.ndarray], group: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replace the codes of rxode2 in the columns `c` by NONMEM's, in place.

    A code is 100 compartment + 1 (10 at steady state, 20 for steady state 2), with 10000 more for an infusion, whose
    AMT is its rate where it starts and minus its rate where it ends.

    **Returns:** True (rows,) for the rows where an infusion ends, which are no records of NONMEM; and a note.
    **Raises:** DataError naming the rows of other codes, and of infusions without an end.
    """
    old = c["evid"] >= 100
    ends = np.zeros(len(old), bool)
    if not old.any():
        return ends, ()
    code = np.where(old, c["evid"], 0).astype(int)
    kind = code // 10_000 % 10
    compartment = code // 100_000 * 100 + code // 100 % 100
    last = code % 100
    unknown = old & ~(np.isin(last, list(_STEADY)) & np.isin(kind, (0, 1)) & ((kind == 0) | (last == 1)))
    if unknown.any():
        raise DataError(
            f"EVID is {c['evid'][unknown][0]:g} in {table.rows(unknown)}; of rxode2's older codes those of a bolus "
            "(101 into compartment 1; 110 and 120 at steady state) and of an infusion by its rate (10101) are read: "
            "write the records with EVID 0 to 4 and RATE."
        )
    c["evid"] = np.where(old, 1.0, c["evid"])
    c["cmt"] = np.where(old, compartment, c["cmt"])
    steady = np.zeros(len(old))
    for digits, ss in _STEADY.items():
        steady[old & (last == digits)] = ss
    c["ss"] = np.where(old, steady, c["ss"])
    c["rate"] = np.where(old, 0.0, c["rate"])
    infusion = old & (kind == 1)
    if infusion.any():
        ends = infusion & (c["amt"] < 0)
        start, end = _pairs(table, c, group, infusion & ~ends, ends)
        rate = c["amt"][start]
        c["rate"][start] = rate
        c["amt"][start] = rate * (c["time"][end] - c["time"][start])
        for name in ("amt", "rate"):
            c[name][ends] = 0.0
        c["evid"][ends] = 2.0
    return ends, (
        f"EVID in the older codes of rxode2 ({', '.join(map(str, np.unique(code[old])[:5].tolist()))}): the "
        "compartment is that of the code.",
    )


def _pairs(
    table: RawTable, c: dict[str, np.ndarray], group: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows where infusions start, and those where they end: the k-th start of a subject, compartment and rate has
    the k-th end."""

    def ordered(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = np.flatnonzero(mask)
        key = np.stack([group[at], c["cmt"][at], np.abs(c["amt"][at])], axis=1)
        order = np.lexsort((at, *key.T[::-1]))
        return at[order], key[order]

    (start, of_start), (end, of_end) = ordered(starts), ordered(ends)
    if len(start) != len(end) or not np.array_equal(of_start, of_end) or (c["time"][end] < c["time"][start]).any():
        rows = starts | ends
        if len(start) == len(end) and np.array_equal(of_start, of_end):
            rows = np.isin(np.arange(len(rows)), start[c["time"][end] < c["time"][start]])
        raise DataError(
            f"infusions by code 10101 in {table.rows(rows)}: not every start (AMT the rate) has an end of the same "
            "subject, compartment and rate (AMT minus the rate) after it; add the missing rows, or write each infusion "
            "as one record with EVID 1, AMT and RATE."
        )
    return start, end
