"""`tidy`, `glance` and `augment`: a fit as data frames with the columns of R's packages broom and broom.mixed.

**Source:** Bolker and Robinson, broom.mixed: tidying methods for mixed models, for names of columns and terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_flag, check_names, require_host
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, check_level, near_matches
from jaxnlme.model.density import Density
from jaxnlme.model.residual_error.base import GaussianError
from jaxnlme.model.transforms import Identity
from jaxnlme.results.by_level import level_depth
from jaxnlme.results.evaluate import rebind, require_estimates
from jaxnlme.results.predict import predict

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

EFFECTS = ("fixed", "ran_pars", "ran_vals")
COLUMNS = ("effect", "group", "level", "term", "estimate", "std_error", "statistic", "df", "p_value")
RESIDUAL = "Residual"
RESIDUAL_SD = "sd__Observation"


# --- tidy ---


def tidy(
    fit: FitRecord,
    conf_int: bool = False,
    conf_level: float = 0.95,
    effects: str | Sequence[str] = ("fixed", "ran_pars"),
) -> pd.DataFrame:
    """A row per term of the model.

    **Arguments:** `conf_int`: adds the limits `conf_low`, `conf_high`; `conf_level` of these; `effects`: which rows:
    "fixed", fixed effects on the transformed scale; "ran_pars", standard deviations ("sd__ka"), correlations
    ("cor__ka.cl") and residual parameters, of the group "Residual"; "ran_vals", the random effects of each unit with
    their conditional standard errors.
    **Returns:** a data frame with `effect`, `group` (grouping level), `term`, `estimate`, `std_error`, `statistic` and
    two-sided `p_value` of a normal test that a fixed effect is zero; with "ran_vals" also `level`, the label of the
    unit. Intervals are those of `confidence_intervals`, symmetric on the log scale for standard deviations.
    **Raises:** OptionError for other options; FitError where the fit has no estimates.
    """
    chosen = check_tidy(conf_int, conf_level, effects)
    require_host("fit.tidy")
    require_estimates(fit)
    rows: list[dict[str, Any]] = []
    table = fit.confidence_intervals(conf_level)
    for (effect, group, term), (_, row) in zip(_terms(fit.binding.density, fit.data), table.iterrows(), strict=True):
        if effect not in chosen:
            continue
        statistic = row["estimate"] / row["se"] if effect == "fixed" and row["se"] > 0 else np.nan
        entry = {"effect": effect, "group": group, "term": term, "estimate": row["estimate"], "std_error": row["se"]}
        entry |= {"statistic": statistic, "p_value": math.erfc(abs(statistic) / math.sqrt(2.0))}
        rows.append(entry | {"conf_low": row["lower"], "conf_high": row["upper"]})
    if "ran_vals" in chosen:
        rows += values_of_units(by_level(fit.random_effects, fit.data), fit.random_effects_se, conf_level)
    return tidy_frame(rows, conf_int)


def check_tidy(conf_int: Any, conf_level: Any, effects: Any) -> list[str]:
    """The names in `effects`. **Raises:** OptionError for options that are not those of `tidy`."""
    check_flag("conf_int", conf_int)
    check_level(conf_level)
    chosen = check_names("effects", effects, "kinds of effects")
    for name in chosen:
        if name not in EFFECTS:
            raise OptionError(f"effects {name!r} is not known; {near_matches(name, EFFECTS)}")
    if not chosen:
        raise OptionError(f"effects is an empty list; name at least one of {', '.join(map(repr, EFFECTS))}.")
    return chosen


def tidy_frame(rows: Sequence[Mapping[str, Any]], conf_int: bool) -> pd.DataFrame:
    """The data frame of `tidy` from its rows; columns that no row has are left out."""
    import pandas as pd

    names = [*COLUMNS, *(("conf_low", "conf_high") if conf_int else ())]
    used = [name for name in names if any(name in row for row in rows)]
    frame = pd.DataFrame(list(rows), columns=used)
    numbers = [name for name in used if name not in ("effect", "group", "level", "term")]
    return frame.astype(dict.fromkeys(numbers, float)) if len(frame) else frame


def values_of_units(tables: Mapping[str, Any], errors: Any, level: float) -> list[dict[str, Any]]:
    """The rows of "ran_vals" from tables of random effects by level, and those of their standard errors (the same, a
    single table, or None)."""
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    out = []
    for group, table in tables.items():
        se = errors.get(group) if isinstance(errors, Mapping) else errors
        labels = ["/".join(map(str, label)) if isinstance(label, tuple) else label for label in table.index]
        for column, name in enumerate(table.columns):
            for k, label in enumerate(labels):
                estimate = float(table.iat[k, column])
                error = np.nan if se is None else float(se.iat[k, column])
                row = {"effect": "ran_vals", "group": group, "level": label, "term": name, "estimate": estimate}
                row |= {"std_error": error, "conf_low": estimate - z * error, "conf_high": estimate + z * error}
                out.append(row)
    return out


def by_level(tables: Any, data: GroupedData) -> dict[str, Any]:
    """Tables of random effects by the name of their level, also where there is one level."""
    return dict(tables) if isinstance(tables, Mapping) else {data.group_name: tables}


def level_of_effects(density: Density, data: GroupedData) -> list[str]:
    """The name of the grouping level of each distinct random effect."""
    levels = density.levels
    if levels is None:
        return [data.group_name] * len(density.effect_names)
    return [levels.levels[int(k)].name for k in levels.level_of_effect]


def _terms(density: Density, data: GroupedData) -> list[tuple[str, str | None, str]]:
    """Effect, group and term of each reported value."""
    groups = level_of_effects(density, data)
    out: list[tuple[str, str | None, str]] = [("fixed", None, name) for name in density.beta_names]
    names = density.effect_names
    out += [("ran_pars", group, f"sd__{name}") for name, group in zip(names, groups, strict=True)]
    out += [("ran_pars", groups[i], f"cor__{names[i]}.{names[j]}") for i, j in density.covariance.correlated_pairs]
    single = is_constant(density)
    return out + [("ran_pars", RESIDUAL, RESIDUAL_SD if single else name) for name in density.error_names]


def is_constant(density: Density) -> bool:
    """True where the only residual parameter is the standard deviation of the response itself."""
    error = density.error
    plain = isinstance(error, GaussianError) and isinstance(error.response, Identity)
    return plain and len(error.parameters) == 1 and getattr(error, "name", "") == "constant"


# --- glance ---


def glance(fit: FitRecord) -> pd.DataFrame:
    """One row on the whole fit.

    **Returns:** a data frame: `n_obs`, `n_groups`, `n_parameters`; `sigma`, the residual standard deviation (NaN where
    the residual model has other parameters); `log_lik`, `deviance` (-2 log L), `aic`, `bic`, `bic_groups`, `objective`
    (NONMEM's); `converged`, `method`, `restricted`, `iterations`.
    """
    import pandas as pd

    criteria, density = fit.criteria, fit.binding.density
    sigma = float(fit.values[density.error_names[0]]) if is_constant(density) else np.nan
    row = {"n_obs": criteria.n_obs, "n_groups": criteria.n_groups, "n_parameters": criteria.n_parameters}
    row |= {"sigma": sigma, "log_lik": fit.log_likelihood, "deviance": -2.0 * fit.log_likelihood, "aic": fit.aic}
    row |= {"bic": fit.bic, "bic_groups": fit.bic_groups, "objective": fit.objective, "converged": fit.converged}
    row |= {"method": fit.method, "restricted": fit.restricted, "iterations": fit.iterations}
    return pd.DataFrame([row])


# --- augment ---


def augment(fit: FitRecord, data: Any = None) -> Any:
    """A table with predictions and residuals beside its columns.

    **Arguments:** `data`: None for the data of the fit, or a table (pandas, polars, a dictionary of columns) with the
    columns that `fit.predict` needs; the response may be absent.
    **Returns:** the table, a polars frame where `data` is one and a pandas frame otherwise, rows in their order, with
    `.fitted`, the prediction at the conditional modes, `.resid`, response less `.fitted` (NaN in rows without a
    response and in censored ones), and `.fixed`, the prediction at b = 0. Rows of a table of records that are no
    observations have NaN.
    **Raises:** as `fit.predict`.
    """
    require_host("fit.augment", data)
    require_estimates(fit)
    binding = rebind(fit, data, level_depth(fit.data, "group"))
    known = binding.data
    own = fit.data if data is None else data
    frame = own.to_frame().set_index(own.row_labels) if isinstance(own, GroupedData) else own
    fitted, fixed = (predict(fit, None if data is None else known, level) for level in ("group", "population"))
    counted = known.observed if known.limits is None else known.observed & ~known.limits.censored
    response = known.rows_to_column(np.where(counted, known.y, np.nan))
    position = None if isinstance(own, GroupedData) else np.sort(known.row_index[known.rows], kind="stable")
    return with_columns(frame, fitted.to_numpy(), response, fixed.to_numpy(), position)


def with_columns(
    frame: Any, fitted: np.ndarray, response: np.ndarray, fixed: np.ndarray, position: np.ndarray | None = None
) -> Any:
    """A table with the columns of `augment`; values (rows,), at the rows `position` of the table (None: all)."""
    import pandas as pd

    columns = {".fitted": fitted, ".resid": response - fitted, ".fixed": fixed}
    if isinstance(frame, Mapping):
        frame = pd.DataFrame({name: np.asarray(column) for name, column in frame.items()})
    if position is not None and len(position) != len(frame):
        for name, values in columns.items():
            columns[name] = np.full(len(frame), np.nan)
            columns[name][position] = values
    if hasattr(frame, "with_columns"):
        import polars

        return frame.with_columns(**{name: polars.Series(values) for name, values in columns.items()})
    return frame.assign(**columns)
