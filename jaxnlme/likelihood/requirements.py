"""Checks of outcomes that methods need, which name the methods that do without."""

from __future__ import annotations

from jaxnlme.errors import ModelError, some
from jaxnlme.model.density import Density


def require_gaussian_moments(name: str, density: Density) -> None:
    """Check that the outcome has Gaussian moments (a mean and a scale), which the method called `name` needs.

    **Raises:** ModelError where it has none.
    """
    error = density.error
    if not error.has_gaussian_moments:
        of_endpoints = zip(getattr(error, "labels", ()), getattr(error, "members", ()), strict=True)
        without = [f"that of endpoint {label!r}" for label, member in of_endpoints if not member.has_gaussian_moments]
        raise ModelError(
            f"{name} needs a Gaussian residual model (a mean and a scale), and {some(without) or 'this outcome'} has "
            f"none ({error.formula}); use 'laplace', jn.AGQ(...) or jn.ImportanceSampling(...), with curvature='exact'."
        )


def require_linearisable(name: str, density: Density) -> None:
    """Check that the outcome is Gaussian in every row, for a method called `name` that linearises the model.

    **Raises:** ModelError where it has no Gaussian moments, or the density of a row follows from limits of
    quantification.
    """
    require_gaussian_moments(name, density)
    if density.error.is_limited:
        raise ModelError(
            f"{name} linearises the model and has no likelihood for censored responses "
            f"({density.error.formula}); use 'laplace', 'focei', jn.AGQ(...), jn.ImportanceSampling(...) or 'saem'."
        )
