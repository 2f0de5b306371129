"""The methods of a Fit on how far its estimates can be trusted: influence of cases, correlations of the estimates."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.fitting.diagnostic_methods import DiagnosticMethods
from jaxnlme.results.inference import Information, is_fixed
from jaxnlme.signatures import documented_by

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.refits.cross_validation import CrossValidation
    from jaxnlme.refits.influence import Influence
    from jaxnlme.refits.sir import Sir


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InferenceMethods(DiagnosticMethods):
    """A record of an estimation with the methods that ask how its estimates depend on data and assumptions: a base of
    Fit."""

    @functools.cached_property
    def correlation_of_estimates(self) -> pd.DataFrame | None:
        """Correlation matrix of the estimates that have a standard error: typical values and coefficients on their
        transformed scale, SDs, correlations and error parameters; None without an information matrix.

        **Example:**

        ```python
        fit.correlation_of_estimates.round(2)
        ```
        """
        import pandas as pd

        if self.information is None or not self.information.positive_definite:
            return None
        matrix, known = self.information.correlations(is_fixed(self.binding))
        names = [self.binding.density.reported_names[k] for k in known]
        return pd.DataFrame(matrix, index=names, columns=names)

    @property
    def condition_number(self) -> float:
        """The largest over the smallest eigenvalue of `correlation_of_estimates` (NONMEM's): above 1000 some
        combination of the estimates is hardly determined. NaN without an information matrix.

        **Example:**

        ```python
        fit.condition_number
        ```
        """
        matrix = self.correlation_of_estimates
        return np.nan if matrix is None else Information.condition_number(matrix.to_numpy())

    @documented_by("refits.influence.influence")
    def influence(self, by: str = "groups", **options: Any) -> Influence:
        """The estimates' derivatives in the weights of groups or observations; see
        `jaxnlme.refits.influence.influence`.

        **Example:**

        ```python
        print(fit.influence().influence.head())
        ```
        """
        from jaxnlme.refits.influence import influence

        return influence(self, by, **options)

    @documented_by("refits.sir.sir")
    def sir(self, *counts: Any, **options: Any) -> Sir:
        """The distribution of the estimates by sampling importance resampling; see `jaxnlme.refits.sir.sir`.

        **Example:**

        ```python
        print(fit.sir(200, 50).intervals(0.9))
        ```
        """
        from jaxnlme.refits.sir import sir

        return sir(self, *counts, **options)

    @documented_by("refits.cross_validation.cross_validate")
    def cross_validate(self, k: int = 10, **options: Any) -> CrossValidation:
        """The log-likelihood of groups left out of the fit; see `jaxnlme.refits.cross_validation.cross_validate`.

        **Example:**

        ```python
        print(fit.cross_validate(k=4, seed=1))
        ```
        """
        from jaxnlme.refits.cross_validation import cross_validate

        return cross_validate(self, k, **options)
