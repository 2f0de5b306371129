"""The signature of a residual scale: a function of the prediction f, its parameters, and where it wants them the
predictors x."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from jaxnlme.errors import ModelError, OptionError, shown
from jaxnlme.model.networks import with_arrays


def sees_x(scale: Any) -> bool:
    """True if the function `scale` has an argument `x`, the predictors."""
    return "x" in inspect.signature(scale).parameters


def check_scale(scale: Any, names: Sequence[str]) -> None:
    """Check that `scale` is a function of f and of the parameters called `names`. **Raises:** OptionError."""
    if not callable(scale):
        raise OptionError(f"scale must be a function scale(f, **parameters); received {shown(scale)}.")
    if "x" in names:
        raise OptionError("no parameter of the scale can be called 'x': the predictors have that name.")
    keywords: dict[str, None] = dict.fromkeys([*names, *(["x"] if sees_x(scale) else [])])
    try:
        inspect.signature(scale).bind(None, **keywords)
    except TypeError:
        raise OptionError(
            f"the scale must be a function of f and {', '.join(names) or 'no parameters'}, the parameters it is "
            f"declared with, or also of x; it takes {inspect.signature(scale)}."
        ) from None


def scale_of(error: Any) -> Any:
    """The scale of a GaussianError, a module with its arrays. **Raises:** ModelError where a method has none."""
    if error.is_module and error.arrays is None:
        raise ModelError(
            "the scale of the residuals is an Equinox module, whose weights this method does not have; fit by a "
            "likelihood approximation ('focei', 'laplace', ...) or jn.Gradient(...), with starts=None."
        )
    return with_arrays(error.scale, error.arrays)
