"""Covariance structures of the random effects: psi = L L' from an unconstrained vector theta; psi may be singular.

The diagonal of every factor L is the exponential of an entry of theta, so that theta = -inf is a standard deviation of
exactly zero, with finite derivatives. The exception is the matrix logarithm, whose psi is never singular.

**Example:**

```python
jn.NLMEModel(oral, [ka, cl, vol], covariance=jn.covariances.LogCholesky(3))
```
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import AbstractCovariance as AbstractCovariance
from jaxnlme.model.covariance.base import as_semidefinite, log_sd
from jaxnlme.model.covariance.blocks import Blocks as Blocks
from jaxnlme.model.covariance.held import HeldFixed as HeldFixed
from jaxnlme.model.covariance.heterogeneous import Heterogeneous as Heterogeneous
from jaxnlme.model.covariance.sd_correlation import sd_correlation
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import sigmoid
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.linalg import cholesky, expm, semidefinite_cholesky


class Diagonal(AbstractCovariance):
    """Independent random effects: psi = diag(exp(2 theta)), with theta (random,) the log standard deviations.

    **Arguments:** `size`: the number of random effects.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], covariance=jn.covariances.Diagonal(3))
    ```
    """

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size

    def factor(self, theta):
        return xp(theta).diag(xp(theta).exp(theta))

    def apply(self, theta, z):
        return jnp.exp(theta) * z

    def from_matrix(self, psi):
        return log_sd(np.diag(as_semidefinite(psi)))

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        return 0.5 * jnp.log(jnp.diagonal(moment))

    @property
    def log_scales(self):
        return tuple((k, (k,), ()) for k in range(self.size))

    @property
    def correlated_pairs(self):
        return ()


class LogCholesky(AbstractCovariance):
    """A full psi: theta holds the logs of the diagonal of L, then its strictly lower triangle by rows.

    **Arguments:** `size`: the number of random effects.
    **Source:** Pinheiro and Bates (1996), Statistics and Computing 6, 289-296, the log-Cholesky parametrisation.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], covariance=jn.covariances.LogCholesky(3))
    ```
    """

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size * (self.size + 1) // 2

    def factor(self, theta):
        n, stack = self.size, xp(theta).stack
        scale, zero = xp(theta).exp(theta[:n]), xp(theta).zeros_like(theta[0])
        below = {entry: theta[n + k] for k, entry in enumerate((i, j) for i in range(n) for j in range(i))}
        return stack([stack([scale[i] if i == j else below.get((i, j), zero) for j in range(n)]) for i in range(n)])

    def from_matrix(self, psi):
        lower = semidefinite_cholesky(psi)
        return np.concatenate([log_sd(np.diag(lower) ** 2), lower[np.tril_indices(self.size, -1)]])

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        lower = cholesky(moment)
        return jnp.concatenate([jnp.log(jnp.diagonal(lower)), lower[np.tril_indices(self.size, -1)]])

    def with_elements(self, sds, pairs):
        return sd_correlation(self.size, sds, pairs)

    @property
    def log_scales(self):
        rows, columns = np.tril_indices(self.size, -1)
        below = [tuple(int(self.size + i) for i in np.flatnonzero(columns == k)) for k in range(self.size)]
        return tuple((k, (k,), below[k]) for k in range(self.size))

    @property
    def correlated_pairs(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))


class LogMatrix(AbstractCovariance):
    """A full psi = exp(S): theta holds the upper triangle of the symmetric S = log psi, by rows. The factor is exp(S /
    2), which is symmetric. Every psi is positive definite; for a singular psi `from_matrix` gives a nearby definite
    one.

    **Arguments:** `size`: the number of random effects.
    **Source:** Pinheiro and Bates (1996), Statistics and Computing 6, 289-296, the matrix logarithm. The exponential is
    computed by a Taylor series: derivatives of eigenvectors are not finite at equal eigenvalues.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], covariance=jn.covariances.LogMatrix(3))
    ```
    """

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size * (self.size + 1) // 2

    def factor(self, theta):
        upper = np.triu_indices(self.size)
        index = np.zeros((self.size, self.size), int)
        index[upper] = index[upper[::-1]] = np.arange(self.n_unconstrained)
        half = 0.5 * theta[index]
        if xp(theta) is not np:
            return expm(half)
        import scipy.linalg

        return scipy.linalg.expm(half)

    def apply(self, theta, z):
        return self.factor(theta) @ z

    def from_matrix(self, psi):
        values, vectors = np.linalg.eigh(as_semidefinite(psi))
        least = max(MODEL.least_eigenvalue * float(values[-1]), np.finfo(float).tiny)
        log = (vectors * np.log(np.maximum(values, least))) @ vectors.T
        return log[np.triu_indices(self.size)]

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        values, vectors = jnp.linalg.eigh(moment)
        log = (vectors * jnp.log(values)[None, :]) @ vectors.T
        return log[np.triu_indices(self.size)]

    def with_elements(self, sds, pairs):
        return sd_correlation(self.size, sds, pairs)

    @property
    def log_scales(self):
        return ()

    @property
    def correlated_pairs(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))


class MultipleOfIdentity(AbstractCovariance):
    """psi = exp(2 theta) I: independent effects with one standard deviation; theta (1,) is its logarithm.

    **Arguments:** `size`: the number of random effects.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], covariance=jn.covariances.MultipleOfIdentity(3))
    ```
    """

    size: int = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return 1

    def factor(self, theta):
        return xp(theta).exp(theta[0]) * np.eye(self.size)

    def apply(self, theta, z):
        return jnp.exp(theta[0]) * z

    def from_matrix(self, psi):
        return log_sd(np.mean(np.diag(as_semidefinite(psi)), keepdims=True))

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        return 0.5 * jnp.log(jnp.mean(jnp.diagonal(moment), keepdims=True))

    @property
    def log_scales(self):
        return ((0, tuple(range(self.size)), ()),)

    @property
    def correlated_pairs(self):
        return ()


class CompoundSymmetry(AbstractCovariance):
    """psi = s^2 ((1 - r) I + r 1 1'): one standard deviation s and one correlation r for all effects.

    theta = (log s, logit of r on the interval (-1 / (size - 1), 1)).

    **Arguments:** `size`: the number of random effects, at least 2.
    **Raises:** OptionError for fewer.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], covariance=jn.covariances.CompoundSymmetry(3))
    ```
    """

    size: int = eqx.field(static=True)

    def __check_init__(self):
        if self.size < 2:
            raise OptionError("compound symmetry needs at least two random effects; use 'diagonal' for one.")

    @property
    def n_unconstrained(self) -> int:
        return 2

    def _correlation(self, theta):
        low = -1.0 / (self.size - 1)
        return low + (1.0 - low) * sigmoid(theta[1])

    def factor(self, theta):
        r = self._correlation(theta)
        correlation = (1.0 - r) * np.eye(self.size) + r
        factor = np.linalg.cholesky(correlation) if xp(theta) is np else cholesky(correlation)
        return xp(theta).exp(theta[0]) * factor

    def from_matrix(self, psi):
        variance = np.mean(np.diag(as_semidefinite(psi)))
        below = np.tril_indices(self.size, -1)
        r = float(np.mean(psi[below]) / variance) if variance > 0 else 0.0
        low = -1.0 / (self.size - 1)
        logistic = np.clip((r - low) / (1.0 - low), MODEL.correlation_margin, 1.0 - MODEL.correlation_margin)
        return np.array([log_sd(np.array([variance]))[0], np.log(logistic / (1.0 - logistic))])

    @property
    def has_closed_form(self):
        return True

    def from_moment(self, moment):
        # The family is invariant under permutations of the effects: its estimate is that of the averaged moment.
        variance = jnp.mean(jnp.diagonal(moment))
        low = -1.0 / (self.size - 1)
        logistic = (jnp.mean(moment[np.tril_indices(self.size, -1)]) / variance - low) / (1.0 - low)
        logistic = jnp.clip(logistic, MODEL.correlation_margin, 1.0 - MODEL.correlation_margin)
        return jnp.stack([0.5 * jnp.log(variance), jnp.log(logistic / (1.0 - logistic))])

    @property
    def log_scales(self):
        return ((0, tuple(range(self.size)), (1,)),)

    @property
    def correlated_pairs(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))
