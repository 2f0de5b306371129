"""From the end of a stochastic run to a Fit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnlme.errors import Status, some
from jaxnlme.estimators.centred_objective import centred_log_likelihood
from jaxnlme.estimators.conducting import Ending, faults, flat_variances, stand
from jaxnlme.estimators.linearised_information import linearised_information
from jaxnlme.estimators.record import totals, versions
from jaxnlme.estimators.running import Run
from jaxnlme.estimators.settling import Settled
from jaxnlme.estimators.simulating import Lanes, Setup
from jaxnlme.estimators.statistics import in_words
from jaxnlme.likelihood.centred import centred
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.numerics.compiling import clock
from jaxnlme.results.fit import Fit, FitStatus
from jaxnlme.results.inference import Information, information
from jaxnlme.results.sampling import Replicate, Sampling, reached
from jaxnlme.sampling.chains import frame_at

# Draws of b that a Fit keeps: of each group at most, and numbers in all.
KEPT, NUMBERS = 100, 5_000_000
# Iterations between draws that are kept.
THIN = 2
# How often chains are asked for them at most.
MOST_TIMES = 20
# A share of a standard error that is within the noise of a batch, whatever its draws say.
NEGLIGIBLE = 0.1


def ended(
    run: Run,
    ending: Ending,
    with_information: bool,
    warm: bool,
    left_out: list[tuple[Any, str]],
    notes: list[str],
    options: dict[str, Any],
    timings: dict[str, float],
) -> Fit:
    """The Fit of a run that ended; the best of its replicates."""
    binding, estimator, placed = run.binding, run.estimator, run.placed
    density, data = binding.density, binding.data
    halted = run.interrupted or run.stopped or ending.broken is not None
    # What was judged before a run was broken off belongs to other parameters, or to fewer draws than were summed up.
    judged = None if halted else ending.settled
    packed = np.asarray(run.running.packed).copy() if ending.broken is None else run.last_finite()
    if judged is not None:
        for r, one in enumerate(judged):
            if one.regular:
                packed[r][one.active] += one.step
    mean, spread = _conditional(run, judged)
    m, q = data.n_groups, density.n_effects
    draws = np.zeros((m, 0, q))
    modes, curvature = np.full((m, run.replicates, q), np.nan), np.full((m, run.replicates, q, q), np.nan)
    found = np.zeros((m, run.replicates), bool)
    if ending.broken is None:
        run.place(packed)
    run.tell("done")
    # Draws at the estimates follow, of which nobody need hear.
    run.told = False
    if ending.broken is None:
        if not halted:
            stand(run, THIN, run.iteration)
        modes, curvature, found, _ = _places(run)
        if not halted:
            draws = _draws(run)
    params = [_params(run, packed[r]) for r in range(run.replicates)]
    values = np.full(run.replicates, np.nan)
    groups: list[Any] = [None] * run.replicates
    errors = np.full(run.replicates, np.nan)
    if estimator.likelihood != "none" and judged is not None:
        try:
            with clock(timings, "likelihood"):
                for r in range(run.replicates):
                    values[r], errors[r], groups[r] = _likelihood(run, params[r], mean[:, r], spread[:, r])
        except KeyboardInterrupt:  # the estimates stand; what came after them is left out
            run.interrupted = True
    best = int(np.nanargmax(values)) if np.isfinite(values).any() else 0
    one = None if judged is None else judged[best]
    bad = faults(run, ending, one)
    bad += _other_maxima(run, values, errors, best, judged)
    infos: list[Information | None] = [None] * run.replicates
    if with_information and judged is not None and not halted:
        with clock(timings, "information"):
            infos = [_information(run, params[r], judged[r], modes[:, r]) for r in range(run.replicates)]
    sentences = ["NOT CONVERGED.", *bad] if bad else [_converged(run, ending, one)]
    sentences += flat_variances(run, one)
    sentences += notes
    if labels := run.of_all([str(label) for label, _ in left_out]):
        sentences.append(f"Left out at your request: group {some(labels)}.")
    sentences += list(data.notes)
    own = groups[best]
    status = np.where(data.observed.any(axis=1), Status.ok, Status.no_observations) if own is None else own.status
    nan = np.full(m, np.nan)
    variance, ess = (nan, nan) if own is None else (own.variance, own.ess)
    factor_inverse = _inverse(run, params[best])
    z_modes = modes[:, best]
    record = Sampling(
        binding=binding,
        packed=np.concatenate(run.packed) if run.packed else packed[None],
        burn_in=estimator.burn_in,
        phases=estimator.phases(warm),
        chains=run.chains,
        replicates=tuple(
            Replicate(
                params[r],
                binding.values(params[r]),
                float(values[r]),
                not faults(run, ending, None if judged is None else judged[r]),
                modes[:, r],
                float(errors[r]),
                infos[r],
            )
            for r in range(run.replicates)
        ),
        best=best,
        m_step=in_words(run.layout, binding),
        likelihood=estimator.likelihood,
        log_likelihood_se=float(errors[best]),
        accept=np.concatenate(run.accepted) if run.accepted else np.zeros((0, run.replicates, 0)),
        kernels=run.labels,
        errors=_errors(run, judged, best, packed),
        mean=mean[:, best],
        spread=spread[:, best],
        draws=draws[:, best] if draws.ndim == 4 else draws,
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
        curvature=curvature[:, best],
        group_log_likelihood=nan if own is None else own.values,
        monte_carlo_variance=variance,
        ess=ess,
        log_likelihood=float(values[best]),
        log_prior=prior,
        information=infos[best],
        at_zero=(),
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


def _inverse(run: Run, params: Params) -> np.ndarray:
    """L^-1 (random, random) on the host."""
    factor = np.asarray(run.binding.density.covariance.factor(np.asarray(params.covariance)))
    return np.linalg.pinv(factor)


def _conditional(run: Run, judged: list[Settled] | None) -> tuple[np.ndarray, np.ndarray]:
    """Conditional means (groups, replicates, random) and covariances of b from the last settling run; NaN without."""
    sums = run.sums()
    first, second = sums.first, sums.second
    if judged is None:
        return np.full_like(first, np.nan), np.full_like(second, np.nan)
    n = judged[0].heard
    mean = first / n
    return mean, second / n - mean[..., :, None] * mean[..., None, :]


def places(problem: Problem, shared: tuple[Setup, Any], lanes: Lanes) -> tuple[Any, Any]:
    """Whitened modes (groups, replicates, random), curvature there, whether they were found, and b of the chains
    (groups, replicates, chains, random)."""
    setup, packed = shared
    density = problem.density
    params = jax.vmap(setup.template.unpack)(packed)
    frames = jax.vmap(lambda p: frame_at(density, p))(params)

    def one(group, lanes):
        def replicate(params, frame, chains):
            coefficients = setup.layout.centring.coefficients(group)
            mean = setup.layout.centring.mean(params.beta, coefficients)
            back = chains.inverse @ frame.factor
            return frame.inverse @ (chains.centre - mean), back.T @ back, chains.found, chains.xi - mean[None, :]

        return jax.vmap(replicate)(params, frames, lanes.chains)

    return (), problem.map(one, lanes)


def _places(run: Run) -> tuple[np.ndarray, ...]:
    _, pieces = run.placed.run(places, (run.setup, np.asarray(run.running.packed)), run.lanes)
    return tuple(run.own(pieces))


def _draws(run: Run) -> np.ndarray:
    """Draws (groups, replicates, draws, random) of b at the estimates, a few iterations apart."""
    m, q = run.placed.processes.largest(run.binding.data.n_groups), run.binding.density.n_effects
    wanted = max(1, min(KEPT, NUMBERS // max(m * q * run.replicates, 1)))
    taken = [_places(run)[3]]
    while sum(part.shape[2] for part in taken) < wanted and len(taken) < MOST_TIMES:
        stand(run, THIN, run.iteration, anew=False)
        taken.append(_places(run)[3])
    return np.concatenate(taken, axis=2)[:, :, :wanted]


def _likelihood(run: Run, params: Params, mean: np.ndarray, spread: np.ndarray) -> tuple[float, float, Any]:
    """Log-likelihood at `params`, its Monte Carlo error, and what it is made of by group."""
    estimator = run.estimator
    options: dict[str, Any] = {}
    if estimator.likelihood == "is":
        seed = estimator.seed if isinstance(estimator.seed, int) else estimator.seed[-1]
        options = {"draws": estimator.likelihood_draws, "seed": seed}
    elif estimator.likelihood == "gq":
        options = {"nodes": estimator.nodes}
    method = centred(estimator.likelihood, **options)
    inverse = _inverse(run, params)
    sums, groups = centred_log_likelihood(run.placed, method, params, mean @ inverse.T, inverse @ spread @ inverse.T)
    return float(sums.log_likelihood), float(np.sqrt(sums.variance)), groups


def _information(run: Run, params: Params, one: Settled, modes: np.ndarray) -> Information:
    if run.estimator.information == "linearised":
        matrix, scores = linearised_information(run.binding, run.placed, params, modes, one.active)
    else:
        matrix, scores = one.information, one.group_scores
    return information(run.binding, params, matrix, one.active, run.placed.processes.concatenate(scores))


def _errors(run: Run, judged: list[Settled] | None, best: int, packed: np.ndarray) -> Any:
    """The table of Monte Carlo errors, by packed parameter."""
    if judged is None:
        return None
    import pandas as pd

    one = judged[best]
    names = [run.binding.packed_names[k] for k in one.active]
    table = pd.DataFrame(
        {
            "estimate": packed[best][one.active],
            "se": one.se,
            "monte carlo se": one.monte_carlo_se,
            "last step": one.step,
            "drift": one.drift,
        },
        index=pd.Index(names, name="parameter"),
    )
    if run.replicates > 1:
        regular = [other.estimates for other in judged if other.regular]
        nan = np.full(len(table), np.nan)
        table["rhat"] = potential_scale(np.stack(regular), one.se) if one.regular and len(regular) > 1 else nan
        table["spread"] = packed[:, one.active].std(axis=0, ddof=1)
    return table


def potential_scale(estimates: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Potential scale reduction (active,) of what batches of several runs take the maximum for (replicates, batches,
    active): one where runs differ by no more than their noise, or by a small part of the standard errors `se`
    (active,), which is as far as a last Newton step may be off.

    **Source:** Gelman and Rubin (1992), Statistical Science 7, 457-472."""
    n = estimates.shape[1]
    within = estimates.var(axis=1, ddof=1).mean(axis=0) + (NEGLIGIBLE * se) ** 2
    between = estimates.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(all="ignore"):
        return np.sqrt((n - 1) / n + between / within)


def _other_maxima(
    run: Run, values: np.ndarray, errors: np.ndarray, best: int, judged: list[Settled] | None
) -> list[str]:
    """A sentence where the best maximum was reached by one of several replicates alone."""
    if run.replicates < 2 or judged is None or not np.isfinite(values).any():
        return []
    if reached(values, errors, best).sum() > 1:
        return []
    return [
        f"Of {run.replicates} replicates one alone reached this maximum; the others ended with log-likelihoods of "
        f"{np.nanmax(np.delete(values, best)):.2f} and less. There may be better ones: start elsewhere, or run more."
    ]


def _converged(run: Run, ending: Ending, one: Settled | None) -> str:
    assert one is not None
    words = (
        f"Converged: by the score at the end the maximum is reached to {one.share:.2g} standard errors of Monte Carlo "
        f"error (limit {float(run.estimator.tolerance):g}); the draws do not drift; the information matrix is positive "
        "definite"
    )
    if run.replicates > 1:
        words += f"; {run.replicates} replicates were run"
    if ending.extensions:
        words += f"; phases were added {ending.extensions} times"
    return words + "."
