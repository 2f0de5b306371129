"""EventRecords in words: one sentence a record, and the numbers of records by kind."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.errors import some

if TYPE_CHECKING:
    from jaxnlme.data.events.records import EventRecords

# Records that are listed in text and in a notebook.
LISTED, LISTED_IN_HTML = 10, 20


def record_in_words(c: dict[str, np.ndarray], k: int) -> str:
    """Record `k` of the columns `c` of records: "dose 100 into compartment 1, and 5 more every 12"."""
    evid, amount, rate = int(c["EVID"][k]), c["AMT"][k], c["RATE"][k]
    if evid == 3:
        return "reset"
    where = f" into compartment {int(c['CMT'][k])}" if c["CMT"][k] > 0 else ""
    interval, steady, added = c["II"][k], int(c["SS"][k]), int(c["ADDL"][k])
    if rate > 0 and amount == 0:
        what = f"infusion without end at rate {rate:g}{where}"
    elif rate > 0:
        what = f"infusion of {amount:g}{where} over {amount / rate:.6g}"
    elif rate < 0:
        what = f"infusion of {amount:g}{where}, {'rate' if rate == -1 else 'duration'} by the model"
    else:
        what = f"dose {amount:g}{where}"
    if steady:
        what += ", at steady state" + (f" of such every {interval:g}" if interval else "")
        what += " added to the state before" if steady == 2 else ""
    if added:
        what += f", and {added} more every {interval:g}"
    return f"reset, then {what}" if evid == 4 else what


def counts_in_words(records: EventRecords) -> list[str]:
    """Sentences on the kinds of records: doses by compartment, infusions, steady states, added doses, resets."""
    c = records.columns
    dose = np.isin(c["EVID"], (1, 4))
    endless = dose & (c["RATE"] > 0) & (c["AMT"] == 0)
    bolus, infusion = dose & (c["RATE"] == 0), dose & (c["RATE"] > 0) & ~endless
    modelled = [dose & (c["RATE"] == code) for code in (-1, -2)]
    lines = [
        *_by_compartment(c, bolus, "dose"),
        *_by_compartment(c, infusion, "infusion"),
        *_by_compartment(c, modelled[0], "infusion", " at a rate that the model gives"),
        *_by_compartment(c, modelled[1], "infusion", " over a duration that the model gives"),
    ]
    if endless.any():
        lines.append(f"{_number(int(endless.sum()), 'infusion')} without end, at steady state")
    added = dose & (c["ADDL"] > 0)
    if added.any():
        schemes, count = np.unique(np.stack([c["ADDL"][added], c["II"][added]], axis=1), axis=0, return_counts=True)
        texts = [
            f"{int(addl)} more every {interval:g} ({_number(int(n), 'record')})"
            for (addl, interval), n in zip(schemes, count, strict=True)
        ]
        lines.append(f"added doses: {some(texts)}")
    for code, text in ((1, "at steady state"), (2, "at steady state, added to the state before")):
        at = dose & (c["SS"] == code)
        if at.any():
            intervals = [f"{v:g}" for v in np.unique(c["II"][at]) if v > 0]
            every = f", of doses every {some(intervals)}" if intervals else ""
            lines.append(f"{_number(int(at.sum()), 'record')} {text}{every}")
    resets = int((c["EVID"] == 3).sum()), int((c["EVID"] == 4).sum())
    if any(resets):
        lines.append(f"{_number(sum(resets), 'reset')}" + (f", {resets[1]} of them with a dose" if resets[1] else ""))
    return lines


def to_text(records: EventRecords) -> str:
    """The header, the numbers by kind, remarks, and the first records in words."""
    shown = min(LISTED, len(records))
    frame = records.to_frame().iloc[:shown][["row", records.group_name, "TIME"]]
    words = [record_in_words(records.columns, k) for k in range(shown)]
    frame["record"] = [word.ljust(max(map(len, words))) for word in words]
    more = f"\n  ... and {len(records) - shown} more records: to_frame() has all" if len(records) > shown else ""
    table = frame.to_string(index=False, justify="left") if shown else "  none"
    return "\n".join([_header(records), *(f"  {line}" for line in _lines(records)), table]) + more


def to_html(records: EventRecords) -> str:
    """The same for a notebook."""
    frame = records.to_frame()
    shown = min(LISTED_IN_HTML, len(frame))
    frame = frame.iloc[:shown].copy()
    frame["record"] = [record_in_words(records.columns, k) for k in range(shown)]
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in _lines(records))
    more = f"<p>... and {len(records) - shown} more records</p>" if len(records) > shown else ""
    table = frame.to_html(index=False, float_format="{:g}".format)
    return f"<p><b>{html.escape(_header(records))}</b></p><ul>{lines}</ul>{table}{more}"


def _header(records: EventRecords) -> str:
    groups, without = len(np.unique(records.group)), len(records.labels) - len(np.unique(records.group))
    rest = f" ({without} without any)" if without else ""
    return (
        f"EventRecords: {_number(len(records), 'record')} of {_number(groups, 'group')} by "
        f"{records.group_name!r}{rest}, times by {records.facts.time!r}"
    )


def _lines(records: EventRecords) -> list[str]:
    facts = records.facts
    if facts.rows_are_records:
        where = "the interval before" if facts.carry == "nocb" else "the interval after"
        rows = f"records are rows of x too; a covariate has the value of a record on {where} it ({facts.carry})"
    else:
        rows = "records are no rows of x: no covariate varies within a group"
    return [*counts_in_words(records), *((rows,) if len(records) else ()), *records.remarks]


def _by_compartment(c: dict[str, np.ndarray], at: np.ndarray, noun: str, how: str = "") -> list[str]:
    lines = []
    for compartment in np.unique(c["CMT"][at]):
        here = at & (c["CMT"] == compartment)
        amounts = c["AMT"][here]
        low, high = amounts.min(), amounts.max()
        span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        where = f" into compartment {int(compartment)}" if compartment > 0 else ""
        where = where or " without a compartment (the model's default)"
        lines.append(f"{_number(int(here.sum()), noun)} of {span}{where}{how}")
    return lines


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
