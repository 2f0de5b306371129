"""What a fit suggests of its random effects: variances and correlations that the data hardly tell from zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.model.covariance.specification import family_name
from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks, LogCholesky, LogMatrix
from jaxnlme.results.display import number
from jaxnlme.results.inference import SINGULAR

if TYPE_CHECKING:
    from jaxnlme.results.record import Fit


def advice(fit: Fit) -> list[str]:
    """Sentences on a converged fit with standard errors, at most two: variances smaller than their standard errors, and
    correlations of which none is told apart from zero. Variances at zero have sentences of their own in the status.

    They are hints: a Wald comparison at a boundary is rough, so each says how to look closer.
    """
    if not fit.converged or fit.information is None or not fit.information.positive:
        return []
    table = fit.estimates
    return [*_small_variances(fit, table), *_weak_correlations(fit, table)]


def _small_variances(fit: Fit, table: Any) -> list[str]:
    """By the delta method se(sd^2) = 2 sd se(sd): a variance is below its standard error where sd < 2 se(sd)."""
    density = fit.binding.density
    # Where several effects share an SD, or a function of the user's reads them, none can be dropped alone.
    shared = {k for _, effects, _ in density.covariance.log_scales if len(effects) > 1 for k in effects}
    # Beside a singular psi (a sentence of the status) an effect that others determine is no candidate of its own.
    shared |= _bound(fit.psi.to_numpy(dtype=float))
    spec = fit.model.covariance
    named = not isinstance(spec, AbstractCovariance) or family_name(spec) is not None
    if fit.model.individual is not None or not named:
        return []
    small = []
    for k, name in enumerate(density.effect_names):
        if k in shared:
            continue
        row = table.loc[f"sd({name})"]
        if 0.0 < row["estimate"] < 2.0 * row["se"]:
            small.append((name, f"{name} ({number(row['estimate'], 2)}, se {number(row['se'], 2)})"))
    if not small:
        return []
    names = [name for name, _ in small]
    one = len(names) == 1
    drop = repr(names[0]) if one else repr(names)
    return [
        f"The SD{'' if one else 's'} of {some([text for _, text in small])} {'is' if one else 'are'} small: the "
        f"variance{'' if one else 's'} {'is' if one else 'are'} below {'its' if one else 'their'} standard "
        f"error{'' if one else 's'}. fit.update(drop={drop}) drops {'it' if one else 'them'}; compare AIC or BIC."
    ]


def _bound(psi: np.ndarray) -> set[int]:
    """Effects that are correlated with others in a singular psi (random, random), zero variances left out."""
    alive = np.flatnonzero(np.diag(psi) > 0)
    if not len(alive):
        return set()
    sd = np.sqrt(np.diag(psi)[alive])
    correlation = psi[np.ix_(alive, alive)] / np.outer(sd, sd)
    if np.linalg.eigvalsh(correlation)[0] > SINGULAR:
        return set()
    return {int(k) for k in alive[(np.abs(correlation - np.eye(len(alive))) > SINGULAR).any(axis=1)]}


def _weak_correlations(fit: Fit, table: Any) -> list[str]:
    density = fit.binding.density
    rows = table[table.kind == "correlation"]
    if not isinstance(density.covariance, (LogCholesky, LogMatrix, Blocks)) or not len(rows) or fit.at_zero:
        return []
    # By two standard errors and not by the interval: Fisher's, of a correlation near one, holds zero as well.
    if not (rows["estimate"].abs() < 2.0 * rows["se"]).all():  # nor where there is no standard error
        return []
    largest = rows.loc[rows["estimate"].abs().idxmax()]
    one = len(rows) == 1
    return [
        f"{'The correlation' if one else 'No correlation'} of the random effects is {'not ' if one else ''}told apart "
        f"from zero ({'' if one else 'the largest: '}{number(largest['estimate'], 2)}, se {number(largest['se'], 2)}). "
        "fit.update(covariance='diagonal') leaves correlations out; compare AIC or BIC."
    ]
