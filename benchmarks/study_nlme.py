"""Fits of R's nlme, lme and gls with nested levels, variance functions or correlation beside LME and RELME.

    JAXNLME_REFERENCE=... python benchmarks/study_nlme.py [--seconds S] [--only PBG Wafer] [--again]
    python benchmarks/study_nlme.py --table [--failures]

Two sources: the reference folder (all fits with two levels, with varPower, varConstPower or varIdent, or with a
correlation), and the trusted fits of results/correlated_nlme.json. Each is fitted from the reference's start and from
its estimates, and measured at its estimates; results/nlme_levels.json has a row a fit, and a run goes on with the fits
that are not on file (--again: those chosen are made anew). --table prints the table of README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
jax.config.update("jax_enable_x64", True)

from provenance import about_this_process  # noqa: E402
from reporting import nlme_levels  # noqa: E402
from results import Record, add_folder, number  # noqa: E402

from tests.estimators.lindstrom_bates import correlated_models, level_models  # noqa: E402
from tests.estimators.lindstrom_bates.level_fits import (  # noqa: E402
    Case,
    distance,
    reference_values,
    reported_log_likelihood,
)

REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent.parent / "shared" / "reference")
FILE = "nlme_levels.json"


def cases() -> list[tuple[str, str]]:
    """Source and name of every reference fit."""
    folder = [("folder", name) for name in level_models.targets()]
    return folder + [("correlated", name) for name in correlated_models.targets()]


def case_of(source: str, name: str) -> Case:
    return (level_models if source == "folder" else correlated_models).case(REFERENCE, name)


def measured(source: str, name: str) -> dict[str, Any]:
    """The row of one reference fit."""
    began = time.perf_counter()
    case = case_of(source, name)
    fit, again = case.fit(), case.fit(case.params())
    row: dict[str, Any] = {
        "source": source,
        "name": name,
        "program": case.program,
        "method": "REML" if case.restricted else "ML",
        "levels": list(case.effects),
        "not_trusted": case.not_trusted,
        "converged": bool(fit.converged),
        "from_reference_converged": bool(again.converged),
        "log_likelihood": fit.log_likelihood,
        "reference_log_likelihood": case.log_likelihood,
        "status": str(fit.status).splitlines()[0],
        "from_reference_status": str(again.status).splitlines()[0],
    }
    for end, key in ((fit, "residual"), (again, "from_reference_residual")):
        row[key] = case.residual(end.params, np.asarray(end.modes)).residual
    row["ends_apart"], row["ends_entry"] = distance(fit, again.values)
    row["ends_log_likelihood"] = again.log_likelihood - fit.log_likelihood
    row["reference_apart"], row["reference_entry"] = distance(again, reference_values(case))
    at_modes = case.residual(case.params())
    row["reference_residual"] = at_modes.residual
    row["at_our_modes"] = at_modes.log_likelihood - case.log_likelihood
    has_effects = bool(case.effects)
    row["at_its_effects"] = reported_log_likelihood(case) - case.log_likelihood if has_effects else row["at_our_modes"]
    row["zero_sds"] = [key for key, value in fit.values.items() if key.startswith("sd(") and value == 0.0]
    row = {key: number(value) if isinstance(value, (float, np.floating)) else value for key, value in row.items()}
    return row | {"seconds": round(time.perf_counter() - began, 2)}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows on file."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def study(path: Path, only: list[str] | None, seconds: float, again: bool) -> None:
    """Measure the reference fits that are not on file, and write the file after each."""
    end = time.monotonic() + seconds
    rows = {row["name"]: row for row in read_rows(path)}
    record = Record(path, about_this_process())
    for source, name in cases():
        if (only and not any(part in name for part in only)) or (name in rows and not again):
            continue
        if time.monotonic() > end:
            break
        rows[name] = measured(source, name)
        row = rows[name]
        print(
            f"{name}: {nlme_levels.outcome(row)}, residual {row['residual']}, ends {row['ends_apart']} apart, "
            f"reference residual {row['reference_residual']}, log L {row['at_its_effects']}",
            flush=True,
        )
        record.rows[:] = [rows[name] for _, name in cases() if name in rows]
        record.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--only", nargs="+", help="fits whose name contains one of these")
    parser.add_argument("--again", action="store_true", help="fits on file are made anew")
    parser.add_argument("--table", action="store_true", help="print the table from the results on file")
    parser.add_argument("--failures", action="store_true", help="print what our fits say where they are short")
    add_folder(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = options.folder / FILE
    if not options.table:
        study(path, options.only, options.seconds, options.again)
    rows = read_rows(path)
    print(nlme_levels.tables(rows))
    if options.failures:
        for row in rows:
            if nlme_levels.outcome(row) == "ours short":
                print(f"{row['name']}\n  from the start: {row['status']}")
                print(f"  from the reference: {row['from_reference_status']}")


if __name__ == "__main__":
    main()
