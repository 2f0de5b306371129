"""The groups' modes at the end of a round: searched again by the rule of `jn.log_likelihood`, and other modes beside
them."""

from __future__ import annotations

import numpy as np

from jaxnlme.errors import Status
from jaxnlme.estimators.core.objective import GroupValues
from jaxnlme.estimators.marginal.session import Session
from jaxnlme.estimators.marginal.settings import ROUNDS
from jaxnlme.likelihood.mode import first_or_lowest, mode_starts
from jaxnlme.likelihood.settings import MODES


def adopt_modes_of_rule(session: Session) -> bool:
    """Search every mode from the starts of `mode_starts`, and adopt the best ones (`AbstractObjective.mode_ranks`, log
    joint densities); True if one of them is another than that of the session.

    A mode of the session that no start leads to is given up as well: `jn.log_likelihood` would not find it. Its group
    is recorded in `session.modes_not_found_again`; and the distance of another mode of each group in
    `session.second_modes`.
    """
    if not (session.estimator.method.at_mode and session.binding.density.n_effects):
        return False
    n_groups, n_effects = session.binding.data.n_groups, session.binding.density.n_effects
    place = session.objective.evaluator.place_modes
    current = session.best.local_groups
    found = [
        session.objective.search_modes(session.x, place(np.tile(start, (n_groups, 1)))).local_groups
        for start in mode_starts(n_effects)
    ]
    ranks = [_ranks(session, groups) for groups in found]
    rule, modes = _best(found, ranks)
    observed = (session.binding.data.weights != 0) & (current.status != Status.no_observations)
    rank = session.objective.mode_ranks(current)
    gain = np.where(observed, rule - rank, 0.0)
    slack = MODES.gain + MODES.rounding * np.abs(rank)
    session.second_modes = np.where(observed, _second(found, ranks, rule, modes), np.inf)
    session.modes_not_found_again = observed & ~(gain > -slack)
    session.modes_exchanged = observed & np.isfinite(rule) & ~(np.abs(gain) <= slack)
    if not session.processes.any(session.modes_exchanged.any()):
        return False
    adopted = np.where(session.modes_exchanged[:, None], modes, current.modes)
    session.move(session.evaluate(session.x, place(adopted)))
    return True


def _ranks(session: Session, groups: GroupValues) -> np.ndarray:
    """Ranks (groups,) of modes that were found; minus infinity for others."""
    ranks = np.nan_to_num(session.objective.mode_ranks(groups), nan=-np.inf)
    return np.where(groups.status == Status.mode_not_found, -np.inf, ranks)


def _best(found: list[GroupValues], ranks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The highest `ranks` (groups,) of the modes `found`, and these modes (groups, random): the first unless another is
    higher by more than rounding."""
    best, each = first_or_lowest(-np.stack(ranks)), np.arange(len(ranks[0]))
    return np.stack(ranks)[best, each], np.stack([groups.modes for groups in found])[best, each]


def _second(found: list[GroupValues], ranks: list[np.ndarray], best: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Distance (groups,), in log units, of the highest of the other modes `found` from the best; infinite if there is
    no other."""
    gaps = np.full(len(best), np.inf)
    for groups, rank in zip(found, ranks, strict=True):
        other = np.linalg.norm(groups.modes - modes, axis=1) > ROUNDS.distinct_modes
        with np.errstate(invalid="ignore"):
            gap = np.where(other, best - rank, np.inf)
        gaps = np.fmin(gaps, gap)
    return gaps
