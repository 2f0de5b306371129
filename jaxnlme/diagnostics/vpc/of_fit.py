"""`fit.vpc` and `fit.npc`: predictive checks of a fit, simulated for its own rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_flag, require_host
from jaxnlme.binding.endpoints import endpoint_codes
from jaxnlme.data._columns import read_column
from jaxnlme.data._limits import RIGHT
from jaxnlme.diagnostics.simulations import simulated_responses
from jaxnlme.diagnostics.vpc.cells import Observations
from jaxnlme.diagnostics.vpc.check import check_options, compare
from jaxnlme.diagnostics.vpc.npc import Npc, check_intervals, compare_intervals
from jaxnlme.diagnostics.vpc.reading import check_names, observations_of
from jaxnlme.diagnostics.vpc.record import KINDS, Vpc
from jaxnlme.diagnostics.vpc.replicates import SameRows
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.diagnostics.vpc.strata import Specification, check_stratify, strata_of
from jaxnlme.diagnostics.vpc.survival import Names, checked_times, compare_times, spells_of
from jaxnlme.errors import DataError, ModelError, OptionError, check_level, check_whole_number, near_matches, shown
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.results.evaluate import require_estimates

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


def vpc_of_fit(
    fit: FitRecord,
    replicates: int = 1000,
    *,
    x: Any = None,
    kind: str | None = None,
    endpoint: Any = None,
    bins: Any = "auto",
    n_bins: int | None = None,
    centre: str = "mean",
    stratify: Any = None,
    percentiles: Sequence[float] = (5, 50, 95),
    level: float = 0.95,
    prediction_corrected: bool = False,
    lower: float = 0.0,
    log: bool = False,
    variance_corrected: bool = False,
    simulated_limits: bool = True,
    categories: Sequence[float] | None = None,
    event: str | None = None,
    follow_up: Any = None,
    repeated: bool = False,
    covariate: str | None = None,
    times: Any = None,
    seed: int = 0,
) -> Vpc:
    """Visual predictive check; see `Fit.vpc`."""
    require_host("fit.vpc")
    require_estimates(fit)
    check_choice("kind", kind, (None, *KINDS))
    rows = _Rows.of(fit, endpoint)
    if kind is None:
        kind = rows.kind
    specification = rows.strata(check_stratify(stratify))
    check_names(specification)
    if kind == "survival":
        pairs = {"bins": (bins, "auto"), "n_bins": (n_bins, None), "categories": (categories, None),
                 "prediction_corrected": (prediction_corrected, False)}  # fmt: skip
        _refuse("survival", {name: value for name, (value, default) in pairs.items() if value is not default})
        check = _survival(rows, replicates, specification, event, follow_up, x, repeated, covariate, times, level, seed)
        return _of_fit(check, fit)
    of_events = {"event": event, "follow_up": follow_up, "times": times, "covariate": covariate}
    of_events["repeated"] = True if repeated else None
    _refuse(kind, {name: value for name, value in of_events.items() if value is not None})
    options = check_options(kind, bins, n_bins, centre, percentiles, level, prediction_corrected, lower, log,
                            variance_corrected, simulated_limits)  # fmt: skip
    x_name, at = rows.horizontal(x)
    prediction = np.asarray(fit.predict(level="population"), float) if prediction_corrected else None
    if prediction is not None and prediction.shape != (fit.data.n_rows,):
        raise ModelError("prediction correction needs one prediction for each row, and this model returns several.")
    observed, use = rows.observations(x_name, at, specification, prediction)
    check = compare(observed, rows.replicates(replicates, seed, use), observed.rows, options, categories)
    return _of_fit(_named_categories(check, fit), fit)


def _of_fit(check: Vpc, fit: FitRecord) -> Vpc:
    """The check, marked where the fit did not converge."""
    if fit.converged:
        return check
    sentence = (
        f"The fit by {fit.method} did NOT CONVERGE: the replicates are simulated from values that are no estimates."
    )
    return dataclasses.replace(check, converged=False, sentences=(sentence, *check.sentences))


def npc_of_fit(
    fit: FitRecord,
    replicates: int = 1000,
    *,
    intervals: Sequence[float] = VPC.npc_intervals,
    endpoint: Any = None,
    stratify: Any = None,
    level: float = 0.95,
    seed: int = 0,
) -> Npc:
    """Numerical predictive check; see `Fit.npc`."""
    require_host("fit.npc")
    require_estimates(fit)
    check_level(level)
    rows = _Rows.of(fit, endpoint)
    specification = rows.strata(check_stratify(stratify))
    check_names(specification)
    of_intervals = check_intervals(intervals)
    observed, use = rows.observations("row", np.arange(float(fit.data.n_rows)), specification, None)
    return compare_intervals(observed, rows.replicates(replicates, seed, use), of_intervals, level)


def _refuse(kind: str, given: dict[str, Any]) -> None:
    """**Raises:** OptionError for options that a kind of check does not have."""
    if given:
        name, value = next(iter(given.items()))
        other = "percentiles and shares" if kind == "survival" else "times to event, kind='survival'"
        raise OptionError(f"{name}={shown(value)} is an option for {other}, and this check is {kind!r}; leave it out.")


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a fit that a check uses. **Fields:** `fit`; `frame`, its data; `use` (rows,): those of the endpoint
    asked for."""

    fit: FitRecord
    frame: pd.DataFrame
    use: np.ndarray
    one_endpoint: bool

    @classmethod
    def of(cls, fit: FitRecord, endpoint: Any) -> _Rows:
        """**Raises:** OptionError for an unknown endpoint."""
        data, error = fit.binding.data, fit.binding.density.error
        use = data.rows_to_column(data.observed)
        if not isinstance(error, EndpointErrors):
            if endpoint is not None:
                raise OptionError(f"endpoint={shown(endpoint)}: the model has one residual model; leave it out.")
            return cls(fit, _table(fit), use, True)
        codes = data.rows_to_column(endpoint_codes(data, error.labels))
        if endpoint is None:
            return cls(fit, _table(fit), use, len(np.unique(codes[use])) == 1)
        if str(endpoint) not in error.labels:
            raise OptionError(f"no endpoint {shown(endpoint)}; {near_matches(str(endpoint), error.labels)}")
        return cls(fit, _table(fit), use & (codes == error.labels.index(str(endpoint))), True)

    @property
    def kind(self) -> str:
        """The kind of check: continuous for a Gaussian residual model; for another outcome categorical where the
        responses are whole numbers with few distinct values.

        **Raises:** OptionError where the endpoints are of several kinds.
        """
        data, error = self.fit.binding.data, self.fit.binding.density.error
        members = error.members if isinstance(error, EndpointErrors) else (error,)
        codes = np.zeros(self.use.shape, int)
        if isinstance(error, EndpointErrors):
            codes = data.rows_to_column(endpoint_codes(data, error.labels))
        kinds = {}
        for k in np.unique(codes[self.use]):
            y = np.unique(self.response[self.use & (codes == k)])
            is_whole = np.all(y == np.round(y)) and y.size <= VPC.most_categories
            kinds[int(k)] = "categorical" if is_whole and not members[k].has_gaussian_moments else "continuous"
        if len(set(kinds.values())) > 1:
            labels = ", ".join(f"{error.labels[k]} {kind}" for k, kind in kinds.items())
            raise OptionError(f"the endpoints need checks of several kinds ({labels}); ask for each by endpoint=.")
        return next(iter(kinds.values()))

    @property
    def response(self) -> np.ndarray:
        """The responses (rows,), NaN where missing."""
        return self.frame[self.fit.data.y_name].to_numpy(float)

    def strata(self, given: Specification) -> Specification:
        """The strata asked for, with those of several endpoints first."""
        name = self.fit.binding.data.endpoint
        if self.one_endpoint or name is None or name in [own for own, _ in given]:
            return given
        return [(name, None), *given]

    def horizontal(self, x: Any) -> tuple[str, np.ndarray]:
        """Name and values (rows,) of the horizontal variable: a column of the data, values, or where None the time of
        the doses, or the first column of x.

        **Raises:** OptionError for unknown columns.
        """
        data = self.fit.binding.data
        if x is not None and not isinstance(x, str):
            values = read_column(x, "x").values
            if values.shape != self.use.shape or values.dtype == object:
                raise DataError(
                    f"x has {values.size} values and the data {self.use.size} rows; expected a number for each."
                )
            return str(getattr(x, "name", None) or "x"), values
        if x is None:
            names = [data.events.facts.time] if data.events is not None else [n for n in data.x if n != data.endpoint]
            if not names:
                raise OptionError("the data have no x column; give the horizontal variable, values (rows,), as x=.")
            x = names[0]
        if x not in self.frame:
            raise OptionError(f"x: the data have no column {x!r}; {near_matches(x, map(str, self.frame.columns))}")
        column = read_column(self.frame[x], x)
        if column.is_text:
            raise OptionError(f"x: column {x!r} holds text; name a column of numbers.")
        return x, column.values

    def observations(
        self, x_name: str, at: np.ndarray, specification: Specification, prediction: np.ndarray | None
    ) -> tuple[Observations, np.ndarray]:
        """The observations, and the mask (rows,) of them."""
        data = self.fit.binding.data
        limits = None
        if data.limits is not None:
            arrays = {name: data.rows_to_column(values) for name, values in data.limits.arrays.items()}
            limits = dataclasses.replace(data.limits, **arrays)
        return observations_of(self.response, at, limits, self.frame[data.group_name].tolist(), specification,
                               self.frame, prediction, (x_name, data.y_name, data.group_name), self.use)  # fmt: skip

    def replicates(self, count: int, seed: int, use: np.ndarray) -> SameRows:
        """The replicates simulated from the fit, in the rows of a mask."""
        count = check_whole_number("replicates", count, 1, "the number of simulated data sets")
        return SameRows.of_matrix(simulated_responses(self.fit, count, seed)[:, use])


