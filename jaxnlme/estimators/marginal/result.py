"""The record of a fit, from the session that ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.estimators.core.record import totals, versions
from jaxnlme.estimators.marginal.convergence import Convergence
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.numerics.compiling import clock
from jaxnlme.results.inference import information
from jaxnlme.results.record import FitRecord, FitStatus


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
    processes = session.processes
    info = None
    if convergence.matrix is not None and np.isfinite(session.best.value):
        with clock(timings, "information"):
            weights = binding.data.weights[:, None]
            scores = np.where(weights == 0, 0.0, best.scores[:, convergence.active] * weights)
            scores, weights = (processes.concatenate(part) for part in (scores, binding.data.weights))
            if session.restricted:  # centred scores: see Information
                scores = scores - np.outer(weights, scores.sum(axis=0) / weights.sum())
            info = information(binding, params, convergence.matrix, convergence.active, scores)
    timings["evaluations"] = session.evaluations
    sentences = [*convergence.sentences, *notes]
    labels = [label for labels in processes.gather([str(label) for label, _ in left_out]) for label in labels]
    if labels:
        sentences.append(f"Left out at your request: group {some(labels)}.")
    sentences += list(binding.data.notes)
    status = FitStatus(
        tuple(sentences), binding.data.labels, best.status, best.evaluations, tuple(left_out), best.variance, best.ess
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
        totals=totals(binding, processes),
        restricted=session.restricted,
    )
