"""Residual models: the log-density of the responses of one group given its predictions. A residual model gets the whole
group, so that it can also describe censoring, serial correlation and several endpoints."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError, OptionError, shown
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.censoring import AbstractLimitedError, uncensored
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation, AbstractFactor, Independent
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.scale_function import check_scale, scale_of, sees_x
from jaxnlme.model.residual_error.variance_scale import VarianceScale
from jaxnlme.model.transforms import AbstractTransform, Identity
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.records import Record
from jaxnlme.typing import Vector


class GaussianError(AbstractLimitedError):
    """h(y) = h(f) + scale(f) e, e ~ N(0, C), C = I without a correlation. The functions of `jn.error` make these.

    The density is that of y: it includes the Jacobian of h.

    **Arguments:**

    - `scale(f, **parameters)`: the residual standard deviation (obs,) of h(y) at the prediction f; a function with an
      argument `x` also gets the predictors of the group, as the structural model does. Or a VarianceScale.
    - `parameters`: those of the scale, then the exponent of h if it has one, then those of the correlation.
    - `name`: for summaries; `sd_formula`: the scale as a formula.
    - `response`: the transform h (identity, log, ...); `of_transformed`: `scale` is called with h(f) instead of f.
    - `by`: a column of the data; each of its levels has its own copy of the scale parameters; `levels`: those, filled
      in when the model is bound to data; `correlation`: of e within the group; None: independent.
    - `censoring`: method for rows below or above limits of quantification (see `censoring.py`); None: there are none.
    - `arrays`: those of a scale that is an Equinox module, which `scale` is then without; `is_module`: it is one.

    **Raises:** OptionError for a scale that is no function of f and the parameters.
    **Source:** Davidian and Giltinan (1995), Nonlinear Models for Repeated Measurement Data, chapter 2; Carroll and
    Ruppert (1984), Journal of the American Statistical Association 79, 321-328, for h.
    """

    scale: Callable = eqx.field(static=True)
    parameters: tuple[ErrorParameter, ...]
    name: str = eqx.field(static=True)
    sd_formula: str = eqx.field(static=True)
    response: AbstractTransform = eqx.field(static=True, default=Identity())
    of_transformed: bool = eqx.field(static=True, default=False)
    by: str | None = eqx.field(static=True, default=None)
    levels: tuple[str, ...] = eqx.field(static=True, default=())
    correlation: AbstractCorrelation | None = None
    censoring: str | None = eqx.field(static=True, default=None)
    arrays: Any = None
    is_module: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.by is not None and not isinstance(self.by, str):
            raise OptionError(f"by must be the name of one column of the data; received {shown(self.by)}.")
        if not self.levels and not isinstance(self.scale, VarianceScale):
            check_scale(self.scale, [p.name for p in self.parameters[: self.n_scale]])

    @property
    def sees_x(self) -> bool:
        """True if the scale also depends on the predictors x."""
        return isinstance(self.scale, VarianceScale) or sees_x(self.scale)

    def scale_at(self, f: Any, parameters: Mapping[str, Any], group: Any) -> Any:
        """The residual standard deviation (obs,), or (), of h(y).

        **Arguments:** `f` (obs,): the prediction, or h of it; `parameters`: by name; `group`: a Group.
        """
        if isinstance(self.scale, VarianceScale):
            return self.scale(f, parameters, group)
        return scale_of(self)(f, **parameters, **({"x": group.x} if self.sees_x else {}))

    @property
    def formula(self) -> str:
        scale = f"{self.sd_formula} by {self.by}" if self.by else self.sd_formula
        text = f"y = f + ({scale}) e"
        if not isinstance(self.response, Identity):
            text = f"h(y) = h(f) + ({scale}) e, h = {self.response.name}"
        if self.correlation is not None:
            text = f"{text}, corr(e) = {self.correlation.description}"
        return f"{text}, censored rows by {self.censoring}" if self.censoring else text

    @property
    def has_gaussian_moments(self) -> bool:
        return True

    @property
    def n_shape(self) -> int:
        """Number of exponents of the response transform, 0 or 1."""
        return int(self.response.has_shape)

    @property
    def n_scale(self) -> int:
        return len(self.parameters) - self.n_shape - self.n_correlation

    @property
    def n_correlation(self) -> int:
        """Number of parameters of the correlation, the last ones."""
        return 0 if self.correlation is None else len(self.correlation.parameters)

    def gaussian_parts(self):
        return [(self, tuple(range(len(self.parameters))), None)]

    def correlations(self):
        n = len(self.parameters)
        return [] if self.correlation is None else [(self.correlation, tuple(range(n - self.n_correlation, n)), None)]

    def factor(self, theta, group):
        if self.correlation is None:
            return Independent()
        return self.correlation.factor(self._of_correlation(theta), group.layout)

    def natural(self, theta):
        record = super().natural(theta)
        if self.correlation is None:
            return record
        values = record.values[: self.n_scale + self.n_shape] + self.correlation.natural(self._of_correlation(theta))
        return Record(record.names, values, "error parameter")

    def unconstrained(self, values):
        if self.correlation is None:
            return super().unconstrained(values)
        first = len(self.parameters) - self.n_correlation
        scales = zip(self.parameters[:first], values[:first], strict=True)
        scale = [float(p.transform.to_real(float(value))) for p, value in scales]
        return np.array([*scale, *self.correlation.unconstrained(values[first:])])

    def _of_correlation(self, theta: Vector) -> Vector:
        return theta[len(self.parameters) - self.n_correlation :]

    def with_correlation(self, correlation: AbstractCorrelation | None) -> GaussianError:
        """The model with another correlation, whose parameters follow those of the scale.

        **Raises:** OptionError for parameters of the same name.
        """
        others = self.parameters[: self.n_scale + self.n_shape]
        added = () if correlation is None else correlation.parameters
        for p in added:
            if p.name in (other.name for other in others):
                raise OptionError(
                    f"the residual scale and the correlation both have a parameter {p.name!r}; rename one of them."
                )
        changed: Any = self
        return dataclasses.replace(changed, parameters=(*others, *added), correlation=correlation)

    def resolve(self, levels):
        changed: Any = self
        if isinstance(self.scale, VarianceScale):
            resolved = self.scale.resolve(levels)
            if resolved == self.scale:
                return self
            parameters = (*resolved.parameters(), *self.parameters[self.n_scale :])
            return dataclasses.replace(changed, scale=resolved, parameters=parameters)
        if self.by is None or self.levels:
            return self
        names = tuple(str(level) for level in levels(self.by))
        scale, others = self.parameters[: self.n_scale], self.parameters[self.n_scale :]
        copies = tuple(
            ErrorParameter(f"{p.name}[{level}]", p.start, p.transform, p.fix, p.automatic)
            for p in scale
            for level in names
        )
        return dataclasses.replace(changed, parameters=copies + others, levels=names)

    def _split(self, theta: Vector, group: Any) -> tuple[dict[str, Any], Any]:
        """Scale parameters by name (without stratum), each () or (obs,), and the exponent of h (None if it has
        none)."""
        natural, count = super().natural(theta), self.n_scale
        shape = natural[count] if self.n_shape else None
        if self.by is None:
            return {name: natural[k] for k, name in enumerate(natural.names[:count])}, shape
        width = len(self.levels)
        scale = {}
        for k in range(0, count, width):
            name = natural.names[k].rsplit("[", 1)[0]
            scale[name] = jnp.stack(natural[k : k + width])[group.strata]
        return scale, shape

    def standardise(self, prediction, scale_prediction, theta, group, usable):
        f = jnp.where(usable, prediction, group.y)
        f_scale = f if scale_prediction is prediction else jnp.where(usable, scale_prediction, group.y)
        parameters, shape = self._split(theta, group)
        mean = self.response.to_real(f, shape)
        base = f_scale
        if self.of_transformed:
            base = mean if f_scale is f else self.response.to_real(f_scale, shape)
        scale = self.scale_at(base, parameters, group)
        return mean, jnp.broadcast_to(scale, group.y.shape), shape

    def moments(self, prediction, scale_prediction, theta, group):
        """Residual h(y) - h(f), scale of h(y), and log |dh/dy|, each (obs,); (0, 1, 0) in rows without a response or
        with a censored one.

        -d residual / dz is the Jacobian in a Gauss-Newton curvature.
        """
        known = uncensored(group)
        # Predictions in other rows may have no finite scale or logarithm (they are often 0 for dose records).
        mean, scale, shape = self.standardise(prediction, scale_prediction, theta, group, known)
        residual = self.response.to_real(group.y, shape) - mean
        slope = self.response.log_slope(group.y, shape)
        return jnp.where(known, residual, 0.0), jnp.where(known, scale, 1.0), jnp.where(known, slope, 0.0)

    def standardised(self, prediction, scale_prediction, theta, group):
        residual, scale, slope = self.moments(prediction, scale_prediction, theta, group)
        terms = jnp.where(uncensored(group), slope - HALF_LOG_2PI - jnp.log(scale), 0.0)
        if self.is_limited:
            terms = terms + self.limit_terms(prediction, scale_prediction, theta, group)
        return residual / scale, terms

    def log_density(self, prediction, scale_prediction, theta, group, factor=None):
        terms, half_logdet = self._terms(prediction, scale_prediction, theta, group, factor)
        return jnp.sum(terms) - half_logdet

    def row_terms(self, prediction, theta, group):
        terms, half_logdet = self._terms(prediction, prediction, theta, group)
        return terms, -half_logdet

    def has_row_terms(self, prediction, theta, group):
        return True

    def _terms(
        self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any, factor: AbstractFactor | None = None
    ) -> tuple[Vector, Any]:
        """Terms of the log-density by row (obs,), and half the log-determinant of the correlation."""
        r, terms = self.standardised(prediction, scale_prediction, theta, group)
        factor = self.factor(theta, group) if factor is None else factor
        terms = terms - 0.5 * factor.whiten(r) ** 2
        return terms, factor.half_logdet

    def draw(self, noise: Vector, prediction: Vector, theta: Vector, group: Any) -> Vector:
        """Simulated responses (obs,).

        **Arguments:** `noise` (obs,): standard normal numbers; `prediction` (obs,); `theta` (unconstrained,); `group`.
        """
        parameters, shape = self._split(theta, group)
        mean = self.response.to_real(prediction, shape)
        scale = self.scale_at(mean if self.of_transformed else prediction, parameters, group)
        if self.correlation is not None:
            noise = self.correlation.color(noise, self._of_correlation(theta), group.layout)
        return self.response.to_natural(mean + scale * noise, shape)


class GroupLogLikelihood(AbstractError):
    """An outcome with a log-likelihood of the user: counts, binary, ordinal, times to event.

    **Arguments:**

    - `density(y, f, p, x, v)`: the log-density of each row (obs,), of which rows without a response are then left out;
      or that of the whole group (), which must itself use `x.mask` (real rows) and `x.observed` (rows with a response).
      y (obs,) are the responses, f is what the structural model returns, p a record of `parameters` on their natural
      scale, x the predictors, v the group-level predictors. Written with jax.numpy.
    - `parameters`: a tuple of ErrorParameter.
    - `sampler(key, f, p, x, v)`: draws responses (obs,) from a JAX random key, for `simulate`; None: not available.
    - `name`: for summaries.

    **Raises:** ModelError where `density` or `sampler` does not take five arguments, `parameters` are of another type,
    or `density` returns another shape.

    **Example:**

    ```python
    def poisson(y, f, p, x, v):
        return y * jnp.log(f) - f - jax.scipy.special.gammaln(y + 1.0)


    outcome = jn.GroupLogLikelihood(poisson, name="Poisson")
    ```
    """

    density: Callable = eqx.field(static=True)
    parameters: tuple[ErrorParameter, ...] = ()
    sampler: Callable | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="user")

    def __check_init__(self):
        try:
            inspect.signature(self.density).bind(None, None, None, None, None)
        except TypeError:
            raise ModelError("the group log-likelihood must take (y, f, p, x, v): five arguments.") from None
        listed = isinstance(self.parameters, (list, tuple))
        if not listed or not all(isinstance(entry, ErrorParameter) for entry in self.parameters):
            raise ModelError(
                "the parameters of a group log-likelihood must be a list of jn.ErrorParameter objects, such as "
                f"[jn.ErrorParameter('shape', 1.0, 'log')]; received {shown(self.parameters)}."
            )
        if self.sampler is not None and not callable(self.sampler):
            raise ModelError(f"sampler must be a function (key, f, p, x, v); received {shown(self.sampler)}.")

    @property
    def formula(self) -> str:
        return f"log p(y | f) = {getattr(self.density, '__name__', 'user function')}(y, f, p, x, v)"

    @property
    def has_gaussian_moments(self) -> bool:
        return False

    def log_density(self, prediction, scale_prediction, theta, group, factor=None):
        """log p(y | prediction) of one group by the user's density.

        **Arguments:** `prediction` (obs,) or whatever the structural model returns; `scale_prediction`, not used;
        `theta`, unconstrained error parameters; `group`; `factor`, not used.
        **Returns:** a scalar.
        **Raises:** ModelError unless the density returns a scalar or one value for each row.
        """
        value = self.density(group.y, prediction, self.natural(theta), group.x, group.v)
        if jnp.ndim(value) == 0:
            return jnp.asarray(value)
        if jnp.shape(value) != group.y.shape:
            raise ModelError(
                f"the group log-likelihood must return one value a row, shape {group.y.shape}, or a scalar for the "
                f"group; it returned shape {jnp.shape(value)}."
            )
        return jnp.sum(jnp.where(group.x.observed, value, 0.0))

    def row_terms(self, prediction, theta, group):
        value = self.density(group.y, prediction, self.natural(theta), group.x, group.v)
        return jnp.where(group.x.observed, value, 0.0), jnp.zeros((), value.dtype)

    def has_row_terms(self, prediction, theta, group):
        """True if the user's density returns a value for each row.

        **Arguments:** as for `log_density`; of the prediction its shape is enough.
        """

        def density(prediction):
            return self.density(group.y, prediction, self.natural(theta), group.x, group.v)

        return jax.eval_shape(density, prediction).shape == group.y.shape
