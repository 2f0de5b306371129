"""Covariances that differ between the levels of a factor: a specification, resolved when a model is bound to data."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxnlme.errors import OptionError, shown


@dataclasses.dataclass(frozen=True)
class Heterogeneous:
    """A covariance of the random effects with parameters of its own for each level of a factor, such as other variances
    for women and men.

    **Arguments:**

    - `structure`: of each of these, as in `NLMEModel(covariance=...)`: "diagonal", "full", blocks of effect names, ...
    - `by`: a column of the data that is constant in each group (or in each unit of a nested level); each of its levels
      has a copy of the variances and covariances, called "sd(cl[F])", "sd(cl[M])", ...

    **Raises:** OptionError where `by` is no name.
    **Source:** the option GROUP= of the RANDOM statement in SAS's PROC MIXED; Pinheiro and Bates (2000), Mixed-Effects
    Models in S and S-PLUS, section 5.2, for the same of residuals.
    """

    structure: Any
    by: str

    def __post_init__(self):
        if not isinstance(self.by, str) or not self.by:
            raise OptionError(f"by must be the name of a column, as in by='Sex'; received {shown(self.by)}.")
        if isinstance(self.structure, Heterogeneous):
            raise OptionError("a covariance can differ by one factor; make one column of the combinations of several.")
