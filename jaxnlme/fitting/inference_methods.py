"""The methods of a Fit on how far its estimates can be trusted: influence of cases, correlations of the estimates."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxnlme.fitting.diagnostic_methods import DiagnosticMethods
from jaxnlme.signatures import documented_by

if TYPE_CHECKING:
    from jaxnlme.refits.influence import Influence


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InferenceMethods(DiagnosticMethods):
    """A record of an estimation with the methods that ask how its estimates depend on data and assumptions: a base of
    Fit."""

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
