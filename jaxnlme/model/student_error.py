"""Student-t residuals: a residual model whose large residuals count less than those of a Gaussian one."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import OptionError, shown
from jaxnlme.model.fixed import Fixed, number_of
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.records import Record
from jaxnlme.typing import Vector

HELD_DF = Fixed(4.0)  # Lange, Little and Taylor (1989), section 5: where df is not estimated
_SHIFT = 15
_COEFFICIENTS = (-1.0 / 8.0, 1.0 / 192.0, -1.0 / 640.0, 17.0 / 14336.0, -31.0 / 18432.0)


class StudentError(AbstractError):
    """h(y) = h(f) + scale(f) e, e ~ t with `df` degrees of freedom, independent. `jn.error.student_t` makes these.

    The log-density of a row, with r = (h(y) - h(f)) / scale(f), is

        log Gamma((df + 1) / 2) - log Gamma(df / 2) - log(df pi) / 2 - log scale - (df + 1) / 2 log(1 + r^2 / df)
        + log |dh/dy|.

    **Fields:** `base`: the Gaussian residual model with this transform and scale; `df`: the parameter.

    **Source:** Lange, Little and Taylor (1989), Journal of the American Statistical Association 84, 881-896; for
    mixed models Pinheiro, Liu and Wu (2001), Journal of Computational and Graphical Statistics 10, 249-276.
    """

    base: GaussianError
    df: ErrorParameter

    @property
    def parameters(self) -> tuple[ErrorParameter, ...]:
        """Those of the scale and the transform, then `df`."""
        return (*self.base.parameters, self.df)

    def with_parameters(self, parameters: tuple[ErrorParameter, ...]) -> StudentError:
        base: Any = self.base.with_parameters(tuple(parameters[:-1]))
        return StudentError(base, parameters[-1])

    def resolve(self, levels):
        base: Any = self.base.resolve(levels)
        return StudentError(base, self.df)

    @property
    def arrays(self) -> Any:
        """The arrays of a scale that is an Equinox module, else None."""
        return self.base.arrays

    def with_arrays(self, arrays):
        base: Any = self.base.with_arrays(arrays)
        return StudentError(base, self.df)

    # What binding reads of a residual model: the columns of its strata, and its transform.

    @property
    def by(self) -> str | None:
        """The column of strata of the scale, None without one."""
        return self.base.by

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of `by`."""
        return self.base.levels

    @property
    def scale(self) -> Any:
        """The scale as a function of the prediction."""
        return self.base.scale

    @property
    def response(self) -> AbstractTransform:
        """The transform h."""
        return self.base.response

    @property
    def name(self) -> str:
        """The name for summaries."""
        return f"{self.base.name}, Student t"

    @property
    def formula(self) -> str:
        df = f"{float(self.df.start):g}" if self.df.fix and isinstance(self.df.start, np.ndarray) else self.df.name
        return f"{self.base.formula}, e ~ t({df})"

    @property
    def has_gaussian_moments(self) -> bool:
        return False

    @property
    def has_location_and_scale(self) -> bool:
        return True

    @property
    def n_scale(self) -> int:
        return self.base.n_scale

    def gaussian_parts(self):
        """The Gaussian residual model with this scale, whose start follows the data as this one's does."""
        return [(self.base, tuple(range(len(self.base.parameters))), None)]

    def natural(self, theta):
        of_base = self.base.natural(theta[:-1])
        names, values = (*of_base.names, self.df.name), (*of_base.values, self.df.transform.to_natural(theta[-1]))
        return Record(names, values, "error parameter")

    def unconstrained(self, values):
        last = float(self.df.transform.to_real(float(values[-1])))
        return np.array([*self.base.unconstrained(values[:-1]), last])

    def moments(self, prediction, scale_prediction, theta, group):
        """Residual h(y) - h(f), its standard deviation scale(f) sqrt(df / (df - 2)), and log |dh/dy|, each (obs,), for
        tables of residuals; (0, 1, 0) in rows without a response. Where df is 2 or less there is no standard
        deviation, and scale(f) stands in its place."""
        residual, scale, slope = self.base.moments(prediction, scale_prediction, theta[:-1], group)
        ratio = self._sd_ratio(theta)
        return residual, jnp.where(group.x.observed, scale * ratio, 1.0), slope

    def _sd_ratio(self, theta: Vector) -> Any:
        df = self.df.transform.to_natural(theta[-1])
        has_variance = df > 2.0
        return jnp.where(has_variance, jnp.sqrt(df / jnp.where(has_variance, df - 2.0, 1.0)), 1.0)

    def log_density(self, prediction, scale_prediction, theta, group, factor=None):
        return jnp.sum(self._terms(prediction, scale_prediction, theta, group))

    def row_terms(self, prediction, theta, group):
        return self._terms(prediction, prediction, theta, group), jnp.zeros((), theta.dtype)

    def has_row_terms(self, prediction, theta, group):
        return True

    def _terms(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> Vector:
        """Terms of the log-density by row (obs,), zero in rows without a response."""
        residual, scale, slope = self.base.moments(prediction, scale_prediction, theta[:-1], group)
        df, r = self.df.transform.to_natural(theta[-1]), residual / scale
        constant = log_gamma_ratio(0.5 * df) - HALF_LOG_2PI
        terms = constant + slope - jnp.log(scale) - 0.5 * (df + 1.0) * jnp.log1p(r**2 / df)
        return jnp.where(group.x.observed, terms, 0.0)

    def draw_with_keys(self, noise: Vector, keys: jax.Array, prediction: Vector, theta: Vector, group: Any) -> Vector:
        """Simulated responses (obs,): a t variate is a normal one over the root of an independent chi-square / df.

        **Arguments:** `noise` (obs,): standard normal numbers; `keys` (obs,): a JAX key for each row; `prediction`
        (obs,); `theta` (unconstrained,); `group`.
        """
        df = self.df.transform.to_natural(theta[-1])
        half = jax.vmap(lambda key: jax.random.gamma(key, 0.5 * df, dtype=theta.dtype))(keys)
        return self.base.draw(noise * jnp.sqrt(0.5 * df / half), prediction, theta[:-1], group)


def check_independent(scale: Any) -> Any:
    """The scale of Student-t residuals. **Raises:** OptionError for one with a correlation."""
    if getattr(scale, "correlation", None) is not None:
        raise OptionError(
            "Student-t residuals are independent; leave the correlation out, or use jn.error.gaussian(scale, "
            "correlation), whose residuals are Gaussian."
        )
    return scale


def student_error(base: GaussianError, df: float | Fixed) -> StudentError:
    """The residual model `base` with t instead of Gaussian residuals.

    **Arguments:** `df`: degrees of freedom: a starting value, or a Fixed.
    **Raises:** OptionError for a df that is not a positive number, and a parameter called "df" of the scale.
    """
    value = number_of(df)
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not (math.isfinite(value) and value > 0):
        raise OptionError(
            "df, the degrees of freedom of Student-t residuals, must be a positive number, at which their estimation "
            f"starts, or jn.fixed(4.0) to hold them; received {shown(df)}."
        )
    if any(p.name == "df" for p in base.parameters):
        raise OptionError("the scale of Student-t residuals has a parameter called 'df'; give it another name.")
    return StudentError(base, ErrorParameter("df", float(value), "log", isinstance(df, Fixed)))


def log_gamma_ratio(x: Any) -> Any:
    """log Gamma(x + 1/2) - log Gamma(x) - log(x) / 2 for x > 0, to an absolute error of about 1e-15: without the
    cancellation of two large logarithms, and with derivatives of all orders that are short programs.

    The asymptotic series is used at x + 15, from which Gamma(x + 1) = x Gamma(x) leads down to x.

    **Arguments:** `x` (): positive.
    **Returns:** a scalar, which tends to zero as x grows.
    **Source:** Abramowitz and Stegun (1964), 6.1.41, at x + 1/2 less that at x.
    """
    inverse = 1.0 / (x + _SHIFT)
    series = sum(c * inverse ** (2 * k + 1) for k, c in enumerate(_COEFFICIENTS))
    steps = jnp.log1p(0.5 / (x + np.arange(_SHIFT)))  # log((x + k + 1/2) / (x + k))
    return series - jnp.sum(steps) + 0.5 * jnp.log1p(_SHIFT / x)
