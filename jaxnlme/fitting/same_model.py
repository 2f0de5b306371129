"""The model of a saved fit: its section in the file, and its comparison with a model that is given on loading."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.model_digest import binding_digest
from jaxnlme.estimators.core.record import versions
from jaxnlme.fitting.encoding import Encoder
from jaxnlme.fitting.fit import Fit


def model_section(fit: Fit, encoder: Encoder) -> dict[str, Any]:
    """The section "model" of the file of `fit`."""
    binding, density = fit.binding, fit.binding.density
    return {
        "declaration": repr(fit.model),
        "fixed_effects": list(density.beta_names),
        "random_effects": list(density.effect_names),
        "error_parameters": list(density.error_names),
        "packed": list(binding.packed_names),
        "fixed": encoder.encode(np.asarray(binding.fixed), "model/fixed"),
        "statistics": _statistics(binding),
        "digest": binding_digest(binding),
        "covariates": _covariate_digest(binding),
    }


def check_model(path: Path, binding: Binding, document: dict[str, Any]) -> None:
    """Compare a model with that of a file. Warns where its functions are others, or cannot be compared.

    **Arguments:** `path` of the file, for messages; `binding` of the model with the data of the file; `document` of
    the file.
    **Raises:** OptionError for a model that is not the one of the file.
    """
    section = document["model"]
    names, there = list(binding.packed_names), list(section["packed"])
    if names != there:
        raise OptionError(
            f"{path} holds a fit of another model: its parameters are {', '.join(there)}; those of model= are "
            f"{', '.join(names)}."
        )
    here, in_file = _statistics(binding), section.get("statistics", {})
    differs = [name for name in here if here[name] != in_file.get(name, here[name])]
    if differs:
        differences = "; ".join(
            f"{name} is {in_file[name] or 'empty'} in the file and {here[name] or 'empty'} in model="
            for name in differs
        )
        raise OptionError(f"{path} holds a fit of another model: {differences}.")
    if section["covariates"] != _covariate_digest(binding):
        raise OptionError(
            f"{path}: the covariate columns that model= makes are not those of the fit (levels and centres come from "
            "the data of all processes, and of groups that were left out); load it with trust_code=True if you trust "
            "the file."
        )
    others = _other_versions(document["estimation"]["versions"])
    if others:
        warnings.warn(
            f"{path}: the functions of model= could not be compared with those that were fitted, because {others}; "
            "see to it that they are the same.",
            stacklevel=5,
        )
    elif section["digest"] != binding_digest(binding):
        warnings.warn(
            f"{path}: the functions of model=, or constants that they read, are not those that were fitted (their "
            "digest differs). Estimates, likelihood and summary are those of the file; predictions, simulations and "
            "refits use the functions given here.",
            stacklevel=5,
        )


def _other_versions(theirs: dict[str, Any]) -> str:
    """Versions of a file, on which the digest of functions depends, in words; empty where they are those of here."""
    ours = versions()
    python, ours_python = (str(each.get("python")).rpartition(".")[0] for each in (theirs, ours))
    differ = [
        f"the file is of {name} {there} and this is {name} {here}"
        for name, there, here in (
            ("Python", python, ours_python),
            ("jaxnlme", str(theirs.get("jaxnlme")), str(ours["jaxnlme"])),
        )
        if there != here
    ]
    return " and ".join(differ)


def _statistics(binding: Binding) -> dict[str, str]:
    """The statistical part of a model in words: transforms, covariance, residual error, priors, fixed parameters. Where
    it differs, the numbers of a fit have another meaning."""
    density = binding.density
    transforms = zip(density.beta_names, binding.transforms, strict=True)
    fixed = [name for name, is_fixed in zip(binding.packed_names, binding.fixed, strict=True) if is_fixed]
    return {
        **{f"the transform of {name}": transform.name for name, transform in transforms if transform is not None},
        "the covariance of the random effects": _in_full(density.covariance),
        "the residual error": density.error.formula,
        "the list of priors": "; ".join(
            f"{name}: {_in_full(prior)}" for name, prior in zip(density.prior_names, density.priors, strict=True)
        ),
        "the list of fixed parameters": ", ".join(fixed),
        "the list of free parameters": ", ".join(_free_names(binding)),
        **_held(binding),
    }


def _held(binding: Binding) -> dict[str, str]:
    """The values that the model and its residual error hold fixed, in words; empty where they hold none."""
    errors = zip(binding.density.error_names, binding.density.error.parameters, strict=True)
    held = {name: float(p.start) for name, p in errors if p.fix} | dict(binding.held)
    return {"the list of values held fixed": ", ".join(f"{n} = {held[n]!r}" for n in sorted(held))} if held else {}


def _in_full(part: Any) -> str:
    """A part of a model in words, with the numbers that it holds."""
    return eqx.tree_pformat(part, short_arrays=False)


def _free_names(binding: Binding) -> list[str]:
    """The arrays of the free parameters, each with its place in their tree and its shape."""
    leaves = jax.tree_util.tree_flatten_with_path(binding.start.free)[0]
    return [f"free{jax.tree_util.keystr(place)} of shape {np.shape(leaf)}" for place, leaf in leaves]


def _covariate_digest(binding: Binding) -> str:
    """SHA-256 (hex) of the covariate columns of all groups, whose levels and centres depend on the data."""
    state = hashlib.sha256()
    for bucket in binding.problem.buckets:
        for column in bucket.covariates:
            state.update(np.ascontiguousarray(column, dtype="<f8").tobytes())
    return state.hexdigest()
