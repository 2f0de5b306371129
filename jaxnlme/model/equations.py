"""The equations of a declared model as HTML, for notebooks and reports."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.markup import formula, formula_lines, table, variable
from jaxnlme.model.covariance.base import AbstractCovariance
from jaxnlme.model.covariance.heterogeneous import Heterogeneous
from jaxnlme.model.covariance.specification import family_name
from jaxnlme.model.fixed import Fixed
from jaxnlme.model.parameters import Parameter

if TYPE_CHECKING:
    from jaxnlme.model.declaration import ModelDeclaration

_BETA, _PSI, _PHI = "<i>&beta;</i>", "<i>&Psi;</i>", "<i>&phi;</i>"
PARAMETER_HEADER = ("parameter", "start", "scale", "random effect", "covariates", "prior", "remark")


def structure_name(structure: Any) -> str:
    """The name of a structural model: that of the function, or of the class of an object."""
    return getattr(structure, "__name__", type(structure).__name__)


def equations(model: ModelDeclaration) -> list[str]:
    """The equations of a model, one a line, as HTML: observations, individual parameters, random effects.

    The index i counts groups, j the rows of a group, k the units of a nested level; b are random effects on the
    transformed scale.
    """
    return [*_observations(model), *_individual_parameters(model), *_random_effects(model)]


def model_html(model: ModelDeclaration) -> str:
    """A model for a notebook: its name, its equations, its parameters with their starting values."""
    head = f"<p style='margin:0.2em 0'><b>NLMEModel: {html.escape(structure_name(model.structure))}</b></p>"
    shown = table("", PARAMETER_HEADER, [parameter_cells(p, model.fixed_design is None) for p in model.parameters])
    held = held_values(model)
    remark = ""
    if held:
        texts = ", ".join(f"{name} = {value:g}" for name, value in held.items())
        remark = f"<p style='margin:0.2em 0'><small>Held fixed: {html.escape(texts)}</small></p>"
    return f"<div>{head}{formula_lines(equations(model))}{shown}{remark}</div>"


def parameter_html(parameter: Parameter) -> str:
    """A parameter for a notebook: its equation and the table row of its declaration."""
    shown = table("", PARAMETER_HEADER, [parameter_cells(parameter)])
    return f"<div>{formula_lines([parameter_equation(parameter)])}{shown}</div>"


def parameter_cells(parameter: Parameter, has_start: bool = True) -> tuple[str, ...]:
    """Cells of a parameter in a table with the header "parameter", "start", "scale", ...

    **Arguments:** `has_start`: False where a fixed design has the starting values.
    """
    by = ", ".join(parameter.random) if isinstance(parameter.random, tuple) else "yes" if parameter.random else ""
    start = f"{float(parameter.start):g}" if has_start else ""
    prior = "" if parameter.prior is None else repr(parameter.prior)
    terms = ", ".join(term.formula for term in parameter.covariates)
    return (parameter.name, start, parameter.transform.name, by, terms, prior, "fixed" if parameter.fix else "")


def held_values(model: ModelDeclaration) -> dict[str, float]:
    """Values that a declaration holds fixed, by name: standard deviations of parameters, and those of `fixed=`."""
    held = {f"sd({p.name})": p.sd.value for p in model.parameters if isinstance(p.sd, Fixed)}
    for p in model.parameters:
        by_level = p.sd.items() if isinstance(p.sd, Mapping) else ()
        held |= {f"sd of {p.name} by {level}": sd.value for level, sd in by_level if isinstance(sd, Fixed)}
    return held | dict(model.fixed)


def parameter_equation(parameter: Parameter) -> str:
    """h(phi_i) = beta + covariate terms + random effects, with the names of one parameter."""
    symbol, name = variable(parameter.name, "i"), html.escape(parameter.name)
    scale = parameter.transform.name
    if scale == "identity":
        side = symbol
    elif scale in ("log", "logit", "probit"):
        side = f"{scale} {symbol}"
    else:  # a transform with bounds, such as logit(0, 2), or one of the user's own
        side = f"{html.escape(scale)}: <i>h</i>({symbol})"
    terms = [f"{_BETA}<sub>{name}</sub>"]
    for term in parameter.covariates:
        text = html.escape(term.formula)
        terms.append(f"{_BETA}<sub>{name} ~ {text}</sub> &middot; <span>{text}</span>")
    levels = parameter.random if isinstance(parameter.random, tuple) else (None,) if parameter.random else ()
    for depth, level in enumerate(levels):
        index = f"{parameter.name}, i{'k' * depth}" + (f" ({level})" if level else "")
        terms.append(variable("b", index))
    return f"{side} = {' + '.join(terms)}"


def _observations(model: ModelDeclaration) -> list[str]:
    """Lines on the structural model and the residual errors, by endpoint where there are several."""
    names = ", ".join(html.escape(p.name) for p in model.parameters)
    arguments = f"{_PHI}<sub>i</sub>, <i>x</i><sub>ij</sub>, <i>v</i><sub>i</sub>"
    lines = [f"<i>f</i><sub>ij</sub> = {html.escape(structure_name(model.structure))}({arguments}), {_PHI} = ({names})"]
    error: Any = model.error
    members, labels = getattr(error, "members", None), getattr(error, "labels", None)
    if members and labels:
        pairs = [(str(label), member.formula) for label, member in zip(labels, members, strict=True)]
        lines += [f"{html.escape(label)}: {formula(text)}" for label, text in pairs]
        if getattr(error, "correlation", None) is not None:
            lines.append(formula(f"corr(e) = {error.correlation.description}"))
    else:
        lines.append(formula(error.formula))
    if error.has_gaussian_moments:
        lines[-1] += ", <i>&epsilon;</i> ~ N(0, 1)"
    return lines


def _individual_parameters(model: ModelDeclaration) -> list[str]:
    """Lines on phi: one for each parameter, or that of the designs or of the user's function."""
    if model.individual is not None:
        name = html.escape(getattr(model.individual, "__name__", "individual"))
        return [f"{_PHI}<sub>i</sub> = {name}({_BETA}, <i>b</i><sub>i</sub>, <i>v</i><sub>i</sub>)"]
    if model.fixed_design is None and model.random_design is None:
        return [parameter_equation(p) for p in model.parameters]
    shapes = [
        f"<i>{letter}</i>: {' &times; '.join(map(str, np.shape(design)))}"
        for letter, design in (("A", model.fixed_design), ("B", model.random_design))
        if design is not None
    ]
    scales = ", ".join(f"{html.escape(p.name)}: {html.escape(p.transform.name)}" for p in model.parameters)
    equation = f"<i>h</i>({_PHI}<sub>i</sub>) = <i>A</i><sub>i</sub>{_BETA} + <i>B</i><sub>i</sub><i>b</i><sub>i</sub>"
    return [f"{equation}, {', '.join(shapes)}; <i>h</i>: {scales}"]


