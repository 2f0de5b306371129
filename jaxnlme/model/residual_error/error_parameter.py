"""A parameter of a residual model: name, starting value, transform."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.arguments import check_flag, number_or_given
from jaxnlme.errors import OptionError, shown
from jaxnlme.model.transforms import AbstractTransform, transform
from jaxnlme.signatures import check_call


class ErrorParameter(eqx.Module):
    """A parameter of a residual model.

    **Arguments:**

    - `name`: the keyword under which the scale function takes it, and the name that a fit reports.
    - `start`: starting value, on the natural scale.
    - `transform`: "log" for positive parameters, "identity", "logit" or "probit" (also with bounds), or an object.
    - `fix`: it is not estimated.
    - `automatic`: `fit` scales the starting value to the data.

    **Raises:** OptionError for a start outside the domain of the transform, or a transform with an exponent.

    **Example:**

    ```python
    jn.ErrorParameter("a", 0.5, jn.transforms.Log())
    ```
    """

    name: str = eqx.field(static=True)
    start: Any = eqx.field(converter=number_or_given)
    transform: AbstractTransform = eqx.field(static=True, converter=transform)
    fix: bool = eqx.field(static=True, default=False)
    automatic: bool = eqx.field(static=True, default=False)

    def __new__(cls, *args: Any, **options: Any) -> ErrorParameter:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise OptionError(f"the name of an error parameter must be text; received {shown(self.name)}.")
        for flag in ("fix", "automatic"):
            check_flag(f"error parameter {self.name!r}: {flag}", getattr(self, flag))
        if not isinstance(self.start, np.ndarray) or self.start.ndim != 0:
            raise OptionError(f"error parameter {self.name!r} must start at one number; received {shown(self.start)}.")
        if self.transform.has_shape:
            raise OptionError(
                f"error parameter {self.name!r}: the {self.transform.name} transform has an exponent of its own; use "
                "identity, log, logit or probit."
            )
        low, high = self.transform.domain
        if not low < self.start < high:
            raise OptionError(
                f"error parameter {self.name!r} must start inside ({low:g}, {high:g}); received {shown(self.start)}."
            )
