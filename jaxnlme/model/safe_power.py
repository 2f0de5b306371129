"""Powers whose base may be zero."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def safe_power(base: Any, exponent: Any) -> Any:
    """base ** exponent for bases that are zero or more, with finite derivatives where the base is zero.

    There the result is zero, one for an exponent of zero, and a constant: all its derivatives are zero. This is right
    where the base is zero whatever the parameters, such as a dose of zero; derivatives of `base ** exponent` are NaN
    there (0 times infinity, or the logarithm of zero). Where the base becomes zero only at certain parameters, no
    rewriting makes the derivatives finite: keep such a base above zero.

    **Arguments:** `base`, zero or more; `exponent`, more than zero; arrays that broadcast.
    **Returns:** the powers; NaN for a negative base.

    **Example:**

    ```python
    def emax(phi, x):
        ratio = jn.safe_power(x.Dose / phi.ed50, phi.hill)
        return phi.emax * ratio / (1.0 + ratio)
    ```
    """
    base, exponent = jnp.asarray(base), jnp.asarray(exponent)
    zero = base == 0
    power = jnp.where(zero, 1.0, base) ** exponent
    return jnp.where(zero, jnp.where(exponent == 0, 1.0, 0.0), power)
