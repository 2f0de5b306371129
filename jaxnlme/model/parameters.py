"""Declaration of the parameters of the structural model, with their covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import AbstractTransform, transform
from jaxnlme.records import RESERVED_NAMES


class Covariate(eqx.Module):
    """A covariate term of a parameter, added on the parameter's transformed scale.

    **Arguments:**

    - `formula`: the right-hand side of a formula over columns of the data (formulaic's syntax): "log(Wt / 70)",
      "center(Age)", "C(Sex, Treatment('F'))", "Sex * log(Wt / 70)". Text columns are categorical; the first level is
      the reference.
    - `start`: starting value of the coefficients, one number for all columns of the term, in units of the transformed
      scale per unit of the column.
    - `fix`: the coefficients are not estimated.
    """

    formula: str = eqx.field(static=True)
    start: Any = eqx.field(default=0.0, converter=lambda value: np.asarray(value, float))
    fix: bool = eqx.field(static=True, default=False)


class Parameter(eqx.Module):
    """A parameter of the structural model: phi = h(xb), with xb = beta + covariate terms + b on the transformed scale.

    **Arguments:**

    - `name`: the structural model reads it as `phi.name`.
    - `start`: starting typical value, on the natural scale (the unit of phi).
    - `transform`: the function h: "identity", "log" (phi > 0), "logit" or "probit" (0 < phi < 1), "logit(low, high)",
      "probit(low, high)", or an object of `jn.transforms`.
    - `random`: it has a random effect.
    - `covariates`: formulas or `Covariate` objects; a dictionary maps formulas to starting coefficients.
    - `fix`: the typical value is not estimated.
    - `sd`: starting standard deviation of the random effect, on the transformed scale; None: 0.5, or for the identity
      0.3 |start|.
    - `prior`: prior density of beta, on the transformed scale (MAP estimation).

    **Raises:** ModelError for a start outside the domain of the transform, a transform with an exponent (Box-Cox), or a
    name that is no Python name or is reserved.
    """

    name: str = eqx.field(static=True)
    start: Any = eqx.field(converter=lambda value: np.asarray(value, float))
    transform: AbstractTransform = eqx.field(static=True, default="identity", converter=transform)
    random: bool = eqx.field(static=True, default=False)
    covariates: tuple[Covariate, ...] = eqx.field(default=(), converter=lambda value: _covariates(value))
    fix: bool = eqx.field(static=True, default=False)
    sd: Any = None
    prior: AbstractPrior | None = None

    def __check_init__(self):
        for flag in ("random", "fix"):
            if not isinstance(getattr(self, flag), (bool, np.bool_)):
                raise ModelError(
                    f"parameter {self.name!r}: {flag} must be True or False; received {getattr(self, flag)!r}."
                )
        if not str(self.name).isidentifier():
            raise ModelError(f"parameter names must be Python names, readable as phi.{self.name}; got {self.name!r}.")
        if self.name in RESERVED_NAMES:
            raise ModelError(
                f"a parameter cannot be called {self.name!r}: phi.{self.name} is reserved for another purpose; choose "
                "another name."
            )
        if self.transform.has_shape:
            raise ModelError(
                f"parameter {self.name!r}: the {self.transform.name} transform has an exponent to estimate, which only "
                "responses have (jn.error.transform_both_sides); use log, logit or probit for a parameter."
            )
        low, high = self.transform.domain
        if self.start.ndim != 0 or not low < self.start < high:
            raise ModelError(
                f"parameter {self.name!r}: the start must be one number inside ({low:g}, {high:g}), the domain of its "
                f"{self.transform.name} transform; received {self.start!r}."
            )
        if self.sd is not None and not float(self.sd) > 0.0:
            raise ModelError(f"parameter {self.name!r}: sd must be positive; received {self.sd!r}.")

    @property
    def beta_start(self) -> float:
        """The starting typical value on the transformed scale."""
        return float(self.transform.to_real(float(self.start)))

    @property
    def sd_start(self) -> float:
        """The starting standard deviation of the random effect on the transformed scale."""
        if self.sd is not None:
            return float(self.sd)
        if self.transform.name != "identity":
            return MODEL.sd_start
        return MODEL.relative_sd_start * abs(float(self.start)) or MODEL.sd_start_at_zero


def _covariates(spec: str | Sequence[str | Covariate] | Mapping[str, float]) -> tuple[Covariate, ...]:
    if isinstance(spec, (str, Covariate)):
        spec = [spec]
    if isinstance(spec, Mapping):
        spec = [Covariate(formula, start) for formula, start in spec.items()]
    return tuple(entry if isinstance(entry, Covariate) else Covariate(entry) for entry in spec)
