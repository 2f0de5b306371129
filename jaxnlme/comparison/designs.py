"""The fixed-effects part of a model with its data: digests, and comparison of two models."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.estimators.core.model_digest import digest
from jaxnlme.model.individual_parameters import FunctionIndividual, LinearIndividual


def design_terms(binding: Binding) -> dict[str, list[tuple[int, str]]]:
    """For each fixed effect its terms in the design: pairs of a parameter's position, and the constant or the digest of
    the column that multiplies it there. Empty for an individual-parameter function."""
    individual, names = binding.density.individual, binding.density.beta_names
    if not isinstance(individual, LinearIndividual):
        return {}
    out: dict[str, list[tuple[int, str]]] = {name: [] for name in names}
    for row, terms in enumerate(individual.fixed.terms):
        for k, constant, column in terms:
            out[names[k]].append((row, repr(constant) if column is None else _column_digest(binding, column)))
    return out


def _column_digest(binding: Binding, column: int) -> str:
    """SHA-256 (hex) of a column of the design on the rows with a response, in the order of the table."""
    full = np.zeros(binding.data.rows.shape)
    for which, bucket in zip(binding.bucket_groups, binding.problem.buckets, strict=True):
        values = np.asarray(bucket.covariates[column], float)
        full[which, : bucket.y.shape[1]] = values[:, None] if values.ndim == 1 else values
    rows = binding.data.rows_to_column(full)[binding.data.rows_to_column(binding.data.observed)]
    return hashlib.sha256(np.ascontiguousarray(rows, "<f8").tobytes()).hexdigest()


def function_digest(binding: Binding) -> str:
    """Digest of the functions that lead from individual parameters to predictions, with the names and transforms of the
    parameters, and the individual-parameter function if there is one."""
    individual = binding.density.individual
    own = [individual.fn] if isinstance(individual, FunctionIndividual) else []
    names = [p.name for p in binding.model.parameters]
    structural = dataclasses.replace(binding.density.structural, endpoints=())
    return digest([structural, names, [p.transform.name for p in binding.model.parameters], own])


def fixed_effects_digest(binding: Binding) -> str:
    """Digest of all that a restricted likelihood depends on through the fixed effects: functions, names, transforms,
    the columns of the design, and which of them are held fixed, at which values."""
    p = len(binding.density.beta_names)
    held = [
        (name, float(value))
        for name, value, fixed in zip(
            binding.density.beta_names, np.asarray(binding.start.beta), binding.fixed[:p], strict=True
        )
        if fixed
    ]
    terms = sorted((name, *term) for name, listed in design_terms(binding).items() for term in listed)
    return digest([function_digest(binding), sorted(binding.density.beta_names), terms, held])


def different_column(first: Binding, second: Binding) -> str:
    """The name of a predictor that both data sets have with different values on the rows with a response; empty where
    there is none."""
    if first.data is second.data:
        return ""
    for kind in ("x", "v", "text"):
        ours, theirs = getattr(first.data, kind), getattr(second.data, kind)
        for name in ours:
            if name in theirs and not np.array_equal(*(_rows(b, getattr(b.data, kind)[name]) for b in (first, second))):
                return name
    for name, (columns, mask) in first.data.tables.items():
        if name in second.data.tables:
            others, other_mask = second.data.tables[name]
            same = np.array_equal(mask, other_mask) and all(
                column in others and np.array_equal(values[mask], others[column][mask])
                for column, values in columns.items()
            )
            if not same:
                return f"{name} (a table)"
    return ""


def _rows(binding: Binding, values: np.ndarray) -> Any:
    """A column (n_obs,) of a predictor (groups,) or (groups, obs) on the rows with a response."""
    data = binding.data
    full = np.broadcast_to(values[:, None], data.rows.shape) if values.ndim == 1 else values
    return data.rows_to_column(full)[data.rows_to_column(data.observed)]
