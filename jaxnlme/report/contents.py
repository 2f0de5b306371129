"""The page of a fit of a nonlinear model: which sections it has, in order, and its pictures."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.comparison.compare import Comparison
from jaxnlme.model.equations import structure_name
from jaxnlme.report.blocks import Digits, Page, Picture, Section, Text
from jaxnlme.report.diagnostic_sections import diagnostics_section
from jaxnlme.report.estimate_sections import criteria_section, estimates_section
from jaxnlme.report.model_sections import data_section, model_section
from jaxnlme.report.outcome_sections import comparison_section, convergence_section, settings_section
from jaxnlme.report.pictures import chosen, draw, missing_library
from jaxnlme.report.settings import REPORT

Pictures = Mapping[str, tuple[str, Mapping[str, Any]]]

# By method of `fit.plot` the title in the page, and arguments. Those of the iterations stand with the convergence.
PICTURES: Pictures = {
    "individual_fits": ("Individual fits", {}),
    "observed_predicted": ("Observations against predictions", {}),
    "residuals": ("Conditional weighted residuals against predictions", {}),
    "random_effects": ("Random effects", {}),
}
OF_ITERATIONS: Pictures = {"history": ("Log-likelihood by iteration", {})}
OF_SIMULATIONS: Pictures = {
    "trajectories": ("Parameters by iteration", {}),
    "monte_carlo": ("Monte Carlo errors", {}),
}


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What a report shows: `title`, None for one made of model and method; `comparison` with other fits; `pictures`,
    True, False or names; `moment`: when it was written."""

    title: str | None
    comparison: Comparison | None
    pictures: Any
    moment: datetime.datetime


def page_of(fit: Any, options: ReportOptions) -> Page:
    """The page of a Fit, also of one that did not converge or could not start; what it does not have is left out, and
    the page says so."""
    known = {**PICTURES, **OF_ITERATIONS, **(OF_SIMULATIONS if fit.sampling is not None else {})}
    wanted = chosen(options.pictures, known)
    summary = fit.summary()
    has_estimates = summary.has_estimates
    notes = [note for note in summary.notes if not note.startswith("Note: ")]
    sections = [model_section(fit), data_section(fit)]
    drawn, of_iterations = [], []
    if has_estimates:
        absent = missing_library() if wanted else None
        if absent is None and wanted:
            later = OF_ITERATIONS.keys() | OF_SIMULATIONS.keys()
            drawn = within_budget(*draw(fit, {k: v for k, v in wanted.items() if k not in later}))
            of_iterations = within_budget(*draw(fit, {k: v for k, v in wanted.items() if k in later}))
        drawn = [absent] if absent is not None else drawn
        sections += [estimates_section(fit, notes), criteria_section(fit, ()), diagnostics_section(fit)]
        sections += [Section("pictures", "Pictures", drawn)] if drawn else []
    sections.append(convergence_section(fit, of_iterations))
    if options.comparison is not None:
        sections.append(comparison_section(options.comparison))
    sections.append(settings_section(fit, options.moment))
    return Page(
        options.title or f"{structure_name(fit.model.structure)}, fitted by {fit.method}",
        _subtitle(fit),
        "good" if fit.converged else "bad",
        [sentence for sentence in fit.status.sentences if sentence not in fit.data.notes],
        _figures(fit, has_estimates),
        sections,
        _record(fit, has_estimates),
    )


def within_budget(pictures: Sequence[Picture], sentences: Sequence[str]) -> list[Any]:
    """The pictures as far as they fit into a page of `REPORT.most_bytes`, and the sentences on the others."""
    blocks: list[Any] = []
    used, left_out = 400_000, []  # text, tables and what pictures in other sections need
    for picture in pictures:
        used += 4 * len(picture.png) // 3
        if used < REPORT.most_bytes:
            blocks.append(picture)
        else:
            left_out.append(f"No picture “{picture.title}”: the page would exceed {REPORT.most_bytes / 1e6:g} MB.")
    missing = [*sentences, *left_out]
    return [*blocks, *([Text(missing, small=True)] if missing else [])]


def _subtitle(fit: Any) -> str:
    """Numbers of groups, observations and iterations."""
    kind = ", restricted likelihood" if fit.restricted else ""
    data = fit.data
    return (
        f"{data.n_groups} group{'s' * (data.n_groups != 1)} ({data.group_name}), {data.n_obs} "
        f"observation{'s' * (data.n_obs != 1)} of {data.y_name}; {fit.method}{kind}, {fit.iterations} iterations"
    )


def _figures(fit: Any, has_estimates: bool) -> list[tuple[str, Any]]:
    """The numbers at the head of the page."""
    if not has_estimates:
        return []
    criteria = fit.criteria
    name = "restricted log-likelihood" if fit.restricted else "log-likelihood"
    values = [(name, criteria.log_likelihood), ("AIC", criteria.aic), ("BIC", criteria.bic)]
    found: list[tuple[str, Any]] = [(name, Digits(float(value), 6)) for name, value in values if np.isfinite(value)]
    seconds = Digits(float(fit.timings.get("total", np.nan)), 2)
    return [*found, ("parameters estimated", criteria.n_parameters), ("seconds", seconds)]


def _record(fit: Any, has_estimates: bool) -> dict[str, Any]:
    """The numbers of the fit for programs."""
    record: dict[str, Any] = {
        "method": fit.method,
        "converged": fit.converged,
        "interrupted": fit.interrupted,
        "status": list(fit.status.sentences),
        "groups": fit.data.n_groups,
        "observations": fit.data.n_obs,
        "rows": fit.data.n_rows,
        "iterations": fit.iterations,
        "data digest": fit.fingerprint,
        "versions": dict(fit.versions),
    }
    if has_estimates:
        criteria = fit.criteria
        record |= {
            "log_likelihood": criteria.log_likelihood,
            "objective": criteria.objective,
            "aic": criteria.aic,
            "bic": criteria.bic,
            "bic_groups": criteria.bic_groups,
            "n_parameters": criteria.n_parameters,
            "estimates": records_of(fit.estimates),
            "psi": {str(name): row.to_dict() for name, row in fit.psi.iterrows()},
            "shrinkage": fit.shrinkage.to_dict(),
        }
    return record


def records_of(table: Any) -> list[dict[str, Any]]:
    """The rows of a table of estimates, each a dictionary with its `name`."""
    return [{"name": str(name), **row.to_dict()} for name, row in table.iterrows()]
