"""Checks of what the user's structural model returns, while it is traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.errors import ModelError
from jaxnlme.model.density import Density, Group
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.endpoints import EndpointErrors


def check_prediction(density: Density, f: Any, group: Group) -> None:
    """Check shape and type of the prediction for one group while it is traced (a compiled program has passed).

    **Raises:** ModelError with what was expected and what the model returned.
    """
    expected = group.y.shape
    for leaf in jax.tree.leaves(f):
        dtype = getattr(leaf, "dtype", group.y.dtype)
        if jnp.issubdtype(dtype, jnp.floating) and dtype != group.y.dtype:
            raise ModelError(
                f"the structural model returned {dtype}, and fits are computed in {group.y.dtype}: its rounding "
                "would show in the derivatives. Data and parameters have 64 bits, so the model itself shortens its "
                "result, by .astype(...) or dtype=...; leave that out."
            )
    if isinstance(f, Mapping) or not density.error.has_location_and_scale:
        _check_by_endpoint(density.error, f, group)
        return
    if getattr(f, "shape", None) != expected:
        received = f"shape {f.shape}" if hasattr(f, "shape") else type(f).__name__
        raise ModelError(
            f"the structural model must return one prediction a row, shape (obs,) = {expected} here; it returned "
            f"{received}. Columns of x have shape (obs,), parameters and v are scalars of one group."
        )
    if not jnp.issubdtype(f.dtype, jnp.floating):
        raise ModelError(f"the structural model must return real numbers; it returned dtype {f.dtype}.")


def _check_by_endpoint(error: AbstractError, f: Any, group: Group) -> None:
    """**Raises:** ModelError for a dictionary beside one residual model, and where the prediction of an endpoint with a
    Gaussian residual model is not (obs,)."""
    if not isinstance(error, EndpointErrors):
        if isinstance(f, Mapping) and error.has_location_and_scale:
            raise ModelError(
                "the structural model returned a dictionary, and the model has one residual model: give one for each "
                "endpoint, as in error={'cp': 'proportional', 'pca': 'constant'}, or return one prediction a row."
            )
        return
    for k, (label, member) in enumerate(zip(error.labels, error.members, strict=True)):
        own = error.prediction_of(f, k)
        if member.has_location_and_scale and jnp.shape(own) != group.y.shape:
            raise ModelError(
                f"the structural model must return one prediction a row for endpoint {label!r}, shape (obs,) = "
                f"{group.y.shape} here; it returned shape {jnp.shape(own)}."
            )
