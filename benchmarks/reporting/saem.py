"""The section of saem_fits.json: SAEM side by side, its Monte Carlo error, and the cost of an iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any

from reporting.cells import Record, dig, middle, origin, show, table, times, verdict
from reporting.references import refusals

NAMES = {
    "jaxnlme-all": "jaxnlme SAEM",
    "jaxnlme-alone": "jaxnlme SAEM, estimates alone",
    "jaxnlme-schedule": "jaxnlme SAEM, pynlme's schedule, estimates alone",
    "pynlme-all": "pynlme SAEM",
    "pynlme-alone": "pynlme SAEM, estimates alone",
    "saemix-all": "saemix, recorded elsewhere",
    "saemix-alone": "saemix, estimates alone, recorded elsewhere",
    "nlme": "R nlme, ML of the linearised model",
    "jaxnlme-maximum": "jaxnlme AGQ(7), for the maximum",
}
SAID = (
    "Defaults. pynlme's are MATLAB's: {iterations} iterations (annealing, full steps, decreasing steps) after "
    "{burn_in} of burn-in, about 100 groups times chains. Ours adds to its phases iterations at standing parameters, "
    "which give the last step and its Monte Carlo error, and goes on until that is below 0.05 standard errors; by "
    "pynlme's schedule it may not go on. Where the estimates do not come alone, standard errors and the log-likelihood "
    "by importance sampling come with them (all parameters' and 2,000 draws for us; the fixed effects' and 5,000 draws "
    "for pynlme). Fit alone: medians over seeds of the fits of a process that fitted another table first. nlme "
    "maximises another likelihood, deterministically. saemix was not run here: its seconds are those of its documented "
    "example, on a busy machine, so that CPU seconds alone are compared; its seeds, those of a study of them."
)
QUALITY = (
    "log L by quadrature: the referee's, with {nodes} nodes a dimension, mean over seeds; below the best of all "
    "estimates of the table, mean and worst. Spread: standard deviation of an estimate over seeds, in its standard "
    "error (AGQ's): root mean square and largest over all estimates; it says of two seeds little more than an order of "
    "magnitude. Off: the largest distance of a mean over seeds from AGQ's estimate, in standard errors. Stated: the "
    "largest Monte Carlo error that the program reports. Last column: CPU seconds times the square of (rms spread / "
    "0.05), what a fit of that precision would take if errors fell with the root of the work."
)
TARGETS = (
    "Seconds of theirs over ours, in a process with everything compiled. Met where both clocks meet it (of saemix, "
    "CPU), and our log-likelihood, by the referee, falls below the best by no more than theirs does, times 1.5, plus "
    "0.01: the mean of such losses over so many seeds is known to a third. At equal spread: the ratio of CPU seconds "
    "times squared spread over seeds, what a fit of the same precision takes them over us."
)
COST = (
    "Seconds of a longer run less those of a shorter, per iteration, group and chain; three effects, full Psi. Target "
    "of the ratio of 10,000 groups to 1,000: {target}."
)
GROWTH = 1.1
PRECISE = 0.05  # the Monte Carlo error, in standard errors, that programs are compared at
SLACK, SHARE = 0.01, 1.5


@dataclass
class Side:
    """One program on one case: its `records` by kind, its `fits` of several seeds, and the referee's `judged` value of
    each."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    fits: list[Record] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.records.setdefault(record["kind"], []).append(record)
        said = record["said"] or {}
        fits = said.get("fits") or ([said] if "beta" in said else [])
        if record["status"] == "ok" and (record["kind"] == "two fits" or record["program"] == "jaxnlme-maximum"):
            self.fits += fits
            self.judged += record["referee"] or []

    @property
    def every(self) -> list[Record]:
        return [record for records in self.records.values() for record in records]

    def seconds(self, clock: str) -> float | None:
        """Of a fit with everything compiled: the median over seeds, or nlme's second fit."""
        found = middle(self.fits, "seconds", clock)
        return middle(self.fits, "again", clock) if found is None else found

    @property
    def by_seed(self) -> list[Record]:
        """One fit a seed: repeats give the same estimates."""
        return list({fit.get("seed", 0): fit for fit in self.fits}.values())


