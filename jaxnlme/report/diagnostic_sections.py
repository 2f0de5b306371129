"""Sections on residuals and random effects: tests of what a model assumes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxnlme.diagnostics.effects.record import effect_diagnostics
from jaxnlme.errors import JaxnlmeError
from jaxnlme.report.blocks import Section, Text, present
from jaxnlme.report.outcome_sections import text_grid
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
