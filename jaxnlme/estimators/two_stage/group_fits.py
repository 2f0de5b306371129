"""GroupFits: what fits of single groups found, and the starting values they give a mixed fit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError, some
from jaxnlme.estimators.two_stage.population import Population, second_stage, start_params
from jaxnlme.estimators.two_stage.single_group import SingleGroup
from jaxnlme.estimators.two_stage.status import PLURAL, GroupStatus, singular_sentence
from jaxnlme.model.params import Params
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.estimators.two_stage.summary import GroupSummary

SHOWN = 12


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GroupFits(Printable):
    """Fits of single groups without random effects.

    **Fields:** `binding` (model, data); `single_group`, which parameters a group has; `params`: what is held, and the error
    parameters that the groups share; `own` (groups, own), where the searches ended, on the transformed scale;
    `curvature` (groups, own, own) of minus the log-likelihood; `squares` (groups,), the sum of (residual / scale)^2;
    `code` (groups,), a GroupStatus; `fading` (groups, own), parameters whose curvature vanishes where the search ended,
    as on the way to infinity; `steps` of each search; `single_scale`: the residual model has one parameter, a factor of
    its scale; `designs` A (groups, own, fixed) and `effects` B (groups, own, random) of own = A beta + B b;
    `notes`, sentences.
    """

    binding: Binding
    single_group: SingleGroup
    params: Params
    own: np.ndarray
    curvature: np.ndarray
    squares: np.ndarray
    code: np.ndarray
    fading: np.ndarray
    steps: np.ndarray
    single_scale: bool
    designs: np.ndarray
    effects: np.ndarray
    notes: tuple[str, ...]

    # --- how it went ---

    @property
    def usable(self) -> np.ndarray:
        """Which groups have estimates (groups,) bool."""
        return self.code == GroupStatus.ok

    @property
    def counted(self) -> np.ndarray:
        """Which groups speak for the population (groups,) bool: those with estimates whose weight is not zero."""
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
        p, n = len(self.single_group.names), int(self._observed[k])
        code = GroupStatus(int(self.code[k]))
        if code == GroupStatus.singular:
            return singular_sentence(self.single_group.names, self.curvature[k])
        ran = [f"{self.single_group.names[j]} runs off (to {self.own[k, j]:.3g})" for j in np.flatnonzero(self.fading[k])]
        return {
            GroupStatus.ok: "Converged.",
            GroupStatus.no_observations: "The group has no observed response.",
            GroupStatus.too_few_rows: f"{n} observations are too few for {p} parameters"
            + (" and a residual SD." if self.gaussian else "."),
            GroupStatus.non_finite: "The model is not finite for this group where its search began; start elsewhere.",
            GroupStatus.not_converged: (
                f"No maximum was found in {int(self.steps[k])} steps: the estimates may run off to infinity; start "
                "elsewhere, or raise max_steps."
            ),
            GroupStatus.run_off: (
                f"The likelihood still rises as {' and '.join(ran)} on the transformed scale: its rows have no maximum "
                "there (all counts zero, say)."
            ),
        }[code]

    @property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many groups were fitted, which were not and why, and what else is worth saying."""
        done, m = int(self.usable.sum()), len(self.code)
        out = [f"{done} of {m} groups were fitted by themselves, {len(self.single_group.names)} parameters each."]
        for code in sorted(set(self.code.tolist()) - {int(GroupStatus.ok)}):
            which = np.flatnonzero(self.code == code)
            labels = some([str(label) for label in self.binding.data.labels[which]])
            said = self._sentence(int(which[0])) if len(which) == 1 else PLURAL[GroupStatus(code)]
            out.append(f"Not fitted: group {labels}. {said}")
        return (*out, *self.notes)

    # --- estimates ---

    @functools.cached_property
    def estimates(self) -> pd.DataFrame:
        """A row per group, a column per parameter, on the transformed scale; NaN where the group was not fitted."""
        return self._table(self.own)

    @functools.cached_property
    def values(self) -> pd.DataFrame:
        """The estimates on their natural scale."""
        with np.errstate(over="ignore", under="ignore"):
            return self._table(self._natural(self.own))

    @functools.cached_property
    def standard_errors(self) -> pd.DataFrame:
        """Standard errors on the transformed scale, from each group's own residual SD."""
        return self._table(np.sqrt(np.einsum("ikk->ik", self.covariances())))

    def covariances(self, pooled: bool = False) -> np.ndarray:
        """Covariance matrices of the estimates (groups, own, own), NaN where a group was not fitted.

        `pooled`: from the residual SD pooled over groups, as nlsList has it, instead of the group's own.
        """
        return self.covariances_at(self.pooled_sigma / self.scale_level) if pooled else self.covariances_at(None)

    def covariances_at(self, common: float | None) -> np.ndarray:
        out = np.full(self.curvature.shape, np.nan)
        use = self.usable
        out[use] = np.linalg.inv(self.curvature[use])
        if self.gaussian:
            variance = self.squares[use] / self.df[use] if common is None else common**2
            out[use] *= (variance / (self.squares[use] / self._observed[use]))[..., None, None]
        return out

    @functools.cached_property
    def sigma(self) -> pd.Series:
        """The residual SD of each group, with n - p degrees of freedom: its own value of the residual model's parameter
        where that has one, else the factor of the scale that the groups share (near 1). NaN without a Gaussian face."""
        import pandas as pd

        found = np.full(len(self.code), np.nan)
        if self.gaussian:
            found[self.usable] = self.scale_level * np.sqrt(self.squares[self.usable] / self.df[self.usable])
        name = self.binding.density.error_names[0] if self.single_scale else "factor of the residual SD"
        return pd.Series(found, index=self._index, name=name)

    @property
    def pooled_sigma(self) -> float:
        """The same for all groups of weight other than zero together: squares and degrees of freedom added up. NaN
        where there is none."""
        return self.pooled_over(lambda values: values)

    def pooled_over(self, gather: Callable[[np.ndarray], np.ndarray]) -> float:
        if not self.gaussian:
            return np.nan
        squares, df = (float(np.sum(gather(part[self.counted]))) for part in (self.squares, self.df))
        return self.scale_level * float(np.sqrt(squares / df)) if df > 0 else np.nan

    def intervals(self, level: float = 0.95, *, pooled: bool = False) -> pd.DataFrame:
        """Intervals for each group and parameter, from t with n_i - p degrees of freedom.

        **Arguments:** `level`; `pooled`: with the residual SD pooled over groups and its degrees of freedom, as nlsList
        has it. Without a Gaussian face quantiles are normal.
        **Returns:** rows (group, parameter): `estimate`, `se`, `lower`, `upper` on the transformed scale, `value`,
        `value_lower`, `value_upper` on the natural one.
        **Errors:** OptionError for a level outside (0, 1).
        """
        import pandas as pd
        from scipy.stats import t

        if not 0.0 < level < 1.0:
            raise OptionError(f"level is a probability, such as 0.9 for 90%; received {level!r}.")
        se = np.sqrt(np.einsum("ikk->ik", self.covariances(pooled)))
        df = np.full(len(se), np.inf)
        if self.gaussian:
            df = np.full(len(se), float(self.df[self.counted].sum())) if pooled else self.df.astype(float)
        df = np.where(self.usable, df, np.inf)
        reach = t.ppf(0.5 + level / 2.0, df)[:, None] * se
        own = self.estimates.to_numpy()
        columns = {"estimate": own, "se": se, "lower": own - reach, "upper": own + reach}
        with np.errstate(over="ignore", under="ignore"):
            columns |= {
                f"value{end}": self._natural(columns[name])
                for end, name in (("", "estimate"), ("_lower", "lower"), ("_upper", "upper"))
            }
        index = pd.MultiIndex.from_product([self._index, list(self.single_group.names)], names=[self._index.name, "parameter"])
        return pd.DataFrame({name: part.ravel() for name, part in columns.items()}, index=index)

    # --- for a mixed fit ---

    @functools.cached_property
    def _stage(self) -> Population:
        """The population behind the groups."""
        return second_stage(self)

    def start(self) -> dict[str, float]:
        """Starting values of the mixed model by name, for `jn.fit(model, data, start=...)`.

        Beta and psi are the two-stage estimate (`results.two_stage`): means on the transformed scale (regressions on
        the covariates, where there are any), and what varies between groups beyond the error of their estimates. Groups
        far from the others are set aside, SDs and correlations kept off their boundaries. The residual scale is the
        pooled one.

        **Errors:** FitError where fewer than two groups were fitted.
        """
        return self.binding.values(start_params(self, self._stage))

    # --- pages and pictures ---

    def summary(self, level: float = 0.95) -> GroupSummary:
        """Which parameters vary between groups; see GroupSummary."""
        from jaxnlme.estimators.two_stage.summary import GroupSummary

        return GroupSummary(self, level)

    @property
    def plot(self) -> Any:
        """Pictures: `.plot.intervals()`; needs matplotlib."""
        from jaxnlme.estimators.two_stage.plots import GroupPlots

        return GroupPlots(self)

    def _tables(self) -> list[Table]:
        values, sigma = self.values, self.sigma
        shown = min(len(values), SHOWN)
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
        """Observations minus parameters (groups,)."""
        return self._observed - len(self.single_group.names)

    @property
    def _observed(self) -> np.ndarray:
        return self.binding.data.observed.sum(axis=1)

    @property
    def gaussian(self) -> bool:
        return self.binding.density.error.has_gaussian_moments

    @property
    def scale_level(self) -> float:
        """The natural value of the one error parameter at which scales were computed; 1 where there are several."""
        return float(np.exp(np.asarray(self.params.error)[0])) if self.single_scale else 1.0

    @property
    def _index(self) -> pd.Index:
        import pandas as pd

        return pd.Index(self.binding.data.labels, name=self.binding.data.group_name)

    def _natural(self, own: np.ndarray) -> np.ndarray:
        columns = [own[:, k] if t is None else t.to_natural(own[:, k]) for k, t in enumerate(self.single_group.transforms)]
        return np.stack(columns, axis=1)

    def _table(self, values: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        shown = np.where(self.usable[:, None], values, np.nan)
        return pd.DataFrame(shown, index=self._index, columns=list(self.single_group.names))
