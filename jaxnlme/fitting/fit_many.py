"""Fits of many data sets of one design: studies by simulation, the parametric bootstrap."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import CountLine
from jaxnlme.estimators.em.linearised_information import linearised_information
from jaxnlme.estimators.em.lockstep import BatchedRun, BatchScheduler
from jaxnlme.estimators.em.options import INFORMATIONS
from jaxnlme.estimators.em.pipeline import stochastic_fit
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.inference import Information, estimates_table, information
from jaxnlme.results.record import Fit

if TYPE_CHECKING:
    import pandas as pd


def fit_many(
    model: NLMEModel,
    data: GroupedData,
    responses: Any,
    method: AbstractStochastic,
    *,
    start: Params | Mapping[str, float] | Fit | None = None,
    width: int | None = None,
    progress: bool | None = None,
) -> ManyFits:
    """Fits one model to many sets of responses by a method that draws the random effects, the iterations of several
    fits in one compiled program.

    Set k is fitted as by `jn.fit` with the seed `seed + k`: the same starts, phases, checks and verdict, and the same
    numbers but for rounding. Where the iterations are few and cheap, what every fit does on the host (some 0.1 s) is
    most of the work.

    **Arguments:**

    - `data`: the design that all sets share. Its own responses are not read, but say which cells are observed.
    - `responses` (sets, groups, obs), laid out as `data.y`; cells that `data` does not observe may hold anything.
    - `method`: `jn.SAEM(...)` or `jn.IMP(...)`, with a whole number as seed. Options that cost time fit by fit, such as
      likelihood="is", are each fit's own.
    - `start`: as in `jn.fit`, the same for all sets.
    - `width`: how many runs a program computes side by side; None: as many as suit the device. It changes no number
      beyond rounding.
    - `progress`: as in `jn.fit`.

    **Returns:** ManyFits. A set with a response that is not finite, or whose parameters stop being finite, is marked as
    not converged, with its reason, and touches no other. Ctrl-C ends the fits under way where they are. All groups are
    on the default device.
    **Errors:** OptionError for arguments that do not fit; DataError, ModelError as `jn.fit`.
    """
    if not isinstance(method, AbstractStochastic):
        raise OptionError(
            f"fit_many takes a method that draws the random effects, jn.SAEM(...) or jn.IMP(...); received {method!r}. "
            "For the likelihoods of the ladder, batch jn.estimate with jax.vmap."
        )
    if not isinstance(method.seed, int):
        raise OptionError(f"fit_many needs a whole number as seed: set k is given seed + k; received {method.seed!r}.")
    if width is not None and (isinstance(width, bool) or not isinstance(width, (int, np.integer)) or width < 1):
        raise OptionError(f"width, how many runs go side by side, is a whole number >= 1; received {width!r}.")
    values = np.asarray(responses, float)
    if values.ndim != 3 or values.shape[1:] != data.y.shape:
        raise OptionError(
            f"responses must have the shape of data.y behind an axis of sets, (sets, {data.y.shape[0]}, "
            f"{data.y.shape[1]}); received {values.shape}."
        )
    plan = Plan(start, None, True, (), False, "stop", None, None, None)
    meeting = BatchScheduler(None if width is None else int(width))

    def one(k: int) -> Fit:
        own = dataclasses.replace(data, y=np.where(data.observed, values[k], data.y))
        seeded = method.with_seed(method.seed + k)
        return stochastic_fit(model, own, seeded, plan, functools.partial(BatchedRun, meeting))

    line = CountLine(progress, method.method.name, len(values))
    fits = meeting.hold([functools.partial(one, k) for k in range(len(values))], line.show)
    line.close()
    return ManyFits(tuple(fits))


@dataclasses.dataclass(frozen=True, eq=False)
class ManyFits:
    """Fits of many data sets: `fits`, a Fit each. Tables have a row a set, NaN where there is no answer."""

    fits: tuple[Fit, ...]

    @property
    def converged(self) -> np.ndarray:
        """Which sets converged (sets,)."""
        return np.array([fit.converged for fit in self.fits], bool)

    @property
    def estimates(self) -> pd.DataFrame:
        """Estimates by packed name: typical values on their transformed scales, log standard deviations (or whatever
        the covariance is made of), residual parameters on theirs."""
        return self._frame(lambda fit: np.asarray(fit.params.pack()))

    def standard_errors(self, information: str | None = None) -> pd.DataFrame:
        """Standard errors of `estimates`, "louis" or "linearised" (None: the method's)."""

        def one(fit: Fit) -> np.ndarray | None:
            info = self._information(fit, information)
            if info is None or info.covariance is None:
                return None
            row = np.full(len(fit.binding.fixed), np.nan)
            row[info.active] = np.sqrt(np.diag(info.covariance))
            return row

        return self._frame(one)

    @property
    def monte_carlo_se(self) -> pd.DataFrame:
        """Monte Carlo errors of `estimates`."""

        def one(fit: Fit) -> np.ndarray | None:
            found = None if fit.sampling is None else fit.sampling.monte_carlo_se
            return None if found is None else found.reindex(list(fit.binding.packed_names)).to_numpy()

        return self._frame(one)

    def table(self, k: int, information: str | None = None, level: float = 0.95) -> pd.DataFrame:
        """`Fit.estimates` of a set, with standard errors and intervals by an information, "louis" or "linearised"
        (None: the method's)."""
        fit = self.fits[k]
        return estimates_table(fit.binding, fit.params, self._information(fit, information), level)

    def _information(self, fit: Fit, asked: str | None) -> Information | None:
        own = fit.estimator.information
        asked = own if asked is None else asked
        if asked not in INFORMATIONS:
            raise OptionError(f"information must be one of {', '.join(map(repr, INFORMATIONS))}; received {asked!r}.")
        if asked == own or fit.information is None:
            return fit.information
        if asked == "louis":
            raise OptionError("Louis' information needs the draws: ask for it in the method, information='louis'.")
        with x64():
            placed, active = PlacedProblem(fit.binding.problem, grid=False), fit.information.active
            matrix, scores = linearised_information(fit.binding, placed, fit.params, fit.modes, active)
            return information(fit.binding, fit.params, matrix, active, scores)

    def _frame(self, row: Any) -> pd.DataFrame:
        import pandas as pd

        if not self.fits:
            return pd.DataFrame()
        names = list(self.fits[0].binding.packed_names)
        with x64():
            rows = [np.full(len(names), np.nan) if (found := row(fit)) is None else found for fit in self.fits]
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="set"), columns=names)
