"""Residual models: the log-density of one group's responses given its predictions.

This is the one place where the outcome meets the prediction. Every model sees the whole group (responses, predictions,
predictors, masks), so censoring, serial correlation and several endpoints belong here as well.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError, OptionError
from jaxnlme.model.transforms import AbstractTransform, Identity, Log, transform
from jaxnlme.records import Record
from jaxnlme.typing import Scalar, Vector

HALF_LOG_2PI = 0.5 * float(np.log(2.0 * np.pi))


class ErrorParameter(eqx.Module):
    """One parameter of a residual model: `name`, `start` on the natural scale, `transform` ("log" keeps it positive),
    and `fix`, true where it stays at its start."""

    name: str = eqx.field(static=True)
    start: float
    transform: AbstractTransform = eqx.field(static=True, converter=transform)
    fix: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        low, high = self.transform.domain
        if not low < self.start < high:
            raise OptionError(
                f"error parameter {self.name!r} must start inside ({low:g}, {high:g}); received {self.start!r}."
            )


class AbstractError(eqx.Module):
    """What `log_joint` needs of an outcome; `parameters` lists what is estimated, one entry an unconstrained number."""

    if TYPE_CHECKING:  # a field of every final class
        parameters: tuple[ErrorParameter, ...]

    @property
    @abc.abstractmethod
    def formula(self) -> str:
        """The model in one line, for summaries."""

    @property
    @abc.abstractmethod
    def gaussian_face(self) -> bool:
        """Whether `moments` exists, which Gauss-Newton curvatures and linearisations need."""

    @abc.abstractmethod
    def log_density(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> Scalar:
        """log p(y | prediction) of one group, summed over its observed rows.

        **Arguments:** `prediction` (obs,) or what the structural model returns; `scale_prediction`, the prediction that
        the residual scale is taken at (the same one, or the one at z = 0 for FO and FOCE); `theta` (unconstrained,).
        """

    def natural(self, theta: Vector) -> Record:
        """The parameters on their natural scale, by name."""
        values = tuple(p.transform.to_natural(theta[k]) for k, p in enumerate(self.parameters))
        return Record(tuple(p.name for p in self.parameters), values, "error parameter")

    def unconstrained(self, natural: Mapping[str, float]) -> np.ndarray:
        """theta (unconstrained,) from natural values by name; starts where a name is absent."""
        return np.array([float(p.transform.to_real(natural.get(p.name, p.start))) for p in self.parameters])

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
    def gaussian_face(self) -> bool:
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
            ErrorParameter(f"{p.name}[{level}]", p.start, p.transform, p.fix) for p in scale for level in names
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

    def moments(
        self, prediction: Vector, scale_prediction: Vector, theta: Vector, group: Any
    ) -> tuple[Vector, Vector, Vector]:
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
    def gaussian_face(self) -> bool:
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


# --- scales of the Gaussian family: functions of the prediction and natural-scale parameters ---


def _constant(f, a):
    return a * jnp.ones_like(f)


def _proportional(f, b):
    return b * jnp.abs(f)


def _combined(f, a, b):
    return a + b * jnp.abs(f)


def _combined_variance(f, a, b):
    return jnp.sqrt(a**2 + (b * f) ** 2)


def _power(f, b, c):
    return b * jnp.abs(f) ** c


def _constant_power(f, a, b, c):
    return a + b * jnp.abs(f) ** c


def _parameters(positive: Mapping[str, float], exponent: float | None = None, fix_exponent: bool = False):
    entries = [ErrorParameter(name, start, "log") for name, start in positive.items()]
    if exponent is not None:
        entries.append(ErrorParameter("c", exponent, "identity", fix_exponent))
    return tuple(entries)


def constant(a: float = 1.0, *, by: str | None = None) -> GaussianError:
    """y = f + a e: one residual SD `a`, in the unit of y; `by` a column: one for each of its levels."""
    return GaussianError(_constant, _parameters({"a": a}), "constant", "a", by=by)


def proportional(b: float = 0.2, *, by: str | None = None) -> GaussianError:
    """y = f + b |f| e: residual SD `b` as a fraction of the prediction."""
    return GaussianError(_proportional, _parameters({"b": b}), "proportional", "b |f|", by=by)


def combined(a: float = 1.0, b: float = 0.2, *, by: str | None = None) -> GaussianError:
    """y = f + (a + b |f|) e: standard deviations add (MATLAB's and saemix's "combined", nlmixr2's combined1)."""
    return GaussianError(_combined, _parameters({"a": a, "b": b}), "combined", "a + b |f|", by=by)


def combined_variance(a: float = 1.0, b: float = 0.2, *, by: str | None = None) -> GaussianError:
    """y = f + sqrt(a^2 + b^2 f^2) e: variances add (NONMEM's two epsilons, nlmixr2's combined2)."""
    return GaussianError(
        _combined_variance, _parameters({"a": a, "b": b}), "combined variance", "sqrt(a^2 + b^2 f^2)", by=by
    )


def power(b: float = 0.2, c: float = 1.0, *, fix_exponent: bool = False, by: str | None = None) -> GaussianError:
    """y = f + b |f|^c e (nlme's varPower): the exponent `c` is estimated unless `fix_exponent`."""
    return GaussianError(_power, _parameters({"b": b}, c, fix_exponent), "power", "b |f|^c", by=by)


def constant_power(
    a: float = 1.0, b: float = 0.2, c: float = 1.0, *, fix_exponent: bool = False, by: str | None = None
) -> GaussianError:
    """y = f + (a + b |f|^c) e (nlme's varConstPower up to its scale): `c` is estimated unless `fix_exponent`."""
    return GaussianError(
        _constant_power, _parameters({"a": a, "b": b}, c, fix_exponent), "constant plus power", "a + b |f|^c", by=by
    )


def exponential(a: float = 0.2, *, by: str | None = None) -> GaussianError:
    """y = f exp(a e), that is log y = log f + a e: residual SD `a` on the log scale, for positive y and f."""
    return transform_both_sides("log", constant(a, by=by))


def transform_both_sides(
    response: str | AbstractTransform,
    error: str | GaussianError = "constant",
    *,
    shape: float = 0.5,
    fix_shape: bool = False,
    of_transformed: bool = False,
) -> GaussianError:
    """h(y) = h(f) + scale e, with the Jacobian of h in the likelihood.

    **Arguments:** `response`: h, "log", "box-cox", "yeo-johnson", "logit(low, high)", "probit(low, high)" or an object;
    `error`: the scale; `shape`: start of the exponent "lambda" of Box-Cox and Yeo-Johnson, estimated unless
    `fix_shape`; `of_transformed`: the scale is a function of h(f) rather than of f.
    **Source:** Carroll and Ruppert (1984), Journal of the American Statistical Association 79, 321-328.
    """
    base = error_model(error)
    if not isinstance(base, GaussianError) or not isinstance(base.response, Identity):
        raise OptionError("transform_both_sides needs an untransformed Gaussian residual model for its scale.")
    h = transform(response)
    extra = (ErrorParameter("lambda", shape, "identity", fix_shape),) if h.has_shape else ()
    name = "exponential" if isinstance(h, Log) and base.name == "constant" else f"{base.name} on {h.name} scale"
    formula = base.sd_formula.replace("f", "h(f)") if of_transformed else base.sd_formula
    return GaussianError(base.scale, base.parameters + extra, name, formula, h, of_transformed, base.by)


def custom(
    scale: Callable,
    parameters: Mapping[str, float],
    *,
    response: str | AbstractTransform = "identity",
    shape: float = 0.5,
    fix_shape: bool = False,
    by: str | None = None,
) -> GaussianError:
    """A Gaussian residual with your own SD: `scale(f, **parameters)` (obs,), parameters positive with these starts."""
    base = GaussianError(scale, _parameters(parameters), "custom", getattr(scale, "__name__", "scale(f)"), by=by)
    if isinstance(transform(response), Identity):
        return base
    return transform_both_sides(response, base, shape=shape, fix_shape=fix_shape)


NAMED: dict[str, Callable[..., GaussianError]] = {
    "constant": constant,
    "proportional": proportional,
    "combined": combined,
    "combined variance": combined_variance,
    "power": power,
    "constant plus power": constant_power,
    "exponential": exponential,
}


def error_model(spec: str | AbstractError) -> AbstractError:
    """A residual model from its name or the object itself.

    **Errors:** OptionError listing the names.
    """
    if isinstance(spec, AbstractError):
        return spec
    if spec not in NAMED:
        raise OptionError(f"error {spec!r} is not known; expected {', '.join(map(repr, NAMED))} or an error object.")
    return NAMED[spec]()
