"""Hints on the random effects of a fit: variances and correlations that are not significantly different from zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.model.covariance.specification import family_name
from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks, LogCholesky, LogMatrix
from jaxnlme.results.display import number
from jaxnlme.results.settings import ADVICE, INFORMATION

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


def advice(fit: FitRecord) -> list[str]:
    """Sentences (at most two) on a converged fit with standard errors: variances smaller than their standard errors,
    and correlations none of which differs significantly from zero. The status of the fit reports variances at zero.

    These are hints, since Wald comparisons are rough near a boundary; each sentence names a better comparison.
    """
    if not fit.converged or fit.information is None or not fit.information.positive_definite:
        return []
    table = fit.estimates
    return [*_small_variances(fit, table), *_weak_correlations(fit, table)]


def _small_variances(fit: FitRecord, table: Any) -> list[str]:
    """A sentence on the variances below their standard errors (`ADVICE.small_sd`), if there are any."""
    density = fit.binding.density
    # Effects that share an SD cannot be dropped one by one.
    shared = {k for _, effects, _ in density.covariance.log_scales if len(effects) > 1 for k in effects}
    # An effect that is a linear combination of others in a singular psi (see the status) is no candidate either.
    shared |= _linearly_dependent(fit.psi.to_numpy(dtype=float))
    spec = fit.model.covariance
    named = not isinstance(spec, AbstractCovariance) or family_name(spec) is not None
    if fit.model.individual is not None or not named:
        return []
    small = []
    for k, name in enumerate(density.effect_names):
        if k in shared:
            continue
        row = table.loc[f"sd({name})"]
        if 0.0 < row["estimate"] < ADVICE.small_sd * row["se"]:
            small.append((name, f"{name} ({number(row['estimate'], 2)}, se {number(row['se'], 2)})"))
    if not small:
        return []
    names = [name for name, _ in small]
    single = len(names) == 1
    drop = repr(names[0]) if single else repr(names)
    return [
        f"The SD{'' if single else 's'} of {some([text for _, text in small])} {'is' if single else 'are'} small: the "
        f"variance{'' if single else 's'} {'is' if single else 'are'} below {'its' if single else 'their'} standard "
        f"error{'' if single else 's'}. fit.update(drop={drop}) drops {'it' if single else 'them'}; compare AIC or BIC."
    ]


def _linearly_dependent(psi: np.ndarray) -> set[int]:
    """Effects that are correlated with others in a singular psi (random, random), without those of zero variance."""
    positive = np.flatnonzero(np.diag(psi) > 0)
    if not len(positive):
        return set()
    sd = np.sqrt(np.diag(psi)[positive])
    correlation = psi[np.ix_(positive, positive)] / np.outer(sd, sd)
    if np.linalg.eigvalsh(correlation)[0] > INFORMATION.singular_eigenvalue:
        return set()
    dependent = np.abs(correlation - np.eye(len(positive))) > INFORMATION.singular_eigenvalue
    return {int(k) for k in positive[dependent.any(axis=1)]}


def _weak_correlations(fit: FitRecord, table: Any) -> list[str]:
    """A sentence if every correlation is smaller than `ADVICE.weak_correlation` standard errors."""
    density = fit.binding.density
    rows = table[table.kind == "correlation"]
    if not isinstance(density.covariance, (LogCholesky, LogMatrix, Blocks)) or not len(rows) or fit.at_zero:
        return []
    # Standard errors, not the interval: the Fisher z interval of a correlation near one may contain zero.
    weak = rows["estimate"].abs() < ADVICE.weak_correlation * rows["se"]  # false where a standard error is missing
    if not weak.all():
        return []
    largest = rows.loc[rows["estimate"].abs().idxmax()]
    single = len(rows) == 1
    return [
        f"{'The correlation' if single else 'No correlation'} of the random effects is {'not ' if single else ''}"
        f"significantly different from zero ({'' if single else 'the largest: '}{number(largest['estimate'], 2)}, "
        f"se {number(largest['se'], 2)}). fit.update(covariance='diagonal') leaves correlations out; compare AIC or "
        "BIC."
    ]
