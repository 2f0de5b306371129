"""Array aliases. Axis names used in shapes: groups obs xdim vdim phi fixed random draws chains."""

from __future__ import annotations

from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float

Scalar: TypeAlias = Float[Array, ""]
Vector: TypeAlias = Float[Array, " n"]
Matrix: TypeAlias = Float[Array, "n n"]
Mask: TypeAlias = Bool[Array, " obs"]
PyTree: TypeAlias = Any
