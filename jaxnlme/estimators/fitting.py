"""`fit`: the door from model and data to a Fit."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, Status, some
from jaxnlme.estimators.finish import finish
from jaxnlme.estimators.marginal import Marginal
from jaxnlme.estimators.progress import Progress
from jaxnlme.estimators.session import Callback, Session
from jaxnlme.estimators.starts import pooled_start, scaled_error_start
from jaxnlme.estimators.verdict import Verdict
from jaxnlme.likelihood.named import Rung, rung
from jaxnlme.model.binding import Binding, bind
from jaxnlme.model.check import place
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.numerics.compiling import clock, compile_clock
from jaxnlme.precision import x64
from jaxnlme.results.fit import Fit, FitStatus
from jaxnlme.results.inference import information

Method = str | Rung | Marginal


def fit(
    model: NLMEModel,
    data: GroupedData,
    method: Method | Sequence[Method] = "focei",
    *,
    start: Params | Mapping[str, float] | Fit | None = None,
    starts: str | None = None,
    max_iterations: int = 500,
    tolerance: float = 1e-8,
    standard_errors: bool = True,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    on_bad_group: str = "stop",
    throw: bool = False,
) -> Fit:
    """Maximises a likelihood of the ladder (times priors, where the model has them), in float64.

    **Arguments:**

    - `method`: "fo", "foce", "focei", "laplace", "agq", "is", a rung such as `jn.AGQ(7)`, or a list of them, each
      starting where the one before ended.
    - `start`: Params, user-scale values by name, or an earlier Fit of the same model; otherwise the model's own.
    - `starts`: "pooled" first fits the model without random effects to all data.
    - `max_iterations`, `tolerance`: of the quasi-Newton minimiser; it ends when a further step is predicted to gain
      less than `tolerance` log-likelihood units.
    - `standard_errors`: False leaves out the information matrix (and what rests on it).
    - `callbacks`: functions of an `Iteration`; one that returns True stops the fit.
    - `progress`: a line while it runs; None shows it in a terminal or notebook once a fit takes more than two seconds.
    - `on_bad_group`: what to do with groups whose likelihood is not finite at the start: "stop" (a Fit without
      estimates that names them), or "leave out" (go on without them, on record).
    - `throw`: raise FitError where the fit did not converge.

    **Returns:** a Fit; read `fit.converged` and `fit.status` first.
    **Errors:** DataError, ModelError, OptionError for faults found before iterating.
    """
    if on_bad_group not in ("stop", "leave out"):
        raise OptionError(f"on_bad_group must be 'stop' or 'leave out'; received {on_bad_group!r}.")
    if starts not in (None, "pooled"):
        raise OptionError(f"starts must be None or 'pooled'; received {starts!r}.")
    if isinstance(method, (list, tuple)):
        if not method:
            raise OptionError("method is an empty list; name at least one.")
        for one in method:
            estimator = _estimator(one, max_iterations, tolerance)
            errors = standard_errors and one is method[-1]
            result = _fit_one(model, data, estimator, start, starts, errors, callbacks, progress, on_bad_group)
            if result.interrupted or result.stopped or not np.isfinite(result.log_likelihood):
                break
            start, starts = result, None
    else:
        estimator = _estimator(method, max_iterations, tolerance)  # pyright: ignore[reportArgumentType]
        result = _fit_one(model, data, estimator, start, starts, standard_errors, callbacks, progress, on_bad_group)
    return result.throw() if throw else result


def _estimator(method: Method, max_iterations: int, tolerance: float) -> Marginal:
    if isinstance(method, Marginal):
        return method
    if not max_iterations >= 0 or not tolerance > 0:
        raise OptionError(
            f"max_iterations must be >= 0 and tolerance > 0; received {max_iterations!r} and {tolerance!r}."
        )
    return Marginal(rung(method), int(max_iterations), float(tolerance))


def _fit_one(
    model: NLMEModel,
    data: GroupedData,
    estimator: Marginal,
    start: Any,
    starts: str | None,
    standard_errors: bool,
    callbacks: Sequence[Callback],
    progress: bool | None,
    on_bad_group: str,
) -> Fit:
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings):
        with clock(timings, "bind"):
            binding = bind(model, data)
            estimator.method.check(binding.density)
        params = _start_params(binding, start)
        with clock(timings, "check"):
            placed, found = place(binding, params, None, None)
        given = start if isinstance(start, Mapping) else ()
        if start is None or given:
            params = scaled_error_start(binding, params, found.misfit, given)
        left_out: list[tuple[Any, str]] = []
        notes: list[str] = []
        # A group of weight zero may be anything: it adds nothing.
        finite = found.finite | (binding.data.weights == 0)
        pooled = starts == "pooled"
        session, line = None, Progress(progress, estimator.method.name)
        options = _options(estimator, starts, standard_errors, on_bad_group)
        while session is None:
            if not finite.all():
                bad = [(label, Status.non_finite_start.sentence) for label in binding.data.labels[~finite]]
                if on_bad_group == "stop" or not finite.any():
                    return _stillborn(binding, estimator, params, finite, options, timings)
                left_out += bad
                rest = binding.data.select(finite)
                model = model.for_groups(finite, rest.y.shape[1])
                binding = bind(model, rest, like=binding)
                placed = placed.again(binding.problem)
            if pooled:
                with clock(timings, "starts"):
                    params, sentence = pooled_start(binding, params, given, placed)
                notes, pooled = [*notes, sentence], False
            with clock(timings, "first evaluation"):
                session = Session(binding, estimator, params, [*callbacks, line], placed)
            own = session.best.own
            finite = np.isfinite(own.values) & np.isfinite(own.scores).all(1)
            finite |= binding.data.weights == 0
            if not finite.all():
                session = None
        with clock(timings, "optimise"):
            verdict = finish(session, standard_errors)
            line.close()
        result = _record(session, verdict, left_out, notes, options, timings)
    timings["total"] = time.perf_counter() - began
    return result


def _start_params(binding: Binding, start: Any) -> Params:
    if start is None:
        return binding.start
    if isinstance(start, Fit):
        if start.binding.density.reported_names != binding.density.reported_names:
            raise OptionError("start is a fit of another model: its parameters have other names.")
        return start.params
    if isinstance(start, Params):
        shapes = [np.shape(getattr(start, name)) for name in ("beta", "covariance", "error")]
        own = [np.shape(getattr(binding.start, name)) for name in ("beta", "covariance", "error")]
        if shapes != own:
            raise OptionError(f"start has blocks of shapes {shapes}; this model has {own} (beta, covariance, error).")
        return start
    if isinstance(start, Mapping):
        return binding.params(start)
    raise OptionError(f"start must be Params, a mapping of names to values, or a Fit; received {type(start).__name__}.")


def _options(estimator: Marginal, starts: str | None, standard_errors: bool, on_bad_group: str) -> dict[str, Any]:
    return {
        "method": estimator.method.name,
        "max_iterations": int(estimator.max_iterations),
        "tolerance": float(estimator.tolerance),
        "starts": starts,
        "standard_errors": standard_errors,
        "on_bad_group": on_bad_group,
    }


def versions() -> dict[str, str]:
    """Versions of what computes, and the device."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("jaxnlme", "jax", "jaxlib", "equinox", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"python": platform.python_version(), "device": jax.devices()[0].device_kind}


