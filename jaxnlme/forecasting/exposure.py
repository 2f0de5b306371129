"""`exposure`: area under the curve, extremes, trough and time above a threshold, for each subject."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_number, real_number, require_host
from jaxnlme.errors import OptionError, shown
from jaxnlme.forecasting.curves import Curves
from jaxnlme.forecasting.panels import Panels, adaptive_panels, highest, joined, time_above
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.forecasting.settings import CURVES
from jaxnlme.forecasting.simulate import check_fit, check_regimen, missing_columns_named
from jaxnlme.forecasting.simulation import Simulation, subject_index
from jaxnlme.forecasting.subjects import curves_of_fit
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@public("jn.pkpd.exposure")
def exposure(
    source: Any,
    regimen: Regimen | None = None,
    *,
    between: tuple[float, float] | None = None,
    threshold: float | None = None,
    covariates: Any = None,
    rows: Any = None,
    time: str | None = None,
) -> pd.DataFrame:
    """Exposure of each subject, from the model's curve of its individual parameters, without residuals.

    **Arguments:**

    - `source`: a Simulation; or a fit, whose subjects are taken at their conditional modes, on their own doses or
      under another `regimen`.
    - `between`: the window (begin, end); the end may be infinite (`math.inf`). None: of a regimen at steady state or
      without end one interval; of one with an end from the first dose to the time at which the dose after the last one
      would be due; of a single dose to infinity; without a regimen from the first dose or observation of a subject to
      its last observation. A dose at the end of the window is not in it.
    - `threshold`: a concentration; the time above it is computed.
    - `covariates`, `rows`, `time`: for a fit, as in `jn.pkpd.simulate`: by default a subject keeps its covariates.

    **Returns:** a data frame, a row for each subject (and draw of the parameters): `auc`, the area over the window, and
    `auc_error`, the difference of two quadrature rules, which its error does not exceed where the curve is smooth
    between doses (areas to infinity: and the change in the last extrapolation); `cmax`, `tmax`, `cmin` and `ctrough`,
    the value at the end of the window before a dose given then; `cavg`, area by time; `time_above` and `part_above` of
    the window. Not a number where the curve is not finite, or an area to infinity not found.
    **Raises:** OptionError for arguments that do not fit.

    **Example:**

    ```python
    doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
    v = jn.Parameter("v", 32.0, "log", random=True)
    pk = jn.fit(jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v]), doses, "focei")
    jn.pkpd.exposure(pk)
    ```
    """
    require_host("jn.pkpd.exposure", between, threshold)
    if isinstance(source, Simulation):
        for name, value in {"regimen": regimen, "covariates": covariates, "rows": rows, "time": time}.items():
            if value is not None:
                raise OptionError(f"{name} belongs to a fit; a simulation has its own.")
        window = window_of(source.regimen, between)
        curves = source.curves(last_dose_time(source.regimen, window))
        index = subject_index(source.binding.data.labels, source.binding.data.group_name, source.n_draws)
    else:
        check_fit("jn.pkpd.exposure", source)
        check_regimen(source, regimen)
        window = window_of(regimen, between)
        with missing_columns_named():
            curves = curves_of_fit(source, regimen, last_dose_time(regimen, window), covariates, rows, time)
        index = subject_index(curves.binding.data.labels, source.data.group_name, 1)
    begin, end = window_of_subjects(curves, window)
    return exposure_table(curves, begin, end, threshold, index)


def window_of(regimen: Regimen | None, between: Any) -> tuple[float, float] | None:
    """The window of exposure, None where each subject has its own. **Raises:** OptionError for what is no window."""
    if between is None:
        return None if regimen is None else regimen.window
    pair = list(between) if isinstance(between, (tuple, list, np.ndarray)) else []
    begin = real_number(pair[0]) if len(pair) == 2 else None
    end = None if len(pair) != 2 else math.inf if pair[1] == math.inf else real_number(pair[1])
    if begin is None or end is None or not begin < end:
        raise OptionError(f"between must be a pair of times (begin, end), begin < end; received {shown(between)}.")
    if regimen is not None and end == math.inf and math.isinf(regimen.last_dose):
        raise OptionError(
            "a regimen without end has no area to infinity; give it doses= or until=, or a window between=(begin, end)."
        )
    return begin, end


def last_dose_time(regimen: Regimen | None, window: tuple[float, float] | None) -> float | None:
    """The time up to which doses are needed for a window."""
    if regimen is None or window is None:
        return None
    return regimen.last_dose if math.isinf(window[1]) else window[1]


def window_of_subjects(curves: Curves, window: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end (subjects,) of the window; None: from the first dose or row to the last row."""
    if window is not None:
        return np.full(curves.n, window[0]), np.full(curves.n, window[1])
    data = curves.binding.data
    times = np.where(data.rows, data.x[curves.time_name], np.nan)
    begin, end = np.nanmin(times, axis=1), np.nanmax(times, axis=1)
    if data.events is not None:
        table, mask = data.tables["events"]
        begin = np.minimum(begin, np.where(mask, table["time"], np.inf).min(axis=1))
    return begin[curves.group], end[curves.group]


