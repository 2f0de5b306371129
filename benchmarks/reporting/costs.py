"""The sections of large.json, units.json, scaling.json, batches.json, devices.json and of the GPU files."""

from __future__ import annotations

from reporting.cells import Record, middle, origin, outcome_of, show, table, times

UNIT_TARGETS = {"2 effects, diagonal": 40, "3 effects, full": 70}
GROWTH_TARGET = 1.1  # cost a group at 100,000 groups over that at 1,000
LARGE_TARGETS = "targets for 100,000 subjects: 20 s of running, 4,096 MB"


def large(results: Record, name: str) -> str:
    """Large tables as whole processes."""
    header = ["subjects", "effects", "cache", "wall s", "CPU s", "fit, wall s", "of it running", "peak MB", "log L"]
    rows = []
    for row in results["rows"]:
        single = [row]
        cells = [f"{row['groups']:,}", f"{row['effects']}, {row['psi']}", row["cache"]]
        cells += [show(row["wall"]), show(row["cpu"]), show(middle(single, "said", "phases", "fit", "wall"))]
        cells += [show(middle(single, "said", "fit", "profile", "run")), show(row["peak_rss_mb"], 0)]
        cells += [show(middle(single, "said", "fit", "log_likelihood"), 3), show(row["referee"], 3), outcome_of(single)]
        rows.append(cells)
    explanation = f"FOCEI with standard errors, from a CSV file to the summary; {LARGE_TARGETS}."
    return "\n\n".join(
        ["### Large tables", origin(results, name), explanation, table([*header, "referee log L", "outcome"], rows)]
    )


def units_table(rows: list[Record]) -> str:
    """Units and microseconds a group, and the growth from the smallest number of groups of the same effects."""
    header = ["effects", "groups", "model only, ms", "objective and gradient, ms", "units, CPU", "units, wall"]
    header += ["target", "CPU us a group", "wall us a group", "CPU a group / smallest"]
    body = []
    for row in rows:
        first = next(r for r in rows if r["effects"] == row["effects"])
        each = {clock: 1e6 * row[f"objective_{clock}"] / row["groups"] for clock in ("cpu", "wall")}
        base = 1e6 * first["objective_cpu"] / first["groups"]
        body.append(
            [
                row["effects"],
                f"{row['groups']:,}",
                show(1e3 * row["unit_wall"], 3),
                show(1e3 * row["objective_wall"]),
                *(times(row[f"objective_{clock}"], row[f"unit_{clock}"], 1) for clock in ("cpu", "wall")),
                str(UNIT_TARGETS.get(row["effects"], "–")),
                *(show(each[clock]) for clock in ("cpu", "wall")),
                times(each["cpu"], base),
            ]
        )
    return table(header, body)


def units(results: Record, name: str) -> str:
    """The cost of one objective-and-gradient."""
    explanation = (
        "One unit is one evaluation of the model over all data, laid out like the objective. The model takes mostly "
        "call overhead below some 10,000 groups. Cost a group at 100,000 groups over that at 1,000: target "
        f"{GROWTH_TARGET}."
    )
    parts = ["### One objective and gradient", origin(results, name), explanation, units_table(results["rows"])]
    return "\n\n".join(parts)


def scaling_table(rows: list[Record]) -> str:
    """The numbers behind the plots."""
    header = ["axis", "at", "objective and gradient, ms", "CPU ms", "fit, wall s", "CPU s", "evaluations", "log L"]
    body = []
    for row in rows:
        single = [row]
        milli = [middle(single, f"objective_{clock}") for clock in ("wall", "cpu")]
        cells = [row["axis"], f"{row['value']:,}", *(show(None if m is None else 1e3 * m) for m in milli)]
        cells += [show(row["fit_wall"], 3), show(row["fit_cpu"], 3), show(middle(single, "evaluations"), 0)]
        body.append([*cells, show(middle(single, "log_likelihood"), 3)])
    return table(header, body)


def scaling(results: Record, name: str) -> str:
    """Growth of time; report.py adds the plots."""
    explanation = (
        f"One axis moves at a time, the others stay at {results['groups']:,} groups, 11 observations a group (12 where "
        "effects move) and 3 correlated effects. A fit has everything compiled; a batch is so many bootstrap fits of "
        "theophylline."
    )
    return "\n\n".join(["### Scaling", origin(results, name), explanation, scaling_table(results["rows"])])


