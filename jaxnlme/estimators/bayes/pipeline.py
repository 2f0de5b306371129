"""From model and data to the record of a posterior.

1. Model bound to data and checked (`estimators/setup.py`); options of `fit` that samplers do not have are refused.
2. The target density: free parameters, coordinates (`scaling.py`), density (`objective.py`).
3. Draws: NUTS (`algorithm.py`, `run.py`), or Pathfinder (`pathfinder.py`).
4. Checks (`convergence.py`) and the record (`result.py`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.bayes.algorithm import RunOutcome, run_algorithm
from jaxnlme.estimators.bayes.convergence import assess, converged_sentence, names_of_effects
from jaxnlme.estimators.bayes.method import NUTS, AbstractBayes, flat_names, flat_sentence, require_packages
from jaxnlme.estimators.bayes.objective import Target
from jaxnlme.estimators.bayes.pathfinder import find_path
from jaxnlme.estimators.bayes.result import group_values_at, mean_params, to_record
from jaxnlme.estimators.bayes.run import ChainRun, StepRecord
from jaxnlme.estimators.bayes.scaling import check_reported, scaling_of
from jaxnlme.estimators.bayes.settings import CRITERIA, RUN
from jaxnlme.estimators.core.callbacks import Callbacks, Iteration
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.estimators.core.record import failed_start
from jaxnlme.estimators.em.simulation_starts import is_singular_and_free, moved_inside
from jaxnlme.estimators.setup import STARTS, set_up
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import clock, compile_clock, compiled
from jaxnlme.numerics.devices import Processes
from jaxnlme.precision import x64
from jaxnlme.results.inference import estimates_table
from jaxnlme.results.posterior.record import Posterior
from jaxnlme.results.record import FitRecord


def run(model: NLMEModel, data: GroupedData, estimator: AbstractBayes, plan: Plan) -> FitRecord:
    """The record of draws from the posterior.

    **Arguments:** `plan`: the options of `fit`.
    **Raises:** DataError, ModelError, OptionError for errors found before sampling.
    """
    _check_options(estimator, plan)
    timings: dict[str, float] = {}
    began = time.perf_counter()
    with x64(), compile_clock(timings), np.errstate(all="ignore"):  # values that are not finite are checked
        processes = Processes(plan.mesh)
        with ProgressLine(plan.progress, estimator.name, timings=timings) as line:
            setup = set_up(model, data, estimator, plan.start, plan, processes, timings)
            options = plan.options(estimator)
            left_out: list[tuple[Any, str]] = []
            if not setup.finite.all():
                if plan.on_bad_group == "stop" or not setup.finite.any():
                    return failed_start(
                        setup.binding, estimator, setup.params, setup.finite, options, timings, processes
                    )
                setup, left_out = setup.without_failed_groups(processes)
            params, notes = setup.params, []
            if plan.starts is not None:
                params, note = STARTS[plan.starts](setup.binding, params, setup.named_starts, setup.placed)
                notes.append(note)
            if is_singular_and_free(setup.binding, params):
                params = moved_inside(setup.binding, params)
                notes.append("Psi was singular in the start; the chains begin where it is positive definite.")
            with clock(timings, "run"):
                target = _target(setup.binding, estimator, params, plan.start)
                sampler = _run_nuts if isinstance(estimator, NUTS) else _run_pathfinder
                record = sampler(setup.binding, target, estimator, plan, line.show, notes, left_out, options, timings)
    timings["total"] = time.perf_counter() - began
    return record


def _check_options(estimator: AbstractBayes, plan: Plan) -> None:
    """**Raises:** OptionError for options of `fit` that samplers do not have, and where a package is missing."""
    require_packages(estimator.name)
    if plan.mesh is not None or plan.chunk_groups is not None:
        raise OptionError(
            f"{estimator.name} computes all groups in one program on the default device; leave out devices= and "
            "chunk_groups=."
        )
    if plan.checkpoint is not None:
        raise OptionError(f"{estimator.name} keeps no checkpoint; leave out checkpoint= (Ctrl-C keeps the draws).")
    if isinstance(plan.start, (list, tuple)):
        raise OptionError(f"{estimator.name} disperses its starts itself; give one start, or none.")


def _target(binding: Binding, estimator: AbstractBayes, params: Params, start: Any) -> Target:
    """The density to sample, on the device."""
    active = np.flatnonzero(~binding.fixed)
    beta, theta, error = (np.asarray(part, float) for part in (params.beta, params.covariance, params.error))
    dense = Params(beta, theta, error, None)
    problem = on_device(binding.problem)
    joint = estimator.effects == "joint"
    check_reported(binding, dense, active)
    scaling = scaling_of(binding, problem, dense, active, start, joint)
    if (binding.data.weights == 0).any():
        problem = problem.replace_zero_weight_groups(problem.weights)
    method = None if joint else estimator.approximation
    packed = np.asarray(dense.pack(), float)
    return on_device(Target(problem, packed, dense, tuple(active.tolist()), scaling, method))


def _run_nuts(
    binding: Binding, target: Target, estimator: Any, plan: Plan, show: Callable[..., None], notes: list[str],
    left_out: list[tuple[Any, str]], options: dict[str, Any], timings: dict[str, float],
) -> FitRecord:  # fmt: skip
    """The record of chains of NUTS."""
    show("compiling the chains")
    with clock(timings, "start"):
        chains = ChainRun(target, estimator)
    outcome = run_algorithm(chains, show, _notifier(binding, plan, target), timings)
    record = chains.draws()
    show("checks and log-likelihood")
    n = record.position.shape[1]
    if not n:
        return _without_draws(binding, estimator, target, outcome, notes, left_out, options, timings)
    packed, z, every = _draws_of(target, record.position)
    posterior = _posterior(binding, estimator, packed, z, every)
    fixed = estimates_table(binding, binding.start, None, 0.95)["fixed"].to_numpy()
    names = binding.density.reported_names
    effects = None
    if z is not None and z.shape[2] * z.shape[3] <= CRITERIA.most_effects:
        listed = names_of_effects(binding.data.labels, binding.density.effect_names, z.shape[3])
        effects = z.reshape(*z.shape[:2], -1), listed
    checks = assess(estimator, names, fixed, posterior.reported, effects, record)
    failures = list(checks.failures)
    if outcome.interrupted or outcome.stopped:
        reason = "Interrupted" if outcome.interrupted else "Stopped by a callback"
        failures.insert(0, f"{reason} after {n} of {estimator.draws} draws of each chain; they are kept.")
    sentences = ["NOT CONVERGED.", *failures] if failures else [converged_sentence(estimator, checks, record)]
    flat = flat_names(binding)
    sentences += [*checks.notes, *notes, *([flat_sentence(flat)] if flat else [])]
    posterior = _replaced(
        posterior,
        stats={
            "lp": record.log_density, "diverging": record.divergent.astype(bool), "acceptance_rate": record.acceptance,
            "energy": record.energy, "tree_depth": record.depth, "n_steps": record.steps,
        },
        step_size=np.asarray(chains.states.step_size), warmup=estimator.warmup,
        warmup_divergent=chains.warmup_divergent,
        seconds={name: timings[name] for name in ("warmup", "draws") if name in timings},
        rhat=checks.rhat, ess_bulk=checks.ess_bulk, ess_tail=checks.ess_tail, effects_rhat=checks.effects_rhat,
        bfmi=checks.bfmi,
    )  # fmt: skip
    state = not failures, outcome.interrupted, outcome.stopped
    return _record(posterior, target, estimator, state, sentences, left_out, options, timings)


def _run_pathfinder(
    binding: Binding, target: Target, estimator: Any, plan: Plan, show: Callable[..., None], notes: list[str],
    left_out: list[tuple[Any, str]], options: dict[str, Any], timings: dict[str, float],
) -> FitRecord:  # fmt: skip
    """The record of Pathfinder."""
    show("compiling and following the paths")
    with clock(timings, "draws"):
        positions, log_density, pareto_k = find_path(target, estimator)
    packed, z, every = _draws_of(target, positions[None])
    posterior = _replaced(
        _posterior(binding, estimator, packed, z, every),
        stats={"lp": log_density[None]}, pareto_k=pareto_k, seconds={"draws": timings["draws"]},
    )  # fmt: skip
    limit = CRITERIA.largest_pareto_k
    if pareto_k <= limit:
        sentences = [
            f"Converged: Pareto's k of the importance ratios is {pareto_k:.2f} (limit {limit:g}); the draws represent "
            "the posterior."
        ]
    else:
        sentences = [
            "NOT CONVERGED.",
            f"Pareto's k of the importance ratios is {pareto_k:.2f}, above {limit:g}: the posterior has parts that the "
            "approximation misses, and the draws do not represent it. Sample it by [..., jn.Pathfinder(...), "
            "jn.NUTS(...)].",
        ]
    flat = flat_names(binding)
    sentences += [*notes, *([flat_sentence(flat)] if flat else [])]
    state = pareto_k <= limit, False, False
    return _record(posterior, target, estimator, state, sentences, left_out, options, timings)


def _notifier(binding: Binding, plan: Plan, target: Target) -> Callable[[int, StepRecord], bool]:
    """The function that calls the callbacks of a fit after a block of steps."""
    callbacks, began = Callbacks(plan.callbacks, Processes(None)), time.perf_counter()
    evaluations = 0

    def notify(steps: int, record: StepRecord) -> bool:
        nonlocal evaluations
        evaluations += int(np.sum(record.steps))
        if not plan.callbacks:
            return False
        u = target.scaling.parameters_of_draws(record.position[-1].mean(axis=0))
        packed = np.array(target.packed)
        packed[list(target.active)] = u
        params = jax.tree.map(np.asarray, binding.start.unpack(packed))
        value, gain = float(np.mean(record.log_density[-1])), float("nan")
        seconds = time.perf_counter() - began
        return callbacks.notify(Iteration(steps, evaluations, value, gain, seconds, params, binding, "NUTS"))

    return notify


def _draws_of(target: Target, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Packed parameters (chains, draws, packed) and whitened effects (chains, kept, groups, random) of every `every`-th
    draw, None for none, at `positions` (chains, draws, n)."""
    chains, n, _ = positions.shape
    m, q = target.scaling.modes.shape
    if target.approximation is not None or not q:
        u = target.scaling.parameters_of_draws(positions)
        packed = np.broadcast_to(np.asarray(target.packed), (chains, n, len(target.packed))).copy()
        packed[..., list(target.active)] = u
        return packed, None, 1
    every = max(1, -(-chains * n * m * q // RUN.most_stored_effects))
    size = max(1, min(chains * n, RUN.cells_per_call // (m * q)))
    program, flat = compiled(_points, size * m), positions.reshape(chains * n, -1)
    packed, z = np.empty((chains * n, len(target.packed))), np.empty((chains, -(-n // every), m, q))
    draws = z.reshape(-1, m, q)
    for first in range(0, chains * n, size):
        rows = np.minimum(np.arange(first, first + size), chains * n - 1)
        values, effects = (np.asarray(part) for part in program(target, jnp.asarray(flat[rows])))
        rows = rows[: chains * n - first]
        packed[rows] = values[: len(rows)]
        kept = np.flatnonzero(rows % n % every == 0)
        draws[rows[kept] // n * z.shape[1] + rows[kept] % n // every] = effects[kept]
    return packed.reshape(chains, n, -1), z, every


def _points(target: Target, positions: Any) -> tuple[Any, Any]:
    """Packed parameters (draws, packed) and whitened effects (draws, groups, random) at `positions` (draws, n)."""
    return jax.vmap(target.point)(positions)


def _posterior(
    binding: Binding, estimator: AbstractBayes, packed: np.ndarray, z: np.ndarray | None, every: int
) -> Posterior:
    """A Posterior without checks."""
    unknown = np.full(len(binding.density.reported_names), np.nan)
    return Posterior(
        binding=binding, approximation=estimator.approximation, method=estimator.name, density=estimator.effects,
        packed=packed, z=z, effect_every=every, stats={}, step_size=np.zeros(0), warmup=0, warmup_divergent=0,
        seconds={}, rhat=unknown, ess_bulk=unknown, ess_tail=unknown, effects_rhat=float("nan"), bfmi=np.zeros(0),
        pareto_k=None, flat=tuple(flat_names(binding)),
    )  # fmt: skip


def _replaced(posterior: Posterior, **fields: Any) -> Posterior:
    """`posterior` with other fields, and the reported values that it has computed."""
    out = dataclasses.replace(posterior, **fields)
    object.__setattr__(out, "reported", posterior.reported)
    return out


def _record(
    posterior: Posterior, target: Target, estimator: AbstractBayes, state: tuple[bool, bool, bool],
    sentences: list[str], left_out: list[tuple[Any, str]], options: dict[str, Any], timings: dict[str, float],
) -> FitRecord:  # fmt: skip
    """The record at the posterior means."""
    binding = posterior.binding
    rows = posterior.packed.reshape(-1, posterior.packed.shape[-1])
    params = mean_params(binding, rows, posterior.reported.reshape(len(rows), -1))
    with clock(timings, "likelihood"):
        starts = np.asarray(target.scaling.starts)
        groups = group_values_at(on_device(binding.problem), estimator.approximation, params, starts)
    return to_record(posterior, estimator, params, groups, state, sentences, left_out, options, timings)


def _without_draws(
    binding: Binding, estimator: AbstractBayes, target: Target, outcome: RunOutcome, notes: list[str],
    left_out: list[tuple[Any, str]], options: dict[str, Any], timings: dict[str, float],
) -> FitRecord:  # fmt: skip
    """The record of a run that ended before the first draw: at its start, not converged."""
    reason = "Interrupted" if outcome.interrupted else "Stopped by a callback"
    sentences = [f"NOT CONVERGED: {reason.lower()} before the first draw; the values are those of the start.", *notes]
    packed = np.asarray(target.packed)[None, None]
    posterior = _posterior(binding, estimator, packed, None, 1)
    state = False, outcome.interrupted, outcome.stopped
    return _record(posterior, target, estimator, state, sentences, left_out, options, timings)
