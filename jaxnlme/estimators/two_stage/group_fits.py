"""GroupFits: estimates of single groups, and the starting values of a mixed fit that follow from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import check_level, some
from jaxnlme.estimators.two_stage.population import Population, estimate_population, one_process, population_params
from jaxnlme.estimators.two_stage.settings import DISPLAY
from jaxnlme.estimators.two_stage.single_group import SingleGroup
from jaxnlme.estimators.two_stage.status import PLURAL, GroupStatus, singular_sentence
from jaxnlme.model.params import Params
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.estimators.two_stage.summary import GroupSummary


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GroupFits(Printable):
    """Fits of single groups without random effects.

    **Fields:** `binding` (model, data); `single_group`: the model of one group, whose parameters have the axis
    `params`; `params`: values that are not estimated, and the error parameters common to all groups; `group_params`
    (groups, params): end points of the searches, on the transformed scale; `curvature` (groups, params, params), minus
    the Hessian of the log-likelihood; `squares` (groups,), the sum of (residual / scale)^2; `code` (groups,), a
    GroupStatus; `diverging` (groups, params) bool: parameters on the way to infinity, in which the curvature vanishes;
    `steps` (groups,) of the searches; `single_scale`: the residual model has one parameter, a factor of its SD;
    `fixed_designs` A (groups, params, fixed) and `random_designs` B (groups, params, random) of
    group_params = A beta + B b; `notes`: sentences.

    **Example:**

    ```python
    groups = jn.fit_groups(model, data)
    fit = jn.fit(model, data, "focei", start=groups.start())
    ```
    """

    binding: Binding
    single_group: SingleGroup
    params: Params
    group_params: np.ndarray
    curvature: np.ndarray
    squares: np.ndarray
    code: np.ndarray
    diverging: np.ndarray
    steps: np.ndarray
    single_scale: bool
    fixed_designs: np.ndarray
    random_designs: np.ndarray
    notes: tuple[str, ...]

    # --- status ---

    @property
    def usable(self) -> np.ndarray:
        """True (groups,) for groups that have estimates."""
        return self.code == GroupStatus.ok

    @property
    def contributing(self) -> np.ndarray:
        """True (groups,) for groups that enter the population estimates: with estimates, and a weight other than
        zero."""
        return self.usable & (self.binding.data.weights != 0)

    @functools.cached_property
    def status(self) -> pd.DataFrame:
        """A row per group: status, sentence, observations, degrees of freedom (NaN where there are none), steps."""
        import pandas as pd

        df = np.where(self.usable, self.df, np.nan)
        return pd.DataFrame(
            {
                "status": [GroupStatus(int(code)).name for code in self.code],
                "sentence": [self._sentence(k) for k in range(len(self.code))],
                "observations": self._observed,
                "df": df,
                "steps": self.steps,
            },
            index=self._index,
        )

    def _sentence(self, k: int) -> str:
        """The status of group number k as a sentence."""
        p, n = len(self.single_group.names), int(self._observed[k])
        code = GroupStatus(int(self.code[k]))
        if code == GroupStatus.singular:
            return singular_sentence(self.single_group.names, self.curvature[k])
        names = self.single_group.names
        diverging = [f"{names[j]} ({self.group_params[k, j]:.3g})" for j in np.flatnonzero(self.diverging[k])]
        return {
            GroupStatus.ok: "Converged.",
            GroupStatus.no_observations: "The group has no observed response.",
            GroupStatus.too_few_rows: f"{n} observations are too few for {p} parameters"
            + (" and a residual SD." if self.gaussian else "."),
            GroupStatus.non_finite: ("The model is not finite for this group at the starting values; try other ones."),
            GroupStatus.not_converged: (
                f"No maximum was found in {int(self.steps[k])} steps: the estimates may diverge to infinity; try other "
                "starting values, or raise max_steps."
            ),
            GroupStatus.diverging: (
                f"The likelihood still increases where the search ended, at {' and '.join(diverging)} on the "
                "transformed scale, and the curvature vanishes: there is no finite maximum (as where all counts "
                "are zero)."
            ),
        }[code]

    @property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of groups fitted, the groups that were not and the reasons, and `notes`."""
        done, m = int(self.usable.sum()), len(self.code)
        out = [f"{done} of {m} groups were fitted by themselves, {len(self.single_group.names)} parameters each."]
        for code in sorted(set(self.code.tolist()) - {int(GroupStatus.ok)}):
            which = np.flatnonzero(self.code == code)
            labels = some([str(label) for label in self.binding.data.labels[which]])
            reason = self._sentence(int(which[0])) if len(which) == 1 else PLURAL[GroupStatus(code)]
            out.append(f"Not fitted: group {labels}. {reason}")
        return (*out, *self.notes)

    # --- estimates ---

    @functools.cached_property
    def estimates(self) -> pd.DataFrame:
        """A row per group, a column per parameter, on the transformed scale; NaN where the group was not fitted."""
        return self._table(self.group_params)

    @functools.cached_property
    def values(self) -> pd.DataFrame:
        """The estimates on their natural scale."""
        with np.errstate(over="ignore", under="ignore"):
            return self._table(self._natural(self.group_params))

    @functools.cached_property
    def standard_errors(self) -> pd.DataFrame:
        """Standard errors on the transformed scale, from the residual SD of each group."""
        return self._table(np.sqrt(np.einsum("ikk->ik", self.covariances())))

    def covariances(self, pooled: bool = False) -> np.ndarray:
        """Covariance matrices of the estimates (groups, params, params), NaN where a group was not fitted.

        **Arguments:** `pooled`: with the residual SD pooled over groups, as in nlsList, in the place of each group's.
        """
        return self.covariances_at(self.pooled_sigma / self.reference_sd) if pooled else self.covariances_at(None)

    def covariances_at(self, scale_factor: float | None) -> np.ndarray:
        """Covariance matrices (groups, params, params) with the same `scale_factor` s of the residual SD for all
        groups, or with each group's own where None; NaN where a group was not fitted."""
        out = np.full(self.curvature.shape, np.nan)
        use = self.usable
        out[use] = np.linalg.inv(self.curvature[use])
        if self.gaussian:
            variance = self.squares[use] / self.df[use] if scale_factor is None else scale_factor**2
            out[use] *= (variance / (self.squares[use] / self._observed[use]))[..., None, None]
        return out

    @functools.cached_property
    def sigma(self) -> pd.Series:
        """Residual SD of each group with n - p degrees of freedom: the residual model's parameter where it has one
        (`single_scale`), else the factor (near 1) of the SD that the groups share. NaN without Gaussian moments."""
        import pandas as pd

        sigma = np.full(len(self.code), np.nan)
        if self.gaussian:
            sigma[self.usable] = self.reference_sd * np.sqrt(self.squares[self.usable] / self.df[self.usable])
        name = self.binding.density.error_names[0] if self.single_scale else "factor of the residual SD"
        return pd.Series(sigma, index=self._index, name=name)

    @property
    def pooled_sigma(self) -> float:
        """`sigma` pooled over the groups of weight other than zero: their sums of squares and degrees of freedom are
        added. NaN where there is none."""
        return self.pooled_over(one_process)

    def pooled_over(self, gather: Callable[[np.ndarray], np.ndarray]) -> float:
        """`pooled_sigma` over the groups of all processes, whose arrays `gather` concatenates."""
        if not self.gaussian:
            return np.nan
        squares, df = (float(np.sum(gather(part[self.contributing]))) for part in (self.squares, self.df))
        return self.reference_sd * float(np.sqrt(squares / df)) if df > 0 else np.nan

    def intervals(self, level: float = 0.95, *, pooled: bool = False) -> pd.DataFrame:
        """Intervals for each group and parameter, from t with n_i - p degrees of freedom.

        **Arguments:** `level`; `pooled`: with the residual SD pooled over groups and its degrees of freedom, as in
        nlsList. Without Gaussian moments the quantiles are normal.
        **Returns:** rows (group, parameter): `estimate`, `se`, `lower`, `upper` on the transformed scale, `value`,
        `value_lower`, `value_upper` on the natural one.
        **Raises:** OptionError for a level outside (0, 1).
        """
        import pandas as pd
        from scipy.stats import t

        check_level(level)
        se = np.sqrt(np.einsum("ikk->ik", self.covariances(pooled)))
        df = np.full(len(se), np.inf)
        if self.gaussian:
            df = np.full(len(se), float(self.df[self.contributing].sum())) if pooled else self.df.astype(float)
        df = np.where(self.usable, df, np.inf)
        half_width = t.ppf(0.5 + level / 2.0, df)[:, None] * se
        estimate = self.estimates.to_numpy()
        columns = {"estimate": estimate, "se": se, "lower": estimate - half_width, "upper": estimate + half_width}
        with np.errstate(over="ignore", under="ignore"):
            columns |= {
                f"value{end}": self._natural(columns[name])
                for end, name in (("", "estimate"), ("_lower", "lower"), ("_upper", "upper"))
            }
        index = pd.MultiIndex.from_product(
            [self._index, list(self.single_group.names)], names=[self._index.name, "parameter"]
        )
        return pd.DataFrame({name: part.ravel() for name, part in columns.items()}, index=index)

    # --- for a mixed fit ---

    @functools.cached_property
    def _population(self) -> Population:
        """Two-stage estimate of the population."""
        return estimate_population(self)

    def start(self) -> dict[str, float]:
        """Starting values of the mixed model by name, for `jn.fit(model, data, start=...)`.

        Beta and psi are the two-stage estimate (see `population.two_stage`): means on the transformed scale
        (regressions on the covariates, where there are any), and the variation between groups beyond the error of
        their estimates. Outlying groups are excluded, SDs and correlations kept off the boundary. The residual scale is
        the pooled one.

        **Raises:** FitError where fewer than two groups were fitted.
        """
        return self.binding.values(population_params(self, self._population))

    # --- summary and plots ---

    def summary(self, level: float = 0.95) -> GroupSummary:
        """Variation of the parameters between groups, with intervals at `level`; see GroupSummary."""
        from jaxnlme.estimators.two_stage.summary import GroupSummary

        return GroupSummary(self, level)

    @property
    def plot(self) -> Any:
        """Plots: `.plot.intervals()`; needs matplotlib."""
        from jaxnlme.estimators.two_stage.plots import GroupPlots

        return GroupPlots(self)

    def _tables(self) -> list[Table]:
        values, sigma = self.values, self.sigma
        shown = min(len(values), DISPLAY.rows)
        rows = [
            [str(label), *(number(v) for v in row), number(sigma.iloc[k]), GroupStatus(int(self.code[k])).name]
            for k, (label, row) in enumerate(zip(values.index[:shown], values.to_numpy()[:shown], strict=True))
        ]
        part = "" if shown == len(values) else f", {shown} of {len(values)} groups"
        scale = str(sigma.name) if self.single_scale else "factor"
        return [Table(f"Estimates on their natural scale{part}", ("", *self.single_group.names, scale, "status"), rows)]

    # --- helpers ---

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom (groups,): observations minus parameters."""
        return self._observed - len(self.single_group.names)

    @property
    def _observed(self) -> np.ndarray:
        return self.binding.data.observed.sum(axis=1)

    @property
    def gaussian(self) -> bool:
        """True if the outcome is Gaussian with a mean and a residual SD, and no row is censored."""
        return self.binding.density.error.is_gaussian

    @property
    def reference_sd(self) -> float:
        """Value of the one error parameter at which the scales in `squares` were computed; 1 where there are
        several."""
        return float(np.exp(np.asarray(self.params.error)[0])) if self.single_scale else 1.0

    @property
    def _index(self) -> pd.Index:
        import pandas as pd

        return pd.Index(self.binding.data.labels, name=self.binding.data.group_name)

    def _natural(self, group_params: np.ndarray) -> np.ndarray:
        """Group parameters (groups, params) on their natural scale."""
        columns = [
            group_params[:, k] if transform is None else transform.to_natural(group_params[:, k])
            for k, transform in enumerate(self.single_group.transforms)
        ]
        return np.stack(columns, axis=1)

    def _table(self, values: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        shown = np.where(self.usable[:, None], values, np.nan)
        return pd.DataFrame(shown, index=self._index, columns=list(self.single_group.names))
