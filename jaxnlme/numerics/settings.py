"""Tuning constants of the numerical methods, in two frozen dataclasses: minimisers; other computations.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MinimiserSettings:
    """Newton's method (`newton.py`), BFGS (`bfgs.py`), Levenberg-Marquardt (`levenberg_marquardt.py`) and the matrices
    of a quasi-Newton search (`broyden.py`)."""

    sufficient_decrease: float = 1e-4
    """Armijo condition of Newton's method and BFGS: the fraction of the decrease predicted by the slope that a step
    must achieve.

    **Source:** Nocedal and Wright (2006), Numerical Optimization, section 3.1."""
    least_shrink: float = 0.1
    """Smallest factor by which a line search shortens a rejected step: interpolation from a distant point is
    inaccurate."""
    largest_shrink: float = 0.5
    """Largest such factor, so that a line search ends."""
    rounding: float = 8.0
    """Relative rounding error of the value in Newton's method and Levenberg-Marquardt, in units of the machine
    precision: an increase up to this is no increase."""

    longest_newton_step: float = 5.0
    """Largest length of the first Newton step, in the units of z (whitened effects: prior standard deviations)."""
    newton_step_growth: float = 2.0
    """Factor by which that length grows from a step that it limited to the next: modes may be thousands of prior
    standard deviations away where a starting SD is far too small.

    **Source:** the growth of a trust region: Nocedal and Wright (2006), Numerical Optimization, algorithm 4.1."""
    approximate_error: float = 0.1
    """Error at the end of a search with approximate Hessians, in units of its tolerance for steps: the tolerance is one
    for Newton's steps, after which the error is of the order of the square. Also the least ratio of the error to the
    step before it: one small step says little."""
    secant_slope: float = 0.01
    """Cosine between a step and the change of the gradient along it, from which on the change is used for an estimate
    of the Hessian."""
    shortest_newton_step: float = 1e-9
    """Step, as a fraction of the Newton step, below which the line search is given up: rounding allows no decrease."""

    bfgs_rounding: float = 16.0
    """Relative rounding error of the objective in BFGS, a sum over groups, in units of the machine precision."""
    implausible_decrement: float = 1e12
    """Predicted decrease (units of the objective) larger than any log-likelihood allows: BFGS then discards the inverse
    Hessian approximation."""
    shortest_bfgs_step: float = 1e-10
    """Step, as a fraction of the quasi-Newton step, below which the line search is given up."""
    shrink_to_finite: float = 0.25
    """Factor on a step of BFGS to a point where value or gradient are not finite: there is nothing to interpolate."""
    least_curvature: float = 1e-8
    """Cosine of the angle between step and change of the gradient below which the BFGS update is not defined."""

    first_damping: float = 1e-3
    """Damping of the first Levenberg-Marquardt step, in units where the diagonal of the curvature is one.

    **Source:** Madsen, Nielsen and Tingleff (2004), Methods for Non-Linear Least Squares Problems, section 3.2, for a
    start that need not be near the minimum."""
    least_damping: float = 1e-12
    """Smallest damping: less does not change a step."""
    largest_damping: float = 1e10
    """Damping above which the search is given up: no step along the negative gradient decreases the value."""
    damping_decrease: float = 0.1
    """Factor on the damping after a step that gained as much as predicted."""
    damping_increase: float = 4.0
    """Factor on the damping after a first rejected step; doubled with each further rejection in a row."""
    first_gain_ratio: float = 0.5
    """Ratio of actual to predicted gain assumed for the first point, which has none; it leaves the damping as it is."""
    ridge: float = 1e-14
    """Added to the unit diagonal for the undamped step, so that a singular curvature has one."""
    converged_decrement: float = 1e-8
    """Predicted decrease, in units of the value, below which a Levenberg-Marquardt search in which rounding allows no
    further decrease has converged."""

    least_divisor: float = 1e-12
    """Cosine of the angle between step and predicted step below which Broyden's update is not made: it would divide by
    rounding error."""
    least_eigenvalue: float = 1e-10
    """Smallest eigenvalue of a positive definite neighbour of a matrix, scaled to a unit diagonal."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ComputationSettings:
    """Linear algebra (`linalg.py`), quadrature grids (`quadrature.py`), derivatives of a log-determinant
    (`logdet_derivative.py`) and compilation (`compiling.py`)."""

    unrolled: int = 5
    """Largest number of rows of a matrix that is factored by straight-line code on scalars: for so few rows a library
    call takes longer than the arithmetic."""
    least_pivot: float = 1e-3
    """Pivots below this are replaced in a modified Cholesky factor of a curvature in whitened effects, whose prior part
    is the identity."""
    zero_pivot: float = 1e-10
    """Pivots of a positive semidefinite matrix below this fraction of their diagonal entry count as zero."""
    relative_eigenvalue: float = 1e-8
    """Eigenvalues of a covariance below this fraction of the largest one are computed with relative accuracy, by an
    algorithm that is slower: in the usual one their relative error is up to rounding error over this."""
    least_diagonal: float = 1e-300
    """Diagonal entries that smaller ones are raised to where a matrix is scaled to a unit diagonal."""
    largest_scaled_entry: float = 1e100
    """Largest entry of a matrix scaled to a unit diagonal: its square is finite."""
    taylor_degree: int = 12
    """Degree of the Taylor polynomial in `expm`; with `squarings` exact to rounding for norms up to about 80."""
    squarings: int = 8
    """Number of squarings in `expm`."""

    max_grid_points: int = 50_000
    """Largest number of points of a tensor grid: each is one evaluation of the model of a group, and the grid is part
    of the compiled program."""

    difference_step: float = 0.02
    """Step of the differences of a gradient (points at one and two steps), in units where the Hessian H is the
    identity: small enough for an error of fourth order, large enough that second differences keep eight digits of a
    gradient that has eleven."""
    max_rescalings: int = 6
    """Most sets of units that are tried for that step."""
    rescale_above: float = 0.5
    """Deviation from one of the inverse of an eigenvalue of H above which the differences are computed again in better
    units; smaller deviations are corrected."""
    shorten_units: float = 0.1
    """Factor on the units if H is not positive definite: with steps that are far too long, differences can miss a
    positive curvature."""
    second_order_below: float = 1e-3
    """Deviation below which it is corrected by differences of second order."""
    negligible_deviation: float = 1e-9
    """Deviation below which it is not corrected."""

    rows_if_run_fifty_times: int = 10_000
    """Rows of data below which compiling takes longer than running, for a program that a fit runs some fifty times: it
    is then compiled without optimisation."""
    rows_if_run_once: int = 200_000
    """The same for a program that runs once."""
    rows_if_run_often: int = 40_000
    """Rows of data from which on running takes longer than compiling, for a program that passes over them many hundred
    times."""
    long_program: int = 20_000
    """Equations of a traced program from which on fusion emitters do not pay: SAEM of two compartments with absorption
    and steady states (62,000) then compiles in 102 s instead of 163 and runs as fast; of one compartment it has 8,000,
    of a formula 3,500."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SolverSettings:
    """Solvers of differential equations in a model function (`solver_calls.py`)."""

    most_terms: int = 16
    """Most terms of a product of matrices that is computed as a sum."""
    rows_of_a_row: int = 50
    """Rows of a model in closed form that cost as much as a row of one that solves differential equations, in decisions
    between time to compile and time to run: a choice of this package."""
    most_steps: int = 1000
    """Most steps of `jax.experimental.ode.odeint` from one time to the next, which has no limit itself: at a trial
    point where the equations are stiff, a fit would wait for millions. (diffrax has 4096 as its default, for all times
    together.)"""


MINIMISER = MinimiserSettings()
COMPUTATION = ComputationSettings()
SOLVERS = SolverSettings()
