"""The record of draws from a posterior.

1. Params at the posterior means of the reported values (typical values on the transformed scale).
2. Conditional modes, curvatures and log-likelihoods of the groups there, by the approximation.
3. The record; its tables of estimates and of random effects are those of the draws.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.problem import Problem
from jaxnlme.binding.user_scale import psi_with
from jaxnlme.errors import Status, some
from jaxnlme.estimators.bayes.method import AbstractBayes
from jaxnlme.estimators.core.objective import GroupValues, group_values
from jaxnlme.estimators.core.record import versions
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.posterior.record import Posterior
from jaxnlme.results.record import FitRecord


def mean_params(binding: Binding, packed: np.ndarray, reported: np.ndarray) -> Params:
    """Params whose reported values are the posterior means of `reported` (draws, reported).

    **Arguments:** `packed` (draws, packed), for the values that are fixed.
    """
    density, start = binding.density, binding.start
    p, c = len(start.beta), len(start.covariance)
    mean, plain = reported.mean(axis=0), packed.mean(axis=0)
    theta, error = plain[p : p + c], plain[p + c :]
    values = dict(zip(density.reported_names, mean.tolist(), strict=True))
    if density.n_effects and not binding.fixed[p : p + c].all():
        size = density.covariance.size
        names = density.reported_names[p : p + size + len(density.covariance.correlated_pairs)]
        psi = psi_with(density, np.diag(mean[p : p + size] ** 2), {name: values[name] for name in names})
        moved = np.asarray(density.covariance.from_matrix(psi), float)
        theta = np.where(binding.fixed[p : p + c], theta, moved)
    natural = [values[name] for name in density.error_names]
    if natural:
        error = np.where(binding.fixed[p + c :], error, density.error.unconstrained(natural))
    return Params(np.where(binding.fixed[:p], plain[:p], mean[:p]), theta, error, None)


def group_values_at(
    problem: Problem, method: LikelihoodApproximation, params: Params, starts: np.ndarray
) -> GroupValues:
    """Log-likelihoods, modes and curvatures of all groups at `params`; `starts` (groups, random) of the searches."""
    program = compiled(_group_values, problem.n_rows, once=True)
    values = program(problem, on_device(method), on_device(params), jnp.asarray(starts))
    names = ("values", "modes", "status", "evaluations", "curvature", "variance", "ess", "joint")
    return GroupValues(**{name: np.asarray(getattr(values, name)) for name in names})


def _group_values(problem: Problem, method: LikelihoodApproximation, params: Params, starts: Any) -> GroupValues:
    results = problem.map(lambda group, z0: method.evaluate(problem.density, params, group, z0), starts)
    return group_values(results)


def to_record(
    posterior: Posterior,
    estimator: AbstractBayes,
    params: Params,
    groups: GroupValues,
    outcome: tuple[bool, bool, bool],
    sentences: list[str],
    left_out: list[tuple[Any, str]],
    options: dict[str, Any],
    timings: dict[str, float],
) -> FitRecord:
    """The FitRecord of a posterior.

    **Arguments:** `params`, `groups`: at the posterior means; `outcome`: converged, interrupted, stopped; `sentences`
    on it; `left_out`: labels of groups that were left out, with the reason.
    """
    binding = posterior.binding
    weights = binding.data.weights
    status = np.where(binding.data.observed.any(axis=1), np.asarray(groups.status), Status.no_observations)
    values = np.asarray(groups.values, float)
    if left_out:
        sentences = [*sentences, f"Left out at your request: group {some([str(label) for label, _ in left_out])}."]
    density = binding.density
    return FitRecord(
        binding=binding,
        method=estimator.method.name,
        estimator=estimator,
        params=params,
        converged=outcome[0],
        interrupted=outcome[1],
        stopped=outcome[2],
        status=FitStatus(
            (*sentences, *binding.data.notes), binding.data.labels, status, np.asarray(groups.evaluations),
            tuple(left_out),
        ),
        modes=np.asarray(groups.modes),
        curvature=np.asarray(groups.curvature),
        group_log_likelihood=values,
        monte_carlo_variance=np.asarray(groups.variance),
        ess=np.asarray(groups.ess),
        log_likelihood=float(np.sum(np.where(weights == 0, 0.0, weights * values))),
        log_prior=float(density.log_prior(on_device(params))) if density.priors else 0.0,
        information=None,
        at_zero=(),
        history=(),
        options=options,
        versions=versions(),
        timings=timings,
        fingerprint=binding.data.fingerprint(),
        posterior=posterior,
    )  # fmt: skip
