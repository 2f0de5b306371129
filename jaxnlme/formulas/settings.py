"""Constants of the rank of design matrices."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class RankSettings:
    """The limits of a linear dependence between columns."""

    tolerance: float = 1e-7
    """Least length of the part of a column that the columns before it do not explain, relative to the length of the
    column: that of R's lm and of lme4."""
    clear_pivot: float = 1e-8
    """Squared relative length from which the Cholesky factor of X'X (whose errors are about 1e-15 times the number of
    columns) decides by itself that a column is independent; below it a QR decomposition decides."""
    block_rows: int = 16_384
    """Rows that are reduced to a triangle at once; a choice for the processor's cache."""


RANK = RankSettings()
