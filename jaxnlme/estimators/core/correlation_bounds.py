"""Correlations of residuals that are estimated at a bound of what they can be."""

from __future__ import annotations

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.series import correlation_of, series_of
from jaxnlme.errors import some
from jaxnlme.numerics.devices import Processes


def bounds_of_correlation(
    binding: Binding, x: np.ndarray, processes: Processes
) -> tuple[dict[int, str], dict[int, str]]:
    """Parameters of the correlation of the residuals that are at a bound at the packed parameters `x` (packed,).

    **Arguments:** `processes`, all of which must call this function at the same time.
    **Returns:** by packed index their values in words: first those at which the residuals are determined by those
    before them, then those at which they are independent.
    """
    correlation = correlation_of(binding.density.error)
    if correlation is None:
        return {}, {}
    last = len(binding.packed_names)
    first = last - len(correlation.parameters)
    theta = np.asarray(x[first:last], float)
    if not np.isfinite(theta).all():
        return {}, {}
    bounds = processes.gather(correlation.at_bounds(theta, series_of(binding.data, correlation)))[0]
    values = [float(value) for value in correlation.natural(theta)]
    names = [p.name for p in correlation.parameters]
    words = {names.index(bound.name): bound for bound in bounds}
    found = {first + k: (f"{names[k]} = {values[k]:.6g}", bound.independent) for k, bound in words.items()}
    return {k: w for k, (w, null) in found.items() if not null}, {k: w for k, (w, null) in found.items() if null}


def points_inside(binding: Binding, x: np.ndarray, processes: Processes) -> list[tuple[int, float]]:
    """Packed indices of parameters at which residuals are independent, each with a value off that bound to try."""
    correlation = correlation_of(binding.density.error)
    independent = bounds_of_correlation(binding, x, processes)[1]
    if correlation is None or not independent:
        return []
    last = len(binding.packed_names)
    first = last - len(correlation.parameters)
    bounds = processes.gather(correlation.at_bounds(np.asarray(x[first:last]), series_of(binding.data, correlation)))[0]
    names = [p.name for p in correlation.parameters]
    return [(first + names.index(b.name), value) for b in bounds if b.independent for value in b.inside]


def bound_sentences(binding: Binding, x: np.ndarray, processes: Processes) -> tuple[list[str], list[str]]:
    """Sentences on `bounds_of_correlation`.

    **Returns:** reasons why a fit there is no maximum, and notes on residuals that are estimated as independent.
    """
    singular, independent = bounds_of_correlation(binding, x, processes)
    failures, notes = [], []
    if singular:
        failures.append(
            f"The correlation of the residuals runs to its bound ({some(list(singular.values()))}): the log-likelihood "
            "rises towards a limit in which residuals are determined by those before them, which no estimate reaches. "
            "A trend that the model leaves out looks like that, and so does a random effect that the correlation "
            "replaces; otherwise hold the value fixed, or use a simpler correlation."
        )
    if independent:
        notes.append(
            f"The residuals are estimated as uncorrelated ({some(list(independent.values()))}, its bound): the model "
            "without this correlation fits as well."
        )
    return failures, notes