def _table(fit: FitRecord) -> pd.DataFrame:
    """The data of a fit; that of a model made from a formula also with the columns of its table."""
    frame = fit.data.to_frame()
    own = getattr(getattr(fit, "declaration", None), "frame", None)
    if own is None or len(own) != len(frame):
        return frame
    return frame.assign(**{name: own[name].to_numpy() for name in own if name not in frame})


def _named_categories(check: Vpc, fit: FitRecord) -> Vpc:
    """The check with the categories of an ordinal response under their own names, which are fitted as 0, 1, ..."""
    names = getattr(getattr(getattr(fit, "declaration", None), "response", None), "categories", ())
    if not names or check.kind != "categorical":
        return check
    tables = {name: getattr(check, name) for name in ("observed", "simulated")}
    named = {name: table.assign(category=[names[int(code)] for code in table["category"]]) for name, table in
             tables.items()}  # fmt: skip
    return dataclasses.replace(check, **named)


def _survival(
    rows: _Rows,
    replicates: int,
    specification: Specification,
    event: str | None,
    follow_up: Any,
    x: Any,
    repeated: bool,
    covariate: str | None,
    times: Any,
    level: float,
    seed: int,
) -> Vpc:
    """The check of times to event. The response is the time; or, with `x`, 1 for an event at that time and 0
    otherwise."""
    check_level(level)
    check_flag("repeated", repeated)
    data, frame, use = rows.fit.binding.data, rows.frame, rows.use
    strata = strata_of(frame, specification, use)
    subject = np.unique(frame[data.group_name].astype(str), return_inverse=True)[1][use]
    of_covariate = None if covariate is None else rows.horizontal(covariate)[1][use]
    drawn = rows.replicates(replicates, seed, use)
    matrix = np.concatenate([block for _, block in drawn.blocks()])
    y, size, stratum = rows.response[use], drawn.size, strata.code[use]
    if x is not None:
        name, at = rows.horizontal(x)
        if not np.isin(y, (0.0, 1.0)).all():
            raise OptionError(
                f"with x={shown(x)} the response is 1 for an event at that time and 0 otherwise; it holds others. For "
                "responses that are times leave x out."
            )
        at, is_event, drawn_at, drawn_event = at[use], y == 1.0, np.tile(at[use], size), matrix.ravel() == 1.0
    else:
        if repeated:
            raise OptionError("repeated=True needs the time of each row as x=, and responses 1 for an event and 0.")
        name, at = data.y_name, y
        is_event = _observed_events(rows, event)
        end = _follow_up(rows, follow_up, y, is_event)
        drawn_at, drawn_event = np.minimum(matrix, end).ravel(), (matrix <= end).ravel()
    size_rows = y.size

    def tiled(values: np.ndarray | None) -> Any:
        return None if values is None else np.tile(values, size)

    spells = spells_of(at, is_event, subject, np.zeros(size_rows, int), stratum, of_covariate, repeated)
    of_drawn = spells_of(drawn_at, drawn_event, tiled(subject), np.repeat(np.arange(size), size_rows), tiled(stratum),
                         tiled(of_covariate), repeated)  # fmt: skip
    names = Names(name, event or data.y_name, data.group_name, covariate)
    return compare_times(spells, of_drawn, size, strata, names, checked_times(times), repeated, level)


