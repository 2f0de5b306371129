"""The record of a fit, from the session that ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.estimators.core.record import totals, versions
from jaxnlme.estimators.marginal.convergence import Convergence
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.numerics.compiling import clock
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.inference import Information, information
from jaxnlme.results.record import FitRecord


def record(
    session: Session,
    convergence: Convergence,
    left_out: list[tuple[Any, str]],
    notes: list[str],
    options: dict[str, Any],
    timings: dict[str, float],
) -> FitRecord:
    """The FitRecord of a session that has ended.

    **Arguments:** `left_out`: labels of groups left out, with the reason; `notes`: further sentences; `options` and
    `timings`: as the record stores them.
    """
    binding, best, params = session.binding, session.best.local_groups, session.params()
    info = _information(session, convergence, timings)
    timings["evaluations"] = session.evaluations
    status = FitStatus(
        tuple(_sentences(session, convergence, left_out, notes)),
        binding.data.labels,
        best.status,
        best.evaluations,
        tuple(left_out),
        best.variance,
        best.ess,
    )
    log_likelihood = float(session.best.sums.log_likelihood)
    return FitRecord(
        binding=binding,
        method=session.estimator.method.name,
        estimator=session.estimator,
        params=params,
        converged=convergence.converged,
        interrupted=session.interrupted,
        stopped=session.stopped,
        status=status,
        modes=best.modes,
        curvature=best.curvature,
        group_log_likelihood=best.values,
        monte_carlo_variance=best.variance,
        ess=best.ess,
        log_likelihood=log_likelihood,
        log_prior=-session.best.value - log_likelihood,
        information=info,
        at_zero=tuple(convergence.at_zero),
        history=tuple(session.history),
        options=options,
        versions=versions(),
        timings=timings,
        fingerprint=binding.data.fingerprint(),
        totals=totals(binding, session.processes),
        restricted=session.estimator.restricted,
    )


def _information(session: Session, convergence: Convergence, timings: dict[str, float]) -> Information | None:
    """The observed information and the groups' scores at the estimates; None if it was not computed."""
    if convergence.matrix is None or not np.isfinite(session.best.value):
        return None
    binding, processes = session.binding, session.processes
    with clock(timings, "information"):
        weights = binding.data.weights[:, None]
        scores = session.best.local_groups.scores[:, convergence.active]
        scores = np.where(weights == 0, 0.0, scores * weights)
        scores, weights = (processes.concatenate(part) for part in (scores, binding.data.weights))
        if session.estimator.restricted:  # centred scores: see Information
            scores = scores - np.outer(weights, scores.sum(axis=0) / weights.sum())
        return information(binding, session.params(), convergence.matrix, convergence.active, scores)


def _sentences(
    session: Session, convergence: Convergence, left_out: list[tuple[Any, str]], notes: list[str]
) -> list[str]:
    """The sentences of the status: on convergence, the `notes`, groups left out, and notes on the data."""
    sentences = [*convergence.sentences, *notes]
    gathered = session.processes.gather([str(label) for label, _ in left_out])
    labels = [label for labels in gathered for label in labels]
    if labels:
        sentences.append(f"Left out at your request: group {some(labels)}.")
    return sentences + list(session.binding.data.notes)
