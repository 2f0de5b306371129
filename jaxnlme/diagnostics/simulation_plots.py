"""Plots of stochastic fits: parameters over the iterations, Monte Carlo errors, conditional distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.drawing import (
    BLUE,
    DARK,
    GREY,
    SKY,
    VERMILLION,
    AbstractPlotter,
    axes_in_row,
    pyplot,
    style_axes,
)
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.results.stochastic_summary import mc_error_ratios

if TYPE_CHECKING:
    from jaxnlme.results.stochastic import Sampling

# Background colours of the phases; the iterations after them are white.
SHADES = {"burn-in": "#d9d9d9", "annealing": "#fdebc8", "full steps": "#d7ecf8", "decreasing steps": "#d5efe6"}
AFTER_PHASES = "fixed parameters and Newton steps"


class AbstractSimulationPlots(AbstractPlotter):
    """Plots of stochastic fits only."""

    def trajectories(self, names: Sequence[str] | str | None = None, ax: Any = None) -> np.ndarray:
        """Values after every iteration: a panel per parameter, a line per replicate (the one whose estimates are
        reported on top), the phases as background colours. After the phases the parameters are held fixed but for
        Newton steps to the maximum: at the end of a good run the lines are level.

        **Arguments:** `names`: rows of `fit.estimates`, all that were estimated where None; `ax`: one axes per
        parameter.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError for unknown names, and for a fit by another method.
        """
        sampling = self._sampling("trajectories")
        names = self._names(names)
        axes, created = self._grid(ax, len(names))
        lines = sampling.trajectory
        iterations = np.arange(len(sampling.packed)) - sampling.burn_in
        estimates = self.fit.estimates["estimate"]
        several = len(sampling.replicates) > 1
        scales = self._scales()
        order = [k for k in range(len(sampling.replicates)) if k != sampling.best] + [sampling.best]
        spans = _spans(sampling)
        for panel, name in zip(axes, names, strict=True):
            for phase, (first, last) in spans.items():
                panel.axvspan(first - 0.5, last + 0.5, color=SHADES.get(phase, "white"), lw=0, zorder=0, label=phase)
            runs = lines[name].to_numpy().reshape(-1, len(iterations))
            for k in order:
                best = k == sampling.best
                label = (f"replicate {k} (best)" if best else "other replicates") if several else None
                panel.plot(iterations, runs[k], color=BLUE if best else GREY, lw=1.3 if best else 0.9, label=label)
            panel.axhline(estimates[name], color=VERMILLION, lw=0.9, ls="--", label="estimate")
            panel.set_title(f"{name} ({scales[name]})" if name in scales else name, fontsize=9, color=DARK)
            panel.margins(x=0)
            style_axes(panel)
            panel.grid(False, axis="x")
        if created:
            self._finish(axes, f"{self.fit.method}: parameters over the iterations")
        return axes

    def monte_carlo(self, ax: Any = None) -> Any:
        """Monte Carlo error of the estimate (filled) and last Newton step to the maximum (hollow), which the estimate
        includes, in standard errors: a row per parameter. The line is the tolerance.

        **Arguments:** `ax`: the axes to draw into, created where None.
        **Returns:** the axes.
        **Raises:** OptionError where Monte Carlo errors were not computed, or for a fit by another method.
        """
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        sampling = self._sampling("monte_carlo")
        ratios = mc_error_ratios(sampling)
        if ratios is None or not np.isfinite(ratios.to_numpy()).any():
            raise OptionError(
                "the run has no Monte Carlo errors: it ended before they were computed, or its information is singular."
            )
        steps = np.abs(sampling.errors["last step"] / sampling.errors["se"])
        ax = axes_in_row(ax, 1, (6.0, 1.5 + 0.28 * len(ratios)))[0]
        rows = np.arange(len(ratios))[::-1]
        ax.hlines(rows, np.minimum(ratios, steps), np.maximum(ratios, steps), color="#dddddd", lw=1.0, zorder=1)
        ax.plot(steps, rows, "o", ms=5, mfc="white", mec=GREY, label="last step, included")
        ax.plot(ratios, rows, "o", ms=6, color=BLUE, mec="white", mew=0.6, label="Monte Carlo error")
        limit = float(self.fit.options["tolerance"])
        ax.axvline(limit, color=VERMILLION, lw=1.2, ls="--", label=f"tolerance {limit:g}")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_yticks(rows, [str(name) for name in ratios.index])
        ax.set(xlabel="fraction of the standard error", ylim=(-0.7, len(rows) - 0.3))
        style_axes(ax)
        ax.grid(False, axis="y")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.55 / (0.3 + 0.28 * len(rows))), ncols=3, frameon=False,
                  fontsize=8.5)  # fmt: skip
        self._title(ax.set_title, f"{self.fit.method}: Monte Carlo error of the estimates")
        return ax

    def individual_parameters(self, names: Sequence[str] | str | None = None, ax: Any = None) -> np.ndarray:
        """Conditional distributions of the individual parameters given the responses, on the natural scale, from
        `fit.sampling.parameter_samples`: a panel per parameter, a row per group with mean and central 50% and 95%. The
        line is the typical value, that of the median group where covariates or designs vary.

        **Arguments:** `names`: parameters, those that differ between draws where None; `ax`: one axes per parameter. Of
        more than 60 groups the first 60 are drawn.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError for unknown names, a run without draws, and a fit by another method.
        """
        sampling = self._sampling("individual_parameters")
        if not sampling.samples.shape[1]:
            raise OptionError("the run was interrupted and has no draws of the individual parameters.")
        available = list(sampling.parameters_mean.columns)
        varying = [name for name in available if (sampling.parameters_sd[name] > 0).any()]
        names = _checked_names(names, available, varying)
        draws = sampling.parameter_samples[: DIAGNOSTICS.most_rows][:, :, [available.index(name) for name in names]]
        low, lower, upper, high = np.quantile(draws, DIAGNOSTICS.quantiles, axis=1)
        index = sampling.parameters_mean.index
        labels = [str(label) for label in index[: DIAGNOSTICS.most_rows]]
        typical = self.fit.parameters("population")
        created = ax is None
        size = (1.0 + 2.6 * len(names), 1.4 + 0.2 * max(len(labels), 4))
        axes = axes_in_row(ax, len(names), size)
        rows = np.arange(len(labels))[::-1]
        for k, (panel, name) in enumerate(zip(axes, names, strict=True)):
            panel.axvline(typical[name].median(), color=GREY, lw=1.0, ls="--", zorder=1)
            panel.hlines(rows, low[:, k], high[:, k], color=SKY, lw=1.4)
            panel.hlines(rows, lower[:, k], upper[:, k], color=BLUE, lw=3.2)
            panel.plot(draws[:, :, k].mean(axis=1), rows, "o", ms=3.5, color="white", mec=DARK, mew=0.8)
            panel.set(xlabel=name, ylim=(-0.7, len(labels) - 0.3))
            panel.set_yticks(rows, labels if k == 0 or not created else [""] * len(labels))
            style_axes(panel)
        axes[0].set_ylabel(", ".join(map(str, index.names)))
        if created:
            total = len(index)
            part = (
                ""
                if len(labels) == total
                else f", {len(labels)} of {total} {'units' if index.nlevels > 1 else 'groups'}"
            )
            self._title(axes[0].figure.suptitle, f"Individual parameters given the data{part}")
        return axes

    def _sampling(self, plot: str) -> Sampling:
        """The `sampling` of the fit. **Raises:** OptionError, naming the `plot`, for a fit by another method."""
        if self.fit.sampling is None:
            raise OptionError(f"{plot} needs a fit by 'saem' or 'imp'; this one is by {self.fit.method}.")
        return self.fit.sampling

    def _names(self, names: Sequence[str] | str | None) -> list[str]:
        """Names of reported values, those that were estimated where None."""
        table = self.fit.estimates
        return _checked_names(names, list(table.index), list(table.index[~table["fixed"].to_numpy(bool)]))

    def _scales(self) -> dict[str, str]:
        """Name of the scale of each fixed effect whose scale is not the identity."""
        binding = self.fit.binding
        pairs = zip(binding.density.beta_names, binding.transforms, strict=True)
        return {name: scale.name for name, scale in pairs if scale is not None and scale.name != "identity"}

    def _grid(self, ax: Any, count: int) -> tuple[np.ndarray, bool]:
        """The axes (count,), and True if they were created here."""
        if ax is not None:
            return axes_in_row(ax, count, (0.0, 0.0)), False
        columns = min(count, DIAGNOSTICS.trajectory_columns)
        rows = -(-count // columns)
        figure, grid = pyplot().subplots(
            rows, columns, sharex=True, squeeze=False, figsize=(0.8 + 2.5 * columns, 1.3 + 1.7 * rows),
            layout="constrained",
        )  # fmt: skip
        panels = grid.ravel()
        for unused in panels[count:]:
            unused.remove()
        for column in range(columns):  # the lowest panel of each column has the tick labels
            lowest = grid[(count - 1 - column) // columns, column]
            lowest.tick_params(labelbottom=True)
            lowest.set_xlabel("iteration", fontsize=9)
        return panels[:count], True

    def _finish(self, axes: np.ndarray, title: str) -> None:
        """Add one legend under all panels, and the title."""
        from matplotlib.patches import Patch

        entries = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        for name in entries:
            if name in SHADES or name == AFTER_PHASES:  # with a border, without which the white one is invisible
                entries[name] = Patch(facecolor=SHADES.get(name, "white"), edgecolor=GREY, lw=0.6)
        axes[0].figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5
        )
        self._title(axes[0].figure.suptitle, title)


def _spans(sampling: Sampling) -> dict[str, tuple[int, int]]:
    """First and last iteration of each phase that was begun, with burn-in and the iterations after the phases."""
    last = len(sampling.packed) - sampling.burn_in - 1
    spans = {"burn-in": (-sampling.burn_in, -1)} if sampling.burn_in else {}
    spans |= sampling.phases
    end_of_phases = max(end for _, end in spans.values())
    spans[AFTER_PHASES] = (end_of_phases + 1, last)
    return {name: (first, min(end, last)) for name, (first, end) in spans.items() if first <= min(end, last)}


def _checked_names(names: Sequence[str] | str | None, available: list[str], default: list[str]) -> list[str]:
    """`names`, or `default` where None. **Raises:** OptionError for names that are not available, or none."""
    names = default if names is None else [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in available:
            raise OptionError(f"no parameter {name!r}; {near_matches(str(name), available)}")
    if not names:
        raise OptionError("no parameter to plot; name at least one.")
    return names
