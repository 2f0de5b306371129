"""`NLMEModel`, the model that users declare, with the values of its parameters by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnlme.binding.bind import bind
from jaxnlme.model.declaration import ModelDeclaration
from jaxnlme.model.params import Params


class NLMEModel(ModelDeclaration):
    """A nonlinear mixed-effects model: y_i | b_i ~ p(y | f(phi_i, x_i, v_i)), phi_i = h(A_i beta + B_i b_i),
    b_i ~ N(0, psi).

    **Arguments:**

    - `structure`: the structural model f(phi, x, v), or f(phi, x), of one group, written with jax.numpy. phi is a
      record of parameters (natural scale, scalars or (obs,)), x a record of predictors (obs,) with `x.mask`, v a record
      of group-level values. Returns the predictions (obs,), in the unit of y, or with several endpoints a dictionary of
      them by endpoint. A callable Equinox module may be given;
      its arrays become part of the free block of Params (`jn.Networks`).
    - `parameters`: `Parameter` objects, or a dictionary from names to starting values (natural scale).
    - `covariance`: structure of the covariance matrix psi of the random effects: "diagonal", "full", "log-matrix",
      "identity", "compound symmetry", a list of blocks of effect names, a 0/1 pattern (random, random), or an object of
      `jn.covariances`.
    - `error`: residual model: a name ("constant", "proportional", "combined", ...), an object of `jn.error`, or a
      dictionary of these by endpoint, for data with several responses (`endpoint=` of `GroupedData.from_frame`).
    - `individual`: a function (beta, b, v) -> phi that replaces the linear designs; see `FunctionIndividual`. A
      callable Equinox module, such as a network from covariates to parameters, is one.
    - `effects`: the distribution of the random effects: None, Gaussian, or `jn.Flow(...)`, which is estimated.
    - `fixed_design`, `random_design`: the matrices A (phi, fixed) and B (phi, random), also one per group
      (groups, phi, k) or per observation (groups, obs, phi, k).
    - `beta`: with `fixed_design`, the starting coefficients (fixed,) on the transformed scale.
    - `psi`: starting value of psi (random, random) on the transformed scale, positive semidefinite; None: a diagonal
      matrix with the squared starting standard deviations of the parameters.
    - `fix_psi`: psi is not estimated.
    - `fixed`: values that are held fixed, by reported name, on the user's scale, the others being estimated:
      `{"sd(ka)": 0.3, "corr(ka, cl)": 0, "a": 0.2, "ka": 1.5}`.
    - `priors`: prior densities by reported name ("ka", "sd(ka)", "a", ...), in addition to those of the parameters.

    - `censoring`: method for responses below or above limits of quantification (data with `censoring=`, `lloq=` or
      `uloq=`): "M3", the probability that the response lies beyond its limit; "M1", censored rows are left out; "M2",
      left out, and the other densities divided by the probability that they can be quantified; "M4", as "M3", all
      conditional on positive responses. None: the data have no censored responses.

    **Raises:** ModelError or OptionError, naming what was expected.
    **Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687, for phi = A beta + B b; Lavielle (2014), Mixed
    Effects Models for the Population Approach, for transformed parameters.

    **Example:**

    ```python
    model = jn.NLMEModel(oral, [ka, cl, vol], covariance=[["cl", "vol"], ["ka"]], error="combined")
    print(model)
    ```
    """

    def params(self, data: Any = None, values: Mapping[str, float] | None = None, *, psi: Any = None) -> Params:
        """Params from values on the user's scale; others have their starting values.

        **Arguments:** `data`: the GroupedData, which determine covariate columns and strata. `values`: by name:
        parameters and residual-error parameters on their natural scale; covariate coefficients ("cl ~ log(Wt / 70)"),
        "sd(ka)" and "corr(ka, cl)" of random effects on the transformed scale. `psi`: covariance matrix
        (random, random) on the transformed scale; standard deviations and correlations in `values` replace its own.
        **Returns:** Params.
        **Raises:** ModelError for an unknown name, a value outside its domain, or a psi that is not a covariance matrix
        of the model's family.
        """
        return bind(self, data).params(values, psi=psi)

    def values(self, params: Params, data: Any = None) -> dict[str, float]:
        """Values on the user's scale by name, the inverse of `params`.

        **Arguments:** `params`; `data`: as for `params`.
        **Returns:** a dictionary from names to values.
        """
        return bind(self, data).values(params)
