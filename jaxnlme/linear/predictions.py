"""LinearPredictions: the methods of a linear mixed model for predictions, residuals and simulated responses."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.signatures import documented_by, public


class LinearPredictions:
    """Predictions, residuals and simulated responses: a base of LinearFit."""

    @documented_by("linear.refit.simulate")
    def simulate(self: Any, n: int = 1, key: Any = 0, level: str | int | None = "population") -> np.ndarray:
        """Simulated responses; see `jaxnlme.linear.refit.simulate`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.simulate(10, key=1)
        ```
        """
        from jaxnlme.linear.refit import simulate

        return simulate(self, n, key, level)

    @documented_by("linear.refit.refit_log_likelihoods")
    def refit_log_likelihoods(self: Any, responses: np.ndarray) -> np.ndarray:
        """Log-likelihoods of refits; see `jaxnlme.linear.refit.refit_log_likelihoods`."""
        from jaxnlme.linear.refit import refit_log_likelihoods

        return refit_log_likelihoods(self, responses)

    @documented_by("linear.predict.predict")
    @public("fit.predict")
    def predict(self: Any, data: Any = None, level: str | int | None = None) -> np.ndarray:
        """Predictions; see `jaxnlme.linear.predict.predict`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.predict(level=0)
        ```
        """
        from jaxnlme.linear.predict import predict

        return predict(self, data, level)

    @property
    def fitted(self: Any) -> np.ndarray:
        """Predictions with the random effects of all levels, in the order of the rows."""
        return self.predict()

    @documented_by("linear.predict.residuals")
    def residuals(self: Any, kind: str = "response", level: str | int | None = None) -> np.ndarray:
        """Residuals by row; see `jaxnlme.linear.predict.residuals`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.residuals("normalized")
        ```
        """
        from jaxnlme.linear.predict import residuals

        return residuals(self, kind, level)