def _observed_events(rows: _Rows, event: str | None) -> np.ndarray:
    """True for observed times that are events: by the column `event`, or those that are not right-censored."""
    data = rows.fit.binding.data
    if event is not None:
        name, values = rows.horizontal(event)
        if not np.isin(values[rows.use], (0.0, 1.0)).all():
            raise OptionError(f"event: column {name!r} must hold 1 (an event) and 0 (the end of follow-up).")
        return values[rows.use] == 1.0
    if data.limits is None:
        raise OptionError("times to event need the column that is 1 for events and 0 for ends of follow-up: event=.")
    return data.rows_to_column(data.limits.kind)[rows.use] != RIGHT


def _follow_up(rows: _Rows, follow_up: Any, y: np.ndarray, is_event: np.ndarray) -> np.ndarray:
    """The end of follow-up (rows,) that simulated times are censored at: a number, a column, or where None the time of
    a censored subject and for others the longest observed."""
    if follow_up is None:
        return np.where(is_event, y.max(), y)
    if isinstance(follow_up, str):
        return rows.horizontal(follow_up)[1][rows.use]
    if isinstance(follow_up, (int, float, np.number)) and not isinstance(follow_up, bool) and follow_up > 0:
        return np.full(y.shape, float(follow_up))
    raise OptionError(f"follow_up must be a time > 0 or the name of a column; received {shown(follow_up)}.")
