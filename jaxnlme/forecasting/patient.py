"""A patient: the levels observed so far, the doses given so far, and data of the times to come."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, shown, some
from jaxnlme.forecasting.covariate_path import PathRows, as_path, carries_back, record_at, time_name
from jaxnlme.forecasting.new_subjects import Doses, covariate_columns, data_with_doses, row_columns
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.results.evaluate import rebind
from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True, eq=False)
class Patient:
    """One new subject.

    **Fields:** `data` of the patient, one group; `time_name`; `past`: doses so far, None without event records;
    `covariates`: by name, one value each.
    """

    data: GroupedData
    time_name: str
    past: Doses | None
    covariates: dict[str, np.ndarray]

    @property
    def times(self) -> np.ndarray:
        """Times of the rows (rows,)."""
        return self.data.x[self.time_name][0][self.data.rows[0]]

    @property
    def last_level(self) -> float:
        """Time of the last observed level; without one that of the last row."""
        observed = self.data.observed[0][self.data.rows[0]]
        return float(self.times[observed].max() if observed.any() else self.times.max())

    def future(
        self, fit: FitRecord, regimen: Regimen | None, times: np.ndarray, rows: Any
    ) -> tuple[Binding, np.ndarray, np.ndarray]:
        """The model bound to rows at (sorted) `times`, under the doses so far and a further regimen.

        **Returns:** the Binding; the positions of the rows asked for; and which doses are those of the regimen.
        """
        last = float(times[-1])
        doses, new = self.past, np.zeros(0, bool)
        if self.past is not None:
            new = np.zeros(len(self.past.columns["TIME"]), bool)
            if regimen is not None:
                coming = Doses.of(regimen, max(last, regimen.start), self.covariates, 1)
                doses, new = self.past.followed_by(coming)
        back = carries_back(fit.data)
        every = self._rows_at(times, as_path(rows, self.time_name), back)
        if as_path(rows, self.time_name) is None:
            every = every.with_values(times, row_columns(rows, len(times)), back)
        covariates = {name: c for name, c in self.covariates.items() if name not in every.columns}
        data, kept = data_with_doses(
            doses, every.times, self.data.labels, covariates, every.columns, True, fit.data, None, self.time_name
        )
        return rebind(fit, data), kept[every.asked], new

    def _rows_at(self, times: np.ndarray, path: Any, back: bool) -> PathRows:
        """Rows for `times` and for the patient's records, with the columns of x other than time that hold then.

        What was measured in a row (endpoint, compartment) is that of the last record until then.

        **Arguments:** `path`: the records of further columns, or None; `back`: as for `record_at`.
        """
        data, own = self.data, self.data.rows[0]
        columns = {name: c for name, c in (data.x | data.text).items() if c.ndim == 2 and name != self.time_name}
        columns |= {level.name: level.row_labels for level in data.nested}
        columns = {name: column[0][own] for name, column in columns.items()}
        measured = (data.endpoint, None if data.events is None else data.events.facts.compartment)
        records = self.times
        held = {name: column for name, column in columns.items() if name not in measured}
        if path is not None:
            both = np.union1d(records, path[0])
            held = {name: column[record_at(records, both, back)] for name, column in held.items()}
            held |= {name: column[record_at(path[0], both, back)] for name, column in path[1].items()}
            records = both
        every = PathRows.of(times, records, held, back)
        last = record_at(self.times, every.times, False)
        seen = {name: column[last] for name, column in columns.items() if name in measured and name not in held}
        return dataclasses.replace(every, columns=every.columns | seen)


def read_patient(
    fit: FitRecord, patient: Any, doses: Any, covariates: Any, regimen: Regimen | None, time: str | None
) -> Patient:
    """The patient, from data of one group or a table of levels.

    **Raises:** OptionError for what describes no patient.
    """
    name = time_name(fit.data, time)
    if isinstance(patient, GroupedData):
        for option, value in {"doses": doses, "covariates": covariates}.items():
            if value is not None:
                raise OptionError(f"{option} goes with a table of levels; GroupedData have their own.")
        if patient.n_groups != 1:
            raise OptionError(
                f"a forecast is for one patient; the data have {patient.n_groups} groups: use .select([k])."
            )
        if (patient.events is None) != (fit.data.events is None):
            raise OptionError(
                "the patient's data have event records and the fitted data have none"
                if fit.data.events is None
                else "the patient's data have no event records (doses), which the fitted data have"
            )
        past = None if patient.events is None else Doses.of_events(patient.events)
        return Patient(patient, name, past, {k: v[:1] for k, v in _group_columns(patient).items()})
    return _from_table(fit, patient, doses, covariates, regimen, name)


def _group_columns(data: GroupedData) -> dict[str, np.ndarray]:
    return data.v | {name: values for name, values in data.text.items() if values.ndim == 1}


def _from_table(fit: FitRecord, table: Any, doses: Any, covariates: Any, regimen: Regimen | None, time: str) -> Patient:
    """The patient of a table with columns of time, response, and what else the model reads of a row."""
    like = fit.data
    if not (hasattr(table, "keys") and hasattr(table, "__getitem__")):
        raise OptionError(
            "patient must be GroupedData with one group, or a table (a dictionary or data frame) of levels with "
            f"columns {time!r} and {like.y_name!r}; received {shown(table)}."
        )
    names = [str(name) for name in table.keys()]  # noqa: SIM118
    records = [name for name in names if name.upper() in ("AMT", "EVID")]
    if records:
        raise OptionError(
            f"the table has dose records ({some(records)}): read it by GroupedData.from_nonmem, or give the levels "
            "only, and the doses as doses=jn.pkpd.regimen(...)."
        )
    absent = [name for name in (time, like.y_name) if name not in names]
    if absent:
        raise OptionError(f"the table of levels lacks {some([repr(n) for n in absent])}; its columns: {some(names)}.")
    if like.events is not None and not isinstance(doses, Regimen):
        raise OptionError(
            f"doses= must be the regimen that the patient has received (jn.pkpd.regimen); received {shown(doses)}."
        )
    if like.events is None and doses is not None:
        raise OptionError("the fitted data have no event records, so that the model would not see doses=.")
    times = np.asarray(table[time], float).ravel()
    y = np.asarray(table[like.y_name], float).ravel()
    if len(times) != len(y) or not len(y) or not np.isfinite(times).all() or np.isinf(y).any():
        raise OptionError(
            f"the table of levels must have finite numbers in {time!r} and {like.y_name!r}, one of each in every row."
        )
    order = np.argsort(times, kind="stable")
    columns = covariate_columns(covariates, 1)
    rows, further = {}, [name for name in names if name not in (time, like.y_name, like.group_name)]
    for name, column in row_columns({n: table[n] for n in further}, len(times)).items():
        by_row = name in like.x or name in like.level_names or getattr(like.text.get(name), "ndim", 0) == 2
        if by_row:
            rows[name] = column[order]
        elif (column != column[:1]).any():
            raise OptionError(
                f"column {name!r} of the table of levels differs between rows; it has one value a subject."
            )
        else:
            columns[name] = column[:1]
    past = None
    if doses is not None:
        # A regimen without end goes on until the next one begins, and otherwise until what is asked for ends.
        stop = math.inf if regimen is None else regimen.start
        last = doses.last_dose if math.isfinite(doses.last_dose) else float(times.max()) if math.isinf(stop) else stop
        past = Doses.of(doses, last, columns, 1)
        past = past.until(stop) if math.isinf(doses.last_dose) else past
    label = np.array(["patient"], object)
    data, kept = data_with_doses(past, times[order], label, columns, rows, True, like, None, time)
    response, observed = np.ones(data.y.shape), np.zeros(data.y.shape, bool)
    observed[0, kept] = ~np.isnan(y[order])
    response[0, kept] = np.where(np.isnan(y[order]), 1.0, y[order])
    return Patient(dataclasses.replace(data, y=response, observed=observed), time, past, columns)
