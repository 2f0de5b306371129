"""Fits of R's lme, gls, lmer and gnls beside jn.lme and jn.gls.

    JAXNLME_REFERENCE=... python benchmarks/study_linear.py [--only Orthodont Wafer] [--again]
    python benchmarks/study_linear.py --table

Every fit of these functions in the reference folder is made anew, and compared in log-likelihood, fixed effects,
variances, parameters of the residual covariance, random effects, standard errors and criteria. The likelihood at the
estimates of both is computed from the covariance matrix of the rows, without our engine. Five of the fits are repeated
with other units, another zero of the covariate and shuffled rows. results/linear_references.json has a row a fit; a run
goes on with the fits that are not on file (--again: those chosen are made anew).
"""

from __future__ import annotations

import argparse
import json
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
from reporting import linear_references  # noqa: E402
from results import Record, add_folder, number  # noqa: E402

import jaxnlme as jn  # noqa: E402
from tests.linear import reference_calls  # noqa: E402
from tests.linear.invariance import INVARIANCE, differences  # noqa: E402
from tests.linear.reference_comparison import compared, nonlinear_compared, outcome_of  # noqa: E402

REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent.parent / "shared" / "reference")
FILE = "linear_references.json"


def measured(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """The row of one reference fit."""
    row: dict[str, Any] = {
        "name": name,
        "program": reference_calls.program_of(record),
        "method": reference_calls.method_of(record),
        "reference_status": record["status"],
    }
    began = time.perf_counter()
    try:
        if reference_calls.call_of(record) is None:
            table = reference_calls.table_of(REFERENCE, record["dataset"])
            data = jn.GroupedData.from_frame(table, "Tree", "circumference", ["age"])
            nonlinear = jn.fit(reference_calls.logistic_model(), data, "lme")
            row |= {"seconds": round(time.perf_counter() - began, 2), "converged": bool(nonlinear.converged)}
            row |= {"status": str(nonlinear.status).splitlines(), **nonlinear_compared(nonlinear, record)}
        else:
            fit = reference_calls.fit_of(REFERENCE, record)
            row |= {"seconds": round(time.perf_counter() - began, 2), "converged": fit.converged}
            row |= {"status": list(fit.status.sentences), "log_likelihood": fit.log_likelihood}
            if record["status"] != "failed":
                row |= compared(fit, record)
    except jn.ModelError as error:
        return row | {"outcome": "refused", "status": [str(error)]}
    row["outcome"] = "R failed" if record["status"] == "failed" else outcome_of(row)
    return {key: number(value) if isinstance(value, (float, np.floating)) else value for key, value in row.items()}


def read(path: Path) -> dict[str, Any]:
    """The results on file."""
    return json.loads(path.read_text()) if path.exists() else {"rows": [], "invariance": []}


def study(path: Path, only: list[str] | None, again: bool) -> None:
    """Measure the reference fits that are not on file, and write the file after each."""
    before = read(path)
    rows = {row["name"]: row for row in before["rows"]}
    of_fits = {row["name"]: row for row in before["invariance"]}
    records = reference_calls.records(REFERENCE)
    file = Record(path, about_this_process(), invariance=[])
    for name, record in records.items():
        if (only and not any(part in name for part in only)) or (name in rows and not again):
            continue
        rows[name] = measured(name, record)
        print(f"{name}: {rows[name]['outcome']}, log L {rows[name].get('log_likelihood')}", flush=True)
        if name in INVARIANCE:
            of_fits[name] = {"name": name} | differences(REFERENCE, name)
            print(f"  {of_fits[name]}", flush=True)
        file.rows[:] = [rows[name] for name in records if name in rows]
        file.content["invariance"][:] = [of_fits[name] for name in records if name in of_fits]
        file.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="fits whose name contains one of these")
    parser.add_argument("--again", action="store_true", help="fits on file are made anew")
    parser.add_argument("--table", action="store_true", help="print the table from the results on file")
    add_folder(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = options.folder / FILE
    if not options.table:
        study(path, options.only, options.again)
    print(linear_references.tables(read(path)))


if __name__ == "__main__":
    main()
