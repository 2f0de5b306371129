"""Convergence after a training by gradients: how well the weights are determined, and why a fit without a polish does
not count as converged."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.estimators.gradient.algorithm import Outcome
from jaxnlme.estimators.gradient.polish import Polish
from jaxnlme.estimators.marginal.convergence import Convergence
from jaxnlme.estimators.marginal.session import Session


def unpolished(session: Session, outcome: Outcome, precision: str) -> Convergence:
    """The Convergence of a fit without a polish: it does not count as converged."""
    active = np.flatnonzero(session.free[: session.n_dense])
    if outcome.interrupted:
        reason = "Interrupted by the user: these are the parameters of the training so far, not a maximum."
    elif outcome.stopped:
        reason = "Stopped by a callback: these are the parameters of the training so far, not a maximum."
    elif not np.isfinite(session.best.value):
        reason = "The objective is not finite where the training ended; see status.groups for the groups concerned."
    else:
        single = " in float32" if precision == "float32" else ""
        reason = (
            f"Trained{single} without a polish: whether this is a maximum was not checked. Go on from here by "
            "jn.fit(model, data, 'focei', start=fit), or train with polish='dense' or 'all'."
        )
    return Convergence(False, ["NOT CONVERGED.", reason], None, active, [])


def weights_criterion(session: Session, trained: np.ndarray, polish: str, search: Polish) -> str:
    """The sentence on the gradient in the weights at the end; empty for a model without trained weights.

    **Arguments:** `trained` (n,) bool: entries that were trained; `polish`: the one made.
    """
    weights = np.flatnonzero(trained[session.n_dense :]) + session.n_dense
    if not len(weights) or not np.isfinite(session.best.value):
        return ""
    gradient = session.best.sums.gradient[weights]
    groups = max(float(session.best.sums.counted), 1.0)
    size = np.sqrt(np.mean(gradient**2)) / groups
    text = (
        f"Gradient in the {len(weights)} trained weights at the end: root mean square {size:.1e} log-likelihood units "
        "a group for a change of one"
    )
    if polish == "all" and np.isfinite(search.gain):
        return f"{text}; the last quasi-Newton step was expected to gain {search.gain:.1e} log-likelihood units in all."
    return f"{text}; they were not polished."


def with_training(
    convergence: Convergence, outcome: Outcome, criterion: str, n_held: int, n_trained: int
) -> Convergence:
    """The Convergence of a polished fit, with sentences on the training; a training that broke off does not count as
    converged."""
    sentences = list(convergence.sentences)
    converged = convergence.converged
    if outcome.broken:
        converged = False
        if sentences[0] != "NOT CONVERGED.":
            sentences = ["NOT CONVERGED.", *sentences[1:]]
        sentences.insert(1, outcome.ending)
    if criterion:
        sentences.append(f"{criterion} Standard errors hold the weights fixed.")
    if n_held:
        sentences.append(
            f"{n_held} groups were held out: they have weight zero, and log-likelihood and standard errors are those "
            f"of the {n_trained} groups trained on."
        )
    return dataclasses.replace(convergence, converged=converged, sentences=sentences)
