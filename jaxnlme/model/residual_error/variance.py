"""Variance functions for `jn.error.gaussian(scale=...)`: the residual standard deviation is sigma g, g a product of
them.

`of` is the column that a function is of, None for the prediction f. `by` is a column with parameters for each of its
levels. Parameters are named after what they belong to: "power", "power(age)", "power[Sex=F]", "ratio[Sex=M]".

**Example:**

```python
jn.error.gaussian(jn.variance.power())
```
"""

from __future__ import annotations

from jaxnlme.errors import OptionError, shown
from jaxnlme.model.fixed import Fixed
from jaxnlme.model.residual_error.variance_scale import VarianceScale, VarianceTerm
from jaxnlme.signatures import public


@public("jn.variance.fixed")
def fixed(column: str) -> VarianceScale:
    """g = sqrt(v): a variance proportional to the column v (nlme's varFixed).

    **Arguments:** `column`: of positive numbers, in x or v.
    **Returns:** a variance function.
    **Raises:** OptionError for what is not the name of a column.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.1.

    **Example:**

    ```python
    jn.error.gaussian(jn.variance.fixed("Wt"))
    ```
    """
    return VarianceScale((VarianceTerm("fixed", _column("column", column)),))


@public("jn.variance.power")
def power(of: str | None = None, *, by: str | None = None, power: float | Fixed = 0.5) -> VarianceScale:
    """g = |v|^power (nlme's varPower).

    **Arguments:** `of`: the column v, None for the prediction; `by`: a column with a power for each level; `power`:
    starting value, or `jn.fixed(value)`.
    **Returns:** a variance function.
    **Raises:** OptionError for what is not the name of a column, and for a power that is no number.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.1.

    **Example:**

    ```python
    jn.error.gaussian(jn.variance.power())
    ```
    """
    return VarianceScale((VarianceTerm("power", _column("of", of, True), _column("by", by, True), (power,)),))


@public("jn.variance.exponential")
def exponential(of: str | None = None, *, by: str | None = None, rate: float | Fixed = 0.0) -> VarianceScale:
    """g = exp(rate v) (nlme's varExp).

    **Arguments:** `of`: the column v, None for the prediction; `by`: a column with a rate for each level; `rate`:
    starting value, or `jn.fixed(value)`.
    **Returns:** a variance function.
    **Raises:** OptionError for what is not the name of a column, and for a rate that is no number.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.1.

    **Example:**

    ```python
    jn.error.gaussian(jn.variance.exponential("Time"))
    ```
    """
    return VarianceScale((VarianceTerm("exponential", _column("of", of, True), _column("by", by, True), (rate,)),))


@public("jn.variance.constant_power")
def constant_power(
    of: str | None = None, *, by: str | None = None, const: float | Fixed = 1.0, power: float | Fixed = 0.5
) -> VarianceScale:
    """g = const + |v|^power, const > 0 (nlme's varConstPower).

    **Arguments:** `of`: the column v, None for the prediction; `by`: a column with parameters for each level; `const`,
    `power`: starting values, or `jn.fixed(value)`.
    **Returns:** a variance function.
    **Raises:** OptionError for what is not the name of a column,
    and for starting values that are no numbers, or a const that is not positive.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.1.

    **Example:**

    ```python
    jn.error.gaussian(jn.variance.constant_power())
    ```
    """
    terms = (VarianceTerm("constant_power", _column("of", of, True), _column("by", by, True), (const, power)),)
    return VarianceScale(terms)


@public("jn.variance.strata")
def strata(column: str) -> VarianceScale:
    """g = one for the first level of a column and a ratio of its own for each other one (nlme's varIdent).

    **Arguments:** `column`: in x or v, also text; its levels come in their declared order, or sorted.
    **Returns:** a variance function.
    **Raises:** OptionError for what is not the name of a column.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 5.2.1.

    **Example:**

    ```python
    jn.lme("distance ~ age", "~ age | Subject", jn.datasets.orthodont(), weights=jn.variance.strata("Sex"))
    ```
    """
    return VarianceScale((VarianceTerm("strata", None, _column("column", column)),))


def _column(name: str, value: str | None, optional: bool = False) -> str | None:
    """**Raises:** OptionError for what is not the name of a column."""
    if not isinstance(value, str) and not (optional and value is None):
        raise OptionError(f"{name} must be the name of one column of the data; received {shown(value)}.")
    return value
