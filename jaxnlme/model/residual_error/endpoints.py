"""Several endpoints (responses) of one model: a residual model for each, and the log-density of a group from them.

Rows belong to endpoints (`group.endpoints`); each residual model sees the group with the responses of its rows only.
The parameters are those of all members, renamed: "b" of the endpoint "cp" is "b[cp]", "a[F]" is "a[cp, F]". In theta
the residual scales of all members come first, then exponents of transforms, then correlations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError, OptionError, shown, some
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.between_endpoints import BetweenEndpoints, combined_factor
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation
from jaxnlme.model.residual_error.endpoint_parts import (
    is_plain,
    no_joint_correlation,
    parameter_name,
    part_sizes,
    renamed,
)
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.records import Record
from jaxnlme.typing import Vector


class EndpointErrors(AbstractError):
    """Residual models by endpoint. `jn.error.endpoints`, and a dictionary as `error=` of `jn.NLMEModel`, make these.

    **Fields:** `members`: the residual models; `labels`: their endpoints; `correlation`: of the residuals of different
    endpoints at one time, None for independent ones.

    **Raises:** OptionError where a correlation between endpoints names one that is not Gaussian, or has a correlation
    of its own.
    """

    members: tuple[AbstractError, ...]
    labels: tuple[str, ...] = eqx.field(static=True)
    correlation: AbstractCorrelation | None = None

    def __check_init__(self):
        if self.correlation is None:
            return
        assert isinstance(self.correlation, BetweenEndpoints)
        for label in self.correlation.labels:
            reason = f"is not among the endpoints {some(self.labels, len(self.labels))}"
            if label in self.labels:
                reason = no_joint_correlation(self.members[self.labels.index(label)])
            if reason:
                raise OptionError(
                    f"the correlation between endpoints cannot have {label!r}, which {reason}; list those that are "
                    "correlated, as in jn.correlation.Endpoints('TIME', of=['cp', 'pca']), or leave it out."
                )

    # --- parameters ---

    @property
    def parameters(self) -> tuple[ErrorParameter, ...]:
        out: list[Any] = [None] * self.n_members
        for label, member, entries in zip(self.labels, self.members, self.entries, strict=True):
            for k, p in zip(entries, member.parameters, strict=True):
                out[k] = renamed(p, parameter_name(p.name, label))
        return (*out, *(() if self.correlation is None else self.correlation.parameters))

    @property
    def n_members(self) -> int:
        """Number of parameters of all members; those of the correlation between endpoints follow."""
        return sum(len(member.parameters) for member in self.members)

    @property
    def entries(self) -> tuple[tuple[int, ...], ...]:
        """For each member the entries of theta that are its own, in the order of its parameters."""
        parts: list[list[range]] = [[] for _ in self.members]
        first = 0
        for part in range(3):
            for k, member in enumerate(self.members):
                size = part_sizes(member)[part]
                parts[k].append(range(first, first + size))
                first += size
        return tuple(tuple(entry for part in of_member for entry in part) for of_member in parts)

    @property
    def n_scale(self) -> int:
        return sum(part_sizes(member)[0] for member in self.members)

    @property
    def n_correlation(self) -> int:
        own = 0 if self.correlation is None else len(self.correlation.parameters)
        return own + sum(part_sizes(member)[2] for member in self.members)

    def of_member(self, theta: Any, k: int) -> Any:
        """The entries of `theta` (unconstrained,) that are those of member `k`."""
        entries = self.entries[k]
        first = entries[0] if entries else 0
        if entries == tuple(range(first, first + len(entries))):
            return theta[first : first + len(entries)]
        return theta[np.array(entries, int)]

    def natural(self, theta):
        values: list[Any] = [None] * self.n_members
        for k, (member, entries) in enumerate(zip(self.members, self.entries, strict=True)):
            for entry, value in zip(entries, member.natural(self.of_member(theta, k)).values, strict=True):
                values[entry] = value
        if self.correlation is not None:
            values += self.correlation.natural(theta[self.n_members :])
        return Record(tuple(p.name for p in self.parameters), tuple(values), "error parameter")

    def unconstrained(self, values):
        values, out = list(values), np.zeros(len(values))
        for member, entries in zip(self.members, self.entries, strict=True):
            out[list(entries)] = member.unconstrained([values[k] for k in entries])
        if self.correlation is not None:
            out[self.n_members :] = self.correlation.unconstrained(values[self.n_members :])
        return out

    def with_parameters(self, parameters):
        changed: Any = []
        for member, entries in zip(self.members, self.entries, strict=True):
            pairs = zip(entries, member.parameters, strict=True)
            changed.append(member.with_parameters(tuple(renamed(parameters[k], p.name) for k, p in pairs)))
        out = EndpointErrors(tuple(changed), self.labels)
        if self.correlation is None:
            return out
        correlation: Any = self.correlation
        return out.with_correlation(dataclasses.replace(correlation, parameters=tuple(parameters[self.n_members :])))

    def with_correlation(self, correlation: AbstractCorrelation | None) -> EndpointErrors:
        """The model with another correlation between endpoints."""
        return EndpointErrors(self.members, self.labels, correlation)

    def with_members(self, members: Sequence[AbstractError]) -> EndpointErrors:
        """The model with other residual models of the same endpoints."""
        return EndpointErrors(tuple(members), self.labels, self.correlation)

    @property
    def formula(self) -> str:
        parts = [f"{label}: {member.formula}" for label, member in zip(self.labels, self.members, strict=True)]
        return "; ".join([*parts, *([] if self.correlation is None else [f"corr(e) = {self.correlation.description}"])])

    @property
    def has_gaussian_moments(self) -> bool:
        return all(member.has_gaussian_moments for member in self.members)

    @property
    def has_location_and_scale(self) -> bool:
        return all(member.has_location_and_scale for member in self.members)

    @property
    def is_limited(self) -> bool:
        return any(member.is_limited for member in self.members)

    @property
    def censoring(self) -> str | None:
        """The method for censored rows, by endpoint where they differ; None where no endpoint has one."""
        methods = [getattr(member, "censoring", None) for member in self.members]
        if len(set(methods)) == 1:
            return methods[0]
        return ", ".join(f"{label}: {m}" for label, m in zip(self.labels, methods, strict=True) if m is not None)

    def drops_rows(self, group):
        out = group.endpoints < 0
        for k, member in enumerate(self.members):
            out = out | ((group.endpoints == k) & member.drops_censored)
        return out

    @property
    def has_residuals(self) -> bool:
        return any(member.has_location_and_scale for member in self.members)

    @property
    def n_endpoints(self) -> int:
        return len(self.members)

    def gaussian_parts(self):
        out = []
        for k, (member, entries) in enumerate(zip(self.members, self.entries, strict=True)):
            out += [(part, tuple(entries[e] for e in own), k) for part, own, _ in member.gaussian_parts()]
        return out

    def correlations(self):
        out: list[Any] = []
        for k, (member, entries) in enumerate(zip(self.members, self.entries, strict=True)):
            out += [(of_member, tuple(entries[e] for e in own), k) for of_member, own, _ in member.correlations()]
        last = tuple(range(self.n_members, len(self.parameters)))
        return out if self.correlation is None else [*out, (self.correlation, last, None)]

    def scale_index(self, group):
        index, first = jnp.zeros(group.y.shape, int), 0
        for k, member in enumerate(self.members):
            inner = member.scale_index(self.group_of(group, k))
            index = jnp.where(group.endpoints == k, first + (0 if inner is None else inner), index)
            first += part_sizes(member)[0]
        return index

    # --- densities ---

    def rows_of(self, group: Any, k: int) -> Vector:
        """True (obs,) for the rows with a response of endpoint `k`."""
        return group.x.observed & (group.endpoints == k)

    def group_of(self, group: Any, k: int) -> Any:
        """The group as member `k` sees it: only the rows of its endpoint have a response."""
        own, rows = self.rows_of(group, k), group.members[k]
        x = eqx.tree_at(lambda x: x.observed, group.x, own)
        y = jnp.where(own, group.y, rows.fill)
        return dataclasses.replace(group, y=y, x=x, strata=rows.strata, layout=rows.layout, codes=rows.codes)

    def _calls(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> list[tuple[Any, ...]]:
        """For each member the arguments of its `moments` and `log_density`."""
        out = []
        for k in range(len(self.members)):
            f = self.prediction_of(prediction, k)
            g = f if scale_prediction is prediction else self.prediction_of(scale_prediction, k)
            out.append((f, g, self.of_member(theta, k), self.group_of(group, k)))
        return out

    def prediction_of(self, prediction: Any, k: int) -> Any:
        """The prediction for member `k`: its entry of a dictionary, or what is one for all endpoints.

        **Raises:** ModelError where a Gaussian residual model has no number a row to go with.
        """
        f = prediction[self.labels[k]] if isinstance(prediction, Mapping) else prediction
        if self.members[k].has_location_and_scale and not isinstance(f, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
            raise ModelError(
                f"the residual model of endpoint {self.labels[k]!r} needs one prediction a row, and the structural "
                f"model returned {shown(f)} for it: return a dictionary by endpoint, such as "
                f"{{{self.labels[k]!r}: f}} with f of shape (obs,)."
            )
        return f

    def moments(self, prediction, scale_prediction, theta, group):
        """As that of one residual model, from the member of each row; (0, 1, 0) in rows of an endpoint whose outcome
        has none."""
        residual, scale, slope = jnp.zeros_like(group.y), jnp.ones_like(group.y), jnp.zeros_like(group.y)
        calls = self._calls(prediction, scale_prediction, theta, group)
        for k, (member, arguments) in enumerate(zip(self.members, calls, strict=True)):
            if member.has_location_and_scale:
                own, (r, s, d) = self.rows_of(group, k), member.moments(*arguments)
                residual = jnp.where(own, r, residual)
                scale, slope = jnp.where(own, s, scale), jnp.where(own, d, slope)
        return residual, scale, slope

    def limit_curvature(self, prediction, scale_prediction, theta, group):
        out = jnp.zeros_like(group.y)
        calls = self._calls(prediction, prediction if scale_prediction is None else scale_prediction, theta, group)
        for k, (member, (f, g, of_member, of_group)) in enumerate(zip(self.members, calls, strict=True)):
            if member.is_limited:
                own = member.limit_curvature(f, None if scale_prediction is None else g, of_member, of_group)
                out = jnp.where(self.rows_of(group, k), own, out)
        return out

    def standardised(self, prediction, scale_prediction, theta, group):
        r, terms = jnp.zeros_like(group.y), jnp.zeros_like(group.y)
        calls = self._calls(prediction, scale_prediction, theta, group)
        for k, (member, arguments) in enumerate(zip(self.members, calls, strict=True)):
            if is_plain(member):
                own, (of_rows, of_terms) = self.rows_of(group, k), member.standardised(*arguments)
                r, terms = jnp.where(own, of_rows, r), jnp.where(own, of_terms, terms)
        for member, arguments in zip(self.members, calls, strict=True):
            if not is_plain(member):  # its log-density is that of the whole group: it stands in the first row
                terms = terms.at[0].add(member.log_density(*arguments))
        return r, terms

    def log_density(self, prediction, scale_prediction, theta, group, factor=None):
        r, terms = self.standardised(prediction, scale_prediction, theta, group)
        factor = self.factor(theta, group) if factor is None else factor
        return jnp.sum(terms - 0.5 * factor.whiten(r) ** 2) - factor.half_logdet

    def row_terms(self, prediction, theta, group):
        r, of_plain, factor = jnp.zeros_like(group.y), jnp.zeros_like(group.y), self.factor(theta, group)
        terms, constant = jnp.zeros_like(group.y), -factor.half_logdet
        calls = self._calls(prediction, prediction, theta, group)
        for k, (member, (f, g, of_member, of_group)) in enumerate(zip(self.members, calls, strict=True)):
            own = self.rows_of(group, k)
            if is_plain(member):
                of_rows, more = member.standardised(f, g, of_member, of_group)
                r, of_plain = jnp.where(own, of_rows, r), jnp.where(own, more, of_plain)
            else:
                of_rows, more = member.row_terms(f, of_member, of_group)
                terms, constant = jnp.where(own, of_rows, terms), constant + more
        return terms + of_plain - 0.5 * factor.whiten(r) ** 2, constant

    def has_row_terms(self, prediction, theta, group):
        calls = self._calls(prediction, prediction, theta, group)
        each = zip(self.members, calls, strict=True)
        return all(member.has_row_terms(f, of_member, of_group) for member, (f, _, of_member, of_group) in each)

    def factor(self, theta, group):
        factors, members = [], []
        if self.correlation is not None:
            factors.append(self.correlation.factor(theta[self.n_members :], group.layout))
            members.append(group.layout.code >= 0)
        for k, member in enumerate(self.members):
            if member.n_correlation:
                of_group = self.group_of(group, k)
                factors.append(member.factor(self.of_member(theta, k), of_group))
                members.append(of_group.layout.code >= 0)
        return combined_factor(factors, members)

    def color(self, noise: Vector, theta: Vector, group: Any) -> Vector:
        """Standard normal residuals (obs,) with the correlation between endpoints, from independent ones `noise`
        (obs,)."""
        if self.correlation is None:
            return noise
        return self.correlation.color(noise, theta[self.n_members :], group.layout)

    def row_prediction(self, prediction, group):
        out = jnp.full(group.y.shape, jnp.nan, group.y.dtype)
        if not isinstance(prediction, Mapping):
            return prediction
        for k, label in enumerate(self.labels):
            f = prediction[label]
            if getattr(f, "shape", None) == group.y.shape:
                out = jnp.where(group.endpoints == k, f, out)
        return out
