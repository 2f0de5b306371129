"""Conditional modes of a stochastic fit at its estimates, checked against the draws of the random effects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnlme.errors import some
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import POST_ESTIMATION
from jaxnlme.likelihood.log_likelihood import modes_of_groups
from jaxnlme.likelihood.mode import ModeSearch, mode_starts
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device


@dataclasses.dataclass(frozen=True)
class Modes:
    """Whitened modes: `modes` (groups, random), the `curvature` there (groups, random, random), and whether the mode of
    each group was `found` (groups,) bool."""

    modes: np.ndarray
    curvature: np.ndarray
    found: np.ndarray


def checked_modes(run: Run, params: Params, chains: Modes, mean: np.ndarray, covariance: np.ndarray) -> Modes:
    """The modes at `params`.

    The modes around which chains draw were searched at earlier parameters. Where one lies further from the draws than
    their spread allows, or was not found, the mode is searched at the estimates: from the starts of `mode_starts` and
    from the mean of the draws. A mode that is still far from them is not the mode of what was drawn, and a mode not
    found is replaced by the mean.

    **Arguments:** `chains`: modes around which the chains draw; `mean`, `covariance`: of the whitened draws (groups,
    random) and (groups, random, random).
    """
    usable = np.isfinite(mean).all(axis=1)
    doubtful = usable & ~(chains.found & _near(chains.modes, mean, covariance))
    result = chains
    if run.placed.processes.any(doubtful.any()) and np.isfinite(np.asarray(params.beta)).all():
        new = _searched(run, params, mean)
        found = np.where(doubtful, new.found & _near(new.modes, mean, covariance), chains.found)
        modes = np.where(doubtful[:, None], new.modes, chains.modes)
        result = Modes(modes, np.where(doubtful[:, None, None], new.curvature, chains.curvature), found)
    return dataclasses.replace(result, modes=np.where((result.found | ~usable)[:, None], result.modes, mean))


def _searched(run: Run, params: Params, mean: np.ndarray) -> Modes:
    """The modes found at `params`, from several starts and the `mean` (groups, random) of the draws."""
    n_groups, n_effects = mean.shape
    fixed = np.broadcast_to(mode_starts(n_effects), (n_groups, *mode_starts(n_effects).shape))
    starts = np.concatenate([fixed, np.nan_to_num(mean)[:, None, :]], axis=1)
    at = (on_device(params), on_device(ModeSearch()), True)
    _, chunks = run.placed.run(modes_of_groups, at, run.placed.scatter(starts), once=True)
    return Modes(*(np.array(run.placed.collect(part)) for part in zip(*chunks, strict=True)))


def _near(modes: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """True for groups (groups,) whose mode is no further from the mean of the draws, in standard deviations of each
    effect, than POST_ESTIMATION.largest_mode_distance."""
    sd = np.sqrt(np.maximum(np.einsum("ikk->ik", covariance), POST_ESTIMATION.least_draws_variance))
    with np.errstate(invalid="ignore"):
        return (np.abs(modes - mean) <= POST_ESTIMATION.largest_mode_distance * sd).all(axis=1)


def unsure_modes_note(labels: Sequence[str]) -> list[str]:
    """A sentence on the groups with `labels` whose modes were not found; none where there are none."""
    if not labels:
        return []
    return [
        f"The mode of the random effects was not found for group {some(labels)}; their random effects are the means of "
        "the draws."
    ]
