"""Tuning constants of models bound to data, in two frozen dataclasses: where groups are computed; checks.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PlacementSettings:
    """Shapes of placed groups and threads (`placement.py`), and blocks of groups (`problem.py`)."""

    coarse_bits: int = 3
    """Significant bits of padded sizes where compiling takes longer than computing: padding adds at most a quarter."""
    fine_bits: int = 7
    """Significant bits of padded sizes where computing takes longer: padding adds at most 3% in all."""
    thread_rows: int = 5_000
    """Rows of data for which another thread is used on a CPU, unless the caller gives a number: one program computes
    its blocks of groups on one core."""
    block_rows: int = 3_000
    """Rows that a CPU computes at a time, so that intermediate arrays fit the caches of a core: blocks of 1,500 to
    4,000 rows took the same time, a quarter less than 6,000 rows and a third of 110,000 rows at once."""
    step: float = 1e-3
    """Step of times in padded rows (`continued_columns.py`), as a fraction of the last distance: beyond rounding, and
    short enough that no solver needs further steps for it."""
    least_step: float = 16.0
    """Least such step, in units of rounding of the last time."""
    first_groups: int = 500
    """Groups that are looked at first for whether a column is in order."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CheckSettings:
    """Checks of a covariance matrix given by a user (`user_scale.py`), of one evaluation at the starting values
    (`dry_run.py`, `separability.py`) and of groups that fail (`model_errors.py`)."""

    symmetry: float = 1e-8
    """Largest difference of the two entries of psi for a pair of effects, in units of correlations, that counts as
    rounding."""
    semidefinite: float = 1e-8
    """Largest size of a negative eigenvalue of the correlation matrix that counts as rounding."""
    family: float = 2e-5
    """Largest difference, in units of correlations, of psi from the nearest matrix of the covariance family. A singular
    psi is reproduced with errors of up to 1e-5, the square root of the tolerance for zero pivots in
    `linalg.semidefinite_cholesky`."""
    same_value: float = 1e-8
    """Largest relative difference of two values that are given for one parameter."""

    theta_step: float = 1e-4
    """Step of an entry of theta that shows which elements of psi it changes (`message_names`)."""
    theta_change: float = 1e-2
    """Change of an element, as a fraction of that step, from which on the entry changes it: one of first order."""
    padding_change: float = 1e-8
    """Change of the predictions for the real rows of a group with its padding that counts as rounding, as a fraction of
    the largest prediction."""
    padding_change_of_solver: float = 1e-2
    """The same for a model that calls a solver of differential equations, whose steps depend on the last time: its
    predictions change within its tolerance, 1e-3 where that is coarse. What rows contribute to a mean or to the last
    row is more."""
    padding_rise: float = 1.0
    """Distance from a group's last time to its last padded row in the second evaluation that shows such a change, as a
    fraction of the distance of the last two times: visible in a mean of times, and not far beyond them."""
    probe_size: float = 0.3
    """Whitened effects at which the probe for separable units differentiates the model: inside the bulk of a standard
    normal distribution, and not zero, where derivatives can vanish by symmetry."""
    coupling: float = 1e-9
    """Difference of the derivatives of rows in the parameters of other units that counts as rounding, as a fraction of
    the largest derivative."""
    effect_shifts: tuple[float, ...] = (0.1, -0.2)
    """Whitened effects, beside zero, at which the slopes are evaluated that show which parameters have an effect: at
    zero a slope can vanish by symmetry."""
    most_distances: int = 4
    """Most distances to the previous response of a series for which, in rows, values are shifted (a shift costs as much
    as a sum, a gather ten times that) and, in time, powers and logarithms are computed once for each distance."""
    explained_groups: int = 3
    """Most groups of which rows and operations are looked for when they fail: one is the rule."""
    kink_groups: int = 100
    """Most groups of which a kink under the mode is looked for, at some milliseconds each."""
    kink_step: float = 1e-4
    """Distance, in whitened effects, on either side of a mode at which branches of the model are compared: searches of
    a mode on a kink end much closer to it."""
    moved: float = 1e-3
    """Shift of the individual parameters, as a fraction of their size, that shows whether an argument of zero moves
    with them."""


PLACEMENT = PlacementSettings()
CHECKS = CheckSettings()
