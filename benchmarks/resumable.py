"""The command line of a study that is resumed from its results file: how much to run, the table, and one case."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import add_folder


def run(
    doc: str | None,
    file: str,
    number: int,
    study: Callable[[Path, list[str] | None, int, float], None],
    show: Callable[[int], None],
    read: Callable[[Path], list[dict[str, Any]]],
    print_table: Callable[[list[dict[str, Any]]], None],
    print_failures: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Do what the command line asks: go on with the study and print its table, the table only, or one case.

    **Arguments:** `doc` of the script; `file`: name of the results file; `number`: where the study ends by default;
    `study(path, only, number, seconds)`; `show(number)`; `read(path)`, the rows on file; and the two that print them.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=number, help="fits or runs after which the study ends")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--only", nargs="+", help="cases whose printed name contains one of these")
    parser.add_argument("--table", action="store_true", help="print the table from the results on file")
    parser.add_argument("--failures", action="store_true", help="print the rows behind the table as well")
    parser.add_argument("--show", type=int, metavar="CASE", help="fit one case, and print all that its fits say")
    add_folder(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = options.folder / file
    if options.show is not None:
        show(options.show)
        return
    if not options.table:
        study(path, options.only, options.number, options.seconds)
    rows = read(path)
    print_table(rows)
    if options.failures:
        print_failures(rows)
