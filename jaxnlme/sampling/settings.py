"""Tuning constants of the samplers, in two frozen dataclasses: Markov chains; importance sampling.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ChainSettings:
    """Metropolis-Hastings kernels (`metropolis.py`), chains (`samplers.py`) and control variates
    (`control_variates.py`)."""

    mode_proposal_df: float = 4.0
    """Degrees of freedom of the t proposals around the mode: a chi-squared variable with four is -2 log(u v), u and v
    uniform. The code draws it in this way, and so allows no other number."""
    target_acceptance: float = 0.3
    """Acceptance rate to which the scales of random walks of several coordinates at a time are tuned.

    **Source:** Roberts, Gelman and Gilks (1997), Annals of Applied Probability 7, 110-120: 0.234 in the limit of
    many coordinates; for a few, higher."""
    target_acceptance_single: float = 0.44
    """Acceptance rate to which the scales of random walks of a single coordinate are tuned.

    **Source:** Gelman, Roberts and Gilks (1996), Efficient Metropolis jumping rules, Bayesian Statistics 5."""
    walk_scale: float = 0.8
    """Initial step length of the random walk of all effects, in units of their conditional standard deviations."""
    coordinate_scale: float = 0.5
    """Initial step length of the random walks of pairs and single coordinates, in units of z."""
    mode_steps: int = 30
    """Most evaluations in the search of the conditional mode around which proposals are made."""
    mode_tolerance: float = 1e-3
    """Step, in whitened units, that ends this search: accurate enough for proposals."""
    higher_mode_margin: float = 2.0
    """Excess of the log-density at the mode searched from the mean of the population over that at the mode searched
    from the last one above which it replaces that: two searches for one mode differ by less."""

    most_effects_second_degree: int = 6
    """Models with more random effects use control variates of the first degree only: the number of those of the second
    degree grows with the square of the number of effects."""
    most_effects_first_degree: int = 40
    """Groups with more random effects, those of nested units counted, use sums over units of the control variates of
    the first degree, too."""
    draws_per_control_variate: int = 3
    """Draws for each control variate above which their coefficients are fitted."""
    relative_ridge: float = 1e-8
    """Ridge added to the variances of the control variates in the least-squares fit of the coefficients, relative to
    them."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProposalSettings:
    """Importance sampling (`importance.py`)."""

    degrees_of_freedom: float = 4.0
    """Degrees of freedom of the t-distributed components: heavier tails than Gaussian ones."""
    fraction_at_mode: float = 3 / 8
    """Fraction of the draws around the conditional mode."""
    fraction_population: float = 1 / 8
    """Fraction of the draws from the population, which bounds the weights; the others are from the proposal fitted to
    earlier draws."""
    prior_draws_per_dimension: float = 10.0
    """Weight of the earlier fit of the proposal, in effective draws per (dimension + 1)."""
    least_effective_draws: float = 2.0
    """Effective draws below which the proposal is not refitted: a single draw has no covariance."""
    better_mode_margin: float = 2.0
    """Excess of the log-density of a draw over that at the mode above which it is taken to be near a higher mode."""
    smoothing: float = 0.1
    """Weight of the last iteration in the exponentially smoothed effective fraction of the draws."""


TUNING = ChainSettings()
PROPOSAL = ProposalSettings()
