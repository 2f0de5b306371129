"""Sections on the model and the data of a fit."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.data._endpoints import label_text
from jaxnlme.data.events.display import counts_in_words
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import some
from jaxnlme.model.equations import PARAMETER_HEADER, equations, parameter_cells, structure_name
from jaxnlme.report.blocks import Code, Formulas, Grid, Pairs, Section, Text, present
from jaxnlme.report.settings import REPORT
from jaxnlme.results.display import number
from jaxnlme.results.summary import describe_psi

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

_STATISTICS = ("mean", "SD", "min", "median", "max")


def model_section(fit: FitRecord) -> Section:
    """The model in words and formulas, its parameters, and the source of its function."""
    model, density = fit.model, fit.binding.density
    pairs = [
        ("structural model", structure_name(model.structure)),
        ("residual model", density.error.formula),
        ("random effects", describe_psi(density.covariance, density.effect_names) if density.n_effects else "none"),
    ]
    held = {name: number(value) for name, value in fit.binding.held.items()}
    if held:
        pairs.append(("held fixed", "; ".join(f"{name} = {value}" for name, value in held.items())))
    rows = [parameter_cells(p, model.fixed_design is None) for p in model.parameters]
    used = [k for k in range(len(PARAMETER_HEADER)) if k < 3 or any(row[k] for row in rows)]
    parameters = Grid("Parameters", [PARAMETER_HEADER[k] for k in used], [[row[k] for k in used] for row in rows])
    priors = Grid("Priors", ("", "density"), [(name, repr(prior)) for name, prior in density.priors])
    source = source_of(model.structure)
    code = None if source is None else Code("Source of the structural model", source)
    meaning = Text(
        ("i: group; j: row of a group; b: random effects on the transformed scale; epsilon: standard normal.",), True
    )
    return Section(
        "model", "Model", present([Pairs(pairs), Formulas(equations(model)), meaning, parameters, priors, code])
    )


def source_of(structure: Any) -> str | None:
    """The source text of a structural model: of the function, or of the class of an object that is none of this
    package's; None where Python does not have it (as for a function that was read from a file)."""
    while isinstance(structure, functools.partial):
        structure = structure.func
    target = structure if inspect.isroutine(structure) else type(structure)
    if inspect.isclass(target) and target.__module__.startswith("jaxnlme."):
        return None
    try:
        return textwrap.dedent(inspect.getsource(target)).strip()
    except (OSError, TypeError):  # what inspect raises where there is no file
        return None


def data_section(fit: FitRecord) -> Section:
    """The data: groups, rows, responses, limits, doses, predictors, and what was remarked on them."""
    data = fit.data
    frame = data.to_frame()
    return Section(
        "data",
        "Data",
        present(
            [
                Pairs(list(_counts(data))),
                Text(counts_in_words(data.events) if data.events is not None else ()),
                _responses(data, frame),
                _numeric_columns(data, frame),
                _text_columns(data, frame),
                Text([f"Left out at your request: {label} ({why})" for label, why in fit.status.left_out]),
                Text([f"Note: {note}" for note in data.notes], small=True),
            ]
        ),
    )


def _counts(data: GroupedData) -> Iterator[tuple[str, str]]:
    """Pairs on the numbers of groups, rows and responses."""
    yield "groups", f"{data.n_groups}, by {data.group_name}"
    for level in data.nested:
        yield f"units by {level.name}", f"{int(level.counts.sum())} inside the groups"
    low, median, high = (f"{v:g}" for v in (data.sizes.min(), np.median(data.sizes), data.sizes.max()))
    yield "rows", f"{data.n_rows}, {low if low == high else f'{low} to {high} (median {median})'} in a group"
    yield "observed responses", f"{data.n_obs} of {data.y_name}"
    if data.n_rows > data.n_obs:
        yield "rows without a response", f"{data.n_rows - data.n_obs}"
    without = int((data.observed.sum(axis=1) == 0).sum())
    if without:
        yield "groups without a response", f"{without}, which add nothing to the likelihood"
    if data.limits is not None:
        kinds = zip(("below", "above", "between limits"), (1, 2, 3), strict=True)
        counts = [(name, int((data.limits.kind == code).sum())) for name, code in kinds]
        yield "censored", ", ".join(f"{n} {name}" for name, n in counts if n) or "none"
        for name, limits in (("lower limits", data.limits.lloq), ("upper limits", data.limits.uloq)):
            values = np.unique(limits[np.isfinite(limits) & data.rows])
            if len(values):
                yield f"{name} of quantification", some([f"{v:g}" for v in values])
    if np.ptp(data.weights) > 0 or data.weights[0] != 1:
        yield "weights of groups", f"{data.weights.min():g} to {data.weights.max():g}"


def _responses(data: GroupedData, frame: pd.DataFrame) -> Grid:
    """Statistics of the responses, a row for each endpoint."""
    observed = frame[frame[data.y_name].notna()]
    parts = [(data.y_name, observed)]
    if data.endpoint is not None:
        groups = observed.groupby(data.endpoint, sort=False, observed=True)
        parts = [(f"{data.y_name}, {data.endpoint} {label_text(label)}", part) for label, part in groups]
    rows = [(name, len(part), *_statistics(part[data.y_name].to_numpy(float))) for name, part in parts]
    title = "Responses" if data.limits is None else "Responses; a censored one counts as its limit"
    return Grid(title, ("", "observed", *_STATISTICS), rows)


def _numeric_columns(data: GroupedData, frame: pd.DataFrame) -> Grid:
    """Statistics of the numeric predictors: x by rows, v by groups."""
    rows = []
    for name in data.x:
        if name != data.endpoint:
            rows.append((name, "row", *_statistics(frame[name].to_numpy(float))))
    rows += [(name, "group", *_statistics(np.asarray(values, float))) for name, values in data.v.items()]
    return Grid("Predictors", ("", "a value by", *_STATISTICS), rows)


def _text_columns(data: GroupedData, frame: pd.DataFrame) -> Grid:
    """Counts of the levels of categorical predictors."""
    rows = []
    for name, values in data.text.items():
        column = frame[name] if values.ndim == 2 else values
        levels, counts = np.unique(np.asarray(column, dtype=object).astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")
        texts = [f"{levels[k]}: {counts[k]}" for k in order]
        rows.append((name, "row" if values.ndim == 2 else "group", some(texts, REPORT.levels_shown)))
    return Grid("Categorical predictors", ("", "a value by", "levels: number"), rows)


def _statistics(values: np.ndarray) -> tuple[float, ...]:
    """Mean, SD, smallest value, median, largest value of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    if not len(values):
        return (np.nan,) * 5
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return float(np.mean(values)), sd, float(values.min()), float(np.median(values)), float(values.max())
