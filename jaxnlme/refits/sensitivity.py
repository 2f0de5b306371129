"""Sensitivity of estimates to values that a model holds fixed and to its priors, by the implicit function theorem."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.objective import partial_sums
from jaxnlme.model.density import Density
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.central_differences import central_differences
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.refits.influence import natural_slopes
from jaxnlme.refits.likelihood_at import information_of, require_approximation
from jaxnlme.refits.refits import check_option_names, pack_on_host
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@check_option_names
@public("fit.sensitivity")
def sensitivity(fit: FitRecord) -> pd.DataFrame:
    """d estimate / d constant: how far each estimate moves with a value that the model holds fixed, or with a number of
    a prior.

    With t the estimates, H the observed information and l the objective, dt/dc = H^-1 d(dl/dt)/dc, the exact score
    differenced in c.

    **Returns:** a data frame: a row for each constant, a column for each estimated value of `fit.values`. Rows are the
    fixed parameters by name, in units of the unconstrained scale on which they are held (transformed typical values,
    logarithms of standard deviations and residual scales), and the numbers of priors as "prior of NAME: sd".
    **Raises:** FitError where the fit did not converge or has no information matrix; OptionError for a model without
    fixed values and priors, and for fits that do not maximise a likelihood approximation.
    **Source:** implicit function theorem; Giordano, Broderick and Jordan (2018), Journal of Machine Learning Research
    19, 1-49.

    **Example:**

    ```python
    held = jn.NLMEModel(oral, [ka, cl, jn.Parameter("vol", 32.0, "log", fix=True)])
    jn.fit(held, data, "focei").sensitivity()
    ```
    """
    import pandas as pd

    require_host("fit.sensitivity")
    method = require_approximation(fit, "sensitivity").method
    info, binding = information_of(fit, "sensitivity"), fit.binding
    assert info.covariance is not None
    density, x = binding.density, pack_on_host(fit.params)
    held = np.flatnonzero(np.asarray(binding.fixed))
    if not len(held) and not density.priors:
        raise OptionError(
            "sensitivity is to values that the model holds fixed (fix=True, jn.fixed(...), fixed=) and to priors, and "
            "this model has neither."
        )
    rows: dict[str, np.ndarray] = {}
    with x64():
        placed = PlacedProblem(binding.problem)
        template, modes = on_device(fit.params), placed.scatter(fit.modes)

        def score(values: np.ndarray) -> np.ndarray:
            packed = x.copy()
            packed[held] = values
            sums, _ = placed.run(partial_sums, (method, template, packed), modes)
            prior = np.asarray(slope_of_prior(on_device(density), template, packed))
            return (prior - np.asarray(sums.gradient))[info.active]

        slope_of_prior = compiled(_slope_of_prior, 0)
        if len(held):
            for k, slopes in zip(held, central_differences(score, x[held]), strict=True):
                rows[binding.packed_names[k]] = slopes
        for position, (name, prior) in enumerate(density.priors):
            fields = [field.name for field in dataclasses.fields(prior)]  # pyright: ignore[reportArgumentType]

            def of_prior(values: np.ndarray, position: int = position, fields: Any = fields) -> np.ndarray:
                changed: Any = density.prior_densities[position]
                changed = dataclasses.replace(changed, **dict(zip(fields, map(jnp.asarray, values), strict=True)))
                densities = (*density.prior_densities[:position], changed, *density.prior_densities[position + 1 :])
                other = dataclasses.replace(density, prior_densities=densities)
                return np.asarray(slope_of_prior(on_device(other), template, x))[info.active]

            numbers = np.array([float(getattr(prior, field)) for field in fields])
            for field, slopes in zip(fields, central_differences(of_prior, numbers, least_size=1e-2), strict=True):
                rows[f"prior of {name}: {field}"] = slopes
    moves = np.array(list(rows.values())) @ info.covariance
    table = moves @ (info.jacobian[:, info.active] * natural_slopes(fit)[:, None]).T
    names, fixed = list(fit.values), fit.estimates["fixed"]
    out = pd.DataFrame(table, index=pd.Index(list(rows), name="constant"), columns=names)
    return out[[name for name in names if not fixed[name]]]


def _slope_of_prior(density: Density, template: Any, packed: jax.Array) -> jax.Array:
    return gradient(lambda x: density.log_prior(template.unpack(x)))(packed)