def quantities(fit: Record) -> dict[str, float]:
    """Estimates by the names of our table of estimates."""
    names, psi = ("ka", "cl", "vol"), fit["psi"]
    sds = [math.sqrt(max(psi[k][k], 0.0)) for k in range(3)]
    found = dict(zip(names, fit["beta"], strict=True)) | {"a": fit["sigma"]}
    found |= {f"sd({name})": sd for name, sd in zip(names, sds, strict=True)}
    for i in range(3):
        for j in range(i):
            product = sds[i] * sds[j]
            found[f"corr({names[j]}, {names[i]})"] = psi[i][j] / product if product else 0.0
    return found


def spread(fits: list[Record], known: Record) -> tuple[float, float] | None:
    """Standard deviations over seeds in standard errors: root mean square and largest; None for one seed."""
    if len(fits) < 2 or not known:
        return None
    each = [quantities(fit) for fit in fits]
    shares = [stdev(one[name] for one in each) / row["se"] for name, row in known.items()]
    return math.sqrt(mean(share**2 for share in shares)), max(shares)


def off(fits: list[Record], known: Record) -> float | None:
    """The largest distance of a mean estimate from AGQ's, in standard errors."""
    if not fits or not known:
        return None
    each = [quantities(fit) for fit in fits]
    return max(abs(mean(one[name] for one in each) - row["estimate"]) / row["se"] for name, row in known.items())


def sides(results: Record) -> dict[tuple, dict[str, Side]]:
    """The programs of each case, saemix's record among them."""
    cases: dict[tuple, dict[str, Side]] = {}
    for row in results["rows"]:
        if row["program"] != "jaxnlme-cost":
            key = (row["case"], row["groups"], row["psi"])
            cases.setdefault(key, {}).setdefault(row["program"], Side()).add(row)
    recorded, case = results.get("recorded"), cases.get(("theophylline", 12, "diagonal"))
    if recorded and case is not None:
        for program, part in (("saemix-all", "with_map_fim_is_gq"), ("saemix-alone", "saem_only")):
            run = {name: recorded[name] for name in ("iterations", "chains")}
            fits = [
                # The study's seconds do not tell the parts apart: the documented example's count.
                fit | run | {"seconds": {} if seed else {"cpu": fit["seconds"][part]["cpu"]}, "seed": seed}
                for seed, fit in enumerate(recorded["fits"])
            ]
            case[program] = Side({}, fits, recorded.get("referee") or [])
    return cases


def section(results: Record, name: str) -> str:
    """Targets, two tables a case, the cost of an iteration, and what the doors take."""
    about, cases = results["about"], sides(results)
    schedule = {"iterations": " + ".join(map(str, about["iterations"])), "burn_in": about["burn_in"]}
    parts = ["### SAEM", origin(results, name), SAID.format(**schedule), QUALITY.format(nodes=about["nodes"])]
    parts += [f"{peer} is left out: {reason}." for peer, reason in results.get("missing", {}).items()]
    parts += ["#### Targets of SAEM", TARGETS, targets(cases)]
    for (case, groups, psi), programs in cases.items():
        chains = next(row["chains"] for row in results["rows"] if row["groups"] == groups)
        parts += [f"#### SAEM: {case}, {groups:,} groups, {psi} Psi", seconds(programs, groups, chains)]
        parts.append(qualities(programs))
        if (case, psi) == ("theophylline", "diagonal"):
            parts += ["Where the wall seconds of our fit go:", profile(programs)]
    costs = [row for row in results["rows"] if row["program"] == "jaxnlme-cost"]
    if costs:
        parts += ["#### An iteration of SAEM", COST.format(target=GROWTH), cost(costs)]
    if results.get("refusals"):
        said = "Indomethacin again: the log-likelihood where the call works, else what was said."
        parts += ["#### What nlmefitsa takes", said, refusals(results["refusals"], "nlmefitsa")]
    return "\n\n".join(parts)


