"""The tiers of the tests.

- standard: what README's line runs: every feature by its fastest cases;
- `slow`, the long tier (`tiers/long.txt`): features whose fastest case takes long, and more cases of each feature;
- `study` (`tiers/study.txt`): the other cases of the same tests (further models, residual models, covariances);
  `benchmarks/study_tests.py` runs them and records the outcome of each in `benchmarks/results/study_tests.csv`;
- `pages`: the notebooks and the pages of docs/, whose blocks are executed.

The two lists hold node ids ("tests/" left out), one a line. `python tests/tiers.py REPORT ...` writes them anew from
the output of `pytest --durations=0 -vv`; a test that no report names stays where it is. A line that names no test is an
error.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "tiers"
# Notebooks and the pages of docs/: shell patterns of node ids.
PAGES = ("test_notebooks.py::test_notebook_runs*", "test_readme.py::test_python_blocks_run*")
# README's own block is always in the standard tier.
README = "test_readme.py::test_python_blocks_run[README]"

# Seconds up to which every case is in the standard tier; up to which the fastest case of a test function is there, if
# it has none that is faster; cases of a function in the standard and the long tier together; seconds up to which the
# cases beyond the first may be.
EVERY_CASE, FASTEST_CASE, CASES, FURTHER_CASE = 1.5, 5.0, 2, 4.0


def listed(tier: str) -> list[str]:
    """The node ids of a tier, "long" or "study"."""
    path = FOLDER / f"{tier}.txt"
    return path.read_text().splitlines() if path.exists() else []


def is_page(name: str) -> bool:
    """True for the node id of a notebook or page."""
    return name != README and any(fnmatch.fnmatchcase(name, pattern) for pattern in PAGES)


def measured(reports: Iterable[Path]) -> dict[str, float]:
    """Seconds of each test by node id, set up and tear down included, from the output of `pytest --durations=0 -vv`."""
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        for line in report.read_text().splitlines():
            match = re.match(r"\s*([\d.]+)s (?:call|setup|teardown)\s+tests/(\S.*)", line)
            if match:
                seconds[match[2].strip()] += float(match[1])
    return seconds


def assigned(seconds: dict[str, float]) -> dict[str, list[str]]:
    """The node ids of the tiers "long" and "study"; `seconds` of each test by node id."""
    functions: dict[str, list[str]] = defaultdict(list)
    for name in seconds:
        if not is_page(name) and name != README:
            functions[name.partition("[")[0]].append(name)
    tiers: dict[str, list[str]] = {"long": [], "study": []}
    for cases in functions.values():
        cases.sort(key=lambda name: seconds[name])
        standard = [name for name in cases if seconds[name] <= EVERY_CASE]
        if not standard and seconds[cases[0]] <= FASTEST_CASE:
            standard = cases[:1]
        rest = cases[len(standard) :]
        room = max(CASES - len(standard), 0 if standard else 1)
        long = [name for k, name in enumerate(rest[:room]) if seconds[name] <= FURTHER_CASE or not (standard or k)]
        tiers["long"] += long
        tiers["study"] += rest[len(long) :]
    return tiers


def main(arguments: list[str]) -> None:
    seconds = measured(Path(name) for name in arguments)
    tiers = assigned(seconds)
    FOLDER.mkdir(exist_ok=True)
    for tier, names in tiers.items():
        kept = [name for name in listed(tier) if name not in seconds]
        (FOLDER / f"{tier}.txt").write_text("\n".join(sorted({*names, *kept})) + "\n")
        print(f"{tier}: {len(names)} tests, {sum(seconds[name] for name in names):.0f} s")
    in_lists = {name for names in tiers.values() for name in names}
    standard = [name for name in seconds if name not in in_lists and not is_page(name)]
    print(f"standard: {len(standard)} tests, {sum(seconds[name] for name in standard):.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
