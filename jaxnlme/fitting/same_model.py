"""Comparison of a model given to `load` with the one whose fit is in the file."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.model_digest import binding_digest
from jaxnlme.estimators.core.record import versions


def statistics(binding: Binding) -> dict[str, str]:
    """The statistical part of a model in words: transforms, covariance, residual error, priors, fixed parameters. Where
    it differs, the numbers of a fit have another meaning."""
    density = binding.density
    transforms = zip(density.beta_names, binding.transforms, strict=True)
    fixed = [name for name, is_fixed in zip(binding.packed_names, binding.fixed, strict=True) if is_fixed]
    return {
        **{f"the transform of {name}": transform.name for name, transform in transforms if transform is not None},
        "the covariance of the random effects": repr(density.covariance),
        "the residual error": density.error.formula,
        "the priors": "; ".join(
            f"{name}: {prior!r}" for name, prior in zip(density.prior_names, density.priors, strict=True)
        ),
        "the list of fixed parameters": ", ".join(fixed),
    }


def covariate_digest(binding: Binding) -> str:
    """SHA-256 (hex) of the covariate columns of all groups, whose levels and centres depend on the data."""
    state = hashlib.sha256()
    for bucket in binding.problem.buckets:
        for column in bucket.covariates:
            state.update(np.ascontiguousarray(column, dtype="<f8").tobytes())
    return state.hexdigest()


def check_model(path: Path, binding: Binding, document: dict[str, Any]) -> None:
    """Check that a model given to `load` is the one whose fit the file holds.

    **Arguments:** `path` of the file, for messages; `binding` of the model; `document`: the file's.
    **Raises:** OptionError for a model with other names, statistics or covariate columns. Other functions cost a
    warning.
    """
    section = document["model"]
    names, there = list(binding.packed_names), list(section["packed"])
    if names != there:
        raise OptionError(
            f"{path} holds a fit of another model: its parameters are {', '.join(there)}; those of model= are "
            f"{', '.join(names)}."
        )
    here, in_file = statistics(binding), section.get("statistics", {})
    differs = [name for name in here if here[name] != in_file.get(name, here[name])]
    if differs:
        differences = "; ".join(
            f"{name} is {in_file[name] or 'empty'} in the file and {here[name] or 'empty'} in model="
            for name in differs
        )
        raise OptionError(f"{path} holds a fit of another model: {differences}.")
    if section["covariates"] != covariate_digest(binding):
        raise OptionError(
            f"{path}: the covariate columns that model= makes are not those of the fit (levels and centres come from "
            "the data of all processes, and of groups that were left out); load it with trust_code=True if you trust "
            "the file."
        )
    ours, theirs = versions(), document["estimation"]["versions"]
    same_python = ours["python"].rsplit(".", 1)[0] == str(theirs.get("python")).rsplit(".", 1)[0]
    if same_python and ours["jaxnlme"] == theirs.get("jaxnlme") and section["digest"] != binding_digest(binding):
        warnings.warn(
            f"{path}: the functions of model=, or constants that they read, are not those that were fitted (their "
            "digest differs). Estimates, likelihood and summary are those of the file; predictions, simulations and "
            "refits use the functions given here.",
            stacklevel=4,
        )