def batches_table(rows: list[Record]) -> str:
    """Many small fits beside a large one."""
    header = ["batch", "Psi", "fits", "converged", "CPU s", "wall s", "one fit of", "CPU s", "wall s", "CPU ratio"]
    body = []
    for row in rows:
        cells = [row["batch"], row["psi"], f"{row['fits']:,}", f"{row['converged']:,}"]
        cells += [show(row["many"]["cpu_s"]), show(row["many"]["wall_s"]), f"{row['groups']:,} groups"]
        cells += [show(row["one"]["cpu_s"]), show(row["one"]["wall_s"]), show(row["ratio_cpu"])]
        body.append([*cells, show(row["large_log_likelihood"], 3), show(row["expected_log_likelihood"], 3)])
    return table([*header, "log L of the one", "fits times log L of the table"], body)


def batches(results: Record, name: str) -> str:
    """Batches of fits."""
    explanation = (
        "Many small fits in one batch beside one large fit of as many groups, all compiled; target of the ratio "
        f"{results['target_ratio']:g}."
    )
    return "\n\n".join(["### Batches of fits", origin(results, name), explanation, batches_table(results["rows"])])


def devices(results: Record, name: str) -> str:
    """Devices, processes and chunks."""
    rows = results["rows"]
    header = ["", "evaluation, wall s", "CPU s", "fit, wall s", "CPU s", "MB a device, in shapes", "at work", "log L"]
    body = []
    for row in rows:
        pairs = [
            abs(a - b)
            for name in ("estimates", "se")
            for a, b in zip(row[name], rows[0][name], strict=True)
            if a == a  # NaN where nothing was estimated
        ]
        clocks = ("evaluation_wall", "evaluation_cpu", "fit_wall", "fit_cpu")
        cells = [row["name"], *(show(row[clock]) for clock in clocks)]
        cells += [show(max(row["bytes_held"].values()) / 1e6), show(row["bytes_at_work"] / 1e6, 1)]
        body.append([*cells, show(row["log_likelihood"], 3), f"{max(pairs):.1e}"])
    explanation = (
        f"{results['groups']:,} simulated subjects. Devices of one CPU share its cores, so the rows show the cost of "
        "distributing groups and the memory of a device. The last column is the largest difference of an estimate or "
        "standard error from the first row."
    )
    parts = ["### Devices, processes, chunks", origin(results, name), explanation, table([*header, "difference"], body)]
    return "\n\n".join(parts)


def saem_table(rows: list[Record]) -> str:
    """SAEM with many subjects and with many chains."""
    header = ["groups", "chains", "SAEM, wall s", "first run, wall s", "ms an iteration"]
    body = [
        [f"{r['groups']:,}", f"{r['chains']:,}", show(r["fit_wall"], 3), show(r["first_fit_wall"])]
        + [show(r["milliseconds_per_iteration"]), show(r["monte_carlo_share"], 3)]
        for r in rows
    ]
    return table([*header, "largest Monte Carlo error, standard errors"], body)


def gpu(results: Record, name: str) -> str:
    """Results of gpu.py on one device."""
    stages: dict[str, list[Record]] = {}
    for row in results["rows"]:
        stages.setdefault(row["stage"], []).append(row)
    parts = [f"#### {', '.join(results['about']['device'])}", origin(results, name)]
    if "fits" in stages:
        header = ["groups", "Psi", "fit, wall s", "first fit, wall s", "of it compiling", "log L", "referee log L"]
        body = [
            [f"{r['groups']:,}", r["psi"], show(r["fit_wall"], 3), show(r["first_fit_wall"])]
            + [show(r.get("first_fit_compiling")), show(r["log_likelihood"], 3), show(r["referee"], 3)]
            for r in stages["fits"]
        ]
        parts.append(table(header, body))
    tables = {"saem": saem_table, "units": units_table, "scaling": scaling_table, "batches": batches_table}
    parts += [write(stages[stage]) for stage, write in tables.items() if stage in stages]
    return "\n\n".join(parts)
