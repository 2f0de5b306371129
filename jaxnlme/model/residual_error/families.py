"""The named residual models: functions that make a GaussianError, each with its formula.

e ~ N(0, 1), independent over observations. All parameters except exponents are positive. The arguments are starting
values on the natural scale; `fit` scales those that are None to the data. Each takes `jn.fixed(value)` in the place of
a starting value, to hold the parameter there; `fix` is the value to hold, or a dictionary of values by name where there
are several parameters (zero is allowed beside others). `by` is a column of the data: each of its levels has its own
parameters.

**Example:**

```python
jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.combined(a=0.3, b=0.1))
```
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx

from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.model.fixed import Fixed
from jaxnlme.model.networks import split_module
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.correlation_base import AbstractCorrelation, check_correlation
from jaxnlme.model.residual_error.endpoint_declaration import endpoint_errors
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.named_scales import (
    combined_scale,
    combined_variance_scale,
    constant_power_scale,
    constant_scale,
    power_scale,
    proportional_scale,
)
from jaxnlme.model.residual_error.scale_parameters import Fix, custom_parameters, scale_parameters
from jaxnlme.model.residual_error.variance_scale import VarianceScale
from jaxnlme.model.student_error import HELD_DF, StudentError, check_independent, student_error
from jaxnlme.model.transforms import AbstractTransform, Identity, Log, transform
from jaxnlme.signatures import public


@public("jn.error.constant")
def constant(a: float | Fixed | None = None, *, fix: Fix = None, by: str | None = None) -> GaussianError:
    """y = f + a e.

    **Arguments:** `a`: residual standard deviation, in the unit of y; `by`: a column with one `a` for each level.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.constant(a=0.5))
    ```
    """
    return GaussianError(constant_scale, scale_parameters({"a": a}, fix=fix), "constant", "a", by=by)


@public("jn.error.proportional")
def proportional(b: float | Fixed | None = None, *, fix: Fix = None, by: str | None = None) -> GaussianError:
    """y = f + b |f| e.

    **Arguments:** `b`: residual standard deviation as a fraction of the prediction; `by`: a column with one `b` for
    each level.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.proportional(b=0.1))
    ```
    """
    return GaussianError(proportional_scale, scale_parameters({"b": b}, fix=fix), "proportional", "b |f|", by=by)


@public("jn.error.combined")
def combined(
    a: float | Fixed | None = None, b: float | Fixed | None = None, *, fix: Fix = None, by: str | None = None
) -> GaussianError:
    """y = f + (a + b |f|) e: standard deviations add (MATLAB's and saemix's "combined", nlmixr2's combined1).

    **Arguments:** `a`: in the unit of y; `b`: a fraction; `by`: a column with one pair for each level.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.combined(a=0.3, b=0.1))
    ```
    """
    return GaussianError(combined_scale, scale_parameters({"a": a, "b": b}, fix=fix), "combined", "a + b |f|", by=by)


@public("jn.error.combined_variance")
def combined_variance(
    a: float | Fixed | None = None, b: float | Fixed | None = None, *, fix: Fix = None, by: str | None = None
) -> GaussianError:
    """y = f + sqrt(a^2 + b^2 f^2) e: variances add (NONMEM's two epsilons, nlmixr2's combined2).

    **Arguments:** `a`: in the unit of y; `b`: a fraction; `by`: a column with one pair for each level.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.combined_variance(a=0.3, b=0.1))
    ```
    """
    return GaussianError(
        combined_variance_scale,
        scale_parameters({"a": a, "b": b}, fix=fix),
        "combined variance",
        "sqrt(a^2 + b^2 f^2)",
        by=by,
    )


@public("jn.error.power")
def power(
    b: float | Fixed | None = None,
    c: float | Fixed = 1.0,
    *,
    fix_exponent: bool = False,
    fix: Fix = None,
    by: str | None = None,
) -> GaussianError:
    """y = f + b |f|^c e (nlme's varPower).

    **Arguments:** `b`: in the unit of y to the power 1 - c; `c`: exponent; `fix_exponent`: it is not estimated; `by`: a
    column with parameters for each level.
    **Source:** Davidian and Giltinan (1995), Nonlinear Models for Repeated Measurement Data, chapter 2.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.power(b=0.2, c=0.8))
    ```
    """
    return GaussianError(power_scale, scale_parameters({"b": b}, c, fix_exponent, fix), "power", "b |f|^c", by=by)


@public("jn.error.constant_power")
def constant_power(
    a: float | Fixed | None = None,
    b: float | Fixed | None = None,
    c: float | Fixed = 1.0,
    *,
    fix_exponent: bool = False,
    fix: Fix = None,
    by: str | None = None,
) -> GaussianError:
    """y = f + (a + b |f|^c) e (nlme's varConstPower, with another parametrisation).

    **Arguments:** `a`: in the unit of y; `b`: in the unit of y to the power 1 - c; `c`: exponent; `fix_exponent`: it is
    not estimated; `by`: a column with parameters for each level.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.constant_power(a=0.3, b=0.1, c=0.8))
    ```
    """
    return GaussianError(
        constant_power_scale,
        scale_parameters({"a": a, "b": b}, c, fix_exponent, fix),
        "constant plus power",
        "a + b |f|^c",
        by=by,
    )


@public("jn.error.exponential")
def exponential(a: float | Fixed | None = None, *, fix: Fix = None, by: str | None = None) -> GaussianError:
    """y = f exp(a e), that is log y = log f + a e, for positive y and f.

    **Arguments:** `a`: residual standard deviation of log y, without unit; `by`: a column with one `a` for each level.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.exponential(a=0.2))
    ```
    """
    return transform_both_sides("log", constant(a, fix=fix, by=by))


@public("jn.error.transform_both_sides")
def transform_both_sides(
    response: str | AbstractTransform,
    error: str | GaussianError = "constant",
    *,
    shape: float = 0.5,
    fix_shape: bool = False,
    of_transformed: bool = False,
) -> GaussianError:
    """h(y) = h(f) + scale e, with the Jacobian of h in the likelihood.

    **Arguments:** `response`: the transform h: "log", "box-cox", "yeo-johnson", "logit(low, high)", "probit(low, high)"
    or an object; `error`: an untransformed residual model, which gives the scale; `shape`: starting value of the
    exponent "lambda" of Box-Cox and Yeo-Johnson; `fix_shape`: it is not estimated; `of_transformed`: the scale is a
    function of h(f) instead of f.
    **Raises:** OptionError for an `error` that is not Gaussian or has a transform.
    **Source:** Carroll and Ruppert (1984), Journal of the American Statistical Association 79, 321-328.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.transform_both_sides("box-cox"))
    ```
    """
    base = error_model(error)
    if not isinstance(base, GaussianError) or not isinstance(base.response, Identity) or base.correlation is not None:
        raise OptionError(
            "transform_both_sides needs an untransformed Gaussian residual model without correlation for its scale; "
            "a correlation goes with jn.error.gaussian(scale, correlation, response=...)."
        )
    h = transform(response)
    extra = (ErrorParameter("lambda", shape, "identity", fix_shape),) if h.has_shape else ()
    name = "exponential" if isinstance(h, Log) and base.name == "constant" else f"{base.name} on {h.name} scale"
    formula = re.sub(r"\bf\b", "h(f)", base.sd_formula) if of_transformed else base.sd_formula
    module = {"arrays": base.arrays, "is_module": base.is_module}
    return GaussianError(base.scale, base.parameters + extra, name, formula, h, of_transformed, base.by, **module)


@public("jn.error.gaussian")
def gaussian(
    scale: str | VarianceScale | GaussianError = "constant",
    correlation: AbstractCorrelation | None = None,
    *,
    response: str | AbstractTransform = "identity",
    by: str | None = None,
) -> GaussianError:
    """h(y) = h(f) + scale(f) e with correlated e: a residual covariance of scale and correlation.

    **Arguments:** `scale`: the name of a residual model ("constant", "power", ...), an object such as
    `jn.error.power(c=0.5)`, or variance functions such as `jn.variance.power() * jn.variance.strata("Sex")`, which
    give the standard deviation; `correlation`: from `jn.correlation`, None for independent residuals; `response`: as
    for `transform_both_sides`; `by`: a column with parameters of the scale for each level.
    **Returns:** a residual model, for `error=` of `jn.NLMEModel`.
    **Raises:** OptionError for other types, or names that scale and correlation share.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, chapter 5.

    **Example:**

    ```python
    error = jn.error.gaussian(jn.variance.power(), jn.correlation.CAR1("Time"))
    jn.NLMEModel(oral, [ka, cl, vol], error=error)
    ```
    """
    if isinstance(scale, VarianceScale):
        if by is not None:
            raise OptionError(
                "by= goes with named scales; variance functions take strata as jn.variance.strata(column)."
            )
        base = GaussianError(scale, scale.parameters(), "variance function", scale.formula)
    else:
        base = error_model(scale)
    if not isinstance(base, GaussianError):
        raise OptionError(f"scale must be a Gaussian residual model or its name; received {shown(scale)}.")
    if base.correlation is not None:
        raise OptionError("scale has a correlation already; give the scale without it, and correlation= beside it.")
    check_correlation(correlation)
    if by is not None:
        if base.by is not None:
            raise OptionError("by is given twice, in scale= and in by=; give it in one of them.")
        base = dataclasses.replace(base, by=by)
    if not isinstance(transform(response), Identity):
        base = transform_both_sides(response, base)
    return base if correlation is None else base.with_correlation(correlation)


@public("jn.error.student_t")
def student_t(
    scale: str | VarianceScale | GaussianError = "constant",
    df: float | Fixed = HELD_DF,
    *,
    response: str | AbstractTransform = "identity",
    by: str | None = None,
) -> StudentError:
    """h(y) = h(f) + scale(f) e with Student-t residuals e, among which outlying ones count little.

    For "laplace", "agq", "is", "saem" and "imp". The standard deviation of e is sqrt(df / (df - 2)) for df > 2.

    **Arguments:** `scale`, `response`, `by`: as for `gaussian`; `df`: degrees of freedom, `jn.fixed(value)` to hold
    them (the default holds 4), a number to estimate them from there.
    **Returns:** a residual model.
    **Raises:** OptionError for a df that is not positive, a scale with a correlation, and other types.
    **Source:** Lange, Little and Taylor (1989), Journal of the American Statistical Association 84, 881-896.

    **Example:**

    ```python
    jn.NLMEModel(oral, [ka, cl, vol], error=jn.error.student_t("proportional", df=5.0))
    ```
    """
    return student_error(gaussian(check_independent(scale), response=response, by=by), df)


@public("jn.error.custom")
def custom(
    scale: Callable,
    parameters: Mapping[str, float | Fixed] | Sequence[ErrorParameter],
    *,
    fix: Fix = None,
    response: str | AbstractTransform = "identity",
    shape: float = 0.5,
    fix_shape: bool = False,
    by: str | None = None,
) -> GaussianError:
    """h(y) = h(f) + scale(f) e with a scale function of the user.

    **Arguments:** `scale(f, **parameters)`: the residual standard deviation (obs,) of h(y), in jax.numpy; with an
    argument `x`, as in `scale(f, x, a, c)`, it also gets the predictors, for a scale that grows with time or dose;
    `parameters`: starting values of its positive parameters, by name, or a list of `jn.ErrorParameter`, which may have
    another transform or be fixed; `fix`: values of further ones that are not estimated; `response`, `shape`,
    `fix_shape`: as for `transform_both_sides`; `by`: a column with parameters for each level. A scale may be a callable
    Equinox module, whose arrays are trained in the free block of Params.
    **Raises:** OptionError for a scale that is no function of f and these parameters; ModelError for a module with
    arrays that have no gradient.

    **Example:**

    ```python
    def scale(f, a, b):
        return a + b * jnp.abs(f)


    jn.error.custom(scale, {"a": 0.3, "b": 0.1})
    ```
    """
    entries = custom_parameters(parameters, fix)
    function, arrays = split_module(scale, "error")
    is_module = arrays is not None
    formula = type(scale).__name__ if isinstance(scale, eqx.Module) else getattr(scale, "__name__", "scale(f)")
    base = GaussianError(function, entries, "custom", formula, by=by, arrays=arrays, is_module=is_module)
    if isinstance(transform(response), Identity):
        return base
    return transform_both_sides(response, base, shape=shape, fix_shape=fix_shape)


@public("jn.error.endpoints")
def endpoints(
    members: Mapping[Any, str | AbstractError], correlation: AbstractCorrelation | None = None
) -> EndpointErrors:
    """A residual model for each endpoint (response) of a model; `error={...}` of `jn.NLMEModel` is short for it.

    **Arguments:** `members`: residual models (names, objects of `jn.error`, `jn.GroupLogLikelihood`) by the label of
    their endpoint in the column `endpoint` of the data; 1, 1.0 and "1" are one label. `correlation`: of residuals of
    different endpoints at one time, `jn.correlation.Endpoints("TIME")`; None: independent.
    **Returns:** a residual model, whose parameters are called after their endpoint, as "b[cp]".
    **Raises:** OptionError for other types, a label that is given twice, or a correlation with an endpoint that is not
    Gaussian.

    **Example:**

    ```python
    jn.error.endpoints({"cp": "proportional", "pca": "constant"})
    ```
    """
    return endpoint_errors(members, correlation, error_model)


NAMED: dict[str, Callable[..., GaussianError]] = {
    "constant": constant,
    "proportional": proportional,
    "combined": combined,
    "combined variance": combined_variance,
    "power": power,
    "constant plus power": constant_power,
    "exponential": exponential,
}


def error_model(spec: str | AbstractError) -> AbstractError:
    """A residual model from its name or the object itself.

    **Raises:** OptionError for an unknown name, with names of similar spelling.
    """
    if isinstance(spec, AbstractError):
        return spec
    if not isinstance(spec, str):
        advice = " Call it, with parentheses." if callable(spec) else ""
        raise OptionError(
            "error must be one residual model, a name such as 'proportional' or an object such as "
            f"jn.error.combined(by='endpoint'), whose parameters differ between the levels of a column; received "
            f"{spec!r}.{advice}"
        )
    if spec not in NAMED:
        raise OptionError(f"error {spec!r} is not known; {near_matches(spec, NAMED)} An object works too.")
    return NAMED[spec]()


def residual_model(spec: Any) -> AbstractError:
    """A residual model from its name, the object itself, or a dictionary of those by endpoint.

    **Raises:** OptionError for anything else.
    """
    return endpoints(spec) if isinstance(spec, Mapping) else error_model(spec)