def _random_effects(model: ModelDeclaration) -> list[str]:
    """A line on the distribution of the random effects; none without any."""
    if model.random_design is None and not any(p.random for p in model.parameters) and model.individual is None:
        return []
    fixed = ", fixed" if model.fix_psi else ""
    return [f"<i>b</i><sub>i</sub> ~ N(0, {_PSI}), {_PSI}: {html.escape(_covariance_text(model.covariance))}{fixed}"]


def _covariance_text(specification: Any) -> str:
    """The structure of psi as it was declared, in words."""
    if isinstance(specification, str):
        return specification
    if isinstance(specification, Mapping):
        return "; ".join(f"{_covariance_text(part)} by {level}" for level, part in specification.items())
    if isinstance(specification, Heterogeneous):
        return f"{_covariance_text(specification.structure)}, separate by {specification.by}"
    if isinstance(specification, AbstractCovariance):
        return family_name(specification) or type(specification).__name__
    if isinstance(specification, np.ndarray) or not all(
        isinstance(block, (list, tuple, str)) for block in specification
    ):
        return f"pattern {np.asarray(specification).astype(int).tolist()}"
    blocks = [block if isinstance(block, str) else ", ".join(map(str, block)) for block in specification]
    return f"blocks ({'), ('.join(blocks)})"
