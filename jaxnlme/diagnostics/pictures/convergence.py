"""Pictures of convergence: the likelihood, parameters over the iterations, Monte Carlo errors; and the conditional
distributions that stochastic fits draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.drawing.panels import Panels, axes_in_grid, axes_in_row, legend_below, lowest, on_page
from jaxnlme.drawing.style import BLUE, DARK, GREY, PALE, SKY, VERMILLION, picture, plain_text, style_axes
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.results.stochastic_summary import mc_error_ratios

if TYPE_CHECKING:
    from jaxnlme.results.stochastic import Sampling

# Background colours of the phases; the iterations after them are white.
SHADES = {"burn-in": "#d9d9d9", "annealing": "#fdebc8", "full steps": "#d7ecf8", "decreasing steps": "#d5efe6"}
AFTER_PHASES = "fixed parameters and Newton steps"


def _loss_range(loss: np.ndarray) -> tuple[float, float]:
    """Limits of an axis for losses by step: the first ones, far above the others, are cut."""
    finite = loss[np.isfinite(loss)]
    low, high = (float(np.min(finite)), float(np.quantile(finite, 0.95))) if len(finite) else (0.0, 1.0)
    margin = 0.08 * max(high - low, 1e-12)
    return low - margin, high + margin


class AbstractConvergencePictures(AbstractPlotter):
    """Pictures of convergence."""

    @picture("fit.plot.history")
    def history(self, ax: Any = None) -> Any:
        """Log-likelihood at every iteration, the last value as a number.

        **Arguments:** `ax`: the axes to draw into, created where None.
        **Returns:** the axes.
        **Raises:** OptionError for a fit without a history of the log-likelihood.

        **Example:**

        ```python
        fit.plot.history()
        ```
        """
        if not self.fit.history:
            raise OptionError("the fit has no history: it did not begin.")
        if "log_likelihood" not in self.fit.history[-1]:
            raise OptionError(
                f"{self.fit.method} does not compute the log-likelihood while it runs; fit.plot.trajectories() shows "
                "the parameters."
            )
        iteration = [entry["iteration"] for entry in self.fit.history]
        values = [entry["log_likelihood"] for entry in self.fit.history]
        panels = axes_in_row(ax, 1, (5.6, 3.6))
        created, ax = ax is None, panels[0]
        ax.plot(iteration, values, "o-", ms=4, lw=1.4, color=BLUE, mec="white", mew=0.5)
        ax.annotate(
            f"{values[-1]:.3f}", (iteration[-1], values[-1]), (0, -12), textcoords="offset points",
            ha="right", va="top", fontsize=9, color=DARK,
        )  # fmt: skip
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="iteration", ylabel="log-likelihood")
        ax.ticklabel_format(axis="y", useOffset=False)
        style_axes(ax)
        self._title(panels, f"Progress of {self.fit.method}", created)
        return ax

    @picture("fit.plot.training")
    def training(self, ax: Any = None) -> Panels:
        """The training of `jn.Gradient`: minus the objective for each group by step, its mean over passes or blocks of
        steps, and for held-out groups their mean log-likelihood with the step whose parameters were kept.

        **Arguments:** `ax`: one axes, or two with held-out groups; created where None.
        **Returns:** the axes (panels,).
        **Raises:** OptionError for a fit by another method, or one that took no step.

        **Example:**

        ```python
        trained = jn.fit(model, data, jn.Gradient(steps=20, held_out=0.25, polish="none"))
        trained.plot.training()
        ```
        """
        record = self.fit.training
        if record is None or not len(record.objective):
            raise OptionError(
                f"{self.fit.method} has no record of a training: fit by jn.Gradient(...), or draw fit.plot.history()."
            )
        held = record.held_out_groups > 0
        panels = axes_in_row(ax, 1 + held, (4.6, 3.4))
        loss, step = -record.objective / record.groups, np.arange(1, len(record.objective) + 1)
        width = max(1, min(record.steps_per_pass, len(loss) // 10))
        ends = np.arange(width, len(loss) + 1, width)
        means = [float(np.mean(loss[end - width : end])) for end in ends]
        panels[0].plot(step, loss, color=SKY, lw=0.7, label="a batch")
        panels[0].plot(ends - 0.5 * width, means, color=BLUE, lw=1.6, label=f"mean of {width} steps")
        panels[0].set_ylim(*_loss_range(loss))
        panels[0].set(xlabel="step", ylabel="loss for each group")
        panels[0].legend()
        if held:
            values = record.held_out / record.held_out_groups
            panels[1].plot(record.check_step, values, "o-", ms=3.5, lw=1.4, color=BLUE, mec="white", mew=0.5)
            panels[1].axvline(
                record.best_step, color=VERMILLION, lw=1.0, ls="--", label=f"kept: step {record.best_step}"
            )
            panels[1].set(xlabel="step", ylabel="held-out log-likelihood for each group")
            panels[1].legend()
        for panel in panels:
            style_axes(panel)
        self._title(panels, f"Training: {self.fit.method}", ax is None)
        return panels

    @picture("fit.plot.trajectories")
    def trajectories(self, names: Sequence[str] | str | None = None, ax: Any = None) -> Panels:
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
        axes = axes_in_grid(ax, len(names), DIAGNOSTICS.trajectory_columns, (2.5, 1.7), True)
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
            panel.set_title(f"{name} ({scales[name]})" if name in scales else name)
            panel.margins(x=0)
            style_axes(panel)
            panel.grid(False, axis="x")
        if ax is None:
            for panel in lowest(axes, DIAGNOSTICS.trajectory_columns):
                panel.set_xlabel("iteration")
            _phase_legend(axes)
        self._title(axes, f"{self.fit.method}: parameters over the iterations", ax is None) if ax is None else None
        return axes

    @picture("fit.plot.monte_carlo")
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
        panels = axes_in_row(ax, 1, (6.0, 1.5 + 0.28 * len(ratios)))
        created, ax = ax is None, panels[0]
        rows = np.arange(len(ratios))[::-1]
        ax.hlines(rows, np.minimum(ratios, steps), np.maximum(ratios, steps), color=PALE, lw=1.0, zorder=1)
        ax.plot(steps, rows, "o", ms=5, mfc="white", mec=GREY, label="last step, included")
        ax.plot(ratios, rows, "o", ms=6, color=BLUE, mec="white", mew=0.6, label="Monte Carlo error")
        limit = float(self.fit.options["tolerance"])
        ax.axvline(limit, color=VERMILLION, lw=1.2, ls="--", label=f"tolerance {limit:g}")
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100.0 * low else (1.0,)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_yticks(rows, [str(name) for name in ratios.index])
        ax.set(xlabel="fraction of the standard error", ylim=(-0.7, len(rows) - 0.3))
        style_axes(ax)
        ax.grid(False, axis="y")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.55 / (0.3 + 0.28 * len(rows))), ncols=3)
        self._title(panels, f"{self.fit.method}: Monte Carlo error of the estimates", created)
        return ax

    @picture("fit.plot.individual_parameters")
    def individual_parameters(
        self,
        names: Sequence[str] | str | None = None,
        ax: Any = None,
        *,
        page: int = 1,
        per_page: int = DIAGNOSTICS.most_rows,
    ) -> Panels:
        """Conditional distributions of the individual parameters given the responses, on the natural scale, from
        `fit.sampling.parameter_samples`: a panel per parameter, a row per group with mean and central 50% and 95%. The
        line is the typical value, that of the median group where covariates or designs vary.

        **Arguments:** `names`: parameters, those that differ between draws where None; `ax`: one axes per parameter;
        `page`, `per_page`: groups in the order of the table.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError for unknown names, a run without draws, and a fit by another method.
        """
        sampling = self._sampling("individual_parameters")
        if not sampling.samples.shape[1]:
            raise OptionError("the run was interrupted and has no draws of the individual parameters.")
        available = list(sampling.parameters_mean.columns)
        varying = [name for name in available if (sampling.parameters_sd[name] > 0).any()]
        names = _checked_names(names, available, varying)
        index = sampling.parameters_mean.index
        chosen, part = on_page(range(len(index)), page, per_page, what="rows")
        draws = sampling.parameter_samples[chosen][:, :, [available.index(name) for name in names]]
        low, lower, upper, high = np.quantile(draws, DIAGNOSTICS.quantiles, axis=1)
        labels = [plain_text(index[k]) for k in chosen]
        typical = self.fit.parameters("population")
        created = ax is None
        axes = axes_in_row(ax, len(names), (1.0 + 2.6 * len(names), 1.4 + 0.2 * max(len(labels), 4)))
        rows = np.arange(len(labels))[::-1]
        for k, (panel, name) in enumerate(zip(axes, names, strict=True)):
            panel.axvline(typical[name].median(), color=GREY, lw=1.0, ls="--", zorder=1)
            panel.hlines(rows, low[:, k], high[:, k], color=SKY, lw=1.4)
            panel.hlines(rows, lower[:, k], upper[:, k], color=BLUE, lw=3.2)
            panel.plot(draws[:, :, k].mean(axis=1), rows, "o", ms=3.5, color="white", mec=DARK, mew=0.8)
            panel.set(xlabel=name, ylim=(-0.7, len(labels) - 0.3))
            panel.locator_params(axis="x", nbins=4)  # values of many digits need room
            style_axes(panel)
            panel.set_yticks(rows, labels if k == 0 or not created else [""] * len(labels))
        axes[0].set_ylabel(", ".join(map(str, index.names)))
        words = f"Individual parameters given the data{', ' + part if part else ''}"
        self._title(axes, words, True) if created else None
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


def _phase_legend(axes: Panels) -> None:
    """One legend under all panels."""
    from matplotlib.patches import Patch

    entries = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    for name in entries:
        if name in SHADES or name == AFTER_PHASES:  # with a border, without which the white one is invisible
            entries[name] = Patch(facecolor=SHADES.get(name, "white"), edgecolor=GREY, lw=0.6)
    legend_below(axes.figure, entries)


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
