"""Names and targets of the problems of linear.py. Standard library only, for the report."""

from __future__ import annotations

from typing import NamedTuple

EQUAL = 1e-6  # relative difference of log-likelihoods that count as equal
FIRST_CALL = 2.0  # CPU seconds of a first call above the import floor
AR1_RATIO = 3.0  # CPU seconds with AR(1) over those without


class Target(NamedTuple):
    """The label of a problem, and targets of a call after the first: CPU seconds, and of peak memory in MB."""

    label: str
    seconds: float | None = None
    megabytes: float | None = None


TARGETS = {
    "subjects": Target("5,000 subjects x 20 rows, `(x | g)`", 0.06),
    "many subjects": Target("50,000 subjects x 20 rows, `(x | g)`", 0.5),
    "casks": Target("500 batches x 20 casks x 10 rows, `(1 | batch/cask)`", 0.07),
    "wafers": Target("200 wafers x 20 sites x 25 rows, `(x | wafer/site)`", 0.5),
    "ratings": Target("73,421 ratings by 2,972 students of 1,128 lecturers, `(1 | s) + (1 | d)`", 3.0, 2048.0),
    "without AR(1)": Target("100,000 rows, `(x | g)`, residuals taken as independent"),
    "AR(1)": Target("The same rows with AR(1)"),
}
