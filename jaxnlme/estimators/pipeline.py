"""From what a user calls a method to an estimator, and a sequence of estimators to one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnlme.arguments import check_number, plain_number
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, check_whole_number
from jaxnlme.estimators.bayes.method import NUTS, Pathfinder
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.em.imp import IMP
from jaxnlme.estimators.em.saem import SAEM
from jaxnlme.estimators.gradient.method import Gradient
from jaxnlme.estimators.lindstrom_bates.method import LindstromBates
from jaxnlme.estimators.marginal.method import MaximumLikelihood
from jaxnlme.likelihood.approximations import LikelihoodApproximation, approximation
from jaxnlme.likelihood.lindstrom_bates import LME, RELME, Linearised
from jaxnlme.results.record import FitRecord

Method = str | LikelihoodApproximation | Linearised | AbstractEstimator
LINEARISED = {"lme": LME, "relme": RELME}
STOCHASTIC = {"saem": SAEM, "imp": IMP}
BAYES = {"nuts": NUTS, "pathfinder": Pathfinder}
ESTIMATORS = {**STOCHASTIC, **BAYES, "gradient": Gradient}


def as_estimator(method: Method, max_iterations: int, tolerance: float) -> AbstractEstimator:
    """The estimator of a `method` as `fit` takes one.

    **Raises:** OptionError for an unknown method, numbers out of range, or numbers beside an estimator of its own.
    """
    max_iterations = check_whole_number("max_iterations", plain_number(max_iterations), 0)
    tolerance = check_number("tolerance", tolerance, 0.0, above=True)
    if isinstance(method, str) and method.lower() in ESTIMATORS:
        method = ESTIMATORS[method.lower()]()
    if isinstance(method, AbstractEstimator):
        if (max_iterations, tolerance) != (RUN_SETTINGS.max_iterations, RUN_SETTINGS.tolerance):
            raise OptionError(f"{type(method).__name__} {method.own_limits}")
        return method
    if isinstance(method, str) and method.lower() in LINEARISED:
        method = LINEARISED[method.lower()]()
    if isinstance(method, Linearised):
        return LindstromBates(method, max_iterations, tolerance)
    return MaximumLikelihood(approximation(method, [*LINEARISED, *ESTIMATORS]), max_iterations, tolerance)


def run_in_sequence(
    model: NLMEModel, data: GroupedData, estimators: Sequence[AbstractEstimator], plan: Plan
) -> FitRecord:
    """The record of the last of `estimators`, each starting where the one before ended.

    Standard errors are computed by the last one, and by one before a method that starts from its information. The
    checkpoints of several are "PATH.1", "PATH.2", ... A run that was interrupted or stopped, or that has no finite
    log-likelihood although it computes one, ends the sequence.
    """
    several = len(estimators) > 1
    for number, estimator in enumerate(estimators, 1):
        path = plan.checkpoint
        if path is not None and several:
            path = Path(f"{path}.{number}")
        last = number == len(estimators)
        needed = (plan.standard_errors and last) or (not last and estimators[number].begins_with_information)
        step = dataclasses.replace(plan, standard_errors=needed, checkpoint=path)
        result = estimator.run(model, data, step)
        began = np.isfinite(result.log_likelihood) or (result.sampling is not None and estimator.omits_likelihood)
        if result.interrupted or result.stopped or not began:
            break
        plan = dataclasses.replace(plan, start=result, starts=None)
    return result
