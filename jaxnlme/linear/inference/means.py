"""Estimated marginal means: predictions of the fixed effects averaged with equal weights over a reference grid."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_choice, check_flag
from jaxnlme.errors import OptionError, check_level, near_matches, shown, some
from jaxnlme.linear.inference.anova import zero_variances
from jaxnlme.linear.inference.contrasts import estimates
from jaxnlme.linear.inference.degrees_of_freedom import DegreesOfFreedom, degrees_of_freedom
from jaxnlme.linear.inference.reference_grid import ReferenceGrid, combinations, reference_grid
from jaxnlme.linear.inference.settings import INFERENCE
from jaxnlme.linear.inference.wald import contrast_table
from jaxnlme.results.display import Printable, Table

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit

ADJUSTMENTS = ("tukey", "bonferroni", "holm", "none")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Means(Printable):
    """Estimated marginal means.

    **Fields:** `table`: a row per combination of categories with estimate, se, df, lower and upper; `differences`: of
    all pairs within `by`, with estimate, se, df, t, p, lower and upper, None where they were not asked for; `L`: the
    coefficients of the means (means, fixed); `at`: the values of the numeric columns; `df`: the method; `level`;
    `sentences`.
    """

    table: pd.DataFrame
    differences: pd.DataFrame | None
    L: pd.DataFrame
    at: dict[str, float]
    df: str
    level: float
    sentences: tuple[str, ...]

    def _tables(self) -> list[Table]:
        tables = [estimates(self.table, "Estimated marginal means", self.level)]
        if self.differences is not None:
            tables.append(estimates(self.differences, "Differences", self.level))
        return tables


def means(
    fit: LinearFit, of: Any, by: Any, at: Any, pairwise: bool, df: str | None, level: float, adjust: str
) -> Means:
    """The Means of `LinearFit.means`."""
    check_level(level)
    check_flag("pairwise", pairwise)
    check_choice("adjust", adjust, ADJUSTMENTS)
    grid = reference_grid(fit)
    of, by = _names("means", of), _names("by", by)
    levels, numeric = _values(grid, of, by, at)
    outer = {name: levels[name] for name in by}
    inner = {name: levels[name] for name in of}
    others = {name: values for name, values in levels.items() if name not in outer and name not in inner}
    table = grid.table(numeric, outer | inner | others)
    shape = (len(combinations(outer)), len(combinations(inner)), len(combinations(others)))
    if np.prod(np.array(shape, float)) > INFERENCE.most_grid_rows:
        raise OptionError(
            f"the reference grid has {int(np.prod(shape))} rows; the limit is {INFERENCE.most_grid_rows}: ask for "
            "fewer values in at=."
        )
    rows = grid.matrix.for_frame(table).reshape(*shape, -1).mean(axis=2)
    missing = _not_estimable(fit, grid, table, rows, shape)
    method = degrees_of_freedom(fit, df)
    cells = combinations(outer | inner)
    index = (
        pd.Index([cell[0] for cell in cells], name=of[0])
        if len(by) + len(of) == 1
        else pd.MultiIndex.from_tuples(cells, names=[*by, *of])
    )
    flat = rows.reshape(len(cells), -1)
    found = contrast_table(method, flat, flat @ fit.outcome.beta, [str(cell) for cell in cells], level)
    found = found.set_axis(index).drop(columns=["t", "p"])
    found[missing.ravel()] = np.nan
    differences = _differences(fit, method, rows, missing, outer, inner, level, adjust) if pairwise else None
    sentences = _sentences(fit, method, others, numeric, missing, adjust if pairwise else None, shape[1])
    L = pd.DataFrame(flat, index=index, columns=list(fit.model.fixed.names))
    return Means(found, differences, L, numeric, method.name, level, sentences)


def _names(option: str, value: Any) -> list[str]:
    """A name, or a sequence of names, as a list."""
    names = [] if value is None else [value] if isinstance(value, str) else list(value)
    if not all(isinstance(name, str) for name in names) or (option == "means" and not names):
        raise OptionError(f"{option} takes the name of a column, or a list of them; received {shown(value)}.")
    return names


def _values(
    grid: ReferenceGrid, of: Sequence[str], by: Sequence[str], at: Any
) -> tuple[dict[str, tuple[Any, ...]], dict[str, float]]:
    """The values of the columns that vary in the grid, and those of the numeric columns that do not.

    **Raises:** OptionError for columns that the fixed effects do not use, and values that are none of theirs.
    """
    if at is not None and not isinstance(at, Mapping):
        raise OptionError(f"at takes a dictionary of values by column, such as {{'age': 10}}; received {shown(at)}.")
    at, known = dict(at or {}), [*grid.levels, *grid.numeric.columns]
    for option, names in (("means", of), ("by", by), ("at", at)):
        for name in names:
            if name not in known:
                raise OptionError(f"{option}: {name!r} is no column of the fixed effects; {near_matches(name, known)}")
    if set(of) & set(by):
        raise OptionError(f"{some(sorted(set(of) & set(by)))} stands in by= as well; name it once.")
    levels, numeric = dict(grid.levels), grid.means
    for name, value in at.items():
        values = tuple(value) if isinstance(value, (list, tuple, np.ndarray, pd.Series)) else (value,)
        if not values:
            raise OptionError(f"at={{{name!r}: ...}} has no value.")
        if name in levels:
            unknown = [v for v in values if v not in levels[name]]
            if unknown:
                raise OptionError(
                    f"at: {name!r} has no category {unknown[0]!r}; known: {some(list(map(repr, levels[name])))}."
                )
            levels[name] = values
            continue
        if not all(isinstance(v, (int, float, np.number)) and np.isfinite(v) for v in values):
            raise OptionError(f"at: the column {name!r} holds numbers; received {shown(value)}.")
        if len(values) == 1 and name not in (*of, *by):
            numeric[name] = float(values[0])
        else:
            levels[name] = tuple(float(v) for v in values)
            del numeric[name]
    for name in (*of, *by):
        if name not in levels:
            raise OptionError(
                f"{name!r} is a numeric column: choose its values, at={{{name!r}: [{numeric[name]:.4g}, ...]}}; for "
                "its slope use fit.contrast."
            )
    return levels, numeric


def _not_estimable(
    fit: LinearFit, grid: ReferenceGrid, table: pd.DataFrame, rows: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """True for means of combinations that the data do not determine (by, of)."""
    if not grid.matrix.aliased:
        return np.zeros(shape[:2], bool)
    full, extension = grid.matrix.extension(fit.model.frame)
    every = full.for_frame(table).reshape(*shape, -1).mean(axis=2)
    gap = np.abs(rows @ extension - every).max(axis=2)
    return gap > INFERENCE.rank_tolerance * np.maximum(np.abs(every).max(axis=2), 1.0)


def _differences(
    fit: LinearFit,
    method: DegreesOfFreedom,
    rows: np.ndarray,
    missing: np.ndarray,
    outer: Mapping[str, tuple[Any, ...]],
    inner: Mapping[str, tuple[Any, ...]],
    level: float,
    adjust: str,
) -> pd.DataFrame:
    """Differences of all pairs of means within each combination of `outer`."""
    cells, n_means = combinations(inner), rows.shape[1]
    pairs = list(itertools.combinations(range(n_means), 2))
    if not pairs:
        raise OptionError("pairwise=True needs at least two means within by=.")
    text = [", ".join(map(str, cell)) for cell in cells]
    names = [f"{text[i]} - {text[j]}" for i, j in pairs]
    tables = []
    for k, cell in enumerate(combinations(outer)):
        L = np.stack([rows[k, i] - rows[k, j] for i, j in pairs])
        found = contrast_table(method, L, L @ fit.outcome.beta, names, level)
        _adjust(found, adjust, n_means, level)
        found[np.array([missing[k, i] or missing[k, j] for i, j in pairs])] = np.nan
        tables.append(found.set_axis(pd.MultiIndex.from_tuples([(*cell, name) for name in names])) if outer else found)
    out = pd.concat(tables)
    out.index.names = [*outer, None] if outer else [None]
    return out


def _adjust(table: pd.DataFrame, adjust: str, n_means: int, level: float) -> None:
    """p values and limits of the differences of `n_means` means, for all pairs together. Holm's method has no
    simultaneous intervals of its own: its limits are Bonferroni's.

    **Source:** Kramer (1956), Biometrics 12, 307-310, for Tukey's method with unequal standard errors; Holm (1979),
    Scandinavian Journal of Statistics 6, 65-70.
    """
    import scipy.stats

    if adjust == "none" or n_means == 2:
        return
    df, count = np.minimum(table["df"].to_numpy(), INFERENCE.large_df), len(table)
    if adjust == "tukey":
        statistic = np.abs(table["t"].to_numpy()) * np.sqrt(2.0)
        table["p"] = [
            float(scipy.stats.studentized_range.sf(q, n_means, nu)) for q, nu in zip(statistic, df, strict=True)
        ]
        of_df = {nu: float(scipy.stats.studentized_range.ppf(level, n_means, nu)) for nu in dict.fromkeys(df.tolist())}
        factor = np.array([of_df[nu] for nu in df.tolist()]) / np.sqrt(2.0)
    else:
        factor = scipy.stats.t.ppf(1.0 - (1.0 - level) / (2.0 * count), df)
        p = table["p"].to_numpy()
        if adjust == "bonferroni":
            table["p"] = np.minimum(count * p, 1.0)
        else:
            order = np.argsort(p)
            steps = np.maximum.accumulate((count - np.arange(count)) * p[order])
            table["p"] = np.minimum(steps, 1.0)[np.argsort(order)]
    table["lower"], table["upper"] = table["estimate"] - factor * table["se"], table["estimate"] + factor * table["se"]


def _sentences(
    fit: LinearFit,
    method: DegreesOfFreedom,
    others: Mapping[str, tuple[Any, ...]],
    numeric: Mapping[str, float],
    missing: np.ndarray,
    adjust: str | None,
    n_means: int,
) -> tuple[str, ...]:
    """Sentences on what the means are averaged over, and at which values."""
    out = [f"Denominator degrees of freedom: {method.name}."]
    if numeric:
        out.append(f"At {', '.join(f'{name} = {value:.4g}' for name, value in numeric.items())}.")
    if others:
        out.append(f"Averaged with equal weights over {some(list(others))}.")
    if adjust not in (None, "none") and n_means > 2:
        out.append(f"p values and intervals of differences adjusted for {n_means} means ({adjust}).")
    if missing.any():
        out.append(f"{int(missing.sum())} means are not determined by the data, which lack combinations of categories.")
    return (*out, *zero_variances(fit))
