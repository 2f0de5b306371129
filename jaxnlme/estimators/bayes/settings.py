"""Tuning constants of posterior sampling, one frozen dataclass for each subject.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SamplingCriteria:
    """Checks of the chains at the end (`convergence.py`)."""

    largest_rhat: float = 1.01
    """Rank-normalised split R-hat. Vehtari et al. (2021), Bayesian Analysis 16, 667-718."""
    least_ess_per_chain: float = 100.0
    """Effective draws, in the bulk and in the tails, for each chain; the same source."""
    most_divergent: float = 0.001
    """Part of the draws whose trajectory diverged, above which the posterior counts as not explored; fewer are named
    in a note."""
    least_bfmi: float = 0.3
    """Energy fraction of missing information. Betancourt (2016), arXiv:1604.00695, and the limit of Stan."""
    most_saturated: float = 0.1
    """Part of the draws whose trajectory had the greatest length allowed, above which chains are slow to move."""
    most_effects: int = 500
    """Random effects whose R-hat is computed: 1 ms each."""
    largest_pareto_k: float = 0.7
    """Shape of the tail of importance ratios. Vehtari et al. (2024), Journal of Machine Learning Research 25, 72."""
    least_groups: int = 3
    """Groups from which on a flat prior on a standard deviation has a proper posterior. Gelman (2006), Bayesian
    Analysis 1, 515-534."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RunSettings:
    """The run (`run.py`) and its start (`scaling.py`)."""

    block: int = 50
    """Steps of all chains in one call of the compiled program; between calls progress is shown, and Ctrl-C is
    noticed."""
    dispersion: float = 1.5
    """Standard deviation of initial positions, in posterior standard deviations of the information at the start:
    overdispersed, so that R-hat notices chains that have not mixed."""
    start_attempts: int = 12
    """Initial positions tried for a chain, each with 2/3 of the dispersion of the one before."""
    initial_step: float = 0.5
    """First step size, in the coordinates of `scaling.py`, where the posterior has about unit scale."""
    least_rows: int = 10_000
    """Rows of data (of all chains) that the choice of compiler options assumes at least: without fusion emitters the
    program of a block compiles in 0.6 of the time and runs as fast (theophylline)."""
    most_stored_effects: int = 20_000_000
    """Draws of random effects (draws x groups x effects) that are kept; beyond that, every k-th draw."""
    collapsed_effect_draws: int = 400
    """Draws of the parameters at which random effects are drawn given the data, where the chains leave them out."""
    least_flat_eigenvalue: float = 1e-10
    """Eigenvalue of the Gram matrix of the reported values in the free parameters (unit diagonal) below which some of
    these have no reported value."""
    cells_per_call: int = 4_000_000
    """Draws times random effects that are converted at once, to bound memory."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PathfinderSettings:
    """Pathfinder (`pathfinder.py`)."""

    memory: int = 10
    """Pairs of steps and gradients behind an approximation of the Hessian: blackjax's default."""
    elbo_draws: int = 50
    """Draws that choose the point of a path by its evidence lower bound."""
    pool: int = 2
    """Proposals, of all paths, for each draw that is kept."""
    most_line_search: int = 30
    """Steps of a line search: the coordinates have unit scale."""


CRITERIA = SamplingCriteria()
RUN = RunSettings()
PATHFINDER = PathfinderSettings()
