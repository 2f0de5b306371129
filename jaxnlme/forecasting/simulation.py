"""Simulation: new subjects drawn from a fitted model, with percentiles over time and a plot."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_flag, check_number
from jaxnlme.binding.bind import Binding
from jaxnlme.data._pictures import axis_label, response_label
from jaxnlme.drawing.panels import axes_in_row
from jaxnlme.drawing.style import BLUE, DARK, VERMILLION, picture, style_axes
from jaxnlme.errors import OptionError, check_level
from jaxnlme.forecasting.curves import Curves
from jaxnlme.forecasting.new_subjects import data_of_subjects
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.evaluate import rebind
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.forecasting.attainment import Attainment


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Simulation(Printable):
    """New subjects drawn from a fitted model. It prints as sentences and percentiles over time.

    **Fields:** `fit`; `regimen`, None without one; `binding`: the model bound to the new subjects; `time_name`;
    `kept`: the rows of the data that were asked for (others are dose records); `packed` (draws, packed): the population
    parameters, one row without uncertainty; `effects` (draws, subjects, random): whitened random effects;
    `individual`: individual parameters by name, each (draws, subjects) or (draws, subjects, rows); `prediction`,
    `response` (draws, subjects, times): f(phi, x, v), and with residuals (None without); `seed`; `redrawn`: draws of
    the parameters that were not valid and drawn again; `covariates` (subjects,) and `rows` (times,) by name, or with a
    column of time of their own the records of a path.
    """

    fit: FitRecord
    regimen: Regimen | None
    binding: Binding
    time_name: str
    kept: np.ndarray
    packed: np.ndarray
    effects: np.ndarray
    individual: dict[str, np.ndarray]
    prediction: np.ndarray
    response: np.ndarray | None
    seed: int
    redrawn: int
    covariates: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]

    @property
    def times(self) -> np.ndarray:
        """Times of the observations (times,)."""
        return self.binding.data.x[self.time_name][0][self.kept]

    @property
    def n_draws(self) -> int:
        """Number of draws of the parameters; 1 without uncertainty."""
        return self.prediction.shape[0]

    @property
    def n_subjects(self) -> int:
        """Number of subjects of each draw."""
        return self.prediction.shape[1]

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:
        """Sentences on the simulation, the most serious first."""
        out = []
        if not self.fit.converged:
            out.append(f"The fit has NOT converged, and what follows from it is not reliable. {self.fit.status}")
        bad = int(np.sum(~np.isfinite(self.prediction).all(axis=2)))
        if bad:
            out.append(f"{bad} subjects have predictions that are not finite.")
        with_residuals = "with residuals" if self.response is not None else "without residuals"
        out.append(f"{self.n_subjects} subjects, {with_residuals}, seed {self.seed}.")
        if self.regimen is not None:
            out.append(f"Regimen: {self.regimen}.")
        if self.n_draws > 1:
            again = f" {self.redrawn} draws were not valid and drawn again." if self.redrawn else ""
            out.append(
                f"{self.n_draws} draws of the parameters from the normal distribution of their estimates on the "
                f"unconstrained scales, each with subjects of its own.{again}"
            )
        return tuple(out)

    # --- tables ---

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """A row for each draw of the parameters, subject and time: `draw` (with uncertainty), subject, time, covariates
        of the subject, `prediction` and `response`."""
        import pandas as pd

        data = self.binding.data
        r, n, k = self.prediction.shape
        table = {"draw": np.repeat(np.arange(1, r + 1), n * k)} if r > 1 else {}
        table[data.group_name] = np.tile(np.repeat(data.labels, k), r)
        table[self.time_name] = np.tile(self.times, r * n)
        table |= {name: np.tile(np.repeat(column, k), r) for name, column in self.covariates.items()}
        table["prediction"] = self.prediction.ravel()
        if self.response is not None:
            table["response"] = self.response.ravel()
        return pd.DataFrame(table).infer_objects()

    @functools.cached_property
    def parameters(self) -> pd.DataFrame:
        """Individual parameters, a row for each draw and subject; those that vary within a subject at its first
        time."""
        import pandas as pd

        r, n, _ = self.prediction.shape
        first = self.kept[0]
        table = {name: (c if c.ndim == 2 else c[..., first]).ravel() for name, c in self.individual.items()}
        return pd.DataFrame(table, index=subject_index(self.binding.data.labels, self.binding.data.group_name, r))

    @public("simulation.percentiles")
    def percentiles(
        self, percent: Sequence[float] = (5, 50, 95), of: str | None = None, level: float = 0.9
    ) -> pd.DataFrame:
        """Percentiles of the population over time.

        **Arguments:** `percent`: the percentiles; `of`: "response", with residuals (the default where there are any),
        or "prediction"; `level` of the intervals over draws of the parameters.
        **Returns:** a data frame with a row for each time. With uncertainty a percentile is that of all subjects of all
        draws, and beside it stand the limits ("5% lower", "5% upper") within which it lies in `level` of the draws.
        **Raises:** OptionError for other values.
        """
        import pandas as pd

        values = self.values_of(of)
        wanted = [check_number("percent", p, 0.0, 100.0) for p in np.atleast_1d(np.asarray(percent)).tolist()]
        check_level(level)
        table = {}
        pooled = np.percentile(values.reshape(-1, values.shape[2]), wanted, axis=0)
        by_draw = np.percentile(values, wanted, axis=1)
        tail = 50.0 * (1.0 - level)
        for k, p in enumerate(wanted):
            table[f"{p:g}%"] = pooled[k]
            if self.n_draws > 1:
                limits = np.percentile(by_draw[k], [tail, 100.0 - tail], axis=0)
                table[f"{p:g}% lower"], table[f"{p:g}% upper"] = limits
        return pd.DataFrame(table, index=pd.Index(self.times, name=self.time_name))

    def values_of(self, of: str | None) -> np.ndarray:
        """Predictions or responses (draws, subjects, times). **Raises:** OptionError for another `of`."""
        of = ("prediction" if self.response is None else "response") if of is None else of
        check_choice("of", of, ("prediction", "response"))
        if of == "response":
            if self.response is None:
                raise OptionError("there are no responses: the simulation was made with residual=False.")
            return self.response
        return self.prediction

    # --- exposure ---

    def curves(self, last: float | None = None) -> Curves:
        """The curves of all subjects of all draws, between the times of the observations too, with doses up to and with
        time `last` (None: up to the last observation)."""
        r, n, q = self.effects.shape
        binding = self.binding
        if self.regimen is not None and last is not None and last > self.times[-1]:
            # The further time has the columns of the last one.
            path = self.time_name in self.rows  # records of their own
            rows = self.rows if path else {name: np.append(c, c[-1:]) for name, c in self.rows.items()}
            labels, times = binding.data.labels, np.append(self.times, last)
            data, _ = data_of_subjects(
                self.regimen, times, labels, self.covariates, rows, True, self.fit.data, None, self.time_name
            )
            binding = rebind(self.fit, data)
        return Curves(
            binding, self.fit.params, self.time_name, self.packed, self.effects.reshape(r * n, q),
            np.tile(np.arange(n), r), np.repeat(np.arange(r), n),
        )  # fmt: skip

    @public("simulation.exposure")
    def exposure(self, between: tuple[float, float] | None = None, threshold: float | None = None) -> pd.DataFrame:
        """Exposure of each subject (and draw of the parameters), from its curve without residuals.

        **Arguments:** `between`: the window (begin, end), None: that of the regimen; `threshold`: a concentration, for
        the time above it; as for `jn.pkpd.exposure`.
        **Returns:** a data frame with a row for each subject: `auc`, `cmax`, `tmax`, `cmin`, `ctrough`, `cavg` and,
        with a threshold, `time_above` and `part_above`.
        **Raises:** OptionError for arguments that do not fit.
        """
        from jaxnlme.forecasting.exposure import exposure

        return exposure(self, between=between, threshold=threshold)

    @public("simulation.attainment")
    def attainment(self, criterion: Any = None, **options: Any) -> Attainment:
        """Share of subjects who reach a target, with its Monte Carlo error.

        **Arguments:** `criterion`: a function of the table of exposures, as in `lambda e: e.auc > 400`; `options`: in
        its place `metric`, a column of that table, and `target`, its least value or a pair (least, largest);
        `threshold` and `between`, as for `exposure`; `level` of the intervals.
        **Returns:** an Attainment with `share`, its Monte Carlo error `se`, and `table`.
        **Raises:** OptionError for arguments that do not fit.
        """
        from jaxnlme.forecasting.attainment import attainment_of

        return attainment_of(self, criterion, **options)

    # --- plot ---

    @picture("simulation.plot")
    def plot(
        self,
        ax: Any = None,
        *,
        percent: Sequence[float] = (5, 50, 95),
        of: str | None = None,
        level: float = 0.9,
        log: bool = False,
        threshold: float | None = None,
    ) -> Any:
        """Percentiles of the population over time; shaded: between the outer ones, and with uncertainty the intervals
        of each.

        **Arguments:** `ax`: matplotlib axes, None for new ones; `percent`, `of`, `level`: as for `percentiles`; `log`:
        a logarithmic axis; `threshold`: a line at this height.
        **Returns:** the axes.
        **Raises:** ImportError without matplotlib; OptionError for other values.
        """
        axes = axes_in_row(ax, 1, (6.4, 4.2))[0]
        check_flag("log", log)
        table = self.percentiles(percent, of, level)
        names = [name for name in table.columns if not name.endswith(("lower", "upper"))]
        times = table.index.to_numpy()
        if len(names) > 1 and self.n_draws == 1:
            low, high = table[names].min(axis=1), table[names].max(axis=1)
            axes.fill_between(times, low, high, color=BLUE, alpha=0.15, lw=0)
        for name in names:
            axes.plot(times, table[name], color=BLUE, lw=2 if name == "50%" else 1, label=name)
            if self.n_draws > 1:
                limits = table[f"{name} lower"], table[f"{name} upper"]
                axes.fill_between(times, *limits, color=BLUE, alpha=0.2, lw=0)
        if threshold is not None:
            axes.axhline(check_number("threshold", threshold, -np.inf), color=VERMILLION, lw=1, ls="--")
        if log:
            axes.set_yscale("log")
        axes.set_xlabel(axis_label(self.fit.data, self.time_name))
        axes.set_ylabel(response_label(self.fit.data, self.binding.data))
        title = f"{', '.join(names)} of {self.n_subjects} subjects"
        title += f", {100 * level:g}% intervals over {self.n_draws} draws" if self.n_draws > 1 else ""
        title = title if self.fit.converged else f"NOT CONVERGED\n{title}"
        axes.set_title(title, fontsize=11, color=DARK if self.fit.converged else VERMILLION)
        style_axes(axes)
        return axes

    def _tables(self) -> list[Table]:
        table = self.percentiles()
        chosen = np.unique(np.linspace(0, len(table) - 1, min(len(table), 10)).astype(int))
        rows = [[f"{table.index[k]:g}", *(number(v) for v in table.iloc[k])] for k in chosen]
        return [Table("", [self.time_name, *table.columns], rows)]


def subject_index(labels: np.ndarray, name: str, draws: int) -> pd.Index:
    """The index of a table with a row for each draw and subject; by subject only for one draw."""
    import pandas as pd

    if draws == 1:
        return pd.Index(labels, name=name).infer_objects()
    return pd.MultiIndex.from_product([range(1, draws + 1), labels], names=["draw", name])
