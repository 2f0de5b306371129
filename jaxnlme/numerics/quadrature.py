"""Gauss-Hermite nodes and their tensor grids, for integrals against the standard normal density."""

from __future__ import annotations

import itertools

import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.numerics.settings import COMPUTATION


def normal_grid(nodes: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Tensor grid of Gauss-Hermite nodes for E[g(u)], u ~ N(0, I).

    **Arguments:** `nodes`: number per axis, at least 1; `dimension`: length of u.
    **Returns:** points (nodes**dimension, dimension), and log-weights (nodes**dimension,); the weights sum to one.
    **Raises:** OptionError above 50,000 points in all.
    **Source:** the probabilists' Gauss-Hermite rule (numpy.polynomial.hermite_e), weights divided by sqrt(2 pi).
    """
    if nodes < 1:
        raise OptionError(f"quadrature needs at least one node a random effect; received {nodes}.")
    if nodes**dimension > COMPUTATION.max_grid_points:
        raise OptionError(
            f"{nodes} nodes on {dimension} random effects make {nodes**dimension:,} points, more than "
            f"{COMPUTATION.max_grid_points:,}; use fewer nodes, or sampling."
        )
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    log_w = np.log(w) - 0.5 * np.log(2.0 * np.pi)
    points = np.array(list(itertools.product(x, repeat=dimension))).reshape(-1, dimension)
    weights = np.array(list(itertools.product(log_w, repeat=dimension))).reshape(-1, dimension).sum(axis=1)
    return points, weights
