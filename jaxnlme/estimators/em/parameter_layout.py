"""Assignment of parameters to the ways in which the M-step updates them: closed forms, Newton steps on sufficient
statistics, the complete-data score; also for fixed values, priors and a singular psi."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import some
from jaxnlme.model.centring import Centring, centring
from jaxnlme.model.levels import Levels
from jaxnlme.model.residual_error.base import AbstractError
from jaxnlme.model.residual_error.named_scales import constant_scale, proportional_scale
from jaxnlme.model.transforms import Log
from jaxnlme.numerics.devices import Processes


class ParameterLayout(eqx.Module):
    """Assignment of the packed parameters to the three kinds of M-step: closed form, Newton steps on Q (`statistical`),
    or stochastic Newton steps along the complete-data score of the outcome (`scored`).

    - `centring`: the coefficients that shift the mean of the random effects.
    - `beta`, `covariance`, `error`: numbers of packed entries of each kind, in this order.
    - `strata`: number of residual scales with a closed form; 0 where the error model has none.
    - `free` (packed,): entries that are estimated.
    - `closed_beta`, `closed_psi`, `closed_error`: true where these are updated in closed form.
    - `statistical`, `scored`: packed indices of the entries updated by Newton and stochastic Newton steps, fixed ones
      left out.
    - `whitened`: true if the chains hold z instead of xi. Then `rows` are the effects whose xi is held fixed in the
      scores, `columns` the coordinates of z that follow from these xi through psi's factor, and `row_centring` the
      coefficients that shift the mean of these effects.
    """

    centring: Centring
    beta: int = eqx.field(static=True)
    covariance: int = eqx.field(static=True)
    error: int = eqx.field(static=True)
    strata: int = eqx.field(static=True)
    free: tuple[bool, ...] = eqx.field(static=True)
    closed_beta: bool = eqx.field(static=True)
    closed_psi: bool = eqx.field(static=True)
    closed_error: bool = eqx.field(static=True)
    statistical: tuple[int, ...] = eqx.field(static=True)
    scored: tuple[int, ...] = eqx.field(static=True)
    whitened: bool = eqx.field(static=True, default=False)
    rows: tuple[int, ...] = eqx.field(static=True, default=())
    columns: tuple[int, ...] = eqx.field(static=True, default=())
    row_centring: Centring = Centring((), 0)

    @property
    def levels(self) -> Levels | None:
        """The layout of random effects of nested levels; None without."""
        return self.centring.levels

    @property
    def n(self) -> int:
        """Number of packed parameters."""
        return self.beta + self.covariance + self.error

    def theta(self, packed: Any) -> Any:
        """Covariance entries (covariance,) of `packed` (packed,)."""
        return packed[self.beta : self.beta + self.covariance]

    @property
    def hessian_entries(self) -> tuple[int, ...]:
        """Packed indices in which second derivatives of the outcome's log-density are computed: the `scored` entries,
        followed by the residual scales with a closed form, whose cross derivatives with the former no statistic holds.
        """
        first = self.beta + self.covariance
        return self.scored + tuple(range(first, self.n)) if self.scored and self.strata else self.scored


def parameter_layout(binding: Binding, m_step: str, processes: Processes | None = None) -> ParameterLayout:
    """M-step of each parameter of a model.

    **Arguments:** `m_step`: "auto" for closed forms where they exist, "gradient" for none; a model with priors has none
    either. `processes`: several processes, each with its own groups, use only coefficients that shift the mean of the
    random effects in all of them.
    **Returns:** the ParameterLayout.
    """
    density = binding.density
    by_bucket = zip(*(bucket.covariates for bucket in binding.problem.buckets), strict=True)
    columns = [[np.asarray(piece) for piece in column] for column in by_bucket]
    units = [bucket.units for bucket in binding.problem.buckets]
    centres = centring(density.individual, density.covariance.size, columns, density.levels, units)
    if processes is not None:
        # Columns that happen to be the same in the groups of one process may differ in another's.
        terms_by_process = processes.gather(centres.terms)
        common = (term for term in terms_by_process[0] if all(term in terms for terms in terms_by_process))
        centres = Centring(tuple(common), centres.n_effects, density.levels)
    p, c, e = len(density.beta_names), density.covariance.n_unconstrained, len(density.error_names)
    free = ~np.asarray(binding.fixed, bool)
    closed = m_step == "auto" and not density.priors
    strata = n_closed_form_scales(density.error) if closed else 0
    closed_psi = closed and density.covariance.has_closed_form
    free_entries = [k for k in range(p + c + e) if free[k]]
    centred = set(centres.centred.tolist())
    statistical = [k for k in free_entries if (k in centred and not closed) or (p <= k < p + c and not closed_psi)]
    scored = [k for k in free_entries if (k < p and k not in centred) or (k >= p + c and not strata)]
    return ParameterLayout(
        centres,
        p,
        c,
        e,
        strata,
        tuple(free.tolist()),
        closed and any(free[k] for k in centred),
        closed_psi and bool(free[p : p + c].any()),
        bool(strata) and bool(free[p + c :].any()),
        tuple(statistical),
        tuple(scored),
    )


def whitened_layout(
    layout: ParameterLayout, fixed_at_boundary: frozenset[int], rows: tuple[int, ...], columns: tuple[int, ...]
) -> ParameterLayout:
    """Layout of chains that hold z, for psi on the boundary of the parameter space (singular) or near it: no sufficient
    statistic is used, and every entry is scored.

    **Arguments:** `layout`, that of an interior psi; `fixed_at_boundary`, packed entries held fixed; `rows`, effects
    whose xi is held fixed in the scores; `columns`, as many coordinates of z, which follow from these xi; the other
    coordinates of z are held fixed.
    **Returns:** the ParameterLayout.
    """
    free = tuple(is_free and k not in fixed_at_boundary for k, is_free in enumerate(layout.free))
    scored = tuple(k for k, is_free in enumerate(free) if is_free)
    q, levels, terms = layout.centring.n_effects, layout.levels, layout.centring.terms
    row_centring = Centring(tuple(term for term in terms if term[1] in rows), q, levels)
    return ParameterLayout(
        Centring((), q, levels), layout.beta, layout.covariance, layout.error, 0, free,
        False, False, False, (), scored, True, rows, columns, row_centring,
    )  # fmt: skip


def with_held(layout: ParameterLayout, entries: frozenset[int]) -> ParameterLayout:
    """The layout with further packed `entries` held at their values."""
    return dataclasses.replace(
        layout,
        free=tuple(is_free and k not in entries for k, is_free in enumerate(layout.free)),
        statistical=tuple(k for k in layout.statistical if k not in entries),
        scored=tuple(k for k in layout.scored if k not in entries),
    )


def n_closed_form_scales(error: AbstractError) -> int:
    """Number of residual scales with a closed form: those of s s_0(f) with one scale s for each stratum; 0 for other
    error models, and with a correlation or limits of quantification."""
    parts = error.gaussian_parts()
    if not error.has_gaussian_moments or error.n_correlation or error.is_limited or len(parts) != error.n_endpoints:
        return 0
    if any(part.n_shape or part.scale not in (constant_scale, proportional_scale) for part, _, _ in parts):
        return 0
    if any(not isinstance(p.transform, Log) for p in error.parameters) or len({p.fix for p in error.parameters}) > 1:
        return 0
    return len(error.parameters)


def m_step_description(layout: ParameterLayout, binding: Binding) -> str:
    """Description of the M-step of each parameter, for the summary."""
    names = binding.packed_names
    centred = layout.centring.centred.tolist() if layout.closed_beta else []
    closed = [names[k] for k in centred if layout.free[k]]
    closed += ["psi"] if layout.closed_psi else []
    first = layout.beta + layout.covariance
    closed += [names[k] for k in range(first, layout.n) if layout.closed_error and layout.free[k]]
    parts = [f"closed form for {some(closed, 8)}"] if closed else []
    if layout.statistical:
        parts.append(f"Newton steps for {some([names[k] for k in layout.statistical], 8)}")
    if layout.scored:
        parts.append(f"stochastic Newton steps for {some([names[k] for k in layout.scored], 8)}")
    return "; ".join(parts) or "nothing to maximise"
