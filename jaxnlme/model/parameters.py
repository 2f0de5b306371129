"""What a user declares of each parameter of the structural model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.model.transforms import AbstractTransform, transform
from jaxnlme.records import TAKEN


class Covariate(eqx.Module):
    """One covariate term of a parameter, on its transformed scale.

    **Arguments:** `formula`: the right-hand side of a formula over columns of the data, "log(Wt / 70)", "center(Age)",
    "C(Sex, Treatment('F'))", "Sex * log(Wt / 70)"; text columns are categorical with the first level as reference.
    `start`: the coefficient's start, one number for all columns of the term. `fix`: keep it there.
    """

    formula: str = eqx.field(static=True)
    start: Any = eqx.field(default=0.0, converter=lambda value: np.asarray(value, float))
    fix: bool = eqx.field(static=True, default=False)


class Parameter(eqx.Module):
    """One parameter of the structural model: xb = beta + covariates + b on the transformed scale, phi = h(xb).

    **Arguments:** `name`, how the model reads it. `start`, the typical value on the natural scale. `transform`: h,
    "identity", "log" (phi > 0), "logit" or "probit" (0 < phi < 1), "logit(low, high)", or an object. `random`: whether
    it has a random effect. `covariates`: formulas or `Covariate` objects. `fix`: keep beta at its start. `sd`: start of
    the random effect's standard deviation on the transformed scale (default 0.5 there, 0.3 |start| for identity).
    `prior`: prior on beta, on the transformed scale (MAP estimation).
    **Errors:** ModelError for a start outside the transform's domain, or a transform with an exponent (Box-Cox).
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
        if self.name in TAKEN:
            raise ModelError(
                f"a parameter cannot be called {self.name!r}: phi.{self.name} has a meaning of its own; choose another "
                "name."
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
        """The start on the transformed scale."""
        return float(self.transform.to_real(float(self.start)))

    @property
    def sd_start(self) -> float:
        """The random effect's starting SD on the transformed scale."""
        if self.sd is not None:
            return float(self.sd)
        return 0.5 if self.transform.name != "identity" else 0.3 * abs(float(self.start)) or 1.0


def _covariates(spec: str | Sequence[str | Covariate] | Mapping[str, float]) -> tuple[Covariate, ...]:
    if isinstance(spec, (str, Covariate)):
        spec = [spec]
    if isinstance(spec, Mapping):
        spec = [Covariate(formula, start) for formula, start in spec.items()]
    return tuple(entry if isinstance(entry, Covariate) else Covariate(entry) for entry in spec)
