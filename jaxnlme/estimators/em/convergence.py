"""What speaks against the estimates of a stochastic run, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.errors import some
from jaxnlme.estimators.core.zero_variances import zero_sentences
from jaxnlme.estimators.em.algorithm import RunOutcome, significantly_off_maximum
from jaxnlme.estimators.em.boundary_moves import direction_is_clear, increases_inwards, vanishing
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.run import Run
from jaxnlme.results.inference import direction_words, singular_directions
from jaxnlme.results.stochastic import reached

if TYPE_CHECKING:
    import pandas as pd

# A drift beyond this many of its standard errors, in any parameter, is no accident: with twenty parameters one in 4,000
# where both halves vary alike (t with 18 degrees of freedom), one in 250 at the worst (9).
DRIFT = 6.0
# A standard error of a log standard deviation beyond which its variance may as well be zero.
FLAT = 2.0
# A correlation beyond this is at its edge.
TOGETHER = 0.97


def convergence_failures(run: Run, outcome: RunOutcome, one: ScoreAndInformation | None) -> list[str]:
    """Why the estimates of a replicate do not count as converged; none where they do."""
    estimator = run.estimator
    if run.interrupted and one is not None:
        return ["Interrupted by the user at the end: what was to be computed at the estimates is left out."]
    if run.interrupted:
        return ["Interrupted by the user: this is where the run stood, not a maximum."]
    if run.stopped:
        return ["Stopped by a callback: this is where the run stood, not a maximum."]
    if outcome.broken is not None:
        lost = run.gather([str(label) for label in run.lost()])
        where = f" No draw of group {some(lost)} has a finite density." if lost else ""
        return [
            f"The parameters stopped being finite in iteration {run.steps} ({outcome.broken}).{where} Start elsewhere, "
            "or look for overflow, 0/0 or log(0) in the model (jnp.where on the argument helps)."
        ]
    if one is None:
        return ["The run ended before its estimates could be judged; allow more iterations."]
    names = [run.binding.packed_names[k] for k in one.active]
    out = []
    singular = singular_directions(one.information, names)
    if singular:
        directions = some([direction_words(direction) for direction in singular], 3)
        out.append(
            f"The draws find no information along {directions} (shares of standardised parameters). Where the run "
            "ended at the maximum the data carry none: fix one of these, drop an effect, or use a simpler covariance. "
            "Where it ended before (a start far off, few iterations) or with few draws, more iterations or more "
            "chains help."
        )
    if increases_inwards(run, [one]):
        out.append(
            "Psi was put at the edge of what it can be, and the likelihood rises from there inwards: allow more "
            f"iterations (max_iterations is {int(estimator.max_iterations)}), or start elsewhere."
        )
    if not one.twice_differentiable:
        out.append(
            "Psi was put at the edge of what it can be, and the model has kinks, so that its second derivatives do not "
            f"tell what is beyond: allow more iterations (max_iterations is {int(estimator.max_iterations)}), or start "
            "elsewhere."
        )
    out += _near_singular(run, one)
    if not singular and significantly_off_maximum(run, one):
        worst = int(np.argmax(np.abs(one.step) / one.se))
        out.append(
            f"Not there yet: the score says that {names[worst]} is {one.distance:.2g} standard errors from the "
            "maximum, beyond noise, farther than a last step leads. Allow more iterations (max_iterations is "
            f"{int(estimator.max_iterations)}), or start elsewhere."
        )
    elif not singular and one.mc_error_ratio > estimator.tolerance:
        worst = int(np.argmax(one.monte_carlo_se / one.se))
        out.append(
            f"The Monte Carlo error of {names[worst]} is {one.mc_error_ratio:.2g} of its standard error (tolerance "
            f"{estimator.tolerance:g}): allow more iterations (max_iterations is {int(estimator.max_iterations)}) or "
            f"{estimator.remedies[0]}."
        )
    drifting = np.flatnonzero(np.abs(one.geweke_z) > DRIFT)
    if len(drifting):
        out.append(
            f"The draws had not settled: the scores of {some([names[k] for k in drifting])} differ between the two "
            f"halves of the last phase by more than their noise. Allow more iterations, or {estimator.remedies[1]}."
        )
    memory = run.to_host([chain_states.chains.memory for chain_states in run.chain_states])
    return out + run.gather(estimator.complaints(memory, run.binding.data.labels))


def _near_singular(run: Run, one: ScoreAndInformation) -> list[str]:
    """A sentence on correlations at one, where the information has no inverse for them."""
    density = run.binding.density
    if one.positive_definite or not density.covariance.related:
        return []
    psi = psi_of(density, run.template.unpack(one.packed).covariance)
    sd = np.sqrt(np.diag(psi))
    pairs = [
        f"{density.effect_names[j]} and {density.effect_names[k]} ({psi[j, k] / (sd[j] * sd[k]):.3f})"
        for j, k in density.covariance.related
        if abs(psi[j, k]) > TOGETHER * sd[j] * sd[k]
    ]
    if not pairs:
        return []
    return [
        f"The random effects of {some(pairs)} are all but one: their correlation goes to the edge of what psi can be. "
        "Leave out one of them or their correlation."
    ]


def zero_variance_notes(run: Run, one: ScoreAndInformation) -> list[str]:
    """Sentences on variances that are zero."""
    out = zero_sentences(run.binding.density, run.interior_layout.theta(one.packed), set(run.fixed_at_boundary))
    if out and not direction_is_clear(run, [one]):
        out.append(
            "How the likelihood goes from there is within the noise of the draws: a small variance may fit as well."
        )
    return out


def flat_variances(run: Run, one: ScoreAndInformation | None) -> list[str]:
    """Sentences on standard deviations that the data do not tell from zero."""
    if one is None:
        return []
    density = run.binding.density
    first = len(density.beta_names)
    se = dict(zip(one.active.tolist(), one.se, strict=True))
    out = []
    for index, effects, _ in density.covariance.log_scales:
        k = first + index
        if k in se and (vanishing(run, one, k) or se[k] > FLAT):
            names = ", ".join(density.effect_names[k] for k in effects)
            out.append(
                f"The data do not tell the variance of the random effect of {names} from zero (given the effects "
                "before it, where psi is full): the effect may be dropped. Other estimates hold it where it is, and "
                "may be a small part of a standard error from where they are with none."
            )
    return out


# ---- replicates side by side, and the table of Monte Carlo errors

# A share of a standard error that is within the noise of a batch, whatever its draws say.
NEGLIGIBLE = 0.1
# Replicates with a larger R-hat are at different maxima: Brooks and Gelman (1998), Journal of Computational and
# Graphical Statistics 7, 434-455.
APART = 1.2


def errors_table(
    assessed: Sequence[ScoreAndInformation], best: int, packed: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    """Monte Carlo errors by packed parameter of the replicates at `packed` (replicates, packed)."""
    import pandas as pd

    one = assessed[best]
    table = pd.DataFrame(
        {
            "estimate": packed[best][one.active],
            "se": one.se,
            "monte carlo se": one.monte_carlo_se,
            "last step": one.step,
            "drift": one.geweke_z,
        },
        index=pd.Index([names[k] for k in one.active], name="parameter"),
    )
    if len(assessed) > 1:
        table["rhat"] = _scale(assessed, one)
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


def _scale(assessed: Sequence[ScoreAndInformation], best: ScoreAndInformation) -> np.ndarray:
    """`potential_scale` of the replicates that have an information; NaN where the best has none, or no other."""
    regular = [one.estimates for one in assessed if one.positive_definite]
    if not best.positive_definite or len(regular) < 2:
        return np.full(len(best.active), np.nan)
    return potential_scale(np.stack(regular), best.se)


def replicate_disagreement(
    assessed: Sequence[ScoreAndInformation], values: np.ndarray, errors: np.ndarray, best: int, names: Sequence[str]
) -> list[str]:
    """A sentence where the best of several replicates may not be the best there is: it reached its maximum alone, or,
    where no log-likelihood tells which is best, they ended apart.

    **Arguments:** log-likelihoods `values` (replicates,) with their Monte Carlo `errors`; `names` (active,)."""
    if len(assessed) < 2:
        return []
    if np.isfinite(values).any():
        if reached(values, errors, best).sum() > 1:
            return []
        others = np.delete(values, best)
        others = others[np.isfinite(others)]
        ended = f"with log-likelihoods of {others.max():.2f} and less" if len(others) else "without a log-likelihood"
        return [
            f"Of {len(assessed)} replicates one alone reached this maximum; the others ended {ended}. There may be "
            "better ones: start elsewhere, or run more."
        ]
    scale = _scale(assessed, assessed[best])
    if not (scale > APART).any():
        return []
    worst = int(np.nanargmax(scale))
    return [
        f"The {len(assessed)} replicates ended apart (R-hat of {names[worst]} is {scale[worst]:.3g}, limit {APART:g}), "
        "and without log-likelihoods nothing tells which is best: choose another likelihood than 'none'."
    ]
