"""The start of a fit by `starts="multi"`: the best of many batched fits from starts around the given one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.model.params import Params

if TYPE_CHECKING:
    from jaxnlme.fitting.fit import Fit


@dataclasses.dataclass(frozen=True)
class BestStart:
    """Outcome of the search from many starts.

    **Fields:** `params`, at the highest maximum; None where no start reached one: the fit then begins at the centre.
    `sentence` on what was found. `interrupted`: the fit from the centre, marked as interrupted, if Ctrl-C came during
    the search; the fit itself is then not begun.
    """

    params: Params | None
    sentence: str
    interrupted: Fit | None = None


def best_of_starts(
    model: NLMEModel, data: GroupedData, estimator: AbstractEstimator, plan: Plan, fit: Any
) -> BestStart:
    """The highest maximum that fits from many starts reach.

    The search is made by the likelihood approximation of `estimator`; for others (linearised and restricted
    likelihoods, SAEM, IMP) by FOCEI, or Laplace's approximation where the outcome has no Gaussian moments.

    **Arguments:** `plan`: its start is the centre of the starts; `fit`: the function `jn.fit`.
    """
    from jaxnlme.refits.settings import MULTISTART

    likelihood = _searchable(model, estimator)
    first: Fit = fit(
        model,
        data,
        likelihood,
        start=plan.start,
        progress=plan.progress,
        on_bad_group=plan.on_bad_group,
    )
    if first.interrupted:
        return BestStart(None, "", _interrupted(first, estimator))
    found = first.multistart(MULTISTART.starts_before_fit, progress=plan.progress)
    if found.interrupted:
        return BestStart(None, "", _interrupted(first, estimator))
    maxima = found.maxima
    if not len(maxima):
        return BestStart(
            None, f"None of {len(found.starts)} starts reached a maximum; the fit began from the model's own starts."
        )
    heights = ", ".join(
        f"{row.log_likelihood:.3f} (from {row.starts})" for row in maxima.head(MULTISTART.maxima_shown).itertuples()
    )
    given = f"{first.log_likelihood:.3f}" if np.isfinite(first.log_likelihood) else "it is not finite"
    sentence = (
        f"Started from the best of {len(found.starts)} fits by {first.method} from several starts: maxima of the "
        f"log-likelihood at {heights}; from the given start {given}."
    )
    if first.converged and not maxima["gain"].iloc[0] > MULTISTART.better_by:
        return BestStart(first.params, sentence)
    return BestStart(found.params_of_maximum(0), sentence)


def _interrupted(first: Fit, estimator: AbstractEstimator) -> Fit:
    """`first` as the result of a fit by `estimator` that was interrupted before it began."""
    sentence = (
        f"Interrupted by the user in the search from several starts, before the fit by {estimator.name} began: these "
        f"are the estimates by {first.method} from the given start."
    )
    status = dataclasses.replace(first.status, sentences=("NOT CONVERGED.", sentence, *first.status.sentences[1:]))
    return dataclasses.replace(first, converged=False, interrupted=True, status=status)


def _searchable(model: NLMEModel, estimator: AbstractEstimator) -> Any:
    """The likelihood approximation by which starts are compared, for a fit by `estimator`."""
    if isinstance(estimator, MaximumLikelihood):
        return estimator.method
    gaussian = getattr(model.error, "has_gaussian_moments", True)
    return "focei" if gaussian else "laplace"


def with_start_sentence(record: Any, sentence: str) -> Any:
    """The record with the option starts="multi" and the `sentence` on what the starts led to (none where a checkpoint
    took the place of the search)."""
    status = dataclasses.replace(record.status, sentences=(*record.status.sentences, *filter(None, [sentence])))
    return dataclasses.replace(record, status=status, options={**record.options, "starts": "multi"})
