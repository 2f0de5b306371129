"""The values of the user's functions of parameters, their derivatives, and their values at draws of the estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError, some
from jaxnlme.model.derivatives import jacobian
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiler_options
from jaxnlme.numerics.tracing import depends
from jaxnlme.records import Record
from jaxnlme.results.derived_functions import call_user, flat_outputs
from jaxnlme.results.derived_inputs import CovariateRows, phi_refusal, values_at
from jaxnlme.results.settings import DERIVED

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


class Evaluation:
    """The user's functions as one function of the estimated packed parameters, (active,) to (derived,).

    **Fields:** `labels`: names of the quantities, once a function has been traced.
    """

    def __init__(
        self,
        fit: FitRecord,
        functions: Mapping[str, Callable[[Any, Record], Any]],
        single: bool,
        rows: CovariateRows | None,
        active: np.ndarray,
    ):
        self.binding: Binding = fit.binding
        self.functions, self.single, self.rows = functions, single, rows
        blocks = (np.asarray(block, float) for block in (fit.params.beta, fit.params.covariance, fit.params.error))
        beta, theta, error = blocks
        self.params = Params(beta, theta, error, fit.params.free)
        self.packed, self.active = np.asarray(self.params.pack()), active
        self.labels: list[str] = []
        self.refusal = phi_refusal(self.binding) if rows is None else rows.refusal

    def value_and_jacobian(self) -> tuple[np.ndarray, np.ndarray]:
        """The derived values (derived,) at the estimates, and their derivatives (derived, active)."""
        start = jnp.asarray(self.packed[self.active])
        if self.rows is not None:
            self._check_rows_matter(start, self.rows)
        program = jax.jit(jacobian(self._twice, has_aux=True), compiler_options=self._options)
        derivatives, values = self._call(program, start)
        return np.asarray(values), np.asarray(derivatives)

    def at_draws(self, steps: np.ndarray) -> np.ndarray:
        """The derived values (draws, derived) at the estimates plus `steps` (draws, active)."""
        points = jnp.asarray(self.packed[self.active] + steps)
        rows = 1 if self.rows is None else len(self.rows.frame)
        size = max(1, min(len(steps), DERIVED.cells_per_call // rows))
        program = jax.jit(
            lambda points: jax.lax.map(self._values, points, batch_size=size), compiler_options=self._options
        )
        return np.asarray(self._call(program, points))

    @property
    def _options(self) -> dict[str, Any]:
        return compiler_options(0, jax.default_backend())

    def _call(self, program: Callable[..., Any], *args: Any) -> Any:
        subject = f"The function of {some([repr(name) for name in self.functions])}"
        return call_user(subject, program, *args)

    def _twice(self, point: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = self._values(point)
        return values, values

    def _values(self, point: jax.Array, arrays: Any = None, only: str | None = None) -> jax.Array:
        """The derived values (derived,) at the estimated parameters `point` (active,).

        **Arguments:** `arrays`: those of `_arrays`; `only`: the name of one function.
        """
        packed = jnp.asarray(self.packed).at[self.active].set(point)
        params = on_device(self.params).unpack(packed)
        if self.rows is None:
            return jnp.stack(self._of_row(params, (), Record((), (), "column of at"), only))
        covariates, columns = self._arrays if arrays is None else arrays
        x = self.rows.x

        def of_row(covariates, columns):
            row = Record(x.names, columns, x.entry_kind, text_columns=x.text_columns)
            return jnp.stack(self._of_row(params, covariates, row, only))

        if not jax.tree.leaves((covariates, columns)):  # nothing in `at` is a number or a covariate
            return jnp.repeat(of_row((), ()), len(self.rows.frame))
        return jnp.ravel(jax.vmap(of_row)(covariates, columns).T)

    @property
    def _arrays(self) -> Any:
        assert self.rows is not None
        return jax.tree.map(jnp.asarray, (self.rows.covariates, self.rows.x.values))

    def _of_row(self, params: Params, covariates: tuple[Any, ...], row: Record, only: str | None) -> list[jax.Array]:
        values = values_at(self.binding, params, covariates, row, self.refusal)
        pairs = []
        for name, fn in self.functions.items():
            if only in (None, name):
                output = fn(values, row)
                of_dictionary = self.single and isinstance(output, (Mapping, Record))
                pairs += flat_outputs("" if of_dictionary else name, output)
        labels = [label for label, _ in pairs]
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated or not labels:
            raise OptionError(f"derived values need names of their own; repeated: {some(repeated) or 'none returned'}.")
        self.labels = labels
        return [value for _, value in pairs]

    def _check_rows_matter(self, start: jax.Array, rows: CovariateRows) -> None:
        """**Raises:** OptionError for a function with the same value in all rows of `at`."""
        for name in self.functions:
            if self._call(depends, lambda arrays, name=name: self._values(start, arrays, name), self._arrays):
                continue
            first = self.binding.density.beta_names[0]
            raise OptionError(
                f"the function of {name!r} does not depend on the rows of `at`: p.{first} and the like are values at "
                "zero in all covariate columns. Read p.phi, the parameters at the covariates of "
                "a row, or its columns as the second argument, fn(p, x); or leave `at` out."
            )
