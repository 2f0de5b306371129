"""Coverage of 90% and 95% intervals on simulated dose-response data, FOCEI from true starts: Wald, profile, bootstrap.

    python benchmarks/trust_tables/coverage.py [--designs emaxRich hillSparse] [--kinds wald profile bootstrap]
        [--sets 1-100] [--replicates 200] [--table]

A row (a design, a kind of interval, a set, of the bootstrap also a number of replicates) goes to
results/trust_coverage.json at once, and one that is there is not computed again, unless `--again` asks for it. Wald: of
`fit.confidence_intervals`, symmetric on logarithmic scales (typical values, standard deviations, residual) and on
Fisher's z (correlations). Profile: the truth is inside where the signed root of the deviance at it, interpolated in the
table of `fit.profile`, is below the normal quantile. Bootstrap: percentiles of `fit.bootstrap`, groups drawn.
Sets whose fit did not converge have no interval; they are counted, and left out of the coverage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from provenance import about_this_process  # noqa: E402
from reporting.cells import table as markdown  # noqa: E402
from results import FOLDER, Record, add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402
from trust_tables import plan_design as design_of  # noqa: E402
from trust_tables.plan2012 import run_and_print, sets, with_defaults  # noqa: E402

FILE, LEVELS, KINDS = "trust_coverage.json", (0.9, 0.95), ("wald", "profile", "bootstrap")
QUANTILES = {0.9: 1.6448536269514722, 0.95: 1.959963984540054}


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are the whole study."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--designs", nargs="+", choices=design_of.DESIGNS, default=["emaxRich", "hillSparse"])
    out.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    out.add_argument("--sets", type=sets, default=sets(f"1-{design_of.SETS}"), help="such as 1-20")
    out.add_argument("--replicates", type=int, default=200, help="of a bootstrap")
    out.add_argument("--seconds", type=float, default=math.inf, help="stop after these")
    out.add_argument("--again", action="store_true", help="the rows asked for are made anew")
    out.add_argument("--table", action="store_true", help="print the section from the results on file")
    add_folder(out)
    return out


def truth(design: str) -> dict[str, float]:
    """The truth by the names of `fit.values`: typical values, standard deviations, the correlation, b."""
    psi, effects = design_of.PSI, ("E0", "Emax", "ED50")
    typical = {k: v for k, v in design_of.TRUTH.items() if k in design_of.names(design)}
    spread = {f"sd({name})": math.sqrt(psi[k, k]) for k, name in enumerate(effects)}
    return typical | spread | {"corr(Emax, ED50)": psi[1, 2] / math.sqrt(psi[1, 1] * psi[2, 2]), "b": design_of.B}


def inside(lower: float, upper: float, at: float) -> bool | None:
    """True if an interval covers `at`; None without limits."""
    return None if not (math.isfinite(lower) and math.isfinite(upper)) else bool(lower <= at <= upper)


def zeta_at(values: np.ndarray, zeta: np.ndarray, at: float) -> float:
    """The signed root of the deviance at `at` from a profile's points, linear between them; infinite outside them where
    the profile has passed the 95% quantile on that side, NaN where it has not."""
    order = np.argsort(values)
    values, zeta = values[order], zeta[order]
    if values[0] <= at <= values[-1]:
        return float(np.interp(at, values, zeta))
    end = zeta[0] if at < values[0] else zeta[-1]
    return math.copysign(math.inf, at - values[0]) if abs(end) >= 0.99 * QUANTILES[0.95] else math.nan


def covered(
    fit: jn.Fit, design: str, kind: str, replicates: int | None, seed: int
) -> dict[float, dict[str, bool | None]]:
    """Whether the intervals of a fit cover the truth, by level and name."""
    true = truth(design)
    if kind == "profile":
        table = fit.profile(progress=False).table
        out: dict[float, dict[str, bool | None]] = {level: {} for level in LEVELS}
        for name, at in true.items():
            points = table[(table["parameter"] == name) & np.isfinite(table["zeta"])]
            zeta = (
                zeta_at(points["value"].to_numpy(float), points["zeta"].to_numpy(float), at)
                if len(points)
                else math.nan
            )
            for level in LEVELS:
                out[level][name] = None if math.isnan(zeta) else abs(zeta) <= QUANTILES[level]
        return out
    if replicates is not None:
        bootstrap = fit.bootstrap(replicates, seed=seed, progress=False)
        tables = {level: bootstrap.intervals(level)[["lower", "upper"]] for level in LEVELS}
    else:
        tables = {level: _wald(fit, level) for level in LEVELS}
    return {
        level: {name: inside(float(t.lower[name]), float(t.upper[name]), at) for name, at in true.items()}
        for level, t in tables.items()
    }


def _wald(fit: jn.Fit, level: float) -> Any:
    """Wald limits by name: typical values on their natural scale."""
    table = fit.confidence_intervals(level)
    natural = np.isfinite(table["value"])
    limits = {side: np.where(natural, table[f"value_{side}"], table[side]) for side in ("lower", "upper")}
    return pd.DataFrame(limits, index=table.index)


def key(row: dict[str, Any]) -> tuple[str, str, int, int | None]:
    """What a row is about: design, kind, set and, of a bootstrap, replicates."""
    return row["design"], row["kind"], row["set"], row.get("replicates")


def run(options: argparse.Namespace | None = None) -> None:
    """Compute the rows that `options` (of `parser`; None: its defaults) ask for and the results file lacks."""
    options = with_defaults(parser(), options)
    stop = time.monotonic() + options.seconds
    warnings.simplefilter("ignore")
    path = options.folder / FILE
    asked = [
        (design, kind, number, options.replicates if kind == "bootstrap" else None)
        for design, kind, number in itertools.product(options.designs, options.kinds, options.sets)
    ]
    earlier = [row for row in rows_on_file(options.folder) if not (options.again and key(row) in asked)]
    results = Record(path, about_this_process() | {"dtype": "float64"}, levels=list(LEVELS))
    results.rows.extend(earlier)
    known = {key(row) for row in earlier}
    for design, kind, number, replicates in asked:
        if time.monotonic() > stop:
            return
        if (design, kind, number, replicates) not in known:
            results.add(_one(design, kind, number, replicates))
            print(results.rows[-1], flush=True)


def _one(design: str, kind: str, number: int, replicates: int | None) -> dict[str, Any]:
    """The row of one set: `90`, `95`, a character for each name of `truth`: 1 covered, 0 not, - no interval."""
    began = time.process_time()
    start = design_of.start(design, "true")
    fit = jn.fit(design_of.model(design), design_of.data(design, number), "focei", start=start, progress=False)
    row: dict[str, Any] = {"design": design, "kind": kind, "set": number, "converged": bool(fit.converged)}
    row |= {} if replicates is None else {"replicates": replicates}
    if not fit.converged:
        return row
    try:
        found = covered(fit, design, kind, replicates, number)
    except jn.errors.OptionError as problem:
        return row | {"reason": str(problem)[:160]}
    marks = {
        f"{100 * level:.0f}": "".join("-" if c is None else str(int(c)) for c in found[level].values())
        for level in LEVELS
    }
    return row | marks | {"cpu_s": round(time.process_time() - began, 2)}


def coverage(rows: list[dict[str, Any]], level: str, position: int) -> tuple[float, float, int]:
    """Coverage of the intervals of `level` ("90") of the name at `position`, its Monte Carlo standard error, and the
    number of intervals."""
    marks = [row[level][position] for row in rows if level in row and row[level][position] != "-"]
    if not marks:
        return math.nan, math.nan, 0
    share = sum(mark == "1" for mark in marks) / len(marks)
    return share, math.sqrt(share * (1.0 - share) / len(marks)), len(marks)


def rows_on_file(folder: Path) -> list[dict[str, Any]]:
    """The rows of the results file, none where it is missing."""
    return json.loads((folder / FILE).read_text())["rows"] if (folder / FILE).exists() else []


def table(folder: Path = FOLDER) -> list[str]:
    """The section of the benchmark page."""
    rows = rows_on_file(folder)
    if not rows:
        return []
    out = [
        "FOCEI from true starts on simulated dose-response data; standard deviations of log-normal effects. Percent of "
        "intervals that cover the truth, with the Monte Carlo standard error, at 90% / 95%. Sets whose fit did not "
        "converge are counted and left out. Bootstrap: percentiles of the replicates, subjects drawn.", "",
    ]  # fmt: skip
    for design in dict.fromkeys(row["design"] for row in rows):
        names = list(truth(design))
        body = []
        for name, chosen in by_kind(rows, design).items():
            used = sum("90" in row for row in chosen)
            body.append([f"{name}: {used} of {len(chosen)} sets", *(_cell(chosen, k) for k in range(len(names)))])
        out += [f"{design}:", "", markdown(["interval", *names], body), ""]
    return out


def by_kind(rows: list[dict[str, Any]], design: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a design by the kind of interval, those of a bootstrap by the number of replicates, too."""
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        for row in rows:
            if (row["design"], row["kind"]) == (design, kind):
                name = f"{kind} of {row['replicates']} replicates" if kind == "bootstrap" else kind
                found.setdefault(name, []).append(row)
    return found


