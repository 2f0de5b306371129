"""`jn.vpc_survival`: visual predictive check of times to event, by Kaplan-Meier curves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.arguments import check_flag
from jaxnlme.data._columns import read_labels, take_column
from jaxnlme.data._rows import name_rows
from jaxnlme.diagnostics.vpc.curves import Times
from jaxnlme.diagnostics.vpc.quantiles import over_replicates
from jaxnlme.diagnostics.vpc.reading import REPLICATE_NAMES, check_names, numbers, replicate_name
from jaxnlme.diagnostics.vpc.record import Vpc
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.diagnostics.vpc.strata import Specification, Strata, check_stratify, matched_strata, strata_of
from jaxnlme.errors import DataError, OptionError, check_level, shown
from jaxnlme.signatures import public


@public("jn.vpc_survival")
def vpc_survival(
    observed: Any,
    simulated: Any,
    *,
    time: str,
    event: str,
    group: str,
    replicate: str | None = None,
    repeated: bool = False,
    stratify: Any = None,
    covariate: str | None = None,
    times: Any = None,
    level: float = 0.95,
) -> Vpc:
    """Visual predictive check of times to event: the Kaplan-Meier curve of the observations, and intervals of the
    curves of the simulated replicates.

    **Arguments:**

    - `observed`: a table with rows of events (`event` 1) and of ends of follow-up (`event` 0) of each group; rows with
      `event` 0 before the last of a group say nothing and are skipped.
    - `simulated`: a table of the same columns and one of replicates, with rows of its own.
    - `time`, `event`, `group`, `replicate`: names of columns ("replicate", "REP", "sim" are found without it).
    - `repeated`: False: the time of the first event. True: a curve for each event number (column `event` of the
      tables): the time from the event before, of the groups that had that one. A replicate without such a group has no
      part in its interval.
    - `stratify`: as in `jn.vpc`, of columns that are constant in each group.
    - `covariate`: a column of numbers: instead of survival, its mean among the groups still at risk (kmmc).
    - `times`: where curves are computed; all distinct times, at most 200 of them, where None. `level` of the intervals.

    **Returns:** a Vpc with the tables `observed` (`time`, `survival` or `mean`, `at_risk`, `events`) and `simulated`
    (`time`, `low`, `median`, `high`), and `plot()`.
    **Raises:** DataError and OptionError naming the column, rows or option, what was expected, and the remedy.

    **Example:**

    ```python
    rng = np.random.default_rng(1)
    time = rng.exponential(4.0, (101, 50))  # 50 subjects, followed for 6 hours: observed, and 100 replicates
    frames = [pd.DataFrame({"id": np.arange(50), "t": np.minimum(row, 6.0), "event": row < 6.0}) for row in time]
    simulated = pd.concat(frames[1:], keys=range(100), names=["replicate", None]).reset_index(level=0)
    print(jn.vpc_survival(frames[0], simulated, time="t", event="event", group="id"))
    ```
    """
    check_level(level)
    check_flag("repeated", repeated)
    specification = check_stratify(stratify)
    check_names(specification)
    names = Names(time, event, group, covariate)
    everywhere = np.ones(numbers(observed, time, "time").size, bool)
    strata = strata_of(observed, specification, everywhere)
    of_observed = names.read(observed, "the observed table", None, strata.code, repeated)
    column = replicate_name(simulated, replicate)
    if column is None:
        raise DataError(
            "the simulated table has no column of replicates "
            f"({', '.join(REPLICATE_NAMES[:3])}, ...); name it by replicate=."
        )
    labels = np.asarray(read_labels(take_column(simulated, column, "replicate"), column))
    distinct, codes = np.unique(labels, return_inverse=True)
    stratum = _simulated_strata(simulated, specification, strata, observed)
    of_simulated = names.read(simulated, "the simulated table", codes, stratum, repeated)
    return compare_times(of_observed, of_simulated, distinct.size, strata, names, checked_times(times), repeated, level)


def _simulated_strata(simulated: Any, specification: Specification, strata: Strata, observed: Any) -> np.ndarray:
    codes = matched_strata(simulated, specification, strata, observed)
    if (other := codes < 0).any():
        raise DataError(
            f"the simulated table has a stratum that is not observed, in {name_rows(other)}; leave these rows out."
        )
    return codes


@dataclasses.dataclass(frozen=True, eq=False)
class Spells:
    """Times at risk of all subjects and replicates, each (n,). **Fields:** `time`, from the origin or the event before;
    `is_event`; `number` of the event, from 1 on; `replicate`; `stratum`; `covariate`, or None."""

    time: np.ndarray
    is_event: np.ndarray
    number: np.ndarray
    replicate: np.ndarray
    stratum: np.ndarray
    covariate: np.ndarray | None

    def at(self, rows: np.ndarray) -> Times:
        """The times of the mask or positions `rows`."""
        covariate = None if self.covariate is None else self.covariate[rows]
        return Times(self.time[rows], self.is_event[rows], covariate)


@dataclasses.dataclass(frozen=True)
class Names:
    """Names of the columns of a table of events."""

    time: str
    event: str
    group: str
    covariate: str | None

    def read(self, frame: Any, table: str, replicate: np.ndarray | None, stratum: np.ndarray, repeated: bool) -> Spells:
        """The times at risk in a table. **Raises:** DataError for missing and impossible values, by row."""
        time, event = numbers(frame, self.time, "time"), numbers(frame, self.event, "event")
        group = np.asarray(read_labels(take_column(frame, self.group, "group"), self.group), object)
        covariate = None if self.covariate is None else numbers(frame, self.covariate, "covariate")
        if (bad := ~np.isfinite(time) | (time < 0)).any():
            raise DataError(
                f"{table}: the time is missing or negative in {name_rows(bad)}; correct column {self.time!r}."
            )
        if (bad := ~np.isin(event, (0.0, 1.0))).any():
            raise DataError(
                f"{table}: column {self.event!r} holds {event[bad][0]:g} in {name_rows(bad)}; expected 1 (an event) or "
                "0 (the end of follow-up): recode it."
            )
        if covariate is not None and (bad := ~np.isfinite(covariate)).any():
            raise DataError(f"{table}: column {self.covariate!r} is missing in {name_rows(bad)}; fill it in.")
        replicate = np.zeros(time.size, int) if replicate is None else replicate
        subject = np.unique(group.astype(str), return_inverse=True)[1]
        return spells_of(time, event == 1.0, subject, replicate, stratum, covariate, repeated)


def spells_of(
    time: np.ndarray,
    is_event: np.ndarray,
    subject: np.ndarray,
    replicate: np.ndarray,
    stratum: np.ndarray,
    covariate: np.ndarray | None,
    repeated: bool,
) -> Spells:
    """Times at risk from rows of events and ends of follow-up, each (rows,)."""
    order = np.lexsort((~is_event, time, subject, replicate))
    person = np.unique(np.stack([replicate, subject])[:, order], axis=1, return_inverse=True)[1].ravel()
    event, at = is_event[order], time[order]
    is_last = np.append(person[1:] != person[:-1], True)
    keep = np.flatnonzero(event | is_last)  # rows without an event before the last say nothing
    order, person, event, at = order[keep], person[keep], event[keep], at[keep]
    begins = np.append(True, person[1:] != person[:-1])
    position = np.arange(person.size)
    number = position - np.maximum.accumulate(np.where(begins, position, 0)) + 1
    before = np.where(begins, 0.0, np.append(0.0, at[:-1]))
    use = np.ones(person.size, bool) if repeated else number == 1
    rows = order[use]
    return Spells(
        (at - before)[use], event[use], number[use], replicate[rows], stratum[rows],
        None if covariate is None else covariate[rows],
    )  # fmt: skip


def checked_times(times: Any) -> np.ndarray | None:
    """**Raises:** OptionError for others than finite times of at least zero."""
    if times is None:
        return None
    try:
        values = np.unique(np.asarray(times, float))
    except (TypeError, ValueError):
        values = np.empty(0)
    if not values.size or not np.isfinite(values).all() or values[0] < 0:
        raise OptionError(
            f"times must be finite numbers >= 0 at which the curves are computed; received {shown(times)}."
        )
    return values


def compare_times(
    observed: Spells,
    simulated: Spells,
    size: int,
    strata: Strata,
    names: Names,
    times: np.ndarray | None,
    repeated: bool,
    level: float,
) -> Vpc:
    """The check of observed and simulated times at risk. **Arguments:** `size`: number of replicates."""
    import pandas as pd

    value = "survival" if names.covariate is None else "mean"
    seen, bands = [], []
    for stratum in range(len(strata.labels)):
        of_stratum = simulated.stratum == stratum
        for number in range(1, int(observed.number[observed.stratum == stratum].max(initial=0)) + 1):
            rows = (observed.stratum == stratum) & (observed.number == number)
            if not rows.any():
                continue
            drawn = np.flatnonzero(of_stratum & (simulated.number == number))
            grid = _grid(observed.time[rows], simulated.time[drawn]) if times is None else times
            of_rows = observed.at(rows)
            place = strata.columns(stratum) | ({"event": number} if repeated else {})
            columns = {"time": grid, value: of_rows.at(grid), "at_risk": of_rows.at_risk(grid)}
            columns["events"] = of_rows.events_until(grid)
            seen.append(pd.DataFrame(columns).assign(**place))
            curves = np.full((size, grid.size), np.nan)
            order = drawn[np.argsort(simulated.replicate[drawn], kind="stable")]
            present, first = np.unique(simulated.replicate[order], return_index=True)
            for k, part in zip(present, np.split(order, first[1:]), strict=True):
                curves[k] = simulated.at(part).at(grid)
            low, median, high = over_replicates(curves, level).T
            bands.append(pd.DataFrame({"time": grid, "low": low, "median": median, "high": high}).assign(**place))
    keys = [*strata.names, *(["event"] if repeated else [])]
    tables = [pd.concat(part, ignore_index=True) for part in (seen, bands)]
    tables = [table[[*keys, *(name for name in table if name not in keys)]] for table in tables]
    count = int((observed.number == 1).sum())
    of_strata = f" in {len(strata.labels)} strata" if strata.names else ""
    what = "times between repeated events" if repeated else "times to event"
    sentences = [
        f"Visual predictive check of {what}: {int(observed.is_event.sum())} events of {count} groups{of_strata}, "
        f"{size} simulated replicates."
    ]
    if names.covariate is not None:
        sentences.append(f"Mean of {names.covariate} among the groups still at risk.")
    x_name = f"{names.time} from the event before" if repeated else names.time
    y_name = "survival" if names.covariate is None else f"mean {names.covariate} of those at risk"
    return Vpc(tables[0], tables[1], None, None, None, "survival", size, float(level), x_name, y_name, strata.names,
               tuple(sentences), tuple(strata.titles))  # fmt: skip


def _grid(observed: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """The distinct times from zero on; evenly spread where they are many."""
    distinct = np.unique(np.concatenate([[0.0], observed, simulated]))
    if distinct.size <= VPC.curve_points:
        return distinct
    return np.unique(np.concatenate([np.linspace(0.0, distinct[-1], VPC.curve_points)]))
