"""Tuning constants of refits, one frozen dataclass for each kind of analysis and for the minimiser that they share.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RefitSettings:
    """One refit (`refits.py`, `zero_variances.py`, `profile_trace.py`)."""

    tolerance: float = 1e-12
    """Predicted gain of a further step (log-likelihood units) at which a refit ends, about a millionth of a standard
    error from its maximum. A fit ends with Newton steps by its information matrix; a refit gets as close by the last
    steps of its minimiser, which converges superlinearly."""
    small_sd: float = 0.1
    """Standard deviation, as a fraction of its start, below which a refit with that variance at zero is tried."""
    restarted_sd: float = 0.3
    """Standard deviation, as a fraction of its start, at which one of exactly zero is started again."""
    cost_of_zero: float = 1e-4
    """Largest loss of log-likelihood units accepted for a rerun with a small variance at exactly zero."""
    least_gain: float = 1e-6
    """Gain (log-likelihood units) for which a rerun, from larger variances or from new modes, replaces a refit."""
    restarted_variance: float = 0.1
    """Entry on the diagonal of the initial inverse Hessian for a log standard deviation started again."""
    other_variance: float = 1.0
    """The same for other entries without information: fixed ones, which do not move."""
    held_value_error: float = 1e-12
    """Relative error, of the size of rounding, within which an entry that is held fixed keeps its value when other
    variances become zero."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BatchSettings:
    """The vectorised minimiser (`vectorised_minimiser.py`, `batch_passes.py`, `refits.py`)."""

    widths: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of slots; few of them, so that batches of other sizes use the same programs."""
    width_per_job: float = 1.5
    """Most slots for each job: the next number of slots may be a little larger than that of jobs."""
    cpu_width_per_job: float = 0.5
    """The same on a CPU for many jobs: it is hardly faster for wide batches than for small ones, and slots shall be
    refilled."""
    cpu_few_jobs: int = 16
    """Jobs up to which a batch on a CPU holds all of them at once."""
    bytes_per_row: int = 2_000
    """Memory that an evaluation may use per row and slot, in bytes. (A one-compartment model with three effects uses
    280 bytes on a CPU; large models and integrals use more.)"""
    host_bytes: int = 2**30
    """Memory available to a batch on a host, in bytes."""
    device_fraction: float = 0.25
    """Memory available to a batch on a device, as a fraction of the device's."""
    mode_steps_per_pass: int = 8
    """Steps of the mode searches in one pass. A slow mode search, as occurs far from a maximum, then does not delay the
    other slots."""
    max_pauses: int = 4
    """Largest number of times that a job's evaluation is continued in the next pass from the modes reached so far."""
    least_mode_move: float = 1e-9
    """Change of a mode (whitened, in SDs of its effect) in a pass above which its search still makes progress."""
    rounding_gain: float = 1e-8
    """Predicted gain (log-likelihood units) below which a rejected step ends a job: rounding allows no further
    progress."""
    evaluations_per_iteration: int = 3
    """Evaluations, in multiples of `max_iterations`, after which a job ends: it backtracks in most steps."""
    seconds_per_call: float = 0.5
    """Seconds that one call of the program should take, after which the host refills slots and handles Ctrl-C."""
    first_passes: int = 8
    """Most passes of the first call, whose duration is not known yet."""
    max_passes: int = 64
    """Most passes of a call."""
    idle_slots: int = 16
    """While jobs are waiting, at most one in so many slots may become idle before the host refills them."""
    runs_per_program: int = 50
    """Runs of a program that `compiled` assumes when it weighs compile time; it is handed the work divided by them."""
    expected_evaluations: int = 12
    """Evaluations that a refit from the estimates is expected to need."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BootstrapSettings:
    """Bootstrap and jackknife (`bootstrap.py`, `resampling.py`, `jackknife.py`)."""

    replicates_per_draw: int = 32
    """Replicates whose responses are drawn by one call of the compiled program."""
    few_groups: int = 20
    """Number of groups below which the record says that the bootstrap is only a rough guide: few resamples differ."""
    min_converged: float = 0.9
    """Fraction of the replicates that must have converged, or the record warns of the statistics of the others."""
    influence_rows: int = 10
    """Groups in the printed table of influence."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IdentifiabilityCriteria:
    """The identifiability check of refits (`identifiability.py`)."""

    least_eigenvalue_ratio: float = 1e-11
    """Eigenvalue of the sum of outer products of scores, relative to the largest, below which a direction is taken to
    have no information: rounding gives 1e-16, a direction in which a single group has information 1e-4 or more."""
    jobs_at_a_time: int = 256
    """Jobs whose matrices are computed at a time, to bound memory."""
    spread: float = 0.1
    """Largest distance of the points from the estimates, as a fraction of their size, and absolute for sizes below
    one: far enough that scores do not vanish, near enough that the model is finite."""
    groups_per_parameter: int = 10
    """Groups for each parameter above which two points are enough: a group spans one direction per point."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MultistartSettings:
    """Multistart (`multistart.py`)."""

    same_objective: float = 1e-3
    """Difference of the objectives of two fits, in log-likelihood units, from which on their maxima are distinct."""
    same_values: float = 0.05
    """First part of the largest difference between a value at the same maximum in two fits, as a fraction of the
    standard error of the value (of the value where there is none). The three parts are added up."""
    same_relative: float = 1e-3
    """Second part, as a fraction of the value: for values with a very small standard error."""
    same_absolute: float = 1e-8
    """Third part, in the unit of the value: for values of zero."""
    better_by: float = 1e-4
    """Gain over the fit (log-likelihood units) above which a maximum is reported as better."""
    expected_evaluations: int = 80
    """Evaluations that a refit from a random start is expected to need."""
    least_value: float = 1e-3
    """Smallest size of a parameter without transform, in its own unit, to which `spread` is relative."""
    least_coefficient: float = 0.5
    """The same for a coefficient."""
    weight_spread: float = 0.1
    """Spread of a weight of the structural model, as a fraction of its size."""
    least_weight: float = 0.1
    """Size that a smaller weight is taken to have there."""
    starts_before_fit: int = 16
    """Starts of the search that `starts="multi"` makes before a fit."""
    maxima_shown: int = 5
    """Maxima in the printed table."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProfileSettings:
    """Profile likelihood (`profile.py`, `profile_search.py`, `profile_trace.py`)."""

    max_rounds: int = 8
    """Most rounds of refits: one for the first points, two for points farther out, the others for the interval
    limits."""
    better_by: float = 1e-3
    """Gain over the fit (log-likelihood units) above which a better maximum is reported; larger than for a multistart,
    since the points of a profile are not polished by Newton steps."""
    first_reach: float = 1.25
    """Largest distance of the first points from the estimate, in units of (normal quantile x standard error)."""
    further_points: tuple[tuple[float, ...], ...] = ((1.75, 2.5, 3.5), (5.0, 8.0, 12.0))
    """Distances of the points of the next rounds where the limit lies farther out, in the same units."""
    zero_sd_points: tuple[float, ...] = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0)
    """First points of the profile of an SD estimated as zero: log SDs relative to its start."""
    further_zero_sd_points: tuple[tuple[float, ...], ...] = ((1.5, 2.0, 3.0), (4.0, 5.0, 6.0))
    """The same for the next rounds where the limit lies farther out."""
    deviance_tolerance: float = 1e-4
    """Largest error of the deviance at an interval limit, less than 1e-4 standard errors of the value."""
    close_to_failed: float = 0.01
    """Distance, as a fraction of that to the last point inside the interval, within which a point is close to one
    whose refit failed."""
    difference_step: float = 1e-5
    """Steps of central differences, as a fraction of the size of the entry"""
    least_size: float = 0.1
    """(at least this size)."""


REFIT = RefitSettings()
BATCH = BatchSettings()
BOOTSTRAP = BootstrapSettings()
IDENTIFIABILITY = IdentifiabilityCriteria()
MULTISTART = MultistartSettings()
PROFILE = ProfileSettings()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SirSettings:
    """Sampling importance resampling (`sir.py`) and log-likelihoods at many points (`likelihood_at.py`)."""

    points_at_a_time: int = 50
    """Points of one call of the compiled program."""
    samples: tuple[int, ...] = (500, 1000, 2500)
    resamples: tuple[int, ...] = (100, 200, 500)
    """Draws and resampled draws of each iteration: a fifth, as in Dosne's first steps."""
    better: float = 0.05
    """Gain in log-likelihood of a draw over the estimates above which a sentence says so."""
    least_ess: float = 0.1
    """Effective number of the last draws, as a share of them, below which a sentence says that the proposal is poor."""


SIR = SirSettings()
