"""Residual models: the log-density of one group's responses given its predictions.

This is the one place where the outcome meets the prediction. Every model sees the whole group (responses, predictions,
predictors, masks), so censoring, serial correlation and several endpoints belong here as well.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError, OptionError
from jaxnlme.model.transforms import AbstractTransform, Identity, transform
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.records import Record
from jaxnlme.typing import Scalar, Vector


class ErrorParameter(eqx.Module):
    """One parameter of a residual model: `name`, `start` on the natural scale, `transform` ("log" keeps it positive),
    `fix`, true where it stays at its start, and
    `automatic`, true where the user gave no start and `fit` scales this one to the data."""

    name: str = eqx.field(static=True)
    start: Any = eqx.field(converter=lambda value: np.asarray(value, float))
    transform: AbstractTransform = eqx.field(static=True, converter=transform)
    fix: bool = eqx.field(static=True, default=False)
    automatic: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.transform.has_shape:
            raise OptionError(
                f"error parameter {self.name!r}: the {self.transform.name} transform has an exponent of its own; use "
                "identity, log, logit or probit."
            )
        low, high = self.transform.domain
        if not low < self.start < high:
            raise OptionError(
                f"error parameter {self.name!r} must start inside ({low:g}, {high:g}); received {self.start!r}."
            )


class AbstractError(eqx.Module):
    """What `log_joint` needs of an outcome; `parameters` lists what is estimated, one entry an unconstrained number."""

    if TYPE_CHECKING:

        @property
        def parameters(self) -> tuple[ErrorParameter, ...]:
            """A field of every final class."""
            ...

    @property
    @abc.abstractmethod
    def formula(self) -> str:
        """The model in one line, for summaries."""

    @property
    @abc.abstractmethod
    def has_gaussian_moments(self) -> bool:
        """Whether `moments` exists, which Gauss-Newton curvatures and linearisations need."""

    @abc.abstractmethod
    def log_density(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> Scalar:
        """log p(y | prediction) of one group, summed over its observed rows.

        **Arguments:** `prediction` (obs,) or what the structural model returns; `scale_prediction`, the prediction that
        the residual scale is taken at (the same one, or the one at z = 0 for FO and FOCE); `theta` (unconstrained,).
        """

    def moments(
        self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any
    ) -> tuple[Vector, Vector, Vector]:
        """The Gaussian face, where there is one: residual, scale and log-slope (obs,); see GaussianError."""
        raise ModelError(f"{type(self).__name__} has no Gaussian face: no mean and scale to linearise.")

    def natural(self, theta: Vector) -> Record:
        """The parameters on their natural scale, by name."""
        values = tuple(p.transform.to_natural(theta[k]) for k, p in enumerate(self.parameters))
        return Record(tuple(p.name for p in self.parameters), values, "error parameter")

    def resolve(self, levels: Callable[[str], Sequence[Any]]) -> AbstractError:
        """The model with its strata known; `levels(column)` lists the levels of a column of the data."""
        return self


class GaussianError(AbstractError):
    """h(y) = h(f) + scale(f) e, e ~ N(0, 1) independent over observations, h = `response` (identity, log, ...).

    The density of y includes the Jacobian of h. `scale(f, **parameters)` gives the (obs,) residual standard deviation
    of h(y) from the prediction f, or from h(f) where `of_transformed`. `by` names a column whose levels each have
    their own copy of the scale parameters (levels are filled in when the model meets data).
    """

    scale: Callable = eqx.field(static=True)
    parameters: tuple[ErrorParameter, ...]
    name: str = eqx.field(static=True)
    sd_formula: str = eqx.field(static=True)
    response: AbstractTransform = eqx.field(static=True, default=Identity())
    of_transformed: bool = eqx.field(static=True, default=False)
    by: str | None = eqx.field(static=True, default=None)
    levels: tuple[str, ...] = eqx.field(static=True, default=())

    @property
    def formula(self) -> str:
        scale = f"{self.sd_formula} by {self.by}" if self.by else self.sd_formula
        if isinstance(self.response, Identity):
            return f"y = f + ({scale}) e"
        return f"h(y) = h(f) + ({scale}) e, h = {self.response.name}"

    @property
    def has_gaussian_moments(self) -> bool:
        return True

    @property
    def n_shape(self) -> int:
        return int(self.response.has_shape)

    def resolve(self, levels):
        if self.by is None or self.levels:
            return self
        names = tuple(str(level) for level in levels(self.by))
        scale, shape = self.parameters[: len(self.parameters) - self.n_shape], self.parameters[-1:]
        copies = tuple(
            ErrorParameter(f"{p.name}[{level}]", p.start, p.transform, p.fix, p.automatic)
            for p in scale
            for level in names
        )
        return GaussianError(
            self.scale,
            copies + (shape if self.n_shape else ()),
            self.name,
            self.sd_formula,
            self.response,
            self.of_transformed,
            self.by,
            names,
        )

    def _split(self, theta: Vector, group: Any) -> tuple[dict[str, Any], Any]:
        """Scale parameters by base name, () or (obs,), and the response's shape."""
        natural = self.natural(theta)
        shape = natural[-1] if self.n_shape else None
        count = len(self.parameters) - self.n_shape
        if self.by is None:
            return {name: natural[k] for k, name in enumerate(natural.names[:count])}, shape
        width = len(self.levels)
        scale = {}
        for k in range(0, count, width):
            name = natural.names[k].rsplit("[", 1)[0]
            scale[name] = jnp.stack(natural[k : k + width])[group.strata]
        return scale, shape

    def moments(self, prediction, scale_prediction, theta, group):
        """Residual h(y) - h(f), scale of h(y), and log |dh/dy|, each (obs,); rows without a response hold (0, 1, 0).

        Gaussian face of the outcome: -d residual / dz is the Jacobian of a Gauss-Newton curvature.
        """
        seen = group.x.observed
        # Rows without a response may hold anything (a dose record's prediction is often 0): make them harmless first.
        f = jnp.where(seen, prediction, group.y)
        f_scale = f if scale_prediction is prediction else jnp.where(seen, scale_prediction, group.y)
        parameters, shape = self._split(theta, group)
        mean = self.response.to_real(f, shape)
        base = f_scale
        if self.of_transformed:
            base = mean if f_scale is f else self.response.to_real(f_scale, shape)
        scale = jnp.broadcast_to(self.scale(base, **parameters), group.y.shape)
        residual = self.response.to_real(group.y, shape) - mean
        slope = self.response.log_slope(group.y, shape)
        return jnp.where(seen, residual, 0.0), jnp.where(seen, scale, 1.0), jnp.where(seen, slope, 0.0)

    def log_density(self, prediction, scale_prediction, theta, group):
        residual, scale, slope = self.moments(prediction, scale_prediction, theta, group)
        each = slope - HALF_LOG_2PI - jnp.log(scale) - 0.5 * (residual / scale) ** 2
        return jnp.sum(jnp.where(group.x.observed, each, 0.0))

    def draw(self, noise: Vector, prediction: Vector, theta: Vector, group: Any) -> Vector:
        """Responses (obs,) at `prediction` from standard normal `noise` (obs,)."""
        parameters, shape = self._split(theta, group)
        mean = self.response.to_real(prediction, shape)
        scale = self.scale(mean if self.of_transformed else prediction, **parameters)
        return self.response.to_natural(mean + scale * noise, shape)


class GroupLogLikelihood(AbstractError):
    """An outcome of the user's own: counts, binary, ordinal, times to event.

    **Arguments:** `density(y, f, p, x, v)` returns the log-density of each row (obs,), masked for you, or of the whole
    group (), in which case it must use `x.mask` (real rows) and `x.observed` (rows with a response) itself. f is what
    the structural model returns, p a record of `parameters` on their natural scale. `sampler(key, f, p, x, v)`
    optionally draws responses (obs,), for `simulate`.
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

    @property
    def formula(self) -> str:
        return f"log p(y | f) = {getattr(self.density, '__name__', 'user function')}(y, f, p, x, v)"

    @property
    def has_gaussian_moments(self) -> bool:
        return False

    def log_density(self, prediction, scale_prediction, theta, group):
        value = self.density(group.y, prediction, self.natural(theta), group.x, group.v)
        if jnp.ndim(value) == 0:
            return jnp.asarray(value)
        if jnp.shape(value) != group.y.shape:
            raise ModelError(
                f"the group log-likelihood must return one value a row, shape {group.y.shape}, or a scalar for the "
                f"group; it returned shape {jnp.shape(value)}."
            )
        return jnp.sum(jnp.where(group.x.observed, value, 0.0))
