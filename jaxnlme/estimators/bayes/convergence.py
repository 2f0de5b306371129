"""Checks of the chains at the end, by ArviZ: R-hat, effective draws, divergences, energy; and the sentences on what
does not hold."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.estimators.bayes.method import NUTS
from jaxnlme.estimators.bayes.run import StepRecord
from jaxnlme.estimators.bayes.settings import CRITERIA
from jaxnlme.results.posterior.arviz_export import arviz


@dataclasses.dataclass(frozen=True)
class Convergence:
    """Outcome of the checks.

    **Fields:** `rhat`, `ess_bulk`, `ess_tail` (reported,); `effects_rhat`; `bfmi` (chains,); `failures`: sentences on
    what does not hold; `notes`: sentences on the rest.
    """

    rhat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    effects_rhat: float
    bfmi: np.ndarray
    failures: list[str]
    notes: list[str]


def assess(
    estimator: NUTS,
    names: tuple[str, ...],
    fixed: np.ndarray,
    reported: np.ndarray,
    effects: tuple[np.ndarray, list[str]] | None,
    record: StepRecord,
) -> Convergence:
    """The checks of complete or interrupted chains.

    **Arguments:** `names`, `fixed` (reported,) of the values `reported` (chains, draws, reported); `effects`: whitened
    effects (chains, draws, effects) and a name for each, None where none were drawn; `record` of the draws.
    """
    n = reported.shape[1]
    rhat, bulk, tail = (np.full(len(names), np.nan) for _ in range(3))
    bfmi, worst = np.full(reported.shape[0], np.nan), float("nan")
    failures: list[str] = []
    notes: list[str] = []
    if n < 4:
        return Convergence(rhat, bulk, tail, worst, bfmi, ["Fewer than 4 draws of each chain: nothing to check."], [])
    package = arviz()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # constant chains: R-hat is NaN, which the sentences say
        for k in np.flatnonzero(~fixed):
            values = reported[..., k]
            rhat[k] = float(package.rhat(values)) if estimator.chains > 1 else np.nan
            bulk[k] = float(package.ess(values, method="bulk"))
            tail[k] = float(package.ess(values, method="tail"))
        if estimator.chains > 1 and effects is not None and 0 < len(effects[1]) <= CRITERIA.most_effects:
            of_effects = np.array([float(package.rhat(effects[0][..., k])) for k in range(len(effects[1]))])
            worst = float(np.nanmax(of_effects))
            if worst > CRITERIA.largest_effects_rhat:
                bad = [effects[1][k] for k in np.flatnonzero(of_effects > CRITERIA.largest_effects_rhat)]
                failures.append(
                    f"The chains disagree on the random effects of {some(bad)}: R-hat {worst:.3f} (limit "
                    f"{CRITERIA.largest_effects_rhat:g}). Allow more warmup and draws."
                )
        bfmi = np.asarray(package.bfmi(record.energy), float)
    failures = [*_of_parameters(estimator, names, fixed, rhat, bulk, tail), *failures]
    _of_trajectories(estimator, record, bfmi, failures, notes)
    return Convergence(rhat, bulk, tail, worst, bfmi, failures, notes)


def _of_parameters(
    estimator: NUTS, names: tuple[str, ...], fixed: np.ndarray, rhat: np.ndarray, bulk: np.ndarray, tail: np.ndarray
) -> list[str]:
    """Sentences on R-hat and effective draws of the parameters."""
    out: list[str] = []
    if estimator.chains < 2:
        out.append("R-hat needs at least two chains, and there is one: whether it has converged is not known.")
    with np.errstate(invalid="ignore"):
        apart = ~fixed & ~(rhat <= CRITERIA.largest_rhat) & (estimator.chains > 1)
        limit = CRITERIA.least_ess_per_chain * estimator.chains
        few = {kind: ~fixed & ~(ess >= limit) for kind, ess in (("bulk", bulk), ("tails", tail))}
    if apart.any():
        listed = some([f"{names[k]} ({rhat[k]:.3f})" for k in np.flatnonzero(apart)])
        out.append(
            f"The chains disagree: R-hat above {CRITERIA.largest_rhat:g} for {listed}. Allow more warmup and draws; a "
            "parameter that the data barely inform needs a prior."
        )
    for kind, mask in few.items():
        if mask.any():
            ess = bulk if kind == "bulk" else tail
            listed = some([f"{names[k]} ({ess[k]:.0f})" for k in np.flatnonzero(mask)])
            out.append(f"Fewer than {limit:.0f} effective draws in the {kind} of {listed}: allow more draws.")
    return out


def _of_trajectories(
    estimator: NUTS, record: StepRecord, bfmi: np.ndarray, failures: list[str], notes: list[str]
) -> None:
    """Sentences on divergences, energy and long trajectories, added to `failures` and `notes`."""
    total = record.divergent.size
    divergent = int(record.divergent.sum())
    if divergent:
        sentence = (
            f"{divergent} of {total} trajectories diverged: the sampler does not reach parts of the posterior with "
            "high curvature. Use target_acceptance closer to 1 "
            f"(now {estimator.target_acceptance:g}), informative priors on standard deviations near zero, or "
            f"effects={'collapsed' if estimator.effects == 'joint' else 'joint'!r}."
        )
        (failures if divergent > CRITERIA.most_divergent * total else notes).append(sentence)
    if (bfmi < CRITERIA.least_bfmi).any():
        chains = some([str(k) for k in np.flatnonzero(bfmi < CRITERIA.least_bfmi)])
        failures.append(
            f"The energy of chain {chains} changes slowly (E-BFMI {np.nanmin(bfmi):.2f}, limit "
            f"{CRITERIA.least_bfmi:g}): heavy tails, as of a standard deviation with a flat prior and few groups."
        )
    saturated = float(np.mean(record.depth >= estimator.max_tree_depth))
    if saturated > CRITERIA.most_saturated:
        failures.append(
            f"{100 * saturated:.0f}% of the trajectories have the greatest length allowed (max_tree_depth="
            f"{estimator.max_tree_depth}): allow more, begin at a fit, or give priors to what the data barely inform."
        )


def converged_sentence(estimator: NUTS, convergence: Convergence, record: StepRecord) -> str:
    """The sentence on chains that converged: the criteria they met."""
    ess = float(np.nanmin([convergence.ess_bulk, convergence.ess_tail]))
    limit = CRITERIA.least_ess_per_chain * estimator.chains
    return (
        f"Converged: R-hat at most {np.nanmax(convergence.rhat):.3f} (limit {CRITERIA.largest_rhat:g}), at least "
        f"{ess:.0f} effective draws in bulk and tails (limit {limit:.0f}), {int(record.divergent.sum())} divergent "
        f"trajectories of {record.divergent.size}, E-BFMI at least {np.nanmin(convergence.bfmi):.2f} (limit "
        f"{CRITERIA.least_bfmi:g})."
    )


def names_of_effects(labels: Any, effects: tuple[str, ...], n_effects: int) -> list[str]:
    """A name for each random effect of each group."""
    of_group = list(effects) if len(effects) == n_effects else [str(k) for k in range(n_effects)]
    return [f"{label} ({effect})" for label in labels for effect in of_group]
