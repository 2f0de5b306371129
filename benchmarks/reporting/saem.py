"""The section of saem_fits.json: SAEM side by side, its Monte Carlo error, and the cost of an iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any

from reporting.cells import Record, dig, middle, origin, outcome_of, show, table, times
from reporting.references import refusals

# Names of programs in results before version 0.2.0.
RENAMED = {"jaxnlme-alone": "jaxnlme-estimates", "pynlme-alone": "pynlme-estimates"}
NAMES = {
    "jaxnlme-all": "jaxnlme SAEM",
    "jaxnlme-estimates": "jaxnlme SAEM, estimates only",
    "jaxnlme-schedule": "jaxnlme SAEM, pynlme's schedule, estimates only",
    "pynlme-all": "pynlme SAEM",
    "pynlme-estimates": "pynlme SAEM, estimates only",
    "saemix-all": "saemix, recorded elsewhere",
    "saemix-estimates": "saemix, estimates only, recorded elsewhere",
    "nlme": "R nlme, ML of the linearised model",
    "jaxnlme-maximum": "jaxnlme AGQ(7), for the maximum",
}
EXPLANATION = (
    "Defaults. pynlme's are MATLAB's: {iterations} iterations (annealing, full steps, decreasing steps) after "
    "{burn_in} of burn-in, about 100 groups times chains. Ours adds to its phases iterations at fixed parameters, "
    "which give the last step and its Monte Carlo error, and continues until that is below 0.05 standard errors; by "
    "pynlme's schedule it may not continue. Unless a row is of estimates only, standard errors and the log-likelihood "
    "by importance sampling come with them (all parameters' and 2,000 draws for us; the fixed effects' and 5,000 draws "
    "for pynlme). Fit only: medians over seeds of the fits of a process that fitted another table first. nlme "
    "maximises another likelihood, deterministically. saemix was not run here: its seconds are those of its documented "
    "example, on a busy machine, so that only CPU seconds are compared; its seeds are those of a study of its seeds."
)
QUALITY = (
    "log L by quadrature: the referee's, with {nodes} nodes a dimension, mean over seeds; below the best of all "
    "estimates of the table, mean and worst. Spread: standard deviation of an estimate over seeds, in its standard "
    "error (AGQ's): root mean square and largest over all estimates; two seeds give little more than its order of "
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
SLACK, LOSS_FACTOR = 0.01, 1.5


@dataclass
class Side:
    """One program on one case: its `records` by kind, its `fits` of several seeds, and the `referee_values`, the
    log-likelihood by the referee of each."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    fits: list[Record] = field(default_factory=list)
    referee_values: list[float] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.records.setdefault(record["kind"], []).append(record)
        output = record["said"] or {}
        fits = output.get("fits") or ([output] if "beta" in output else [])
        if record["status"] == "ok" and (record["kind"] == "two fits" or record["program"] == "jaxnlme-maximum"):
            self.fits += fits
            self.referee_values += record["referee"] or []

    @property
    def every(self) -> list[Record]:
        return [record for records in self.records.values() for record in records]

    def seconds(self, clock: str) -> float | None:
        """Of a fit with everything compiled: the median over seeds, or nlme's second fit."""
        own_clock = middle(self.fits, "seconds", clock)
        return middle(self.fits, "again", clock) if own_clock is None else own_clock

    @property
    def by_seed(self) -> list[Record]:
        """One fit a seed: repeats give the same estimates."""
        return list({fit.get("seed", 0): fit for fit in self.fits}.values())


def quantities(fit: Record) -> dict[str, float]:
    """Estimates by the names of our table of estimates."""
    names, psi = ("ka", "cl", "vol"), fit["psi"]
    sds = [math.sqrt(max(psi[k][k], 0.0)) for k in range(3)]
    estimates = dict(zip(names, fit["beta"], strict=True)) | {"a": fit["sigma"]}
    estimates |= {f"sd({name})": sd for name, sd in zip(names, sds, strict=True)}
    for i in range(3):
        for j in range(i):
            product = sds[i] * sds[j]
            estimates[f"corr({names[j]}, {names[i]})"] = psi[i][j] / product if product else 0.0
    return estimates


def spread(fits: list[Record], maximum_table: Record) -> tuple[float, float] | None:
    """Standard deviations over seeds in standard errors: root mean square and largest; None for one seed."""
    if len(fits) < 2 or not maximum_table:
        return None
    estimates = [quantities(fit) for fit in fits]
    ratios = [
        stdev(estimates_of_seed[name] for estimates_of_seed in estimates) / row["se"]
        for name, row in maximum_table.items()
    ]
    return math.sqrt(mean(ratio**2 for ratio in ratios)), max(ratios)


