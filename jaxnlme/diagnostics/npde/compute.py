"""npd and npde of the observations of a table, from their simulations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnlme.arguments import check_choice
from jaxnlme.data._endpoints import endpoint_values, label_text
from jaxnlme.data._limits import Limits
from jaxnlme.data._rows import name_groups, name_rows
from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.npde.censoring import (
    RULES,
    Completed,
    below_limit,
    complete,
    group_generators,
    group_uniforms,
)
from jaxnlme.diagnostics.npde.decorrelation import METHODS, decorrelated_discrepancies
from jaxnlme.diagnostics.npde.discrepancies import prediction_discrepancies, tied_share, to_normal
from jaxnlme.diagnostics.npde.settings import NPDE
from jaxnlme.errors import DataError, OptionError, check_whole_number

TIES = ("below", "random")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of npd and npde, checked: see `npde`."""

    decorrelation: str = "cholesky"
    censoring: str = "cdf"
    ties: str = "below"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decorrelation == "polar":
            raise OptionError("decorrelation 'polar' is the same matrix as 'inverse', V^(-1/2): write 'inverse'.")
        check_choice("decorrelation", self.decorrelation, METHODS)
        check_choice("censoring", self.censoring, RULES)
        check_choice("ties", self.ties, TIES)
        check_whole_number("seed", self.seed, 0, "which the random numbers follow from")


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """npd and npde by observation, and what else follows from the simulations.

    **Fields:** `rows` (rows,) of the table: true for observations; `columns`, each (observations,), by name;
    `endpoints` (observations,), the label of each as text, None: there is one endpoint; `sentences` on what was done.
    """

    rows: np.ndarray
    columns: dict[str, np.ndarray]
    endpoints: np.ndarray | None
    sentences: tuple[str, ...]


def compute(data: GroupedData, simulated: np.ndarray, ipred: np.ndarray | None, options: Options) -> Columns:
    """npd and npde of the observations of `data`.

    **Arguments:** `simulated` (K, rows), `ipred` (rows,) or None: rows as those of the table, NaN where there is no
    response.
    **Returns:** Columns.
    **Raises:** DataError for simulations that are not finite, naming rows; OptionError for tied responses, and where
    "ipred" has no predictions.
    """
    rows = data.rows_to_column(data.observed)
    number = np.flatnonzero(rows)
    y, draws = data.rows_to_column(data.y)[rows], np.asarray(simulated, float)
    draws = draws if rows.all() else draws[:, rows]  # a copy may be large
    groups = data.rows_to_column(np.broadcast_to(np.arange(data.n_groups)[:, None], data.rows.shape))[rows]
    _check_finite(draws, number)
    endpoints = None
    if data.endpoint is not None:
        labels = data.rows_to_column(endpoint_values(data))[rows].tolist()
        endpoints = np.array([label_text(label) for label in labels], object)
    limits = None if data.limits is None else _limits_of(data, rows)
    censored = np.zeros(len(y), bool) if limits is None else limits.censored
    _check_ties(y, draws, censored, endpoints, options.ties)
    generators, uniform = [], None
    needs_draws = options.ties == "random" or (limits is not None and options.censoring == "cdf")
    if needs_draws:
        generators = group_generators(data.labels, options.seed)
        uniform = group_uniforms(generators, groups)
    columns = {"ypred": draws.mean(axis=0)}
    completed = Completed(y, draws, np.full(len(y), np.nan))
    if limits is not None and censored.any():
        rule = options.censoring
        given = _checked_ipred(ipred, rows, censored, number) if rule == "ipred" else None
        needed = np.full(len(y), np.nan) if uniform is None else uniform
        completed = complete(y, draws, limits, rule, ipred=given, uniform=needed, generators=generators, groups=groups)
    tied = group_uniforms(generators, groups) if options.ties == "random" else None
    share = prediction_discrepancies(completed.observed, draws, tied)
    share = np.where(np.isnan(completed.share), share, completed.share)
    columns["ycomp"] = completed.observed
    sentences = _censoring_sentences(limits, options, data)
    if options.decorrelation != "none":
        ydobs, decorrelated = np.full(len(y), np.nan), np.full(len(y), np.nan)
        used = np.isfinite(completed.observed)
        ydobs[used], decorrelated[used], singular = decorrelated_discrepancies(
            completed.observed[used],
            completed.simulated[:, used],
            groups[used],
            options.decorrelation,
            None if tied is None else tied[used],
        )
        columns["ydobs"] = ydobs
        sentences += _singular_sentences(singular, data, groups[used], len(draws))
    columns["ploq"] = np.full(len(y), np.nan) if limits is None else below_limit(draws, limits)
    columns |= {"pd": share, "npd": to_normal(share)}
    if options.decorrelation != "none":
        columns["npde"] = to_normal(decorrelated)
    return Columns(rows, columns, endpoints, sentences)


