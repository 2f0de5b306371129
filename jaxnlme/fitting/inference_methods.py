"""The methods of a Fit on how far its estimates can be trusted: influence of cases, correlations of the estimates."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.fitting.diagnostic_methods import DiagnosticMethods
from jaxnlme.results.inference import Information, is_fixed, singular_directions
from jaxnlme.signatures import documented_by, public

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

    @documented_by("refits.sensitivity.sensitivity")
    def sensitivity(self, **options: Any) -> pd.DataFrame:
        """The estimates' derivatives in fixed values and numbers of priors; see
        `jaxnlme.refits.sensitivity.sensitivity`.

        **Example:**

        ```python
        held = jn.NLMEModel(oral, [ka, cl, jn.Parameter("vol", 32.0, "log", fix=True)])
        jn.fit(held, data, "focei").sensitivity()
        ```
        """
        from jaxnlme.refits.sensitivity import sensitivity

        return sensitivity(self, **options)

    @public("fit.standard_errors")
    def standard_errors(self) -> pd.DataFrame:
        """Standard errors of the reported values of three kinds, on the scale of `fit.estimates`: "observed", from the
        inverse of the information matrix H; "sandwich", from H^-1 S H^-1 with S the sum of outer products of the
        groups' scores (White 1982); "outer product", from S^-1 (Berndt, Hall, Hall and Hausman 1974).

        **Returns:** a data frame, a row per value that was estimated; NaN without an information matrix, and the outer
        product with fewer groups than parameters.

        **Example:**

        ```python
        fit.standard_errors()
        ```
        """
        import pandas as pd

        table, info = self.estimates, self.information
        out = pd.DataFrame({"observed": table["se"], "sandwich": table["robust se"]})
        out["outer product"] = np.nan
        if info is not None and info.positive_definite:
            outer = info.scores.T @ info.scores
            if not singular_directions(outer, [str(k) for k in info.active]):
                jacobian = info.jacobian[:, info.active]
                variance = np.einsum("ij,jk,ik->i", jacobian, np.linalg.inv(outer), jacobian)
                out["outer product"] = np.where(table["se"].isna(), np.nan, np.sqrt(variance))
        return out[~table["fixed"]]
