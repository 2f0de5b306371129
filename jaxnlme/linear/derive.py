"""Functions of the parameters of a linear mixed model, with standard errors by the delta method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import FitError, check_level
from jaxnlme.precision import x64
from jaxnlme.records import Record
from jaxnlme.results.derived import scales_of
from jaxnlme.results.derived_functions import call_user, flat_outputs, named_functions
from jaxnlme.results.derived_record import Derived

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


def derive(fit: LinearFit, fn: Any, *, level: float = 0.95, transform: Any = "identity") -> Derived:
    """Functions of fixed effects, standard deviations, correlations and residual parameters.

    **Arguments:** `fn(p)`, or a dictionary of such functions: p holds the values of `fit.estimates` by name,
    `p["age"]`, `p["sd((Intercept))"]`; in jax.numpy; `level` of the intervals; `transform`: the scale on which they are
    made, for all or by quantity.
    **Returns:** Derived; `.table` is a data frame, `.covariance` the joint covariance.
    **Raises:** FitError where a value that the function uses has no standard error; OptionError, ModelError for what is
    no function of p in jax.numpy.
    **Source:** Oehlert (1992), The American Statistician 46, 27-29.
    """
    check_level(level)
    functions = named_functions(fn, False)
    single = not isinstance(fn, Mapping)
    table, covariance = fit.estimates, fit.covariance
    names = tuple(str(name) for name in table.index)
    labels: list[str] = []

    def values(point: Any) -> Any:
        record: Any = Record(names, tuple(point), "parameter")
        pairs = []
        for name, function in functions.items():
            output = function(record, Record((), (), "column"))
            keyed = isinstance(output, (Mapping, Record))
            pairs += flat_outputs("" if single and keyed else name, output)
        labels[:] = [label for label, _ in pairs]
        stacked = jnp.stack([value for _, value in pairs])
        return stacked, stacked

    point = table["estimate"].to_numpy(float)
    subject = f"The function of {', '.join(repr(name) for name in functions)}"
    with x64():
        slopes, estimate = call_user(subject, jax.jit(jax.jacfwd(values, has_aux=True)), jnp.asarray(point))
    jacobian = np.asarray(slopes)
    used = np.any(jacobian != 0.0, axis=0)
    matrix = covariance.to_numpy()
    unknown = [
        name for name, need, spread in zip(names, used, np.diag(matrix), strict=True) if need and np.isnan(spread)
    ]
    if unknown:
        raise FitError(
            f"{', '.join(unknown)} has no standard error in this fit (a variance of zero, a correlation at its bound, "
            "or an information matrix that is not positive definite), so that a function of it has none.",
            fit,
        )
    matrix = np.where(np.isnan(matrix), 0.0, matrix)
    quantities = tuple(labels)
    sentence = "Standard errors by the delta method, from the observed information."
    sentences = (sentence,) if fit.converged else (f"The fit has NOT converged. {fit.status.sentences[0]}", sentence)
    scales = scales_of(transform, quantities)
    return Derived(quantities, None, np.asarray(estimate), jacobian, matrix, None, scales, float(level), sentences)
