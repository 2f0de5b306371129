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
from jaxnlme.report.diagnostic_sections import diagnostics_section, npde_of
from jaxnlme.report.estimate_sections import criteria_section, estimates_section
from jaxnlme.report.model_sections import data_section, model_section
from jaxnlme.report.outcome_sections import comparison_section, convergence_section, settings_section
from jaxnlme.report.pictures import chosen, draw, missing_library
from jaxnlme.report.settings import REPORT

Pictures = Mapping[str, tuple[str, Mapping[str, Any]]]

# By method of `fit.plot` the title in the page, and arguments. Those of the iterations stand with the convergence.
PICTURES: Pictures = {
    "gof": ("Goodness of fit", {}),
    "individual_fits": ("Individual fits", {}),
    "qq": ("Normal quantiles of residuals", {}),
    "effect_histograms": ("Random effects", {}),
    "effect_pairs": ("Pairs of random effects", {}),
    "effects_covariates": ("Random effects against covariates", {}),
    "data": ("Data", {}),
    "observed_predicted": ("Observations against predictions", {}),
    "residuals": ("Residuals against predictions", {}),
    "random_effects": ("Random effects and shrinkage", {}),
    "effect_intervals": ("Random effects by unit, with intervals", {}),
    "individual_parameters": ("Individual parameters", {}),
}
# Those that only a request by name draws: others show the same, or they are of methods by simulation.
ON_REQUEST = ("data", "observed_predicted", "residuals", "random_effects", "effect_intervals", "individual_parameters")
OF_ITERATIONS: Pictures = {
    "history": ("Log-likelihood by iteration", {}),
    "trajectories": ("Parameters by iteration", {}),
    "monte_carlo": ("Monte Carlo errors", {}),
}


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Contents of a report: `title`, None for one made of model and method; `comparison` with other fits; `pictures`,
    True, False or names; `replicates`: simulated data sets of predictive checks, 0 for none; `moment`: when it was
    written."""

    title: str | None
    comparison: Comparison | None
    pictures: Any
    replicates: int
    moment: datetime.datetime


def page_of(fit: Any, options: ReportOptions) -> Page:
    """The page of a Fit, also of one that did not converge or could not start; what it does not have is left out, and
    the page says so."""
    summary = fit.summary()
    has_estimates = summary.has_estimates
    sections = [model_section(fit), data_section(fit)]
    of_iterations: list[Any] = []
    wanted = wanted_pictures(fit, options, None)
    if has_estimates:
        npde, missing = npde_of(fit, options.replicates)
        wanted = wanted_pictures(fit, options, npde)
        notes = [note for note in summary.notes if not note.startswith("Note: ")]
        absent = missing_library() if wanted else None
        drawn: list[Any] = [absent] if absent is not None else []
        if absent is None and wanted:
            of_iterations = within_budget(*draw(fit, {k: v for k, v in wanted.items() if k in OF_ITERATIONS}))
            used = sum(_size(block) for block in of_iterations if isinstance(block, Picture))
            drawn = within_budget(*draw(fit, {k: v for k, v in wanted.items() if k not in OF_ITERATIONS}), used)
        sections += [estimates_section(fit, notes), criteria_section(fit, ()), diagnostics_section(fit, npde, missing)]
        sections += [Section("pictures", "Pictures", drawn)] if drawn else []
    sections.append(convergence_section(fit, of_iterations))
    if options.comparison is not None:
        sections.append(comparison_section(options.comparison))
    sections.append(settings_section(fit, options.moment))
    return Page(
        options.title or title_of(fit),
        _subtitle(fit),
        "good" if fit.converged else "bad",
        [sentence for sentence in fit.status.sentences if sentence not in fit.data.notes],
        _figures(fit, has_estimates),
        sections,
        _record(fit, has_estimates),
    )


def wanted_pictures(fit: Any, options: ReportOptions, npde: Any) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The pictures of the page, in order, by method of `fit.plot`.

    **Arguments:** `npde`: the record of `fit.npde`, None without one.
    **Raises:** OptionError for names that are no pictures of this report.
    """
    checks: dict[str, tuple[str, Mapping[str, Any]]] = {}
    if options.replicates:
        checks["vpc"] = ("Visual predictive check", {"replicates": options.replicates})
    if npde is not None:
        checks["npde"] = ("Normalised prediction distribution errors", {"record": npde})
    first = {name: PICTURES[name] for name in ("gof", "individual_fits")}
    known = {**first, **checks, **PICTURES, **OF_ITERATIONS}
    if options.pictures is not True:
        return chosen(options.pictures, known)
    data, effects = fit.data, fit.binding.density.n_effects
    has_covariates = bool(data.v) or any(values.ndim == 1 for values in data.text.values())
    left_out = {
        *ON_REQUEST,
        *(() if effects else ("effect_histograms",)),
        *(() if effects > 1 else ("effect_pairs",)),
        *(() if effects and has_covariates else ("effects_covariates",)),
        *(() if fit.sampling is not None else ("trajectories", "monte_carlo")),
    }
    return {name: entry for name, entry in known.items() if name not in left_out}


def within_budget(pictures: Sequence[Picture], sentences: Sequence[str], used: int = 0) -> list[Any]:
    """The pictures as far as they fit into a page of `REPORT.most_bytes`, and the sentences on the others.

    **Arguments:** `used`: bytes of pictures elsewhere in the page.
    """
    blocks: list[Any] = []
    used, left_out = used + REPORT.bytes_of_text, []
    for picture in pictures:
        used += _size(picture)
        if used < REPORT.most_bytes:
            blocks.append(picture)
        else:
            left_out.append(f"No picture “{picture.title}”: the page would exceed {REPORT.most_bytes / 1e6:g} MB.")
    missing = [*sentences, *left_out]
    return [*blocks, *([Text(missing, small=True)] if missing else [])]


def _size(picture: Picture) -> int:
    """Bytes of a picture in the page (base64)."""
    return 4 * len(picture.png) // 3


def title_of(fit: Any) -> str:
    """The formula of a fit that has one, or else the name of its function, and the method."""
    declaration = getattr(fit, "declaration", None)
    name = structure_name(fit.model.structure)
    if declaration is not None:
        name = f"{declaration.formula.response} ~ {declaration.formula.fixed}"
    return f"{name}, fitted by {fit.method}"


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
