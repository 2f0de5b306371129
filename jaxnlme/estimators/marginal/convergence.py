"""Convergence assessment of a fit: converged or not, and the sentences that give the reasons."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.zero_variances import zero_sentences
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import CRITERIA
from jaxnlme.results.inference import direction_words, singular_directions


@dataclasses.dataclass
class Convergence:
    """Convergence assessment of a fit.

    **Fields:** `converged`; `sentences` with the reasons; `matrix` (active, active): the information, or None;
    `active`: packed indices of the free entries; `at_zero`: sentences on the zero variances.
    """

    converged: bool
    sentences: list[str]
    matrix: np.ndarray | None
    active: np.ndarray
    at_zero: list[str]


def assess(
    session: Session,
    matrix: np.ndarray | None,
    active: np.ndarray,
    decrement: float,
    with_information: bool,
) -> Convergence:
    """Assess the convergence of a session at the end of its rounds.

    **Arguments:** `matrix` (active, active): the last information matrix, or None; `active`: packed indices;
    `decrement`: predicted gain of a further step;
    `with_information`: the information matrix was asked for.
    **Returns:** the Convergence; it is converged if there are no failures.
    """
    density, first = session.binding.density, len(session.binding.density.beta_names)
    at_zero = zero_sentences(density, session.x[first : first + density.covariance.n_unconstrained], session.zeroed)
    failures: list[str] = []
    if session.interrupted:
        failures.append("Interrupted by the user: this is the best point so far, not a maximum.")
    if session.stopped:
        failures.append("Stopped by a callback: this is the point reached, not a maximum.")
    if not np.isfinite(session.best.value):
        failures += session.objective.failures(session.best) or [
            "The objective is not finite; see status.groups for the groups concerned."
        ]
    elif not session.halted:
        failures += _convergence_failures(session, matrix, active, decrement, with_information)
    failures += _failed_groups(session)
    if failures:
        sentences = ["NOT CONVERGED.", *failures]
    else:
        sentences = [_converged(session, matrix, active, decrement)]
    if not with_information and not failures:
        sentences.append(
            "The information matrix was not asked for: the maximum is assessed by the minimiser's own metric."
        )
    weights = len(session.free) - session.n_dense
    if weights and not failures:
        sentences.append(
            f"The {weights} free weights are assessed by the minimiser's own metric; standard errors hold them fixed."
        )
    return Convergence(not failures, [*sentences, *at_zero], matrix, active, at_zero)


def _converged(session: Session, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> str:
    """The sentence of a converged fit: the checks that were made."""
    parts = [session.objective.stopping_criterion(session.best, matrix, active, decrement)[1]]
    if matrix is not None:
        parts.append("the information matrix is positive definite")
    if session.estimator.method.at_mode and session.binding.density.n_effects:
        labels = _labels(session, session.modes_not_reproduced)
        if labels:
            parts.append(
                f"every group's mode was found (not again by a search from zero for group {labels}: the better one is "
                "kept)"
            )
        else:
            parts.append("every group's mode was found, and found again by a search from zero")
    return f"Converged: {'; '.join(parts)}."


def _failed_groups(session: Session) -> list[str]:
    """One sentence for each status under which the computation of groups failed."""
    codes = session.best.local_groups.status
    has_weight = session.binding.data.weights != 0
    all_codes = {code for codes in session.processes.gather(set(codes[has_weight].tolist())) for code in codes}
    sentences = []
    for code in sorted(all_codes - {int(Status.ok), int(Status.no_observations)}):
        sentences.append(f"Group {_labels(session, has_weight & (codes == code))}: {Status(code).sentence}")
    return sentences


def _labels(session: Session, which: np.ndarray) -> str:
    """The labels of the groups `which` (groups,) bool, of every process, as text."""
    labels = [str(label) for label in session.binding.data.labels[which]]
    return some([label for labels in session.processes.gather(labels) for label in labels])


def _convergence_failures(
    session: Session, matrix: np.ndarray | None, active: np.ndarray, decrement: float, with_information: bool
) -> list[str]:
    """Sentences with the reasons why the point is not a maximum; arguments as of `assess`."""
    names = [session.binding.packed_names[k] for k in active]
    sentences = []
    gain = float(session.state.bfgs.decrement) if session.state is not None else np.inf
    if session.out_of_iterations:
        return [
            f"The {int(session.estimator.max_iterations)} iterations allowed were used up, with {gain:.1e} log-"
            "likelihood units still expected to be gained; raise max_iterations, or use other starting values."
        ]
    if len(session.free) > session.n_dense and not gain < CRITERIA.max_gain:
        sentences.append(
            f"The free weights are expected to gain {gain:.1e} more (limit {CRITERIA.max_gain:g}); lower the tolerance."
        )
    singular = singular_directions(matrix, names) if matrix is not None else ()
    for direction in singular:
        sentences.append(
            f"The data carry no information along the direction {direction_words(direction)} (shares of standardised "
            "parameters): fix one of them, drop an effect, or use a simpler covariance."
        )
    if with_information and matrix is None:
        sentences.append("No maximum was confirmed in the allowed rounds; use other starting values.")
    first = len(session.binding.density.beta_names)
    logs = {first + index for index, _, _ in session.binding.density.covariance.log_scales}
    undetermined = []
    if matrix is not None:
        undetermined = [
            k for k, at in enumerate(active) if at in logs and not matrix[k, k] > CRITERIA.least_log_sd_information
        ]
    if undetermined and not singular:
        sentences.append(
            f"The data carry no information on {some([names[k] for k in undetermined])} (the standard error of its "
            "logarithm is above 100): fix the variance, drop the effect, or use a simpler covariance."
        )
    satisfied, description = session.objective.stopping_criterion(session.best, matrix, active, decrement)
    if not singular and not satisfied:
        sentences.append(
            f"Not at the maximum: {description}. The objective may not be smooth there: look at fit.history, try other "
            "starting values."
        )
    return sentences