def seconds(programs: dict[str, Side], groups: int, chains: int) -> str:
    """What a fit takes."""
    header = ["program", "process: CPU s", "wall s", "warm cache: CPU s", "wall s", "fit alone: CPU s", "wall s"]
    header += ["iterations", "chains", "CPU us an iteration, group, chain", "its log L", "outcome"]
    rows = []
    for program, label in NAMES.items():
        if program not in programs:
            continue
        side = programs[program]
        cold = side.records.get("empty") or side.records.get("once") or []
        cells = [label]
        cells += [
            show(middle(kind, clock)) for kind in (cold, side.records.get("warm", [])) for clock in ("cpu", "wall")
        ]
        spent, iterations = side.seconds("cpu"), middle(side.fits, "iterations")
        own = middle(side.fits, "chains") or chains
        if program == "nlme":  # its iterations are of another kind
            iterations = None
        each = None if not iterations or spent is None else 1e6 * spent / (iterations * groups * own)
        cells += [show(spent, 3), show(side.seconds("wall"), 3), show(iterations, 0)]
        cells += [show(own if iterations else None, 0), show(each), show(middle(side.fits, "log_likelihood"), 3)]
        rows.append([*cells, outcome(side)])
    return table(header, rows)


def profile(programs: dict[str, Side]) -> str:
    """The steps of a fit with an empty cache, with a warm one, and with everything compiled."""
    steps = {"check": "check: dry run of the model", "trace": "tracing", "lower": "lowering"}
    steps |= {"compile": "compiling, or reading the cache", "run": "running", "programs": "programs compiled or read"}
    side = programs.get("jaxnlme-all", Side())
    kinds = [side.records.get(kind, []) for kind in ("empty", "warm")]
    columns = [[fit for record in records for fit in dig(record, "said", "fits") or []] for records in kinds]
    columns.append(side.fits)
    rows = []
    for step, label in steps.items():
        digits = 0 if step == "programs" else 3
        rows.append([label, *(show(middle(fits, "profile", step), digits) for fits in columns)])
    return table(["step, wall s", "empty cache", "warm cache", "second fit"], rows)


def outcome(side: Side) -> str:
    """ "ok", what went wrong, or how many seeds converged, where the program says so."""
    if side.every and (said := verdict(side.every)) != "ok":
        return said
    told = [fit["converged"] for fit in side.by_seed if "converged" in fit]
    return "ok" if all(told) else f"converged {sum(told)} of {len(told)}"


def qualities(programs: dict[str, Side]) -> str:
    """What the time bought."""
    known = dig(next(iter(programs.get("jaxnlme-maximum", Side()).fits), {}), "table") or {}
    best = max((value for side in programs.values() for value in side.judged), default=None)
    header = ["program", "seeds", "log L by quadrature", "below the best: mean", "worst", "spread: rms", "largest"]
    header += ["off", "stated", f"CPU s for a spread of {PRECISE:g}"]
    rows = []
    for program, label in NAMES.items():
        side = programs.get(program)
        if side is None or not side.judged or best is None:
            continue
        apart, spent = spread(side.by_seed, known), side.seconds("cpu")
        cells = [label, str(len(side.by_seed)), show(mean(side.judged), 3)]
        cells += [show(best - mean(side.judged), 3), show(best - min(side.judged), 3)]
        cells += [show(part, 3) for part in apart or (None, None)]
        cells += [show(off(side.by_seed, known), 3), show(middle(side.fits, "monte_carlo_error"), 3)]
        rows.append([*cells, show(None if apart is None or spent is None else spent * (apart[0] / PRECISE) ** 2)])
    return table(header, rows)


