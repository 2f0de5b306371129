"""From a Declaration to the engine's model and data: the linear predictor, its coefficients, and the outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.linear.glmm.declaration import Declaration, structures_of
from jaxnlme.linear.glmm.densities import PROBABILITIES, OutcomeDensity, OutcomeSampler
from jaxnlme.linear.glmm.links import link_of
from jaxnlme.linear.glmm.response import Response
from jaxnlme.linear.glmm.separation import refuse_separation
from jaxnlme.linear.glmm.start import PooledFit, effect_sds, pooled_fit, shape_by_moments, size_by_moments
from jaxnlme.model.parameters import Parameter
from jaxnlme.model.residual_error.base import GroupLogLikelihood
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.records import RESERVED_IN_ROWS

# The links of each family, the default first: those of R's families, for ordinal outcomes those of R's ordinal::clmm.
LINKS: dict[str, tuple[str, ...]] = {
    "binomial": ("logit", "probit", "cloglog", "cauchit", "log"),
    "bernoulli": ("logit", "probit", "cloglog", "cauchit", "log"),
    "poisson": ("log", "identity", "sqrt"),
    "negative binomial": ("log", "identity", "sqrt"),
    "gamma": ("inverse", "log", "identity"),
    "ordinal": ("logit", "probit", "cloglog", "cauchit"),
}

_ABOUT_TIMES = ("is not sorted within", "has repeated values within")


class Coefficient(Parameter):
    """A coefficient of a formula: a Parameter called after its column, which need not be a name of Python."""

    def _check_name(self) -> None:
        """Any text is a name."""
        if not isinstance(self.name, str) or not self.name:
            raise ModelError(f"the name of a coefficient must be text; received {self.name!r}.")


@dataclasses.dataclass(frozen=True)
class LinearPredictor:
    """The structural model eta = X beta + Z b + offset: each coefficient times its column of x.

    **Fields:** `terms`: pairs of a coefficient and its column of x, None for the intercept; `offset`: a column of x;
    `levels`: labels of the grouping factors, outermost first; `declaration`: formula and table.
    """

    terms: tuple[tuple[str, str | None], ...]
    offset: str | None
    levels: tuple[str, ...]
    declaration: Declaration = dataclasses.field(compare=False, repr=False)

    __name__ = "linear predictor"

    def __call__(self, phi: Any, x: Any) -> Any:
        """The linear predictor (obs,).

        **Arguments:** `phi`: coefficients of one group, with their random effects; `x`: its columns.
        """
        total = jnp.zeros(x.mask.shape) if self.offset is None else x[self.offset]
        for name, column in self.terms:
            total = total + (phi[name] if column is None else phi[name] * x[column])
        return total

    @property
    def fit_class(self) -> Any:
        """The class of the fits of such models."""
        from jaxnlme.linear.glmm.fit import GeneralisedLinearFit

        return GeneralisedLinearFit

    def grouped_data(self, frame: pd.DataFrame, response: Response | None, known_groups: bool = True) -> GroupedData:
        """The engine's data of a table.

        **Arguments:** `frame`: with the columns of the formula; the fitted one is the declaration's own; `response`:
        of its rows, NaN where missing; None: without; `known_groups`: False where the labels of units are not needed.
        """
        declaration = self.declaration
        new = None if frame is declaration.frame else frame
        matrices = [
            (declaration.fixed.names, declaration.fixed.matrix if new is None else declaration.fixed.for_frame(new))
        ]
        matrices += [(part.effects, part.matrix(new)) for part in declaration.parts]
        values = {name: m[:, k] for names, m in matrices for k, name in enumerate(names)}
        labels = {
            part.label: part.labels(frame) if known_groups else ["population"] * len(frame)
            for part in declaration.parts
        }
        columns: dict[str, Any] = dict(labels)
        name = declaration.response.name
        columns[name] = np.full(len(frame), np.nan) if response is None else response.y
        x = {column: values[coefficient] for coefficient, column in self.terms if column is not None}
        if self.offset is not None:
            x[self.offset] = declaration.offset(frame)
        trials = trials_column(declaration)
        if trials is not None:
            given = None if response is None else response.trials
            x[trials] = np.ones(len(frame)) if given is None else given
        table = pd.DataFrame(columns | x, index=frame.index, copy=False)
        data = GroupedData.from_frame(table, list(labels), name, list(x), need_response=new is None)
        # Rows of a unit have no order here, and covariates may be equal: the notes on these are about times.
        vars(data)["notes"] = tuple(note for note in data.notes if not any(words in note for words in _ABOUT_TIMES))
        return data


def linear_predictor(declaration: Declaration) -> LinearPredictor:
    """The LinearPredictor of a Declaration."""
    names = list(declaration.fixed.names)
    names += [name for part in declaration.parts for name in part.effects if name not in names]
    terms = []
    for name in dict.fromkeys(names):
        terms.append((name, None if name == "(Intercept)" else _free_name(name, declaration)))
    offset = _free_name("offset", declaration, names) if declaration.offsets else None
    return LinearPredictor(tuple(terms), offset, tuple(part.label for part in declaration.parts), declaration)


def trials_column(declaration: Declaration) -> str | None:
    """The column of x with the numbers of trials, None where each row is one trial."""
    if declaration.response.trials is None:
        return None
    return _free_name(
        "trials", declaration, [*declaration.fixed.names, *(n for p in declaration.parts for n in p.effects)]
    )


def _free_name(name: str, declaration: Declaration, used: Sequence[str] = ()) -> str:
    """`name`, or with dots behind it where it has another meaning in the data."""
    taken = {*RESERVED_IN_ROWS, *(part.label for part in declaration.parts), declaration.response.name, *used}
    while name in taken:
        name += "."
    return name


def generalised_model(
    declaration: Declaration, link: str, covariance: Any, priors: Mapping[str, Any] | None, fixed: Any
) -> NLMEModel:
    """The NLMEModel of a Declaration, with starting values.

    **Arguments:** `link`: its name; `covariance`: of the random effects, see `structures_of`; `priors`, `fixed`: as for
    NLMEModel.
    **Raises:** ModelError where the fixed effects separate the data and have no prior.
    """
    predictor = linear_predictor(declaration)
    held = [*(priors or {}), *(fixed or {})]
    family = declaration.family
    pooled, errors = _start(declaration, link)
    refuse_separation(declaration, link, pooled, [e.name for e in errors], held)
    columns = dict(zip(declaration.fixed.names, declaration.fixed.matrix.T, strict=True))
    starts = dict(zip(declaration.fixed.names, pooled.beta, strict=True))
    levels: dict[str, list[str]] = {}
    sds: dict[str, dict[str, float]] = {}
    for part in declaration.parts:
        z = part.matrix()
        for k, (name, sd) in enumerate(
            zip(part.effects, effect_sds(z, part.units.codes, part.units.count, pooled), strict=True)
        ):
            if name in columns and not np.array_equal(columns[name], z[:, k]):
                raise ModelError(
                    f"the column {name!r} of the random effects of {part.label!r} differs from the fixed effects' "
                    "column of this name; write it under another name."
                )
            levels.setdefault(name, []).append(part.label)
            sds.setdefault(name, {})[part.label] = float(sd)
    coefficients = [
        Coefficient(
            name,
            float(starts.get(name, 0.0)),
            random=levels.get(name, False),
            sd=sds.get(name),
            fix=name not in starts,
        )
        for name, _ in predictor.terms
    ]
    structures: Any = structures_of(declaration.parts, covariance)
    if len(structures) == 1:
        (structures,) = structures.values()
    trials = trials_column(declaration)
    outcome = GroupLogLikelihood(
        OutcomeDensity(family, link, trials), tuple(errors), OutcomeSampler(family, link, trials), family
    )
    return NLMEModel(predictor, coefficients, structures, outcome, priors=priors, fixed=fixed)


def _start(declaration: Declaration, link: str) -> tuple[PooledFit, list[ErrorParameter]]:
    """The model without random effects, and the parameters of the outcome with their starts."""
    family, found = declaration.family, declaration.response
    x, offset = declaration.fixed.matrix, declaration.offset(declaration.frame)
    ones = np.ones(len(found.y))
    if family == "ordinal":
        return _ordinal_start(x, found, offset, link)
    trials = ones if found.trials is None else found.trials
    y = found.y / np.maximum(trials, 1.0) if family == "binomial" else found.y
    function = link_of(link, family in PROBABILITIES)
    if family == "negative binomial":
        size = size_by_moments(y, pooled_fit(x, y, trials, offset, "poisson", function).mean)
        pooled = pooled_fit(x, y, trials, offset, family, function, size)
        return pooled, [ErrorParameter("size", size, "log")]
    pooled = pooled_fit(x, y, trials, offset, family, function)
    if family == "gamma":
        return pooled, [ErrorParameter("shape", shape_by_moments(pooled.dispersion), "log")]
    return pooled, []


def _ordinal_start(
    x: np.ndarray, found: Response, offset: np.ndarray, link: str
) -> tuple[PooledFit, list[ErrorParameter]]:
    """Coefficients of the response cut in two near its middle, and thresholds from the frequencies of categories."""
    counts = np.bincount(found.y.astype(int), minlength=len(found.categories))
    cumulative = np.cumsum(counts)[:-1] / len(found.y)
    cut = int(np.argmin(np.abs(cumulative - 0.5)))
    function = link_of(link, True)
    design = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    above = (found.y > cut).astype(float)
    binary = pooled_fit(design, above, np.ones(len(x)), offset, "binomial", link_of("logit", True))
    bounded = np.clip(binary.beta[1:], -1e3, 1e3)
    shift = float(np.mean(x @ bounded + offset))
    thresholds = function.forward(np.clip(cumulative, 1e-6, 1.0 - 1e-6)) + shift
    names = [f"{low}|{high}" for low, high in zip(found.categories[:-1], found.categories[1:], strict=True)]
    errors = [ErrorParameter(n, float(t), "identity") for n, t in zip(names, thresholds, strict=True)]
    return dataclasses.replace(binary, beta=bounded), errors