def _record(
    session: Session,
    verdict: Verdict,
    left_out: list[tuple[Any, str]],
    notes: list[str],
    options: dict[str, Any],
    timings: dict[str, float],
) -> Fit:
    binding, best, params = session.binding, session.best.own, session.params()
    info = None
    if verdict.matrix is not None and np.isfinite(session.best.value):
        with clock(timings, "information"):
            weights = binding.data.weights[:, None]
            scores = np.where(weights == 0, 0.0, best.scores[:, verdict.active] * weights)
            info = information(binding, params, verdict.matrix, verdict.active, scores)
    timings["evaluations"] = session.evaluations
    sentences = [*verdict.sentences, *notes]
    if left_out:
        sentences.append(f"Left out at your request: group {some([str(label) for label, _ in left_out])}.")
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
    )


def _stillborn(
    binding: Binding, estimator: Marginal, params: Params, finite: np.ndarray, options: dict, timings: dict
) -> Fit:
    """The record of a fit that could not begin: no estimates, the groups named."""
    m, q = binding.data.n_groups, binding.density.n_effects
    codes = np.where(finite, Status.ok, Status.non_finite_start)
    names = some([str(label) for label in binding.data.labels[~finite]])
    if finite.any():
        advice = "Mend the model or the rows, or go on without them: fit(..., on_bad_group='leave out')."
    else:
        advice = "No group is finite: start elsewhere (a model that overflows at the start?), or mend the model."
    sentences = (
        "NOT CONVERGED: the fit did not begin.",
        f"The likelihood or its gradient is not finite at the starting values for group {names}. {advice}",
    )
    beta, covariance, error = (np.full(np.shape(b), np.nan) for b in (params.beta, params.covariance, params.error))
    nothing = Params(beta, covariance, error, params.free)
    return Fit(
        binding=binding,
        method=estimator.method.name,
        estimator=estimator,
        params=nothing,
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
    )
