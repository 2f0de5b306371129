"""Tuning constants of what follows from a fit, one frozen dataclass for each subject.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InformationMatrixCriteria:
    """Information matrices and standard errors (`inference.py`), and singular psi (`advice.py`)."""

    singular_eigenvalue: float = 1e-8
    """Eigenvalue of an information or correlation matrix (scaled to unit diagonal) below which its direction is called
    singular."""
    least_coefficient: float = 0.1
    """Coefficients of that direction (of length one) below this are not named."""
    coefficients_shown: int = 6
    """Most coefficients of a direction in a sentence."""
    rounding: float = 1e-12
    """Standard error, as a fraction of its value, that is taken for rounding: the value has zero derivatives."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReplicateCriteria:
    """Replicates of a stochastic fit (`stochastic.py`)."""

    same_maximum: float = 0.5
    """Difference of log-likelihoods, beyond Monte Carlo error, up to which two replicates have reached the same
    maximum."""
    mc_errors: float = 3.0
    """Difference that is taken for Monte Carlo error, in sums of the standard errors of the two log-likelihoods."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SimulationSettings:
    """Simulated responses (`simulate.py`)."""

    cells_per_call: int = 2_000_000
    """Responses (replicates x groups x rows) that one call of the compiled program draws, to bound memory; more
    replicates need more calls."""
    first_endpoint_key: int = 2**30
    """Number from which the keys of endpoints with a sampler are folded: beyond any number of rows, whose keys are
    folded from 0 on."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DerivedSettings:
    """Functions of parameters (`derived.py`)."""

    draws: int = 10_000
    """Default number of draws: the Monte Carlo error of a standard error is then 0.7% of it, and of a limit of a 95%
    interval 2.7% of a standard error."""
    cells_per_call: int = 200_000
    """Draws times rows of covariates that are computed at once, to bound memory."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DrawSettings:
    """Draws of parameters and of random effects given the data (`parameter_draws.py`, `effect_draws.py`), and intervals
    of predictions made of them (`predict_interval.py`)."""

    redraws: int = 100
    """Times that draws of parameters which are not valid are replaced before a request is refused."""
    largest_log_se: float = 5.0
    """Largest standard error of an entry on a log scale whose logarithm is drawn from a normal distribution: a wider
    one has values beyond a factor of 10,000 on either side."""
    draws: int = 1000
    """Default number of draws: the coverage of a 95% interval then has a Monte Carlo error of 0.7 percentage points."""
    proposals: int = 4
    """Importance draws of random effects for each draw that is kept."""
    degrees_of_freedom: float = 5.0
    """Of the t proposal around the mode: tails wider than a normal conditional distribution's."""
    least_effective: float = 100.0
    """Effective number of importance draws of a group below which its draws are those of Laplace's approximation."""
    posterior_draws: int = 400
    """Draws of the parameters of a posterior at which random effects that its sampler integrated out are drawn."""
    most_failed: float = 0.01
    """Part of the mode searches at drawn parameters that may fail without a warning."""
    cells_per_call: int = 4_000_000
    """Predictions (groups x draws x rows) that one call of the compiled program computes, to bound memory."""
    most_effects: int = 400_000_000
    """Draws of random effects (groups x draws x effects) in memory at once (3.2 GB)."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SummaryCriteria:
    """The summary (`summary.py`)."""

    largest_ratio: float = 1e8
    """Ratio of the limits of an interval of a positive value above which it is reported as not determined."""
    large_correlation: float = 0.95
    """Absolute correlation of two estimates above which they are named: NONMEM's users look from there on."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DisplaySettings:
    """Text of records (`display.py`, `stochastic_summary.py`)."""

    width: int = 99
    """Columns of a line of text."""
    longest_name: int = 30
    """Most characters of a name in the first column of a table."""
    shortest_name: int = 8
    """Characters that remain of a name that is cut, at least, even where lines become too long."""
    replicate_columns: int = 6
    """Most replicates in one table, so that its lines fit `width`."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AdviceCriteria:
    """Hints on random effects (`advice.py`)."""

    small_sd: float = 2.0
    """Standard deviation, in its standard errors, below which a variance is small: below its own standard error, by the
    delta method se(sd^2) = 2 sd se(sd)."""
    weak_correlation: float = 2.0
    """Correlation, in standard errors, below which it does not differ significantly from zero: about the 97.5% quantile
    of the normal distribution."""


INFORMATION = InformationMatrixCriteria()
REPLICATES = ReplicateCriteria()
SIMULATION = SimulationSettings()
DERIVED = DerivedSettings()
DRAWS = DrawSettings()
SUMMARY = SummaryCriteria()
DISPLAY = DisplaySettings()
ADVICE = AdviceCriteria()
