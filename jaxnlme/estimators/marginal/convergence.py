"""Convergence assessment of a fit: converged or not, and the sentences that give the reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxnlme.binding.model_errors import kink_sentence, non_finite_sentence, solver_sentence
from jaxnlme.binding.user_scale import message_names, psi_of
from jaxnlme.errors import Status, some
from jaxnlme.estimators.core.correlation_bounds import bound_sentences
from jaxnlme.estimators.core.zero_variances import vanished_parts, zero_sentences
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import CRITERIA, ROUNDS
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.integrals import Gaussian
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
    # What is wrong with the groups explains what is wrong at the end, so it comes first.
    of_groups = [*_failed_groups(session), *_uncertain_modes(session)]
    failures: list[str] = []
    if session.interrupted:
        failures.append("Interrupted by the user: this is the best point so far, not a maximum.")
    if session.stopped:
        failures.append("Stopped by a callback: this is the point reached, not a maximum.")
    failures += of_groups
    if not np.isfinite(session.best.value):
        failures += session.objective.failures(session.best) or [
            "The objective is not finite; see status.groups for the groups concerned."
        ]
    elif session.out_of_iterations and not session.halted:
        failures.append(_out_of_iterations(session))
    elif not (session.halted or of_groups):
        failures += _convergence_failures(session, matrix, active, decrement, with_information)
    of_error = first + density.covariance.n_unconstrained
    at_bound, uncorrelated = bound_sentences(session.binding, session.x, session.processes)
    if not session.halted and not of_groups and at_bound:
        failures = at_bound
    theta = session.x[first:of_error]
    at_zero = zero_sentences(density, theta, session.zeroed, not failures)
    if failures:
        sentences = ["NOT CONVERGED.", *failures]
    else:
        sentences = [_converged(session, matrix, active, decrement)]
    sentences += _second_modes(session)
    parts = vanished_parts(session.binding, session.x, session.processes)
    sentences += [] if failures else uncorrelated
    sentences += [] if failures else [part.sentence(np.exp(session.x[part.entry])) for part in parts]
    if not with_information and not failures:
        sentences.append(
            "The information matrix was not asked for: the maximum is assessed by the minimiser's own metric."
        )
    weights = int(session.free[session.n_dense :].sum())
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
        parts.append("every group's mode was found, and found again by searches from zero and around it")
    return f"Converged: {'; '.join(parts)}."


def _failed_groups(session: Session) -> list[str]:
    """One sentence for each status under which the computation of groups failed."""
    codes = session.best.local_groups.status
    has_weight = session.binding.data.weights != 0
    all_codes = {code for codes in session.processes.gather(set(codes[has_weight].tolist())) for code in codes}
    sentences = []
    for code in sorted(all_codes - {int(Status.ok), int(Status.no_observations)}):
        which = has_weight & (codes == code)
        if code in (Status.mode_not_found, Status.not_a_maximum):
            flat = which & _is_flat(session)
            if labels := _labels(session, flat):
                sentences.append(_flat_modes(labels))
                which = which & ~flat
                if not session.processes.any(which.any()):
                    continue
        look_for = kink_sentence if code == Status.mode_not_found else non_finite_sentence
        because = _errors_of_model(session, look_for, groups=which)
        on_kink = because and code == Status.mode_not_found
        sentence = "The conditional mode was not found." if on_kink else Status(code).sentence
        if code == Status.mode_not_found and not because:
            because = _errors_of_model(session, solver_sentence)
        sentences.append(f"Group {_labels(session, which)}: {sentence}{because}")
    return sentences


def _is_flat(session: Session) -> np.ndarray:
    """True (groups,) where the Hessian at the mode, from which Laplace's approximation is computed, is nearly singular
    or has a negative eigenvalue."""
    curvature = session.best.local_groups.curvature
    method = session.estimator.method
    is_laplace = isinstance(method, LikelihoodApproximation) and method.curvature == "exact"
    if not (is_laplace and isinstance(method.integral, Gaussian)) or curvature is None:
        return np.zeros(len(session.binding.data.weights), bool)
    finite = np.isfinite(curvature).all(axis=(1, 2))
    smallest = np.linalg.eigvalsh(np.where(finite[:, None, None], curvature, np.eye(curvature.shape[-1])))[:, 0]
    return finite & (smallest < ROUNDS.flat_mode)


def _flat_modes(labels: str) -> str:
    """The sentence on groups whose mode is flat."""
    return (
        f"Group {labels}: the joint density is flat along a direction at its mode, where that mode merges with another "
        "point of slope zero. The determinant of the Hessian is zero there and Laplace's approximation has no upper "
        "bound, so that the fit goes to such a point rather than to a maximum: use 'focei', jn.AGQ(..., "
        "curvature='gauss-newton'), importance sampling or SAEM."
    )


def _errors_of_model(session: Session, *look_for: Callable[..., str], groups: np.ndarray | None = None) -> str:
    """Text of the functions `look_for` of `model_errors` on `groups` (groups,) bool, by default those of weight other
    than zero, to append to a sentence; of all processes."""
    which = session.binding.data.weights != 0 if groups is None else groups
    modes = session.best.local_groups.modes
    found = [error(session.binding, session.params(), modes, which) for error in look_for]
    texts = [text for texts in session.processes.gather(found) for text in texts if text]
    return "".join(f" {text}" for text in texts[:1])


def _predicted_gain(session: Session) -> float:
    """The gain of a further step that the minimiser predicts, in log-likelihood units."""
    return float(session.state.bfgs.decrement) if session.state is not None else np.inf


def _out_of_iterations(session: Session) -> str:
    """The sentence on a fit that used up its iterations."""
    gain = _predicted_gain(session)
    expected = f", with {gain:.1e} log-likelihood units still expected to be gained" if np.isfinite(gain) else ""
    return (
        f"The {int(session.estimator.max_iterations)} iterations allowed were used up{expected}; raise max_iterations, "
        "or use other starting values."
    )


def _uncertain_modes(session: Session) -> list[str]:
    """Sentences on groups whose modes would not be found again from other starts at these parameters."""
    sentences = []
    if labels := _labels(session, session.modes_exchanged):
        sentences.append(
            f"Group {labels}: the fit goes back and forth between modes of the random effects that are nearly as good; "
            "a likelihood approximated at one mode is not smooth there. Use quadrature with more nodes (jn.AGQ), "
            "importance sampling or SAEM, or other starting values."
        )
    lost = session.modes_not_found_again & ~session.modes_exchanged
    if labels := _labels(session, lost & (session.best.local_groups.status == Status.ok)):
        sentences.append(
            f"Group {labels}: the mode of the random effects was not found again by searches from zero and around it; "
            f"use other starting values, or more `mode_steps`.{_errors_of_model(session, solver_sentence)}"
        )
    return sentences


def _second_modes(session: Session) -> list[str]:
    """A sentence on groups with another mode of nearly the same joint density; none where there are none."""
    labels = _labels(session, session.second_modes < ROUNDS.second_mode)
    if not labels:
        return []
    return [
        f"Group {labels}: another mode of the random effects is nearly as good (less than {ROUNDS.second_mode:g} log "
        "units lower), and an approximation at one mode leaves it out: compare with quadrature with more nodes "
        "(jn.AGQ), importance sampling or SAEM."
    ]


def _labels(session: Session, which: np.ndarray) -> str:
    """The labels of the groups `which` (groups,) bool, of every process, as text."""
    labels = [str(label) for label in session.binding.data.labels[which]]
    return some([label for labels in session.processes.gather(labels) for label in labels])


def _singular_in_the_limit(session: Session) -> str:
    """A sentence on a psi that is singular but for rounding, in a structure whose parameters reach a singular one only
    in the limit; empty where it is not. (Where each effect has a log standard deviation of its own, given those before
    it, psi is singular where one of these is minus infinity.)"""
    density, first = session.binding.density, len(session.binding.density.beta_names)
    covariance = density.covariance
    within = slice(first, first + covariance.n_unconstrained)
    single = {effects[0] for _, effects, _ in covariance.log_scales if len(effects) == 1}
    pairs = [pair for pair in covariance.correlated_pairs if not single.issuperset(pair)]
    theta = session.x[within]
    if not pairs or not session.free[within].any() or not np.isfinite(theta).all():
        return ""
    psi = psi_of(density, theta)
    sd = np.sqrt(np.diag(psi))
    if not (np.isfinite(psi).all() and (sd > 0).all()):
        return ""
    correlation = psi / np.outer(sd, sd)
    if np.linalg.eigvalsh(correlation)[0] > CRITERIA.singular_correlation:
        return ""
    j, k = max(pairs, key=lambda pair: abs(correlation[pair]))
    value = correlation[j, k]
    of_pair = f" (the correlation of {density.effect_names[j]} and {density.effect_names[k]} is {value:.7f})"
    return (
        f"Psi becomes singular{of_pair if abs(value) > CRITERIA.named_correlation else ''}: the log-likelihood rises "
        "towards a limit that this covariance structure does not reach, and there may be a higher maximum elsewhere. "
        "Try starts='pooled' or 'multi', covariance='full' (where a singular psi is a result) or 'diagonal', or leave "
        "out a random effect."
    )


def _convergence_failures(
    session: Session, matrix: np.ndarray | None, active: np.ndarray, decrement: float, with_information: bool
) -> list[str]:
    """Sentences with the reasons why the point is not a maximum; arguments as of `assess`."""
    if sentence := _singular_in_the_limit(session):
        return [sentence]
    names = message_names(session.binding, active)
    sentences = []
    gain = _predicted_gain(session)
    if len(session.free) > session.n_dense and not gain < CRITERIA.max_gain:
        sentences.append(
            f"The free weights are expected to gain {gain:.1e} more (limit {CRITERIA.max_gain:g}); lower the tolerance."
        )
    if matrix is not None and not np.isfinite(matrix).all():
        without = some([name for name, row in zip(names, matrix, strict=True) if not np.isfinite(row).all()])
        return [
            f"The second derivatives of the log-likelihood in {without} are not finite at the end, so that it is not "
            f"known to be a maximum.{_errors_of_model(session, non_finite_sentence, kink_sentence)}"
        ]
    singular = singular_directions(matrix, names) if matrix is not None else ()
    for direction in singular:
        sentences.append(
            f"Here the data carry no information along the direction {direction_words(direction)} (shares of "
            "standardised parameters). After a start far from the data: try other starting values, or starts='pooled' "
            "or 'multi'. Otherwise fix one of these parameters, drop an effect, or use a simpler covariance."
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
    if (sentences or not satisfied) and (kink := _errors_of_model(session, kink_sentence)):
        # On a kink the differences behind the information mean nothing.
        return [f"Not at a maximum that can be confirmed.{kink}"]
    if not singular and not satisfied and (np.isfinite(decrement) or not sentences):
        sentences.append(
            f"Not at the maximum: {description}. The objective may not be smooth there: look at fit.history, try other "
            f"starting values.{_errors_of_model(session, solver_sentence)}"
        )
    return sentences