def targets(cases: dict[tuple, dict[str, Side]]) -> str:
    """What we have set ourselves."""
    theophylline = [("theophylline", 12, psi) for psi in ("diagonal", "full")]
    thousand = [("simulated", 1000, psi) for psi in ("diagonal", "full")]
    pairs = (("jaxnlme-alone", "alone"), ("jaxnlme-all", "all"))
    wanted: list[tuple[tuple, str, str, float]]
    wanted = [(theophylline[0], ours, f"saemix-{work}", 10.0) for ours, work in pairs]
    wanted += [(key, ours, f"pynlme-{work}", 1.0) for key in theophylline for ours, work in pairs]
    wanted += [(key, ours, f"pynlme-{work}", 3.0) for key in thousand for ours, work in pairs]
    header = ["ours", "theirs", "groups", "Psi", "theirs: CPU s", "wall s", "ours: CPU s", "wall s", "CPU ratio"]
    header += ["wall ratio", "target", "ours below the best", "theirs", "", "at equal spread"]
    return table(header, [_target(cases.get(key, {}), key, own, other, ratio) for key, own, other, ratio in wanted])


def _target(programs: dict[str, Side], key: tuple, own: str, other: str, ratio: float) -> list[str]:
    ours, theirs = programs.get(own, Side()), programs.get(other, Side())
    pairs = {clock: (theirs.seconds(clock), ours.seconds(clock)) for clock in ("cpu", "wall")}
    best = max((value for side in programs.values() for value in side.judged), default=0.0)
    lost = [best - mean(side.judged) if side.judged else None for side in (ours, theirs)]
    cells = [NAMES[own], NAMES[other], f"{key[1]:,}", key[2]]
    cells += [show(pairs[clock][which], 3) for which in (0, 1) for clock in ("cpu", "wall")]
    cells += [times(*pairs[clock]) for clock in ("cpu", "wall")]
    cells += [f"{ratio:g}", show(lost[0], 3), show(lost[1], 3), _judged(ratio, pairs, lost)]
    known = dig(next(iter(programs.get("jaxnlme-maximum", Side()).fits), {}), "table") or {}
    work = []
    for side in (theirs, ours):
        apart, spent = spread(side.by_seed, known), side.seconds("cpu")
        work.append(None if apart is None or spent is None else spent * apart[0] ** 2)
    return [*cells, times(*work)]


def _judged(ratio: float, pairs: dict[str, tuple], lost: list[Any]) -> str:
    ours, theirs = lost
    known = [pair for pair in pairs.values() if pair[0] is not None]
    if ours is None or theirs is None or not known or any(own is None for _, own in known):
        return "not measured"
    if ours > SHARE * theirs + SLACK:
        return "missed: log L lower"
    return "**met**" if all(other >= ratio * own for other, own in known) else "**missed**"


def cost(rows: list[Record]) -> str:
    """One row a number of groups."""
    header = ["groups", "chains", "iterations", "CPU us", "wall us", "CPU / 1,000 groups", "wall / 1,000 groups"]
    found = {row["groups"]: row for row in rows if row["status"] == "ok"}
    each = {groups: {clock: _slope(row, clock) for clock in ("cpu", "wall")} for groups, row in found.items()}
    base = each.get(1000, {})
    body = []
    for groups, own in each.items():
        lengths = sorted({fit["iterations"] for fit in found[groups]["said"]["fits"]})
        cells = [f"{groups:,}", str(found[groups]["chains"]), " and ".join(f"{length:,}" for length in lengths)]
        cells += [show(own[clock], 3) for clock in ("cpu", "wall")]
        body.append([*cells, *(times(own[clock], base.get(clock)) for clock in ("cpu", "wall"))])
    return table(header, body)


def _slope(row: Record, clock: str) -> float:
    """Microseconds of an iteration, a group and a chain."""
    lengths: dict[int, list[float]] = {}
    for fit in row["said"]["fits"]:
        lengths.setdefault(fit["iterations"], []).append(fit["seconds"][clock])
    (short, few), *_, (long, many) = sorted((length, median(found)) for length, found in lengths.items())
    return 1e6 * (many - few) / ((long - short) * row["groups"] * row["chains"])
