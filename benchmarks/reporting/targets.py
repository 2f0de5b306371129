"""Targets for the comparison with pynlme and nlme: ratios of seconds at equal likelihood, met or missed."""

from __future__ import annotations

from dataclasses import dataclass

from commands import TWO_FITS
from processes import reached

from reporting.cells import Record, middle, outcome_of, show, table, times

EXPLANATION = (
    "Seconds of theirs over ours; a target is met where both clocks meet it, and where our log-likelihood, by each "
    "program's own account and by the referee's, is below theirs by no more than 0.01 or one part in a million: the "
    "linearised likelihood is not maximised by its fixed point, and every program stops a little away from it. In a "
    "process: our second fit, beside pynlme's second where it is an LME, and the first of nlme and of pynlme's FOCE."
)
SLACK, RELATIVE_SLACK = 0.01, 1e-6  # how far below theirs our log-likelihood may be: absolute, and of its size
Clocks = tuple[str, ...]  # where a record keeps its seconds, without the clock's name
WHOLE: Clocks = ()
SECOND_OURS: Clocks = ("said", "phases", "second_fit")
SECOND, FIRST = ("said", "second", "fit"), ("said", "fit")


@dataclass(frozen=True)
class Target:
    """Seconds of `theirs` over those of `ours`, at least `ratio`, for simulated tables of so many `groups`."""

    description: str
    ours: tuple[str, Clocks]
    theirs: tuple[str, Clocks]
    psis: tuple[str, ...]
    groups: int
    ratio: float


def _targets() -> list[Target]:
    both, full = ("diagonal", "full"), ("full",)
    lme, foce = (f"jaxnlme-{method}{TWO_FITS}" for method in ("lme", "foce"))
    pynlme, nlme = (f"pynlme-r{TWO_FITS}", SECOND), ("nlme", FIRST)
    return [
        *(
            Target("LME in a process, pynlme", (lme, SECOND_OURS), pynlme, both, groups, ratio)
            for groups, ratio in ((100, 1.0), (1000, 5.0), (10_000, 5.0))
        ),
        Target("FOCE in a process, pynlme", (foce, SECOND_OURS), ("pynlme-foce", FIRST), both, 1000, 20.0),
        *(Target("LME in a process, nlme", (lme, SECOND_OURS), nlme, full, groups, 10.0) for groups in (1000, 10_000)),
        Target("LME, whole process, empty cache, nlme", ("jaxnlme-lme", WHOLE), ("nlme", WHOLE), full, 1000, 1.0),
        Target(
            "LME, whole process, warm cache, nlme", ("jaxnlme-lme-warm-cache", WHOLE), ("nlme", WHOLE), full, 1000, 1.0
        ),
    ]


def compared(cases: dict[tuple, dict[str, list[Record]]]) -> str:
    """One row a target and structure of Psi, whether it was measured or not."""
    header = ["target", "groups", "Psi", "theirs: CPU s", "wall s", "ours: CPU s", "wall s", "CPU ratio", "wall ratio"]
    rows = [
        _row(target, psi, cases.get(("simulated", target.groups, psi), {}))
        for target in _targets()
        for psi in target.psis
    ]
    return table([*header, "target", "log L, ours - theirs", "by the referee", ""], rows)


def _row(target: Target, psi: str, programs: dict[str, list[Record]]) -> list[str]:
    (our_program, own_clock), (peer, peer_clock) = target.ours, target.theirs
    ours, theirs = programs.get(our_program, []), programs.get(peer, [])
    seconds = {
        clock: (middle(theirs, *peer_clock, clock), middle(ours, *own_clock, clock)) for clock in ("cpu", "wall")
    }
    results = [[reached(record["said"] or {}) for record in records] for records in (ours, theirs)]
    gaps = [
        tuple(middle(records, "log_likelihood") for records in results),
        (middle(ours, "referee"), middle(theirs, "referee")),
    ]
    cells = [target.description, f"{target.groups:,}", psi]
    cells += [show(seconds[clock][side], 3) for side in (0, 1) for clock in ("cpu", "wall")]
    cells += [times(*seconds[clock]) for clock in ("cpu", "wall")]
    cells.append(f"{target.ratio:g}")
    cells += ["–" if None in gap else f"{gap[0] - gap[1]:+.4f}" for gap in gaps]
    return [*cells, _outcome(target.ratio, ours, theirs, list(seconds.values()), gaps)]


def _outcome(ratio: float, ours: list[Record], theirs: list[Record], seconds: list[tuple], gaps: list[tuple]) -> str:
    """ "met", "missed", or the reason why neither applies."""
    if not ours or not theirs:
        return "not measured"
    if outcome_of(ours) != "ok":
        return f"missed: ours {outcome_of(ours)}"
    if outcome_of(theirs) != "ok":
        return f"theirs {outcome_of(theirs)}"
    if any(None in pair for pair in [*seconds, *gaps]):
        return "not measured"
    if any(our_log_l < their_log_l - max(SLACK, RELATIVE_SLACK * abs(their_log_l)) for our_log_l, their_log_l in gaps):
        return "missed: log L lower"
    return (
        "**met**"
        if all(their_seconds >= ratio * our_seconds for their_seconds, our_seconds in seconds)
        else "**missed**"
    )
