"""Tuning constants of the solver of differential equations, each with its reason."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SolverSettings:
    """Steps of the Runge-Kutta methods, and the iterations for steady states."""

    safety: float = 0.9
    """Factor on the step that the error estimate allows.

    **Source:** Hairer, Norsett and Wanner (1993), Solving Ordinary Differential Equations I, section II.4."""
    least_factor: float = 0.2
    """Smallest factor from one step to the next; also that after a step that is not finite."""
    largest_factor: float = 10.0
    """Largest factor from one step to the next."""
    shortest_step: float = 1e-12
    """Step, as a fraction of the interval between two events, below which a solution is given up."""
    steps_of_a_burst: int = 30
    """Steps after which an interval is examined for stiffness: few intervals between two records take more."""
    stability_limit: float = 2.0
    """Product of step and largest absolute eigenvalue above which an explicit step is taken to be limited by stability:
    those of fifth order are stable up to 3.3 or so on the negative axis."""
    stage_iterations: int = 12
    """Most Newton iterations of an implicit stage."""
    stage_tolerance: float = 1e-8
    """Relative change of the last iteration of an implicit stage above which the step is rejected."""
    newton_tolerance: float = 1e-13
    """Relative change at which Newton's method is at rounding error, for implicit stages and steady states."""
    steady_iterations: int = 60
    """Most Newton iterations for a steady state."""
    steady_tolerance: float = 1e-9
    """Relative change of the last iteration of a steady state above which it counts as not found."""


SOLVER = SolverSettings()
