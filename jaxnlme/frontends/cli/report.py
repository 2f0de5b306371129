"""A fit as files in a folder: the page, summary, tables, the fit itself, pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.report.render import MissingReportLibrary

if TYPE_CHECKING:
    from jaxnlme.fitting.fit import Fit

PICTURES = ("individual_fits", "observed_predicted", "residuals")
# Further pictures of a fit by simulation (SAEM, IMP).
SIMULATED = ("trajectories", "individual_parameters")
# Its files other than pictures.
FILES = ("report.html", "summary.txt", "estimates.csv", "random_effects.csv", "fit.jaxnlme")


def write_report(fit: Fit, folder: Path, pictures: Sequence[str] = PICTURES) -> tuple[list[Path], str | None]:
    """Write `fit` into `folder`, which is created: summary.txt, estimates.csv, random_effects.csv, fit.jaxnlme,
    report.html where jinja2 and great-tables are installed and, where matplotlib is, one PNG for each of `pictures`;
    for SAEM and IMP also trajectories and individual parameters. Files of an earlier fit there that this one does not
    replace are removed, once its own are written.

    A fit that could not start has no estimates: only summary.txt, fit.jaxnlme and report.html are written.
    **Arguments:** `pictures`: names of methods of `fit.plot`.
    **Returns:** the files, and a sentence about the page or pictures that were left out, or None.
    """
    files, note = _write(fit, folder, pictures)
    earlier = [*FILES, *(f"{picture}.png" for picture in (*PICTURES, *SIMULATED))]
    for path in {folder / name for name in earlier} - set(files):
        path.unlink(missing_ok=True)
    return files, note


def _write(fit: Fit, folder: Path, pictures: Sequence[str]) -> tuple[list[Path], str | None]:
    """Write the files of `write_report`, with its arguments and what it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "summary.txt"]
    summary = fit.summary()
    files[0].write_text(f"{summary}\n", encoding="utf-8")
    if summary.has_estimates:
        effects = fit.random_effects
        tables = {"estimates": fit.estimates}
        if isinstance(effects, dict):
            tables |= {f"random_effects_{level}": table for level, table in effects.items()}
        else:
            tables["random_effects"] = effects
        for name, table in tables.items():
            files.append(folder / f"{name}.csv")
            table.to_csv(files[-1])
    files.append(fit.save(folder / "fit.jaxnlme"))
    has_pictures = importlib.util.find_spec("matplotlib") is not None
    if has_pictures:
        import matplotlib

        matplotlib.use("Agg")  # files only: a window system is neither needed nor touched
    try:
        files.insert(0, fit.report(folder / "report.html"))
        note = None
    except MissingReportLibrary as error:
        note = f"No page report.html: {error}."
    if not summary.has_estimates:
        return files, note
    if not has_pictures:
        missing = "No pictures: matplotlib is not installed (pip install 'jaxnlme[plot]')."
        return files, missing if note is None else f"{note} {missing}"
    if fit.sampling is not None:
        drawn = fit.sampling.samples.shape[1] > 0
        pictures = [*pictures, *(name for name in SIMULATED if drawn or name != "individual_parameters")]
    return files + _draw(fit, folder, pictures), note


def _draw(fit: Fit, folder: Path, pictures: Sequence[str]) -> list[Path]:
    import matplotlib.pyplot as plt

    files = []
    for name in pictures:
        axes = np.ravel(getattr(fit.plot, name)())
        files.append(folder / f"{name}.png")
        axes[0].figure.savefig(files[-1], dpi=150)
        plt.close(axes[0].figure)
    return files
