"""From the end of a session to a Fit, or to the record of one that could not begin."""

from __future__ import annotations

import functools
import platform
from typing import Any

import jax
import numpy as np

from jaxnlme.errors import Status, some
from jaxnlme.estimators.base import AbstractEstimator
from jaxnlme.estimators.session import Session
from jaxnlme.estimators.verdict import Verdict
from jaxnlme.model.binding import Binding
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock
from jaxnlme.numerics.devices import Processes
from jaxnlme.results.criteria import counted
from jaxnlme.results.fit import Fit, FitStatus
from jaxnlme.results.inference import information


def versions() -> dict[str, str]:
    """Versions of what computes, and the device."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """Looked up once: reading the metadata of five packages takes 1 ms."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("jaxnlme", "jax", "jaxlib", "equinox", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"python": platform.python_version(), "device": jax.devices()[0].device_kind}


def record(
    session: Session,
    verdict: Verdict,
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


def totals(binding: Binding, processes: Processes) -> tuple[float, float] | None:
    """Weighted observations, and groups that have one, of every process; None where there is one process."""
    if processes.count == 1:
        return None
    return tuple(np.sum(processes.everyone(counted(binding.data)), axis=0).tolist())


def stillborn(
    binding: Binding,
    estimator: AbstractEstimator,
    params: Params,
    finite: np.ndarray,
    options: dict[str, Any],
    timings: dict[str, float],
    processes: Processes,
) -> Fit:
    """The record of a fit that could not begin: no estimates, the groups named."""
    m, q = binding.data.n_groups, binding.density.n_effects
    codes = np.where(finite, Status.ok, Status.non_finite_start)
    bad = processes.everyone([str(label) for label in binding.data.labels[~finite]])
    if processes.all(finite.any()):
        advice = "Mend the model or the rows, or go on without them: fit(..., on_bad_group='leave out')."
    else:
        advice = "No group is finite: start elsewhere (a model that overflows at the start?), or mend the model."
    names = some([label for own in bad for label in own])
    sentences = (
        "NOT CONVERGED: the fit did not begin.",
        f"The likelihood or its gradient is not finite at the starting values for group {names}. {advice}",
    )
    beta, covariance, error = (np.full(np.shape(b), np.nan) for b in (params.beta, params.covariance, params.error))
    return Fit(
        binding=binding,
        method=estimator.method.name,
        estimator=estimator,
        params=Params(beta, covariance, error, params.free),
        converged=False,
        interrupted=False,
        stopped=False,
        status=FitStatus(sentences, binding.data.labels, codes, np.zeros(m, int)),
        modes=np.full((m, q), np.nan),
        curvature=np.full((m, q, q), np.nan),
        group_log_likelihood=np.full(m, np.nan),
        monte_carlo_variance=np.full(m, np.nan),
        ess=np.full(m, np.nan),
        log_likelihood=float("nan"),
        log_prior=float("nan"),
        information=None,
        at_zero=(),
        history=(),
        options=options,
        versions=versions(),
        timings=timings,
        fingerprint=binding.data.fingerprint(),
        totals=totals(binding, processes),
        restricted=estimator.restricted,
    )
