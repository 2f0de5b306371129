"""Aliases of array types. Names of axes in shapes: groups obs xdim vdim phi fixed random draws chains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

PyTree: TypeAlias = Any

if TYPE_CHECKING:
    # Host code passes numpy arrays and traced code JAX arrays; a type checker sees the shape of neither.
    Scalar: TypeAlias = Any
    Vector: TypeAlias = Any
    Matrix: TypeAlias = Any
else:
    from jaxtyping import Array, Float

    Scalar = Float[Array, ""]
    Vector = Float[Array, " n"]
    Matrix = Float[Array, "n n"]
