"""Outlying groups, units and observations, with p values that account for their number.

The modes of a group shrink towards zero: with the inverse curvature C of the joint density at the mode, whitened modes
have the covariance I - C (exactly for linear models at the true parameters, otherwise to first order), not I. The
squared distance of a group is z' (I - C)^- z, chi-square with as many degrees of freedom as there are directions that
its data inform.

**Source:** Laird and Ware (1982), Biometrics 38, 963-974, section 3, for the covariance of estimated effects;
Waternaux, Laird and Ware (1989), Journal of the American Statistical Association 84, 33-41, for the distances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.effects.hypothesis_tests import adjusted, outlier_p
from jaxnlme.diagnostics.effects.tables import unit_of_rows
from jaxnlme.diagnostics.residuals import endpoint_rows
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.results.by_level import effects_by_level

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


def outlying_groups(fit: FitRecord, cwres: np.ndarray | None) -> pd.DataFrame:
    """A row for each group, the most outlying first.

    **Arguments:** `cwres` (rows,), None for an outcome without them.
    **Returns:** a data frame: label of the group; `n_obs`; `distance`, the squared distance of its random effects of
    all levels, `df`, `p` and `p_adjusted` (Bonferroni); `effect`, the effect that is farthest out, and `standardised`,
    its mode over the standard deviation that modes have; with `cwres` the sum of their squares over the group,
    `residual_distance`, with `residual_df`, `residual_p` and `residual_p_adjusted`.
    """
    import pandas as pd
    from scipy import stats

    data, binding = fit.data, fit.binding
    distance, df, scaled = _distances(*fit.conditional)
    frame = pd.DataFrame({data.group_name: pd.Series(data.labels, dtype=object).infer_objects()})
    frame["n_obs"] = data.observed.sum(axis=1)
    frame["distance"], frame["df"] = distance, df
    frame["p"] = np.where(df > 0, stats.chi2.sf(distance, np.maximum(df, 1)), np.nan)
    frame["p_adjusted"] = adjusted(frame["p"].to_numpy(), "bonferroni")
    if scaled.shape[1]:
        filled = np.nan_to_num(np.abs(scaled), nan=-1.0)
        largest = filled.argmax(axis=1)
        levels = binding.density.levels
        of_entry = np.arange(scaled.shape[1]) if levels is None else levels.effect_of_entry
        names = np.array(binding.density.effect_names, object)[of_entry]
        frame["effect"] = names[largest]
        frame.loc[filled.max(axis=1) < 0, "effect"] = None
        frame["standardised"] = np.take_along_axis(scaled, largest[:, None], axis=1)[:, 0]
    if cwres is not None:
        of_row, known = unit_of_rows(data, 0)[0], np.isfinite(cwres)
        squares = np.bincount(of_row[known], cwres[known] ** 2, len(frame))
        count = np.bincount(of_row[known], minlength=len(frame))
        frame["residual_distance"], frame["residual_df"] = squares, count
        frame["residual_p"] = np.where(count > 0, stats.chi2.sf(squares, np.maximum(count, 1)), np.nan)
        frame["residual_p_adjusted"] = adjusted(frame["residual_p"].to_numpy(), "bonferroni")
    return frame.sort_values("p", kind="stable", ignore_index=True)


def outlying_effects(fit: FitRecord) -> pd.DataFrame:
    """A row for each effect of each unit that its data inform, the most outlying first.

    **Returns:** a data frame: `level`; `unit`, its label, labels of nested units joined by "/"; `effect`; `estimate`,
    the conditional mode; `standardised`, the mode over the standard deviation that modes have; `p`, normal and
    two-sided, and `p_adjusted` (Bonferroni).
    """
    import pandas as pd
    from scipy import stats

    _, _, scaled = _distances(*fit.conditional)
    tables, modes = effects_by_level(fit.binding, scaled), fit.random_effects
    tables = tables if isinstance(tables, dict) else {fit.data.group_name: tables}
    modes = modes if isinstance(modes, dict) else {fit.data.group_name: modes}
    parts = []
    for level, table in tables.items():
        labels = ["/".join(map(str, label)) if isinstance(label, tuple) else label for label in table.index]
        for name in table:
            values: dict[str, Any] = {"level": level, "unit": labels, "effect": name}
            values |= {"estimate": modes[level][name].to_numpy(), "standardised": table[name].to_numpy()}
            parts.append(pd.DataFrame(values))
    names = ["level", "unit", "effect", "estimate", "standardised"]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
    frame = frame[np.isfinite(frame["standardised"].to_numpy(float))]
    p = 2.0 * stats.norm.sf(np.abs(frame["standardised"].to_numpy(float)))
    frame = frame.assign(p=p, p_adjusted=adjusted(p, "bonferroni"))
    return frame.sort_values("p", kind="stable", ignore_index=True)


def _distances(z: np.ndarray, curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared distances (groups,) of whitened modes `z` (groups, random), degrees of freedom (groups,), and the modes
    over their standard deviations (groups, random), NaN in entries that the data hardly inform.

    **Arguments:** `curvature` (groups, random, random) of minus the log joint density at the modes.
    """
    m, q = z.shape
    distance, df, scaled = np.full(m, np.nan), np.zeros(m, int), np.full((m, q), np.nan)
    least = DIAGNOSTICS.least_informed
    for g in range(m if q else 0):
        if not (np.isfinite(z[g]).all() and np.isfinite(curvature[g]).all()):
            continue
        covariance = np.eye(q) - np.linalg.inv(curvature[g])
        values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
        informed = values > least
        distance[g] = np.sum((vectors.T @ z[g])[informed] ** 2 / values[informed])
        df[g] = informed.sum()
        variance = np.diag(covariance)
        known = variance > least
        scaled[g, known] = z[g, known] / np.sqrt(variance[known])
    return distance, df, scaled


def outlying_observations(fit: FitRecord, table: pd.DataFrame) -> pd.DataFrame:
    """A row for each observation with residuals, the most outlying first.

    **Arguments:** `table`: from `diagnostics`.
    **Returns:** the labels, columns of x, DV, IPRED, IWRES and CWRES of `table`, with its index; `p_cwres`, of |CWRES|
    under the standard normal distribution, and `p_iwres`, of |IWRES| beside those of the other rows of its endpoint
    (t), each with `_adjusted` (Bonferroni).
    """
    from scipy import stats

    names = [name for name in table if name not in ("PRED", "PRES", "IRES", "PWRES")]
    position = names.index("CWRES") + 1
    out = table[names[:position]].copy()
    out["p_cwres"] = 2.0 * stats.norm.sf(np.abs(out["CWRES"].to_numpy()))
    out["p_cwres_adjusted"] = adjusted(out["p_cwres"].to_numpy(), "bonferroni")
    observed = fit.data.rows_to_column(fit.data.observed)
    p = np.full(len(out), np.nan)
    for _, rows in endpoint_rows(fit):
        mask = rows[observed]
        p[mask] = outlier_p(out["IWRES"].to_numpy()[mask])
    out["p_iwres"], out["p_iwres_adjusted"] = p, adjusted(p, "bonferroni")
    out = out[np.isfinite(out["CWRES"].to_numpy())]
    return out.sort_values("p_cwres", kind="stable")
