"""`jn.vpc`: a visual predictive check of tables or arrays, without a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.arguments import check_choice, check_flag, check_number
from jaxnlme.data._columns import column_names
from jaxnlme.diagnostics.vpc.bins import CENTRES, check_bins
from jaxnlme.diagnostics.vpc.cells import Observations, Rows, cells_of
from jaxnlme.diagnostics.vpc.correction import Correction
from jaxnlme.diagnostics.vpc.evaluation import evaluate, frames
from jaxnlme.diagnostics.vpc.reading import read_observations, read_prediction, read_replicates
from jaxnlme.diagnostics.vpc.record import Vpc
from jaxnlme.diagnostics.vpc.replicates import AbstractReplicates, SameRows
from jaxnlme.diagnostics.vpc.statistics import AbstractStatistic, Percentiles, check_percentiles, shares_of
from jaxnlme.diagnostics.vpc.strata import check_stratify
from jaxnlme.errors import OptionError, check_level
from jaxnlme.signatures import public


@public("jn.vpc")
def vpc(
    observed: Any,
    simulated: Any,
    *,
    x: str,
    y: str,
    group: str | None = None,
    replicate: str | None = None,
    kind: str = "continuous",
    bins: Any = "auto",
    n_bins: int | None = None,
    centre: str = "mean",
    stratify: Any = None,
    percentiles: Sequence[float] = (5, 50, 95),
    level: float = 0.95,
    prediction: Any = None,
    prediction_corrected: bool = False,
    lower: float = 0.0,
    log: bool = False,
    variance_corrected: bool = False,
    censoring: str | None = None,
    lloq: Any = None,
    uloq: Any = None,
    simulated_limits: bool = True,
    categories: Sequence[float] | None = None,
) -> Vpc:
    """Visual predictive check of observations and simulated replicates, from any program: percentiles (or shares of
    categories) of the observations by bin of x, and intervals of the same statistic over the replicates. Quantiles are
    of type 7, R's default. For times to event see `jn.vpc_survival`, for a fit `fit.vpc`.

    **Arguments:**

    - `observed`: a data frame (pandas, polars, a dictionary of arrays); rows without a response are left out.
    - `simulated`: an array (replicates, rows) for the rows of `observed`; or a table with the column `y` and one of
      replicates, each with the rows of `observed` in their order, or with rows of its own and the columns `x` and
      `stratify`. A table without a column of replicates has all rows of `observed` once a replicate.
    - `x`, `y`: names of the horizontal variable and the response; `group`: of the groups (subjects), from whose sizes
      the rule "auto" takes the number of bins; `replicate`: of the replicates in `simulated` ("replicate", "REP",
      "sim" are found without it).
    - `kind`: "continuous", percentiles; "categorical", the share of each category.
    - `bins`: boundaries, closed on the left, the last also on the right (rows outside are not used); a number of bins;
      or a rule: "auto", "data" (a bin for each value of x), "count" (equally many observations), "time" (equal
      widths), "kmeans" or "jenks" (least squares), with `n_bins` bins, or a number that fits the data where None. Rules
      are applied to each stratum. "auto" is "data" for few distinct values, else "count" with boundaries moved to gaps.
    - `centre`: where a bin is drawn: "mean" or "median" of its x, or its "middle".
    - `stratify`: a column, a list of them, or a dictionary from a name to a number of quantile classes, a function of
      the table, or labels (rows,).
    - `percentiles` in percent; `level` of the intervals over the replicates, 0.95 for 95%.
    - `prediction_corrected`: bring responses to the median prediction of their bin and stratum (Bergstrand et al.
      2011), as y_c = lower + (y - lower) (f_bin - lower) / (f - lower), or y + f_bin - f with `log` (responses on a
      logarithmic scale); `variance_corrected` also scales to the median variability of the bin. `prediction`: a column
      of the population predictions f, or an array (rows,); `lower`: the lower bound of responses.
    - `censoring`, `lloq`, `uloq`: limits of quantification as in `GroupedData.from_frame`. Responses beyond them sort
      below (above) all others; a percentile among them is empty, and `below_limit` has their share.
    - `simulated_limits`: simulated values beyond the limits are treated in the same way; False: they keep their value.
    - `categories`: all categories of a "categorical" outcome, those observed where None.

    **Returns:** a Vpc, with the tables `observed`, `simulated`, `bins`, `below_limit`, and `plot()`.
    **Raises:** DataError and OptionError naming the column, rows or option, what was expected, and the remedy.
    **Source:** Holford (2005), PAGE 14, abstract 738; Bergstrand, Hooker, Wallin and Karlsson (2011), The AAPS Journal
    13, 143-151.

    **Example:**

    ```python
    draws = fit.simulate(200, 1)  # or those of another program
    check = jn.vpc(table, draws, x="Time", y="conc", group="Subject")
    print(check)
    ```
    """
    options = check_options(kind, bins, n_bins, centre, percentiles, level, prediction_corrected, lower, log,
                            variance_corrected, simulated_limits)  # fmt: skip
    specification = check_stratify(stratify)
    predictions = None
    if prediction_corrected:
        if prediction is None:
            raise OptionError(
                "prediction_corrected=True needs the population predictions: name their column by prediction=, or give "
                "an array (rows,)."
            )
        size = len(observed[column_names(observed)[0]])
        predictions = read_prediction(prediction, observed, simulated, replicate, size)
    limits = {"censoring": censoring, "lloq": lloq, "uloq": uloq}
    seen, use = read_observations(observed, x, y, group, specification, limits, predictions)
    names = {"x": x, "y": y, "replicate": replicate, "prediction": prediction, "lloq": lloq, "uloq": uloq}
    replicates, rows = read_replicates(simulated, observed, use, seen.rows, seen.strata, specification, names)
    return compare(seen, replicates, rows, options, categories)


def check_options(
    kind: str,
    bins: Any,
    n_bins: int | None,
    centre: str,
    percentiles: Any,
    level: float,
    prediction_corrected: bool,
    lower: float,
    log: bool,
    variance_corrected: bool,
    simulated_limits: bool,
) -> dict[str, Any]:
    """The options of a check, for `compare`. **Raises:** OptionError for values that they do not take."""
    check_choice("kind", kind, ("continuous", "categorical"))
    check_choice("centre", centre, CENTRES)
    check_level(level)
    flags = {"prediction_corrected": prediction_corrected, "log": log, "variance_corrected": variance_corrected}
    for name, value in {**flags, "simulated_limits": simulated_limits}.items():
        check_flag(name, value)
    for name in ("log", "variance_corrected"):
        if flags[name] and not prediction_corrected:
            raise OptionError(f"{name}=True is a part of prediction correction; add prediction_corrected=True.")
    check_number("lower", lower, -np.inf)
    if kind == "categorical" and prediction_corrected:
        raise OptionError("prediction correction is for percentiles; shares of categories have none: leave it out.")
    rule, count = check_bins(bins, n_bins)
    correction = Correction(not log, float(lower), variance_corrected) if prediction_corrected else None
    return {"kind": kind, "rule": rule, "count": count, "centre": centre, "percentiles": check_percentiles(percentiles),
            "level": float(level), "correction": correction, "simulated_limits": bool(simulated_limits)}  # fmt: skip


def compare(
    observed: Observations,
    replicates: AbstractReplicates,
    rows: Rows,
    options: dict[str, Any],
    categories: Sequence[float] | None = None,
) -> Vpc:
    """The check of observations and replicates. **Arguments:** `rows`: facts of the simulated rows; `options`: of
    `check_options`."""
    correction = options["correction"]
    if correction is not None:
        assert observed.rows.prediction is not None
        correction.check(observed.rows.prediction)
        if rows is not observed.rows and rows.prediction is not None:
            correction.check(rows.prediction)
        if correction.of_variance and not isinstance(replicates, SameRows):
            raise OptionError("variance_corrected=True needs the observed rows in every replicate, in their order.")
    statistic: AbstractStatistic = Percentiles(options["percentiles"])
    if options["kind"] == "categorical":
        if observed.has_limits:
            raise OptionError("categories have no limits of quantification; leave censoring, lloq and uloq out.")
        statistic = shares_of(observed.y, categories)
    elif categories is not None:
        raise OptionError("categories= is for kind='categorical'; leave it out, or name this kind.")
    cells = cells_of(observed, options["rule"], options["count"], options["centre"])
    if not cells.cells:
        raise OptionError("no observation is inside the bins; give boundaries that cover x.")
    result = evaluate(observed, cells, replicates, rows, statistic, correction=correction, level=options["level"],
                      simulated_limits=options["simulated_limits"])  # fmt: skip
    tables: dict[str, Any] = frames(observed, cells, statistic, result)
    limits = tables.pop("below_limit")
    lloq, uloq = observed.rows.lloq, observed.rows.uloq
    finite = (np.max(lloq[np.isfinite(lloq)], initial=-np.inf), np.min(uloq[np.isfinite(uloq)], initial=np.inf))
    return Vpc(
        **tables,
        below_limit=limits if len(limits) else None,
        kind=options["kind"],
        replicates=replicates.size,
        level=options["level"],
        x_name=observed.names[0],
        y_name=observed.names[1],
        strata=observed.strata.names,
        sentences=tuple(_sentences(observed, replicates, cells, options)),
        titles=tuple(observed.strata.titles),
        limits=(float(finite[0]), float(finite[1])),
        corrected=correction is not None,
    )


def _sentences(
    observed: Observations, replicates: AbstractReplicates, cells: Any, options: dict[str, Any]
) -> list[str]:
    """Sentences on the way the check was made."""
    of_groups = "" if observed.group is None else f" of {np.unique(observed.group).size} groups"
    used = int(np.sum(cells.code >= 0))
    in_strata = f" in {len(observed.strata.labels)} strata" if observed.strata.names else ""
    lines = [
        f"Visual predictive check of {used} observations{of_groups}, {replicates.size} simulated replicates, "
        f"{len(cells.cells)} bins of {observed.names[0]}{in_strata}."
    ]
    correction = options["correction"]
    if correction is not None:
        scale = f"lower bound {correction.lower:g}" if correction.of_ratio else "on a logarithmic scale"
        lines.append(f"Prediction{' and variance' if correction.of_variance else ''} corrected ({scale}).")
    if (censored := int(np.sum(observed.below | observed.above))) and options["kind"] == "continuous":
        lines.append(f"{censored} observations are censored; percentiles among them are empty.")
    if outside := observed.y.size - used:
        lines.append(f"{outside} observations are outside all bins and not used.")
    return lines
