"""Tuning constants that all methods share, in two frozen dataclasses: runs; the pooled fit.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RunSettings:
    """Defaults of `fit`, checkpoints (`checkpoint.py`) and the line that shows progress (`progress.py`)."""

    max_iterations: int = 500
    """Default of the most iterations of a fit: a bound for fits that do not converge."""
    tolerance: float = 1e-8
    """Default of the expected gain of a further step, in log-likelihood units, at which a fit ends: a gain of d^2 / 2
    belongs to a distance of d standard errors, here 1.4e-4."""

    vanished_part: float = 1e-5
    """Part of a residual scale, as a fraction of the other part, below which it counts as zero: the likelihood of a
    million rows then changes by less than one unit if it is left out."""
    size_quantiles: tuple[float, float, float] = (0.05, 0.5, 0.95)
    """Quantiles of the absolute responses that stand for small, middle and large predictions there: single rows far
    from the others do not decide."""

    checkpoint_interval: float = 1.0
    """Least number of seconds between two writes of a checkpoint."""
    writing_fraction: float = 0.05
    """Largest fraction of the run time that goes into writing checkpoints."""
    same_fixed_value: float = 1e-9
    """Relative difference up to which a fixed value in a checkpoint is that of the model: if a variance is zero, all of
    psi is factored again, with rounding errors."""
    same_fixed_zero: float = 1e-12
    """The same for a value of zero, as an absolute difference on the unconstrained scale."""

    progress_delay: float = 2.0
    """Seconds of work before the first line is shown: short work shows none."""
    progress_interval: float = 0.5
    """Seconds after which the line is rewritten."""
    interval_in_files: float = 1.0
    """Seconds between two lines where they cannot be rewritten."""
    trace_iterations: int = 200
    """Most iterations in the curve of a notebook, the last ones."""
    noticed_tracing: float = 0.02
    """Seconds of tracing from which the line says that it compiles: a fit whose programs are there traces none."""
    compile_seconds: int = 10
    """Seconds that the first fit of a model takes to compile, as the line gives them: 4 to 15 on two cores."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PooledFitSettings:
    """The fit without random effects (`starting_values.py`), by the Levenberg-Marquardt method with damping in units
    where the diagonal of the curvature is one."""

    least_gain: float = 1e-8
    """The search has converged when a step without damping would lower the sum of squares by less than this fraction:
    it gives starting values.

    **Source:** the relative offset of Bates and Watts (1981), Technometrics 23, 179-183."""
    exact_fit: float = 1e-20
    """It has converged as well when the sum of squares is this fraction of the first: only rounding is left."""
    max_steps: int = 200
    """Most steps of the search."""
    first_damping: float = 1e-3
    """Damping of the first step.

    **Source:** Madsen, Nielsen and Tingleff (2004), Methods for Non-Linear Least Squares Problems, section 3.2, for a
    start that need not be near the minimum."""
    least_damping: float = 1e-12
    """Smallest damping: less does not change a step."""
    largest_damping: float = 1e8
    """Damping above which the search is given up: no step along the negative gradient decreases the sum of squares."""
    damping_factor: float = 10.0
    """Factor by which the damping decreases after a step that is accepted, and increases after one that is not.

    **Source:** Marquardt (1963), SIAM Journal on Applied Mathematics 11, 431-441."""
    least_effect: float = 1e-6
    """Change of the predictions by a change of a parameter by its own size, as a fraction of the residuals, below which
    the parameter has no effect at the end: the search has left the region where the data say anything of it."""
    least_diagonal: float = 1e-12
    """Smallest diagonal entry of the normal equations, as a fraction of the largest, that is used as a scale: a
    parameter without effect has none."""


RUN_SETTINGS = RunSettings()
POOLED = PooledFitSettings()
