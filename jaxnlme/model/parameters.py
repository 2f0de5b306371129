"""Declaration of the parameters of the structural model, with their covariates."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.arguments import check_flag, number_or_given, positive_number, real_number
from jaxnlme.errors import ModelError, shown
from jaxnlme.model.effects import AbstractEffectShape, check_distribution
from jaxnlme.model.fixed import Fixed, number_of
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import AbstractTransform, transform
from jaxnlme.records import RESERVED_NAMES
from jaxnlme.signatures import check_call


class Covariate(eqx.Module):
    """A covariate term of a parameter, added on the parameter's transformed scale.

    **Arguments:**

    - `formula`: the right-hand side of a formula over columns of the data (formulaic's syntax): "log(Wt / 70)",
      "center(Age)", "C(Sex, Treatment('F'))", "Sex * log(Wt / 70)". Text columns are categorical; the first level is
      the reference.
    - `start`: starting value of the coefficients, one number for all columns of the term, in units of the transformed
      scale per unit of the column.
    - `fix`: the coefficients are not estimated.

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, "log", random=True, covariates=[jn.Covariate("log(Wt / 70)", 0.75, fix=True)])
    ```
    """

    formula: str = eqx.field(static=True)
    start: Any = eqx.field(default=0.0, converter=number_or_given)
    fix: bool = eqx.field(static=True, default=False)

    def __new__(cls, *args: Any, **options: Any) -> Covariate:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        if not isinstance(self.formula, str) or not self.formula.strip():
            raise ModelError(
                f"a covariate must be a formula over columns of the data, such as 'log(Wt / 70)'; received "
                f"{self.formula!r}."
            )
        check_flag(f"covariate {self.formula!r}: fix", self.fix)
        _refuse_fixed_start(f"covariate {self.formula!r}", self.start)
        if not isinstance(self.start, np.ndarray) or self.start.ndim != 0:
            raise ModelError(f"covariate {self.formula!r}: start must be one number; received {shown(self.start)}.")


class Parameter(eqx.Module):
    """A parameter of the structural model: phi = h(xb), with xb = beta + covariate terms + b on the transformed scale.

    **Arguments:**

    - `name`: the structural model reads it as `phi.name`.
    - `start`: starting typical value, on the natural scale (the unit of phi).
    - `transform`: the function h: "identity", "log" (phi > 0), "logit" or "probit" (0 < phi < 1), "logit(low, high)",
      "probit(low, high)", or an object of `jn.transforms`.
    - `random`: it has a random effect by group. With nested levels also the name of a level or a list of names, each of
      which has a random effect of its own: `["Subject", "Occasion"]`; True is the outermost level.
    - `covariates`: formulas or `Covariate` objects; a dictionary maps formulas to starting coefficients.
    - `fix`: the typical value is not estimated.
    - `sd`: starting standard deviation of the random effect, on the transformed scale; None: 0.5, or for the identity
      0.3 |start|, which `fit` brings near the size of the residuals at the start. `jn.fixed(0.3)`: it is held there and
      not estimated; 0 (or `jn.fixed(0)`): it is held at zero, and the model is fitted without this random effect. A
      dictionary gives one of these for each level: `{"Subject": 0.3, "Occasion": 0.1}`.
    - `prior`: prior density of beta, on the transformed scale (MAP estimation).
    - `distribution`: that of the random effect: `jn.effects.BoxCox()`, skewed, or `jn.effects.StudentT()`, with heavy
      tails, whose shape is estimated; None: Gaussian.

    **Raises:** ModelError for a start outside the domain of the transform, a transform with an exponent (Box-Cox), or a
    name that is no Python name or is reserved.

    **Example:**

    ```python
    jn.Parameter("cl", 2.8, transform="log", random=True, covariates=["log(Wt / 70)"])
    ```
    """

    name: str = eqx.field(static=True)
    start: Any = eqx.field(converter=number_or_given)
    transform: AbstractTransform = eqx.field(static=True, default="identity", converter=transform)
    random: Any = eqx.field(static=True, default=False, converter=lambda value: _random(value))
    covariates: tuple[Covariate, ...] = eqx.field(default=(), converter=lambda value: _covariates(value))
    fix: bool = eqx.field(static=True, default=False)
    sd: Any = eqx.field(default=None, converter=lambda value: _sd(value))
    prior: AbstractPrior | None = None
    distribution: AbstractEffectShape | None = None

    def __new__(cls, *args: Any, **options: Any) -> Parameter:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        if not isinstance(self.fix, (bool, np.bool_)):
            raise ModelError(f"parameter {self.name!r}: fix must be True or False; received {shown(self.fix)}.")
        _check_random(self.name, self.random)
        self._check_name()
        if self.transform.has_shape:
            raise ModelError(
                f"parameter {self.name!r}: the {self.transform.name} transform has an exponent to estimate, which only "
                "responses have (jn.error.transform_both_sides); use log, logit or probit for a parameter."
            )
        _refuse_fixed_start(f"parameter {self.name!r}", self.start)
        low, high = self.transform.domain
        if not isinstance(self.start, np.ndarray) or self.start.ndim != 0 or not low < self.start < high:
            raise ModelError(
                f"parameter {self.name!r}: the start must be one number inside ({low:g}, {high:g}), the domain of its "
                f"{self.transform.name} transform; received {shown(self.start)}."
            )
        for sd in self.sd.values() if isinstance(self.sd, Mapping) else (self.sd,):
            if isinstance(sd, Fixed) and sd.value < 0:
                raise ModelError(f"parameter {self.name!r}: sd cannot be held at {sd.value:g}, which is negative.")
            if sd is not None and not isinstance(sd, Fixed) and not positive_number(sd):
                raise ModelError(
                    f"parameter {self.name!r}: sd must be positive, one number, zero or jn.fixed(...); received "
                    f"{shown(sd)}."
                )
        check_distribution(self.name, self.distribution, self.random)
        if self.distribution is not None and self.distribution.standardises and self.sd is not None:
            raise ModelError(
                f"parameter {self.name!r} has sd, and the scale of its random effect is that of its distribution: give "
                "jn.effects.StudentT(scale=...) instead."
            )
        if self.prior is not None and not isinstance(self.prior, AbstractPrior):
            raise ModelError(
                f"parameter {self.name!r}: prior must be an object of jn.priors; received {shown(self.prior)}."
            )

    def _check_name(self) -> None:
        """**Raises:** ModelError for a name that cannot be read as `phi.name`."""
        if not isinstance(self.name, str) or not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise ModelError(
                f"parameter names must be Python names and no keywords, readable as phi.{self.name}; received "
                f"{self.name!r}."
            )
        if self.name in RESERVED_NAMES:
            raise ModelError(
                f"a parameter cannot be called {self.name!r}: phi.{self.name} is reserved for another purpose; choose "
                "another name."
            )

    def _repr_html_(self) -> str:
        from jaxnlme.model.equations import parameter_html

        return parameter_html(self)

    @property
    def beta_start(self) -> float:
        """The starting typical value on the transformed scale."""
        return float(self.transform.to_real(float(self.start)))

    @property
    def holds_sd(self) -> bool:
        """True if the standard deviation of a random effect is held fixed."""
        if self.distribution is not None and self.distribution.standardises:
            return True
        return any(isinstance(sd, Fixed) for sd in (self.sd.values() if isinstance(self.sd, Mapping) else (self.sd,)))

    def sd_of(self, level: str) -> Any:
        """The option `sd` for the random effect by `level`; one, held, for a distribution with a scale of its own."""
        if self.distribution is not None and self.distribution.standardises:
            return Fixed(1.0)
        return self.sd.get(level) if isinstance(self.sd, Mapping) else self.sd

    def sd_start_range(self, level: str) -> tuple[float, float]:
        """The least and largest starting standard deviation, as fractions of the one whose random effect would explain
        the residuals at the start: a default on the natural scale must know the unit of the parameter. `level`: of the
        random effect."""
        if self.sd_of(level) is not None or self.transform.name != "identity":
            return 0.0, np.inf
        return MODEL.sd_start_range if float(self.start) else (1.0, 1.0)

    def sd_start(self, level: str) -> float:
        """The starting standard deviation of the random effect by `level` on the transformed scale."""
        sd = self.sd_of(level)
        if sd is not None:
            return float(number_of(sd)) or MODEL.sd_start
        if self.transform.name != "identity":
            return MODEL.sd_start
        return MODEL.relative_sd_start * abs(float(self.start)) or MODEL.sd_start_at_zero


def _random(value: Any) -> Any:
    """The option `random`: a flag, or a tuple of names of levels."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) or False if isinstance(value, (list, tuple)) else value


def _check_random(name: str, random: Any) -> None:
    """**Raises:** ModelError unless `random` of the parameter `name` is a flag or a tuple of different names."""
    if isinstance(random, (bool, np.bool_)):
        return
    names = list(random) if isinstance(random, tuple) else []
    if not names or any(not isinstance(n, str) or n.lower() in ("yes", "no", "true", "false") for n in names):
        raise ModelError(
            f"parameter {name!r}: random must be True or False, or with nested levels the name of a level or a list of "
            f"names; received {shown(random)}."
        )
    if len(set(names)) < len(names):
        raise ModelError(f"parameter {name!r}: random names a level twice: {names}.")


def _sd(value: Any) -> Any:
    """The option `sd`: zero is a value to hold."""
    if isinstance(value, Mapping):
        return {level: _sd(sd) for level, sd in value.items()}
    return Fixed(0.0) if real_number(value) == 0.0 else value


def _refuse_fixed_start(what: str, start: Any) -> None:
    """**Raises:** ModelError for a `start` that is a Fixed, with the option that is meant."""
    if isinstance(start, Fixed):
        raise ModelError(f"{what}: write start={start.value:g}, fix=True to hold it at {start.value:g}.")


def _covariates(spec: str | Sequence[str | Covariate] | Mapping[str, float]) -> tuple[Covariate, ...]:
    if isinstance(spec, (str, Covariate)):
        spec = [spec]
    if isinstance(spec, Mapping):
        spec = [Covariate(formula, start) for formula, start in spec.items()]
    if not isinstance(spec, (list, tuple)):
        raise ModelError(
            f"covariates must be a list of formulas, or a dictionary from formulas to starting coefficients; received "
            f"{spec!r}."
        )
    return tuple(entry if isinstance(entry, Covariate) else Covariate(entry) for entry in spec)
