"""The published list of hard fits: every table is fixed by a seed or is a published one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from trust_tables.hard_fit_kinds import (
    SINGULAR,
    ZERO,
    Made,
    at_optimum,
    bioavailability,
    changed,
    circadian,
    duplicate_column,
    dyestuff2,
    extreme,
    far,
    flip_flop,
    huge_count,
    igf,
    late_samples,
    low_doses,
    nan_group,
    nested,
    one_group,
    one_row,
    published_nested,
    scaled,
    separation,
    shifted_group,
    short,
    single_rows,
    spoiled,
)
from trust_tables.problem import HardFit

_LOG = lambda *values: tuple(map(float, np.log(values)))  # noqa: E731
_MADE: list[Made] = [
    *(functools.partial(at_optimum, key, seed) for seed, key in enumerate(
        ("oral", "biexponential", "logistic", "emax", "line", "poisson"), 101)),
    functools.partial(far, "oral", "ten times off, down", 201, _LOG(0.15, 0.3, 3.0)),
    functools.partial(far, "oral", "ten times off, up and down", 202, _LOG(15.0, 0.3, 300.0)),
    functools.partial(far, "biexponential", "all ones", 203, (0.0, 0.0, 0.0, 0.0)),
    functools.partial(far, "logistic", "all ten times too large", 204, (2000.0, 7000.0, 3000.0)),
    functools.partial(far, "emax", "ED50 a hundred times too large", 205, (5.0, *_LOG(30.0, 2000.0))),
    functools.partial(far, "line", "wrong signs, hundredfold SDs", 206, (-100.0, -20.0), 100.0),
    functools.partial(far, "bernoulli", "base 6, slope 3", 207, (6.0, 3.0), 5.0),
    functools.partial(changed, "line", "correlation of 1", SINGULAR, 301, correlation=1.0),
    functools.partial(changed, "emax, full psi", "correlation of 1", SINGULAR, 302, correlation=1.0),
    functools.partial(changed, "emax, full psi", "correlation of -1", SINGULAR, 303, correlation=-1.0),
    igf,
    functools.partial(changed, "oral", "no variance of the volume", ZERO, 311, sds={"vol": 0.0}),
    functools.partial(changed, "logistic", "no variance of the midpoint", ZERO, 312, sds={"mid": 0.0}),
    functools.partial(changed, "biexponential", "no variance of k1", ZERO, 313, sds={"k1": 0.0}),
    functools.partial(changed, "poisson", "no variance between groups", ZERO, 314, sds={"base": 0.0}),
    dyestuff2,
    functools.partial(bioavailability, 401),
    functools.partial(low_doses, 402, True),
    functools.partial(low_doses, 402, False),
    functools.partial(duplicate_column, 403),
    functools.partial(single_rows, 404),
    functools.partial(separation, 405),
    functools.partial(nan_group, "oral", "y", 501),
    functools.partial(nan_group, "oral", "t", 502),
    functools.partial(nan_group, "line", "y", 503),
    functools.partial(nan_group, "poisson", "y", 504),
    functools.partial(circadian, 601, "from the right hour", (9.0, 2.0, 13.0)),
    functools.partial(circadian, 602, "from nine hours off", (9.0, 2.0, 5.0)),
    functools.partial(late_samples, 603),
    functools.partial(flip_flop, 701, "start with ka below ke", (1.5, 3.0, 30.0), (0.1, 3.0, 2.0)),
    functools.partial(flip_flop, 702, "truth with ka below ke", (0.12, 6.0, 8.0), (1.5, 3.0, 30.0)),
    *(functools.partial(short, key, seed) for seed, key in enumerate(("oral", "logistic", "poisson"), 801)),
    functools.partial(scaled, "oral", "response in 1e-6", 901, y=1e6),
    functools.partial(scaled, "oral", "response in 1e+6", 902, y=1e-6),
    functools.partial(scaled, "logistic", "response and age in 1e-6", 903, y=1e6, t=1e6),
    functools.partial(scaled, "emax", "dose in 1e+6", 904, t=1e-6),
    functools.partial(scaled, "line", "response in 1e+6, t in 1e-6", 905, y=1e-6, t=1e6),
    functools.partial(spoiled, "oral", "one row ten times as high", 911, one_row),
    functools.partial(spoiled, "logistic", "one group three times as high", 912, one_group),
    functools.partial(spoiled, "line", "one group shifted by 30 SDs", 913, shifted_group),
    functools.partial(spoiled, "poisson", "one count of 200", 914, huge_count),
    functools.partial(nested, "both variances small", 921, 0.05, 0.05),
    functools.partial(nested, "no outer variance", 922, 0.0, 0.7),
    functools.partial(nested, "no inner variance", 923, 0.7, 0.0),
    functools.partial(published_nested, "Pastes", "batch", "cask", "strength", None, (60.0, 0.0, 1.1, 2.9, 0.8)),
    functools.partial(published_nested, "Oats", "Block", "Variety", "yield", "nitro", (81.9, 73.7, 14.0, 10.0, 12.9)),
    functools.partial(extreme, "ordinal", "SD of 4 between groups", 931, 4.0),
    functools.partial(extreme, "ordinal", "two thirds of the groups constant", 932, 1.0, True),
    functools.partial(extreme, "bernoulli", "SD of 4 between groups", 933, 4.0),
    functools.partial(extreme, "bernoulli", "two thirds of the groups constant", 934, 1.0, True),
]  # fmt: skip


def fits(containing: list[str] | None = None) -> Iterator[HardFit]:
    """The fits whose name or kind contains one of these; all without. Kinds take turns, so that an interrupted run has
    some of each; curves with three random effects, which cost most, come after the others, and those whose start has
    to be computed last. Tables that no folder has are left out."""
    computed = [make for make in _MADE if getattr(make, "func", None) is at_optimum]
    turns: dict[str, int] = {}
    ordered = []
    for fit in (make() for make in _MADE if make not in computed):
        if fit is not None:
            turns[fit.hardness] = turns.get(fit.hardness, 0) + 1
            ordered.append((turns[fit.hardness], fit))
    made = (fit for _, fit in sorted(ordered, key=lambda pair: (len(pair[1].random) > 2, pair[0])))
    for fit in itertools.chain(made, (make() for make in computed)):
        if fit is not None and (not containing or any(part in f"{fit.name} | {fit.hardness}" for part in containing)):
            yield fit