def _limits_of(data: GroupedData, rows: np.ndarray) -> Limits:
    """The limits of the observations."""
    assert data.limits is not None
    by_row = {name: data.rows_to_column(values)[rows] for name, values in data.limits.arrays.items()}
    return Limits(**by_row, names=data.limits.names)


def _check_finite(draws: np.ndarray, number: np.ndarray) -> None:
    """**Raises:** DataError naming the rows whose simulations are not finite."""
    bad = ~np.isfinite(draws).all(axis=0)
    if bad.any():
        share = np.mean(~np.isfinite(draws[:, bad]))
        raise DataError(
            f"simulated responses are not finite in {name_rows(number[bad])} ({100 * share:.2g}% of these); "
            "npd and npde need numbers in every row with a response: look for 0/0, log(0) or overflow in the model at "
            "extreme random effects, or make the response of these rows missing."
        )


def _check_ties(
    y: np.ndarray, draws: np.ndarray, censored: np.ndarray, endpoints: np.ndarray | None, ties: str
) -> None:
    """**Raises:** OptionError where observations of an endpoint often equal their simulations, and ties count as not
    below."""
    if ties == "random":
        return
    labels = np.full(len(y), "") if endpoints is None else endpoints
    for label in dict.fromkeys(labels.tolist()):
        at = (labels == label) & ~censored
        share = tied_share(y[at], draws[:, at])
        if share > NPDE.tied:
            which = f"responses of endpoint {label!r} are" if label else "responses are"
            raise OptionError(
                f"the {which} discrete: {100 * share:.2g}% of the simulated values equal the observed one, so that the "
                "share of simulations below is not uniform under the model. ties='random' randomises the place among "
                "equal values, and gives npd and npde for discrete responses too."
            )


def _checked_ipred(ipred: np.ndarray | None, rows: np.ndarray, censored: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The individual predictions of the observations. **Raises:** OptionError without any, DataError where those of
    censored rows are not finite."""
    if ipred is None:
        raise OptionError(
            "censoring='ipred' puts the individual prediction in the place of a censored response, and there are none; "
            "give ipred=, or another rule: 'cdf', 'omit', 'ppred' or 'loq'."
        )
    given = ipred[rows]
    bad = censored & ~np.isfinite(given)
    if bad.any():
        raise DataError(
            f"ipred is not finite in {name_rows(number[bad])}, whose response is censored; expected the individual "
            "prediction there."
        )
    return given


def _censoring_sentences(limits: Limits | None, options: Options, data: GroupedData) -> tuple[str, ...]:
    """Sentences on the treatment of censored observations."""
    if limits is None or not limits.censored.any():
        return ()
    count = int(limits.censored.sum())
    what = f"{count} censored {'observation' if count == 1 else 'observations'}"
    verb = "was" if count == 1 else "were"
    treatment = {
        "omit": f"{verb} left out.",
        "ipred": f"{verb} replaced by {'its' if count == 1 else 'their'} individual prediction.",
        "ppred": f"{verb} replaced by the mean of {'its' if count == 1 else 'their'} simulations.",
        "loq": f"{verb} replaced by {'its' if count == 1 else 'their'} limit.",
        "cdf": f"{verb} drawn from the simulations beyond the limit (seed {options.seed}), as were simulated values "
        "beyond a limit.",
    }
    out = (f"{what} {treatment[options.censoring]}",)
    if options.censoring in ("ipred", "ppred", "loq"):
        out += (
            "Replaced values are not draws from the model: npd and npde deviate from normal with a right model too.",
        )
    unknown = ~limits.censored & ~np.isfinite(limits.lloq) & ~np.isfinite(limits.uloq)
    if options.censoring == "cdf" and unknown.any():
        out += (
            f"{int(unknown.sum())} observations have no known limit of quantification, so that their simulations were "
            "not censored; lloq= and uloq= of the data name limits.",
        )
    return out


def _singular_sentences(singular: Sequence[int], data: GroupedData, groups: np.ndarray, count: int) -> tuple[str, ...]:
    """A sentence on groups whose simulations have a singular covariance.

    **Raises:** DataError where these are all groups.
    """
    if not singular:
        return ()
    most = int(np.bincount(groups)[list(singular)].max())
    remedy = (
        f"{count} simulations of {most} rows are too few: more replicates help"
        if count <= most
        else "rows that repeat each other without residual error have it: leave one of them out, or use "
        "decorrelation='none'"
    )
    subject = f"The covariance of the simulations is singular in {name_groups(data.labels[list(singular)].tolist())}"
    if len(singular) == len(np.unique(groups)):
        raise DataError(f"{subject}, so that no observation can be decorrelated; {remedy}.")
    return (f"{subject}, whose observations have no npde; {remedy}.",)
