"""The outcome of a stepwise search: the way it took, all that was tried, and models as good as the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.comparison.comparable import Candidate, candidate
from jaxnlme.comparison.compare import p_cell
from jaxnlme.comparison.nesting import nesting
from jaxnlme.comparison.refusals import check_comparable
from jaxnlme.errors import OptionError
from jaxnlme.model_choice.settings import STEP
from jaxnlme.model_choice.step_terms import Search, Structure
from jaxnlme.model_choice.step_trial import Fits, Trial, criterion_of
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Steps(Printable):
    """A stepwise search.

    **Fields:**

    - `fit`: of the last model, by the method of the first fit.
    - `path`: a data frame with a row for the start and for each change made: `step`, `change`, `log_likelihood`, `df`,
      the criterion, `delta` to the model before, `chi2`, `p`, `distribution` of the likelihood ratio, `decision`.
    - `candidates`: the same for every change that was tried, with the reason where it could not be chosen.
    - `ties`: models within 2 units of the criterion (AIC in a search by p values): `change` from the last model, `df`,
      `log_likelihood`, the criterion, `delta`, `evidence ratio`, `larger`: it contains the last model.
    - `criterion`; `interrupted` by Ctrl-C; `sentences`.

    In a restricted search the rows of fixed effects are by maximum likelihood (`likelihood` is "ML"), the others by
    restricted likelihood ("REML").
    """

    fit: Any
    path: pd.DataFrame
    candidates: pd.DataFrame
    ties: pd.DataFrame
    criterion: str
    interrupted: bool
    sentences: tuple[str, ...]

    @property
    def as_good(self) -> list[str]:
        """The models as good as the last: within 2 units, and not only because they contain it."""
        return [str(name) for name, larger in zip(self.ties["change"], self.ties["larger"], strict=True) if not larger]

    def _tables(self) -> list[Table]:
        tables = [_table("Path", self.path, self.criterion)]
        if len(self.candidates):
            last: Any = self.candidates[self.candidates["step"] == self.candidates["step"].max()]
            tables.append(_table(f"Tried in step {int(last['step'].iloc[0])}", last, self.criterion))
        if len(self.ties):
            name = _named(self.criterion)
            rows = [
                (
                    str(row["change"]), f"{row['df']:d}", f"{row['log_likelihood']:.4f}", f"{row['delta']:.2f}",
                    number(row["evidence ratio"], 3), "contains the last model" if row["larger"] else "",
                )
                for _, row in self.ties.iterrows()
            ]  # fmt: skip
            header = ("", "df", "log-lik", f"delta {name}", "evidence ratio", "")
            tables.append(Table(f"Within {STEP.tie:g} units of {name}", header, rows))
        return tables


def _named(criterion: str) -> str:
    return "AIC" if criterion == "p" else criterion


def _table(title: str, frame: pd.DataFrame, criterion: str) -> Table:
    """A table of changes as text."""
    name = _named(criterion)
    restricted = len(set(frame["likelihood"]) - {""}) > 1
    rows = []
    for _, row in frame.iterrows():
        cells = [f"{row['step']:d}", str(row["change"]), *([row["likelihood"]] if restricted else [])]
        cells += [_cell(row["log_likelihood"], ".4f"), "" if row["df"] < 0 else f"{row['df']:d}"]
        p = p_cell(row["p"], str(row["distribution"])) if np.isfinite(row["p"]) else ""
        cells += [_cell(row[name], ".2f"), _cell(row["delta"], "+.2f"), p, str(row["decision"]).split(": ")[0]]
        rows.append(tuple(cells))
    kind = ["likelihood"] if restricted else []
    return Table(title, ("step", "change", *kind, "log-lik", "df", name, "delta", "p", "decision"), rows)


def _cell(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else ""


def frame_of(trials: Sequence[Trial], criterion: str) -> pd.DataFrame:
    """The data frame of trials."""
    import pandas as pd

    rows = []
    for trial in trials:
        each = trial.candidate
        rows.append({
            "step": trial.step,
            "change": trial.change.label,
            "likelihood": "" if each is None else "REML" if each.restricted else "ML",
            "log_likelihood": np.nan if each is None else each.log_likelihood,
            "df": -1 if each is None else each.criteria.n_parameters,
            _named(criterion): np.nan if each is None else criterion_of(each, criterion),
            "delta": trial.delta,
            "chi2": trial.chi2,
            "p": trial.p,
            "distribution": trial.distribution,
            "screen p": np.nan if trial.screened is None else trial.screened.p,
            "decision": f"{trial.decision}{': ' if trial.decision and trial.reason else ''}{trial.reason}",
        })  # fmt: skip
    columns = ["step", "change", "likelihood", "log_likelihood", "df", _named(criterion), "delta", "chi2", "p"]
    return pd.DataFrame(rows, columns=[*columns, "distribution", "screen p", "decision"])


def ties_of(search: Search, fits: Fits, last: Structure, criterion: str) -> pd.DataFrame:
    """The models of the search within 2 units of the criterion of the last one, by the same likelihood.

    A larger model that contains the last one is within 2 units also if its further parameter says nothing, for the
    penalty is 2: these are marked.

    **Source:** Burnham and Anderson (2002), sections 2.6 and 2.12 (page 131); Arnold (2010), Journal of Wildlife
    Management 74, 1175-1178.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for (structure, ml), fit in fits.fits.items():
        same_part = search.fixed_part(structure) == search.fixed_part(last)
        if structure == last or not fit.converged or (last, ml) not in fits.fits:
            continue
        if (not ml and not same_part) or (ml and fits.restricted and same_part):
            continue
        chosen, other = candidate(fits.fits[last, ml], "the last model", 1), candidate(fit, "this model", 2)
        try:
            check_comparable([chosen, other], allow_unconverged=False)
        except OptionError:
            continue
        delta = criterion_of(other, criterion) - criterion_of(chosen, criterion)
        if delta <= STEP.tie:
            rows.append({
                "change": search.difference(last, structure),
                "df": other.criteria.n_parameters,
                "log_likelihood": other.log_likelihood,
                _named(criterion): criterion_of(other, criterion),
                "delta": delta,
                "evidence ratio": float(np.exp(delta / 2.0)),
                "larger": _contains(chosen, other),
            })  # fmt: skip
    columns = ["change", "df", "log_likelihood", _named(criterion), "delta", "evidence ratio", "larger"]
    return pd.DataFrame(rows, columns=columns).sort_values("delta", ignore_index=True)


def _contains(chosen: Candidate, other: Candidate) -> bool:
    """True if another model contains the chosen one."""
    more = other.criteria.n_parameters > chosen.criteria.n_parameters
    return more and not isinstance(nesting(chosen, other), str)
