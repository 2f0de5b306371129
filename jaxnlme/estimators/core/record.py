"""Parts of every record of a fit: versions, totals over processes; and the record of a fit that could not begin."""

from __future__ import annotations

import functools
import platform
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.model_errors import non_finite_sentence
from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.model.params import Params
from jaxnlme.numerics.devices import Processes
from jaxnlme.results.criteria import weighted_totals
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.record import FitRecord


def versions() -> dict[str, str]:
    """Versions of the packages that compute, of Python, and the name of the device."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """The versions, looked up once: reading the metadata of five packages takes 1 ms."""
    from importlib.metadata import PackageNotFoundError, version

    versions_by_name = {}
    for name in ("jaxnlme", "jax", "jaxlib", "equinox", "numpy"):
        try:
            versions_by_name[name] = version(name)
        except PackageNotFoundError:
            versions_by_name[name] = "not installed"
    return versions_by_name | {"python": platform.python_version(), "device": jax.devices()[0].device_kind}


def totals(binding: Binding, processes: Processes) -> tuple[float, ...] | None:
    """Weighted number of observations, and of groups that have one, over all processes; None if there is one
    process."""
    if processes.count == 1:
        return None
    return tuple(np.sum(processes.gather(weighted_totals(binding.used_data)), axis=0).tolist())


def failed_start(
    binding: Binding,
    estimator: AbstractEstimator,
    params: Params,
    finite: np.ndarray,
    options: dict[str, Any],
    timings: dict[str, float],
    processes: Processes,
) -> FitRecord:
    """The record of a fit that could not begin: without estimates, with the names of the groups that prevented it.

    **Arguments:** `params`: the start; `finite` (groups,) bool: groups whose likelihood and gradient are finite there;
    `options`, `timings`: as the record stores them.
    """
    m, q = binding.data.n_groups, binding.density.n_effects
    codes = np.where(finite, Status.ok, Status.non_finite_start)
    sentences = _failed_start_sentences(binding, params, finite, processes)
    beta, covariance, error = (np.full(np.shape(b), np.nan) for b in (params.beta, params.covariance, params.error))
    return FitRecord(
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


def _failed_start_sentences(
    binding: Binding, params: Params, finite: np.ndarray, processes: Processes
) -> tuple[str, ...]:
    """The outcome, the groups whose likelihood or gradient is not `finite` (groups,) at the start `params` with the
    advice, and rows and operation of the model that cause it; of all processes."""
    bad = processes.gather([str(label) for label in binding.data.labels[~finite]])
    at_zero = np.zeros((len(finite), binding.density.n_effects))
    errors = processes.gather(non_finite_sentence(binding, params, at_zero, ~finite))
    error = [error for error in errors if error][:1]
    if processes.all(finite.any()):
        advice = (
            "Use other starting values, fix the model or the rows, or go on without them: "
            "fit(..., on_bad_group='leave out')."
        )
    else:
        overflow = "" if error else " (a model that overflows at the start?)"
        advice = f"No group is finite: fix the model, or use other starting values{overflow}."
    advice = " ".join([advice, *error])
    names = some([label for labels in bad for label in labels])
    return (
        "NOT CONVERGED: the fit did not begin.",
        f"The likelihood or its derivatives are not finite at the starting values for group {names}. {advice}",
    )
