"""Prediction correction: responses of a bin brought to the prediction of a typical row of the bin."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.data._rows import name_rows
from jaxnlme.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Correction:
    """Prediction correction of responses y with the prediction f of their row and f_bin of their bin.

    - `of_ratio`: y_c = l + (y - l) (f_bin - l) / (f - l), with the lower bound l of the responses; a row whose
      prediction is l itself stays as it is;
    - otherwise, for responses on a logarithmic scale: y_c = y + f_bin - f;
    - `of_variance`: then f_bin + (y_c - f_bin) s_bin / s, s the standard deviation of the corrected simulated values of
      the row, s_bin its median in the bin.

    **Source:** Bergstrand, Hooker, Wallin and Karlsson (2011), The AAPS Journal 13, 143-151.
    """

    of_ratio: bool = True
    lower: float = 0.0
    of_variance: bool = False

    def check(self, prediction: np.ndarray) -> None:
        """**Raises:** OptionError for predictions that are missing, or below the lower bound."""
        if (missing := ~np.isfinite(prediction)).any():
            raise OptionError(
                f"the prediction is not finite in {name_rows(missing)}; prediction correction needs one for each "
                "observation: fill it in, or drop the rows."
            )
        if self.of_ratio and (below := prediction < self.lower).any():
            raise OptionError(
                f"the prediction is below lower={self.lower:g} in {name_rows(below)} ({prediction[below][0]:g}); give "
                "the lower bound of the response as lower=, or log=True for responses on a logarithmic scale."
            )

    def apply(self, y: np.ndarray, prediction: np.ndarray, reference: np.ndarray | float) -> np.ndarray:
        """Corrected responses, without that of the variance. **Arguments:** `reference`: f_bin."""
        if not self.of_ratio:
            return y + (reference - prediction)
        above = prediction - self.lower
        ratio = np.where(above > 0.0, (reference - self.lower) / np.where(above > 0.0, above, 1.0), 1.0)
        return self.lower + (y - self.lower) * ratio
