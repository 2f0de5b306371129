"""From the end of a session to a Fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.estimators.core.record import totals, versions
from jaxnlme.estimators.marginal.convergence import Convergence
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.numerics.compiling import clock
from jaxnlme.results.inference import information
from jaxnlme.results.record import Fit, FitStatus


def record(
    session: Session,
    verdict: Convergence,
    left_out: list[tuple[Any, str]],
    notes: list[str],
    options: dict[str, Any],
    timings: dict[str, float],
) -> Fit:
    """The Fit of a session that ended with `verdict`."""
    binding, best, params = session.binding, session.best.own, session.params()
    processes = session.processes
    info = None
    if verdict.matrix is not None and np.isfinite(session.best.value):
        with clock(timings, "information"):
            weights = binding.data.weights[:, None]
            scores = np.where(weights == 0, 0.0, best.scores[:, verdict.active] * weights)
            scores, weights = (processes.concatenate(part) for part in (scores, binding.data.weights))
            if session.restricted:  # see Information
                scores = scores - np.outer(weights, scores.sum(axis=0) / weights.sum())
            info = information(binding, params, verdict.matrix, verdict.active, scores)
    timings["evaluations"] = session.evaluations
    sentences = [*verdict.sentences, *notes]
    labels = [label for own in processes.everyone([str(label) for label, _ in left_out]) for label in own]
    if labels:
        sentences.append(f"Left out at your request: group {some(labels)}.")
    sentences += list(binding.data.notes)
    status = FitStatus(
        tuple(sentences), binding.data.labels, best.status, best.evaluations, tuple(left_out), best.variance, best.ess
    )
    log_likelihood = float(session.best.sums.log_likelihood)
    return Fit(
        binding=binding,
        method=session.estimator.method.name,
        estimator=session.estimator,
        params=params,
        converged=verdict.converged,
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
        at_zero=tuple(verdict.at_zero),
        history=tuple(session.history),
        options=options,
        versions=versions(),
        timings=timings,
        fingerprint=binding.data.fingerprint(),
        totals=totals(binding, processes),
        restricted=session.restricted,
    )
