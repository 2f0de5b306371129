"""Tuning constants of likelihoods; the values are choices of this package.

Step limits and tolerances of a mode search are options of each approximation (`approximations.py`, `mode.py`).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModeSettings:
    """Searches of a group's mode from several starts (`mode.py`, and at the end of a fit `estimators/marginal/`)."""

    distances: tuple[float, ...] = (1.5,)
    """Distances of the starts from zero along each effect, in whitened units: two or three hold the highest mode."""
    distances_of_few: tuple[float, ...] = (1.0, 2.0)
    """The same for models with few effects."""
    few_effects: int = 2
    """Effects up to which there are starts at two distances: nine at most."""
    most_axes: int = 4
    """Effects along which there are such starts: nine at most."""
    gain: float = 1e-6
    """Log units by which the joint density at another mode must be higher than at the one found from zero."""
    rounding: float = 1e-10
    """The same, as a fraction of the log joint density: rounding."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IntegrationSettings:
    """Integrals over the random effects (`integrals.py`, `from_draws.py`), their derivatives in one pass
    (`one_pass.py`), and iterative reweighting (`lindstrom_bates.py`)."""

    most_partials: int = 36
    """Largest number of partial derivatives in a jet; with more, differentiating the model itself is cheaper."""
    reweighting_tolerance: float = 1e-9
    """Reweighting has converged when no log residual scale changes by more than this."""
    most_summed_df: int = 20
    """Degrees of freedom up to which a chi-squared variable is drawn as a sum of exponential ones (one for two)."""

    zero_pivot: float = 1e-8
    """Pivots of the correlation matrix of draws below this count as zero: an effect that others determine to eight
    digits comes from a chain that did not move, or from fewer draws than effects."""
    most_points: int = 20_000
    """Largest default number of quadrature points for a group."""
    most_nodes: int = 15
    """Largest default number of quadrature nodes per effect; three effects have 15**3 = 3,375 points."""
    moment_passes: int = 2
    """Passes of quadrature around posterior moments: on Hill curves of 100 subjects at four doses (the first set of
    `hillRich` in `benchmarks/trust_tables`, at the truth) with 12 nodes an effect the log-likelihood is off by 0.8 at
    modes, 0.09 after one pass and 0.04 after two; at two doses (`hillSparse`) by 12, 4 and 3, after three by 2. More
    passes swing where nodes are few."""
    moment_nodes: int = 3
    """Fewest nodes an effect that have a variance between them and outside."""
    least_variance: float = 1e-6
    """Added to posterior variances, in units of the spread of the nodes of that pass: one node may have all the
    weight."""
    batch: int = 100
    """Quadrature points or draws of a group computed at a time, to bound memory."""
    grid_batch: float = 2.5
    """Limit of the points of a product grid computed at a time, in multiples of `batch`: larger than one because only
    powers of the number of nodes divide the grid."""


MODES = ModeSettings()
INTEGRATION = IntegrationSettings()
