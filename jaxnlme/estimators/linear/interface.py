"""The part of a profiled likelihood that the search and the outcome use, whichever way it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from jaxnlme.estimators.linear.objective import Solution
    from jaxnlme.estimators.linear.relative_factor import AbstractRelativeFactor


class Products(Protocol):
    """Cross-products of a model's columns."""

    @property
    def factors(self) -> Sequence[AbstractRelativeFactor]:
        """Relative factors of the grouping factors, in the order of their parts of theta."""
        ...


class Likelihood(Protocol):
    """-2 log L with fixed effects and sigma profiled out: of nested levels or of crossed factors."""

    restricted: float
    work: int

    @property
    def products(self) -> Products:
        """Cross-products of the columns."""
        ...

    def start(self) -> np.ndarray:
        """theta (parameters,) to begin with."""
        ...

    def profiled(self, theta: np.ndarray) -> tuple[float, np.ndarray, float]:
        """-2 log L, its gradient (parameters,), and rss."""
        ...

    def solve(self, theta: np.ndarray) -> Solution:
        """The maximum over fixed effects and sigma."""
        ...
