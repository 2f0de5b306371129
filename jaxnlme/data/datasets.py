"""Small published data sets with their sources and units, stored as CSV files in the folder `tables`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_TABLES = Path(__file__).parent / "tables"


def theophylline() -> pd.DataFrame:
    """Serum theophylline of 12 subjects after one oral dose, 11 samples each.

    **Returns:** a data frame of 132 rows: `Subject` (label 1 to 12), `Wt` (kg), `Dose` (oral, **mg/kg**, as in R),
    `Time` (h since the dose), `conc` (mg/L). The dose in mg is `Dose * Wt`, which volumes in litres need.
    **Source:** Boeckmann, Sheiner and Beal (1994), NONMEM Users Guide part V, study by R. Upton; data set `Theoph` of
    R 4.2.2, package datasets; Davidian and Giltinan (1995), section 5.5."""
    return _read("Theoph")


def indomethacin() -> pd.DataFrame:
    """Plasma indomethacin of 6 subjects after an intravenous injection, 11 samples each.

    **Returns:** a data frame of 66 rows: `Subject` (label 1 to 6), `time` (h since the injection), `conc` (mcg/mL).
    **Source:** Kwan, Breault, Umbenhauer, McMahon and Duggan (1976), Journal of Pharmacokinetics and
    Biopharmaceutics 4, 255-280; data set `Indometh` of R 4.2.2, package datasets; Davidian and Giltinan (1995),
    section 5.2.4."""
    return _read("Indometh")


def orange() -> pd.DataFrame:
    """Growth of 5 orange trees, 7 measurements each.

    **Returns:** a data frame of 35 rows: `Tree` (label 1 to 5), `age` (days since 1968-12-31), `circumference` of the
    trunk (mm).
    **Source:** Draper and Smith (1998), Applied Regression Analysis, 3rd ed., exercise 24.N; data set `Orange` of
    R 4.2.2, package datasets."""
    return _read("Orange")


def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(_TABLES / f"{name}.csv")
