"""The declaration of a model by the user, checked as far as no data are needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxnlme.arguments import check_flag
from jaxnlme.errors import ModelError, shown
from jaxnlme.model.covariance.heterogeneous import Heterogeneous
from jaxnlme.model.covariance.specification import check_specification
from jaxnlme.model.effect_distribution import AbstractEffectDistribution
from jaxnlme.model.equations import held_values, model_html
from jaxnlme.model.fixed import check_fixed
from jaxnlme.model.networks import split_module
from jaxnlme.model.parameters import Parameter
from jaxnlme.model.priors import AbstractPrior
from jaxnlme.model.residual_error.base import AbstractError
from jaxnlme.model.residual_error.censored_endpoints import with_censoring
from jaxnlme.model.residual_error.families import residual_model
from jaxnlme.model.structural import structural
from jaxnlme.signatures import public


class ModelDeclaration:
    """The arguments of `jn.NLMEModel`, checked; a model that is not yet bound to data.

    **Raises:** ModelError or OptionError, naming what was expected.
    """

    @public("jn.NLMEModel")
    def __init__(
        self,
        structure: Callable,
        parameters: Sequence[Parameter] | Mapping[str, float],
        covariance: Any = "diagonal",
        error: str | AbstractError | Mapping[Any, str | AbstractError] = "constant",
        *,
        individual: Callable | None = None,
        fixed_design: Any = None,
        random_design: Any = None,
        beta: Any = None,
        psi: Any = None,
        fix_psi: bool = False,
        priors: Mapping[str, AbstractPrior] | None = None,
        fixed: Mapping[str, float] | None = None,
        censoring: str | None = None,
        effects: AbstractEffectDistribution | None = None,
    ):
        if isinstance(parameters, Mapping):
            parameters = [Parameter(name, start) for name, start in parameters.items()]
        if not isinstance(parameters, (list, tuple)):
            raise ModelError(
                "parameters must be a list of jn.Parameter objects, or a dictionary from names to starting values; "
                f"received {shown(parameters)}."
            )
        check_flag("fix_psi", fix_psi)
        if priors is not None:
            if not isinstance(priors, Mapping):
                raise ModelError(
                    f"priors must be a dictionary from reported names to objects of jn.priors; "
                    f"received {shown(priors)}."
                )
            for name, prior in priors.items():
                if not isinstance(prior, AbstractPrior):
                    raise ModelError(f"the prior of {name!r} must be an object of jn.priors; received {shown(prior)}.")
        if individual is not None and not callable(individual):
            raise ModelError(f"individual must be a function (beta, b, v) -> phi; received {shown(individual)}.")
        if effects is not None and not isinstance(effects, AbstractEffectDistribution):
            raise ModelError(
                "effects must be a distribution of the random effects, such as jn.Flow(), or None (Gaussian); received "
                f"{shown(effects)}."
            )
        numeric = {"fixed_design": fixed_design, "random_design": random_design, "beta": beta}
        for name, value in (*numeric.items(), *_by_level("psi", psi)):
            if value is not None and not _holds_numbers(value):
                raise ModelError(f"{name} must be an array of numbers; received {shown(value)}.")
        for _, spec in _by_level("covariance", covariance):
            check_specification(spec)
        self.structure = structure
        self.parameters = tuple(parameters)
        self.covariance = covariance
        self.error = with_censoring(residual_model(error), censoring)
        self.individual = individual
        self.fixed_design = fixed_design
        self.random_design = random_design
        self.beta = beta
        self.psi = psi
        self.fix_psi = fix_psi
        self.priors = dict(priors or {})
        self.fixed = check_fixed(fixed)
        self.effects = effects
        # Of a model that is bound without the effects whose SD is held at zero: the names of the effects of its
        # random_design (None: by default), and the effects that an individual function finds at zero.
        self.effect_names: tuple[str, ...] | None = None
        self.zero_effects: tuple[str, ...] = ()
        self._check()
        self._structural, self._structure_arrays = structural(structure)
        self._individual, self._individual_arrays = split_module(individual, "individual")

    def __repr__(self) -> str:
        name = getattr(self.structure, "__name__", type(self.structure).__name__)
        lines = [f"NLMEModel: {name}, {self.error.formula}"]
        for p in self.parameters:
            scale = "" if p.transform.name == "identity" else f", {p.transform.name}"
            by = f" by {', '.join(p.random)}" if isinstance(p.random, tuple) and p.random else ""
            shape = "" if p.distribution is None else f" ({type(p.distribution).__name__})"
            marks = (f", random{by}{shape}" if p.random else "") + (", fixed" if p.fix else "")
            terms = "".join(f" + {c.formula}" for c in p.covariates)
            # With a fixed design the starting values are `beta`, not those of the parameters.
            start = f" = {float(p.start):g}" if self.fixed_design is None else ""
            lines.append(f"  {p.name}{start}{scale}{marks}{terms and f' ~ 1{terms}'}")
        if self.individual is not None:
            name = getattr(self.individual, "__name__", type(self.individual).__name__)
            lines.append(f"  individual parameters: {name}")
        for design in ("fixed_design", "random_design"):
            if getattr(self, design) is not None:
                starts = ", ".join(f"{float(b):g}" for b in np.ravel(self.beta)) if design == "fixed_design" else ""
                starts = starts and f", beta starts at {starts}"
                lines.append(f"  {design}: shape {np.shape(getattr(self, design))}{starts}")
        if self.random_design is not None or any(p.random for p in self.parameters):
            plain = isinstance(self.covariance, (str, list, tuple, Mapping, Heterogeneous))
            spec = self.covariance if plain else type(self.covariance).__name__
            lines.append(f"  covariance of the random effects: {spec}{', fixed' if self.fix_psi else ''}")
        if self.effects is not None:
            lines.append(f"  random effects: {self.effects.description}")
        held = held_values(self)
        if held:
            lines.append(f"  held fixed: {', '.join(f'{name} = {value:g}' for name, value in held.items())}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return model_html(self)

    def _check(self) -> None:
        for entry in self.parameters:
            if not isinstance(entry, Parameter):
                raise ModelError(f"parameters must be jn.Parameter objects; received {shown(entry)}.")
        names = [p.name for p in self.parameters]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not names:
            raise ModelError(f"parameter names must be unique and not empty; repeated: {repeated or 'none given'}.")
        if self.fixed_design is not None and (self.beta is None or any(p.covariates for p in self.parameters)):
            raise ModelError("fixed_design needs beta, its starting coefficients, and excludes covariate formulas.")
        for entry in self.parameters:
            if self.fixed_design is not None and (entry.fix or entry.prior is not None):
                raise ModelError(
                    f"parameter {entry.name!r}: {'fix=True' if entry.fix else 'prior'} has no meaning with "
                    "fixed_design, whose coefficients are beta0, beta1, ...; leave it out (priors= takes those names)."
                )
            if entry.sd is not None and not entry.random and self.random_design is None:
                raise ModelError(
                    f"parameter {entry.name!r} has sd, the start of a random effect's SD, and no random effect; add "
                    "random=True, or leave sd out."
                )
            if entry.prior is not None and entry.name in self.priors:
                raise ModelError(f"parameter {entry.name!r} has a prior in Parameter and one in priors=; give one.")
        if self.fixed_design is None and self.beta is not None:
            raise ModelError(
                "beta is only used with fixed_design; starting values of parameters are Parameter(start=...)."
            )
        if self.random_design is not None and isinstance(self.covariance, Heterogeneous):
            raise ModelError(
                f"the covariance differs by {self.covariance.by!r}, and random_design gives the random effects of this "
                "model: declare them by Parameter(random=...), or use one covariance for all."
            )
        if self.random_design is not None and any(p.random for p in self.parameters):
            raise ModelError("give either random_design or random=True on parameters, not both.")
        if self.individual is not None and (
            self.fixed_design is not None
            or self.random_design is not None
            or any(p.covariates for p in self.parameters)
        ):
            raise ModelError("an individual function replaces designs and covariate formulas; give one of them.")

    def for_groups(self, groups: np.ndarray, obs: int) -> Self:
        """The model for some of the groups: design matrices per group or per observation are cut to them.

        **Arguments:** `groups`: a mask or indices; `obs`: the number of rows to keep.
        """

        def cut(design: Any) -> Any:
            if design is None or np.ndim(design) == 2:
                return design
            chosen = np.asarray(design)[groups]
            return chosen[:, :obs] if chosen.ndim == 4 else chosen

        model = copy.copy(self)
        model.fixed_design, model.random_design = cut(self.fixed_design), cut(self.random_design)
        return model


def _by_level(option: str, value: Any) -> list[tuple[str, Any]]:
    """Pairs of a name for messages and a value: one for each level of a dictionary, one for anything else."""
    if not isinstance(value, Mapping):
        return [(option, value)]
    return [(f"{option} of level {level!r}", part) for level, part in value.items()]


def _holds_numbers(value: Any) -> bool:
    """True if `value` is an array of numbers, or nested lists of them."""
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except ValueError:  # rows of different lengths
        return False
