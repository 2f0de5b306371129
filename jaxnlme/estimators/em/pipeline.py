"""Fits by simulation: from model and data through a run of SAEM or its kin to a Fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.estimators.core.record import failed_start
from jaxnlme.estimators.core.starting_values import start_params
from jaxnlme.estimators.em.algorithm import run_algorithm
from jaxnlme.estimators.em.checkpoint import StochasticCheckpoint
from jaxnlme.estimators.em.result import to_record
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.saem import AbstractStochastic
from jaxnlme.estimators.setup import STARTS, set_up
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.numerics.compiling import clock, compile_clock
from jaxnlme.numerics.devices import Processes
from jaxnlme.precision import x64
from jaxnlme.results.record import Fit

# Chains find their way from wide populations more easily than into them: SDs that nobody gave start this many times
# wider, and annealing narrows them.
WIDER = 2.0
# A variance that an earlier fit put at zero starts at this share of the model's own start.
FREED = 0.1
# Correlations of a psi that is singular start at this share of what they were.
TOWARDS = 0.95


def stochastic_fit(
    model: NLMEModel,
    data: GroupedData,
    estimator: AbstractStochastic,
    plan: Any,
    em_state: Callable[..., Run] = Run,
) -> Fit:
    """A fit by simulation; `fit` says what the options of `plan` are; `em_state` makes the Run.

    **Errors:** as `fit`.
    """
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings):
        processes = Processes(plan.mesh)
        several = isinstance(plan.start, (list, tuple))
        start = plan.start[0] if several else plan.start
        setup = set_up(model, data, estimator, start, plan, processes, timings)
        binding, params, finite = setup.binding, setup.params, setup.finite
        if setup.own:
            params = no_wider(binding, params, setup.given, processes)
        left_out: list[tuple[Any, str]] = []
        notes: list[str] = []
        if not processes.all(finite.all()):
            if plan.on_bad_group == "stop" or not processes.all(finite.any()):
                return failed_start(binding, estimator, params, finite, plan.options(estimator), timings, processes)
            setup, left_out = setup.without_lost(processes)
            binding = setup.binding
        if plan.starts is not None:
            params, sentence = STARTS[plan.starts](binding, params, setup.given, setup.placed)
            notes.append(sentence)
        warm = all(isinstance(one, Fit) for one in plan.start) if several else isinstance(start, Fit)
        # A model with priors is kept off the edge, where densities of standard deviations may be zero; replicates start
        # dispersed, which one edge does not let them.
        alone = warm and not several and estimator.replicates == 1
        at_edge = alone and not binding.density.priors and _singular(binding, params)
        boundary_start = np.asarray(params.pack(), float) if at_edge else None
        params, sentences = _ready(binding, params, start) if boundary_start is None else (_inside(binding, params), [])
        notes += sentences
        starts = _every_start(binding, params, plan.start if several else None, estimator)
        line = ProgressLine(plan.progress if processes.index == 0 else False)
        checkpoint = None
        if plan.checkpoint is not None:
            checkpoint = StochasticCheckpoint(plan.checkpoint, binding, estimator, params, processes)
            notes += checkpoint.resumed
        with clock(timings, "run"):
            told = plan.callbacks, line.show, checkpoint
            run = em_state(binding, estimator, starts, setup.placed, warm, *told, boundary_start)
            outcome = run_algorithm(run)
            line.close()
        result = to_record(run, outcome, plan.standard_errors, left_out, notes, plan.options(estimator), timings)
    timings["total"] = time.perf_counter() - began
    return result


def _singular(binding: Binding, params: Params) -> bool:
    """Whether psi is singular, and its parameters free."""
    return _null_scale(binding, params) and not binding.model.fix_psi


def _null_scale(binding: Binding, params: Params) -> bool:
    """Whether psi is singular."""
    theta = np.asarray(params.covariance, float)
    return any(theta[index] == -np.inf for index, _, _ in binding.density.covariance.log_scales)


def _inside(binding: Binding, params: Params) -> Params:
    """The same with a psi a little inside of its edge."""
    density = binding.density
    psi = psi_of(density, np.asarray(params.covariance, float))
    usual = np.diag(psi_of(density, np.asarray(binding.start.covariance, float)))
    freed = FREED**2 * np.where(usual > 0, usual, 1.0)
    variances = np.diag(psi) + np.where(np.diag(psi) <= 0, freed, 0.0)
    psi = TOWARDS * psi + np.diag(variances - TOWARDS * np.diag(psi))
    return Params(params.beta, density.covariance.from_matrix(psi), params.error, params.free)


def _ready(binding: Binding, params: Params, start: Any) -> tuple[Params, list[str]]:
    """Params that a simulation can begin at: SDs that nobody gave made wider, a singular psi moved inside; and
    sentences on what was changed."""
    density = binding.density
    psi = psi_of(density, np.asarray(params.covariance, float))
    zero = np.diag(psi) <= 0
    names = ", ".join(name for name, at in zip(density.effect_names, zero, strict=True) if at)
    if zero.any() and binding.model.fix_psi:
        raise OptionError(
            f"psi is fixed with a variance of zero for {names}, where there is nothing to draw; leave the effect out, "
            "or fit the model by 'focei' or 'laplace'."
        )
    if binding.model.fix_psi and _null_scale(binding, params):
        raise OptionError(
            "psi is fixed where it is singular (a correlation of one), and the complete data have no density there; "
            "leave an effect out, or fit the model by 'focei' or 'laplace'."
        )
    if _singular(binding, params):
        what = f"The variance of {names} started above zero" if names else "Psi started inside of its edge"
        return _inside(binding, params), [f"{what}, where a simulation can begin."]
    said = isinstance(start, Mapping) and any(name.startswith(("sd(", "corr(")) for name in start)
    own = start is None or (isinstance(start, Mapping) and not said)
    if not own or binding.model.psi is not None or binding.model.fix_psi:
        return params, []
    given = {p.name for p in binding.model.parameters if p.sd is not None}
    wide = np.array([1.0 if name in given else WIDER for name in density.effect_names])
    psi = psi * np.outer(wide, wide)
    return Params(params.beta, density.covariance.from_matrix(psi), params.error, params.free), []


def no_wider(binding: Binding, params: Params, given: Any, processes: Processes) -> Params:
    """Residual scales, where the user gave none, no larger than the responses of every process vary: a start far off
    would explain everything by noise, and the chains would wander."""
    density, data = binding.density, binding.data
    if not isinstance(density.error, GaussianError) or density.error.n_shape or density.error.by is not None:
        return params
    named = zip(density.error_names, density.error.parameters, strict=True)
    automatic = np.array([p.automatic and name not in given for name, p in named], bool)
    y = data.y[data.observed]
    values = density.error.natural(np.asarray(params.error, float))
    scale = np.asarray(density.error.scale(y, **dict(zip(values.names, values.values, strict=True))))
    real = np.asarray(density.error.response.to_real(y))
    sums = [len(y), real.sum(), np.broadcast_to(scale**2, y.shape).sum()]
    n, total, squares = processes.total(np.array(sums))
    widest = np.sqrt(processes.total(np.sum((real - total / n) ** 2)) / n)
    usual = np.sqrt(squares / n)
    if not (np.isfinite(usual) and 0.0 < widest < usual):
        return params
    error = np.asarray(params.error) + np.where(automatic, np.log(widest / usual), 0.0)
    return Params(params.beta, params.covariance, error, params.free)


def _every_start(
    binding: Binding, params: Params, given: Sequence[Any] | None, estimator: AbstractStochastic
) -> list[Params]:
    """Where each replicate starts: those given, and around the first one for the others.

    **Errors:** OptionError where more starts are given than there are replicates.
    """
    starts = [params] if given is None else [_ready(binding, start_params(binding, one), one)[0] for one in given]
    if given is not None and len(given) > max(estimator.replicates, 1):
        raise OptionError(f"start has {len(given)} entries for {estimator.replicates} replicates.")
    seed = estimator.seed if isinstance(estimator.seed, tuple) else (abs(estimator.seed),)
    for number in range(len(starts), estimator.replicates):
        starts.append(_dispersed(binding, starts[0], np.random.default_rng([*seed, number])))
    return starts


def _dispersed(binding: Binding, params: Params, random: np.random.Generator) -> Params:
    """A start apart from `params`: beta by its random effect's starting SD, or by 0.3 of its size; SDs and residual
    scales by half on their log scales; what is fixed stays."""
    density = binding.density
    beta, theta, error = (np.array(part, float) for part in (params.beta, params.covariance, params.error))
    sd = dict(zip(density.effect_names, np.sqrt(np.diag(psi_of(density, theta))), strict=True))
    width = np.array([sd.get(name, 0.3 * abs(b) or 0.1) for name, b in zip(density.beta_names, beta, strict=True)])
    logs = np.zeros(len(theta))
    logs[[index for index, _, _ in density.covariance.log_scales]] = 0.5
    moved = np.concatenate([width, logs, np.full(len(error), 0.5)]) * random.standard_normal(len(binding.fixed))
    packed = np.concatenate([beta, theta, error]) + np.where(binding.fixed, 0.0, moved)
    p, c = len(beta), len(theta)
    return Params(packed[:p], packed[p : p + c], packed[p + c :], params.free)
