"""Distributions of single random effects by transformation of Gaussian ones, with estimated shape: the option
`distribution` of `jn.Parameter`.

A parameter is h(xb) with xb = beta + covariate terms + T(eta), eta Gaussian with the covariance psi. The shape of T is
a fixed effect, with a standard error, called after its parameter: "shape(cl)", "df(cl)".

**Example:**

```python
jn.Parameter("cl", 2.8, "log", random=True, distribution=jn.effects.BoxCox())
```
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxnlme.arguments import real_number
from jaxnlme.errors import ModelError, OptionError, shown
from jaxnlme.model.fixed import number_of
from jaxnlme.model.individual_parameters import AbstractIndividual, LinearIndividual
from jaxnlme.model.transforms import AbstractTransform, Identity, Log
from jaxnlme.signatures import check_call
from jaxnlme.typing import Scalar, Vector

# Six in ten million normal variates are farther from zero; there the expansion would overflow in an exponential.
_FARTHEST = 5.0


class AbstractEffectShape(eqx.Module):
    """The distribution of a random effect T(eta), eta Gaussian. A subclass has one field for each shape parameter: its
    starting value, or a Fixed.

    `standardises`: eta has standard deviation one, held, and T a scale of its own.
    """

    standardises = False

    def __new__(cls, *args: Any, **options: Any) -> AbstractEffectShape:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    @property
    @abc.abstractmethod
    def shapes(self) -> tuple[tuple[str, Any, AbstractTransform], ...]:
        """For each shape parameter its name, its start (a number or a Fixed, on the natural scale), and its
        transform."""

    @abc.abstractmethod
    def transform(self, eta: Scalar, shapes: Sequence[Any]) -> Scalar:
        """T(eta) at the `shapes`, on their natural scale; differentiable to every order."""


class BoxCox(AbstractEffectShape):
    """A skewed random effect, T(eta) = (exp(shape eta) - 1) / shape: eta for shape 0, with a long upper tail for a
    positive shape, a long lower one for a negative shape. On the log scale, shape = 1 makes the parameter itself a
    shifted log-normal one.

    **Arguments:** `shape`: starting value, or `jn.fixed(value)`.
    **Raises:** OptionError for a shape that is no number.
    **Source:** Petersson, Hanze, Savic and Karlsson (2009), Pharmaceutical Research 26, 2174-2185.

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, "log", random=True, distribution=jn.effects.BoxCox(shape=0.5))
    ```
    """

    shape: Any = eqx.field(static=True, default=0.1)

    def __check_init__(self):
        _check("shape of BoxCox", self.shape)

    @property
    def shapes(self):
        return (("shape", self.shape, Identity()),)

    def transform(self, eta, shapes):
        return expm1_ratio(shapes[0] * eta) * eta


class StudentT(AbstractEffectShape):
    """A random effect with heavy tails: scale times a variate that is close to Student's t with `df` degrees of
    freedom, by the expansion of its quantiles in those of a normal variate eta,

        T(eta) = scale eta (1 + (eta^2 + 1) / (4 df) + (5 eta^4 + 16 eta^2 + 3) / (96 df^2)
                 + (3 eta^6 + 19 eta^4 + 17 eta^2 - 15) / (384 df^3)),

    and linear beyond |eta| = 5. The standard deviation of eta is held at one, and "scale(cl)" takes its place;
    correlations with other effects are those of eta.

    **Arguments:** `df`: starting value above 1, or `jn.fixed(value)`; `scale`: starting value, on the transformed
    scale.
    **Raises:** OptionError for a df that is not above 1, and a scale that is not positive.
    **Source:** Petersson, Hanze, Savic and Karlsson (2009), Pharmaceutical Research 26, 2174-2185; Abramowitz and
    Stegun (1964), 26.7.5.

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, "log", random=True, distribution=jn.effects.StudentT(df=jn.fixed(4.0)))
    ```
    """

    df: Any = eqx.field(static=True, default=5.0)
    scale: Any = eqx.field(static=True, default=0.4)
    standardises = True

    def __check_init__(self):
        _check("df of StudentT, degrees of freedom,", self.df, 1.0)
        _check("scale of StudentT", self.scale, 0.0)

    @property
    def shapes(self):
        return (("scale", self.scale, Log()), ("df", self.df, Log()))

    def transform(self, eta, shapes):
        scale, u = shapes[0], 1.0 / shapes[1]
        inner = jnp.clip(eta, -_FARTHEST, _FARTHEST)
        s = inner**2
        value = 1.0 + u * ((s + 1.0) / 4.0 + u * (((5.0 * s + 16.0) * s + 3.0) / 96.0
                + u * (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0))  # fmt: skip
        slope = 1.0 + u * ((3.0 * s + 1.0) / 4.0 + u * (((25.0 * s + 48.0) * s + 3.0) / 96.0
                + u * (((21.0 * s + 95.0) * s + 51.0) * s - 15.0) / 384.0))  # fmt: skip
        return scale * (inner * value + slope * (eta - inner))


def expm1_ratio(x: Any) -> Any:
    """(exp(x) - 1) / x, one at x = 0, with derivatives of every order there."""
    small = jnp.abs(x) < 1e-2
    safe = jnp.where(small, 1.0, x)
    series: Any = 1.0
    for k in range(9, 1, -1):  # the first omitted term is x^9 / 10!, below rounding
        series = 1.0 + x / k * series
    return jnp.where(small, series, jnp.expm1(safe) / safe)


class TransformedEffects(AbstractIndividual):
    """phi = h(A beta + B T(eta)): linear individual parameters with transformed random effects.

    **Fields:** `linear`: those of Gaussian effects; `distributions`: that of each random effect, None for a Gaussian
    one; `positions`: for each effect the positions of its shape parameters in beta.
    """

    linear: LinearIndividual
    distributions: tuple[AbstractEffectShape | None, ...]
    positions: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def phi(self, beta: Vector, b: Vector, group: Any, free: Any = None):
        effects = []
        for k, (distribution, positions) in enumerate(zip(self.distributions, self.positions, strict=True)):
            if distribution is None:
                effects.append(b[k])
                continue
            natural = [t.to_natural(beta[j]) for j, (_, _, t) in zip(positions, distribution.shapes, strict=True)]
            effects.append(distribution.transform(b[k], natural))
        return self.linear.phi(beta, jnp.stack(effects) if effects else b, group)


def require_untransformed(name: str, density: Any) -> None:
    """Check that all random effects are Gaussian, for a method called `name` that expands the model at zero or
    linearises it, where a shape has no effect.

    **Raises:** ModelError where one is not.
    """
    if isinstance(density.individual, TransformedEffects):
        raise ModelError(
            f"{name} linearises the model in the random effects, and a parameter has distribution=, whose shape this "
            "leaves out; use 'foce', 'focei', 'laplace', jn.AGQ(...), jn.ImportanceSampling(...) or 'saem'."
        )


def check_distribution(name: str, value: Any, random: Any) -> None:
    """**Raises:** ModelError for a `value` of the option distribution of the parameter `name` that is none, or without
    a random effect of the groups."""
    if value is None:
        return
    if not isinstance(value, AbstractEffectShape):
        advice = " Call it, with parentheses." if callable(value) else ""
        raise ModelError(
            f"parameter {name!r}: distribution must be jn.effects.BoxCox(), jn.effects.StudentT() or None (Gaussian); "
            f"received {shown(value)}.{advice}"
        )
    if random is False:
        raise ModelError(
            f"parameter {name!r} has distribution=, and no random effect; add random=True, or leave it out."
        )
    if random is not True:
        raise ModelError(
            f"parameter {name!r}: distribution= is of a random effect of the groups, random=True; those of nested "
            "levels are Gaussian. Leave one of the two out."
        )


def _check(what: str, value: Any, low: float | None = None) -> None:
    """**Raises:** OptionError for a `value`, or a Fixed with one, that is no number above `low`."""
    number = real_number(number_of(value))
    if number is None or (low is not None and not number > low):
        above = "" if low is None else f" above {low:g}"
        raise OptionError(
            f"the {what} must be one number{above} to start from, or jn.fixed(...); received {shown(number_of(value))}."
        )
