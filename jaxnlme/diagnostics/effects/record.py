"""`effect_diagnostics`: random effects and residuals of a fit in tables, with tests, shrinkage and outliers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_names, require_host
from jaxnlme.diagnostics.effects.hypothesis_tests import (
    ADJUSTMENTS,
    PARAMETRIC,
    RANKS,
    adjusted,
    categorical_tests,
    normality_tests,
    numeric_tests,
)
from jaxnlme.diagnostics.effects.outliers import outlying_effects, outlying_groups, outlying_observations
from jaxnlme.diagnostics.effects.shrinkage import shrinkage_table
from jaxnlme.diagnostics.effects.tables import ETA, covariate_names, effect_columns_of, effect_tables
from jaxnlme.diagnostics.frame import diagnostics
from jaxnlme.diagnostics.residuals import endpoint_rows
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.errors import OptionError, check_level, check_whole_number, near_matches, some
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.evaluate import require_estimates

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


def effect_diagnostics(
    fit: FitRecord,
    of: str = "modes",
    *,
    level: float = 0.05,
    adjust: str = "holm",
    categorical: str | Sequence[str] = (),
    seed: int = 0,
) -> EffectDiagnostics:
    """Diagnostics of random effects and residuals.

    **Arguments:**

    - `of`: the random effects that are tested: "modes", the conditional modes, which shrink towards zero, so that tests
      of their distribution lose their meaning where shrinkage is large; "draws", one draw of each unit from its
      conditional distribution given the data (with `seed`), which are independent and N(0, psi) under the model
      whatever the shrinkage.
    - `level` of significance, below which adjusted p values are named in sentences.
    - `adjust`: "holm", "bh" (Benjamini and Hochberg), "bonferroni" or "none", over the tests of one kind.
    - `categorical`: numeric covariates whose values are codes of categories.

    **Returns:** EffectDiagnostics.
    **Raises:** OptionError for options that do not fit; FitError where the fit has no estimates.
    **Source:** Savic and Karlsson (2009), AAPS Journal 11, 558-569, on shrinkage; Lavielle and Ribba (2016),
    Pharmaceutical Research 33, 2979-2988, on draws in the place of modes.
    """
    require_host("fit.effect_diagnostics")
    check_choice("of", of, ("modes", "draws"))
    check_choice("adjust", adjust, ADJUSTMENTS)
    check_level(level)
    seed = check_whole_number("seed", seed, 0)
    codes = check_names("categorical", categorical, "covariates")
    known = [*fit.data.v, *fit.data.x, *fit.data.text]
    for name in codes:
        if name not in known:
            raise OptionError(f"categorical names {name!r}, which the data do not have; {near_matches(name, known)}")
    require_estimates(fit)
    return EffectDiagnostics(fit, of, float(level), adjust, tuple(codes), seed)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EffectDiagnostics(Printable):
    """Random effects and residuals of a fit, as tables that are computed when they are first asked for. It prints as
    sentences, then shrinkage and tests.

    **Fields:** `fit`; `of`; `level`; `adjust`; `categorical`; `seed`: the arguments of `effect_diagnostics`.
    """

    fit: FitRecord
    of: str
    level: float
    adjust: str
    categorical: tuple[str, ...]
    seed: int

    # --- tables ---

    @functools.cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By grouping level a row for each unit: labels, "eta_NAME" of each random effect, covariates that are constant
        within units, `n_obs` and `weight`."""
        return effect_tables(self.fit, self.of, self.seed)

    @property
    def table(self) -> Any:
        """The table of `tables` where one level has random effects, the dictionary otherwise."""
        return next(iter(self.tables.values())) if len(self.tables) == 1 else self.tables

    @functools.cached_property
    def normality(self) -> pd.DataFrame:
        """Tests of each random effect: mean zero, normal, and for draws the variance of psi. Columns: effect, level,
        test, n, estimate (mean, skewness, variance), statistic, p, p_adjusted."""
        psi = dict(zip(self.fit.binding.density.effect_names, np.diag(self.fit._psi), strict=True))
        rows = []
        for level, name, values, _ in self._effects():
            variance = float(psi[name]) if self.of == "draws" else None
            rows += [{"effect": name, "level": level, **row} for row in normality_tests(values, variance)]
        return self._adjusted(rows, ["effect", "level", "test", "n", "estimate", "statistic", "p"], None)

    @functools.cached_property
    def residuals(self) -> pd.DataFrame:
        """Tests of CWRES and IWRES of each endpoint: mean zero, normal, and of CWRES variance one. Columns: residual,
        endpoint, test, n, estimate, statistic, p, p_adjusted; no rows for an outcome without residuals."""
        rows = []
        if self.fit.binding.density.error.has_residuals:
            table, observed = self._diagnostics, self.fit.data.rows_to_column(self.fit.data.observed)
            for label, mask in endpoint_rows(self.fit):
                for name, variance in (("CWRES", 1.0), ("IWRES", None)):
                    of_endpoint = {"residual": name, "endpoint": "" if label is None else label}
                    values = table[name].to_numpy()[mask[observed]]
                    rows += [{**of_endpoint, **row} for row in normality_tests(values, variance)]
        return self._adjusted(rows, ["residual", "endpoint", "test", "n", "estimate", "statistic", "p"], None)

    @functools.cached_property
    def covariates(self) -> pd.DataFrame:
        """Tests of each random effect against each covariate that is constant within the units of its level: Pearson's
        and Spearman's correlation for numeric ones, analysis of variance and Kruskal-Wallis for categories. Columns:
        effect, level, covariate, in_model (a covariate of the effect's parameter), test, n, estimate (correlation, or
        share of variance between categories), statistic, df, p, p_adjusted (over all effects and covariates, parametric
        and rank tests apart)."""
        rows = []
        for level, name, values, table in self._effects():
            for covariate in covariate_names(self.fit.data, self.tables[level]):
                column = table[covariate]
                numeric = column.dtype.kind in "iuf" and covariate not in self.categorical
                if column.nunique(dropna=True) < 2:
                    continue
                tests = numeric_tests(values, column.to_numpy(float)) if numeric else categorical_tests(
                    values, column.astype(object).where(column.notna(), None).to_numpy()
                )  # fmt: skip
                of_pair: dict[str, Any] = {"effect": name, "level": level, "covariate": covariate}
                of_pair["in_model"] = covariate in self._covariates_of(name)
                rows += [{**of_pair, **row} for row in tests]
        names = ["effect", "level", "covariate", "in_model", "test", "n", "estimate", "statistic", "df", "p"]
        return self._adjusted(rows, names, (PARAMETRIC, RANKS))

    @functools.cached_property
    def shrinkage(self) -> pd.DataFrame:
        """Shrinkage of effects and residuals by every definition; see
        `jaxnlme.diagnostics.effects.shrinkage.shrinkage_table`."""
        return shrinkage_table(self.fit)

    @functools.cached_property
    def groups(self) -> pd.DataFrame:
        """Groups by the distance of their random effects and residuals; see
        `jaxnlme.diagnostics.effects.outliers.outlying_groups`."""
        if not self.fit.binding.density.error.has_residuals:
            return outlying_groups(self.fit, None)
        cwres = np.full(self.fit.data.n_rows, np.nan)
        observed = self.fit.data.rows_to_column(self.fit.data.observed)
        cwres[observed] = self._diagnostics["CWRES"].to_numpy()
        return outlying_groups(self.fit, cwres)

    @functools.cached_property
    def effects(self) -> pd.DataFrame:
        """Effects of units by their distance from zero; see
        `jaxnlme.diagnostics.effects.outliers.outlying_effects`."""
        return outlying_effects(self.fit)

    @functools.cached_property
    def observations(self) -> pd.DataFrame:
        """Observations by the size of their residuals; see
        `jaxnlme.diagnostics.effects.outliers.outlying_observations`. No rows for an outcome without residuals."""
        if not self.fit.binding.density.error.has_residuals:
            return self._diagnostics.iloc[:0]
        return outlying_observations(self.fit, self._diagnostics)

    # --- parts ---

    @functools.cached_property
    def _diagnostics(self) -> pd.DataFrame:
        return diagnostics(self.fit)

    def _effects(self) -> list[tuple[str, str, np.ndarray, Any]]:
        """Level, name, values over the units with responses and a positive weight, and the table of these units."""
        out = []
        for level, table in self.tables.items():
            units = table[(table["n_obs"] > 0) & (table["weight"] > 0)]
            for name in effect_columns_of(table):
                known = units[units[f"{ETA}{name}"].notna()]
                out.append((level, name, known[f"{ETA}{name}"].to_numpy(), known))
        return out

    def _covariates_of(self, effect: str) -> list[str]:
        """Columns of the covariate formula of the parameter that a random effect belongs to."""
        binding = self.fit.binding
        owners = binding.random.parameters
        name = effect
        if owners is not None:
            name = self.fit.model.parameters[owners[binding.density.effect_names.index(effect)]].name
        columns = binding.covariates.get(name)
        return [] if columns is None else list(columns.source_columns)

    def _adjusted(self, rows: list[dict[str, Any]], names: list[str], families: Any) -> pd.DataFrame:
        """The table of tests with adjusted p values: within each of `families` of tests, None: within each test."""
        import pandas as pd

        frame = pd.DataFrame(rows, columns=names)
        out = np.full(len(frame), np.nan)
        tests = frame["test"].to_numpy(object)
        for family in families or [(name,) for name in dict.fromkeys(tests)]:
            chosen = np.isin(tests.astype(str), family)
            out[chosen] = adjusted(frame["p"].to_numpy(float)[chosen], self.adjust)
        return frame.assign(p_adjusted=out)

    # --- text ---

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sentences on tests significant at `level` after adjustment, and on outliers."""
        out = []
        if not self.fit.converged:
            out.append("The fit has NOT converged, and what follows from it is not reliable.")
        words = "conditional modes" if self.of == "modes" else f"draws given the data (seed {self.seed})"
        out.append(f"Tests of {words}; p values adjusted by {self.adjust}, significant below {self.level:g}.")
        for frame, subject in ((self.normality, "effect"), (self.residuals, "residual")):
            found = [f"{row[subject]}: {row['test']} p = {number(row['p_adjusted'], 2)}" for row in self._below(frame)]
            if found:
                out.append(f"Rejected: {some(found)}.")
        related = [f"{row['effect']} with {row['covariate']} ({row['test']}, p = {number(row['p_adjusted'], 2)})"
                   for row in self._below(self.covariates) if row["test"] in PARAMETRIC]  # fmt: skip
        if related:
            out.append(f"Related to covariates: {some(related)}.")
        shrunk = self.shrinkage[self.shrinkage["sd shrinkage%"] > 100.0 * DIAGNOSTICS.high_shrinkage]
        rows = shrunk[shrunk["effect"] != "epsilon"].to_dict("records")
        high = [f"{row['effect']} ({row['sd shrinkage%']:.0f}%)" for row in rows]
        if high and self.of == "modes":
            out.append(f"High shrinkage: {some(high)}; tests of modes mean little there, use of='draws'.")
        outlying = [str(row[self.fit.data.group_name]) for row in self._below(self.groups)]
        if outlying:
            out.append(f"Outlying groups: {some(outlying)}.")
        rows = self.observations
        if len(rows):
            count = int(np.sum(rows["p_cwres_adjusted"].to_numpy() < self.level))
            out.append(f"Outlying observations by CWRES: {count} of {len(rows)}.")
        return tuple(out)

    def _below(self, frame: pd.DataFrame) -> list[dict[str, Any]]:
        rows: list[Any] = frame.to_dict("records")
        return [row for row in rows if row["p_adjusted"] < self.level]

    def _tables(self) -> list[Table]:
        out = []
        names = ["sd", "n", "sd shrinkage%", "variance shrinkage%", "conditional variance%"]
        rows = [
            [f"{row['effect']}", *(number(row[name]) for name in names)] for row in self.shrinkage.to_dict("records")
        ]
        out.append(Table("Shrinkage", ("", *names), rows))
        for title, frame, keys in (
            ("Random effects", self.normality, ("effect",)),
            ("Residuals", self.residuals, ("residual",)),
            ("Random effects against covariates", self.covariates, ("effect", "covariate")),
        ):
            body = [
                [" with ".join(str(row[key]) for key in keys), row["test"], f"{row['n']:d}", number(row["estimate"]),
                 number(row["p"], 3), number(row["p_adjusted"], 3)]
                for row in frame.to_dict("records")
            ]  # fmt: skip
            if body:
                out.append(Table(title, ("", "test", "n", "estimate", "p", "p adjusted"), body))
        return out
