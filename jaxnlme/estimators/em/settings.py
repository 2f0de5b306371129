"""Tuning constants of the stochastic EM methods, one frozen dataclass for each stage of a fit.

Values without a source were chosen on the problems of `tests/estimators/em` and of the benchmarks, so that SAEM and IMP
end at the maximum found by quadrature within their tolerance. Options that users choose are fields of `saem.SAEM` and
`imp.IMP`.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StartSettings:
    """Starting values suited to simulation (`simulation_starts.py`, `frontends/matlab/nlmefitsa.py`)."""

    sd_factor: float = 2.0
    """Factor by which standard deviations that the user did not give are widened: chains converge faster from a
    population that is too wide than from one that is too narrow, and annealing reduces it."""
    reopened_sd_fraction: float = 0.1
    """Start of a standard deviation that an earlier fit set to zero, as a fraction of the model's own start."""
    correlation_fraction: float = 0.95
    """Fraction to which the correlations of a singular psi are reduced, so that it is positive definite."""
    coefficient_dispersion: float = 0.3
    """Standard deviation of the dispersed starts of a coefficient without random effect, as a fraction of its absolute
    value."""
    zero_coefficient_dispersion: float = 0.1
    """The same for a coefficient of zero, in its own unit."""
    log_scale_dispersion: float = 0.5
    """The same for log standard deviations and residual parameters, on their unconstrained scales."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScheduleSettings:
    """Lengths and gains of the scheduled phases (`saem.py`, `imp.py`) and of those added to them (`phases.py`), and the
    iterations that these need (`rounds/decisions.py`, `rounds/boundary_evidence.py`)."""

    saem_phases: tuple[int, int, int] = (100, 50, 50)
    """Iterations with annealing, with full steps and with decreasing steps: half of those of MATLAB and saemix, because
    draws at fixed parameters and Newton steps complete the fit."""
    imp_phases: tuple[int, int] = (50, 30)
    """Iterations with full steps and with decreasing steps."""
    imp_warm_phases: tuple[int, int] = (5, 10)
    """The same, at most, from the result of an earlier fit."""
    saem_max_iterations: int = 20000
    """The option `max_iterations` where the user gives none, or twice the phases where that is more. Two responses a
    subject for three random effects, a dose-response curve with an exponent, needed 10,000 to 14,000."""
    saem_max_iterations_of_replicates: int = 5000
    """The same with several replicates."""
    imp_max_iterations: int = 2000
    """The same of IMP."""
    gain_exponent: float = 0.7
    """Gains of decreasing steps are k^-0.7: they decrease more slowly than 1 / k, so that the estimates do not depend
    on the start where EM converges slowly."""
    first_mode_searches: int = 20
    """Iterations at the beginning, each of which searches the conditional modes: the parameters change fast."""
    mode_search_interval: int = 10
    """Iterations from one search of the conditional modes to the next, later and in added averaging."""
    search_from_mean_interval: int = 50
    """Iterations from one search that also begins at the mean of the population to the next, a multiple of
    `mode_search_interval`; after `first_mode_searches`, when the parameters have left their start. One in ten
    iterations doubled the time of models with differential equations, whose searches from afar are long."""
    pilot_iterations: int = 40
    """Number of last iterations of the phases that sum up scores, to which the control variates are fitted."""
    added_averaging: tuple[int, int] = (50, 100)
    """Iterations of an added averaging: with full steps (gain 1), and with decreasing steps."""
    continued_gain_offset: int = 10
    """Added averaging that continues from the averaged statistics has gains as if it had begun this many iterations
    ago: a first gain of one would discard the statistics."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MaximisationSettings:
    """The M-step (`m_step.py`)."""

    max_step: float = 0.5
    """Longest Newton step of an entry: this much, or this fraction of its absolute value where that is larger."""
    relative_ridge: float = 1e-12
    """Relative ridge on the diagonals of second moments and normal equations: keeps factors of singular ones finite."""
    min_conditional_variance: float = 5e-3
    """Smallest conditional variance of an effect given those before it, as a fraction of its variance (correlations of
    two effects up to 0.9975)."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SamplingSettings:
    """Numbers of draws (`saem.py`, `imp.py`), of iterations in a round (`algorithm.py`, `rounds/sampling_round.py`,
    `rounds/decisions.py`) and of batch means (`louis.py`)."""

    min_groups_times_chains: int = 100
    """Smallest number of groups times chains: MATLAB and saemix choose the number of chains by this rule."""
    max_samples_per_group: int = 20
    """Unweighted samples of a group that IMP keeps from an iteration, at most."""
    max_samples: int = 200_000
    """The same for all groups together, because of their memory."""
    min_effective_draws: int = 10
    """Effective draws of a group in an iteration of IMP below which its weights are unreliable: the remaining bias of
    weighted means, of order 1 / draws^2, may then reach a hundredth of a conditional standard deviation."""
    equilibration_iterations: int = 10
    """Iterations of a round before its scores are summed, while the chains adapt to the new parameters."""
    batches: int = 20
    """Number of batches of iterations for batch means: few enough that a batch is longer than the autocorrelation of
    the chains, many enough to estimate the variance between them."""
    safety_factor: float = 1.1
    """Factor of the number of score iterations that the Monte Carlo errors so far predict as enough: they are
    themselves estimated with error."""
    min_score_iterations: int = 40
    """Score iterations of a segment, at least: two for each of the batches of the batch means."""
    initial_fraction: float = 0.25
    """Score iterations of the first segment of a round, as a fraction of the iterations behind the score of the round
    before: a quarter of the iterations behind the score."""
    max_initial_iterations: int = 500
    """Score iterations of the first segment of a round, at most."""
    max_transport_numbers: int = 50_000_000
    """Numbers of all groups that the information of transported draws may hold (400 MB); beyond, Louis' information in
    xi is used, whose Monte Carlo error falls with the number of groups."""
    transport_interval: int = 4
    """Score iterations from one evaluation of the information of transported draws to the next: their terms cost more
    than an iteration, and vary little."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConvergenceCriteria:
    """Decisions on steps and on accuracy (`rounds/sampling_round.py`, `rounds/newton.py`), Monte Carlo checks of means
    (`louis.py`), and the assessment of the end of a run (`convergence.py`)."""

    changing_se: float = 0.1
    """Change of the logarithm of a standard error over the last step, at most, of a run that has converged: standard
    errors are within some 20% of their limit then. (Steps go on until it is below `STEPS.stable_se`.)"""
    se_mc_errors: float = 3.0
    """Difference of two standard errors, in its Monte Carlo errors, beyond which they differ."""
    significant_mc_errors: float = 4.0
    """A step is significant beyond this many of its Monte Carlo errors: enough to allow for those of the step before
    it."""
    remainder_per_mc_error: float = 0.2
    """Distance to the maximum that the last Newton step may leave, as a fraction of the Monte Carlo error of its end
    point."""
    remainder_per_tolerance: float = 0.02
    """The same as a fraction of the tolerance; the larger one counts."""
    uncertain_se_error: float = 0.2
    """The information is uncertain if the Monte Carlo error of a standard error is more than this fraction of it (or
    the information is not positive definite)."""
    uncertain_iterations: int = 400
    """Score iterations before which no step is taken with an uncertain information."""
    uncertain_segments_on_boundary: int = 2
    """The same on the boundary of psi, in first segments of a round: the information is often not positive definite
    there far from the maximum, and an uphill step follows sooner."""
    transport_below_fraction: float = 0.1
    """Least fraction of the complete-data information that is observed, along any direction, below which the
    information is computed from transported draws: in xi its relative Monte Carlo error is ten times that of the
    missing information there."""
    target_per_tolerance: float = 1.0 / 3.0
    """Monte Carlo error of the estimates, as a fraction of the tolerance, at which sampling ends: the distance to the
    maximum is within the tolerance in every parameter then, and not in most of them only."""
    max_target_iterations: int = 2000
    """Score iterations of a round after which the tolerance itself suffices."""
    se_error_limit: float = 0.05
    """Monte Carlo error of a standard error, as a fraction of it, below which it is final."""
    max_se_iterations: int = 2000
    """Score iterations after which standard errors and slopes are final whatever their Monte Carlo errors."""
    max_mean_in_errors: float = 6.0
    """A mean that should be zero is taken to be nonzero if it is farther from zero than this many Monte Carlo
    errors."""
    geweke_limit: float = 6.0
    """Limit of Geweke's statistic |z|. With twenty parameters it is exceeded by chance in one run of 4,000 if both
    halves have the same variance (t with 18 degrees of freedom), in one of 250 at the worst (9 degrees of freedom)."""
    indistinguishable_se: float = 2.0
    """A log standard deviation with a standard error beyond this is not distinguished from minus infinity (a variance
    of zero)."""
    near_one_correlation: float = 0.97
    """A correlation beyond this, in absolute value, is reported as near the boundary."""
    negligible_se_fraction: float = 0.1
    """Differences between replicates below this fraction of a standard error count as Monte Carlo error."""
    rhat_limit: float = 1.2
    """Replicates with a larger R-hat are at different maxima. **Source:** Brooks and Gelman (1998), Journal of
    Computational and Graphical Statistics 7, 434-455."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StepSettings:
    """Steps in a round and between rounds (`rounds/sampling_round.py`, `rounds/newton.py`, `rounds/decisions.py`,
    `rounds/boundary_moves.py`)."""

    large_step: float = 0.5
    """Before control variates reduce the Monte Carlo error, only a step longer than this, in standard errors, is
    taken."""
    longest_step: float = 1.0
    """Longest step between rounds, in standard errors."""
    most_doublings: int = 4
    """Doublings of the longest step, one after each step that ended short of the maximum in its own direction, where
    the information is that of transported draws."""
    same_direction: float = 0.5
    """Cosine, in the metric of the information, above which two steps have the same direction."""
    longest_complete_step: float = 10.0
    """Longest step between rounds, in standard errors that complete data would give."""
    max_newton_steps: int = 5
    """Newton steps after which a phase of averaging is added."""
    max_transported_steps: int = 25
    """The same where the information is that of transported draws: averaging is slow there, the steps are accurate."""
    max_singular_rounds: int = 2
    """Phases of averaging added in the interior for rounds without a positive definite information, at most."""
    max_uphill_steps: int = 10
    """Uphill steps on the boundary of psi for such rounds, at most."""
    min_curvature_fraction: float = 0.02
    """Smallest curvature of an uphill step, as a fraction of that of complete data."""
    min_transported_fraction: float = 1e-4
    """The same where the information is that of transported draws."""
    stable_se: float = 0.05
    """Largest change of the logarithm of a standard error in the last step, where the information is that of
    transported draws."""
    longest_log_scale_newton_step: float = 2.0
    """Longest Newton step of the logarithm of a scale: as of the minimiser, a factor of e^2."""
    longest_log_scale_step: float = 0.7
    """Longest uphill step of the logarithm of a scale, a factor of two: what is observed of a scale changes with its
    square."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BoundaryCriteria:
    """Decisions on the boundary of psi (`boundary.py`, `rounds/boundary_evidence.py`) and its moves
    (`rounds/boundary_moves.py`)."""

    dependent_fraction: float = 0.01
    """Conditional variance of an effect given those before it, as a fraction of its variance, at or below which psi may
    be on the boundary: twice the limit of the M-step (`MaximisationSettings.min_conditional_variance`)."""
    dependent_fraction_singular: float = 0.06
    """The same where the information is not positive definite after `min_iterations_singular`: the fraction that goes
    with a correlation of 0.97."""
    min_iterations_singular: int = 160
    """Score iterations after which an information that is not positive definite is no longer attributed to noise."""
    shape_values: tuple[float, ...] = (-8.0, 0.0, 8.0)
    """Shapes (such as correlations) with which a structured block of zero variance may open, on their unconstrained
    scales: both extremes and the middle."""
    rank_tolerance: float = 1e-10
    """Eigenvalues of a correlation matrix at or below this are zero."""
    positive_mc_errors: float = 4.0
    """A slope is positive beyond this many of its Monte Carlo errors."""
    negative_mc_errors: float = 2.0
    """A slope is negative beyond this many of its Monte Carlo errors."""
    vanishing_decrease: float = 2.0
    """A scale is vanishing if its logarithm fell by more than this from its start, and the two that follow hold."""
    vanishing_observed_fraction: float = 0.1
    """Fraction of the complete information of a vanishing scale that is observed, at most."""
    vanishing_se: float = 0.5
    """Standard error of the logarithm of a vanishing scale, at least."""
    restart_decrease: float = 1.4
    """A vanishing scale restarts this far below its start, on the log scale (a quarter of it): starting values are
    wide, and without annealing too wide."""
    rotation_fraction: float = 0.3
    """Size of a rotation: the new entry of L, as a fraction of the standard deviation of the effect in its row."""
    rotation_sd_fraction: float = 0.3
    """Standard deviation used for an effect that has none, as a fraction of its start."""
    max_rotations: int = 5
    """Rotations of a singular psi in a run, at most."""
    informative_fraction: float = 0.3
    """Scores are taken at fixed xi of effects of whose variance at least this fraction is observed."""
    min_singular_value: float = 0.1
    """Smallest singular value of the correlation factor of these effects: they are linearly independent."""
    restarted_part: float = 0.1
    """Size, as a fraction of the other part, at which a part of a residual scale that began near zero is restarted."""
    ray_fractions: tuple[float, ...] = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    """Points of a ray from the boundary at which the log-likelihood is computed by quadrature, as fractions of the
    variances there: from where it is linear in the variance up to the size of the variances themselves."""
    least_ray_gain: float = 1e-5
    """Gain (log-likelihood units) on such a ray, at least: differences of the same quadrature at neighbouring points
    are more accurate."""
    most_quadrature_effects: int = 4
    """Random effects for which it is computed, at most: four effects make 11^4 points for each group."""
    most_quadrature_evaluations: int = 200_000_000
    """Evaluations of rows on such a ray, at most: some ten seconds."""
    restart_iterations: int = 50
    """Iterations of equilibration for chains that start anew."""
    min_iterations_after_move: int = 100
    """Fewest iterations after the equilibration that make a move worthwhile."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PostEstimationSettings:
    """Draws of b that a Fit keeps and modes beside them (`post_estimation.py`)."""

    max_draws_per_group: int = 100
    """Draws of each group, at most."""
    max_stored_numbers: int = 5_000_000
    """Numbers in all, at most (40 MB)."""
    thinning: int = 2
    """Iterations between draws that are kept."""
    max_draw_rounds: int = 20
    """Times that draws are taken from the chains, at most."""
    largest_mode_distance: float = 6.0
    """Distance of a mode from the mean of the draws, in their standard deviations, from which on it is searched again:
    the mode of a density with one mode lies within sqrt(3) of them.

    **Source:** Johnson and Rogers (1951), Annals of Mathematical Statistics 22, 433-439."""
    least_draws_variance: float = 1e-12
    """Variance of whitened draws that smaller ones are raised to: rounding."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComputingSettings:
    """Division of the work among threads and programs (`saem.py`, `lockstep.py`)."""

    evaluations_per_chain: int = 16
    """Approximate number of evaluations of each data row by a chain in an iteration."""
    whitened_divisor: int = 4
    """Factor by which the program of a whitened layout does less work in a run: it is twice as large and computes half
    of the iterations."""
    row_evaluations_per_thread: int = 800_000
    """Row evaluations per iteration that justify a thread of their own: threads synchronise after every iteration."""
    gpu_width: int = 256
    """Runs computed in one program on a GPU. On a CPU the number is chosen so that their rows fit the cache: more would
    cost memory and gain nothing."""
    min_concurrent_fits: int = 64
    """Smallest number of fits in progress at a time: enough that each kind of iterations fills a program."""


START = StartSettings()
SCHEDULE = ScheduleSettings()
MAXIMISATION = MaximisationSettings()
SAMPLING = SamplingSettings()
CRITERIA = ConvergenceCriteria()
STEPS = StepSettings()
BOUNDARY = BoundaryCriteria()
POST_ESTIMATION = PostEstimationSettings()
COMPUTING = ComputingSettings()
