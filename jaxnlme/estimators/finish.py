"""From the end of a minimisation to a verdict: boundaries, fresh modes, information, the last Newton steps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from jaxnlme.errors import Status
from jaxnlme.estimators.objective import Evaluation
from jaxnlme.estimators.session import Session
from jaxnlme.model.model import psi_of
from jaxnlme.results.inference import singular_directions

# Predicted gain (log-likelihood units) below which an estimate counts as the maximum.
CONVERGED = 1e-6
# A log standard deviation with less curvature than this may be on its way to minus infinity.
FLAT = 10.0
ROUNDS = 8


@dataclasses.dataclass
class Verdict:
    """`converged`, `sentences` that say why (not), `matrix` (active, active) the information or None, `active` packed
    indices, `at_zero`, descriptions of the zero variances, `decrement`, the predicted gain of a Newton step."""

    converged: bool
    sentences: list[str]
    matrix: np.ndarray | None
    active: np.ndarray
    at_zero: list[str]
    decrement: float


def finish(session: Session, with_information: bool) -> Verdict:
    """Minimises, and looks at the end as DESIGN's contract asks; reopens the fit where something better is found.

    Each round: minimise; search all modes afresh from z = 0 and adopt better ones; information matrix; variances that
    vanish are set to exactly zero and decided by the score there; a direction of negative curvature is followed down;
    Newton steps with the information matrix until the predicted gain is below 1e-6.
    """
    collapsed: set[int] = set()
    try:
        matrix, decrement = _rounds(session, with_information, collapsed)
    except KeyboardInterrupt:
        session.interrupted = True
        matrix, decrement = None, np.inf
    active = np.flatnonzero(session.free[: session.dense])
    return _judge(session, matrix, active, decrement, collapsed, with_information)


def _rounds(session: Session, with_information: bool, collapsed: set[int]) -> tuple[np.ndarray | None, float]:
    """The rounds of `finish`: the information matrix at the end (None where it was not reached) and the decrement.
    `collapsed` collects the packed indices of variances at zero."""
    kept: set[int] = set()
    for _ in range(ROUNDS):
        session.minimise()
        if session.halted or not np.isfinite(session.best.value):
            return None, np.inf
        if _fresh_modes(session):
            continue
        if not with_information:
            return None, float(session.state.bfgs.decrement) if session.state else np.inf
        active = np.flatnonzero(session.free[: session.dense])
        matrix = session.hessian(active)
        if _collapse(session, active, matrix, collapsed, kept):
            continue
        if _reopen(session, collapsed, kept):
            continue
        if _follow_negative_curvature(session, active, matrix):
            continue
        return matrix, _newton_steps(session, active, matrix)
    return None, np.inf


def _fresh_modes(session: Session) -> bool:
    """Searches every mode from z = 0; adopts better ones and returns True where there was one."""
    fresh = session.evaluate(session.x, session.zero_modes())
    better = np.asarray(fresh.values) > np.asarray(session.best.values) + 1e-6
    better &= np.asarray(fresh.status) == Status.ok
    if not better.any():
        return False
    modes = np.where(better[:, None], np.asarray(fresh.modes), np.asarray(session.best.modes))
    session.move(session.x, session.evaluate(session.x, modes))
    return True


def _collapse(session: Session, active: np.ndarray, matrix: np.ndarray, collapsed: set[int], kept: set[int]) -> bool:
    """Sets variances that have gone to zero to exactly zero, where that costs no likelihood; True where one was."""
    density = session.binding.density
    first = len(density.beta_names)
    last = first + density.covariance.n_unconstrained
    curvature = dict(zip(active.tolist(), np.diag(matrix), strict=True))
    changed = False
    for index, _, _ in density.covariance.collapses:
        place = first + index
        if place in collapsed or place in kept or not curvature.get(place, np.inf) < FLAT:
            continue
        x = session.x.copy()
        x[place] = -np.inf
        x[first:last] = density.covariance.from_matrix(psi_of(density, x[first:last]))
        zeros = {first + i for i, _, _ in density.covariance.collapses if x[first + i] == -np.inf}
        trial = session.evaluate(x, session.best.modes)
        if not zeros or not float(trial.value) <= float(session.best.value) + 1e-4:
            continue
        collapsed |= zeros
        _fix(session, collapsed)
        session.move(x, trial)
        changed = True
    return changed


def _fix(session: Session, collapsed: set[int]) -> None:
    """Frees all that the user left free, but for the collapsed variances and what has no effect beside them."""
    density = session.binding.density
    first = len(density.beta_names)
    session.free[: session.dense] = ~session.binding.fixed
    for index, _, others in density.covariance.collapses:
        if first + index in collapsed:
            session.free[[first + index, *(first + o for o in others)]] = False


def _reopen(session: Session, collapsed: set[int], kept: set[int]) -> bool:
    """The score at the boundary: where the likelihood rises as a zero variance grows, frees it again."""
    density = session.binding.density
    first = len(density.beta_names)
    start = np.asarray(session.binding.start.covariance)
    slopes: dict[int, float] = {}
    sds: dict[int, float] = {}
    for place in sorted(collapsed):
        x = session.x.copy()
        reference = start[place - first]
        x[place] = (reference if np.isfinite(reference) else 0.0) + np.log(0.01)
        trial = session.evaluate(x, session.best.modes)
        # d(objective)/d(log sd) is 2 psi times the score of the variance, with the sign turned.
        slopes[place] = float(trial.gradient[place])
        sds[place] = np.exp(x[place])
        if slopes[place] < -1e-7 and float(trial.value) < float(session.best.value) - 1e-9:
            return _free_again(session, collapsed, kept, x, trial)
    effects = {first + k: which[0] for k, which, _ in density.covariance.collapses if len(which) == 1}
    zero = {effects[place]: (sds[place], max(slopes[place], 1e-12)) for place in slopes if place in effects}
    theta = session.x[first : first + density.covariance.n_unconstrained]
    for psi in _mixtures(psi_of(density, theta), density.covariance.related, zero):
        x = session.x.copy()
        x[first : first + len(theta)] = density.covariance.from_matrix(psi)
        trial = session.evaluate(x, session.best.modes)
        if float(trial.value) < float(session.best.value) - 1e-9:
            return _free_again(session, collapsed, kept, x, trial)
    return False


def _mixtures(
    psi: np.ndarray, related: Sequence[tuple[int, int]], zero: dict[int, tuple[float, float]]
) -> Iterator[np.ndarray]:
    """The psi nearby that no single variance reaches from zero; `zero`: effect to (small sd, score of log sd).

    Of two effects at zero, w w' with w a mixture weighted by 1 / sqrt(score): the pair decides exactly whether their
    2 x 2 block of scores is negative definite. Of one at zero, a share of another effect added to it: a first-order
    change of a covariance, which a triangular factor with a zero on its diagonal does not contain.
    """
    for pair, size, sign in itertools.product(related, (1.0, 10.0), (1.0, -1.0)):
        if all(k in zero for k in pair):
            least = min(zero[k][1] for k in pair)
            w = np.zeros(len(psi))
            w[list(pair)] = [size * zero[k][0] * np.sqrt(least / zero[k][1]) for k in pair]
            w[pair[1]] *= sign
            yield psi + np.outer(w, w)
        for k, other in (pair, pair[::-1]):
            if k in zero and other not in zero and psi[other, other] > 0:
                mix = np.eye(len(psi))
                mix[k, other] = sign * size * zero[k][0] / np.sqrt(psi[other, other])
                yield mix @ psi @ mix.T


def _free_again(session: Session, collapsed: set[int], kept: set[int], x: np.ndarray, trial: Evaluation) -> bool:
    """Moves to `x`, where some variances that were zero are not, and frees those."""
    density = session.binding.density
    places = [len(density.beta_names) + k for k, _, _ in density.covariance.collapses]
    kept |= {place for place in collapsed if np.isfinite(x[place])}
    collapsed.clear()
    collapsed |= {place for place in places if x[place] == -np.inf}
    _fix(session, collapsed)
    session.move(x, trial)
    return True


def _follow_negative_curvature(session: Session, active: np.ndarray, matrix: np.ndarray) -> bool:
    """From a saddle: moves along the most negative direction to where the objective is lower; True where it was."""
    if not len(active) or not np.isfinite(matrix).all():
        return False
    scale = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-12))
    values, vectors = np.linalg.eigh(matrix * np.outer(scale, scale))
    if values[0] > -1e-6:
        return False
    # Nearly flat entries have a long scale: a log standard deviation may move by one at most.
    logs = [len(session.binding.density.beta_names) + k for k, _, _ in session.binding.density.covariance.collapses]
    direction = scale * vectors[:, 0]
    direction /= np.max(np.abs(direction[np.isin(active, logs)]), initial=1.0)
    for length in (1.0, 0.3, 0.1):
        for sign in (1.0, -1.0):
            x = session.x.copy()
            x[active] += sign * length * direction
            trial = session.evaluate(x, session.best.modes)
            if float(trial.value) < float(session.best.value) - 1e-6:
                session.move(x, trial)
                return True
    return False


def _newton_steps(session: Session, active: np.ndarray, matrix: np.ndarray) -> float:
    """Newton steps with the information matrix at hand; returns the decrement at the last point."""
    if not len(active):
        return 0.0
    if singular_directions(matrix, [str(k) for k in active]):
        return np.inf
    decrement = np.inf
    for _ in range(4):
        gradient = np.asarray(session.best.gradient)[active]
        step = -np.linalg.solve(matrix, gradient)
        decrement = float(-0.5 * gradient @ step)
        if decrement < 1e-3 * CONVERGED:
            break
        x = session.x.copy()
        x[active] += step
        trial = session.evaluate(x, session.best.modes)
        if not float(trial.value) <= float(session.best.value) + 1e-9 * abs(float(session.best.value)):
            break
        session.x, session.best = x, trial
    return decrement


def _judge(
    session: Session,
    matrix: np.ndarray | None,
    active: np.ndarray,
    decrement: float,
    collapsed: set[int],
    with_information: bool,
) -> Verdict:
    binding = session.binding
    at_zero = _zero_sentences(session, collapsed)
    bad: list[str] = []
    if session.interrupted:
        bad.append("Interrupted by the user: this is the best point so far, not a maximum.")
    if session.stopped:
        bad.append("Stopped by a callback: this is the point reached, not a maximum.")
    if not np.isfinite(float(session.best.value)):
        bad.append("The objective is not finite; see status.groups for the groups concerned.")
    elif not session.halted:
        bad += _numerical_faults(session, matrix, active, decrement, with_information)
    codes = np.asarray(session.best.status)
    lost = np.flatnonzero((codes != Status.ok) & (np.asarray(session.problem.weights) != 0))
    if len(lost):
        labels = ", ".join(str(label) for label in binding.data.labels[lost][:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        bad.append(f"Group {labels}{more}: {Status(int(codes[lost[0]])).sentence}")
    if bad:
        verdict = ["NOT CONVERGED.", *bad]
    else:
        what = "the information matrix is positive definite, " if matrix is not None else ""
        verdict = [
            f"Converged: a further step is expected to gain {decrement:.1e} log-likelihood units, {what}"
            "and every group's mode was found again from zero."
        ]
    if not with_information and not bad:
        verdict.append("The information matrix was not asked for: the maximum is judged by the minimiser's own metric.")
    return Verdict(not bad, [*verdict, *at_zero], matrix, active, at_zero, decrement)


def _numerical_faults(
    session: Session, matrix: np.ndarray | None, active: np.ndarray, decrement: float, with_information: bool
) -> list[str]:
    names = [session.binding.packed_names[k] for k in active]
    out = []
    state = session.state
    if state is not None and int(state.bfgs.iterations) >= int(session.estimator.max_iterations):
        out.append(
            f"The {int(state.bfgs.iterations)} iterations allowed were used up; raise max_iterations, or start "
            "elsewhere."
        )
    singular = singular_directions(matrix, names) if matrix is not None else ()
    for direction in singular:
        terms = " ".join(f"{share:+.2f} {name}" for name, share in list(direction.items())[:6])
        out.append(
            f"The data carry no information along the direction {terms} (shares of standardised parameters): fix one "
            "of them, drop an effect, or use a simpler covariance."
        )
    if with_information and matrix is None:
        out.append("No maximum was settled on in the allowed rounds; start from other values.")
    if not singular and not decrement < CONVERGED:
        out.append(
            f"A further step is still expected to gain {decrement:.1e} log-likelihood units (limit {CONVERGED:g}); the "
            "likelihood may be rough there: look at fit.history, try other starting values."
        )
    return out


def _zero_sentences(session: Session, collapsed: set[int]) -> list[str]:
    density = session.binding.density
    first = len(density.beta_names)
    psi = psi_of(density, session.x[first : first + density.covariance.n_unconstrained]) if density.n_effects else None
    out = []
    for index, effects, _ in density.covariance.collapses:
        if first + index not in collapsed or psi is None:
            continue
        names = ", ".join(density.effect_names[k] for k in effects)
        if all(psi[k, k] == 0.0 for k in effects):
            out.append(
                f"The variance of the random effect of {names} is estimated as zero: the likelihood falls as it grows "
                "from zero (score at the boundary). The effect can be dropped."
            )
        else:
            out.append(
                f"Psi is singular: the random effect of {names} is a linear function of the effects before it "
                "(conditional variance zero). A simpler covariance fits as well."
            )
    return out
