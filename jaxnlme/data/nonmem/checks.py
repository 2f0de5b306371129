"""Checks of records as users of NONMEM expect them: each error names rows, what was expected, and the cure."""

from __future__ import annotations

import numpy as np

from jaxnlme.data.nonmem.table import RawTable
from jaxnlme.errors import DataError


class RecordChecks:
    """Checks of the columns of records, in NONMEM's terms.

    **Arguments:** `table`: for row numbers; `c`: columns (rows,) by lower-case name; `names`: their names in the table;
    `group` (rows,): number of the subject; `labels`: of the subjects.
    """

    def __init__(self, table: RawTable, c: dict[str, np.ndarray], names: dict, group: np.ndarray, labels: list):
        self.table, self.c, self.names, self.group, self.labels = table, c, names, group, labels

    def _refuse(self, bad: np.ndarray, sentence: str, value: np.ndarray | None = None) -> None:
        """**Raises:** DataError where a row is `bad`; `{rows}` and `{value}` (of the first) are filled in."""
        if bad.any():
            first = "" if value is None else f"{value[bad][0]:g}"
            raise DataError(sentence.format(rows=self.table.rows(bad), value=first))

    def _name(self, meaning: str) -> str:
        return str(self.names.get(meaning) or meaning.upper())

    def codes(self) -> None:
        """EVID, MDV, CMT, SS and ADDL are known codes or whole numbers."""
        evid, mdv, cmt = self._name("evid"), self._name("mdv"), self._name("cmt")
        c = self.c
        self._refuse(
            ~np.isin(c["evid"], (0, 1, 2, 3, 4)),
            f"{evid} is {{value}} in {{rows}}; expected 0 (observation), 1 (dose), 2 (other), 3 (reset) or 4 (reset "
            "and dose): correct the code.",
            c["evid"],
        )
        self._refuse(
            ~np.isin(c["mdv"], (0, 1)),
            f"{mdv} is {{value}} in {{rows}}; expected 0, or 1 where the response is missing: correct the code.",
            c["mdv"],
        )
        self._refuse(
            (c["cmt"] < 0) | (c["cmt"] % 1 != 0),
            f"{cmt} is {{value}} in {{rows}}; expected a whole number from 0 (the model's default) on: compartments "
            "are not switched off by a negative number here; correct the number.",
            c["cmt"],
        )

    def times(self, starts_anew: np.ndarray, converted: bool) -> None:
        """Times are not negative, and do not go back within a subject but at a reset.

        **Arguments:** `starts_anew` (rows,): time may begin anew; `converted`: times were clock times or dates.
        """
        time, c = self._name("time"), self.c
        dated = converted and self.names.get("date") is None
        self._refuse(
            (c["time"] < 0) & (not converted),
            f"{time} is {{value}} in {{rows}}; expected times >= 0: add a constant to all times of the subject (doses "
            "and observations), which leaves its predictions as they are.",
            c["time"],
        )
        back = self._going_back() & ~starts_anew
        if back.any():
            k = int(np.flatnonzero(back)[0])
            label = self.labels[self.group[k]]
            resets = np.flatnonzero(starts_anew[:k] & (self.group[:k] == self.group[k]))
            after = f" after the reset in {self.table.rows(np.arange(len(back)) == resets[-1])}" if resets.size else ""
            raise DataError(
                f"{time} goes back in {self.table.rows(back)} (the first: {c['time'][k]:g}, {self._name('id')} "
                f"{label!r}{after}); expected rows in order of time within a subject, and a time that begins anew only "
                "at a reset: sort the rows, write EVID 3 or 4 at the record where time begins anew, or name a column "
                f"that changes there, as in reset='OCC'{', or give the dates of clock times (DATE)' if dated else ''}."
            )

    def _going_back(self) -> np.ndarray:
        """True (rows,) where the time is less than that of the subject's record before."""
        order = np.argsort(self.group, kind="stable")
        step = np.diff(self.c["time"][order], prepend=np.inf) < 0
        same = np.diff(self.group[order], prepend=-1) == 0
        back = np.zeros(len(order), bool)
        back[order] = step & same
        return back

    def doses(self) -> None:
        """Doses have an amount; their rates, intervals, steady states and added doses fit together."""
        c, n = self.c, self._name
        dose = np.isin(c["evid"], (1, 4))
        amt, rate, ss, ii, addl = c["amt"], c["rate"], c["ss"], c["ii"], c["addl"]
        self._refuse(
            ~dose & (amt != 0),
            f"{n('amt')} is {{value}} in {{rows}}, where {n('evid')} is no dose (0, 2 or 3); expected 0 or empty: set "
            f"{n('evid')} to 1 if a dose was given, or clear {n('amt')}.",
            amt,
        )
        self._refuse(
            dose & (amt < 0), f"{n('amt')} is {{value}} in {{rows}}; expected a dose >= 0: correct the amount.", amt
        )
        self._refuse(
            dose & (rate < 0) & ~np.isin(rate, (-1, -2)),
            f"{n('rate')} is {{value}} in {{rows}}; expected a rate > 0, 0 for a bolus, -1 where the model gives the "
            "rate, or -2 where it gives the duration: correct the rate.",
            rate,
        )
        endless = dose & (amt == 0) & (rate > 0) & (ss > 0) & (ii == 0)
        self._refuse(
            dose & (amt == 0) & ~endless,
            f"{n('amt')} is 0 or missing in {{rows}}, where {n('evid')} is a dose; expected an amount > 0 (or, for an "
            f"infusion without end at steady state, {n('ss')} 1, {n('rate')} > 0 and {n('ii')} 0): give the amount, or "
            f"set {n('evid')} to 0, 2 or 3.",
        )
        self._refuse(
            dose & ((ii < 0) | (addl < 0)),
            f"{n('ii')} or {n('addl')} is negative in {{rows}}; expected an interval > 0 and a number of further doses "
            ">= 0: correct them.",
        )
        self._refuse(
            dose & (addl % 1 != 0),
            f"{n('addl')} is {{value}} in {{rows}}; expected a whole number of further doses: correct it.",
            addl,
        )
        self._refuse(
            dose & (addl > 0) & (ii == 0),
            f"{n('addl')} is {{value}} in {{rows}} without an interval {n('ii')}; expected {n('ii')} > 0, the time "
            f"between doses: fill it in, or set {n('addl')} to 0.",
            addl,
        )
        self._refuse(
            dose & ~np.isin(ss, (0, 1, 2)),
            f"{n('ss')} is {{value}} in {{rows}}; expected 0, 1 (steady state) or 2 (added to the state before): "
            "correct the code, or give missing_ss={value} if this code means no steady state.",
            ss,
        )
        self._refuse(
            dose & (ss > 0) & (ii == 0) & ~endless,
            f"{n('ss')} is {{value}} in {{rows}} without an interval {n('ii')}; expected {n('ii')} > 0, the time "
            f"between the doses of the steady state (0 only for an infusion without end, {n('amt')} 0 and {n('rate')} "
            f"> 0): fill it in, or set {n('ss')} to 0.",
            ss,
        )
        self._refuse(
            endless & (addl > 0),
            f"{n('addl')} is {{value}} in {{rows}}, an infusion without end ({n('amt')} 0); expected 0: clear it.",
            addl,
        )

    def responses(self, dv: np.ndarray, has_mdv: bool, need_response: bool) -> None:
        """Doses and resets have no response that counts, and observations have one."""
        c, n = self.c, self._name
        if not has_mdv:
            return
        other = c["evid"] != 0
        self._refuse(
            other & (c["mdv"] == 0) & (dv != 0) & ~np.isnan(dv),
            f"{n('mdv')} is 0 and {n('dv')} {{value}} in {{rows}}, where {n('evid')} is not 0; a dose, reset or other "
            f"event has no response: set {n('mdv')} to 1, or give the observation a row of its own with {n('evid')} 0.",
            dv,
        )
        self._refuse(
            (c["evid"] == 0) & (c["mdv"] == 0) & np.isnan(dv) & need_response,
            f"{n('dv')} is missing in {{rows}}, where {n('mdv')} is 0 (NONMEM would read 0); expected a response: set "
            f"{n('mdv')} to 1 for a prediction without an observation, or fill it in.",
        )
