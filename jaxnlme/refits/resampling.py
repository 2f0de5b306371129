"""What a bootstrap draws: groups by their weights, or responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.refits.refits import Refits
from jaxnlme.results.record import Fit
from jaxnlme.results.simulate import as_key, check_sampler, simulate_responses

# Responses are drawn for so many replicates at once.
DRAWN = 32


def case_weights(labels: list[str], seed: int, replicate: int, strata: np.ndarray) -> np.ndarray:
    """How often each group (groups,) is drawn in one replicate, as many groups of each stratum as it has.

    **Arguments:** `labels`, by whose order the draws are handed out; `strata` (groups,) int, negative: never drawn.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, replicate], np.uint64)))
    counts = np.zeros(len(labels))
    for level in range(int(strata.max(initial=-1)) + 1):
        members = np.flatnonzero(strata == level)
        members = members[np.argsort(np.array([labels[k] for k in members]), kind="stable")]
        counts[members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)))
    return counts


def strata_of(fit: Fit, by: Sequence[str]) -> np.ndarray:
    """The stratum of each group (groups,), crossed levels of the columns `by`; -1 for one of weight zero."""
    data = fit.data
    columns = data.v | {name: column for name, column in data.text.items() if column.ndim == 1}
    for name in by:
        if name not in columns:
            raise OptionError(f"by={name!r} is no group-level column of the data; {near_matches(str(name), columns)}")
    level = np.zeros(data.n_groups, int)
    for name in by:
        _, own = np.unique(np.asarray(columns[name]).astype(str), return_inverse=True)
        _, level = np.unique(level * (own.max() + 1) + own, return_inverse=True)
    return np.where(data.weights != 0, level, -1)


def case_draws(refits: Refits, seed: int, strata: np.ndarray) -> Callable[[np.ndarray], Problem]:
    weights = np.asarray(refits.problem.weights, float)
    labels = [str(label) for label in refits.fit.data.labels]

    def own(indices: np.ndarray) -> Problem:
        counts = np.array([case_weights(labels, seed, int(r), strata) for r in indices])
        return refits.own(lambda p: p.weights, counts * weights)

    return own


def parametric_draws(refits: Refits, seed: int, n: int) -> Callable[[np.ndarray], Problem]:
    problem = refits.problem
    check_sampler(problem.density)
    size = min(DRAWN, n)
    draw = compiled(_draws, size * problem.n_rows, once=True)
    given = on_device((problem, refits.template))
    blocks: dict[int, list[np.ndarray]] = {}

    def block(k: int) -> list[np.ndarray]:
        if k not in blocks:
            blocks.clear()  # jobs are handed out in order
            drawn = draw(*given, as_key(seed), np.arange(k * size, (k + 1) * size))
            seen = [(bucket.x.observed, bucket.y) for bucket in problem.buckets]
            blocks[k] = [np.where(o, np.asarray(new), y) for (o, y), new in zip(seen, drawn, strict=True)]
        return blocks[k]

    def own(indices: np.ndarray) -> Problem:
        rows = [[leaf[r % size] for leaf in block(int(r) // size)] for r in indices]
        responses = [np.stack(column) for column in zip(*rows, strict=True)]
        return refits.own(lambda p: [bucket.y for bucket in p.buckets], responses)

    return own


def _draws(problem: Problem, params: Any, key: Any, replicates: Any) -> Any:
    return jax.vmap(lambda r: simulate_responses(problem, params, jax.random.fold_in(key, r)))(jnp.asarray(replicates))
