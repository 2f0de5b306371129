"""Steps that nlmefit and nlmefitsa share: check the arguments, build and fit the model, report the outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.model import NLMEModel
from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, FitError, ModelError, OptionError
from jaxnlme.fitting.fit import Fit
from jaxnlme.fitting.fit import fit as native_fit
from jaxnlme.frontends.matlab.data import MatlabData, matlab_data
from jaxnlme.frontends.matlab.designs import Designs, designs
from jaxnlme.frontends.matlab.index_check import check_phi_indices
from jaxnlme.frontends.matlab.model_function import model_function
from jaxnlme.frontends.matlab.options import Statset, StatsetSA, choice, positive
from jaxnlme.frontends.matlab.output_functions import Display, OutputFunctions, ValuesDisplay
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.families import NAMED
from jaxnlme.precision import x64

ERRORS = ("constant", "proportional", "combined", "exponential")
# Name-value arguments that nlmefit and nlmefitsa share, with their defaults; None: `designs` chooses.
SHARED_DEFAULTS = {
    "FEParamsSelect": None,
    "FEConstDesign": None,
    "FEGroupDesign": None,
    "FEObsDesign": None,
    "REParamsSelect": None,
    "REConstDesign": None,
    "REGroupDesign": None,
    "REObsDesign": None,
    "CovPattern": None,
    "ErrorModel": "constant",
    "OptimFun": "fminsearch",
    "ParamTransform": None,
    "Vectorization": "SinglePhi",
    "Options": None,
}


def checked_call(
    arguments: Mapping[str, Any],
    X: Any,
    y: Any,
    group: Any,
    V: Any,
    modelfun: Any,
    beta0: Any,
    settings: Statset | StatsetSA,
    sd_factor: float = 1.0,
) -> Call:
    """Check the arguments of nlmefit or nlmefitsa and collect them in a `Call`.

    **Arguments:** `arguments`: the name-value arguments with their defaults; `X` to `beta0`: as in `nlmefit`;
    `settings`: the checked Options; `sd_factor`: starting SDs of the random effects, where no Cov0 is given, relative
    to those of `jn.fit`.
    **Returns:** the Call.
    **Raises:** OptionError, DataError, ModelError naming the argument, what was expected and what was received.
    """
    error = _error(arguments)
    choice("OptimFun", arguments["OptimFun"], ("fminsearch", "fminunc"))
    data = matlab_data(X, y, group, V)
    if data.data.n_groups < 2:
        raise DataError(
            f"group has one value, {data.data.labels[0]!r}, in all rows; expected at least two groups: psi is the "
            "covariance between groups, on which one group has no information. jn.fit takes fixed psi and priors."
        )
    if error.name == "exponential":
        _positive(data)
    vectorization = choice("Vectorization", arguments["Vectorization"], ("SinglePhi", "SingleGroup", "Full"))
    structure = model_function(modelfun, vectorization, data.shapes)
    model_designs = dataclasses.replace(designs(arguments, beta0, data), sd_factor=sd_factor)
    check_phi_indices(structure, model_designs, data)
    return Call(data, structure, model_designs, error, settings)


def _error(arguments: Mapping[str, Any]) -> GaussianError:
    """The residual model, with ErrorParameters as the starting values of its parameters where they are given."""
    name = choice("ErrorModel", arguments["ErrorModel"], ERRORS)
    start_values = arguments.get("ErrorParameters")
    if start_values is None:
        return NAMED[name]()
    names = {"proportional": ("b",), "combined": ("a", "b")}.get(name, ("a",))
    values = np.atleast_1d(np.asarray(start_values, object)).reshape(-1).tolist()
    if len(values) != len(names):
        raise OptionError(
            f"ErrorParameters must hold {len(names)} for ErrorModel {name!r}, {' and '.join(names)}; received "
            f"{start_values!r}."
        )
    return NAMED[name](*(positive("ErrorParameters", value) for value in values))


def _positive(data: MatlabData) -> None:
    """Require positive responses.  **Raises:** DataError with the rows of X whose response is zero or negative."""
    table = data.data
    bad = np.sort(table.row_index[table.observed & ~(table.y > 0)])
    if len(bad):
        raise DataError(
            f"ErrorModel 'exponential', y = f exp(a e), needs positive responses; y is zero or negative in "
            f"{name_rows(bad)}. Correct or leave out those rows, or choose another ErrorModel."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A checked call of nlmefit or nlmefitsa: data, structural model, designs, residual model and Options."""

    data: MatlabData
    structure: Any
    designs: Designs
    error: GaussianError
    settings: Statset | StatsetSA

    def model(self, family: AbstractCovariance) -> NLMEModel:
        """The model whose psi is of the covariance `family`."""
        return NLMEModel(
            self.structure,
            self.designs.parameters,
            family,
            self.error,
            fixed_design=self.designs.fixed,
            random_design=self.designs.random,
            beta=self.designs.beta,
            psi=self.designs.psi,
        )

    def fit(self, model: NLMEModel, method: Any, callbacks: list[Any], **options: Any) -> Fit:
        """Fit by `jn.fit` as Options ask, with error messages in MATLAB's terms.

        **Arguments:** `model`: from `Call.model`; `method`, `callbacks`, `options`: as in `jn.fit`.
        **Returns:** the fit, converged or not.
        **Raises:** ModelError where the model mixes rows, or, with the rows of X, is not finite at the start; FitError
        with the status of a fit that could not start for other reasons.
        """
        with self.matlab_messages():
            fit = native_fit(
                model,
                self.data.data,
                method,
                callbacks=callbacks,
                progress=False,
                on_bad_group="stop" if self.settings.FunValCheck else "leave out",
                **options,
            )
        if not np.isfinite(fit.params.beta).all():
            self._raise_failed_start(fit)
        return fit

    @contextlib.contextmanager
    def matlab_messages(self) -> Iterator[None]:
        """Context in which the error of `jn.fit` about padding is raised in terms of modelfun."""
        try:
            yield
        except ModelError as error:
            if "padding of short groups" not in str(error):
                raise
            raise ModelError(
                "the predictions of real rows change with the padding of short groups (the last row, repeated): "
                "modelfun mixes rows (a mean, a cumulative sum, the last row). Write it for each row by itself; for "
                "doses and the like use V, or jn.fit, whose x.mask marks the real rows."
            ) from error

    def _raise_failed_start(self, fit: Fit) -> None:
        """Raise with the rows where the model is not finite at the start, or else with the status of the fit."""
        rows = _rows_not_finite(fit)
        if not rows:
            raise FitError(str(fit.status), fit)
        raise ModelError(
            f"modelfun is not finite in {name_rows(np.array(rows))} of X at beta0, with random effects zero. "
            "Give other starting values, or correct the model or those rows; Options.FunValCheck = 'off' leaves their "
            "groups out."
        )


