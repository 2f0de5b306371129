"""Tuning constants of simulations and forecasts. Where no source is given, the value is a choice of this package, for
the reason beside it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DosingSettings:
    """Dosing regimens (`dosing.py`)."""

    rounding: float = 1e-9
    """Part of an interval by which a dose may come before `until` through rounding and is still taken to be at it."""
    most_doses: int = 100_000
    """Most doses of one line of a regimen; more are a mistake in the units of `interval`."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PopulationSettings:
    """Simulated populations (`simulate.py`)."""

    parameter_draws: int = 100
    """Draws of the parameters with `uncertainty=True`: the standard deviation over draws then has an error of 7%."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CurveSettings:
    """Concentration curves between observations (`curves.py`, `panels.py`, `exposure.py`)."""

    cells_per_call: int = 400_000
    """Points of curves that one call of the compiled program computes, to bound memory."""
    sizes: tuple[int, ...] = (16, 128, 1024, 8192)
    """Numbers of curves for which programs are compiled; others are padded to the next of them."""
    bits: int = 2
    """Significant bits of the numbers of points and doses for which programs are compiled; others are padded."""
    starting_panels: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6, 1.0)
    """Ends of the first panels in an interval between doses, as parts of it: curves change most after a dose."""
    tolerance: float = 1e-8
    """Largest difference of the two quadrature rules in all panels of a subject, as a part of the area."""
    passes: int = 40
    """Times that a panel may be halved: for a jump at an unknown time the error halves with it."""
    candidates: int = 3
    """Panels in which the largest (smallest) value of a subject is searched: peaks of similar height."""
    close: float = 0.05
    """Distance from the largest value of a subject, as a part of the range of its values, beyond which a panel does not
    have the peak: 17 points of a panel in which quadrature has converged miss less."""
    zooms: int = 4
    """Times that the bracket of an extreme or a crossing is cut to a sixteenth or less."""
    doublings: int = 60
    """Times that the horizon of an area to infinity is doubled."""
    tail: float = 1e-7
    """Change of an area to infinity at a doubling, as a part of it, at which it is taken as found."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DoseSearch:
    """Searches of a dose (`dose_search.py`, `next_dose.py`)."""

    widest: float = 1e6
    """Largest factor by which a dose is raised or lowered to bracket the target."""
    tolerance: float = 1e-6
    """Relative error of the dose."""
    nonlinear_tolerance: float = 1e-3
    """The same where curves, or times above a threshold, are computed anew for each dose: less than the Monte Carlo
    error of a few thousand subjects."""
    linear: float = 1e-7
    """Deviation from linearity in the dose, relative to the exposure, that is taken for rounding."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PosteriorSettings:
    """The posterior of one patient's random effects (`posterior.py`)."""

    draws: int = 2000
    """Default number of draws: limits of 95% intervals have an error of some 6% of a standard deviation."""
    proposals: int = 10
    """Importance draws for each draw that is kept."""
    degrees_of_freedom: float = 5.0
    """Of the t proposal around the mode: tails wider than a normal posterior's, so that weights are bounded."""
    least_effective: float = 0.05
    """Effective number of draws, as a part of the proposals, below which the result says so."""


DOSING = DosingSettings()
POPULATION = PopulationSettings()
CURVES = CurveSettings()
DOSE_SEARCH = DoseSearch()
POSTERIOR = PosteriorSettings()
