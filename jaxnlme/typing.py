"""Array aliases. Axis names used in shapes: groups obs xdim vdim phi fixed random draws chains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

PyTree: TypeAlias = Any

if TYPE_CHECKING:
    # Host code hands over numpy arrays and traced code JAX ones; a type checker sees neither's shape.
    Scalar: TypeAlias = Any
    Vector: TypeAlias = Any
    Matrix: TypeAlias = Any
else:
    from jaxtyping import Array, Float

    Scalar = Float[Array, ""]
    Vector = Float[Array, " n"]
    Matrix = Float[Array, "n n"]
