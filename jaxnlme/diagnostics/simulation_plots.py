"""Pictures of fits by simulation: parameters over the iterations, Monte Carlo errors, conditional distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.drawing import BLUE, INK, PALE, SKY, VERMILLION, Drawer, plain, pyplot
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.results.stochastic_summary import monte_carlo_shares

if TYPE_CHECKING:
    from jaxnlme.results.stochastic import Sampling

MOST_ROWS = 60
COLUMNS = 4
# Shades of the phases in turn; what comes after them stays white.
SHADES = {"burn-in": "#d9d9d9", "annealing": "#fdebc8", "full steps": "#d7ecf8", "decreasing steps": "#d5efe6"}
AFTER = "standing parameters and steps between"


class SimulationPlots(Drawer):
    """The pictures that only a fit by simulation has."""

    def trajectories(self, names: Sequence[str] | str | None = None, ax: Any = None) -> np.ndarray:
        """A panel a parameter: its value after every iteration, a line a replicate (the one that the estimates are of
        on top), over the phases as shades. After the phases the parameters stand still but for the steps that the
        settling runs point at: level lines there are what the end of a good run looks like.

        **Arguments:** `names`: rows of `fit.estimates`, all that were estimated where None; `ax`: one axes a parameter.
        **Returns:** the axes (parameters,). **Errors:** OptionError for unknown names, and for a fit by another method.
        """
        sampling = self._sampling("trajectories")
        names = self._names(names)
        axes, made = self._grid(ax, len(names))
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
                said = (f"replicate {k} (best)" if best else "other replicates") if several else None
                panel.plot(iterations, runs[k], color=BLUE if best else PALE, lw=1.3 if best else 0.9, label=said)
            panel.axhline(estimates[name], color=VERMILLION, lw=0.9, ls="--", label="estimate")
            panel.set_title(f"{name} ({scales[name]})" if name in scales else name, fontsize=9, color=INK)
            panel.margins(x=0)
            plain(panel)
            panel.grid(False, axis="x")
        if made:
            self._finish(axes, f"{self.fit.method}: parameters over the iterations")
        return axes

    def monte_carlo(self, ax: Any = None) -> Any:
        """A row a parameter: the Monte Carlo error of its estimate (filled) and the last step towards the maximum
        (hollow), which the estimate took, in standard errors; the line is the tolerance.

        **Returns:** the axes. **Errors:** OptionError where the run did not come to that, or for another method.
        """
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        sampling = self._sampling("monte_carlo")
        shares = monte_carlo_shares(sampling)
        if shares is None or not np.isfinite(shares.to_numpy()).any():
            raise OptionError(
                "the run has no Monte Carlo errors to draw: it ended before, or its information is singular."
            )
        steps = np.abs(sampling.errors["last step"] / sampling.errors["se"])
        ax = self._axes(ax, 1, (6.0, 1.5 + 0.28 * len(shares)))[0]
        rows = np.arange(len(shares))[::-1]
        ax.hlines(rows, np.minimum(shares, steps), np.maximum(shares, steps), color="#dddddd", lw=1.0, zorder=1)
        ax.plot(steps, rows, "o", ms=5, mfc="white", mec=PALE, label="last step, taken")
        ax.plot(shares, rows, "o", ms=6, color=BLUE, mec="white", mew=0.6, label="Monte Carlo error")
        limit = float(self.fit.options["tolerance"])
        ax.axvline(limit, color=VERMILLION, lw=1.2, ls="--", label=f"tolerance {limit:g}")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_yticks(rows, [str(name) for name in shares.index])
        ax.set(xlabel="share of the standard error", ylim=(-0.7, len(rows) - 0.3))
        plain(ax)
        ax.grid(False, axis="y")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.55 / (0.3 + 0.28 * len(rows))), ncols=3, frameon=False,
                  fontsize=8.5)  # fmt: skip
        self._title(ax.set_title, f"{self.fit.method}: Monte Carlo error of the estimates")
        return ax

    def individual_parameters(self, names: Sequence[str] | str | None = None, ax: Any = None) -> np.ndarray:
        """A panel a parameter, a row a group: mean and central 50% and 95% of its conditional distribution given the
        group's responses, on the natural scale, from `fit.sampling.parameter_samples`; the line is the typical value.
        Where covariates or designs vary, it is that of the median group.

        **Arguments:** `names`: parameters, those that differ between draws where None; `ax`: one axes a parameter. Of
        more than 60 groups the first 60 are drawn.
        **Returns:** the axes (parameters,). **Errors:** OptionError for unknown names, a run that left no draws, and a
        fit by another method.
        """
        sampling = self._sampling("individual_parameters")
        if not sampling.samples.shape[1]:
            raise OptionError("the run was broken off and left no draws of the individual parameters.")
        known = list(sampling.parameters_mean.columns)
        moving = [name for name in known if (sampling.parameters_sd[name] > 0).any()]
        names = _chosen(names, known, moving)
        draws = sampling.parameter_samples[:MOST_ROWS][:, :, [known.index(name) for name in names]]
        low, lower, upper, high = np.quantile(draws, [0.025, 0.25, 0.75, 0.975], axis=1)
        labels = [str(label) for label in self.fit.data.labels[:MOST_ROWS]]
        typical = self.fit.parameters("population")
        made = ax is None
        size = (1.0 + 2.6 * len(names), 1.4 + 0.2 * max(len(labels), 4))
        axes = self._axes(ax, len(names), size)
        rows = np.arange(len(labels))[::-1]
        for k, (panel, name) in enumerate(zip(axes, names, strict=True)):
            panel.axvline(typical[name].median(), color=PALE, lw=1.0, ls="--", zorder=1)
            panel.hlines(rows, low[:, k], high[:, k], color=SKY, lw=1.4)
            panel.hlines(rows, lower[:, k], upper[:, k], color=BLUE, lw=3.2)
            panel.plot(draws[:, :, k].mean(axis=1), rows, "o", ms=3.5, color="white", mec=INK, mew=0.8)
            panel.set(xlabel=name, ylim=(-0.7, len(labels) - 0.3))
            panel.set_yticks(rows, labels if k == 0 or not made else [""] * len(labels))
            plain(panel)
        axes[0].set_ylabel(self.fit.data.group_name)
        if made:
            total = self.fit.data.n_groups
            part = "" if len(labels) == total else f", {len(labels)} of {total} groups"
            self._title(axes[0].figure.suptitle, f"Individual parameters given the data{part}")
        return axes

    def _sampling(self, picture: str) -> Sampling:
        if self.fit.sampling is None:
            raise OptionError(f"{picture} draws a fit by 'saem' or 'imp'; this one is by {self.fit.method}.")
        return self.fit.sampling

    def _names(self, names: Sequence[str] | str | None) -> list[str]:
        table = self.fit.estimates
        return _chosen(names, list(table.index), list(table.index[~table["fixed"].to_numpy(bool)]))

    def _scales(self) -> dict[str, str]:
        """The scales of the fixed effects that are not on their natural one."""
        binding = self.fit.binding
        pairs = zip(binding.density.beta_names, binding.transforms, strict=True)
        return {name: scale.name for name, scale in pairs if scale is not None and scale.name != "identity"}

    def _grid(self, ax: Any, count: int) -> tuple[np.ndarray, bool]:
        """The axes (count,), and whether they were made here."""
        if ax is not None:
            return self._axes(ax, count, (0.0, 0.0)), False
        columns = min(count, COLUMNS)
        rows = -(-count // columns)
        figure, grid = pyplot().subplots(
            rows, columns, sharex=True, squeeze=False, figsize=(0.8 + 2.5 * columns, 1.3 + 1.7 * rows),
            layout="constrained",
        )  # fmt: skip
        panels = grid.ravel()
        for spare in panels[count:]:
            spare.remove()
        for column in range(columns):  # the lowest panel of each column carries the axis
            lowest = grid[(count - 1 - column) // columns, column]
            lowest.tick_params(labelbottom=True)
            lowest.set_xlabel("iteration", fontsize=9)
        return panels[:count], True

    def _finish(self, axes: np.ndarray, title: str) -> None:
        """One legend under all panels, and the title."""
        from matplotlib.patches import Patch

        entries = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        for name in entries:
            if name in SHADES or name == AFTER:  # with an edge, which the white one needs to be seen
                entries[name] = Patch(facecolor=SHADES.get(name, "white"), edgecolor=PALE, lw=0.6)
        axes[0].figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5
        )
        self._title(axes[0].figure.suptitle, title)


def _spans(sampling: Sampling) -> dict[str, tuple[int, int]]:
    """First and last iteration of each phase that was begun, burn-in and what came after the phases among them."""
    last = len(sampling.packed) - sampling.burn_in - 1
    spans = {"burn-in": (-sampling.burn_in, -1)} if sampling.burn_in else {}
    spans |= sampling.phases
    ended = max(end for _, end in spans.values())
    spans[AFTER] = (ended + 1, last)
    return {name: (first, min(end, last)) for name, (first, end) in spans.items() if first <= min(end, last)}


def _chosen(names: Sequence[str] | str | None, known: list[str], usual: list[str]) -> list[str]:
    """Names that were asked for, the `usual` ones where None. **Errors:** OptionError for unknown ones, or none."""
    names = usual if names is None else [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise OptionError(f"no parameter {name!r}; {near_matches(str(name), known)}")
    if not names:
        raise OptionError("no parameter to draw; name at least one.")
    return names
