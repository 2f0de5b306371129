"""The interface of residual models."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.model.residual_error.correlation_base import AbstractFactor, Independent
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.records import Record
from jaxnlme.typing import Scalar, Vector


class AbstractError(eqx.Module):
    """A residual model: the log-density of the responses of a group given its predictions.

    A subclass has the field `parameters` (a tuple of ErrorParameter, one for each entry of theta) and defines
    `formula`, `has_gaussian_moments` and `log_density`, with Gaussian moments also `moments`.
    """

    if TYPE_CHECKING:

        @property
        def parameters(self) -> tuple[ErrorParameter, ...]:
            """The parameters, one for each entry of theta; a field of every final class."""
            ...

    @property
    @abc.abstractmethod
    def formula(self) -> str:
        """The model as a formula in one line, for summaries."""

    @property
    @abc.abstractmethod
    def has_gaussian_moments(self) -> bool:
        """True if `moments` is implemented, as Gauss-Newton curvatures and linearisations require: given the
        prediction, the transformed response is Gaussian with a mean and a scale."""

    @property
    def has_location_and_scale(self) -> bool:
        """True if `moments` is implemented, Gaussian or not: there is one prediction a row, and a scale of the
        transformed response about it."""
        return self.has_gaussian_moments

    @abc.abstractmethod
    def log_density(
        self,
        prediction: Any,
        scale_prediction: Any,
        theta: Vector,
        group: Any,
        factor: AbstractFactor | None = None,
    ) -> Scalar:
        """log p(y | prediction) of one group, summed over its observed rows.

        **Arguments:** `prediction`: what the structural model returns, (obs,) for a Gaussian outcome;
        `scale_prediction`: the prediction from which the residual scale is computed (that at z = 0 for FO and FOCE,
        else `prediction`); `theta` (unconstrained,): the parameters of this model; `group`: a Group; `factor`: that of
        the correlation at `theta` where it has been computed (`factor`), None otherwise.
        **Returns:** a scalar.
        """

    def row_terms(self, prediction: Any, theta: Vector, group: Any) -> tuple[Vector, Scalar]:
        """`log_density` of one group as a sum over rows: a term (obs,) for each row, zero in rows without a response,
        and a constant () that does not depend on the prediction; only where `has_row_terms`.

        **Arguments:** as for `log_density`.
        """
        raise ModelError(f"{type(self).__name__} has no log-density by row.")

    def has_row_terms(self, prediction: Any, theta: Vector, group: Any) -> bool:
        """True if the log-density is a sum over rows (`row_terms`).

        **Arguments:** as for `log_density`; of the prediction its shape is enough.
        """
        return False

    def moments(
        self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any
    ) -> tuple[Vector, Vector, Vector]:
        """Gaussian moments: residual, scale and log-slope, each (obs,); arguments as for `log_density`.

        **Raises:** ModelError where the outcome has none (`has_gaussian_moments`).
        """
        raise ModelError(f"{type(self).__name__} has no Gaussian moments (mean and scale) to linearise.")

    def standardised(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> tuple[Vector, Vector]:
        """The standardised residuals r, and the terms of the log-density without them, each (obs,) and zero in rows
        without a response: the log-density is the sum of the terms, less |T r|^2 / 2 and the `half_logdet` of T, the
        `factor`. Arguments as for `log_density`.

        **Raises:** ModelError where the outcome has no Gaussian moments (`has_gaussian_moments`).
        """
        residual, scale, slope = self.moments(prediction, scale_prediction, theta, group)
        terms = jnp.where(group.x.observed, slope - HALF_LOG_2PI - jnp.log(scale), 0.0)
        return residual / scale, terms

    @property
    def is_limited(self) -> bool:
        """True if the density of some rows is not that of a Gaussian response but follows from limits of
        quantification (see `censoring`): `moments` leave these rows out or are not all of their density."""
        return False

    @property
    def is_gaussian(self) -> bool:
        """True if the transformed response of every row is Gaussian (`has_gaussian_moments`), and none is censored."""
        return self.has_gaussian_moments and not self.is_limited

    @property
    def drops_censored(self) -> bool:
        """True if censored rows count as rows without a response."""
        return False

    def drops_rows(self, group: Any) -> Any:
        """`drops_censored` for each row (..., obs) of a group or of stacked groups, or one value for all."""
        return self.drops_censored

    def limit_curvature(self, prediction: Any, scale_prediction: Any, theta: Vector, group: Any) -> Vector:
        """Minus the second derivative in the prediction (obs,) of the terms that follow from limits of quantification;
        arguments as for `log_density`, `scale_prediction` None where the scale follows the prediction.

        **Raises:** ModelError where no term does (`is_limited`).
        """
        raise ModelError(f"{type(self).__name__} has no terms that follow from limits of quantification.")

    @property
    def n_scale(self) -> int:
        """Number of parameters of the residual scale, which come first."""
        return len(self.parameters)

    @property
    def n_correlation(self) -> int:
        """Number of parameters of the correlation, the last ones."""
        return 0

    def factor(self, theta: Vector, group: Any) -> AbstractFactor:
        """The factor of the correlation of the standardised residuals of one group; `theta` (unconstrained,)."""
        return Independent()

    def natural(self, theta: Vector) -> Record:
        """The parameters on their natural scale, a record by name, from `theta` (unconstrained,)."""
        values = tuple(p.transform.to_natural(theta[k]) for k, p in enumerate(self.parameters))
        return Record(tuple(p.name for p in self.parameters), values, "error parameter")

    def unconstrained(self, values: Sequence[float]) -> np.ndarray:
        """`theta` (unconstrained,) from values on the natural scale, on the host."""
        pairs = zip(self.parameters, values, strict=True)
        return np.array([float(p.transform.to_real(float(value))) for p, value in pairs])

    @property
    def has_residuals(self) -> bool:
        """True if some rows have `moments`; in others they are then (0, 1, 0)."""
        return self.has_location_and_scale

    @property
    def n_endpoints(self) -> int:
        """Number of endpoints with a residual model of their own."""
        return 1

    def gaussian_parts(self) -> list[tuple[Any, tuple[int, ...], int | None]]:
        """The GaussianErrors that the model consists of: each with the entries of theta that are its parameters, and
        the number of its endpoint (None: all rows are its own)."""
        return []

    def correlations(self) -> list[tuple[Any, tuple[int, ...], int | None]]:
        """The correlations of residuals: each with the entries of theta that are its parameters, and the number of the
        endpoint whose rows it is of (None: all rows, or rows of several endpoints)."""
        return []

    def scale_index(self, group: Any) -> Any:
        """For a model with one scale parameter by stratum, the number (obs,) of that of each row; None: there is
        one."""
        return group.strata

    def row_prediction(self, prediction: Any, group: Any) -> Any:
        """One prediction a row (obs,) of what the structural model returns: NaN in rows of an endpoint that has
        none."""
        return prediction

    def with_arrays(self, arrays: Any) -> AbstractError:
        """The model with the arrays of its scale, where that is an Equinox module (None: it is none)."""
        changed: Any = self
        return dataclasses.replace(changed, arrays=arrays) if getattr(self, "is_module", False) else self

    def with_parameters(self, parameters: tuple[ErrorParameter, ...]) -> AbstractError:
        """The model with other parameters in the place of its own, of the same names."""
        changed: Any = self
        return dataclasses.replace(changed, parameters=parameters)

    def resolve(self, levels: Callable[[str], Sequence[Any]]) -> AbstractError:
        """The model with parameters for every stratum, once the data are known.

        **Arguments:** `levels(column)`: lists the levels of a column of the data.
        """
        return self
