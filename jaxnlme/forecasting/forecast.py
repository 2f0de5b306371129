"""`forecast`: individual (Bayesian) forecasts for one new patient from a fitted model and a few levels."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, require_host
from jaxnlme.binding.bind import Binding
from jaxnlme.data._endpoints import endpoint_values
from jaxnlme.data._pictures import axis_label, response_label
from jaxnlme.drawing.panels import axes_in_row
from jaxnlme.drawing.style import BLUE, DARK, VERMILLION, picture, style_axes
from jaxnlme.errors import OptionError, check_level, check_whole_number
from jaxnlme.forecasting.covariate_path import as_path
from jaxnlme.forecasting.curves import Curves
from jaxnlme.forecasting.exposure import exposure_table, last_dose_time, window_of
from jaxnlme.forecasting.new_subjects import sorted_times
from jaxnlme.forecasting.patient import Patient, read_patient
from jaxnlme.forecasting.posterior import Posterior, posterior, predictive
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.forecasting.settings import POSTERIOR
from jaxnlme.forecasting.simulate import check_fit, check_regimen, missing_columns_named
from jaxnlme.forecasting.uncertainty import number_of_draws
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.evaluate import rebind
from jaxnlme.results.record import FitRecord
from jaxnlme.results.simulate import check_sampler
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.forecasting.next_dose import NextDose


@public("jn.pkpd.forecast")
def forecast(
    fit: FitRecord,
    patient: Any,
    *,
    doses: Regimen | None = None,
    covariates: Any = None,
    regimen: Regimen | None = None,
    times: Any = None,
    rows: Any = None,
    method: str = "importance",
    draws: int = POSTERIOR.draws,
    uncertainty: bool | int = False,
    level: float = 0.95,
    time: str | None = None,
    seed: int = 0,
) -> Forecast:
    """A forecast for one new patient. The population parameters are held at the estimates of the fit, unless
    `uncertainty` is asked for; the patient's levels give the posterior of the random effects.

    **Arguments:**

    - `fit`; `patient`: a table of levels (a dictionary or data frame) with the columns of time and response of the
      fitted data, and further columns that the model reads; or GroupedData of one group, with its doses.
    - `doses`: for a table, the regimen that the patient has received so far, on the clock of the table. A level at the
      time of a dose is before it. One without end goes on until `regimen` begins, or up to the last level.
    - `covariates`: for a table, a dictionary of the patient's covariates.
    - `regimen`: what the patient will receive, on the same clock; None: nothing more.
    - `times`: of the predictions; None: 101 times from the beginning to one interval after the last dose.
    - `rows`: columns of x at the predicted times, by name; with a column of time of their own, records that hold until
      the next one (as `data.events` says: nocb or locf). By default a column has the value that the patient's records
      give it at a time, after the last one that of the last, and endpoint and compartment those of the last record.
    - `method`: "importance", importance sampling of the posterior; "laplace", a normal approximation at the mode.
    - `draws` from the posterior.
    - `uncertainty`: True (100) or a number of draws of the population parameters from the normal distribution of their
      estimates, which the patient's levels then weigh; needs method="importance".
    - `level` of the intervals; `time`: as in `jn.pkpd.simulate`; `seed`.

    **Returns:** a Forecast: `.table`, `.parameters`, `.random_effects`, `.plot()`, `.exposure()`, `.next_dose(...)`.
    **Raises:** OptionError for arguments that do not fit; DataError for missing columns; FitError where the mode is not
    found.

    **Example:**

    ```python
    doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
    v = jn.Parameter("v", 32.0, "log", random=True)
    pk = jn.fit(jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v]), doses, "focei")
    levels = {"TIME": [2.0, 10.0], "DV": [7.5, 4.1]}
    jn.pkpd.forecast(pk, levels, doses=jn.pkpd.regimen(320))
    ```
    """
    require_host("jn.pkpd.forecast", times, seed)
    check_fit("jn.pkpd.forecast", fit)
    check_choice("method", method, ("importance", "laplace"))
    check_level(level)
    draws = check_whole_number("draws", draws, 100)
    seed = check_whole_number("seed", seed, 0)
    n_parameters = number_of_draws(uncertainty)
    if n_parameters and method == "laplace":
        raise OptionError('uncertainty of the parameters needs method="importance".')
    check_regimen(fit, regimen)
    check_sampler(fit.binding.density)
    with missing_columns_named():
        read = read_patient(fit, patient, doses, covariates, regimen, time)
        found = posterior(fit, rebind(fit, read.data), method, draws, n_parameters, seed)
        path = as_path(rows, read.time_name)
        at, further = sorted_times(_default_times(read, regimen) if times is None else times, None if path else rows)
        further = path[1] | {read.time_name: path[0]} if path else further
        binding, kept, _ = read.future(fit, regimen, at, further or None)
        f, y, phi = predictive(fit, binding, found.packed, found.effects_for(binding), seed)
        packed = np.asarray(fit.params.pack(), float)[None, :]
        mode = found.mode_for(binding)
        fixed = np.stack([mode, np.zeros_like(mode)])
        at_fixed, _, phi_fixed = predictive(fit, binding, packed, fixed, seed)
    return Forecast(
        fit, read, regimen, found, binding, at, f[:, kept], y[:, kept], at_fixed[:, kept], phi, phi_fixed, further,
        float(level), seed,
    )  # fmt: skip


def _default_times(patient: Patient, regimen: Regimen | None) -> np.ndarray:
    """101 times from the first row or dose to the end of the regimen."""
    begin, end = float(patient.times.min()), patient.last_level
    if patient.past is not None and len(patient.past.columns["TIME"]):
        given = patient.past.columns["TIME"]
        begin = min(begin, float(given[0]))
        end = max(end, float(given[-1] + (given[-1] - given[-2] if len(given) > 1 else 0.0)))
    if regimen is not None:
        last = regimen.end if math.isfinite(regimen.end) else regimen.start + 4.0 * regimen.interval
        end = max(end, last if last > regimen.start else regimen.start + (end - begin))
    return np.linspace(begin, end if end > begin else begin + 1.0, 101)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Forecast(Printable):
    """A forecast for one patient. It prints as sentences, the individual parameters, and predictions.

    **Fields:** `fit`; `patient`; `regimen` to come; `posterior`; `binding`: the model bound to the predicted times;
    `times`; `prediction`, `response` (draws, times): curves at the draws, without and with residuals; `at_mode` (2,
    times): curves at the mode and of the typical subject with these covariates; `individual`, `individual_at_mode`:
    parameters by name at the draws, and at the mode and of the typical subject; `rows`: further columns; `level` of the
    intervals; `seed`.
    """

    fit: FitRecord
    patient: Patient
    regimen: Regimen | None
    posterior: Posterior
    binding: Binding
    times: np.ndarray
    prediction: np.ndarray
    response: np.ndarray
    at_mode: np.ndarray
    individual: dict[str, np.ndarray]
    individual_at_mode: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    level: float
    seed: int

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:
        """Sentences on the forecast, the most serious first."""
        out = [] if self.fit.converged else [f"The fit has NOT converged. {self.fit.status}"]
        out.append(f"Forecast for one patient from {int(self.patient.data.observed.sum())} levels.")
        if self.regimen is not None:
            out.append(f"Regimen to come: {self.regimen}.")
        out.append(self.posterior.sentence)
        known = len(self.posterior.packed) == 1
        out.append(
            "The population parameters are held at their estimates; their uncertainty is not in the intervals."
            if known
            else "The uncertainty of the population parameters is in the intervals."
        )
        return tuple(out)

    # --- tables ---

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """Predictions, a row for each time: at the `mode` of the random effects, `median`, `lower` and `upper` limits
        of the patient's curve (credible interval), `predicted lower` and `predicted upper` of a new level (with a
        residual), and `population`, the typical subject with these covariates."""
        import pandas as pd

        columns = {"mode": self.at_mode[0], **self._summary(self.prediction)}
        limits = self._summary(self.response)
        columns |= {"predicted lower": limits["lower"], "predicted upper": limits["upper"]}
        columns["population"] = self.at_mode[1]
        return pd.DataFrame(columns, index=pd.Index(self.times, name=self.patient.time_name))

    def _summary(self, values: np.ndarray) -> dict[str, np.ndarray]:
        tail = 50.0 * (1.0 - self.level)
        median, lower, upper = np.percentile(values, [50.0, tail, 100.0 - tail], axis=0)
        return {"median": median, "lower": lower, "upper": upper}

    @functools.cached_property
    def parameters(self) -> pd.DataFrame:
        """Individual parameters, a row for each: of the `population` (with these covariates), at the `mode`, and
        `median`, `sd` and limits of the posterior; those that vary within the patient at the last predicted time."""
        import pandas as pd

        table = {}
        for name, values in self.individual.items():
            at = self.individual_at_mode[name]
            values, at = (v if v.ndim == 1 else v[:, -1] for v in (values, at))
            summary = {k: float(v) for k, v in self._summary(values[:, None]).items() for v in v}
            sd = float(np.std(values - values[0], ddof=1))  # exactly zero where the draws are equal
            limits = {"lower": summary["lower"], "upper": summary["upper"]}
            table[name] = {"population": at[1], "mode": at[0], "median": summary["median"], "sd": sd, **limits}
        return pd.DataFrame(table).T.rename_axis("parameter")

    @functools.cached_property
    def random_effects(self) -> pd.DataFrame:
        """Random effects on the transformed scale: the `mode`, Laplace's standard error there, and `mean` and `sd` of
        the draws (at the estimates of the parameters)."""
        import pandas as pd

        density, params = self.posterior.binding.density, self.fit.params
        levels, mode = density.levels, np.asarray(self.posterior.mode)
        full = density.effect_slopes(params, mode[None]).reshape(-1, mode.size, mode.size)[0]
        names = list(density.effect_names)
        if levels is not None:
            # An effect of a nested level has one value for each unit.
            names = [
                names[effect] if level.depth == 0 else f"{names[effect]} [{unit + 1}]"
                for level in levels.levels
                for unit in range(level.units)
                for effect in level.effects
            ]
        draws = density.effects_at(params, np.asarray(self.posterior.effects))
        se = np.sqrt(np.diag(full @ self.posterior.covariance @ full.T))
        at_mode = density.effects_at(params, mode[None])[0]
        columns = {"mode": at_mode, "se": se, "mean": draws.mean(axis=0), "sd": draws.std(axis=0)}
        return pd.DataFrame(columns, index=pd.Index(names, name="effect"))

    # --- curves ---

    def curves(self, regimen: Regimen | None, last: float, at_mode: bool = False) -> tuple[Curves, np.ndarray]:
        """The patient's curves at the draws (or at the mode) under the doses so far and a regimen to come, with doses
        up to and with time `last`; and which of the doses are to come."""
        end = max(last, self.times[-1], 0.0 if regimen is None else regimen.start)
        times = np.unique([*self.times, end])
        path = self.patient.time_name in self.rows  # records of their own
        rows = self.rows if path else {name: np.append(c, c[-1:])[: len(times)] for name, c in self.rows.items()}
        binding, _, new = self.patient.future(self.fit, regimen, times, rows or None)
        found = self.posterior
        effects = found.mode_for(binding)[None, :] if at_mode else found.effects_for(binding)
        packed = np.asarray(self.fit.params.pack(), float)[None, :] if at_mode else self.posterior.packed
        n = len(effects)
        draw = np.zeros(n, int) if len(packed) == 1 else np.arange(n)
        curves = Curves(binding, self.fit.params, self.patient.time_name, packed, effects, np.zeros(n, int), draw)
        return curves, new

    @public("forecast.exposure")
    def exposure(self, between: tuple[float, float] | None = None, threshold: float | None = None) -> pd.DataFrame:
        """The patient's exposure: at the mode, and median and limits of the posterior.

        **Arguments:** `between`, `threshold`: as for `jn.pkpd.exposure`; without a window that of the regimen to come.
        **Returns:** a data frame, a row for each measure, with columns `mode`, `median`, `lower`, `upper`.
        **Raises:** OptionError without a window.
        """
        import pandas as pd

        window = window_of(self.regimen, between)
        if window is None:
            raise OptionError("between=(begin, end) is needed: there is no regimen to come.")
        last = last_dose_time(self.regimen, window)
        last = float(self.times[-1]) if last is None else last
        tables = []
        for at_mode in (True, False):
            curves, _ = self.curves(self.regimen, last, at_mode)
            limits = (np.full(curves.n, window[0]), np.full(curves.n, window[1]))
            tables.append(exposure_table(curves, *limits, threshold, None))
        names = [name for name in tables[0].columns if name != "auc_error"]
        summary = self._summary(tables[1][names].to_numpy())
        return pd.DataFrame({"mode": tables[0][names].to_numpy()[0], **summary}, index=pd.Index(names, name="measure"))

    @public("forecast.next_dose")
    def next_dose(self, target: tuple[str, float], interval: float, **options: Any) -> NextDose:
        """The amount with which the patient reaches a target, after the doses so far.

        **Arguments:** `target`: a measure and its value, such as ("trough", 5.0); measures are "trough", "peak", "auc",
        "auc24" and "cavg". `interval` between doses. `options`: `at` (time of the next dose), `doses` (their number
        before the measured interval), `duration` (of infusions), `compartment`, `steady_state=True`, `by="median"`,
        `round_to` (amounts come in multiples of it); see `jaxnlme.forecasting.next_dose.next_dose`.
        **Returns:** a NextDose: `.amount`, `.regimen`, `.at_mode`, `.median`, `.lower`, `.upper`; it prints as
        sentences.
        **Raises:** OptionError for arguments that do not fit, and where no dose reaches the target.
        """
        from jaxnlme.forecasting.next_dose import next_dose

        return next_dose(self, target, interval, **options)

    # --- plot and print ---

    @picture("forecast.plot")
    def plot(self, ax: Any = None, *, log: bool = False) -> Any:
        """The levels, the curve at the mode, its credible interval (dark), the prediction interval of levels (light)
        and the typical curve (dashed).

        **Arguments:** `ax`: matplotlib axes, None for new ones; `log`: a logarithmic axis.
        **Returns:** the axes.
        **Raises:** ImportError without matplotlib.
        """
        axes = axes_in_row(ax, 1, (6.4, 4.2))[0]
        table = self.table
        axes.fill_between(self.times, table["predicted lower"], table["predicted upper"], color=BLUE, alpha=0.12, lw=0)
        axes.fill_between(self.times, table["lower"], table["upper"], color=BLUE, alpha=0.25, lw=0)
        axes.plot(self.times, table["mode"], color=BLUE, lw=2, label="patient")
        axes.plot(self.times, table["population"], color=DARK, lw=1, ls="--", label="population")
        data = self.patient.data
        seen = data.observed[0]
        if data.endpoint is not None:  # levels of the endpoints that are predicted
            seen = seen & np.isin(endpoint_values(data)[0], np.unique(endpoint_values(self.binding.data)))
        axes.plot(data.x[self.patient.time_name][0][seen], data.y[0][seen], "o", color=VERMILLION, ms=5, label="levels")
        if log:
            axes.set_yscale("log")
        axes.set_xlabel(axis_label(self.fit.data, self.patient.time_name))
        axes.set_ylabel(response_label(self.fit.data, self.binding.data))
        title = f"{100 * self.level:g}% intervals of the patient's curve and of levels"
        title = title if self.fit.converged else f"NOT CONVERGED\n{title}"
        axes.set_title(title, fontsize=11, color=DARK if self.fit.converged else VERMILLION)
        axes.legend(frameon=False, fontsize=8.5)
        style_axes(axes)
        return axes

    def _tables(self) -> list[Table]:
        out = []
        shown = np.unique(np.linspace(0, len(self.times) - 1, min(len(self.times), 10)).astype(int))
        for title, table in (("Individual parameters", self.parameters), ("Predictions", self.table.iloc[shown])):
            rows = [
                [name if isinstance(name, str) else f"{name:g}", *(number(v) for v in row)]
                for name, row in zip(table.index, table.to_numpy(), strict=True)
            ]
            out.append(Table(title, [str(table.index.name), *table.columns], rows))
        return out