def fit_callbacks(settings: Statset | StatsetSA, output_functions: OutputFunctions) -> list[Any]:
    """Callbacks of the fit: the output functions, if there are any, and the display that Options.Display asks for."""
    displays = [Display() if isinstance(settings, Statset) else ValuesDisplay()] if settings.Display == "iter" else []
    return ([output_functions] if output_functions.functions else []) + displays


def report_outcome(function: str, fit: Fit, settings: Statset | StatsetSA, interrupted: bool) -> Fit:
    """The fit, marked as interrupted if an output function did so at the end; print its status as Options.Display asks,
    and warn where the fit did not converge.

    **Arguments:** `function`: the name that opens the warning; `fit`; `settings`: the checked Options; `interrupted`:
    True if an output function raised KeyboardInterrupt at "done".
    """
    if interrupted:
        fit = dataclasses.replace(fit, interrupted=True)
    if settings.Display != "off":
        print(fit.status)
    if not fit.converged and not fit.stopped and not fit.interrupted:
        warnings.warn(f"{function}: {fit.status}", RuntimeWarning, stacklevel=4)
    return fit


def _rows_not_finite(fit: Fit) -> list[int]:
    """Rows of X, counted from 0, with a response and a prediction that is not finite at the starting values."""
    density, start = fit.binding.density, fit.binding.start
    rows: list[int] = []
    with x64():
        for bucket, groups in zip(fit.binding.problem.buckets, fit.binding.bucket_groups, strict=True):
            for slot, group_index in enumerate(groups):
                group = jax.tree.map(lambda leaf, slot=slot: jnp.asarray(leaf[slot]), bucket)
                f = np.asarray(density.predict(start, jnp.zeros(density.n_effects), group))
                bad = np.asarray(group.x.observed) & ~np.isfinite(f)
                rows += fit.data.row_index[group_index, : len(bad)][bad].tolist()
    return sorted(rows)
