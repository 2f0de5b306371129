"""Correlations of the residuals of a group, for `jn.error.gaussian(correlation=...)`.

Rows are correlated within series: the rows of one group, or with `within` the rows of a group that share a value of
that column. `order` is a column of whole numbers whose differences are the lags, so that missing occasions count; None
is the position of a row in its series, where rows without a response count as well. Rows may stand in any order where a
column of times or positions is given.

**Example:**

```python
jn.error.gaussian(correlation=jn.correlation.CAR1("Time"))
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.arguments import check_flag, number_or_given
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.model.fixed import Fixed
from jaxnlme.model.residual_error.arma import ARMA as ARMAProcess
from jaxnlme.model.residual_error.between_endpoints import Endpoints as Endpoints
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation
from jaxnlme.model.residual_error.correlation_matrices import Distances, Exchangeable
from jaxnlme.model.residual_error.correlation_matrices import Kernel as KernelCorrelation
from jaxnlme.model.residual_error.correlation_matrices import Unstructured as UnstructuredCorrelation
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.markov import AutoRegression, ContinuousAutoRegression, RangeOfCorrelation
from jaxnlme.model.settings import MODEL
from jaxnlme.model.transforms import AbstractTransform, Identity, Logit
from jaxnlme.signatures import public

# A starting value, `jn.fixed(value)` for a value that is not estimated, or None for the default.
Start = float | Fixed | None


@public("jn.correlation.AR1")
def AR1(order: str | None = None, *, within: str | None = None, rho: Start = None) -> AbstractCorrelation:
    """First-order autoregression: corr = rho^lag for whole-number lags, -1 < rho < 1 (nlme's corAR1). Linear time.

    **Arguments:** `order`: a column of whole numbers, None for the position of a row; `within`: a column in whose
    values rows are correlated; `rho`: starting value, or `jn.fixed(value)`.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for what is not the name of a column, and for rho outside (-1, 1).
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.1.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.AR1())
    ```
    """
    _check_columns(order=order, within=within)
    start = MODEL.start_correlation if rho is None else rho
    return AutoRegression((_parameter("rho", start, Logit(-1.0, 1.0)),), order, within)


@public("jn.correlation.CAR1")
def CAR1(time: str, *, within: str | None = None, rho: Start = None) -> AbstractCorrelation:
    """Continuous-time autoregression: corr = rho^|s - t|, 0 < rho < 1 (nlme's corCAR1). Linear time.

    rho is the correlation at a distance of one unit of time. Estimation is on the scale of log range, rho = exp(-1 /
    range), so that the unit changes nothing else. Where rho would be too close to 0 or 1 for a number (the median
    distance of neighbours below 0.02 units of time, or above a million), range is reported in its place, in the unit of
    time, unless rho is held fixed or has a prior.

    **Arguments:** `time`: a column of x; `within`: a column in whose values rows are correlated; `rho`: starting value,
    or `jn.fixed(value)`.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for what is not the name of a column, and for rho outside (0, 1).
    **Source:** Jones (1993), Longitudinal Data with Serial Correlation, chapter 3.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.CAR1("Time"))
    ```
    """
    _check_columns(time, within=within)
    start = MODEL.start_correlation if rho is None else rho
    parameters = (_parameter("rho", start, RangeOfCorrelation()),)
    return ContinuousAutoRegression(parameters, time, within, rho is None, True)


@public("jn.correlation.ARMA")
def ARMA(
    p: int,
    q: int = 0,
    order: str | None = None,
    *,
    within: str | None = None,
    ar: Sequence[float] | None = None,
    ma: Sequence[float] | None = None,
) -> AbstractCorrelation:
    """Autoregression of order p with moving averages of order q, stationary and invertible (nlme's corARMA).

    **Arguments:** `p`, `q`: orders, not both zero; `order`, `within`: as for `AR1`; `ar` (p,), `ma` (q,): starting
    values of the coefficients.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for other orders or starts, and for starts that are not stationary or invertible.
    **Source:** Box, Jenkins and Reinsel (1994), Time Series Analysis, section 3.4.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.ARMA(1, 1))
    ```
    """
    p, q = check_whole_number("ARMA: p", p, 0), check_whole_number("ARMA: q", q, 0)
    if p + q == 0:
        raise OptionError("ARMA(0, 0) is no correlation; leave correlation= out.")
    _check_columns(order=order, within=within)
    parameters = []
    for name, count, start in (("ar", p, ar), ("ma", q, ma)):
        default = [0.0] * count
        default[:1] = [MODEL.start_correlation] * bool(count)
        if start is not None and not isinstance(start, (list, tuple, np.ndarray)):
            raise OptionError(f"ARMA: {name} must be a list of {count} starting values; received {shown(start)}.")
        values = default if start is None else list(start)
        if max(p, q) > 1 and any(isinstance(value, Fixed) for value in values):
            raise OptionError(
                f"ARMA({p}, {q}): the coefficients of an order above one depend on each other, so that none can be "
                "held by itself; give starting values."
            )
        if len(values) != count:
            raise OptionError(f"ARMA: {name} must have {count} starting values; received {shown(start)}.")
        scale = Logit(-1.0, 1.0) if count == 1 else Identity()
        parameters += [_parameter(f"{name}{k + 1}", value, scale) for k, value in enumerate(values)]
    process = ARMAProcess(tuple(parameters), p, q, order, within)
    process.unconstrained([float(parameter.start) for parameter in parameters])
    return process


@public("jn.correlation.CompoundSymmetry")
def CompoundSymmetry(*, within: str | None = None, rho: Start = None) -> AbstractCorrelation:
    """One correlation rho of any two rows of a series (nlme's corCompSymm), above -1 / (n - 1) for n rows.

    Over the whole group, with a constant scale, and beside a random effect that is added to the prediction, only the
    sum of both variances is determined.

    **Arguments:** `within`: a column in whose values rows are correlated; `rho`: starting value, or `jn.fixed(value)`.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for what is not the name of a column, and for rho outside (-1, 1).
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.1.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.CompoundSymmetry())
    ```
    """
    _check_columns(within=within)
    start = MODEL.start_correlation if rho is None else rho
    return Exchangeable((_parameter("rho", start, Logit(-1.0, 1.0)),), None, within)


@public("jn.correlation.Unstructured")
def Unstructured(order: str, *, within: str | None = None) -> AbstractCorrelation:
    """A correlation of its own for every pair of occasions (nlme's corSymm), reported as corr(1, 2), ...

    **Arguments:** `order`: the column of occasions, numbers; `within`: a column in whose values rows are correlated.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for what is not the name of a column.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.1; the parametrisation by
    partial correlations of Lewandowski, Kurowicka and Joe (2009), Journal of Multivariate Analysis 100, 1989-2001.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.Unstructured("visit"))
    ```
    """
    _check_columns(order, within=within)
    return UnstructuredCorrelation(order, within)


@public("jn.correlation.Exponential")
def Exponential(
    time: str, *, nugget: bool | float = False, within: str | None = None, range: Start = None
) -> AbstractCorrelation:
    """corr = exp(-|s - t| / range), or (1 - nugget) times that (nlme's corExp). Linear time without a nugget.

    **Arguments:** `time`: a column of x; `nugget`: True to estimate it, or its starting value; `within`: a column in
    whose values rows are correlated; `range`: starting value in the unit of time, or `jn.fixed(value)`.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for what is not the name of a column, for a range that is not positive, and for a nugget
    outside (0, 1).
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.2.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.Exponential("Time", nugget=True))
    ```
    """
    _check_columns(time, within=within)
    parameters = _distance_parameters(range, nugget)
    if len(parameters) == 1:
        return ContinuousAutoRegression(parameters, time, within, range is None)
    return Distances(parameters, time, within, 1, range is None)


@public("jn.correlation.Gaussian")
def Gaussian(
    time: str, *, nugget: bool | float = False, within: str | None = None, range: Start = None
) -> AbstractCorrelation:
    """corr = exp(-((s - t) / range)^2), or (1 - nugget) times that (nlme's corGaus).

    **Arguments:** as for `Exponential`: `time`, `nugget`, `within`, `range`.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** as `Exponential`.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.3.2.

    **Example:**

    ```python
    jn.error.gaussian(correlation=jn.correlation.Gaussian("Time"))
    ```
    """
    _check_columns(time, within=within)
    return Distances(_distance_parameters(range, nugget), time, within, 2, range is None)


@public("jn.correlation.Kernel")
def Kernel(
    fn: Callable,
    parameters: Mapping[str, float | Fixed] | Sequence[ErrorParameter],
    time: str | None = None,
    *,
    within: str | None = None,
) -> AbstractCorrelation:
    """A correlation function of the user, in jax.numpy.

    **Arguments:** `fn(s, t, **parameters)`: the correlation of two rows at the times s and t (arrays that broadcast);
    positive definite, and fn(t, t) = 1; `parameters`: starting values of its positive parameters, by name, or a list
    of `jn.ErrorParameter`; `time`: a column of x, None for the position of a row; `within`: a column in whose values
    rows are correlated.
    **Returns:** a correlation for `jn.error.gaussian`.
    **Raises:** OptionError for a function that does not take these arguments.

    **Example:**

    ```python
    def kernel(distance, range):
        return jnp.exp(-((distance / range) ** 1.5))


    jn.error.gaussian(correlation=jn.correlation.Kernel(kernel, {"range": 1.0}, "Time"))
    ```
    """
    _check_columns(order=time, within=within)
    if isinstance(parameters, Mapping):
        entries = [_parameter(name, start, "log") for name, start in parameters.items()]
    elif isinstance(parameters, (list, tuple)) and all(isinstance(p, ErrorParameter) for p in parameters):
        entries = list(parameters)
    else:
        raise OptionError(
            "the parameters of a kernel must be a dictionary from names to starting values, such as {'range': 2.0}, or "
            f"a list of jn.ErrorParameter objects; received {shown(parameters)}."
        )
    return KernelCorrelation(fn, tuple(entries), time, within)


def _parameter(name: str, start: Any, scale: str | AbstractTransform) -> ErrorParameter:
    value = start.value if isinstance(start, Fixed) else start
    return ErrorParameter(name, number_or_given(value), scale, isinstance(start, Fixed))


def _distance_parameters(range: Start, nugget: bool | float) -> tuple[ErrorParameter, ...]:
    """The parameters range and, where there is one, nugget."""
    first = _parameter("range", 1.0 if range is None else range, "log")
    if isinstance(nugget, (bool, np.bool_)):
        check_flag("nugget", nugget)
        return (first, _parameter("nugget", MODEL.start_nugget, "logit")) if nugget else (first,)
    return first, _parameter("nugget", nugget, "logit")


def _check_columns(*needed: Any, **optional: Any) -> None:
    """**Raises:** OptionError for what is not the name of a column."""
    for value in needed:
        if not isinstance(value, str):
            raise OptionError(f"a correlation over time needs the name of one column; received {shown(value)}.")
    for name, value in optional.items():
        if value is not None and not isinstance(value, str):
            raise OptionError(f"{name} must be the name of one column of the data, or None; received {shown(value)}.")
