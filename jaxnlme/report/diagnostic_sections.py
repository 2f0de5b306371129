"""Sections on residuals and random effects: tests of what a model assumes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.effects.record import effect_diagnostics
from jaxnlme.errors import JaxnlmeError
from jaxnlme.report.blocks import Digits, Grid, Section, Text, present
from jaxnlme.report.outcome_sections import text_grid
from jaxnlme.report.settings import REPORT
from jaxnlme.results.display import Printable, printed_tables

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def diagnostics_section(fit: FitRecord, npde: Printable | None, missing: Sequence[str]) -> Section:
    """Tests of residuals, random effects and covariates, shrinkage, outliers; tests of npde.

    **Arguments:** `npde`: of `fit.npde`, None where it was not computed; `missing`: sentences on checks that the fit
    cannot have.
    """
    blocks: list[Any] = []
    try:
        blocks += record_blocks(effect_diagnostics(fit))
    except JaxnlmeError as error:
        blocks.append(Text((f"No tests of residuals and random effects: {error}",)))
    if npde is not None:
        blocks += record_blocks(npde)
    return Section("diagnostics", "Diagnostics", present([*blocks, Text(missing, small=True)]))


def record_blocks(record: Printable) -> list[Any]:
    """A record as its sentences and tables."""
    return [Text(record.sentences), *(text_grid(table) for table in printed_tables(record))]


def npde_of(fit: Any, replicates: int) -> tuple[Printable | None, list[str]]:
    """`fit.npde` by `replicates` simulated data sets, None for zero of them and for an outcome that has none, with a
    sentence on the reason."""
    if not replicates:
        return None, []
    try:
        return fit.npde(replicates), []
    except JaxnlmeError as error:
        return None, [f"No npde: {error}"]


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
    test: Any = stats.shapiro if n <= REPORT.most_for_shapiro else stats.normaltest
    p_mean, p_normal = (
        Digits(float(np.asarray(stats.ttest_1samp(values, 0.0))[1]), 3),
        Digits(float(test(values)[1]), 3),
    )
    shape = float(stats.skew(values)), float(stats.kurtosis(values))
    return n, float(values.mean()), p_mean, spread, *shape, p_normal, large
