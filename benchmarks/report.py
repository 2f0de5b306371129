"""Write the tables and plots of benchmarks/README.md, and the small tables of trust in README.md, from the existing
results files.

    python benchmarks/report.py [--folder results] [--page README.md]

Everything in the page between the two marker lines is replaced; the prose around it is kept. A results file that is
missing is named with the command that makes it. Plots go to images/ beside the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import (
    comparison,
    compile_cost,
    costs,
    coverage,
    first_fit,
    grid,
    levels_cost,
    levels_coverage,
    likelihood_ratio,
    linear,
    linear_references,
    nlme_levels,
    pkpd,
    plots,
    references,
    saem,
    trust,
)
from results import FOLDER, HERE

MARKERS = ("<!-- tables: written by report.py -->", "<!-- end of tables -->")
# results file: (its section, its plots, the command that makes it)
SECTIONS: dict[str, tuple[Callable, Callable | None, str]] = {
    "first_fit.json": (first_fit.section, None, "first_fit.py"),
    "fits.json": (comparison.section, None, "run.py"),
    "lindstrom_bates.json": (
        comparison.lindstrom_bates,
        None,
        "run.py --name lindstrom_bates.json --peers nlme pynlme-r pynlme-foce",
    ),
    "references.json": (references.section, None, "references.py"),
    "saem_fits.json": (saem.section, None, "saem.py"),
    "linear.json": (linear.section, None, "linear.py"),
    "large.json": (costs.large, None, "large.py"),
    "units.json": (costs.units, None, "units.py"),
    "scaling.json": (costs.scaling, plots.scaling, "scaling.py"),
    "batches.json": (costs.batches, None, "batches.py"),
    "devices.json": (costs.devices, plots.devices, "devices.py"),
    "compile_cost.json": (compile_cost.section, None, "compile_cost.py"),
    "pkpd.json": (pkpd.section, None, "pkpd.py"),
    "coverage.json": (coverage.section, None, "study_coverage.py"),
    "grid.json": (grid.section, None, "study_grid.py"),
    "levels_cost.json": (levels_cost.section, None, "levels_cost.py --baseline PATH"),
    "levels_coverage.json": (levels_coverage.section, None, "study_levels.py"),
    "likelihood_ratio.json": (likelihood_ratio.section, None, "study_likelihood_ratio.py"),
    "nlme_levels.json": (nlme_levels.section, None, "study_nlme.py"),
    "linear_references.json": (linear_references.section, None, "study_linear.py"),
}
NO_GPU = 'No run on a GPU is on record yet. With one: `pip install -e . "jax[cuda12]"` and `python benchmarks/gpu.py`.'


def read(path: Path) -> dict[str, Any] | None:
    """A results file, or None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def pictures(paths: list[Path], page: Path) -> list[str]:
    """Markdown of plots, by their paths from the page."""
    return [f"![{path.stem}]({path.relative_to(page.parent)})" for path in paths]


def sections(folder: Path, page: Path) -> list[str]:
    """Everything between the markers."""
    parts = []
    for name, (write, draw, script) in SECTIONS.items():
        results = read(folder / name)
        if results is None:
            parts.append(f"There is no `{name}` yet: `python benchmarks/{script}`.")
            continue
        parts.append(write(results, name))
        if draw is not None:
            parts += pictures(draw(results, page.parent / "images"), page)
    parts += trust.sections(folder)
    parts.append("### GPU")
    files = sorted(folder.glob("gpu-*.json"))
    return parts + ([costs.gpu(json.loads(file.read_text()), file.name) for file in files] or [NO_GPU])


def main() -> None:
    """Replace the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    page = options.page.resolve()
    before, _, rest = page.read_text().partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    middle = "\n\n".join(sections(options.folder.resolve(), page))
    page.write_text(f"{before}{MARKERS[0]}\n\n{middle}\n\n{MARKERS[1]}{after}")
    print(f"wrote {page}")
    if options.folder == FOLDER:
        trust.write_readme()
        print(f"wrote the small tables of {trust.README}")


if __name__ == "__main__":
    main()
