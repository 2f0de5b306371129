"""Asking the programs and keeping their answers: a results file whose rows are written one by one."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from provenance import about
from results import FOLDER, Record

from trust_tables.judging import WRONG, judged, local_gain
from trust_tables.problem import HardFit
from trust_tables.programs import OURS, PACKAGES, chosen, workers
from trust_tables.workers import Worker

OURS_LIMIT, PEER_LIMIT = 240.0, 120.0
"""Seconds for an answer: ours compiles at the first fit of a curve."""


def read(file: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A results file, empty where there is none."""
    path = folder / file
    return json.loads(path.read_text()) if path.exists() else {"rows": [], "maxima": {}}


def record_of(file: str, folder: Path, now: dict[str, Any] | None = None) -> Record:
    """The results file with its rows and maxima, ready for more; `now`: the `about` of a run, which replaces all but
    the versions on file."""
    before = read(file, folder)
    earlier = before.get("about", {})
    versions = {"versions": earlier["versions"]} if "versions" in earlier else {}
    record = Record(folder / file, earlier if now is None else now | versions, maxima=before["maxima"])
    record.rows[:] = before["rows"]
    return record


def add_versions(record: Record, name: str, worker: Worker) -> None:
    """The versions that the worker of this name reports, in place of those on file."""
    reported = worker.ask({"versions": PACKAGES[name]}, OURS_LIMIT).get("versions", {})
    content = record.content["about"]
    content["versions"] = content.get("versions", {}) | reported


def run(file: str, fits: Iterable[HardFit], options: argparse.Namespace) -> None:
    """Ask every chosen program that can express a fit and has no answer on file; judge the fit anew where one came."""
    record = record_of(file, options.folder, about())
    began, processes = time.monotonic(), workers()
    with_versions: set[str] = set()
    absent = {p.worker for p in chosen(options.programs)} - set(processes)
    if absent:
        print(f"not installed, and left out: {', '.join(sorted(absent))}", flush=True)
    try:
        for fit in fits:
            rows = {row["program"]: row for row in record.rows if row["case"] == fit.name}
            new = False
            for program in chosen(options.programs):
                if time.monotonic() - began > options.seconds:
                    return
                if program.kind(fit) is None or program.worker not in processes or program.name in options.skip:
                    continue
                if program.name in rows and not options.again:
                    continue
                if program.worker not in with_versions:
                    add_versions(record, program.worker, processes[program.worker])
                    with_versions.add(program.worker)
                limit = OURS_LIMIT if program.worker == OURS else PEER_LIMIT
                answer = processes[program.worker].ask(fit.to_json() | {"program": program.asked}, limit)
                row = {"case": fit.name, "hardness": fit.hardness, "program": program.name, "answer": answer}
                if program.name in rows:
                    record.rows.remove(rows[program.name])
                rows[program.name], new = row, True
                record.add(row)
            if new or any("expects" not in row for row in rows.values()):
                judge(fit, rows, record)
    finally:
        for worker in processes.values():
            worker.close()


def judge(fit: HardFit, rows: dict[str, dict[str, Any]], record: Record) -> None:
    """The outcomes of a fit's rows, on file."""
    began = time.monotonic()
    programs = {program.name: program for program in chosen(None)}
    found, tops = judged(
        fit, {programs[name]: row["answer"] for name, row in rows.items()}, record.content["maxima"].get(fit.name)
    )
    for name, row in rows.items():
        row |= found[name] | {"hardness": fit.hardness, "expects": fit.expects}
    record.content["maxima"][fit.name] = tops
    record.write()
    said = ", ".join(f"{name}: {row['outcome']} ({_short(row['below'])})" for name, row in rows.items())
    print(f"{fit.name}: {said}; judged in {time.monotonic() - began:.1f} s", flush=True)


def explain(file: str, fits: Iterable[HardFit], folder: Path = FOLDER) -> None:
    """Whether the ends that are converged and wrong are local maxima: `gain` of the rows that have none. Fits without a
    single maximum are left out."""
    record = record_of(file, folder)
    programs = {program.name: program for program in chosen(None)}
    judged_rows = [row for row in record.rows if row.get("outcome") == WRONG and row["expects"] != "none"]
    wrong = [row for row in judged_rows if "gain" not in row]
    cases = {row["case"] for row in wrong}
    for fit in fits if cases else ():
        for row in [row for row in wrong if row["case"] == fit.name]:
            row["gain"] = local_gain(fit, row["answer"], programs[row["program"]])
            record.write()


def rejudge(file: str, fits: Iterable[HardFit], folder: Path = FOLDER, again: bool = False) -> None:
    """Judge the answers on file anew, after a change of the rules; `again`, after one of the referee: the maxima and
    gains are computed anew, too."""
    record = record_of(file, folder)
    for fit in fits:
        rows = {row["program"]: row for row in record.rows if row["case"] == fit.name}
        if again:
            record.content["maxima"].pop(fit.name, None)
        for row in rows.values():
            if again or fit.expects == "none":
                row.pop("gain", None)
        if rows:
            judge(fit, rows, record)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
