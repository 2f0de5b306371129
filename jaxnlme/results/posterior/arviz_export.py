"""Draws in the container of the installed version of ArviZ: InferenceData before version 1, DataTree from then on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxnlme.results.posterior.record import Posterior


def arviz() -> Any:
    """The package ArviZ. **Raises:** ImportError, with the line to install it, where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its next version
            import arviz
    except ModuleNotFoundError as error:
        raise ImportError("draws in ArviZ's container need arviz: pip install 'jaxnlme[bayes]'") from error
    return arviz


def to_arviz(posterior: Posterior) -> Any:
    """The draws of a posterior in ArviZ's container.

    **Groups:** "posterior", the parameters on the user's scale, each a variable, and "z", the whitened random effects
    (group x effect) where they were drawn in every draw; "sample_stats"; "log_likelihood", log p(y_i | parameters) of
    each group with the random effects integrated out (by the approximation of the method), under the name of the
    response; "observed_data", the observed responses in the order of the rows.
    """
    binding = posterior.binding
    data, density = binding.data, binding.density
    labels = [str(label) for label in data.labels.tolist()]
    variables: dict[str, np.ndarray] = {
        name: posterior.user_scale[..., k] for k, name in enumerate(density.reported_names)
    }
    coords: dict[str, Any] = {data.group_name: labels}
    dims: dict[str, list[str]] = {data.y_name: [data.group_name]}
    if posterior.z is not None and posterior.effect_every == 1 and density.n_effects:
        variables["z"] = posterior.z
        coords["effect"] = [*density.effect_names] if density.levels is None else list(range(density.n_effects))
        dims["z"] = [data.group_name, "effect"]
    observed = data.rows_to_column(data.y)[data.rows_to_column(data.observed)]
    groups = {
        "posterior": variables,
        "sample_stats": dict(posterior.stats),
        "log_likelihood": {data.y_name: posterior.group_log_likelihood},
    }
    return container(groups, {data.y_name: np.asarray(observed, float)}, coords, dims)


def container(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    observed: Mapping[str, np.ndarray] | None,
    coords: Mapping[str, Any],
    dims: Mapping[str, Any],
) -> Any:
    """The container of the installed version.

    **Arguments:** `groups`: by name, variables (chains, draws, ...); `observed`: variables of "observed_data", None for
    none; `coords`, `dims` of the axes beside chain and draw.
    """
    package = arviz()
    of_draws = dict(dims)
    if int(package.__version__.split(".")[0]) >= 1:
        tree = package.from_dict({n: dict(v) for n, v in groups.items()}, coords=dict(coords), dims=of_draws)
        if observed is not None:
            rows = {name: ["row"] for name in observed}
            tree["observed_data"] = package.from_dict({"observed_data": dict(observed)}, dims=rows)["observed_data"]
        return tree
    tree = package.from_dict(
        **{name: dict(variables) for name, variables in groups.items()}, coords=dict(coords), dims=of_draws
    )
    if observed is not None:
        tree.extend(package.from_dict(observed_data=dict(observed), dims={name: ["row"] for name in observed}))
    return tree
