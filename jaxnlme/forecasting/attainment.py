"""Target attainment: the share of subjects whose exposure reaches a target, for one regimen or several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, real_number
from jaxnlme.errors import OptionError, check_level, shown, some
from jaxnlme.forecasting.exposure import exposure, window_of
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.forecasting.simulate import check_fit, check_regimen, simulate
from jaxnlme.forecasting.simulation import Simulation
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("auc", "cmax", "tmax", "cmin", "ctrough", "cavg", "time_above", "part_above")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Attainment(Printable):
    """Shares of subjects who reach a target. It prints as sentences and the table.

    **Fields:** `table`: a data frame with a row for each regimen: `share`; `se`, its Monte Carlo error; `lower`,
    `upper`: its Monte Carlo interval; with uncertainty of the parameters also `draws lower` and `draws upper`, within
    which the share lies in `level` of the draws of the parameters; `level`; `sentences`.
    """

    table: pd.DataFrame
    level: float
    sentences: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share, of a single regimen. **Raises:** OptionError for several."""
        if len(self.table) > 1:
            raise OptionError("there are several regimens; read .table['share'].")
        return float(self.table["share"].iloc[0])

    @property
    def se(self) -> float:
        """Monte Carlo error of the share, of the first regimen."""
        return float(self.table["se"].iloc[0])

    def _tables(self) -> list[Table]:
        rows = [[str(name), *(number(float(v)) for v in row)] for name, row in zip(
            self.table.index, self.table.itertuples(index=False), strict=True)]  # fmt: skip
        return [Table("", ["regimen", *self.table.columns], rows)]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A target of exposure.

    **Fields:** `reached(e)`: true for the rows of a table of exposures that reach it; `threshold`, `between`: as for
    `exposure`; `words`: the target as text.
    """

    reached: Callable[[pd.DataFrame], Any]
    threshold: float | None
    between: tuple[float, float] | None
    words: str

    def shares(self, table: pd.DataFrame, draws: int) -> tuple[np.ndarray, int]:
        """For each subject (draws, subjects) 1.0 where the target is reached, NaN where the exposure is not finite, and
        the number of these. **Raises:** OptionError where the criterion does not return one truth value a subject."""
        import pandas as pd

        known = np.isfinite(table["auc"].to_numpy()) & np.isfinite(table["cmax"].to_numpy())
        try:
            result = np.asarray(self.reached(table))
        except (AttributeError, KeyError) as error:
            columns = some([*table.columns], len(table.columns))
            raise OptionError(
                f"the criterion reads {error}; a table of exposures has the columns {columns}."
            ) from error
        if result.shape != (len(table),) or (result.dtype != bool and not pd.api.types.is_bool_dtype(result)):
            raise OptionError(
                "criterion must be a function of the table of exposures with one True or False for each row, such as "
                f"lambda e: e.auc > 400; it returned {shown(result)}."
            )
        return np.where(known, result.astype(float), np.nan).reshape(draws, -1), int((~known).sum())


def target_of(criterion: Any, metric: Any, target: Any, threshold: Any, between: Any) -> Target:
    """The target that options describe. **Raises:** OptionError for options that do not fit."""
    if criterion is not None:
        if metric is not None or target is not None:
            raise OptionError("a criterion is the whole target; leave out metric and target.")
        if not callable(criterion):
            raise OptionError(
                "criterion must be a function of the table of exposures, such as lambda e: e.auc > 400; received "
                f"{shown(criterion)}."
            )
        return Target(criterion, threshold, between, "the criterion")
    if metric is None or target is None:
        raise OptionError("give a criterion, such as lambda e: e.auc > 400, or metric= and target=.")
    check_choice("metric", metric, METRICS)
    if metric in ("time_above", "part_above") and threshold is None:
        raise OptionError(f"metric={metric!r} needs threshold=, the concentration.")
    pair = list(target) if isinstance(target, (tuple, list, np.ndarray)) else [target, None]
    limits = [value if value is None else real_number(value) for value in pair]
    wrong = len(pair) != 2 or any(a is not None and b is None for a, b in zip(pair, limits, strict=False))
    if wrong or limits == [None, None] or (None not in limits and limits[0] > limits[1]):  # pyright: ignore
        raise OptionError(
            f"target must be a number (at least that), or a pair (low, high) of which one may be None; received "
            f"{shown(target)}."
        )
    low, high = limits
    if high is None:
        words = f"{metric} of at least {low:g}"
    else:
        words = f"{metric} of at most {high:g}" if low is None else f"{metric} from {low:g} to {high:g}"
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    return Target(lambda e: (e[metric] >= low) & (e[metric] <= high), threshold, between, words)


def share_of(reached: np.ndarray, level: float) -> dict[str, float]:
    """Share, Monte Carlo error and intervals, from 1.0, 0.0 and NaN by subject (draws, subjects)."""
    draws = len(reached)
    by_draw = np.nanmean(reached, axis=1)
    n = int(np.isfinite(reached).sum())
    share = float(np.nanmean(reached))
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    if draws == 1:
        # Wilson's interval, which has its level for shares near 0 and 1 too.
        se = math.sqrt(share * (1.0 - share) / n)
        centre = (share + z**2 / (2 * n)) / (1.0 + z**2 / n)
        half = z * math.sqrt(share * (1.0 - share) / n + z**2 / (4 * n**2)) / (1.0 + z**2 / n)
        return {"share": share, "se": se, "lower": max(centre - half, 0.0), "upper": min(centre + half, 1.0)}
    # Subjects of one draw share its parameters: the unit is the draw.
    se = float(np.std(by_draw, ddof=1) / math.sqrt(draws))
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(by_draw, [tail, 100.0 - tail])
    out = {"share": share, "se": se, "lower": max(share - z * se, 0.0), "upper": min(share + z * se, 1.0)}
    return out | {"draws lower": float(low), "draws upper": float(high)}


@public("simulation.attainment")
def attainment_of(
    simulation: Simulation,
    criterion: Callable[[pd.DataFrame], Any] | None = None,
    *,
    metric: str | None = None,
    target: Any = None,
    threshold: float | None = None,
    between: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Attainment:
    """Share of simulated subjects whose exposure reaches a target.

    **Arguments:**

    - `simulation`; `criterion`: a function of the table of exposures, as in `lambda e: e.auc > 400`.
    - `metric`, `target`: in its place, a column of that table and the least value, or a pair of the least and the
      largest (None: without limit).
    - `threshold`, `between`: as for `exposure`: the concentration of `time_above` and `part_above`, and the window.
    - `level` of the intervals.

    **Returns:** an Attainment with `share`, its Monte Carlo error `se`, and `table`.
    **Raises:** OptionError for options that do not fit.
    """
    check_level(level)
    aim = target_of(criterion, metric, target, threshold, between)
    return _attainment(
        [simulation], ["simulated" if simulation.regimen is None else str(simulation.regimen)], aim, level
    )


@public("jn.pkpd.attainment")
def attainment(
    fit: FitRecord,
    regimens: Any,
    criterion: Callable[[pd.DataFrame], Any] | None = None,
    *,
    metric: str | None = None,
    target: Any = None,
    threshold: float | None = None,
    between: tuple[float, float] | None = None,
    level: float = 0.95,
    **options: Any,
) -> Attainment:
    """Share of new subjects whose exposure reaches a target, for several regimens: the same subjects receive each.

    **Arguments:** `fit`; `regimens`: a Regimen, a list of them, or a dictionary by name; `criterion`, `metric`,
    `target`, `threshold`, `between`, `level`: as for `simulation.attainment`; `options`: `subjects`, `covariates`,
    `rows`, `uncertainty`, `robust`, `seed` of `jn.pkpd.simulate`.
    **Returns:** an Attainment, whose `table` has a row for each regimen.
    **Raises:** OptionError for options that do not fit; errors of `jn.pkpd.simulate`.

    **Example:**

    ```python
    doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
    v = jn.Parameter("v", 32.0, "log", random=True)
    pk = jn.fit(jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v]), doses, "focei")
    regimens = {"300 mg": jn.pkpd.regimen(300, 12, doses=4), "400 mg": jn.pkpd.regimen(400, 12, doses=4)}
    jn.pkpd.attainment(pk, regimens, metric="cmax", target=10.0, subjects=50)
    ```
    """
    check_fit("jn.pkpd.attainment", fit)
    check_level(level)
    aim = target_of(criterion, metric, target, threshold, between)
    listed = named_regimens(regimens)
    simulations = [population(fit, regimen, aim.between, options) for regimen in listed.values()]
    return _attainment(simulations, [*listed], aim, level)


def named_regimens(regimens: Any) -> dict[str, Regimen]:
    """Regimens by name. **Raises:** OptionError for anything else."""
    if isinstance(regimens, Regimen):
        regimens = [regimens]
    if isinstance(regimens, Mapping):
        listed = {str(name): entry for name, entry in regimens.items()}
    else:
        entries = list(regimens) if isinstance(regimens, (list, tuple)) else []
        listed = {str(entry): entry for entry in entries}
        if len(listed) < len(entries):
            raise OptionError("the list has the same regimen twice; use a dictionary to name them.")
    if not listed or not all(isinstance(entry, Regimen) for entry in listed.values()):
        raise OptionError(
            "regimens must be a regimen of jn.pkpd.regimen(...), a list, or a dictionary of them by name."
        )
    return listed


def population(fit: FitRecord, regimen: Regimen, between: Any, options: Mapping[str, Any]) -> Simulation:
    """New subjects under a regimen, without residuals, observed at the limits of the window."""
    allowed = ("subjects", "covariates", "rows", "uncertainty", "robust", "seed")
    for name in options:
        check_choice("an option of the simulation", name, allowed)
    check_regimen(fit, regimen)
    window = window_of(regimen, between)
    assert window is not None
    end = max(regimen.last_dose, window[0]) if math.isinf(window[1]) else window[1]
    times = sorted({max(regimen.start, window[0]), max(end, window[0])})
    return simulate(fit, regimen, times, residual=False, **options)


def _attainment(simulations: list[Simulation], names: list[str], target: Target, level: float) -> Attainment:
    import pandas as pd

    rows, lost = [], 0
    for simulation in simulations:
        table = exposure(simulation, between=target.between, threshold=target.threshold)
        reached, bad = target.shares(table, simulation.n_draws)
        rows.append(share_of(reached, level))
        lost += bad
    first = simulations[0]
    sentences = [] if first.fit.converged else [f"The fit has NOT converged. {first.fit.status}"]
    count = f"{first.n_subjects} subjects" + (f" of each of {first.n_draws} draws" if first.n_draws > 1 else "")
    sentences.append(f"Share of {count} who reach {target.words}, with its {100 * level:g}% Monte Carlo interval.")
    if lost:
        sentences.append(f"{lost} subjects whose exposure is not finite are not counted.")
    return Attainment(pd.DataFrame(rows, index=pd.Index(names, name="regimen")), level, tuple(sentences))
