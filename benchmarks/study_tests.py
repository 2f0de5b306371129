"""The study tier of the tests: further models, residual models and covariances for the assertions that the standard and
the long tier make on a few.

    JAXNLME_REFERENCE=... python benchmarks/study_tests.py [-k EXPRESSION]

Runs `pytest -m study` and writes results/study_tests.csv, one row a test: node id, outcome and seconds; with -k, the
rows of the tests chosen replace earlier ones. results/study_tests.json holds machine, day, commit and versions. The
exit code is that of pytest.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from provenance import LIBRARIES, about, version_of

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def outcomes(report: Path) -> dict[str, tuple[str, float]]:
    """Outcome and seconds of each test by node id, from pytest's JUnit report."""
    rows = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.attrib['classname'].removeprefix('tests.').replace('.', '/')}.py::{case.attrib['name']}"
        kinds = [kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None]
        rows[name] = (kinds[0] if kinds else "passed", float(case.attrib["time"]))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", dest="expression", default=None, help="only these tests, as pytest's -k")
    options = parser.parse_args()
    provenance = about()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-n", "2", "-q", "-m", "study", f"--junitxml={report}"]
        command += ["-k", options.expression] if options.expression else []
        code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
        rows = outcomes(report)
    table = RESULTS / "study_tests.csv"
    if options.expression and table.exists():
        with table.open() as file:
            earlier = {row["test"]: (row["outcome"], float(row["seconds"])) for row in csv.DictReader(file)}
        rows = earlier | rows
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("test", "outcome", "seconds"))
        writer.writerows((name, outcome, f"{seconds:.1f}") for name, (outcome, seconds) in sorted(rows.items()))
    versions = {name: version_of(name) for name in LIBRARIES}
    (RESULTS / "study_tests.json").write_text(json.dumps(provenance | {"versions": versions}, indent=1) + "\n")
    counts = {outcome: sum(row[0] == outcome for row in rows.values()) for outcome in {row[0] for row in rows.values()}}
    print(f"{table}: {counts}")
    return code


if __name__ == "__main__":
    sys.exit(main())