def offset(fits: list[Record], maximum_table: Record) -> float | None:
    """The largest distance of a mean estimate from AGQ's, in standard errors."""
    if not fits or not maximum_table:
        return None
    estimates = [quantities(fit) for fit in fits]
    return max(
        abs(mean(estimates_of_seed[name] for estimates_of_seed in estimates) - row["estimate"]) / row["se"]
        for name, row in maximum_table.items()
    )


def sides(results: Record) -> dict[tuple, dict[str, Side]]:
    """The programs of each case, saemix's record among them."""
    cases: dict[tuple, dict[str, Side]] = {}
    for row in results["rows"]:
        if row["program"] != "jaxnlme-cost":
            key = (row["case"], row["groups"], row["psi"])
            program = RENAMED.get(row["program"], row["program"])
            cases.setdefault(key, {}).setdefault(program, Side()).add(row)
    recorded, case = results.get("recorded"), cases.get(("theophylline", 12, "diagonal"))
    if recorded and case is not None:
        for program, part in (("saemix-all", "with_map_fim_is_gq"), ("saemix-estimates", "saem_only")):
            run = {name: recorded[name] for name in ("iterations", "chains")}
            fits = [
                # The study's seconds do not separate the parts: those of the documented example are used.
                fit | run | {"seconds": {} if seed else {"cpu": fit["seconds"][part]["cpu"]}, "seed": seed}
                for seed, fit in enumerate(recorded["fits"])
            ]
            case[program] = Side({}, fits, recorded.get("referee") or [])
    return cases


def section(results: Record, name: str) -> str:
    """Targets, two tables a case, the cost of an iteration, and the accepted arguments."""
    about, cases = results["about"], sides(results)
    schedule = {"iterations": " + ".join(map(str, about["iterations"])), "burn_in": about["burn_in"]}
    parts = ["### SAEM", origin(results, name), EXPLANATION.format(**schedule), QUALITY.format(nodes=about["nodes"])]
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
        introduction = "Indomethacin again: the log-likelihood where the call works, else the error message."
        parts += ["#### Accepted arguments of nlmefitsa", introduction, refusals(results["refusals"], "nlmefitsa")]
    return "\n\n".join(parts)


def seconds(programs: dict[str, Side], groups: int, chains: int) -> str:
    """Seconds of a fit."""
    header = ["program", "process: CPU s", "wall s", "warm cache: CPU s", "wall s", "fit only: CPU s", "wall s"]
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
        our_chains = middle(side.fits, "chains") or chains
        if program == "nlme":  # its iterations are of another kind
            iterations = None
        per_iteration = None if not iterations or spent is None else 1e6 * spent / (iterations * groups * our_chains)
        cells += [show(spent, 3), show(side.seconds("wall"), 3), show(iterations, 0)]
        cells += [
            show(our_chains if iterations else None, 0),
            show(per_iteration),
            show(middle(side.fits, "log_likelihood"), 3),
        ]
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
    """ "ok", the failure, or how many seeds converged, where the program reports it."""
    if side.every and (failure := outcome_of(side.every)) != "ok":
        return failure
    converged = [fit["converged"] for fit in side.by_seed if "converged" in fit]
    return "ok" if all(converged) else f"converged {sum(converged)} of {len(converged)}"


def qualities(programs: dict[str, Side]) -> str:
    """Precision of the estimates."""
    maximum_table = dig(next(iter(programs.get("jaxnlme-maximum", Side()).fits), {}), "table") or {}
    best = max((value for side in programs.values() for value in side.referee_values), default=None)
    header = ["program", "seeds", "log L by quadrature", "below the best: mean", "worst", "spread: rms", "largest"]
    header += ["off", "stated", f"CPU s for a spread of {PRECISE:g}"]
    rows = []
    for program, label in NAMES.items():
        side = programs.get(program)
        if side is None or not side.referee_values or best is None:
            continue
        apart, spent = spread(side.by_seed, maximum_table), side.seconds("cpu")
        cells = [label, str(len(side.by_seed)), show(mean(side.referee_values), 3)]
        cells += [show(best - mean(side.referee_values), 3), show(best - min(side.referee_values), 3)]
        cells += [show(part, 3) for part in apart or (None, None)]
        cells += [show(offset(side.by_seed, maximum_table), 3), show(middle(side.fits, "monte_carlo_error"), 3)]
        rows.append([*cells, show(None if apart is None or spent is None else spent * (apart[0] / PRECISE) ** 2)])
    return table(header, rows)


