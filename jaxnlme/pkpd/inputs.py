"""Absorption of doses by a function of the time since each: transit compartments, Weibull, inverse Gaussian.

**Example:**

```python
jn.pkpd.inputs.savic()
```
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import gammaln, ndtr

from jaxnlme.errors import OptionError, shown
from jaxnlme.numerics.normal_tails import log_ndtr
from jaxnlme.pkpd.phi_names import first_of, missing_parameters, values_by_name
from jaxnlme.signatures import public


class AbstractInput(abc.ABC):
    """The way in which a dose of one enters a compartment: for `inputs=` of `jn.pkpd.ode`.

    A subclass gives the rate, or the fraction that has entered (which may rise with an infinite slope at time 0).

    **Fields:** `names`: names of the parameters in phi.
    """

    names: tuple[str, ...]

    def rate(self, time: Any, parameters: tuple[Any, ...]) -> Any | None:
        """Rate of entry (doses,) at the `time` (doses,) since each dose, zero or more; None: `entered` is given."""
        return None

    def entered(self, time: Any, parameters: tuple[Any, ...]) -> Any | None:
        """Fraction (doses,) of each dose that has entered by `time` (doses,); None where `rate` is given."""
        return None

    @property
    def gives_fraction(self) -> bool:
        """True if the subclass has `entered`, not `rate`."""
        return type(self).entered is not AbstractInput.entered

    def read(self, phi: Any, title: str) -> tuple[Any, ...]:
        """The parameters in `phi`, by name without regard to case. **Raises:** ModelError where one is lacking."""
        values = values_by_name(phi)
        if any(name.upper() not in values for name in self.names):
            from jaxnlme.errors import ModelError

            needed = [(name.upper(),) for name in self.names]
            raise ModelError(missing_parameters(title, needed, values, "Other names are given to the input function."))
        return tuple(values[first_of((name.upper(),), values) or ""] for name in self.names)


@dataclass(frozen=True)
class Savic(AbstractInput):
    """Transit compartments of any number: rate ktr (ktr t)^n exp(-ktr t) / Gamma(n + 1), ktr = (n + 1) / mtt."""

    names: tuple[str, ...]

    def rate(self, time: Any, parameters: tuple[Any, ...]) -> Any:
        n, mtt = parameters
        ktr = (n + 1.0) / mtt
        positive = time > 0
        t = jnp.where(positive, time, 1.0)
        rate = jnp.exp(jnp.log(ktr) + n * jnp.log(ktr * t) - ktr * t - gammaln(n + 1.0))
        return jnp.where(positive, rate, 0.0)


@dataclass(frozen=True)
class Weibull(AbstractInput):
    """The fraction 1 - exp(-(t / td)^beta) of a dose has entered after t."""

    names: tuple[str, ...]

    def entered(self, time: Any, parameters: tuple[Any, ...]) -> Any:
        td, beta = parameters
        positive = time > 0
        t = jnp.where(positive, time, 1.0)
        return jnp.where(positive, -jnp.expm1(-jnp.exp(beta * jnp.log(t / td))), 0.0)


@dataclass(frozen=True)
class InverseGaussian(AbstractInput):
    """Rate sqrt(mat / (2 pi cv2 t^3)) exp(-(t - mat)^2 / (2 cv2 mat t)): an inverse Gaussian distribution with mean mat
    and squared relative standard deviation cv2."""

    names: tuple[str, ...]

    def entered(self, time: Any, parameters: tuple[Any, ...]) -> Any:
        mat, cv2 = parameters
        positive = time > 0
        t = jnp.where(positive, time, 1.0)
        root = jnp.sqrt(mat / (cv2 * t))
        late = root * (t / mat + 1.0)
        tail = jnp.exp(2.0 / cv2 + log_ndtr(-late))  # one exponent: exp(2 / cv2) overflows for small cv2
        return jnp.where(positive, ndtr(root * (t / mat - 1.0)) + tail, 0.0)


@public("jn.pkpd.inputs.savic")
def savic(n: str = "N", mtt: str = "MTT") -> AbstractInput:
    """Transit compartments whose number need not be whole, before a state: rate ktr (ktr t)^n exp(-ktr t) / Gamma(n +
    1) with ktr = (n + 1) / mtt. For single doses without RATE; in closed form: route="savic transit".

    **Arguments:** `n`, `mtt`: names in phi of the number of transit compartments and the mean transit time.
    **Returns:** an input function, for `inputs={"depot": ...}` of `jn.pkpd.ode`.
    **Raises:** OptionError for what is no name.
    **Source:** Savic et al. (2007), J Pharmacokinet Pharmacodyn 34, 711-726, equation 11.

    **Example:**

    ```python
    jn.pkpd.inputs.savic()
    ```
    """
    return Savic(_names("savic", n=n, mtt=mtt))


@public("jn.pkpd.inputs.weibull")
def weibull(td: str = "TD", beta: str = "BETA") -> AbstractInput:
    """Absorption with Weibull-distributed times: the fraction 1 - exp(-(t / td)^beta) has entered after t; below beta =
    1 the rate is infinite at first. For single doses without RATE.

    **Arguments:** `td`, `beta`: names in phi of the scale (a time) and the shape.
    **Returns:** an input function, for `inputs={"central": ...}` of `jn.pkpd.ode`.
    **Raises:** OptionError for what is no name.
    **Source:** Piotrovskii (1987), J Pharmacokinet Biopharm 15, 681-686.

    **Example:**

    ```python
    jn.pkpd.inputs.weibull()
    ```
    """
    return Weibull(_names("weibull", td=td, beta=beta))


@public("jn.pkpd.inputs.inverse_gaussian")
def inverse_gaussian(mat: str = "MAT", cv2: str = "CV2") -> AbstractInput:
    """Absorption with inverse Gaussian times: rate sqrt(mat / (2 pi cv2 t^3)) exp(-(t - mat)^2 / (2 cv2 mat t)). For
    single doses without RATE.

    **Arguments:** `mat`, `cv2`: names in phi of the mean absorption time and the squared relative standard deviation.
    **Returns:** an input function, for `inputs={"central": ...}` of `jn.pkpd.ode`.
    **Raises:** OptionError for what is no name.
    **Source:** Freijer and Post (1997), J Theor Biol 186, 103-117.

    **Example:**

    ```python
    jn.pkpd.inputs.inverse_gaussian()
    ```
    """
    return InverseGaussian(_names("inverse_gaussian", mat=mat, cv2=cv2))


def _names(title: str, **names: Any) -> tuple[str, ...]:
    for option, name in names.items():
        if not isinstance(name, str) or not name:
            raise OptionError(
                f"jn.pkpd.inputs.{title}: {option}= is the name of a parameter in phi; received {shown(name)}."
            )
    return tuple(names.values())