def exposure_table(
    curves: Curves, begin: np.ndarray, end: np.ndarray, threshold: float | None, index: Any
) -> pd.DataFrame:
    """The table of `exposure`, with a row for each subject of `curves`, over windows [begin, end] (subjects,)."""
    if threshold is not None:
        check_number("threshold", threshold, -math.inf)
    return Exposure.of(curves, begin, end).table(threshold, index)


@dataclasses.dataclass(frozen=True, eq=False)
class Exposure:
    """Exposures of the subjects of some curves over their windows.

    **Fields:** `curves`; `panels`: the curves in their windows; `values` (subjects,) by name; `width` (subjects,) of
    the windows, infinite for areas to infinity; `lost` (subjects,): true where the curve is not finite.
    """

    curves: Curves
    panels: Panels
    values: dict[str, np.ndarray]
    width: np.ndarray
    lost: np.ndarray

    @classmethod
    def of(cls, curves: Curves, begin: np.ndarray, end: np.ndarray) -> Exposure:
        """The exposures over windows [begin, end] (subjects,)."""
        infinite = np.isinf(end)
        stop = np.where(infinite, _horizon(curves, begin), end) if infinite.any() else end
        panels = adaptive_panels(curves, begin, stop)
        auc, error = panels.by_subject(panels.area), panels.by_subject(panels.error)
        if infinite.any():
            panels, auc, error = _to_infinity(curves, panels, infinite, begin, stop, auc, error)
        cmax, tmax = highest(curves, panels)
        values = {"auc": auc, "auc_error": error, "cmax": cmax, "tmax": tmax}
        if not infinite.any():
            cmin, _ = highest(curves, panels, -1.0)
            last = np.searchsorted(panels.subject, np.arange(curves.n), "right") - 1
            values |= {"cmin": cmin, "ctrough": panels.values[last, -1], "cavg": auc / (end - begin)}
        lost = panels.by_subject((~np.isfinite(panels.values).all(axis=1)).astype(float)) > 0
        return cls(curves, panels, values, end - begin, lost)

    def table(self, threshold: float | None, index: Any = None, factor: float = 1.0) -> pd.DataFrame:
        """The table of `exposure`. **Arguments:** `factor` of all doses, for a model that is linear in them."""
        import pandas as pd

        table = {name: v if name == "tmax" else factor * v for name, v in self.values.items()}
        if threshold is not None:
            table["time_above"] = self._time_above(threshold / factor)
            if np.isfinite(self.width).all():
                table["part_above"] = table["time_above"] / self.width
        return pd.DataFrame({name: np.where(self.lost, np.nan, v) for name, v in table.items()}, index=index)

    def _time_above(self, threshold: float) -> np.ndarray:
        """The time (subjects,) above a threshold; where the window has no end, the panels go on until the curve is
        below it (NaN: it stays above)."""
        panels = [self.panels]
        last = np.searchsorted(self.panels.subject, np.arange(self.curves.n), "right") - 1
        begin, stop, value = np.zeros(self.curves.n), self.panels.end[last], self.panels.values[last, -1]
        begin[self.panels.subject[::-1]] = self.panels.begin[::-1]
        active = np.flatnonzero(np.isinf(self.width) & (value > threshold) & ~self.lost)
        for _ in range(CURVES.doublings):
            if not len(active):
                break
            new = adaptive_panels(_of_subjects(self.curves, active), stop[active], 2.0 * stop[active] - begin[active])
            stop[active] = 2.0 * stop[active] - begin[active]
            below = ~(new.values[np.searchsorted(new.subject, np.arange(len(active)), "right") - 1, -1] > threshold)
            panels.append(Panels(active[new.subject], new.begin, new.end, new.times, new.values, self.curves.n))
            active = active[~below]
        out = time_above(self.curves, joined(panels), threshold)
        out[active] = np.nan
        return out


