"""Sections of the file of a fit, as they are written; `storage` has the list of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.fitting.encoding import Encoder
from jaxnlme.fitting.fit import Fit
from jaxnlme.fitting.same_model import model_section

TABLES = ("estimates", "values", "covariance", "psi", "random_effects", "random_effects_se", "shrinkage", "groups")
# Fields of a Fit that sections of their own hold.
_APART = ("binding", "params", "sampling", "posterior", "fingerprint")


def sections_of(fit: Fit, encoder: Encoder) -> dict[str, Any]:
    """The sections of "fit.json" by name; their arrays, and objects of the user's own, are collected by `encoder`."""
    return {
        "model": model_section(fit, encoder),
        "estimation": _estimation_section(fit, encoder),
        "tables": _tables_section(fit, encoder),
        "data": _data_section(fit.data, encoder),
        "summary": _summary_section(fit),
        "sampling": _sampling_section(fit, encoder),
        "posterior": _posterior_section(fit, encoder),
    }


def _estimation_section(fit: Fit, encoder: Encoder) -> dict[str, Any]:
    params = fit.params
    free = [np.asarray(leaf) for leaf in jax.tree.leaves(params.free)]
    parts = {"beta": params.beta, "covariance": params.covariance, "error": params.error}
    packed = {name: np.asarray(value, float) for name, value in parts.items()} | {"free": free}
    fields = {
        field.name: encoder.encode(getattr(fit, field.name), f"estimation/{field.name}")
        for field in dataclasses.fields(fit)
        if field.name not in _APART
    }
    return fields | {
        "params": encoder.encode(packed, "estimation/params"),
        "criteria": encoder.encode(fit.criteria, "estimation/criteria"),
        "iterations": fit.iterations,
    }


def _tables_section(fit: Fit, encoder: Encoder) -> dict[str, Any]:
    group = fit.data.group_name

    def entry(name: str, value: Any, level: str | None, axis: str) -> dict[str, Any]:
        content = encoder.encode(value, f"tables/{name}")
        return {"level": level, "axis": axis, "endpoint": None, "content": content}

    return {
        "estimates": entry("estimates", fit.estimates, None, "parameters"),
        "values": entry("values", fit.values, None, "parameters"),
        "covariance": entry("covariance", fit.covariance, None, "parameters"),
        "psi": entry("psi", fit.psi, group, "effects"),
        "shrinkage": entry("shrinkage", fit.shrinkage, group, "effects"),
        "random_effects": entry("random_effects", fit.random_effects, group, "groups"),
        "random_effects_se": entry("random_effects_se", fit.random_effects_se, group, "groups"),
        "groups": entry("groups", fit.status.groups, group, "groups"),
    }


def _data_section(data: GroupedData, encoder: Encoder) -> dict[str, Any]:
    fields = {
        field.name: encoder.encode(getattr(data, field.name), f"data/{field.name}")
        for field in dataclasses.fields(data)
    }
    return {"fields": fields, "digest": data.fingerprint()}


def _summary_section(fit: Fit) -> dict[str, Any]:
    summary = fit.summary()
    return {"text": str(summary), "html": summary._repr_html_(), "one_line": repr(fit)}


def _sampling_section(fit: Fit, encoder: Encoder) -> Any:
    if fit.sampling is None:
        return None
    names = [field.name for field in dataclasses.fields(fit.sampling) if field.name not in ("binding", "replicates")]
    section = {name: encoder.encode(getattr(fit.sampling, name), f"sampling/{name}") for name in names}
    replicates = []
    for k, replicate in enumerate(fit.sampling.replicates):
        params = {name: np.asarray(getattr(replicate.params, name), float) for name in ("beta", "covariance", "error")}
        place = f"sampling/replicates/{k}"
        replicates.append(encoder.encode(dataclasses.replace(replicate, params=params), place))  # pyright: ignore[reportArgumentType]
    return section | {"replicates": replicates}


def _posterior_section(fit: Fit, encoder: Encoder) -> Any:
    if fit.posterior is None:
        return None
    names = [field.name for field in dataclasses.fields(fit.posterior) if field.name != "binding"]
    return {name: encoder.encode(getattr(fit.posterior, name), f"posterior/{name}") for name in names}
