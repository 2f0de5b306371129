"""What every door in the manner of MATLAB's toolbox does: arguments checked, the model built and fitted, the verdict
said."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, FitError, ModelError, OptionError
from jaxnlme.fitting.fit import fit as native_fit
from jaxnlme.frontends.matlab.data import MatlabData, matlab_data
from jaxnlme.frontends.matlab.designs import Designs, designs
from jaxnlme.frontends.matlab.index_check import check_reads
from jaxnlme.frontends.matlab.model_function import model_function
from jaxnlme.frontends.matlab.options import Statset, StatsetSA, choice, positive
from jaxnlme.frontends.matlab.output_functions import Display, OutputFunctions, ValuesDisplay
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.residual_error.families import NAMED
from jaxnlme.precision import x64
from jaxnlme.results.record import Fit

ERRORS = ("constant", "proportional", "combined", "exponential")
# The arguments that the doors share, with their defaults: None stands for what `designs` makes of it.
SHARED = {
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


def checked(
    given: Mapping[str, Any],
    X: Any,
    y: Any,
    group: Any,
    V: Any,
    modelfun: Any,
    beta0: Any,
    said: Statset | StatsetSA,
    wide: float = 1.0,
) -> Call:
    """The call that the arguments make, `given` the name-value arguments with their defaults, psi starting `wide` times
    as wide as `jn.fit` has it where nobody says otherwise.

    **Errors:** OptionError, DataError, ModelError naming the argument, what was expected and what was received.
    """
    error = _error(given)
    choice("OptimFun", given["OptimFun"], ("fminsearch", "fminunc"))
    data = matlab_data(X, y, group, V)
    if error.name == "exponential":
        _positive(data)
    vectorization = choice("Vectorization", given["Vectorization"], ("SinglePhi", "SingleGroup", "Full"))
    structure = model_function(modelfun, vectorization, data.shapes)
    wanted = dataclasses.replace(designs(given, beta0, data), wide=wide)
    check_reads(structure, wanted, data)
    return Call(data, structure, wanted, error, said)


def _error(given: Mapping[str, Any]) -> GaussianError:
    """The residual model, its parameters starting where ErrorParameters says, if it is given."""
    name = choice("ErrorModel", given["ErrorModel"], ERRORS)
    starts = given.get("ErrorParameters")
    if starts is None:
        return NAMED[name]()
    words = {"proportional": ("b",), "combined": ("a", "b")}.get(name, ("a",))
    values = np.atleast_1d(np.asarray(starts, object)).reshape(-1).tolist()
    if len(values) != len(words):
        raise OptionError(
            f"ErrorParameters must hold {len(words)} for ErrorModel {name!r}, {' and '.join(words)}; received "
            f"{starts!r}."
        )
    return NAMED[name](*(positive("ErrorParameters", value) for value in values))


def _positive(data: MatlabData) -> None:
    """**Errors:** DataError with the rows, counted as in X, whose response has no logarithm."""
    table = data.data
    bad = np.sort(table.row_index[table.observed & ~(table.y > 0)])
    if len(bad):
        raise DataError(
            f"ErrorModel 'exponential', y = f exp(a e), needs positive responses; y is zero or negative in "
            f"{name_rows(bad)}. Mend or leave out those rows, or choose another ErrorModel."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A checked call of a door: what all of its fits have in common."""

    data: MatlabData
    structure: Any
    designs: Designs
    error: GaussianError
    said: Statset | StatsetSA

    def model(self, family: AbstractCovariance) -> NLMEModel:
        """The model with psi of a `family`."""
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
        """`jn.fit` with what Options say, in the words of the doors.

        **Errors:** ModelError where the model mixes rows, or, with the rows of X, is not finite at the start; FitError
        with the status of a fit that could not begin for other reasons.
        """
        with self.own_words():
            fit = native_fit(
                model,
                self.data.data,
                method,
                callbacks=callbacks,
                progress=False,
                on_bad_group="stop" if self.said.FunValCheck else "leave out",
                **options,
            )
        if not np.isfinite(fit.params.beta).all():
            self._not_begun(fit)
        return fit

    @contextlib.contextmanager
    def own_words(self) -> Iterator[None]:
        """Inside, what `jn.fit` says of padding is said as it concerns a modelfun."""
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

    def _not_begun(self, fit: Fit) -> None:
        """Raises with the rows where the model is not finite at the start, or with the status of the fit."""
        rows = _rows_not_finite(fit)
        if not rows:
            raise FitError(str(fit.status), fit)
        raise ModelError(
            f"modelfun is not finite in {name_rows(np.array(rows))} of X at beta0, with random effects zero. Start "
            "elsewhere, mend the model or those rows; Options.FunValCheck = 'off' goes on without their groups."
        )


def listeners(said: Statset | StatsetSA, tell: OutputFunctions) -> list[Any]:
    """The callbacks of a fit that is told to `tell` and shown as Options.Display says."""
    shown = [Display() if isinstance(said, Statset) else ValuesDisplay()] if said.Display == "iter" else []
    return ([tell] if tell.functions else []) + shown


def verdict(door: str, fit: Fit, said: Statset | StatsetSA, interrupted: bool) -> Fit:
    """The fit as a door hands it over: marked where an output function interrupted it at its end, printed as
    Options.Display says, with a warning where it did not converge."""
    if interrupted:
        fit = dataclasses.replace(fit, interrupted=True)
    if said.Display != "off":
        print(fit.status)
    if not fit.converged and not fit.stopped and not fit.interrupted:
        warnings.warn(f"{door}: {fit.status}", RuntimeWarning, stacklevel=3)
    return fit


def _rows_not_finite(fit: Fit) -> list[int]:
    """Rows of X, counted from 0, with a response and a prediction that is not finite at the starting values."""
    density, start = fit.binding.density, fit.binding.start
    rows: list[int] = []
    with x64():
        for bucket, which in zip(fit.binding.problem.buckets, fit.binding.bucket_groups, strict=True):
            for place, index in enumerate(which):
                group = jax.tree.map(lambda leaf, place=place: jnp.asarray(leaf[place]), bucket)
                f = np.asarray(density.predict(start, jnp.zeros(density.n_effects), group))
                bad = np.asarray(group.x.observed) & ~np.isfinite(f)
                rows += fit.data.row_index[index, : len(bad)][bad].tolist()
    return sorted(rows)
