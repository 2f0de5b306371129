"""Small published data sets with their sources and units, stored as CSV files in the folder `tables`.

**Example:**

```python
jn.datasets.theophylline().head()
```
"""

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
    R 4.2.2, package datasets; Davidian and Giltinan (1995), section 5.5.

    **Example:**

    ```python
    jn.datasets.theophylline().head()
    ```
    """
    return _read("Theoph")


def theophylline_records() -> pd.DataFrame:
    """The theophylline data as NONMEM's records, for `GroupedData.from_nonmem`: one dose and 11 samples a subject.

    **Returns:** a data frame of 144 rows: `ID`, `TIME` (h), `AMT` (mg, oral: R's mg/kg times the weight), `DV` (mg/L,
    empty at doses), `EVID` (1 dose, 0 observation), `MDV`, `CMT` (1 depot, 2 central), `WT` (kg).
    **Source:** as of `theophylline`.

    **Example:**

    ```python
    jn.datasets.theophylline_records().head()
    ```
    """
    import pandas as pd

    table = _read("Theoph")
    samples = pd.DataFrame(
        {"ID": table["Subject"], "TIME": table["Time"], "AMT": 0.0, "DV": table["conc"], "EVID": 0, "MDV": 0, "CMT": 2}
    ).assign(WT=table["Wt"])
    first = table.drop_duplicates("Subject")
    doses = samples.loc[first.index].assign(TIME=0.0, AMT=first["Dose"] * first["Wt"], DV=float("nan"), EVID=1, MDV=1)
    records = pd.concat([doses.assign(CMT=1), samples], ignore_index=True)
    return records.sort_values("ID", kind="stable", ignore_index=True)


def phenobarbital() -> pd.DataFrame:
    """Phenobarbital in 59 newborn infants in routine care, as NONMEM's records: 1 to 15 intravenous doses, 1 to 6
    samples each.

    **Returns:** a data frame of 744 rows: `ID`, `TIME` (h), `AMT` (mg: with volumes of about 1 L/kg the first samples
    have the size of dose over volume, though R's help page says ug/kg), `DV` (mg/L, empty at doses), `EVID` (1 dose, 0
    observation), `MDV`, `WT` (birth weight, kg), `APGR` (Apgar score after 5 minutes).
    **Source:** Grasela and Donn (1985), Developmental Pharmacology and Therapeutics 8, 374-383; data set `Phenobarb` of
    R's nlme; Davidian and Giltinan (1995), section 6.6.

    **Example:**

    ```python
    jn.datasets.phenobarbital().head()
    ```
    """
    table = _read("Phenobarb")
    is_dose = table["dose"].notna()
    records = table[["Subject", "time", "dose", "conc"]].set_axis(["ID", "TIME", "AMT", "DV"], axis=1)
    records["AMT"] = records["AMT"].fillna(0.0)
    return records.assign(EVID=is_dose.astype(int), MDV=is_dose.astype(int), WT=table["Wt"], APGR=table["Apgar"])


def indomethacin() -> pd.DataFrame:
    """Plasma indomethacin of 6 subjects after an intravenous injection, 11 samples each.

    **Returns:** a data frame of 66 rows: `Subject` (label 1 to 6), `time` (h since the injection), `conc` (mcg/mL).
    **Source:** Kwan, Breault, Umbenhauer, McMahon and Duggan (1976), Journal of Pharmacokinetics and
    Biopharmaceutics 4, 255-280; data set `Indometh` of R 4.2.2, package datasets; Davidian and Giltinan (1995),
    section 5.2.4.

    **Example:**

    ```python
    jn.datasets.indomethacin().head()
    ```
    """
    return _read("Indometh")


def orange() -> pd.DataFrame:
    """Growth of 5 orange trees, 7 measurements each.

    **Returns:** a data frame of 35 rows: `Tree` (label 1 to 5), `age` (days since 1968-12-31), `circumference` of the
    trunk (mm).
    **Source:** Draper and Smith (1998), Applied Regression Analysis, 3rd ed., exercise 24.N; data set `Orange` of
    R 4.2.2, package datasets.

    **Example:**

    ```python
    jn.datasets.orange().head()
    ```
    """
    return _read("Orange")


def orthodont() -> pd.DataFrame:
    """Distance from the pituitary to the pterygomaxillary fissure of 27 children at the ages of 8, 10, 12 and 14.

    **Returns:** a data frame of 108 rows: `Subject` (label), `Sex` (Male, Female), `age` (years), `distance` (mm).
    **Source:** Potthoff and Roy (1964), Biometrika 51, 313-326; data set `Orthodont` of R's nlme; Pinheiro and Bates
    (2000), section 1.4.

    **Example:**

    ```python
    jn.datasets.orthodont().head()
    ```
    """
    return _read("Orthodont")


def oats() -> pd.DataFrame:
    """A split-plot experiment on the yield of oats: 6 blocks, 3 varieties in each, 4 nitrogen levels in each of these.

    **Returns:** a data frame of 72 rows: `Block` (label), `Variety`, `nitro` (hundredweight an acre), `yield` (bushels
    an acre).
    **Source:** Yates (1935), Journal of the Royal Statistical Society Suppl. 2, 181-247; data set `Oats` of R's nlme;
    Pinheiro and Bates (2000), section 1.6.

    **Example:**

    ```python
    jn.datasets.oats().head()
    ```
    """
    return _read("Oats")


def sleepstudy() -> pd.DataFrame:
    """Reaction times of 18 people on 10 days, the nights after day 2 with three hours of sleep.

    **Returns:** a data frame of 180 rows: `Subject` (label), `Days`, `Reaction` (ms).
    **Source:** Belenky et al. (2003), Journal of Sleep Research 12, 1-12; data set `sleepstudy` of R's lme4.

    **Example:**

    ```python
    jn.datasets.sleepstudy().head()
    ```
    """
    return _read("sleepstudy")


def penicillin() -> pd.DataFrame:
    """Zones of inhibition of 6 samples of penicillin, each on 24 plates: crossed factors.

    **Returns:** a data frame of 144 rows: `plate`, `sample` (labels), `diameter` (mm).
    **Source:** Davies and Goldsmith (1972), Statistical Methods in Research and Production, 4th ed., section 6.6; data
    set `Penicillin` of R's lme4.

    **Example:**

    ```python
    jn.datasets.penicillin().head()
    ```
    """
    return _read("Penicillin")


def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(_TABLES / f"{name}.csv")
