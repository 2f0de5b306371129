"""exp(K t) for a matrix K of rate constants, smooth in its entries and in t.

K has entries K[i, j] >= 0 (i not j), the flow from j to i, and columns that sum to zero or less. With q the largest
rate of departure, exp(K t) = exp(-q t) exp((K + q I) t), a series of positive terms (uniformisation); t is halved until
it converges fast, and the result squared as often. No eigenvalue is computed, so that nothing happens where two meet.

**Source:** Moler and Van Loan (2003), SIAM Review 45, 3-49, method 3; Jensen (1953), Skandinavisk Aktuarietidskrift 36,
87-91 (uniformisation).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.pkpd.settings import EXPONENTIAL


def exponential(matrix: Any, time: Any) -> Any:
    """exp(K t) (..., n, n), with relative accuracy of each entry.

    **Arguments:** `matrix` K (..., n, n); `time` t (...), not negative.
    **Returns:** NaN where K t is too large for the allowed number of halvings.
    """
    n = matrix.shape[-1]
    departure = jax.lax.stop_gradient(-jnp.diagonal(matrix, axis1=-2, axis2=-1))
    q = jnp.max(departure, axis=-1)  # any number gives the same function: a constant for differentiation
    norm = jax.lax.stop_gradient(q * time)
    halvings = jnp.ceil(jnp.log2(jnp.maximum(norm / EXPONENTIAL.norm, 1.0)))
    halvings = jnp.where(halvings <= EXPONENTIAL.halvings, halvings, jnp.nan)
    step = time * jnp.exp2(-halvings)
    eye = jnp.broadcast_to(jnp.eye(n, dtype=matrix.dtype), matrix.shape)
    scaled = (matrix + q[..., None, None] * eye) * step[..., None, None]
    series = eye + scaled / (EXPONENTIAL.terms + n)
    for k in range(EXPONENTIAL.terms + n - 1, 0, -1):
        series = eye + scaled @ series / k
    result = jnp.exp(-q * step)[..., None, None] * series

    def square(k, result):
        return jnp.where((k < halvings)[..., None, None], result @ result, result)

    return jax.lax.fori_loop(0, EXPONENTIAL.halvings, square, result)
