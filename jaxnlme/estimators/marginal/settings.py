"""Tuning constants of the maximisation of a likelihood approximation, one frozen dataclass for each stage of a fit.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SearchSettings:
    """Quasi-Newton steps (`method.py`, `evaluations.py`; also of batched refits)."""

    largest_log_step: float = 2.0
    """Largest change of an entry on a log scale in one step: a factor of e^2."""
    largest_step_in_se: float = 5.0
    """Largest change of an entry in the user's units in one step, in standard errors by the outer product of the
    scores."""
    limit_growth: float = 4.0
    """Factor by which the largest step of an entry in the user's units grows when a limited step is accepted at once.

    **Source:** the growth of a trust region, with a larger factor: Nocedal and Wright (2006), Numerical Optimization,
    algorithm 4.1."""
    least_information: float = 1e-4
    """Lower bound on the information of an entry, relative to the square of its size (on log scales, of one)."""
    agreeing_scores: float = 0.5
    """Square of the mean score of the groups, as a fraction of the mean of their squares, above which these agree."""
    groups_per_parameter: int = 8
    """Groups for each parameter from which on the inverse Hessian is replaced by that of the groups' scores, which far
    from the maximum is better than that of the steps so far.

    **Source:** Berndt, Hall, Hall and Hausman (1974), Annals of Economic and Social Measurement 3, 653-665."""
    renew_above: float = 0.5
    """The replacement is made while the expected gain is above this, in log-likelihood units: if the model fits badly,
    the outer product of the scores differs from the Hessian, and near the maximum convergence with it would be slow."""
    renew_steps: int = 10
    """The replacement is made in the first so many steps, for the same reason."""
    largest_change: float = 1e150
    """Limits of the largest step of an entry in the user's units: at most this, at least its inverse, so that its
    square is finite."""
    least_information_of_zero: float = 1e-12
    """Lower bound on the information of an entry whose value is zero, which has no size."""
    evaluations_per_iteration: int = 10
    """Evaluations allowed, as a multiple of `max_iterations`: a step that is refused costs one."""
    first_free_step: float = 0.1
    """Length of the first step of the free block (weights of a network), whose scale is not known."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StartingScaleSettings:
    """Scales at the start of a search (`starting_scales.py`)."""

    least_log_step: float = 1.0
    """Shortest EM step of the logarithm of a scale that is taken: a factor of e, from which quasi-Newton steps find the
    maximum."""
    downward_log_step: float = -0.1
    """EM step of the logarithm of a residual scale above which it is not reduced: at a maximum it is zero."""
    least_ratio: float = 1e-12
    """Smallest ratio of a new variance to the last one, a factor of 1e-6 in the SD: larger steps down are taken in
    parts."""
    most_steps: int = 20
    """Most steps; two or three are the rule."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConvergenceCriteria:
    """Rounds (`algorithm.py`) and their assessment (`convergence.py`, `objective.py`; also of batched refits)."""

    max_gain: float = 1e-6
    """Predicted gain of a further step (log-likelihood units) below which an estimate counts as the maximum: it is then
    within about 1.4e-3 standard errors of it, since a gain of d^2 / 2 belongs to a distance of d standard errors."""
    max_rounds: int = 8
    """Most rounds; a round is repeated only if a check has found a better point or other free parameters."""
    max_newton_move: float = 1e-3
    """Newton steps that move an entry further than this, in standard errors, call for a new information matrix."""
    singular_correlation: float = 1e-7
    """Eigenvalue of the correlation matrix of the random effects below which psi counts as singular: of two effects, 1
    minus the absolute value of their correlation."""
    named_correlation: float = 0.99
    """Absolute value above which a correlation is named as the one that makes psi singular; with three effects and more
    it need not be one pair."""
    least_log_sd_information: float = 1e-4
    """Information on the logarithm of a standard deviation below which the data carry none: a standard error of 100."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RoundSettings:
    """Steps of a round after the minimisation (`algorithm.py`)."""

    distinct_modes: float = 0.01
    """Distance, in whitened units, from which on two ends of mode searches are two modes: those of one mode differ by
    the squared tolerance of the search."""
    second_mode: float = 3.0
    """Another mode is named if its joint density is lower by less than so many log units: a factor of 20, so that what
    an approximation at one mode leaves out is some 5% of the group's likelihood."""
    flat_mode: float = 0.02
    """Eigenvalue of the Hessian at a mode, in whitened units, below which the joint density counts as flat there: the
    distribution of the effects itself has one, so that the data take nearly all of it back."""
    part_shares: tuple[float, ...] = (1e-3, 0.01, 0.1, 0.5)
    """Sizes, as fractions of the other part of a residual scale, that are tried of one estimated as zero: from what a
    few thousand rows show up to a scale of two parts of one size."""
    correlation_changes: tuple[float, ...] = (0.0, -0.5, -1.0, -1.5, -2.0)
    """Changes, from the model's start, that are tried of a parameter of the correlation where residuals are estimated
    as independent: for ranges, whose scale is logarithmic, down to a seventh, where a correlation of 0.5 is 0.006."""
    negative_curvature: float = 1e-6
    """Eigenvalue of the information (scaled to unit diagonal) below minus which the point is a saddle point."""
    least_curvature: float = 1e-12
    """Curvature that smaller ones are raised to in that scaling."""
    saddle_steps: tuple[float, ...] = (1.0, 0.3, 0.1)
    """Lengths of the steps tried from a saddle point, in standard errors (at most one unit of a log SD)."""
    saddle_gain: float = 1e-6
    """Log-likelihood units that a step from a saddle point must gain."""
    max_newton_steps: int = 4
    """Most Newton steps at the end of a round; near the maximum two suffice."""
    newton_gain_ratio: float = 1e-6
    """They end when the predicted gain is below this fraction of `ConvergenceCriteria.max_gain`."""
    rounding_of_sums: float = 1e-9
    """Increase of the objective, as a fraction of it, that is taken for rounding in a Newton step."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DifferenceSettings:
    """Differences of the exact gradient (`objective.py`)."""

    step: float = 3e-4
    """Step in standard errors: short, so that the third-order term is small; long enough for rounding of the
    gradient."""
    least_step: float = 1e-6
    """Shortest step, as a fraction of the entry or its standard error, so that rounding of the entry itself does not
    matter."""
    largest_step: float = 1e-2
    """Longest step, as the same fraction."""
    largest_se: float = 15.0
    """Largest standard error assumed, in units of the largest step of the search: 30 for a log standard deviation."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlatDirectionCriteria:
    """Small eigenvalues of an information matrix from differences (`flat_directions.py`)."""

    doubtful_eigenvalue: float = 1e-3
    """Eigenvalue, of the matrix scaled to unit diagonal, below which it is computed again: differences with a step of
    1% of a parameter have errors of up to 1e-4."""
    step: float = 1e-2
    """Step along the eigenvector, in standard errors at fixed other parameters: what remains is its fourth power."""
    least_share: float = 1e-2
    """Share of the eigenvalue that must be left then: a direction with information keeps all of it."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BoundaryCriteria:
    """Variances that are set to zero (`boundary.py`; also in batched refits)."""

    flat_curvature: float = 10.0
    """Curvature of the objective in a log standard deviation (log-likelihood units) below which its variance may be
    tending to zero: at zero the curvature vanishes."""
    least_gain: float = 1e-6
    """Log-likelihood units: a variance is zero if none above zero gains more, by prediction or on the rays tried. A
    zero variance gains s^2 / (2 I) when it leaves zero, with s its score there and I the information; this limit is
    that of `ConvergenceCriteria.max_gain`."""
    rounding: float = 1e-10
    """The same, as a fraction of the log-likelihood: rounding."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RaySettings:
    """Rays from the boundary of psi (`boundary_rays.py`)."""

    score: float = 1e-3
    """Root mean square of the groups' scores of a log standard deviation t near zero, at which slopes are computed:
    t^2 J' R^-1 J is then about 1e-3, so that terms beyond the first order are as small, and rounding (1e-12 of a score
    of one) does not matter."""
    first_sd: float = 0.01
    """First trial of t, as a fraction of its starting value."""
    max_evaluations: int = 12
    """Most evaluations to find t; two or three suffice where the first is not far too large."""
    accepted_ratio: float = 3.0
    """Largest ratio of t to its aim at which the search for t ends."""
    largest_change: float = 1e40
    """Largest factor between the scores at two trials of t: scores are proportional to t^2 near zero."""
    largest_sd: float = 1e6
    """Largest trial of t, as a fraction of its starting value: further out it has no effect at all."""
    shrink: float = 30.0
    """Factor by which t is reduced where the objective is not finite."""
    steps: tuple[float, ...] = tuple(10.0 ** (0.5 * k) for k in range(8))
    """Standard deviations tried, in units of t: from t to 3,000 t, since one group's effect has a standard error of
    about 20 t: at the last the random effect is 150 times as large."""
    turns: tuple[float, ...] = (1.0, 10.0, 100.0)
    """The same for turns of psi."""
    first_far_step: float = 5.0
    """Steps below this are only tried if the slope at the boundary predicts a gain."""
    rank_tolerance: float = 1e-10
    """Eigenvalue, as a fraction of one on the diagonal, up to which a direction of psi counts as without variance; and
    the same for singular values of its derivatives."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RestrictedSettings:
    """The restricted likelihood (`reml.py`)."""

    tolerance: float = 1e-12
    """The search for beta^ ends when a further step is expected to gain less, in log-likelihood units; that gain is
    added to the value."""
    max_steps: int = 100
    """Most steps of that search."""
    max_gain: float = 1e-8
    """Largest expected gain, in log-likelihood units, that is accepted if rounding ends the search before."""
    unrestricted_tolerance: float = 1e-4
    """The unrestricted fit at the start ends within so many log-likelihood units of its maximum: it is only a start."""
    logdet_step: float = 0.03
    """Steps, in standard errors, of the differences that give the second derivatives of (1/2) log|H|: longer than those
    of l, for it is a small part of the information, and its gradient has a larger rounding error."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EstimateSettings:
    """Derivatives of `estimate` (`estimate.py`)."""

    most_differenced: int = 60
    """Most entries (parameters and weights of the structural model) for which the Hessian is formed by differences of
    the exact gradient, two gradients an entry; for more, the equations are solved by conjugate gradients."""
    least_squares: float = 1e-6
    """Sum over groups of the squared scores of an entry on a log scale below which it is at the boundary: inside, this
    is about its information, the inverse of the square of its standard error."""
    cg_tolerance: float = 1e-10
    """Residual at which conjugate gradients end, relative to the right-hand side."""


SEARCH = SearchSettings()
STARTING_SCALES = StartingScaleSettings()
CRITERIA = ConvergenceCriteria()
ROUNDS = RoundSettings()
DIFFERENCES = DifferenceSettings()
FLAT = FlatDirectionCriteria()
BOUNDARY = BoundaryCriteria()
RAYS = RaySettings()
RESTRICTED = RestrictedSettings()
ESTIMATE = EstimateSettings()
