"""`fit.vpc` and `fit.npc`: predictive checks of a fit, simulated for its own rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, require_host
from jaxnlme.diagnostics.vpc.check import check_options, compare
from jaxnlme.diagnostics.vpc.fit_rows import FitRows
from jaxnlme.diagnostics.vpc.npc import Npc, check_intervals, compare_intervals
from jaxnlme.diagnostics.vpc.reading import check_names
from jaxnlme.diagnostics.vpc.record import KINDS, Vpc
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.diagnostics.vpc.strata import check_stratify
from jaxnlme.diagnostics.vpc.survival_of_fit import survival_of_fit
from jaxnlme.errors import ModelError, OptionError, check_level, shown
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


@public("fit.vpc")
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
    rows = FitRows.of(fit, endpoint)
    if kind is None:
        kind = rows.kind
    specification = rows.strata(check_stratify(stratify))
    check_names(specification)
    if kind == "survival":
        pairs = {"bins": (bins, "auto"), "n_bins": (n_bins, None), "categories": (categories, None),
                 "prediction_corrected": (prediction_corrected, False)}  # fmt: skip
        _refuse("survival", {name: value for name, (value, default) in pairs.items() if value is not default})
        draws = (replicates, seed)
        check = survival_of_fit(rows, draws, specification, event, follow_up, x, repeated, covariate, times, level)
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
    """The check with the labels of axes of the data, marked where the fit did not converge."""
    labels = fit.data.axis_labels
    named = {name: labels.get(getattr(check, name), getattr(check, name)) for name in ("x_name", "y_name")}
    check = dataclasses.replace(check, **named)
    if fit.converged:
        return check
    sentence = (
        f"The fit by {fit.method} did NOT CONVERGE: the replicates are simulated from values that are no estimates."
    )
    return dataclasses.replace(check, converged=False, sentences=(sentence, *check.sentences))


@public("fit.npc")
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
    rows = FitRows.of(fit, endpoint)
    specification = rows.strata(check_stratify(stratify))
    check_names(specification)
    of_intervals = check_intervals(intervals)
    observed, use = rows.observations("row", np.arange(float(fit.data.n_rows)), specification, None)
    drawn = rows.replicates(replicates, seed, use, by_block=False)
    return compare_intervals(observed, drawn, of_intervals, level)


def _refuse(kind: str, given: dict[str, Any]) -> None:
    """**Raises:** OptionError for options that a kind of check does not have."""
    if given:
        name, value = next(iter(given.items()))
        other = "percentiles and shares" if kind == "survival" else "times to event, kind='survival'"
        raise OptionError(f"{name}={shown(value)} is an option for {other}, and this check is {kind!r}; leave it out.")


def _named_categories(check: Vpc, fit: FitRecord) -> Vpc:
    """The check with the categories of an ordinal response under their own names, which are fitted as 0, 1, ..."""
    names = getattr(getattr(getattr(fit, "declaration", None), "response", None), "categories", ())
    if not names or check.kind != "categorical":
        return check
    tables = {name: getattr(check, name) for name in ("observed", "simulated")}
    named = {name: table.assign(category=[names[int(code)] for code in table["category"]]) for name, table in
             tables.items()}  # fmt: skip
    return dataclasses.replace(check, **named)
