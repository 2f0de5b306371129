"""Correlations of residuals that are estimated at a bound of what they can be."""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.endpoints import series_of_endpoint
from jaxnlme.errors import some
from jaxnlme.model.residual_error.correlation_base import Bound
from jaxnlme.numerics.devices import Processes


def _bounds(binding: Binding, x: np.ndarray, processes: Processes) -> dict[int, tuple[Bound, str]]:
    """The bounds that parameters of the correlation are at, by packed index, with their values in words."""
    error, out = binding.density.error, {}
    first = len(binding.packed_names) - len(error.parameters)
    for correlation, entries, endpoint in error.correlations():
        theta = np.asarray(x, float)[[first + k for k in entries]]
        if not np.isfinite(theta).all():
            continue
        series = series_of_endpoint(binding.data, error, correlation, endpoint)
        bounds = processes.gather(correlation.at_bounds(theta, series))[0]
        values = [float(value) for value in correlation.natural(theta)]
        names = [p.name for p in correlation.parameters]
        numbers = [(names.index(bound.name), bound) for bound in bounds]
        reported = [error.parameters[k].name for k in entries]
        words = [f"{name} = {value:.6g}" for name, value in zip(reported, values, strict=True)]
        # The coefficients of a moving average are at a bound together.
        of_process = ", ".join(w for w in words if w.startswith("ma"))
        out |= {first + entries[k]: (bound, of_process if bound.regular else words[k]) for k, bound in numbers}
    return out


def bounds_of_correlation(
    binding: Binding, x: np.ndarray, processes: Processes
) -> tuple[dict[int, str], dict[int, str]]:
    """Parameters of the correlation of the residuals that are at a bound at the packed parameters `x` (packed,).

    **Arguments:** `processes`, all of which must call this function at the same time.
    **Returns:** by packed index their values in words: first those at which the residuals are determined by those
    before them, then those that are a result there: residuals are independent, or a moving average is not invertible.
    """
    bounds = _bounds(binding, x, processes)
    singular = {k: words for k, (bound, words) in bounds.items() if not bound.attained}
    return singular, {k: words for k, (bound, words) in bounds.items() if bound.attained}


def points_inside(binding: Binding, x: np.ndarray, processes: Processes) -> list[tuple[int, float]]:
    """Packed indices of parameters that are a result at their bound, each with a value off that bound to try."""
    bounds = _bounds(binding, x, processes)
    return [(k, value) for k, (bound, _) in bounds.items() if bound.attained for value in bound.inside]


def bound_sentences(binding: Binding, x: np.ndarray, processes: Processes) -> tuple[list[str], list[str]]:
    """Sentences on `bounds_of_correlation`.

    **Returns:** reasons why a fit there is no maximum, and notes on estimates that are a result at their bound.
    """
    bounds = list(_bounds(binding, x, processes).values())
    singular = [words for bound, words in bounds if not bound.attained]
    independent = [words for bound, words in bounds if bound.independent]
    regular = [words for bound, words in bounds if bound.regular]
    failures, notes = [], []
    if singular:
        failures.append(
            f"The correlation of the residuals runs to its bound ({some(singular)}): the log-likelihood rises towards "
            "a limit in which residuals are determined by those before them, which no estimate reaches. A trend that "
            "the model leaves out looks like that, and so does a random effect that the correlation replaces; "
            "otherwise hold the value fixed, or use a simpler correlation."
        )
    if independent:
        notes.append(
            f"The residuals are estimated as uncorrelated ({some(independent)}, its bound): the model without this "
            "correlation fits as well."
        )
    if regular:
        notes.append(
            f"The moving average of the residuals is estimated at its bound ({regular[0]}), where it is not "
            "invertible; standard errors hold it there. Differences or sums of neighbouring independent values look "
            "like that."
        )
    return failures, notes