def mean_coverage(rows: list[dict[str, Any]], level: str, positions: list[int]) -> tuple[float, float]:
    """The mean over sets of the share of the intervals at `positions` that cover the truth, and its Monte Carlo
    standard error, which allows for intervals of one set that miss together."""
    marks = [[row[level][k] for k in positions if row[level][k] != "-"] for row in rows if level in row]
    shares = [np.mean([mark == "1" for mark in of]) for of in marks if of]
    return (float(np.mean(shares)), float(np.std(shares) / math.sqrt(len(shares)))) if shares else (math.nan, math.nan)


def _cell(rows: list[dict[str, Any]], position: int) -> str:
    found = [coverage(rows, level, position) for level in ("90", "95")]
    if not found[0][2]:
        return "-"
    return " / ".join(f"{100 * share:.0f} ({100 * se:.0f})" for share, se, _ in found)


def small_table(folder: Path = FOLDER) -> list[str]:
    """The table of the README: 95% coverage averaged over typical values, psi and b, with its standard error."""
    rows = rows_on_file(folder)
    if not rows:
        return []
    body = []
    for design in dict.fromkeys(row["design"] for row in rows):
        names = list(truth(design))
        parts = {
            "typical values": [k for k, name in enumerate(names) if name in design_of.TRUTH],
            "psi": [k for k, name in enumerate(names) if "(" in name], "b": [names.index("b")],
        }  # fmt: skip
        for name, chosen in by_kind(rows, design).items():
            pairs = [mean_coverage(chosen, "95", of) for of in parts.values()]
            used = f"{sum('95' in row for row in chosen)} of {len(chosen)}"
            body.append([f"{design}, {name}", used, *(f"{100 * share:.0f} ({100 * se:.0f})" for share, se in pairs)])
    return [markdown(["design, 95% intervals", "sets", "typical values", "psi", "b"], body)]


if __name__ == "__main__":
    run_and_print(parser().parse_args(), run, table)
