"""Sentences of a fit about variances, and parts of a residual scale, that are estimated as zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.endpoints import rows_of_stratum
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.model.density import Density
from jaxnlme.model.residual_error.parts import two_parts
from jaxnlme.model.transforms import Identity
from jaxnlme.numerics.devices import Processes


def zero_sentences(density: Density, theta: np.ndarray, zeroed: set[int], converged: bool) -> list[str]:
    """One sentence for each variance, or conditional variance, that is estimated as zero.

    **Arguments:** `theta` (unconstrained,), the covariance parameters; `zeroed`, packed indices of the log scales at
    minus infinity; `converged`: the fit is at a maximum, and only then it shows what the data say of them.
    """
    first = len(density.beta_names)
    psi = psi_of(density, theta) if density.n_effects else None
    sentences = []
    for index, effects, _ in density.covariance.log_scales:
        if first + index not in zeroed or psi is None:
            continue
        names = ", ".join(density.effect_names[k] for k in effects)
        if not converged:
            sentences.append(f"The (conditional) variance of the random effect of {names} is zero at this point.")
        elif all(psi[k, k] == 0.0 for k in effects):
            sentences.append(
                f"The variance of the random effect of {names} is estimated as zero: the likelihood falls as it grows "
                "from zero (score at the boundary). The effect can be dropped."
            )
        else:
            sentences.append(
                f"Psi is singular: the random effect of {names} is a linear function of the effects before it "
                "(conditional variance zero). A simpler covariance fits as well."
            )
    return sentences


@dataclasses.dataclass(frozen=True)
class VanishedPart:
    """A part of a residual scale such as a + b |f|^c that is estimated as zero.

    **Fields:** `entry`, its packed index; `others`, those of parameters that then have no effect (the exponent beside
    b); `name`; `without`: the name of the residual model without it, None where that is no named one; `equal`: the
    logarithm of the value that makes both parts equal at predictions of the size of the data.
    """

    entry: int
    others: tuple[int, ...]
    name: str
    without: str | None
    equal: float

    def sentence(self, value: float) -> str:
        """A sentence on the part, with its `value`."""
        model = "the residual model without it" if self.without is None else f"error={self.without!r}"
        return f"The part {self.name} of the residual error is estimated as zero ({value:.1g}): {model} fits as well."


def vanished_parts(binding: Binding, x: np.ndarray, processes: Processes) -> list[VanishedPart]:
    """Free parts of a residual scale that are estimated as zero: a fraction below RUN_SETTINGS.vanished_part of the
    other part, also where predictions are as large as the large responses (b) or as small as the small ones (a). Their
    logarithm goes to minus infinity, and the likelihood no longer depends on it.

    **Arguments:** `x` (packed,); `processes`, all of which must call this function at the same time.
    """
    parts = binding.density.error.gaussian_parts()
    return [vanished for part in parts for vanished in _vanished_parts(binding, x, processes, *part)]


def _vanished_parts(
    binding: Binding, x: np.ndarray, processes: Processes, error: Any, entries: tuple[int, ...], endpoint: int | None
) -> list[VanishedPart]:
    """`vanished_parts` of one of the `gaussian_parts` of the residual model."""
    density, parts = binding.density, two_parts(error)
    if not parts or error.of_transformed:
        return []
    first = len(density.beta_names) + density.covariance.n_unconstrained
    plain = density.error.has_gaussian_moments and not error.levels and endpoint is None
    named = plain and isinstance(error.response, Identity)
    out = []
    for level, (a, b, power) in enumerate(parts):
        sizes = _log_sizes(binding, error, endpoint, level, processes)
        if sizes is None:
            continue
        low, middle, high = sizes
        a, b, power = entries[a], entries[b], None if power is None else entries[power]
        c = 1.0 if power is None else float(x[first + power])
        exponent = () if power is None or binding.fixed[first + power] else (first + power,)
        proportional = "proportional" if power is None else "power"
        ratio, limit = x[first + b] - x[first + a], np.log(RUN_SETTINGS.vanished_part)
        if ratio + c * high < limit and not binding.fixed[first + b]:
            equal = float(x[first + a] - c * middle)
            out.append(VanishedPart(first + b, exponent, density.error_names[b], "constant" if named else None, equal))
        if -ratio - c * low < limit and not binding.fixed[first + a]:
            equal = float(x[first + b] + c * middle)
            out.append(VanishedPart(first + a, (), density.error_names[a], proportional if named else None, equal))
    return out


def entries_of(parts: Sequence[VanishedPart]) -> frozenset[int]:
    """Packed indices of the `parts` and of the parameters that have no effect beside them."""
    return frozenset(k for part in parts for k in (part.entry, *part.others))


def _log_sizes(
    binding: Binding, part: Any, endpoint: int | None, level: int, processes: Processes
) -> tuple[float, float, float] | None:
    """Logarithms of a small, the middle and a large absolute response of a stratum (RUN_SETTINGS.size_quantiles), over
    all processes; None if there is none but zero."""
    logs = []
    for bucket in binding.problem.buckets:
        seen = rows_of_stratum(bucket, part, endpoint, level) & (np.asarray(bucket.y) != 0)
        logs.append(np.log(np.abs(np.asarray(bucket.y)[seen])))
    own = np.concatenate(logs)
    found = processes.gather(None if not len(own) else np.quantile(own, RUN_SETTINGS.size_quantiles).tolist())
    sizes = np.array([quantiles for quantiles in found if quantiles is not None])
    return None if not len(sizes) else (sizes[:, 0].min(), float(np.median(sizes[:, 1])), sizes[:, 2].max())
