"""Parameters and random effects that change nothing: they are named before a fit."""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import ModelError
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.correlation_matrices import Kernel


def check_effects(binding: Binding, start: Params, slopes: np.ndarray) -> None:
    """Check that every parameter and random effect changes some log-density; effects with a starting variance of zero
    are exempt.

    **Arguments:** `slopes` (packed + random,): the largest absolute derivatives over all groups and points.
    **Raises:** ModelError naming those whose derivatives are exactly zero.
    """
    density = binding.density
    p = len(binding.packed_names)
    without_effect = [name for k, name in enumerate(density.beta_names) if slopes[k] == 0.0 and not binding.fixed[k]]
    errors = [
        name
        for k, (name, q) in enumerate(zip(density.error_names, density.error.parameters, strict=True))
        if slopes[p - len(density.error.parameters) + k] == 0.0 and not q.fix
    ]
    # Effect k depends on the whitened effects whose entries in row k of the factor are not zero.
    factor = np.asarray(density.covariance.factor(np.asarray(start.covariance))) != 0.0
    has_slope = density.over_units(slopes[p : p + density.n_effects], np.max) != 0.0
    constant = [k for k in range(len(factor)) if factor[k].any() and not has_slope[factor[k]].any()]
    effects = [f"random effect of {density.effect_names[k]}" for k in constant]
    effects = [name for name in effects if name.removeprefix("random effect of ") not in without_effect]
    if without_effect or effects:
        limits = binding.data.limits
        if limits is not None and np.all(limits.kind[binding.data.observed] > 0):
            raise ModelError(
                "every response of the data is censored, and the probability of that is flat in "
                f"{', '.join([*without_effect, *effects])} at the starting values: check the limits of quantification "
                "(their unit?) and the column that marks censored rows, or choose other starting values."
            )
        raise ModelError(
            f"no effect on any prediction at the starting values: {', '.join([*without_effect, *effects])}. "
            "Either the model does not use it (misspelt?), or the prediction does not depend on it at these starting "
            "values; correct the model, fix the parameter (fix=True), or choose other starting values."
        )
    correlations = density.error.correlations()
    # A range far below the shortest lag has no slope at a start; these correlations do use their parameters.
    used = {k for correlation, entries, _ in correlations if not isinstance(correlation, Kernel) for k in entries}
    errors = [name for name in errors if density.error_names.index(name) not in used]
    if errors:
        of_correlation = {density.error_names[k] for _, entries, _ in correlations for k in entries}
        scale = [name for name in errors if name not in of_correlation]
        what = "the residual standard deviation" if scale else "the correlation of the residuals"
        raise ModelError(
            f"no effect on {what} at the starting values: {', '.join(scale or errors)}, declared by the residual "
            "model. Either its function does not use it (misspelt?), or does not depend on it at these starting "
            "values; correct the function, leave the parameter out, hold it by jn.fixed(...), or choose other "
            "starting values."
        )
