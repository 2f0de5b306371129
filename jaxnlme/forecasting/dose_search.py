"""`find_dose`: the dose with which a share of new subjects reaches a target."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_number
from jaxnlme.errors import OptionError, check_level
from jaxnlme.forecasting.attainment import Target, population, share_of, target_of
from jaxnlme.forecasting.exposure import Exposure, last_dose_time, window_of, window_of_subjects
from jaxnlme.forecasting.regimen import Regimen
from jaxnlme.forecasting.settings import DOSE_SEARCH
from jaxnlme.forecasting.simulate import check_fit
from jaxnlme.forecasting.simulation import Simulation
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FoundDose(Printable):
    """The dose that reaches a share. It prints as sentences.

    **Fields:** `regimen` with that dose; `amount` of its last line; `lower`, `upper`: the Monte Carlo interval of that
    amount; `factor` of the doses of the regimen given; `share` that is reached, `se` its Monte Carlo error;
    `sentences`.
    """

    regimen: Regimen
    amount: float
    lower: float
    upper: float
    factor: float
    share: float
    se: float
    sentences: tuple[str, ...]

    def _tables(self) -> list[Table]:
        return []


@public("jn.pkpd.find_dose")
def find_dose(
    fit: FitRecord,
    regimen: Regimen,
    share: float = 0.9,
    criterion: Callable[[pd.DataFrame], Any] | None = None,
    *,
    metric: str | None = None,
    target: Any = None,
    threshold: float | None = None,
    between: tuple[float, float] | None = None,
    level: float = 0.95,
    **options: Any,
) -> FoundDose:
    """The dose with which a share of new subjects reaches a target: all doses of a regimen times one factor.

    Where the share grows with the dose it is the smallest such dose, where it falls (a target with an upper limit only)
    the largest. All doses are tried on the same subjects. Where exposure is proportional to the dose, which is checked,
    curves are computed once.

    **Arguments:** `fit`; `regimen`, whose doses are scaled (infusions keep their duration); `share`, a probability;
    `criterion`, `metric`, `target`, `threshold`, `between`: as for `simulation.attainment`; `level` of the Monte Carlo
    interval of the dose; `options`: `subjects`, `covariates`, `rows`, `uncertainty`, `robust`, `seed` of
    `jn.pkpd.simulate`.
    **Returns:** a FoundDose.
    **Raises:** OptionError for options that do not fit, and where no dose reaches the share.

    **Example:**

    ```python
    doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
    v = jn.Parameter("v", 32.0, "log", random=True)
    pk = jn.fit(jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v]), doses, "focei")
    jn.pkpd.find_dose(pk, jn.pkpd.regimen(300, 12, doses=4), 0.8, metric="cmax", target=8.0, subjects=50)
    ```
    """
    check_fit("jn.pkpd.find_dose", fit)
    check_level(level)
    share = check_number("share", share, 0.0, 1.0, above=True)
    if share == 1.0:
        raise OptionError("share must be below 1: no dose reaches all subjects of a population for certain.")
    aim = target_of(criterion, metric, target, threshold, between)
    simulation = population(fit, regimen, aim.between, options)
    shares = _Shares(simulation, aim, regimen)
    rising = _direction(shares)
    factor = _factor(shares, share, rising)
    reached = shares.reached(factor)
    found = share_of(reached, level)
    # The share has its Monte Carlo error at the dose; the doses that reach the share less and more it are the limits.
    spread = NormalDist().inv_cdf(0.5 + level / 2.0) * max(found["se"], 1.0 / (2.0 * reached.size))
    limits = [_limit(shares, share + side * spread, rising) for side in (-1.0, 1.0)]
    amount = regimen.lines[-1].amount
    low, high = sorted(amount * limit for limit in limits)
    scaled = regimen * factor
    how = "smallest" if rising else "largest"
    linear = "proportional to the dose" if shares.linear else "not proportional to the dose, and computed for each"
    sentences = [] if fit.converged else [f"The fit has NOT converged. {fit.status}"]
    sentences += [
        f"{number(factor * amount)} is the {how} dose with which {100 * share:g}% reach {aim.words}; its "
        f"{100 * level:g}% Monte Carlo interval is {number(low)} to {number(high)}.",
        f"Regimen: {scaled}.",
        f"Share reached: {number(found['share'])}, of {simulation.n_subjects} subjects"
        + (f" of each of {simulation.n_draws} draws of the parameters" if simulation.n_draws > 1 else "")
        + f"; exposure is {linear}.",
    ]
    return FoundDose(scaled, factor * amount, low, high, factor, found["share"], found["se"], tuple(sentences))


class _Shares:
    """The shares of a population that reach a target, by the factor of the doses.

    **Fields:** `linear`: exposure is proportional to the dose.
    """

    def __init__(self, simulation: Simulation, target: Target, regimen: Regimen):
        window = window_of(regimen, target.between)
        self.target, self.draws = target, simulation.n_draws
        self.curves = simulation.curves(last_dose_time(regimen, window))
        self.limits = window_of_subjects(self.curves, window)
        self.base = Exposure.of(self.curves, *self.limits)
        double = Exposure.of(self.curves.scaled(2.0), *self.limits)
        self.linear = True
        for name in (name for name in self.base.values if name != "auc_error"):
            one, two = self.base.values[name], double.values[name]
            expected = one if name == "tmax" else 2.0 * one
            scale = np.nanmax(np.abs(expected), initial=0.0)
            # Times of a maximum are found to the zoom of the search only.
            slack = 1e-4 if name == "tmax" else DOSE_SEARCH.linear
            self.linear = self.linear and bool(np.nanmax(np.abs(two - expected), initial=0.0) <= slack * scale)

    def reached(self, factor: float) -> np.ndarray:
        """1.0 where a subject (draws, subjects) reaches the target, NaN where its exposure is not finite."""
        threshold = self.target.threshold
        if self.linear:
            table = self.base.table(threshold, factor=factor)
        else:
            table = Exposure.of(self.curves.scaled(factor), *self.limits).table(threshold)
        return self.target.shares(table, self.draws)[0]

    @functools.cache  # noqa: B019
    def __call__(self, factor: float) -> float:
        """The share at a factor of the doses."""
        return float(np.nanmean(self.reached(factor)))


def _direction(shares: Callable[[float], float]) -> bool:
    """True where the share grows with the dose. **Raises:** OptionError where no dose changes it."""
    step = 2.0
    while step <= DOSE_SEARCH.widest:
        low, high = shares(1.0 / step), shares(step)
        if low != high:
            return high > low
        step = step**2
    raise OptionError(
        f"the share is {shares(1.0):g} for all doses that were tried, up to a factor of {DOSE_SEARCH.widest:g}."
    )


def _factor(shares: _Shares, share: float, rising: bool) -> float:
    """The smallest factor (largest, where the share falls with the dose) with which the share is reached.

    **Raises:** OptionError where none reaches it.
    """
    sign = 1.0 if rising else -1.0
    inside, outside = 1.0, 1.0
    while shares(inside) < share:
        outside, inside = inside, inside * 2.0**sign
        if not 1.0 / DOSE_SEARCH.widest < inside < DOSE_SEARCH.widest:
            outside, inside = _scanned(shares, share, sign)
            break
    while shares(outside) >= share:
        inside, outside = outside, outside * 2.0**-sign
        if not 1.0 / DOSE_SEARCH.widest < outside < DOSE_SEARCH.widest:
            raise OptionError(
                f"the share {share:g} is reached by every dose that was tried, down to {outside:g} times."
            )
    quick = shares.linear and shares.target.threshold is None
    tolerance = DOSE_SEARCH.tolerance if quick else DOSE_SEARCH.nonlinear_tolerance
    while abs(math.log(inside / outside)) > tolerance:
        middle = math.sqrt(inside * outside)
        inside, outside = (middle, outside) if shares(middle) >= share else (inside, middle)
    return inside


def _scanned(shares: _Shares, share: float, sign: float) -> tuple[float, float]:
    """A factor with which the share is not reached, and next to it one with which it is, for a target within limits:
    its share rises and falls with the dose. **Raises:** OptionError where none is found."""
    grid = [2.0 ** (sign * k / 8.0) for k in range(-64, 65)]
    found = [shares(factor) for factor in grid]
    first = next((k for k, value in enumerate(found) if value >= share), None)
    if first is None:
        raise OptionError(f"no dose reaches the share {share:g}; the largest share found is {max(found):g}.")
    if first == 0:
        raise _EveryDose(f"every dose that was tried reaches the share {share:g}; the least share is {min(found):g}.")
    return grid[first - 1], grid[first]


class _EveryDose(OptionError):
    """Every dose that was tried reaches the share."""


def _limit(shares: _Shares, share: float, rising: bool) -> float:
    """As `_factor`; zero or infinity where no dose, or every one, reaches the share."""
    if share <= 0.0:
        return 0.0 if rising else math.inf
    try:
        return _factor(shares, min(share, 1.0), rising)
    except _EveryDose:
        return 0.0 if rising else math.inf
    except OptionError:
        return math.inf if rising else 0.0
