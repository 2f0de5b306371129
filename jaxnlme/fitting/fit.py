"""`fit`: the door from model and data to a Fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.callbacks import Callback
from jaxnlme.estimators.core.checkpoint import Checkpoint
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import Progress
from jaxnlme.estimators.core.record import failed_start
from jaxnlme.estimators.em.imp import IMP
from jaxnlme.estimators.em.pipeline import stochastic_fit
from jaxnlme.estimators.em.saem import SAEM, AbstractStochastic
from jaxnlme.estimators.lindstrom_bates.alternation import LindstromBates, LindstromBatesSession
from jaxnlme.estimators.marginal.algorithm import finish
from jaxnlme.estimators.marginal.method import REML, MaximumLikelihood, restrict
from jaxnlme.estimators.marginal.reml import RestrictedSession, unrestricted_start
from jaxnlme.estimators.marginal.result import record
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.setup import STARTS, set_up
from jaxnlme.likelihood.approximations import LikelihoodApproximation, approximation
from jaxnlme.likelihood.lindstrom_bates import LME, RELME, Linearised
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock, compile_clock
from jaxnlme.numerics.devices import Devices, Processes, mesh_of
from jaxnlme.precision import x64
from jaxnlme.results.record import Fit

Method = str | LikelihoodApproximation | Linearised | AbstractEstimator
_SESSIONS: dict[type, type[Session]] = {LindstromBates: LindstromBatesSession, REML: RestrictedSession}
MAX_ITERATIONS, TOLERANCE = 500, 1e-8
LINEARISED = {"lme": LME, "relme": RELME}
STOCHASTIC = {"saem": SAEM, "imp": IMP}


def fit(
    model: NLMEModel,
    data: GroupedData,
    method: Method | Sequence[Method] = "focei",
    *,
    restricted: bool = False,
    start: Params | Mapping[str, float] | Fit | None = None,
    starts: str | None = None,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
    standard_errors: bool = True,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    on_bad_group: str = "stop",
    throw: bool = False,
    devices: Devices = None,
    chunk_groups: int | None = None,
    checkpoint: str | Path | None = None,
) -> Fit:
    """Maximises a likelihood of the ladder (times priors, where the model has them), or finds the fixed point of
    Lindstrom and Bates' alternation, in float64.

    **Arguments:**

    - `method`: "fo", "foce", "focei", "laplace", "agq", "is", a rung such as `jn.AGQ(7)`; "lme" or "relme", the
      linearised mixed model (`jn.LME(...)`, `jn.RELME(...)`); "saem" or "imp", which draw the random effects
      (`jn.SAEM(...)`, `jn.IMP(...)`); or a list of them, each starting where the one before ended.
    - `restricted`: maximise the restricted likelihood (REML): the unfixed beta are integrated out under a flat prior on
      their transformed scale, by Laplace's method, which is exact for linear models. For "fo", "foce", "focei" and
      "laplace"; of a list, the last one is restricted, and those before only lead there.
    - `start`: Params, user-scale values by name, or an earlier Fit of the same model; otherwise the model's own.
    - `starts`: "pooled" first fits the model without random effects to all data; "groups" fits each group by itself
      and starts from the averages, spread and residual scale of these fits (see `fit_groups`).
    - `max_iterations`, `tolerance`: of the quasi-Newton minimiser; it ends when a further step is predicted to gain
      less than `tolerance` log-likelihood units (of "lme" and "relme": to move no parameter by more of its standard
      errors, 1e-5 at most).
    - `standard_errors`: False leaves out the information matrix (and what rests on it).
    - `callbacks`: functions of an `Iteration`, called after each one; one that returns True stops the fit. With an
      attribute `every_stage` that is true, a function is told of the inner minimisers, too, and of the end.
    - `progress`: a line while it runs; None shows it in a terminal or notebook once a fit takes more than two seconds.
    - `on_bad_group`: what to do with groups whose likelihood is not finite at the start: "stop" (a Fit without
      estimates that names them), or "leave out" (go on without them, on record).
    - `throw`: raise FitError where the fit did not converge.
    - `devices`: None, the default device; a number, "all", jax devices, or a mesh with the one axis "groups": the
      groups are dealt out to them, each computes its own. Of several processes (`jax.distributed`), each passes its own
      groups and "all"; estimates are those of all groups, modes and status those of its own.
    - `chunk_groups`: how many groups at most are on a device at a time, for data larger than its memory: the data stay
      on the host, and every evaluation sends them through, which needs the memory of two chunks on the devices.
    - `checkpoint`: a file that the fit is kept in while it runs (replaced whole, about every second). Where it is there
      already, the fit goes on from it, `start` and `starts` unread (but for values that stay fixed): a killed fit
      called again repeats no iteration, one that ended goes straight to the checks at its end. Options may differ (more
      iterations, other devices); data, model, fixed values and method may not. A list of methods keeps "PATH.1",
      "PATH.2", ...

    **Returns:** a Fit; read `fit.converged` and `fit.status` first.
    **Errors:** DataError, ModelError, OptionError for faults found before iterating.
    """
    if on_bad_group not in ("stop", "leave out"):
        raise OptionError(f"on_bad_group must be 'stop' or 'leave out'; received {on_bad_group!r}.")
    if starts not in (None, *STARTS):
        raise OptionError(f"starts must be None, 'pooled' or 'groups'; received {starts!r}.")
    methods = list(method) if isinstance(method, (list, tuple)) else [method]
    if not methods:
        raise OptionError("method is an empty list; name at least one.")
    mesh = mesh_of(devices)
    plan = Plan(start, starts, standard_errors, callbacks, progress, on_bad_group, mesh, chunk_groups, None)
    if not isinstance(restricted, bool):
        raise OptionError(f"restricted must be True or False; received {restricted!r}.")
    if checkpoint is not None and not isinstance(checkpoint, (str, Path)):
        raise OptionError(f"checkpoint is the path of a file, or None; received {checkpoint!r}.")
    for number, one in enumerate(methods):
        last = number == len(methods) - 1
        estimator = _estimator(one, max_iterations, tolerance)  # pyright: ignore[reportArgumentType]
        if restricted and last:
            estimator = restrict(estimator)
        path = None if checkpoint is None else Path(f"{checkpoint}.{number + 1}" if len(methods) > 1 else checkpoint)
        plan = dataclasses.replace(plan, standard_errors=standard_errors and last, checkpoint=path)
        result = _fit_one(model, data, estimator, plan)
        # A stochastic method may have been told to leave the likelihood out.
        left_out = isinstance(estimator, AbstractStochastic) and estimator.likelihood == "none" and result.sampling
        if result.interrupted or result.stopped or not (left_out or np.isfinite(result.log_likelihood)):
            break
        plan = dataclasses.replace(plan, start=result, starts=None)
    return result.throw() if throw else result


def _estimator(method: Method, max_iterations: int, tolerance: float) -> AbstractEstimator:
    if isinstance(method, str) and method.lower() in STOCHASTIC:
        method = STOCHASTIC[method.lower()]()
    if isinstance(method, AbstractEstimator):
        if (max_iterations, tolerance) != (MAX_ITERATIONS, TOLERANCE):
            raise OptionError(
                f"{type(method).__name__} has max_iterations and tolerance of its own; give them there, or name the "
                "method itself."
            )
        return method
    if not max_iterations >= 0 or not tolerance > 0:
        raise OptionError(
            f"max_iterations must be >= 0 and tolerance > 0; received {max_iterations!r} and {tolerance!r}."
        )
    if isinstance(method, str) and method.lower() in LINEARISED:
        method = LINEARISED[method.lower()]()
    if isinstance(method, Linearised):
        return LindstromBates(method, int(max_iterations), float(tolerance))
    return MaximumLikelihood(approximation(method, [*LINEARISED, *STOCHASTIC]), int(max_iterations), float(tolerance))


def _fit_one(model: NLMEModel, data: GroupedData, estimator: AbstractEstimator, plan: Plan) -> Fit:
    if isinstance(estimator, AbstractStochastic):
        return stochastic_fit(model, data, estimator, plan)
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings):
        processes = Processes(plan.mesh)
        setup = set_up(model, data, estimator, plan.start, plan, processes, timings)
        binding, params, placed, finite = setup.binding, setup.params, setup.placed, setup.finite
        checkpoint = _checkpoint(plan, binding, estimator, params, processes)
        left_out: list[tuple[Any, str]] = []
        notes: list[str] = []
        starts = plan.starts
        led = isinstance(estimator, REML) and not isinstance(plan.start, Fit)
        if checkpoint is not None and checkpoint.run_state is not None:
            finite, starts, led = finite & checkpoint.rest, None, False
            notes.append(_resumed(checkpoint))
        session, leader = None, None
        line = Progress(plan.progress if processes.index == 0 else False, estimator.name)
        while session is None:
            if not processes.all(finite.all()):
                if plan.on_bad_group == "stop" or not processes.all(finite.any()):
                    options = plan.options(estimator)
                    return failed_start(binding, estimator, params, finite, options, timings, processes)
                if checkpoint is not None:
                    checkpoint.leave_out(finite)
                setup, lost = dataclasses.replace(setup, finite=finite).without_lost(processes)
                left_out += lost
                binding, placed = setup.binding, setup.placed
            if starts is not None:
                with clock(timings, "starts"):
                    params, sentence = STARTS[starts](binding, params, setup.given, placed)
                notes, starts = [*notes, sentence], None
            if led:
                with clock(timings, "starts"):
                    params, sentence, leader = unrestricted_start(binding, estimator, params, placed)
                notes, led = ([*notes, sentence], False) if sentence else (notes, True)
            with clock(timings, "first evaluation"):
                session = _SESSIONS.get(type(estimator), Session)(
                    binding, estimator, params, [*plan.callbacks, line], placed, checkpoint
                )
            if leader is not None and isinstance(session, RestrictedSession):
                session.follow(leader)
            own = session.best.own
            finite = np.isfinite(own.values) & np.isfinite(own.scores).all(1)
            finite |= binding.data.weights == 0
            if not processes.all(finite.all()):
                session = None
        with clock(timings, "optimise"):
            verdict = finish(session, plan.standard_errors)
            session.notify_end()
            line.close()
        result = record(session, verdict, left_out, notes, plan.options(estimator), timings)
    timings["total"] = time.perf_counter() - began
    return result


def _checkpoint(
    plan: Plan, binding: Binding, estimator: AbstractEstimator, params: Params, processes: Processes
) -> Checkpoint | None:
    if plan.checkpoint is None:
        return None
    found = Checkpoint(plan.checkpoint, binding, estimator, params, processes)
    if found.run_state is not None and plan.on_bad_group == "stop" and not processes.all(found.rest.all()):
        raise OptionError(
            f"the fit in the checkpoint {found.path} went on without some groups; say on_bad_group='leave out'."
        )
    return found


def _resumed(checkpoint: Checkpoint) -> str:
    run_state = checkpoint.run_state
    assert run_state is not None
    ended = ", where it had ended" if run_state.finished else ""
    return f"Resumed from {checkpoint.path} after {run_state.iterations} iterations{ended}."
