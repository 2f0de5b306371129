"""Simulated one-compartment oral data: 11 observations a subject, three log-normal parameters, constant error.

The design is theophylline's (320 mg by mouth, samples over 24 hours) with its useless sample at time 0 moved into the
absorption phase. Only numpy is used, so that the tables are the same whatever is being timed.

    python benchmarks/simulate.py --groups 1000 --psi full --out /tmp/table.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

TIMES = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 24.0])  # hours
DOSE = 320.0  # mg; subjects get 240 to 400
TRUTH = {"ka": 1.6, "cl": 2.8, "vol": 32.0}  # 1/h, l/h, l
SDS = np.array([0.6, 0.25, 0.15])  # of log ka, log cl, log vol
CORRELATIONS = np.array([[1.0, -0.2, 0.3], [-0.2, 1.0, 0.5], [0.3, 0.5, 1.0]])  # used when psi is full
SIGMA = 0.7  # mg/l
SEED = 20240


def covariance(psi: str) -> np.ndarray:
    """The true Psi of (log ka, log cl, log vol): `psi` is "diagonal" or "full"."""
    correlations = {"diagonal": np.eye(3), "full": CORRELATIONS}[psi]
    return SDS[:, None] * correlations * SDS


def concentration(xb: np.ndarray, time: np.ndarray, dose: np.ndarray) -> np.ndarray:
    """One-compartment concentrations (groups, obs) in mg/l, from `xb` = log (ka, cl, vol) of shape (groups, 3)."""
    ka, cl, vol = np.exp(xb).T[:, :, None]
    ke = cl / vol
    return dose * ka / (vol * (ka - ke)) * (np.exp(-ke * time) - np.exp(-ka * time))


def simulate(groups: int, psi: str, seed: int = SEED, effects: int = 3, times: np.ndarray = TIMES) -> np.ndarray:
    """A table of `groups` subjects with columns Subject, Time, Dose, conc: an array (times * groups, 4). Only the first
    `effects` of ka, cl, vol vary between subjects.

    The first subjects of a larger table are not those of a smaller one; the same arguments always give the same table.
    """
    rng = np.random.default_rng([seed, groups, psi == "full"])
    mean = np.log(list(TRUTH.values()))
    b = rng.standard_normal((groups, 3)) @ np.linalg.cholesky(covariance(psi)).T
    xb = mean + np.where(np.arange(3) < effects, b, 0.0)
    dose = np.round(DOSE * rng.uniform(0.75, 1.25, (groups, 1)))
    conc = concentration(xb, times, dose) + SIGMA * rng.standard_normal((groups, times.size))
    subject = np.broadcast_to(np.arange(1, groups + 1)[:, None], conc.shape)
    columns = (subject, np.broadcast_to(times, conc.shape), np.broadcast_to(dose, conc.shape), conc)
    return np.stack([column.ravel() for column in columns], axis=1)


def write(path: Path, table: np.ndarray, decimals: int = 4) -> None:
    """Write a table of `simulate` as CSV, concentrations to so many decimals."""
    np.savetxt(
        path,
        table,
        fmt=("%d", "%g", "%g", f"%.{decimals}f"),
        delimiter=",",
        header="Subject,Time,Dose,conc",
        comments="",
    )


def main() -> None:
    """Write one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--psi", choices=("diagonal", "full"), default="diagonal")
    parser.add_argument("--effects", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write(arguments.out, simulate(arguments.groups, arguments.psi, arguments.seed, arguments.effects))


if __name__ == "__main__":
    main()