def _horizon(curves: Curves, begin: np.ndarray) -> np.ndarray:
    """A first horizon (subjects,) of an area to infinity: beyond the last dose by the length of the window up to it,
    or by that of the observations."""
    data = curves.binding.data
    times = data.x[curves.time_name]
    length = max(float(np.max(times[data.rows]) - np.min(times[data.rows])), np.finfo(float).tiny)
    which, breaks = curves.breaks
    last = np.array([at[-1] if len(at) else -math.inf for at in breaks])[which[curves.group]]
    last = np.maximum(last, begin)
    return last + np.maximum(last - begin, length)


def _to_infinity(
    curves: Curves,
    panels: Panels,
    infinite: np.ndarray,
    begin: np.ndarray,
    stop: np.ndarray,
    auc: np.ndarray,
    error: np.ndarray,
) -> tuple[Panels, np.ndarray, np.ndarray]:
    """Areas to infinity: the horizon is doubled until the area up to it, and beyond it that of an exponential through
    its last two points, add up to the same number; a curve that does not decline has none."""
    done, auc, error = [panels], auc.copy(), error.copy()
    total, area, horizon = np.full(curves.n, np.nan), auc.copy(), stop.copy()
    active = np.flatnonzero(infinite)
    for _ in range(CURVES.doublings):
        subset = _of_subjects(curves, active)
        new = adaptive_panels(subset, horizon[active], 2.0 * horizon[active] - begin[active])
        horizon[active] = 2.0 * horizon[active] - begin[active]
        area[active] += new.by_subject(new.area)
        error[active] += new.by_subject(new.error)
        last = np.searchsorted(new.subject, np.arange(len(active)), "right") - 1
        early, late = new.values[last, len(new.values[0]) // 2], new.values[last, -1]
        span = new.times[last, -1] - new.times[last, len(new.values[0]) // 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.log(early / late) / span
            tail = np.where(late == 0, 0.0, np.where((rate > 0) & (late > 0), late / rate, np.nan))
        found = area[active] + tail
        change = np.abs(found - total[active])
        with np.errstate(invalid="ignore"):
            ready = (change <= CURVES.tail * np.abs(found)) | (np.abs(late) * span < 1e-16 * np.abs(area[active]))
        ready |= ~np.isfinite(area[active])
        total[active] = found
        auc[active[ready]] = np.where(np.isnan(found), area[active], found)[ready]
        error[active[ready]] += np.nan_to_num(change)[ready]
        done.append(Panels(active[new.subject], new.begin, new.end, new.times, new.values, curves.n))
        active = active[~ready]
        if not len(active):
            return joined(done), auc, error
    auc[active] = error[active] = np.nan
    return joined(done), auc, error


def _of_subjects(curves: Curves, chosen: np.ndarray) -> Curves:
    return dataclasses.replace(
        curves, effects=curves.effects[chosen], group=curves.group[chosen], draw=curves.draw[chosen]
    )
