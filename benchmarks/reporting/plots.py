"""Plots of scaling.json, batches and devices.json, as SVG files that change only where their numbers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reporting.cells import Record

AXES = {
    "groups": "groups",
    "observations": "observations a group",
    "effects": "correlated random effects",
    "batch": "bootstrap fits in a batch",
}


def scaling(results: Record, folder: Path) -> list[Path]:
    """Time against each axis: one plot of an objective-and-gradient, one of a fit."""
    plots = []
    for key, factor, unit, name in (
        ("objective_wall", 1e3, "objective and gradient, ms", "scaling-objective.svg"),
        ("fit_wall", 1.0, "fit, s", "scaling-fit.svg"),
    ):
        rows_by_axis = {axis: [r for r in results["rows"] if r["axis"] == axis and key in r] for axis in AXES}
        rows_by_axis = {axis: rows for axis, rows in rows_by_axis.items() if rows}
        if rows_by_axis:
            plots.append(draw(rows_by_axis, key, factor, unit, folder / name))
    return plots


def draw(rows_by_axis: dict[str, list[Record]], key: str, factor: float, unit: str, path: Path) -> Path:
    """One panel an axis: wall and CPU time."""
    figure, panels = canvas(len(rows_by_axis))
    for panel, (axis, rows) in zip(panels, rows_by_axis.items(), strict=True):
        at = [r["value"] for r in rows]
        panel.plot(at, [factor * r[key] for r in rows], "o-", label="wall")
        panel.plot(at, [factor * r[key.replace("wall", "cpu")] for r in rows], "s--", label="CPU")
        if axis == "effects":
            panel.set_ylim(bottom=0)
        else:
            panel.set_xscale("log")
            panel.set_yscale("log")
        panel.set_xticks(at, [f"{n:,}" for n in at])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(AXES[axis])
    panels[0].set_ylabel(unit)
    panels[0].legend(frameon=False)
    return save(figure, path)


def devices(results: Record, folder: Path) -> list[Path]:
    """Bars of one evaluation and of one fit."""
    names = [row["name"] for row in results["rows"]]
    figure, panels = canvas(2, height=2.6)
    for panel, key, label in zip(panels, ("evaluation_wall", "fit_wall"), ("evaluation, s", "fit, s"), strict=True):
        panel.barh(names, [row[key] for row in results["rows"]], color="C0")
        panel.invert_yaxis()
        panel.set_xlabel(f"{label}, {results['groups']:,} groups")
    return [save(figure, folder / "devices.svg")]


def canvas(panels: int, height: float = 3.0) -> tuple[Any, list[Any]]:
    """A figure with panels side by side."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "jaxnlme"  # the same ids every time
    figure, axes = plt.subplots(1, panels, figsize=(3.2 * panels, height), squeeze=False, layout="constrained")
    return figure, list(axes[0])


def save(figure: Any, path: Path) -> Path:
    """Write the figure without a date, and close it."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
