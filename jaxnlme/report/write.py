"""`fit.report`: the page written to a file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxnlme.arguments import check_path, require_host
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.files import write_file
from jaxnlme.report.blocks import Page
from jaxnlme.report.contents import ReportOptions, page_of
from jaxnlme.report.outcome_sections import check_comparison
from jaxnlme.report.render import render, require_libraries
from jaxnlme.report.settings import REPORT

MIN_REPLICATES = 2  # for percentiles
SUFFIXES = (".html", ".htm")


def report(
    fit: Any,
    path: str | Path,
    compare: Any = (),
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    pictures: bool | str | Sequence[str] = True,
    replicates: int = REPORT.replicates,
    page: Callable[[Any, ReportOptions], Page] = page_of,
) -> Path:
    """Write a fit as one HTML page that holds all it shows: it loads nothing from the network and runs no script.

    Order: the status in sentences; estimates with standard errors, relative ones and intervals; likelihood and
    criteria; the model in words and formulas; the data; tests of residuals and random effects; pictures; convergence;
    the comparison with other fits; options, versions, and digests of data and model. The page is light or dark as its
    reader's system, and prints. Numbers are shown with four digits; their cells, and a JSON record at the end of the
    page, hold them in full.

    A fit that did not converge says so first, in red; one that could not start has the sections that it can have.

    **Arguments:**

    - `fit`; `path` of the file, ".html"; an earlier file there is replaced once the new one is complete.
    - `compare`: another fit of the same responses, a list of them, or the result of `jn.compare`.
    - `names` of the fits in the comparison, this one's first; None: "this fit", "fit 2", ...
    - `title` of the page; None: the name of the model and the method.
    - `pictures`: True, False for none, or names of methods of `fit.plot` among those that reports have.
    - `replicates`: simulated data sets of the visual predictive check and of npde; 0 leaves both out.
    - `page`: makes the page of a fit of this kind; fits pass their own.

    **Returns:** the path.
    **Raises:** OptionError for a path that is no HTML file or cannot be written, unknown pictures, and fits that are
    not comparable; ImportError where jinja2 or great-tables is missing, with the extra to install. A picture that this
    fit cannot have is missing from the page, which states the reason.
    """
    require_host("fit.report")
    require_libraries()
    path = check_path("path", path)
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(
            f"path: a report is an HTML page; name a file such as 'report.html'; received {shown(str(path))}."
        )
    if path.is_dir() or not path.parent.is_dir():  # before the work, not after it
        why = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
        raise OptionError(f"path: {path} {why}; name a file in a folder that exists.")
    if title is not None and not isinstance(title, str):
        raise OptionError(f"title must be text, or None; received {shown(title)}.")
    if isinstance(replicates, bool) or replicates != 0:
        check_whole_number("replicates", replicates, MIN_REPLICATES, "the number of simulated data sets, or 0,")
    comparison = check_comparison(fit, compare, names)
    moment = datetime.datetime.now().astimezone()
    content = render(page(fit, ReportOptions(title, comparison, pictures, replicates, moment)))
    write_file(path, content.encode(), "report.html")
    return path
