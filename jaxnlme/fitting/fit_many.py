"""Fits of many data sets of one design, for simulation studies and the parametric bootstrap."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_progress, require_host
from jaxnlme.binding.bind import check_grouped_data
from jaxnlme.binding.explanations import explained_errors
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, check_whole_number, shown, some
from jaxnlme.estimators.core.linearised_information import linearised_information
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.estimators.em import pipeline
from jaxnlme.estimators.em.lockstep import BatchScheduler
from jaxnlme.estimators.em.options import INFORMATIONS
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.fitting.fit import Fit
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.inference import Information, estimates_table, information
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@public("jn.fit_many")
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
    """Fit one model to many sets of responses by a method that samples the random effects, with the iterations of
    several fits in one compiled program.

    Set k is fitted as by `jn.fit` with the seed `seed + k`: the same starts, phases, convergence checks and, but for
    rounding, the same numbers. Where the iterations are few and cheap, the time of each fit on the host (about 0.1 s)
    dominates.

    **Arguments:**

    - `data`: the design common to all sets. Its responses are not used, but its observed cells are those of every set.
    - `responses` (sets, groups, obs), laid out as `data.y`; cells that `data` does not observe may hold anything.
    - `method`: `jn.SAEM(...)` or `jn.IMP(...)`, with a whole number as seed. Computations after the run, such as
      likelihood="is", are made fit by fit.
    - `start`: as in `jn.fit`, the same for all sets.
    - `width`: the number of runs computed in one program; None: chosen for the device. It changes no number beyond
      rounding.
    - `progress`: as in `jn.fit`.

    **Returns:** ManyFits. A set with a response that is not finite, or whose parameters become non-finite, is marked as
    not converged, with the reason, and affects no other set. Ctrl-C ends the fits in progress at their current
    parameters. All groups are on the default device.
    **Raises:** OptionError for arguments that do not fit; DataError, ModelError as `jn.fit`.

    **Example:**

    ```python
    responses = fit.simulate(20, key=1)
    many = jn.fit_many(model, data, responses, jn.SAEM(), start=fit)
    print(many.estimates.describe())
    ```
    """
    if not isinstance(method, AbstractStochastic):
        raise OptionError(
            f"fit_many takes a method that draws the random effects, jn.SAEM(...) or jn.IMP(...); "
            f"received {shown(method)}. "
            "For the approximations of the likelihood (jn.FOCEI and the like), batch jn.estimate with jax.vmap."
        )
    if not isinstance(method.seed, int):
        raise OptionError(
            f"fit_many needs a whole number as seed: set k is given seed + k; received {shown(method.seed)}."
        )
    require_host("jn.fit_many", start, data, responses, getattr(model, "structure", None))
    progress = check_progress(progress)
    if width is not None:
        width = check_whole_number("width", width, 1, "the number of runs computed in one program")
    try:
        values = np.asarray(responses, float)
    except (TypeError, ValueError):
        raise OptionError(
            f"responses must be an array of numbers (sets, groups, obs); received {type(responses).__name__}."
        ) from None
    check_grouped_data(data)
    if values.ndim != 3 or values.shape[1:] != data.y.shape:
        raise OptionError(
            f"responses must have the shape of data.y behind an axis of sets, (sets, {data.y.shape[0]}, "
            f"{data.y.shape[1]}); received {values.shape}."
        )
    plan = Plan(start, None, True, (), False, "stop", None, None, None)
    scheduler = BatchScheduler(width)

    def fit_set(k: int) -> Fit:
        y = np.where(data.observed, values[k], data.y)
        set_data = dataclasses.replace(data, y=y) if data.limits is None else data.with_response(y)
        seeded = method.with_seed(method.seed + k)
        return Fit.from_record(pipeline.run(model, set_data, seeded, plan, scheduler.block_function()))

    with ProgressLine(progress, method.method.name, len(values)) as line, explained_errors():
        jobs = [functools.partial(fit_set, k) for k in range(len(values))]
        fits = scheduler.run_all(jobs, functools.partial(line.show, "fits"))
    return ManyFits(tuple(fits))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ManyFits(Printable):
    """Fits of many data sets: `fits`, a Fit for each set. Tables have one row for each set, NaN where there is no
    result.

    **Example:**

    ```python
    many = jn.fit_many(model, data, fit.simulate(20, key=1), jn.SAEM(), start=fit)
    print(many.converged.mean(), many.estimates)
    ```
    """

    fits: tuple[Fit, ...]

    @property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sentences on how many fits converged, and which did not."""
        if not self.fits:
            return ("No set was fitted.",)
        failed = [str(k) for k in np.flatnonzero(~self.converged)]
        which = f" NOT CONVERGED: set {some(failed)}; see fits[k].status." if failed else ""
        count = len(self.fits) - len(failed)
        return (f"{count} of {len(self.fits)} fits by {self.fits[0].method} converged.{which}",)

    def _tables(self) -> list[Table]:
        kept = self.estimates[self.converged] if self.fits else None
        if kept is None or not len(kept):
            return []
        spread = kept.std(ddof=1) if len(kept) > 1 else kept.iloc[0] * np.nan
        rows = [
            (str(name), number(float(mean)), number(float(sd)))
            for name, mean, sd in zip(kept.columns, kept.mean(), spread, strict=True)
        ]
        return [Table("Estimates of the sets that converged, unconstrained scales", ("", "mean", "SD"), rows)]

    @property
    def converged(self) -> np.ndarray:
        """True for the sets that converged (sets,)."""
        return np.array([fit.converged for fit in self.fits], bool)

    @property
    def estimates(self) -> pd.DataFrame:
        """Estimates by packed name: typical values on their transformed scales, log standard deviations (or the other
        unconstrained parameters of the covariance), residual parameters on their transformed scales."""
        return self._frame(lambda fit: np.asarray(fit.params.pack()))

    def standard_errors(self, information: str | None = None) -> pd.DataFrame:
        """Standard errors of `estimates`.

        **Arguments:** `information`, "louis" or "linearised"; None: that of the method.
        **Returns:** a table, sets by packed names.  **Raises:** OptionError for "louis" if the method did not compute
        it.
        """

        def row(fit: Fit) -> np.ndarray | None:
            info = self._information(fit, information)
            if info is None or info.covariance is None:
                return None
            se = np.full(len(fit.binding.fixed), np.nan)
            se[info.active] = np.sqrt(np.diag(info.covariance))
            return se

        return self._frame(row)

    @property
    def monte_carlo_se(self) -> pd.DataFrame:
        """Monte Carlo errors of `estimates`."""

        def row(fit: Fit) -> np.ndarray | None:
            errors = None if fit.sampling is None else fit.sampling.monte_carlo_se
            return None if errors is None else errors.reindex(list(fit.binding.packed_names)).to_numpy()

        return self._frame(row)

    def table(self, k: int, information: str | None = None, level: float = 0.95) -> pd.DataFrame:
        """`Fit.estimates` of set `k`, with standard errors and intervals of the given `level`.

        **Arguments:** `information`, "louis" or "linearised"; None: that of the method.
        **Returns:** a data frame with a row a parameter.
        **Raises:** OptionError as `standard_errors`.
        """
        fit = self.fits[k]
        return estimates_table(fit.binding, fit.params, self._information(fit, information), level)

    def _information(self, fit: Fit, kind: str | None) -> Information | None:
        """Information of the given `kind` for a fit; None if the fit has none."""
        default = fit.estimator.information
        kind = default if kind is None else kind
        if kind not in INFORMATIONS:
            raise OptionError(
                f"information must be one of {', '.join(map(repr, INFORMATIONS))}; received {shown(kind)}."
            )
        if kind == default or fit.information is None:
            return fit.information
        if kind == "louis":
            raise OptionError("Louis' information needs the draws: request it in the method, information='louis'.")
        with x64():
            placed, active = PlacedProblem(fit.binding.problem, grid=False), fit.information.active
            matrix, scores = linearised_information(fit.binding, placed, fit.params, fit.modes, active)
            return information(fit.binding, fit.params, matrix, active, scores)

    def _frame(self, row: Any) -> pd.DataFrame:
        """Table of the values of `row(fit)`, one row for each set."""
        import pandas as pd

        if not self.fits:
            return pd.DataFrame()
        names = list(self.fits[0].binding.packed_names)
        with x64():
            rows = [np.full(len(names), np.nan) if (values := row(fit)) is None else values for fit in self.fits]
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="set"), columns=names)
