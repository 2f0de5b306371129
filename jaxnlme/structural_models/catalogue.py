"""`jn.models`: models of curves that are often fitted to grouped data, with starting values from the data.

Each function takes the name of the predictor's column and the data, and returns an `NLMEModel` with R's parametrisation
and parameter names, whose starting values are the least-squares estimates of the pooled data: a grid over the nonlinear
parameters, then a search, the linear parameters projected out. `declare.Options` lists the options; `curves` holds the
curves themselves, for use inside model functions.

**Example:**

```python
girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
jn.fit(jn.models.logistic("age", girth, random=True), girth, "focei")
```
"""

from __future__ import annotations

from typing import Unpack

from jaxnlme.arguments import positive_number
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, shown
from jaxnlme.signatures import public
from jaxnlme.structural_models import curves as curves
from jaxnlme.structural_models.declare import Options, declare
from jaxnlme.structural_models.linear_parts import (
    Absorption,
    Approach,
    Biexponential,
    Gompertz,
    MichaelisMenten,
    Sigmoid,
    Weibull,
)


@public("jn.models.logistic")
def logistic(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Logistic curve Asym / (1 + exp((xmid - x) / scal)); R's SSlogis.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Asym, xmid, scal; `curves.logistic` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.logistic("age", girth, random=True)
    ```
    """
    return declare(curves.logistic, Sigmoid(two_asymptotes=False), ("Asym", "xmid", "scal"), (x,), data, options)


@public("jn.models.four_parameter_logistic")
def four_parameter_logistic(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Logistic curve between two asymptotes, A + (B - A) / (1 + exp((xmid - x) / scal)); R's SSfpl. Starting values
    have scal > 0, so that A is the asymptote at small x.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters A, B, xmid, scal; `curves.four_parameter_logistic` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.four_parameter_logistic("age", girth, random=True)
    ```
    """
    return declare(
        curves.four_parameter_logistic, Sigmoid(two_asymptotes=True), ("A", "B", "xmid", "scal"), (x,), data, options
    )


@public("jn.models.gompertz")
def gompertz(
    x: str, data: GroupedData | None = None, *, unit: float | None = None, **options: Unpack[Options]
) -> NLMEModel:
    """Gompertz's growth curve Asym exp(-b2 b3^(x / unit)); R's SSgompertz.

    b3 is the factor for one `unit` of x. As in R that unit is one; where b3 would then be too close to 0 or 1 to be
    estimated (x in thousandths or millions, say) it is a power of ten, and the model's formula states it.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `unit`: a
    positive number in the unit of x, None: 1, or chosen by the data where b3 has no start; `options`: `starts`,
    `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Asym, b2, b3; `curves.gompertz` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.gompertz("age", girth, random=True)
    ```
    """
    if unit is not None and not positive_number(unit):
        raise OptionError(
            f"jn.models.gompertz: unit must be a positive number in the unit of x; received {shown(unit)}."
        )
    unit = None if unit is None else float(unit)
    return declare(curves.gompertz, Gompertz(), ("Asym", "b2", "b3"), (x,), data, options, unit)


@public("jn.models.weibull_growth")
def weibull_growth(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Weibull's growth curve Asym - Drop exp(-exp(lrc) x^pwr); R's SSweibull.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Asym, Drop, lrc, pwr; `curves.weibull_growth` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.weibull_growth("age", girth, random=True)
    ```
    """
    return declare(curves.weibull_growth, Weibull(), ("Asym", "Drop", "lrc", "pwr"), (x,), data, options)


@public("jn.models.michaelis_menten")
def michaelis_menten(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Michaelis and Menten's rate Vm x / (K + x), for doses the Emax model; R's SSmicmen.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Vm, K; `curves.michaelis_menten` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.michaelis_menten("age", girth, random=True)
    ```
    """
    return declare(curves.michaelis_menten, MichaelisMenten(), ("Vm", "K"), (x,), data, options)


@public("jn.models.asymptotic")
def asymptotic(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Exponential approach to an asymptote, Asym + (R0 - Asym) exp(-exp(lrc) x); R's SSasymp.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Asym, R0, lrc; `curves.asymptotic` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.asymptotic("age", girth, random=True)
    ```
    """
    return declare(curves.asymptotic, Approach("asymptote"), ("Asym", "R0", "lrc"), (x,), data, options)


@public("jn.models.asymptotic_offset")
def asymptotic_offset(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Exponential approach to an asymptote from an offset, Asym (1 - exp(-exp(lrc) (x - c0))); R's SSasympOff.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Asym, lrc, c0; `curves.asymptotic_offset` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.asymptotic_offset("age", girth, random=True)
    ```
    """
    return declare(curves.asymptotic_offset, Approach("offset"), ("Asym", "lrc", "c0"), (x,), data, options)


@public("jn.models.asymptotic_origin")
def asymptotic_origin(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Exponential approach to an asymptote from the origin, Asym (1 - exp(-exp(lrc) x)); R's SSasympOrig.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters Asym, lrc; `curves.asymptotic_origin` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    girth = jn.GroupedData.from_frame(jn.datasets.orange(), group="Tree", y="circumference", x=["age"])
    jn.models.asymptotic_origin("age", girth, random=True)
    ```
    """
    return declare(curves.asymptotic_origin, Approach("origin"), ("Asym", "lrc"), (x,), data, options)


@public("jn.models.biexponential")
def biexponential(x: str, data: GroupedData | None = None, **options: Unpack[Options]) -> NLMEModel:
    """Sum of two exponentials, A1 exp(-exp(lrc1) x) + A2 exp(-exp(lrc2) x); R's SSbiexp. Starting values
    have lrc1 > lrc2.

    **Arguments:** `x`: the column of the predictor; `data`: the data to start from, None with all `starts`; `options`:
    `starts`, `random`, `covariates`, `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters A1, lrc1, A2, lrc2; `curves.biexponential` describes them.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    drug = jn.GroupedData.from_frame(jn.datasets.indomethacin(), group="Subject", y="conc", x=["time"])
    jn.models.biexponential("time", drug, random=True)
    ```
    """
    return declare(curves.biexponential, Biexponential(), ("A1", "lrc1", "A2", "lrc2"), (x,), data, options)


@public("jn.models.first_order_absorption")
def first_order_absorption(
    x: str, data: GroupedData | None = None, *, dose: str, **options: Unpack[Options]
) -> NLMEModel:
    """Concentration after a dose at x = 0, one compartment with first-order absorption and elimination,
    dose Ke Ka / (Cl (Ka - Ke)) (exp(-Ke x) - exp(-Ka x)); R's SSfol. Starting values have Ka > Ke.

    **Arguments:** `x`: the column of the time since the dose; `data`: the data to start from, None with all `starts`;
    `dose`: the column of the dose, in every row or of each group; `options`: `starts`, `random`, `covariates`,
    `transforms`, `sd`, `fix`, and those of NLMEModel; see `declare.Options`.
    **Returns:** an NLMEModel with the parameters lKe, lKa, lCl, logs of the rate constants of elimination and
    absorption and of the clearance.
    **Raises:** OptionError for unknown options and names; ModelError for a column that the data lack; DataError where
    the data do not determine the curve.

    **Example:**

    ```python
    jn.models.first_order_absorption("Time", data, dose="Dose", random=True)
    ```
    """
    names = ("lKe", "lKa", "lCl")
    return declare(curves.first_order_absorption, Absorption(), names, (dose, x), data, options)
