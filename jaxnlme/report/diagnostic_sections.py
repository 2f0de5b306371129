"""Sections on residuals and random effects: tests of what a model assumes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._endpoints import label_text
from jaxnlme.diagnostics.residuals import residuals
from jaxnlme.errors import JaxnlmeError
from jaxnlme.report.blocks import Grid, Section, Text, present
from jaxnlme.report.settings import REPORT
from jaxnlme.results.display import number

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord

KINDS = ("cwres", "iwres", "pwres")
_MEANING = (
    "cwres: conditional weighted residuals; iwres: individual, at the conditional modes; pwres: population, at random "
    "effects of zero. Under the model cwres and pwres have mean 0 and SD 1; p values below 0.05 are expected in one of "
    "twenty tests, and with many rows slight departures have small ones: look at the pictures too."
)


def diagnostics_section(fit: FitRecord, more: Sequence[Any] = ()) -> Section:
    """Tests of residuals and of random effects, shrinkage of the residuals.

    **Arguments:** `more`: further blocks, such as those of npde.
    """
    try:
        table = residuals(fit, KINDS)
    except JaxnlmeError as error:  # an outcome without Gaussian moments has no such residuals, and says so
        blocks: list[Any] = [Text((f"No weighted residuals: {error}",))]
    else:
        rows, epsilon = [], []
        parts = [("", table)]
        if fit.data.endpoint is not None:
            groups = table.groupby(fit.data.endpoint, sort=False, observed=True)
            parts = [(f" {label_text(label)}", part) for label, part in groups]
        for label, part in parts:
            for kind in KINDS:
                values = part[kind].to_numpy(float)
                rows += [(f"{kind}{label}", *tests_of(values))] if np.isfinite(values).sum() > 2 else []
            within = part["iwres"].to_numpy(float)
            if np.isfinite(within).sum() > 2:
                shrinkage = 100.0 * (1.0 - np.nanstd(within, ddof=1))
                epsilon.append(f"Shrinkage of the residuals{label}: {number(shrinkage, 3)}% (1 - SD of iwres).")
        blocks = [tests_grid("Residuals", rows), Text(epsilon), Text((_MEANING,), small=True)]
    return Section("diagnostics", "Diagnostics", present([*blocks, _effects(fit), *more]))


def tests_grid(title: str, rows: Sequence[Sequence[Any]]) -> Grid:
    """Rows of `tests_of` with their header."""
    large = f"beyond {REPORT.large_residual:g}"
    return Grid(title, ("", "n", "mean", "p (mean 0)", "SD", "skewness", "kurtosis", "p (normal)", large), rows)


def tests_of(values: np.ndarray) -> tuple[Any, ...]:
    """n, mean, p of a t test of mean zero, SD, skewness, excess kurtosis, p of a test of normality (Shapiro and Wilk;
    beyond `REPORT.most_for_shapiro` values D'Agostino and Pearson), and the number of large values."""
    from scipy import stats

    values = values[np.isfinite(values)]
    n, spread = len(values), float(np.std(values, ddof=1))
    large = int((np.abs(values) > REPORT.large_residual).sum())
    if spread == 0 or n < 8:  # too few for a test, or all the same
        return n, float(values.mean()), None, spread, None, None, None, large
    test = stats.shapiro if n <= REPORT.most_for_shapiro else stats.normaltest
    p_mean, p_normal = float(stats.ttest_1samp(values, 0.0).pvalue), float(test(values).pvalue)
    shape = float(stats.skew(values)), float(stats.kurtosis(values))
    return n, float(values.mean()), p_mean, spread, *shape, p_normal, large


def _effects(fit: FitRecord) -> Grid | None:
    """Tests of the conditional modes in units of their SD; None without random effects."""
    effects = fit.random_effects
    tables = list(effects.values()) if isinstance(effects, dict) else [effects]
    rows = []
    for table in tables:
        for name in table.columns:
            sd = np.sqrt(float(fit.psi.loc[name, name])) if name in fit.psi else 0.0
            if sd > 0 and len(table) > 2:
                rows.append((str(name), *tests_of(table[name].to_numpy(float) / sd)))
    return tests_grid("Random effects: conditional modes in units of their SD, which shrinkage makes smaller", rows)
