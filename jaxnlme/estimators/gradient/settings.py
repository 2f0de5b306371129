"""Tuning constants of gradient training.

Where no source is given, the value is a choice of this package, for the reason beside it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainingSettings:
    """Training (`run.py`, `algorithm.py`)."""

    learning_rate: float = 1e-2
    """Start of the default optimiser, Adam; over `steps` it falls to zero along a cosine.

    **Source:** Kingma and Ba (2015), ICLR, for Adam; Loshchilov and Hutter (2017), ICLR, for the cosine."""
    block_steps: int = 25
    """Steps of one compiled run, after which the host sees losses, calls the callbacks and can be interrupted."""
    checks: int = 20
    """Evaluations of the held-out groups over the training by default."""
    least_gain: float = 1e-3
    """Rise of the mean log-likelihood of a held-out group below which a check counts as no gain."""
    refused_steps: int = 20
    """Steps in a row with a gradient that is not finite after which the training ends."""
    mode_tolerance_float32: float = 1e-3
    """Length of a Newton step that ends the search of a mode in float32, in whitened units: rounding moves a mode by
    about the square root of the spacing of numbers, 3e-4."""
    chain_steps: int = 5
    """Metropolis steps of a group's chain at each visit, with objective="complete"."""
    chain_scales: tuple[float, ...] = (0.1, 0.4, 1.6)
    """Standard deviations of the proposals, in whitened units; each step takes one of them at random."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PolishSettings:
    """The polish over all groups (`polish.py`)."""

    most_weights: int = 2000
    """Largest number of trained weights for which a polish is made by default: its quasi-Newton matrix has the square
    of their number of entries, 32 MB."""
    max_iterations: int = 200
    """Iterations of each phase of the polish by default."""


TRAINING, POLISH = TrainingSettings(), PolishSettings()