def targets(cases: dict[tuple, dict[str, Side]]) -> str:
    """The targets, met or missed."""
    theophylline = [("theophylline", 12, psi) for psi in ("diagonal", "full")]
    thousand = [("simulated", 1000, psi) for psi in ("diagonal", "full")]
    pairs = (("jaxnlme-estimates", "estimates"), ("jaxnlme-all", "all"))
    comparisons: list[tuple[tuple, str, str, float]]
    comparisons = [(theophylline[0], ours, f"saemix-{work}", 10.0) for ours, work in pairs]
    comparisons += [(key, ours, f"pynlme-{work}", 1.0) for key in theophylline for ours, work in pairs]
    comparisons += [(key, ours, f"pynlme-{work}", 3.0) for key in thousand for ours, work in pairs]
    header = ["ours", "theirs", "groups", "Psi", "theirs: CPU s", "wall s", "ours: CPU s", "wall s", "CPU ratio"]
    header += ["wall ratio", "target", "ours below the best", "theirs", "", "at equal spread"]
    return table(
        header,
        [
            _target(cases.get(key, {}), key, our_program, their_program, ratio)
            for key, our_program, their_program, ratio in comparisons
        ],
    )


def _target(programs: dict[str, Side], key: tuple, our_program: str, their_program: str, ratio: float) -> list[str]:
    ours, theirs = programs.get(our_program, Side()), programs.get(their_program, Side())
    pairs = {clock: (theirs.seconds(clock), ours.seconds(clock)) for clock in ("cpu", "wall")}
    best = max((value for side in programs.values() for value in side.referee_values), default=0.0)
    lost = [best - mean(side.referee_values) if side.referee_values else None for side in (ours, theirs)]
    cells = [NAMES[our_program], NAMES[their_program], f"{key[1]:,}", key[2]]
    cells += [show(pairs[clock][side], 3) for side in (0, 1) for clock in ("cpu", "wall")]
    cells += [times(*pairs[clock]) for clock in ("cpu", "wall")]
    cells += [f"{ratio:g}", show(lost[0], 3), show(lost[1], 3), _target_outcome(ratio, pairs, lost)]
    maximum_table = dig(next(iter(programs.get("jaxnlme-maximum", Side()).fits), {}), "table") or {}
    work = []
    for side in (theirs, ours):
        apart, spent = spread(side.by_seed, maximum_table), side.seconds("cpu")
        work.append(None if apart is None or spent is None else spent * apart[0] ** 2)
    return [*cells, times(*work)]


def _target_outcome(ratio: float, pairs: dict[str, tuple], lost: list[Any]) -> str:
    ours, theirs = lost
    measured = [pair for pair in pairs.values() if pair[0] is not None]
    if ours is None or theirs is None or not measured or any(our_seconds is None for _, our_seconds in measured):
        return "not measured"
    if ours > LOSS_FACTOR * theirs + SLACK:
        return "missed: log L lower"
    return (
        "**met**"
        if all(their_seconds >= ratio * our_seconds for their_seconds, our_seconds in measured)
        else "**missed**"
    )


def cost(rows: list[Record]) -> str:
    """One row a number of groups."""
    header = ["groups", "chains", "iterations", "CPU us", "wall us", "CPU / 1,000 groups", "wall / 1,000 groups"]
    rows_by_groups = {row["groups"]: row for row in rows if row["status"] == "ok"}
    costs = {groups: {clock: _slope(row, clock) for clock in ("cpu", "wall")} for groups, row in rows_by_groups.items()}
    base = costs.get(1000, {})
    body = []
    for groups, own_costs in costs.items():
        lengths = sorted({fit["iterations"] for fit in rows_by_groups[groups]["said"]["fits"]})
        cells = [
            f"{groups:,}",
            str(rows_by_groups[groups]["chains"]),
            " and ".join(f"{length:,}" for length in lengths),
        ]
        cells += [show(own_costs[clock], 3) for clock in ("cpu", "wall")]
        body.append([*cells, *(times(own_costs[clock], base.get(clock)) for clock in ("cpu", "wall"))])
    return table(header, body)


def _slope(row: Record, clock: str) -> float:
    """Microseconds of an iteration, a group and a chain."""
    lengths: dict[int, list[float]] = {}
    for fit in row["said"]["fits"]:
        lengths.setdefault(fit["iterations"], []).append(fit["seconds"][clock])
    (short, few), *_, (long, many) = sorted((length, median(values)) for length, values in lengths.items())
    return 1e6 * (many - few) / ((long - short) * row["groups"] * row["chains"])
