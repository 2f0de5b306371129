"""Methods of a linear mixed model for predictions, residuals, pictures and simulated responses."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.linear.pictures import LinearPlots
from jaxnlme.signatures import documented_by, public

# What fits of jn.fit have under other names, or by other functions, here.
INSTEAD = {
    "confidence_intervals": "use fit.intervals(level)",
    "conditional_distribution": "use fit.random_effects, and fit.tidy(effects='ran_vals') for standard errors",
    "effect_diagnostics": "use fit.plot.qq('effects') and fit.tidy(effects='ran_vals')",
    "random_effects_se": "use fit.tidy(effects='ran_vals')",
    "parameters": "use fit.beta and fit.random_effects",
    "save": "Python's pickle keeps it",
    "data": "use fit.model.frame",
    "conditional": "use fit.random_effects",
}
OF_NONLINEAR = ("iterations", "jackknife", "multistart", "npc", "objective", "replicates", "shrinkage")


class LinearPredictions:
    """Predictions, residuals and simulated responses: a base of LinearFit."""

    def __getattr__(self, name: str) -> Any:
        if name in INSTEAD:
            raise AttributeError(f"a linear mixed model has no fit.{name}: {INSTEAD[name]}.")
        if name in OF_NONLINEAR:
            raise AttributeError(f"a linear mixed model has no fit.{name}; fits of jn.fit have it.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def plot(self: Any) -> LinearPlots:
        """Pictures: `fit.plot()` is the standard page; `gof`, `observed_predicted`, `residuals`, `qq` and `vpc`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.plot.residuals(against="Sex")
        ```
        """
        return LinearPlots(self)

    @documented_by("linear.vpc.vpc_of_linear_fit")
    @public("fit.vpc")
    def vpc(
        self: Any,
        x: str | None = None,
        *,
        replicates: int = 1000,
        seed: int = 0,
        stratify: Any = None,
        prediction_corrected: bool = False,
        **options: Any,
    ) -> Any:
        """A visual predictive check; see `jaxnlme.linear.vpc.vpc_of_linear_fit`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        print(growth.vpc("age", replicates=200, stratify="Sex"))
        ```
        """
        from jaxnlme.linear.vpc import vpc_of_linear_fit

        return vpc_of_linear_fit(self, x, replicates, seed, stratify, prediction_corrected, **options)

    @documented_by("linear.refits.refit.simulate")
    def simulate(self: Any, n: int = 1, key: Any = 0, level: str | int | None = "population") -> np.ndarray:
        """Simulated responses; see `jaxnlme.linear.refits.refit.simulate`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.simulate(10, key=1)
        ```
        """
        from jaxnlme.linear.refits.refit import simulate

        return simulate(self, n, key, level)

    @documented_by("linear.refits.refit.refit_log_likelihoods")
    def refit_log_likelihoods(self: Any, responses: np.ndarray) -> np.ndarray:
        """Log-likelihoods of refits; see `jaxnlme.linear.refits.refit.refit_log_likelihoods`."""
        from jaxnlme.linear.refits.refit import refit_log_likelihoods

        return refit_log_likelihoods(self, responses)

    @documented_by("linear.refits.bootstrap.bootstrap")
    @public("fit.bootstrap")
    def bootstrap(
        self: Any, n: int = 500, *, seed: int = 0, kind: str = "parametric", progress: bool | None = None
    ) -> Any:
        """Refits to bootstrap samples; see `jaxnlme.linear.refits.bootstrap.bootstrap`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ 1 | Subject", jn.datasets.orthodont())
        print(growth.bootstrap(100).intervals())
        ```
        """
        from jaxnlme.linear.refits.bootstrap import bootstrap

        return bootstrap(self, n, seed=seed, kind=kind, progress=progress)

    @documented_by("linear.refits.profile.profile")
    @public("fit.profile")
    def profile(self: Any, names: Any = None, *, level: float = 0.95, progress: bool | None = None) -> Any:
        """Profile likelihood intervals; see `jaxnlme.linear.refits.profile.profile`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ 1 | Subject", jn.datasets.orthodont())
        print(growth.profile(["age", "sd((Intercept))"]).intervals)
        ```
        """
        from jaxnlme.linear.refits.profile import profile

        return profile(self, names, level=level, progress=progress)

    @documented_by("linear.predict.predict")
    @public("fit.predict")
    def predict(
        self: Any,
        data: Any = None,
        level: str | int | None = None,
        *,
        interval: float | None = None,
        uncertainty: Any = None,
    ) -> Any:
        """Predictions, with intervals; see `jaxnlme.linear.predict.predict`.

        **Example:**

        ```python
        growth = jn.lme("distance ~ age * Sex", "~ age | Subject", jn.datasets.orthodont())
        growth.predict(level=0, interval=0.95).head()
        ```
        """
        from jaxnlme.linear.predict import predict

        return predict(self, data, level, interval=interval, uncertainty=uncertainty)

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
