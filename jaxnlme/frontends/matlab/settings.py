"""Tuning constants of the functions with MATLAB's arguments, in two frozen dataclasses.

Where no source is given, the value is a choice of this package, for the reason beside it. Defaults that MATLAB
documents are with the arguments that they belong to.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MatlabSettings:
    """Translation of options (`options.py`), starting values and the shape of the data (`designs.py`, `data.py`),
    the assessment of psi (`nlmefit.py`), and displays (`live_plot.py`, `output_functions.py`, `struct.py`)."""

    tolerance_per_tolfun: float = 1e-4
    """Tolerance of `jn.fit`, the expected gain of a further step in log-likelihood units, as a fraction of TolFun: a
    quasi-Newton step underestimates the gain that remains."""
    largest_tolerance: float = 1e-6
    """Largest tolerance of `jn.fit`: above this gain no fit counts as converged."""
    smallest_tolerance: float = 1e-13
    """Smallest tolerance of `jn.fit`: below it there is only rounding."""
    mc_ratio_per_tolx: float = 500.0
    """Tolerance of `jn.SAEM`, the ratio of Monte Carlo error to standard error, as a multiple of TolX: 0.05 for the
    1e-4 of MATLAB's scripts."""
    smallest_mc_ratio: float = 0.01
    """Smallest tolerance of `jn.SAEM`: a tenth of the Monte Carlo error takes a hundred times the iterations."""
    largest_mc_ratio: float = 0.2
    """Largest tolerance of `jn.SAEM`."""

    most_shapes: int = 8
    """Number of different array shapes in V that is allowed: modelfun is evaluated for every group once per shape."""
    symmetry: float = 1e-8
    """Largest difference of the two entries of Cov0 for a pair of effects, in units of correlations, that counts as
    rounding."""
    nearly_singular: float = 1e-3
    """Smallest eigenvalue of psi, with effects scaled by the larger of their SD and starting SD, below which psi is
    taken to be singular if the fit by matrix logarithm did not converge."""
    singular: float = 1e-8
    """The same if that fit converged."""

    window_interval: float = 0.05
    """Least number of seconds between two drawings in a window or in the user's axes."""
    notebook_interval: float = 0.5
    """The same in a notebook, where drawing takes longer."""
    file_interval: float = 1.0
    """The same for a file."""
    values_shown: int = 8
    """Most parameters in a line of Display = 'iter' of nlmefitsa."""
    entries_shown: int = 8
    """Entries of an array up to which a field of a record shows them all; of longer ones it shows the shape."""
    digits_shown: int = 5
    """Significant digits of numbers in a field of a record."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IndexCheckSettings:
    """The check for phi[k] with k beyond the parameters (`index_check.py`), which appends entries to phi."""

    rows: int = 8
    """Rows at which predictions are compared: a single one may not show an effect (a rate has none at time zero)."""
    extra_short: int = 8
    """Number of appended entries, in the shorter of two lengths: two distinguish phi[2] from phi[-1], whose position
    depends on the length."""
    extra_long: int = 16
    """Number of appended entries in the longer one."""
    first_extra: float = 0.5
    """Value of the first appended entry: inside the domain of most functions of a parameter."""
    extra_step: float = 0.07
    """Difference of two neighbouring appended entries, so that no two are equal."""
    change: float = 1.25
    """Factor by which an appended entry is changed."""
    rounding: float = 1e-9
    """Relative change of a prediction that is taken for rounding when an entry of phi changes by this factor."""


MATLAB = MatlabSettings()
INDEX_CHECK = IndexCheckSettings()
