"""From the end of a stochastic run to a Fit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.record import totals, versions
from jaxnlme.estimators.em.algorithm import RunOutcome, newton_point
from jaxnlme.estimators.em.convergence import (
    convergence_failures,
    errors_table,
    flat_variances,
    replicate_disagreement,
    zero_variance_notes,
)
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.post_estimation import PostEstimation, go_through, inverse_factor, not_finite
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.sufficient_statistics import in_words
from jaxnlme.model.params import Params
from jaxnlme.results.record import Fit, FitStatus
from jaxnlme.results.stochastic import Replicate, Sampling


def to_record(
    run: Run,
    outcome: RunOutcome,
    with_information: bool,
    left_out: list[tuple[Any, str]],
    notes: list[str],
    options: dict[str, Any],
    timings: dict[str, float],
) -> Fit:
    """The Fit of a run that ended; the best of its replicates."""
    binding, estimator, placed = run.binding, run.estimator, run.placed
    density, data = binding.density, binding.data
    halted = run.interrupted or run.stopped or outcome.broken is not None
    # What was judged before a run was broken off belongs to other parameters, or to fewer draws than were summed up.
    assessed = None if halted else outcome.louis
    packed = np.asarray(run.em_state.packed).copy() if outcome.broken is None else run.last_finite()
    if assessed is not None:
        for r, one in enumerate(assessed):
            if one.positive_definite:
                packed[r] = newton_point(one)
    mean, spread = _conditional(run, assessed)
    m = data.n_groups
    params = [_params(run, packed[r]) for r in range(run.replicates)]
    if outcome.broken is None:
        run.set_parameters(packed)
    after = PostEstimation.blank(m, run.replicates, density.n_effects)
    try:
        go_through(run, outcome, after, assessed, params, mean, spread, with_information, timings)
    except KeyboardInterrupt:  # the estimates stand; what was to come after them is left out
        run.interrupted = True
    values, errors, groups, infos = after.values, after.errors, after.groups, after.infos
    modes, draws, found = after.modes, after.draws, after.found
    first = next((r for r, own in enumerate(assessed or []) if own.positive_definite), 0)
    best = int(np.nanargmax(values)) if np.isfinite(values).any() else first
    one = None if assessed is None else assessed[best]
    against = [
        convergence_failures(run, outcome, None if assessed is None else assessed[r]) for r in range(run.replicates)
    ]
    bad = list(against[best])
    if assessed is not None and not run.interrupted:
        if estimator.likelihood != "none" and not np.isfinite(values[best]):
            bad.append(not_finite(run, groups[best]))
        bad += replicate_disagreement(
            assessed, values, errors, best, [binding.packed_names[k] for k in assessed[best].active]
        )
    sentences = ["NOT CONVERGED.", *bad] if bad else [_converged(run, one)]
    at_zero = () if one is None else zero_variance_notes(run, one)
    sentences += [*at_zero, *flat_variances(run, one)]
    sentences += notes
    if labels := run.gather([str(label) for label, _ in left_out]):
        sentences.append(f"Left out at your request: group {some(labels)}.")
    sentences += list(data.notes)
    own = groups[best]
    status = np.where(data.observed.any(axis=1), Status.ok, Status.no_observations) if own is None else own.status
    nan = np.full(m, np.nan)
    variance, ess = (nan, nan) if own is None else (own.variance, own.ess)
    factor_inverse = inverse_factor(run, params[best])
    z_modes = modes[:, best]
    record = Sampling(
        binding=binding,
        packed=np.concatenate(run.packed) if run.packed else packed[None],
        burn_in=estimator.burn_in,
        phases=run.phases,
        chains=run.chains,
        replicates=tuple(
            Replicate(
                params[r],
                binding.values(params[r]),
                float(values[r]),
                not against[r],
                modes[:, r],
                float(errors[r]),
                infos[r],
            )
            for r in range(run.replicates)
        ),
        best=best,
        m_step=in_words(run.interior_layout, binding),
        likelihood=estimator.likelihood,
        log_likelihood_se=float(errors[best]),
        accept=np.concatenate(run.accepted) if run.accepted else np.zeros((0, run.replicates, 0)),
        kernels=run.labels,
        errors=None if assessed is None else errors_table(assessed, best, packed, binding.packed_names),
        mean=mean[:, best],
        spread=spread[:, best],
        draws=draws[:, best],
    )
    if not found[:, best].all():
        # A search that did not arrive leaves the conditional mean, which predictions can stand on as well.
        z_modes = np.where(found[:, best, None], z_modes, mean[:, best] @ factor_inverse.T)
    timings["iterations"] = run.iteration
    prior = float(density.log_prior(params[best])) if density.priors else 0.0
    return Fit(
        binding=binding,
        method=estimator.method.name,
        estimator=estimator,
        params=params[best],
        converged=not bad,
        interrupted=run.interrupted,
        stopped=run.stopped,
        status=FitStatus(
            tuple(sentences), data.labels, np.asarray(status), np.zeros(m, int), tuple(left_out), variance, ess
        ),
        modes=z_modes,
        curvature=after.curvature[:, best],
        group_log_likelihood=nan if own is None else own.values,
        monte_carlo_variance=variance,
        ess=ess,
        log_likelihood=float(values[best]),
        log_prior=prior,
        information=infos[best],
        at_zero=tuple(at_zero),
        history=tuple(run.history),
        options=options,
        versions=versions(),
        timings=timings,
        fingerprint=data.fingerprint(),
        totals=totals(binding, placed.processes),
        sampling=record,
    )


def _params(run: Run, packed: np.ndarray) -> Params:
    template = run.template
    p, c = len(template.beta), len(template.covariance)
    return Params(packed[:p], packed[p : p + c], packed[p + c :], jax.tree.map(np.asarray, template.free))


def _conditional(run: Run, assessed: list[ScoreAndInformation] | None) -> tuple[np.ndarray, np.ndarray]:
    """Conditional means (groups, replicates, random) and covariances of b from the last settling run; NaN without."""
    sums = run.sums()
    first, second = sums.first, sums.second
    if assessed is None:
        return np.full_like(first, np.nan), np.full_like(second, np.nan)
    n = assessed[0].n_iterations
    mean = first / n
    spread = second / n - mean[..., :, None] * mean[..., None, :]
    if run.layout.whitened:
        factors = [np.asarray(run.params(r).covariance) for r in range(run.replicates)]
        lower = np.stack([np.asarray(run.binding.density.covariance.factor(theta)) for theta in factors])
        mean, spread = (lower @ mean[..., None])[..., 0], lower @ spread @ np.swapaxes(lower, -1, -2)
    return mean, spread


def _converged(run: Run, one: ScoreAndInformation | None) -> str:
    assert one is not None
    words = (
        f"Converged: by the score at the end the maximum is reached to {one.mc_error_ratio:.2g} standard errors of Monte Carlo "
        f"error (limit {float(run.estimator.tolerance):g}); the draws do not drift; the information matrix is positive "
        "definite"
    )
    if run.replicates > 1:
        words += f"; {run.replicates} replicates were run"
    if run.outer_state.extensions:
        words += f"; phases were added {run.outer_state.extensions} times"
    return words + "."
