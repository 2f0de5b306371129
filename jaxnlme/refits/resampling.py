"""Random parts of a bootstrap: how often each group is drawn, or simulated responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxnlme.binding.limits import check_limits_known
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.refits.refits import Refits
from jaxnlme.refits.settings import BOOTSTRAP
from jaxnlme.results.record import FitRecord
from jaxnlme.results.simulate import as_key, check_sampler, simulate_replicates


def case_weights(labels: list[str], seed: int, replicate: int, strata: np.ndarray) -> np.ndarray:
    """Number of times (groups,) that each group is drawn in one replicate; each stratum keeps its number of groups.

    **Arguments:** `labels`, whose sorted order makes the draws independent of the order of groups; `seed`,
    `replicate`: the key of the random numbers; `strata` (groups,) int, negative for groups that are never drawn.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, replicate], np.uint64)))
    counts = np.zeros(len(labels))
    for level in range(int(strata.max(initial=-1)) + 1):
        members = np.flatnonzero(strata == level)
        members = members[np.argsort(np.array([labels[k] for k in members]), kind="stable")]
        counts[members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)))
    return counts


def resampling_strata(fit: FitRecord, by: Sequence[str]) -> np.ndarray:
    """Stratum (groups,) of each group, the crossed levels of the columns `by`; -1 for a group of weight zero.

    **Raises:** OptionError where a name is not a group-level column.
    """
    data = fit.data
    columns = data.v | {name: column for name, column in data.text.items() if column.ndim == 1}
    for name in by:
        if name not in columns:
            raise OptionError(f"by={name!r} is not a group-level column; {near_matches(str(name), columns)}")
    level = np.zeros(data.n_groups, int)
    for name in by:
        _, code = np.unique(np.asarray(columns[name]).astype(str), return_inverse=True)
        _, level = np.unique(level * (code.max() + 1) + code, return_inverse=True)
    return np.where(data.weights != 0, level, -1)


def case_draws(refits: Refits, seed: int, strata: np.ndarray) -> Callable[[np.ndarray], Problem]:
    """The `overlay` of `Jobs` for resampled groups: weights times the number of draws.

    **Arguments:** `refits` of the fit; `seed`, `strata` (groups,): as of `case_weights`.
    **Returns:** a function from numbers of replicates (jobs,) to a Problem with weights (jobs, groups).
    """
    weights = np.asarray(refits.problem.weights, float)
    labels = [str(label) for label in refits.fit.data.labels]

    def overlay(indices: np.ndarray) -> Problem:
        counts = np.array([case_weights(labels, seed, int(r), strata) for r in indices])
        return refits.overlay(lambda p: p.weights, counts * weights)

    return overlay


def parametric_draws(refits: Refits, seed: int, n: int) -> Callable[[np.ndarray], Problem]:
    """The `overlay` of `Jobs` for `n` replicates of responses simulated from the fit.

    **Arguments:** `refits` of the fit; `seed`, as of `simulate`; `n`, the number of replicates.
    **Returns:** a function from numbers of replicates (jobs,) to a Problem with responses (jobs, groups, obs).
    **Raises:** ModelError where responses cannot be drawn; OptionError where the limits of quantification that they
    may be beyond are not known in every row.
    """
    if refits.binding.data.limits is not None:
        check_limits_known(refits.binding.data, "a parametric bootstrap")
    problem = refits.problem
    check_sampler(problem.density)
    size = min(BOOTSTRAP.replicates_per_draw, n)
    draw = compiled(simulate_replicates, size * problem.n_rows, once=True)
    with x64():  # the random numbers of `simulate`, whatever the session's precision
        problem_and_params = on_device((problem, refits.template))
    blocks: dict[int, list[np.ndarray]] = {}

    def block(k: int) -> list[np.ndarray]:
        if k not in blocks:
            blocks.clear()  # jobs are taken in order
            with x64():
                drawn = draw(*problem_and_params, as_key(seed), np.arange(k * size, (k + 1) * size))
            blocks[k] = [np.asarray(new) for new in drawn]
        return blocks[k]

    def overlay(indices: np.ndarray) -> Problem:
        rows = [[leaf[r % size] for leaf in block(int(r) // size)] for r in indices]
        responses = [np.stack(column) for column in zip(*rows, strict=True)]
        return refits.overlay_responses(responses)

    return overlay
