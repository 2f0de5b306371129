"""The verdict on a fit: converged or not, and the sentences that say why."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.zero_variances import zero_sentences
from jaxnlme.estimators.marginal.session import CONVERGED, Session
from jaxnlme.results.inference import direction_words, singular_directions

# Information on the logarithm of a standard deviation below which nothing is known of it: a standard error of 100.
UNTOLD = 1e-4


@dataclasses.dataclass
class Convergence:
    """`converged`, `sentences` that say why (not), `matrix` (active, active) the information or None, `active` packed
    indices, `at_zero`, descriptions of the zero variances, `decrement`, the predicted gain of a Newton step."""

    converged: bool
    sentences: list[str]
    matrix: np.ndarray | None
    active: np.ndarray
    at_zero: list[str]
    decrement: float


def assess(
    session: Session,
    matrix: np.ndarray | None,
    active: np.ndarray,
    decrement: float,
    zeroed: set[int],
    with_information: bool,
) -> Convergence:
    """The verdict at the end of `finish`, from the last information matrix (active, active) and predicted gain."""
    density, first = session.binding.density, len(session.binding.density.beta_names)
    at_zero = zero_sentences(density, session.x[first : first + density.covariance.n_unconstrained], zeroed)
    bad: list[str] = []
    if session.interrupted:
        bad.append("Interrupted by the user: this is the best point so far, not a maximum.")
    if session.stopped:
        bad.append("Stopped by a callback: this is the point reached, not a maximum.")
    if not np.isfinite(session.best.value):
        bad += session.objective_failures or [
            "The objective is not finite; see status.groups for the groups concerned."
        ]
    elif not session.halted:
        bad += _convergence_failures(session, matrix, active, decrement, with_information)
    bad += _lost_groups(session)
    if bad:
        verdict = ["NOT CONVERGED.", *bad]
    else:
        verdict = [_converged(session, matrix, active, decrement)]
    if not with_information and not bad:
        verdict.append("The information matrix was not asked for: the maximum is judged by the minimiser's own metric.")
    weights = len(session.free) - session.dense
    if weights and not bad:
        verdict.append(
            f"The {weights} free weights are judged by the minimiser's own metric; standard errors hold them fixed."
        )
    return Convergence(not bad, [*verdict, *at_zero], matrix, active, at_zero, decrement)


def _converged(session: Session, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> str:
    """The sentence of a converged fit: what was checked, and nothing else."""
    parts = [session.closeness(matrix, active, decrement)[1]]
    if matrix is not None:
        parts.append("the information matrix is positive definite")
    if session.estimator.method.at_mode and session.binding.density.n_effects:
        again = session.not_found_again
        labels = _labels(session, again)
        if labels:
            parts.append(
                f"every group's mode was found (not again by a search from zero for group {labels}: the better one is "
                "kept)"
            )
        else:
            parts.append("every group's mode was found, and found again by a search from zero")
    return f"Converged: {'; '.join(parts)}."


def _lost_groups(session: Session) -> list[str]:
    """One sentence for each reason why groups count as lost."""
    codes = session.best.own.status
    counts = session.binding.data.weights != 0
    found = {code for codes in session.processes.everyone(set(codes[counts].tolist())) for code in codes}
    out = []
    for code in sorted(found - {int(Status.ok), int(Status.no_observations)}):
        out.append(f"Group {_labels(session, counts & (codes == code))}: {Status(code).sentence}")
    return out


def _labels(session: Session, which: np.ndarray) -> str:
    """The labels of some groups (those of every process), in words."""
    labels = [str(label) for label in session.binding.data.labels[which]]
    return some([label for own in session.processes.everyone(labels) for label in own])


def _convergence_failures(
    session: Session, matrix: np.ndarray | None, active: np.ndarray, decrement: float, with_information: bool
) -> list[str]:
    names = [session.binding.packed_names[k] for k in active]
    out = []
    gain = float(session.state.bfgs.decrement) if session.state is not None else np.inf
    if session.exhausted:
        return [
            f"The {int(session.estimator.max_iterations)} iterations allowed were used up, with {gain:.1e} log-"
            "likelihood units still expected to be gained; raise max_iterations, or start elsewhere."
        ]
    if len(session.free) > session.dense and not gain < CONVERGED:
        out.append(f"The free weights are expected to gain {gain:.1e} more (limit {CONVERGED:g}); lower the tolerance.")
    singular = singular_directions(matrix, names) if matrix is not None else ()
    for direction in singular:
        out.append(
            f"The data carry no information along the direction {direction_words(direction)} (shares of standardised "
            "parameters): fix one of them, drop an effect, or use a simpler covariance."
        )
    if with_information and matrix is None:
        out.append("No maximum was settled on in the allowed rounds; start from other values.")
    first = len(session.binding.density.beta_names)
    logs = {first + index for index, _, _ in session.binding.density.covariance.log_scales}
    lost = [] if matrix is None else [k for k, at in enumerate(active) if at in logs and not matrix[k, k] > UNTOLD]
    if lost and not singular:
        out.append(
            f"The data tell nothing of {some([names[k] for k in lost])} (its logarithm is known to a hundred units at "
            "best): fix the variance, drop the effect, or use a simpler covariance."
        )
    close, words = session.closeness(matrix, active, decrement)
    if not singular and not close:
        out.append(f"Not there yet: {words}. It may be rough there: look at fit.history, try other starting values.")
    return out
