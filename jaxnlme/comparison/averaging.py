"""Averages over models with Akaike weights: estimates with unconditional standard errors, and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_names
from jaxnlme.comparison.comparable import Candidate
from jaxnlme.errors import OptionError, check_level, near_matches
from jaxnlme.results.record import FitRecord

if TYPE_CHECKING:
    import pandas as pd


def average(
    candidates: Sequence[Candidate], weights: np.ndarray, names: str | Sequence[str] | None, level: float
) -> pd.DataFrame:
    """The table of `Comparison.average`; arguments and exceptions as there."""
    import pandas as pd

    check_level(level)
    known = {name: None for each in candidates for name in each.parameter_names}
    if names is None:
        chosen = [name for name in known if all(name in each.parameter_names for each in candidates)]
        if not chosen:
            raise OptionError("no parameter is estimated in all models; name those to average over the models with it.")
    else:
        chosen = check_names("names", names, "parameters")
    tables = [_estimates(each) for each in candidates]
    rows = []
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    for name in chosen:
        if name not in known:
            raise OptionError(f"no model estimates {name!r}; {near_matches(name, known)}")
        of = [k for k, each in enumerate(candidates) if name in each.parameter_names]
        _check_scale(name, [candidates[k] for k in of])
        share = float(np.sum(weights[of]))
        w = weights[of] / share if share > 0 else np.full(len(of), 1.0 / len(of))
        values = np.array([float(tables[k]["estimate"][name]) for k in of])
        se = np.array([float(tables[k]["se"][name]) for k in of])
        mean = float(w @ values)
        # A model of weight zero needs no standard error.
        variance = float(np.sum(np.where(w > 0, w * (se**2 + (values - mean) ** 2), 0.0)))
        total = float(np.sqrt(variance))
        rows.append((mean, total, mean - z * total, mean + z * total, len(of), share))
    columns = ["estimate", "se", "lower", "upper", "models", "weight"]
    return pd.DataFrame(rows, index=pd.Index(chosen, name="parameter"), columns=columns)


def _estimates(each: Candidate) -> pd.DataFrame:
    """Estimates and standard errors of a fit. **Raises:** OptionError for a result without such a table."""
    table = getattr(each.fit, "estimates", None)
    if table is None or not {"estimate", "se"} <= {*getattr(table, "columns", ())}:
        raise OptionError(f"{each.name} has no table of estimates with columns 'estimate' and 'se' to average.")
    return table


def _check_scale(name: str, candidates: Sequence[Candidate]) -> None:
    """**Raises:** OptionError where the models estimate `name` on different scales."""
    scales = {each.name: _scale(name, each) for each in candidates}
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{scale} in {model}" for model, scale in scales.items())
        raise OptionError(f"{name} is on different scales ({listed}) and cannot be averaged; declare one transform.")


def _scale(name: str, each: Candidate) -> str:
    """The name of the transform of a parameter; empty for values without one."""
    if not isinstance(each.fit, FitRecord):
        return ""
    names = each.fit.binding.density.beta_names
    transform = each.fit.binding.transforms[names.index(name)] if name in names else None
    return "" if transform is None else transform.name


def averaged_predictions(
    candidates: Sequence[Candidate], weights: np.ndarray, data: Any, level: str | int | None
) -> pd.Series:
    """The predictions of `Comparison.predict`; arguments and exceptions as there."""
    import pandas as pd

    total: Any = None
    for each, weight in zip(candidates, weights, strict=True):
        predict = getattr(each.fit, "predict", None)
        if predict is None:
            raise OptionError(f"{each.name} has no method predict to average.")
        if not weight:
            continue
        values = predict(data) if level is None else predict(data, level=level)
        if not isinstance(values, pd.Series):  # fits of linear models return arrays
            rows = data.index if isinstance(data, pd.DataFrame) and len(data) == len(values) else None
            values = pd.Series(values, index=rows)
        if total is not None and not total.index.equals(values.index):
            raise OptionError(f"{each.name} predicts other rows than the models before it; pass one table as data=.")
        total = weight * values if total is None else total + weight * values
    return pd.Series(total, name="prediction")
