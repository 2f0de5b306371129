"""`Npde`: npd and npde of the observations, with their tests."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.arguments import check_choice
from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.npde.compute import Columns, Options
from jaxnlme.diagnostics.npde.distribution import FISHER, GLOBAL, SHAPIRO, T, distribution_tests, moments
from jaxnlme.diagnostics.npde.settings import NPDE
from jaxnlme.errors import OptionError, check_whole_number, near_matches, some
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

MOMENTS = ("mean", "variance", "skewness", "kurtosis")
ALL = "all"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Npde(Printable):
    """npd and npde of observations, their tests and moments. It prints as sentences and tables.

    **Fields:**

    - `table`: a row for each observation, with the index of the data: the columns of the data, then "ypred", the mean
      of the simulations; "ycomp", the response used (drawn or replaced where it was censored, NaN where left out);
      "ydobs", the decorrelated response; "ploq", the share of simulations below the lower limit of quantification, NaN
      without one; "pd", "npd" and "npde". Without decorrelation there are no "ydobs" and "npde". A column of the data
      with one of these names is called "NAME (data)".
    - `kinds`: ("npde", "npd"), or ("npd",) without decorrelation.
    - `endpoints` (observations,): the label of each as text; None for one endpoint.
    - `replicates`, `decorrelation`, `censoring`, `ties`, `seed`: as given.
    - `group_name`, `y_name`: columns of `table`.
    - `sentences` on what was done, and on the outcome of the tests.

    **Example:**

    ```python
    npde = fit.npde(200)
    npde.tests.loc["npde"]
    npde.by("Time")
    ```
    """

    table: pd.DataFrame
    kinds: tuple[str, ...]
    endpoints: np.ndarray | None
    replicates: int
    decorrelation: str
    censoring: str
    ties: str
    seed: int
    group_name: str
    y_name: str
    sentences: tuple[str, ...]

    @functools.cached_property
    def tests(self) -> pd.DataFrame:
        """Tests of a standard normal distribution: a row for each kind ("npde", "npd") and test, with the statistic,
        the p value, and "p_adjusted", Bonferroni's for the three tests of mean, variance and shape; the global test is
        the smallest of them (of the t, Fisher and Shapiro-Wilk tests). With several endpoints the index also has the
        endpoint, "all" for all observations. See `distribution_tests`.

        npd of one group are correlated, so that p values of their tests are too small; those of npde are not.
        """
        return self._by_endpoint(_tests_of)

    @functools.cached_property
    def moments(self) -> pd.DataFrame:
        """Number, mean, variance, skewness and excess kurtosis with their standard errors, by kind (and endpoint)."""
        import pandas as pd

        table = self._by_endpoint(lambda values: pd.DataFrame([moments(values)]))
        return table.droplevel(-1)

    @public("npde.by")
    def by(self, column: str, kind: str | None = None, bins: int = 3) -> pd.DataFrame:
        """Tests within the categories of a column, or within classes of a numeric one with about equally many
        observations: a trend against time or a covariate shows there.

        **Arguments:** `column` of `table`; `kind`: "npde" or "npd", the first of `kinds` where None; `bins`: number of
        classes of a numeric column with more than `bins` values.
        **Returns:** a data frame with the index (category, test), as `tests`.
        **Raises:** OptionError for an unknown column or kind.
        """
        import pandas as pd

        kind = self.kinds[0] if kind is None else check_choice("kind", kind, self.kinds)
        bins = check_whole_number("bins", bins, 1, "the number of classes")
        if column not in self.table:
            raise OptionError(f"the table has no column {column!r}; {near_matches(str(column), map(str, self.table))}")
        values = self.table[column]
        if pd.api.types.is_numeric_dtype(values.dtype) and values.nunique() > bins:
            values = pd.qcut(values, bins, duplicates="drop")
        parts = {
            str(category): _tests_of(self.table.loc[values == category, kind].to_numpy())
            for category in sorted(values.dropna().unique())
        }
        if not parts:
            raise OptionError(f"column {column!r} has no values.")
        return pd.concat(parts, names=[column])

    def _by_endpoint(self, summarise) -> pd.DataFrame:
        """`summarise` of the values of each kind, and of each endpoint where there are several."""
        import pandas as pd

        out = {}
        for kind in self.kinds:
            values = self.table[kind].to_numpy()
            if self.endpoints is None:
                out[kind] = summarise(values)
                continue
            labels = sorted(set(self.endpoints.tolist()))
            parts = {ALL: summarise(values)} | {label: summarise(values[self.endpoints == label]) for label in labels}
            out[kind] = pd.concat(parts, names=["endpoint"])
        return pd.concat(out, names=["kind"])

    def _tables(self) -> list[Table]:
        tests = [
            [" ".join(map(str, label)), number(row["statistic"]), p_text(row["p"]), p_text(row["p_adjusted"])]
            for label, row in zip(self.tests.index, self.tests.to_dict("records"), strict=True)
        ]
        spread = [
            [
                " ".join(map(str, label)) if isinstance(label, tuple) else str(label),
                f"{row['n']:.0f}",
                *(f"{number(row[name], 3)} ({number(row[f'se {name}'], 2)})" for name in MOMENTS),
            ]
            for label, row in zip(self.moments.index, self.moments.to_dict("records"), strict=True)
        ]
        return [
            Table("Tests of a standard normal distribution", ["", "statistic", "p", "p adjusted"], tests),
            Table("Moments (standard errors); expected 0, 1, 0, 0", ["", "n", *MOMENTS], spread),
        ]


def p_text(p: float) -> str:
    """A p value as text; an empty string for NaN."""
    return "" if np.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _tests_of(values: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(distribution_tests(values), index=["statistic", "p", "p_adjusted"]).T
    return table.rename_axis("test")


def npde_record(data: GroupedData, columns: Columns, options: Options, replicates: int) -> Npde:
    """The Npde of the observations of `data`. **Arguments:** `columns`, of `compute`."""
    frame = data.to_frame()
    frame = frame.rename(columns={name: f"{name} (data)" for name in frame if name in columns.columns})
    frame = frame.loc[columns.rows].set_axis(data.row_labels[columns.rows], axis=0)
    table = frame.assign(**columns.columns)
    names = [f"{name} (data)" if name in columns.columns else name for name in (data.group_name, data.y_name)]
    kinds = ("npde", "npd") if "npde" in columns.columns else ("npd",)
    record = Npde(
        table, kinds, columns.endpoints, replicates, options.decorrelation, options.censoring, options.ties,
        options.seed, names[0], names[1], (),
    )  # fmt: skip
    return dataclasses.replace(record, sentences=_sentences(record, data, columns.sentences))


def _sentences(record: Npde, data: GroupedData, on_columns: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on what was done and on the outcome of the tests."""
    kind = record.kinds[0]
    how = {"cholesky": "Cholesky decorrelation", "inverse": "decorrelation by the inverse root", "none": "correlated"}
    first = (
        f"{kind} of {int(record.table[kind].notna().sum())} observations of {data.n_groups} "
        f"{'group' if data.n_groups == 1 else 'groups'} ({data.group_name}), {record.replicates} simulated data sets, "
        f"{how[record.decorrelation]}{', ties at random' if record.ties == 'random' else ''}."
    )
    tests = record.tests.loc[kind]
    tests = tests.loc[ALL] if record.endpoints is not None else tests
    adjusted = tests["p_adjusted"]
    level = NPDE.significance
    meaning = {T: "the mean is not 0", FISHER: "the variance is not 1", SHAPIRO: "the distribution is not normal"}
    found = [f"{text} (p = {p_text(adjusted[name])})" for name, text in meaning.items() if adjusted[name] < level]
    correlated = kind == "npd" and int(data.sizes.max()) > 1
    if np.isnan(adjusted[GLOBAL]):
        second = "There are too few values for tests."
    elif found:
        second = f"Adjusted for three tests, {some(found).replace('p = <', 'p <')}"
        second += "." if correlated else ": the model does not describe the data."
    else:
        second = f"No test rejects the model (global test, p = {p_text(adjusted[GLOBAL])})."
    notes = list(on_columns)
    if record.replicates < NPDE.few_replicates:
        notes.append(f"{record.replicates} simulated data sets are few: {NPDE.replicates} or more resolve the tails.")
    if record.ties == "below":
        extreme = record.table["pd"].isin([0.5 / record.replicates, 1.0 - 0.5 / record.replicates]).sum()
        if extreme:
            notes.append(
                f"{extreme} {'observation is' if extreme == 1 else 'observations are'} below or above all simulations."
            )
    if correlated:
        notes.append("Observations of a group are correlated, so that p values of npd are too small.")
    return (first, second, *notes)
